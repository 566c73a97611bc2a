"""What every request passes before it is looked at: who sends it, how much, how often.

An ASGI application around another. It names the request, lets in whom it should, reads the body up
to its limit, and sees to it that no answer tells of code or paths.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import quote

from fastapi.responses import JSONResponse, RedirectResponse, Response

from serving.hooks import PATH as HOOK
from serving.sessions import Sessions
from serving.settings import GatewaySettings
from serving.tokens import Sender, Tokens

log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY_SECONDS = 10.0
MAX_HEADERS = 32_768
"""Bytes of all header fields together."""
SENDERS_KEPT = 10_000
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

OPEN, ANYBODY_KNOWN = "open", "known"
CONSOLE, SIGN_IN = "/console", "/console/sign-in"
ROLES: Sequence[tuple[str, str]] = (
    ("/healthz", OPEN),
    ("/readyz", OPEN),
    ("/ping", OPEN),
    ("/docs", OPEN),
    ("/openapi.json", OPEN),
    (SIGN_IN, OPEN),
    ("/console/static/", OPEN),
    (CONSOLE, "read"),
    (HOOK, OPEN),  # its signature is looked at instead
    ("/version", ANYBODY_KNOWN),
    ("/v1/recommendations", "recommend"),
    ("/invocations", "recommend"),
    ("/v1/events", "events"),
    ("/", "operate"),
)
"""Role by how a path begins; the first that fits counts. `OPEN` needs no token."""

SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)
API_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Guard:
    """The application around the gateway's."""

    def __init__(
        self, app: App, *, tokens: Tokens, sessions: Sessions, settings: GatewaySettings,
        max_body: int, on_answer: Callable[[str, int], None],
    ) -> None:  # fmt: skip
        """Wrap an application.

        Args:
            app: what to let requests through to.
            tokens: who may do what; where there are none everybody on this machine may do all.
            sessions: browsers that signed in with one, for the console alone.
            settings: limits.
            max_body: bytes of a request's body.
            on_answer: told route and status of each answer.
        """
        self.app = app
        self.tokens = tokens
        self.sessions = sessions
        self.max_body = max_body
        self.most_waiting = settings.most_waiting
        self.on_answer = on_answer
        self._waiting = 0
        self._limiter = RateLimiter(settings.rate, settings.burst) if settings.rate else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["state"] = {**scope.get("state", {}), "request_id": request_id,
                          "started": time.perf_counter()}  # fmt: skip
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *(one for one in (*SECURITY_HEADERS, API_POLICY) if one[0] not in own),
                ]
                route = getattr(scope.get("route"), "path", "")
                self.on_answer(route, message["status"])
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                await refusal(scope, receive, answer)
                return
            self._waiting += 1
            try:
                await self._pass_on(scope, headers, receive, answer)
            finally:
                self._waiting -= 1
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if not begun:
                problem = {"error": f"an error of this service; its log tells more: {request_id}"}
                await JSONResponse(problem, 500)(scope, receive, answer)

    def _refusal(self, scope: Message, headers: dict[bytes, str]) -> Response | None:
        """Why this is not even read, if there is a reason."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            return _refused(431, f"the header fields are larger than {MAX_HEADERS} bytes")
        role = next(role for start, role in ROLES if scope["path"].startswith(start))
        client = scope["client"][0] if scope.get("client") else ""
        sender: Sender | None = None
        if not len(self.tokens):
            # Without tokens the gateway listens on this machine alone. A page in a browser here
            # can still send requests, but not under a local name.
            host = headers.get(b"host", "")
            if re.sub(r":\d+$", "", host) not in LOCAL_HOSTS:
                return _refused(403, "without tokens this service answers to localhost alone")
        elif role != OPEN:
            sender = self.tokens.sender(headers.get(b"authorization", ""))
            is_console = scope["path"].startswith(CONSOLE)
            if sender is None and is_console:
                # Nothing but the console takes cookies: what a browser sends by itself does no harm
                # elsewhere, and there every form is sealed.
                sender = self.sessions.sender(headers.get(b"cookie", ""))
                if sender is None and scope["method"] == "GET":
                    place = scope["path"] + ("?" + query if (query := _query(scope)) else "")
                    return RedirectResponse(f"{SIGN_IN}?next={quote(place)}", 303)
            if sender is None:
                return _refused(401, "a bearer token is needed, or this one is not known",
                                {"www-authenticate": "Bearer"})  # fmt: skip
            if role != ANYBODY_KNOWN and not sender.may(role):
                return _refused(403, f"this token does not have the role {role!r}")
        scope["state"]["sender"] = sender
        if role == OPEN:
            return None
        if self._limiter is not None:
            pause = self._limiter.pause(sender.name if sender else client)
            if pause:
                return _refused(429, "too many requests: try again later",
                                {"retry-after": str(int(pause) + 1)})  # fmt: skip
        if self._waiting >= self.most_waiting:
            return _refused(503, "too many requests at once: try again later",
                            {"retry-after": "1"})  # fmt: skip
        return None

    async def _pass_on(
        self, scope: Message, headers: dict[bytes, str], receive: Receive, send: Send
    ) -> None:
        if scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self.app(scope, receive, send)
            return
        too_large = _refused(
            413, f"the body is larger than {self.max_body} bytes (nothing was taken)",
            {"connection": "close"},
        )  # fmt: skip
        declared = headers.get(b"content-length", "0")
        if declared.isdigit() and int(declared) > self.max_body:
            await too_large(scope, receive, send)
            return
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        return  # the sender has gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.max_body:
                        await too_large(scope, receive, send)
                        return
        except TimeoutError:
            late = _refused(
                408, f"the body did not come within {BODY_SECONDS:.0f} s", {"connection": "close"}
            )
            await late(scope, receive, send)
            return
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if scope["path"].startswith("/v1/") and kind != "application/json":
            wrong = _refused(415, f"the body is {kind[:60] or 'of no type'}: send application/json")
            await wrong(scope, receive, send)
            return
        read = False

        async def replay() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self.app(scope, replay, send)


class RateLimiter:
    """So many requests a second on the average, and so many at once, of each sender."""

    def __init__(self, rate: float, burst: int) -> None:
        """Set both."""
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def pause(self, sender: str) -> float:
        """Seconds until the sender may come again; 0 where it may now, which counts as coming."""
        now = time.monotonic()
        left, since = self._left.pop(sender, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        allowed = left >= 1
        self._left[sender] = (left - 1 if allowed else left), now
        if len(self._left) > SENDERS_KEPT:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate


def _query(scope: Message) -> str:
    return str(scope.get("query_string", b"").decode("latin-1"))


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers=headers)
