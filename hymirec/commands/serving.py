"""`hymirec serve` and `hymirec recommend`: the gateway, and a question to it."""

from __future__ import annotations

import ipaddress
import json
import os
from typing import Annotated

import typer

from hymirec.commands.options import DEFAULT_HOME, HomeOption, JsonOption, configured
from hymirec.display import out, show_answer
from hymirec.errors import UsageError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5055
ENV_TOKEN = "HYMIREC_TOKEN"  # noqa: S105 (a name, no secret)
"""What `hymirec recommend` shows a gateway that asks for a token."""


def serve(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = DEFAULT_HOST,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0: a free one.", min=0, max=65535)
    ] = DEFAULT_PORT,
    replicas: Annotated[int, typer.Option(help="Model servers of each version.", min=1)] = 2,
    standby: Annotated[
        bool, typer.Option(help="Keep a process ready, so that a version is up in seconds.")
    ] = True,
    rate: Annotated[
        float, typer.Option(help="Requests a second of one sender; 0: no limit.", min=0)
    ] = 0.0,
    most_waiting: Annotated[
        int, typer.Option(help="Requests at once; more are told to come back.", min=1)
    ] = 256,
) -> None:
    """Answer requests with the champion, also when it changes, and take events in."""
    place = configured(home)
    from flows.desk import Desk
    from flows.runtime.settings import CHAMPION, MODEL_NAME
    from serving.running import run_gateway
    from serving.server import free_port, refuse_port_in_use
    from serving.settings import GatewaySettings
    from serving.tokens import ENV_TOKENS, ENV_TOKENS_FILE, Tokens

    tokens = Tokens.from_environment()
    if not len(tokens) and not _is_local(host):
        raise UsageError(
            f"{host} can be reached from other machines, so requests need tokens: "
            f"set {ENV_TOKENS_FILE} or {ENV_TOKENS}"
        )
    port = port or free_port(host)
    refuse_port_in_use(host, port)
    settings = GatewaySettings(
        replicas=replicas, standby=standby, rate=rate, most_waiting=most_waiting
    )
    run_gateway(
        place, MODEL_NAME, CHAMPION, host=host, port=port, settings=settings, tokens=tokens,
        on_ready=lambda version: out.print(
            f"version {version} answers at http://{host}:{port}, the console is at "
            f"http://{host}:{port}/console; Ctrl-C stops it", soft_wrap=True,
        ),
        desk=Desk(place),
    )  # fmt: skip
    out.print("stopped")


def recommend(
    user: Annotated[str, typer.Option(help="User id, as in the data.")],
    k: Annotated[int, typer.Option("-k", help="Number of items.", min=1, max=1000)] = 10,
    url: Annotated[str, typer.Option(help="Where `hymirec serve` answers.")] = (
        f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    ),
    as_json: JsonOption = False,
) -> None:
    """Ask the served model for recommendations."""
    from serving.client import ask

    answer = ask(url, user, k, token=os.environ.get(ENV_TOKEN, ""))
    if as_json:
        print(json.dumps(answer))
        return
    show_answer(answer)
    if len(answer["recommendations"]) < k:
        out.print(f"{k} items were asked for; there are no more to recommend")


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
