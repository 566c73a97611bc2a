"""The one address that faces the world: events come in here, requests go on to the model servers.

An event is on disk before its sender is told so; a thread of this process then brings it into the
feature store, woken by the intake (`features.updates`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from features.logs.audit_log import AuditLog, alias_subject
from features.logs.lag import LagLimit
from features.updates import EventConsumer
from hymirec import __version__
from hymirec.errors import HymirecError
from hymirec.home import Home
from serving import answering
from serving.answering import Answerer
from serving.api import (
    Answer,
    Answers,
    Ask,
    Asks,
    EventsIn,
    EventsTaken,
    Health,
    Ready,
    ServedVersionState,
    VersionState,
    problems,
)
from serving.console.desk import Desk
from serving.console.health import Pulse
from serving.console.pages import add_console
from serving.dispatch import LostError
from serving.docs_page import add_docs
from serving.fleet import Fleet
from serving.guard import Guard
from serving.hooks import add_hooks
from serving.live_parity import LiveParity
from serving.metrics import Metrics
from serving.rollout import ChampionOnly, Rollout
from serving.sessions import Sessions
from serving.settings import GatewaySettings
from serving.tokens import Tokens

log = logging.getLogger(__name__)

MAX_BODY = 4_000_000
"""Bytes of a request."""
EVENTS_PATH = "/v1/events"
JSON = "application/json"


class Gateway:
    """What the routes share.

    Attributes:
        fleet: the versions served; open while the application runs.
        consumer: brings events into the feature store.
    """

    def __init__(self, home: Home, fleet: Fleet, rollout: Rollout, consumer: EventConsumer) -> None:
        """Bring the parts together."""
        self.fleet = fleet
        self.consumer = consumer
        self.metrics = Metrics()
        self.parity = LiveParity(consumer.event_log, self.metrics.registry)
        self.pulse = Pulse(self.metrics.registry)
        self.lag = LagLimit(consumer.lag_seconds)
        self.answerer = Answerer(fleet, rollout, self.metrics, self.lag)
        self.audit = AuditLog(home)
        fleet.on_move = self.notice
        self.metrics.gauge(
            "hymirec_event_lag_seconds",
            "Age of the oldest event that is not in the feature store yet.",
            self._lag_seconds,
        )
        self.metrics.gauge(
            "hymirec_champion_version", "The version that answers.",
            lambda: fleet.champion.info.version,
        )  # fmt: skip
        self.metrics.gauge(
            "hymirec_champion_servers", "Model servers of the champion that answer.",
            lambda: fleet.champion.num_ready,
        )  # fmt: skip
        self.metrics.gauge(
            "hymirec_switches", "Changes of champion since the gateway started.",
            lambda: fleet.switches,
        )  # fmt: skip

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the model servers and the threads beside them running."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=target, args=(stop,), name=target.__qualname__)
            for target in (self.consumer.run, self.parity.run, self.lag.run, self.pulse.run)
        ]
        async with self.fleet:
            for thread in threads:
                thread.start()
            try:
                yield
            finally:
                stop.set()
                self.consumer.wake()
                for thread in threads:
                    await asyncio.to_thread(thread.join)
        self.audit.close()
        self.consumer.event_log.close()

    async def answer(self, ask: Ask, request: Request) -> tuple[dict[str, Any], dict[str, float]]:
        """See `Answerer.answer`."""
        state = request.scope["state"]
        found = await self.answerer.answer(
            ask, answering.Request(state["request_id"], state["started"])
        )
        if ask.user_id is not None:
            self.parity.saw(ask.user_id)
        return found

    def notice(self) -> None:
        """Let the history have a move of the alias that was made past it, on MLflow's page say.

        Raises:
            HymirecError: the audit log or the registry cannot be used.
        """
        registry, alias = self.fleet.registry, self.fleet.alias
        entry = self.audit.notice(
            alias_subject(registry.name, alias), lambda: str(registry.aliases().get(alias, ""))
        )
        if entry and entry.before:
            log.warning(
                "%s was moved from version %s to %s by other means",
                alias, entry.before, entry.after or "none",
            )  # fmt: skip

    def _lag_seconds(self) -> float:
        """As the consumer says; no number while the event log is away."""
        try:
            return self.consumer.lag_seconds()
        except HymirecError:
            return math.nan

    def state(self) -> VersionState:
        """Who answers, and what else is ready."""
        fleet, champion = self.fleet, self.fleet.champion
        versions = []
        for number, one in sorted(fleet.versions.items()):
            role = (
                "champion" if one is champion
                else "previous" if one is fleet.previous
                else "experiment" if number in fleet.rollout.versions()
                else "ready"
            )  # fmt: skip
            versions.append(
                ServedVersionState(
                    model_version=str(number), run_id=one.info.run_id,
                    codebook_id=one.info.codebook_id, role=role, servers=one.num_ready,
                    wanted=one.wanted, restarts=one.restarts,
                    problem=without_paths(one.problem) or None,
                )
            )  # fmt: skip
        return VersionState(
            model=fleet.registry.name,
            model_version=str(champion.info.version),
            run_id=champion.info.run_id,
            codebook_id=champion.info.codebook_id,
            feature_age_seconds=self.metrics.feature_age,
            switches=fleet.switches,
            versions=versions,
            hymirec=__version__,
        )


def create_app(
    home: Home,
    fleet: Fleet,
    *,
    rollout: Rollout | None = None,
    settings: GatewaySettings | None = None,
    tokens: Tokens | None = None,
    desk: Desk | None = None,
) -> FastAPI:
    """Make the gateway.

    Args:
        home: whose events and features these are.
        fleet: the versions to answer with; opened and closed with the application.
        rollout: who is answered by which version; by default everybody by the champion.
        settings: limits.
        tokens: who may do what; without any, everybody on this machine may do all.
        desk: what the console needs of flows and registry; without, there is no console.
    """
    gateway = Gateway(home, fleet, rollout or ChampionOnly(), EventConsumer(home))
    tokens = tokens or Tokens({})
    sessions = Sessions(tokens)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with gateway.running():
            yield
        if console is not None:
            console.close()

    app = FastAPI(
        title="HyMiRec", version=__version__, lifespan=lifespan,
        description="Recommendations from long histories, with several interests per user.",
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,
        redoc_url=None,
    )  # fmt: skip
    app.state.gateway = gateway
    app.add_middleware(
        Guard,
        tokens=tokens,
        sessions=sessions,
        settings=settings or GatewaySettings(),
        max_body=MAX_BODY,
        on_answer=lambda route, status: gateway.metrics.requests.labels(route, status).inc(),
    )
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _not_understood)
    app.add_exception_handler(HymirecError, _failed)
    _add_recommendations(app, gateway)
    _add_events(app, gateway)
    _add_operations(app, gateway)
    add_hooks(app, fleet.look_now)
    add_docs(app)
    console = add_console(app, home, gateway, desk, sessions) if desk else None
    return app


def _add_recommendations(app: FastAPI, gateway: Gateway) -> None:
    may_refuse = problems(400, 401, 403, 408, 413, 415, 422, 429, 503)

    @app.post(
        "/v1/recommendations", response_model=Answer, responses=may_refuse, tags=["recommend"]
    )
    async def recommend(body: Ask, request: Request) -> Response:
        """Recommend to one user or visitor."""
        answer, stages = await gateway.answer(body, request)
        timing = ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in stages.items())
        return Response(
            to_json(answer), media_type=JSON,
            headers=_version_headers(answer) | {"server-timing": timing},
        )  # fmt: skip

    @app.post(
        "/v1/recommendations:batch", response_model=Answers, responses=may_refuse,
        tags=["recommend"],
    )  # fmt: skip
    async def recommend_batch(body: Asks, request: Request) -> Response:
        """Recommend to several users; answers come in the order of the requests."""
        found = await asyncio.gather(*(gateway.answer(ask, request) for ask in body.requests))
        return Response(to_json({"answers": [answer for answer, _ in found]}), media_type=JSON)

    @app.post(
        "/invocations", responses=problems(400, 401, 403, 408, 413, 429, 503), tags=["mlflow"],
        openapi_extra={"requestBody": {"required": True, "content": {JSON: {"schema": {
            "type": "object", "example": {"inputs": [{"user_id": "42", "query": "{\"k\": 10}"}]},
        }}}}},
    )  # fmt: skip
    async def invocations(request: Request) -> Response:
        """MLflow's own way of asking, passed on to a model server of the champion."""
        champion = gateway.fleet.champion
        kind = request.headers.get("content-type") or JSON
        try:
            status, content, kind = await champion.forward(await request.body(), kind)
        except LostError:
            return JSONResponse({"error": "no model server answers at present: try again"}, 503)
        if status != 200:
            return JSONResponse({"error": _cause(content)}, 400 if status < 500 else 503)
        info = champion.info
        return Response(
            content, status, media_type=kind,
            headers=_version_headers(
                {"model_version": str(info.version), "run_id": info.run_id,
                 "codebook_id": info.codebook_id}
            ),
        )  # fmt: skip


