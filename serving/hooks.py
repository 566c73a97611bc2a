"""MLflow's webhooks: a signed word from its server that the registry has changed.

The gateway looks by itself once a second; a webhook makes it look at once. What the message says
is not believed, it only says when to look.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from serving.api import problems

ENV_SECRET = "HYMIREC_WEBHOOK_SECRET"  # noqa: S105 (a name, no secret)
"""What MLflow signs its webhooks with; without one there is no way in for them."""
PATH = "/v1/hooks/mlflow"
OLDEST = 300
"""Seconds that a message may have been on its way: an older one is somebody's copy."""


def add_hooks(app: FastAPI, look_now: Callable[[], None]) -> None:
    """Add the way in for webhooks, if there is a secret."""
    secret = os.environ.get(ENV_SECRET, "")
    if not secret:
        return

    @app.post(PATH, responses=problems(401, 408, 413, 415), status_code=204, tags=["operate"])
    async def mlflow_changed(request: Request) -> Response:
        """Look at the registry now; for MLflow's webhook on `model_version_alias.created`."""
        headers = request.headers
        when = headers.get("x-mlflow-timestamp", "")
        expected = signature(
            secret, headers.get("x-mlflow-delivery-id", ""), when, await request.body()
        )
        given = headers.get("x-mlflow-signature", "")
        fresh = when.isdecimal() and abs(time.time() - float(when)) <= OLDEST
        if not fresh or not hmac.compare_digest(expected.encode(), given.encode()):
            raise HTTPException(401, "the signature is not right")
        look_now()
        return Response(status_code=204)


def signature(secret: str, delivery_id: str, timestamp: str, body: bytes) -> str:
    """How MLflow signs (`mlflow.webhooks.delivery`): version and HMAC-SHA256, base64."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
