"""The gateway as a process: it listens at an address until it is interrupted or terminated."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI

from hymirec.home import Home
from serving.console.desk import Desk
from serving.experiments import ExperimentRollout
from serving.fleet import Fleet
from serving.gateway import create_app
from serving.registry import Registry
from serving.settings import GatewaySettings
from serving.tokens import Tokens


def run_gateway(
    home: Home, model: str, alias: str, *, host: str, port: int,
    settings: GatewaySettings, tokens: Tokens, on_ready: Callable[[int], None],
    desk: Desk | None = None,
) -> None:  # fmt: skip
    """Answer at an address until interrupted or terminated.

    Args:
        home: see `serving.gateway.create_app`.
        model: name of the registered model.
        alias: which of its versions answers, also when it moves.
        host: to listen on.
        port: to listen on.
        settings: limits.
        tokens: who may do what.
        on_ready: told the version when requests are answered.
        desk: see `serving.gateway.create_app`.

    Raises:
        HymirecError: the version cannot be served.
    """
    with ExperimentRollout(home) as rollout:
        fleet = Fleet(Registry(home, model), alias, rollout, settings)
        rollout.serve_from(lambda version: fleet.served(version) is not None)
        app = create_app(home, fleet, rollout=rollout, settings=settings, tokens=tokens, desk=desk)
        _listen(app, host, port, lambda: on_ready(fleet.champion.info.version))


def _listen(app: FastAPI, host: str, port: int, on_start: Callable[[], None]) -> None:
    """Answer at an address until interrupted or terminated."""
    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", access_log=False, lifespan="off",
        server_header=False,
    )  # fmt: skip
    server = _Server(config, on_start)

    async def serve() -> None:
        task = asyncio.current_task()
        assert task

        def stop() -> None:
            if server.started:
                server.should_exit = True
            else:
                task.cancel()

        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, stop)
        # Here and not in the server, which would print a traceback where no version comes up.
        async with app.router.lifespan_context(app):
            # What is loaded now stays: the collector need not walk through it amid requests.
            gc.collect()
            gc.freeze()
            await server.serve()

    with (
        asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
        suppress(asyncio.CancelledError),
    ):
        runner.run(serve())


class _Server(uvicorn.Server):
    """One that leaves signals to its caller and says when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