def _add_events(app: FastAPI, gateway: Gateway) -> None:
    @app.post(
        EVENTS_PATH, responses=problems(400, 401, 403, 408, 413, 415, 422, 429, 503),
        tags=["events"],
    )  # fmt: skip
    def events(body: EventsIn) -> EventsTaken:
        """Take events: durable when answered, in recommendations a moment later."""
        found = [one.to_event() for one in body.events]
        new = gateway.consumer.event_log.append(found)
        gateway.consumer.wake()
        for one in found:
            gateway.metrics.events.labels(one.kind).inc()
        return EventsTaken(accepted=len(found), duplicates=len(found) - new)


def _add_operations(app: FastAPI, gateway: Gateway) -> None:
    @app.get("/version", responses=problems(401, 403, 429, 503), tags=["operate"])
    async def version() -> VersionState:
        """Which version answers, since what run and codebook, and what else is ready."""
        return gateway.state()

    @app.get("/healthz", tags=["operate"])
    async def healthz() -> Health:
        """Whether this process works."""
        return Health(status="ok")

    @app.get("/readyz", responses=problems(503), tags=["operate"])
    async def readyz() -> Ready:
        """Whether requests can be answered: by the model, or degraded without."""
        champion = gateway.fleet.champion
        if not gateway.fleet.following:
            raise HTTPException(503, "the registry is no longer followed")
        return Ready(
            status="ok" if champion.ready else "degraded",
            model_version=str(champion.info.version),
            servers=champion.num_ready,
        )

    @app.get("/ping", include_in_schema=False)
    async def ping() -> Response:
        """As MLflow's model server has it."""
        return Response("\n", 200 if gateway.fleet.champion.ready else 503, media_type=JSON)

    @app.get(
        "/metrics", response_class=Response, tags=["operate"],
        responses=problems(401, 403, 429, 503)
        | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )  # fmt: skip
    def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _version_headers(answer: dict[str, Any]) -> dict[str, str]:
    return {
        "x-model-version": answer["model_version"],
        "x-model-run": answer["run_id"],
        "x-codebook": answer["codebook_id"],
    }


def _cause(content: bytes) -> str:
    """What an error of the model server says, without what it tells of its code and its paths."""
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        message = content.decode(errors="replace")
    return without_paths(message.rpartition("\nError: ")[2].partition("\n")[0])[:500]


def without_paths(text: str) -> str:
    """The same line, with a mark where it names a place on this machine."""
    words = ("…" if word.count("/") > 1 or "://" in word else word for word in text.split(" "))
    return " ".join(words)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    if problem["type"] == "json_invalid":
        return _refusal(request, f"the body is no JSON: {problem['ctx']['error']}", 400)
    place = ".".join(str(part) for part in problem["loc"] if part != "body")
    message = f"{place}: {problem['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    return _refusal(request, message, 422)


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(request, str(error.detail), error.status_code)


def _refusal(request: Request, message: str, status: int) -> Response:
    """One line; of a request that brings several events, what became of the others."""
    if request.url.path == EVENTS_PATH:
        message += " (nothing of this request was taken)"
    return JSONResponse({"error": message}, status)


def _failed(request: Request, error: Exception) -> Response:
    log.error("%s %s: %s", request.method, request.url.path, error)  # it may name a path
    return JSONResponse({"error": "events cannot be stored at present: try again"}, 503)
