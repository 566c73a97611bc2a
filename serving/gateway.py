"""The one address that faces the world: events come in here, requests go on to the model server.

An event is on disk before its sender is told so; a thread of this process then brings it into the
feature store, woken by the intake (`features.updates`).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from features.events import EventIn, Id
from features.updates import EventConsumer
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.schema import USER_ID
from serving.live_parity import LiveParity
from serving.server import ModelServer

log = logging.getLogger(__name__)

MAX_BODY = 4_000_000
"""Bytes of a request."""
MAX_K = 1000
EVENTS_PATH = "/v1/events"
EVENTS_PER_REQUEST = 10_000
"""Of one request."""
BACKEND_SECONDS = 30.0
AGES = (60, 600, 3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 30 * 86_400)
"""Seconds at which the histogram of ages is cut."""


class EventsIn(BaseModel):
    """Events of one request: all are taken or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[EventIn] = Field(min_length=1, max_length=EVENTS_PER_REQUEST)


class EventsTaken(BaseModel):
    """What became of them.

    Attributes:
        accepted: events that are in the log now, those known before among them.
        duplicates: events whose id was known.
    """

    accepted: int
    duplicates: int


class Asked(BaseModel):
    """A request for recommendations to one user."""

    model_config = ConfigDict(extra="forbid")

    user_id: Id
    k: int = Field(default=10, ge=1, le=MAX_K, strict=True)
    exclude_seen: bool = Field(default=True, strict=True)


class Item(BaseModel):
    """An item by id and title."""

    item_id: str
    title: str


class Recommended(Item):
    """One recommended item.

    Attributes:
        score: cosine with the interest that found it.
        interest: which one, from 1; 0 where none did.
        because: items of the history nearest to that interest.
    """

    score: float
    interest: int
    because: list[Item]


class Answer(BaseModel):
    """What is recommended to a user, and how it came about; see `serving.model`."""

    user_id: str
    served_by: str
    feature_age_seconds: float | None
    degraded: str | None
    model_version: str
    recommendations: list[Recommended]
    recent: list[str]


class Problem(BaseModel):
    """Why a request was refused, in one line."""

    error: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 413, 422, 503)
}


def create_app(home: Home, backend: str) -> FastAPI:
    """Make the gateway.

    Args:
        home: whose events and features these are.
        backend: address of the model server.
    """
    consumer = EventConsumer(home)
    metrics = CollectorRegistry()
    parity = LiveParity(consumer.event_log, metrics)
    taken = Counter("hymirec_events", "Events taken in.", ["kind"], registry=metrics)
    answered = Counter(
        "hymirec_answers", "Answers given.", ["served_by", "degraded"], registry=metrics
    )
    ages = Histogram(
        "hymirec_feature_age_seconds", "Age of the users' rows answered from.",
        buckets=AGES, registry=metrics,
    )  # fmt: skip
    Gauge(
        "hymirec_event_lag_seconds",
        "Age of the oldest event that is not in the feature store yet.",
        registry=metrics,
    ).set_function(consumer.lag_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = threading.Event()
        threads = [
            threading.Thread(target=target, args=(stop,), name=target.__qualname__)
            for target in (consumer.run, parity.run)
        ]
        for thread in threads:
            thread.start()
        async with httpx.AsyncClient(base_url=backend, timeout=BACKEND_SECONDS) as client:
            app.state.backend = client
            yield
        stop.set()
        consumer.wake()
        for thread in threads:
            thread.join()

    app = FastAPI(title="HyMiRec", lifespan=lifespan)
    app.add_middleware(BodyLimit, limit=MAX_BODY)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(HTTPException, _not_understood)
    app.add_exception_handler(HymirecError, _failed)

    @app.post(
        EVENTS_PATH,
        responses=PROBLEMS,
    )
    def events(body: EventsIn) -> EventsTaken:
        """Take events: durable when answered, in recommendations a moment later."""
        found = [one.to_event() for one in body.events]
        new = consumer.event_log.append(found)
        consumer.wake()
        for one in found:
            taken.labels(one.kind).inc()
        return EventsTaken(accepted=len(found), duplicates=len(found) - new)

    @app.post("/v1/recommendations", responses=PROBLEMS, response_model=Answer)
    async def recommendations(body: Asked, request: Request) -> Response:
        """Recommend to one user."""
        asked = {
            "dataframe_records": [{USER_ID: body.user_id}],
            "params": {"k": body.k, "exclude_seen": body.exclude_seen},
        }
        answer = await _ask_backend(request, "POST", "/invocations", json.dumps(asked).encode())
        if answer.status_code != 200:
            return JSONResponse({"error": "the model cannot answer at present: try again"}, 503)
        found = json.loads(bytes(answer.body))["predictions"][0]
        parity.saw(body.user_id)
        answered.labels(found["served_by"], found["degraded"] or "").inc()
        if found["feature_age_seconds"] is not None:
            ages.observe(found["feature_age_seconds"])
        return JSONResponse(found)

    @app.get("/metrics", response_class=Response)
    def show_metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    @app.get("/ping")
    async def ping(request: Request) -> Response:
        """Whether the model server behind answers."""
        return await _ask_backend(request, "GET", "/ping", b"")

    @app.post("/invocations")
    async def invocations(request: Request) -> Response:
        """MLflow's own way of asking, passed on to the model server."""
        kind = request.headers.get("content-type", "application/json")
        return await _ask_backend(request, "POST", "/invocations", await request.body(), kind)

    return app


async def _ask_backend(
    request: Request, method: str, path: str, body: bytes, kind: str = "application/json"
) -> Response:
    client: httpx.AsyncClient = request.app.state.backend
    try:
        answer = await client.request(method, path, content=body, headers={"content-type": kind})
    except httpx.HTTPError as error:
        return JSONResponse(
            {"error": f"the model server does not answer: {type(error).__name__}"}, 503
        )
    content = answer.content
    if answer.is_error:
        content = _without_traces(content)
    return Response(content, answer.status_code, media_type=answer.headers.get("content-type"))


def _without_traces(content: bytes) -> bytes:
    """An error of the model server without what it tells of its code and its paths."""
    try:
        problem = json.loads(content)
        problem.pop("stack_trace", None)
    except (ValueError, AttributeError):
        return content
    return json.dumps(problem).encode()


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
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


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuses a request whose body is too large, by what it says of itself or as it comes."""

    def __init__(self, app: App, limit: int) -> None:
        """Wrap an application."""
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Read the body before anyone else does."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body, more = bytearray(), True
        too_large = declared.isdigit() and int(declared) > self.limit
        while more and not too_large:
            message = await receive()
            if message["type"] != "http.request":
                return  # the sender has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > self.limit
        if too_large:
            refusal = JSONResponse(
                {"error": f"the body is larger than {self.limit} bytes (nothing was taken)"}, 413,
                headers={"connection": "close"},
            )  # fmt: skip
            await refusal(scope, receive, send)
            return
        read = False

        async def replay() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)


def run_gateway(home: Home, server: ModelServer, *, host: str, port: int) -> None:
    """Answer at an address until interrupted.

    Args:
        home: see `create_app`.
        server: the model server behind, running.
        host: to listen on.
        port: to listen on.

    Raises:
        HymirecError: the model server ended by itself.
    """
    app = create_app(home, server.url)
    gateway = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning"))
    ended: list[int] = []

    def watch() -> None:
        ended.append(server.wait())
        gateway.should_exit = True

    threading.Thread(target=watch, daemon=True).start()
    gateway.run()
    if ended:
        raise HymirecError(
            f"the model server ended by itself with status {ended[0]} (log: {server.log_path})"
        )
