"""Word to people: failures, refused promotions, drift, ends of experiments, to a webhook.

The address is a Prefect webhook block, made by `hymirec up --webhook URL` or on Prefect's page.
Without the block nobody is told; what happened is in logs, runs and artifacts all the same.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Literal, cast

from prefect import Flow
from prefect.blocks.webhook import Webhook
from prefect.client.schemas.objects import FlowRun, State
from prefect.runtime import flow_run
from prefect.utilities.asyncutils import run_coro_as_sync

log = logging.getLogger(__name__)

BLOCK = "hymirec-alerts"
ATTEMPTS = 3
Event = Literal["failure", "promotion_refused", "drift", "experiment"]


def notify(event: Event, text: str, **details: Any) -> bool:
    """Post a JSON object: `event`, `text` in one line, `flow_run` and `details`.

    Whatever goes wrong is logged and nothing else: the flow's own work is done.

    Returns:
        Whether it arrived.
    """
    body = {
        "event": event,
        "text": f"hymirec: {text}",
        "flow_run": details.pop("flow_run", None) or flow_run.get_name() or "",
        "details": details,
    }
    for attempt in range(ATTEMPTS):
        webhook = _webhook()  # anew, for a block's client is good for one call
        if webhook is None:
            log.debug("notify: no block %s: %s", BLOCK, text)
            return False
        try:
            answer = run_coro_as_sync(webhook.call(body))
            if answer is not None and answer.is_success:
                return True
            problem = f"status {answer.status_code if answer is not None else '?'}"
        except Exception as error:  # of the address, the network or the one who answers
            # The address is a secret, and some errors repeat it.
            address = webhook.url.get_secret_value()
            problem = f"{type(error).__name__}: {error}".replace(address, "the address")
        if attempt + 1 < ATTEMPTS:
            time.sleep(2**attempt)
    log.warning("notify: the webhook did not take %r: %s", event, problem)
    return False


def notify_failure(flow: Flow[Any, Any], run: FlowRun, state: State[Any]) -> None:
    """Tell that a flow run failed or crashed; a hook for `on_failure` and `on_crashed`."""
    message = (state.message or state.name or "").partition("\n")[0]
    notify(
        "failure", f"flow {flow.name} failed: {message}", flow=flow.name, state=state.name,
        flow_run=run.name, flow_run_id=str(run.id),
    )  # fmt: skip


def _webhook() -> Webhook | None:
    try:
        return cast(Webhook, Webhook.load(BLOCK))
    except ValueError:
        return None


HOOKS: Any = {"on_failure": [notify_failure], "on_crashed": [notify_failure]}
"""What every flow that runs unattended is made with."""
