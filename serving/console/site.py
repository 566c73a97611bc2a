"""What all pages of the console share: stores, templates, who looks, and forms that are ours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs

from fastapi import Depends, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from features.logs.audit_log import current_actor
from features.logs.experiments import ExperimentStore
from features.logs.exposures import ExposureLog
from features.logs.readings import ReadingLog
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home
from serving.console.conclusions import Conclusions
from serving.console.desk import Desk
from serving.sessions import Sessions
from serving.tokens import Sender

if TYPE_CHECKING:
    from serving.gateway import Gateway

ROOT = "/console"
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""No script runs on these pages, and nothing comes from or goes to another host."""
MAX_FIELDS = 20
OPERATE = "operate"


class ForbiddenError(HymirecError):
    """Whoever asks may look, but not do this."""


class UnknownError(HymirecError):
    """There is no such page or thing."""


class Site:
    """The console of one gateway; pages may be asked for from several threads."""

    def __init__(self, home: Home, gateway: Gateway, desk: Desk, sessions: Sessions) -> None:
        """Bring the parts together; stores are opened when a page first needs them."""
        self.home = home
        self.gateway = gateway
        self.desk = desk
        self.sessions = sessions
        self.conclusions = Conclusions()
        self._templates = Environment(
            loader=PackageLoader("serving.console"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters |= FILTERS

    @cached_property
    def experiments(self) -> ExperimentStore:
        """The experiments of the home."""
        return ExperimentStore(self.home)

    @cached_property
    def readings(self) -> ReadingLog:
        """Their readouts over time."""
        return ReadingLog(self.home)

    @cached_property
    def exposures(self) -> ExposureLog:
        """The lists that were served."""
        return ExposureLog(self.home)

    def close(self) -> None:
        """Close the stores that were opened."""
        for name in ("experiments", "readings", "exposures"):
            if name in vars(self):
                getattr(self, name).close()

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A page as its template says."""
        cookies = request.headers.get("cookie", "")
        sender = self.sender(request)
        text = self._templates.get_template(template).render(
            root=ROOT, path=request.url.path, sender=sender, may_operate=self.may_operate(request),
            seal=self.sessions.form_seal(cookies), now=datetime.now(UTC), **values,
        )  # fmt: skip
        return HTMLResponse(text, status, {"content-security-policy": POLICY})

    def sender(self, request: Request) -> Sender | None:
        """Who asks; None where the gateway has no tokens."""
        return getattr(request.state, "sender", None)

    def actor(self, request: Request) -> str:
        """Who asks, for the audit log."""
        sender = self.sender(request)
        return f"{sender.name} (console)" if sender else f"{current_actor()} (console)"

    def may_operate(self, request: Request) -> bool:
        """Whether who asks may change anything."""
        sender = self.sender(request)
        return sender is None or OPERATE in sender.roles

    async def form(self, request: Request) -> dict[str, str]:
        """The fields of a form of this console, sent by somebody who may.

        Raises:
            ForbiddenError: it is another site's, or who sent it may look only.
        """
        fields = await self.own_form(request)
        self.refuse_readers(request)
        return fields

    async def own_form(self, request: Request) -> dict[str, str]:
        """The fields of a form, whoever sent it.

        Raises:
            ForbiddenError: it is another site's, or no form.
        """
        body = await request.body()
        try:
            found = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
        except ValueError as error:
            raise ForbiddenError("this is no form of the console") from error
        fields = {name: values[-1] for name, values in found.items()}
        is_ours = self.sessions.is_ours(request.headers.get("cookie", ""), fields.pop("seal", ""))
        if not is_ours or request.headers.get("sec-fetch-site", "none") not in (
            "same-origin",
            "none",
        ):
            raise ForbiddenError("this form is not of this console, or too old: open it again")
        return fields

    def refuse_readers(self, request: Request) -> None:
        """Let only those on who may change things.

        Raises:
            ForbiddenError: this one may not.
        """
        if not self.may_operate(request):
            raise ForbiddenError(f"this token does not have the role {OPERATE!r}")


def _site(request: Request) -> Site:
    found = request.app.state.console
    assert isinstance(found, Site)
    return found


SiteOf = Annotated[Site, Depends(_site)]
"""The console that a request is for."""


async def _form(request: Request, site: SiteOf) -> dict[str, str]:
    return await site.form(request)


FormOf = Annotated[dict[str, str], Depends(_form)]
"""The fields of the form that it brings, see `Site.form`."""


def go_to(path: str) -> Response:
    """Send the browser to another page of the console, after a form was taken."""
    return RedirectResponse(ROOT + path, 303)


class Page(APIRoute):
    """A route whose errors are pages too."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The handler with its errors caught."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except HymirecError as error:
                status = next(
                    (code for kind, code in STATUSES.items() if isinstance(error, kind)), 503
                )
                return _site(request).page(
                    request, "error.html", status, message=str(error), is_refusal=status != 503
                )

        return handle


STATUSES: dict[type[HymirecError], int] = {
    ForbiddenError: 403,
    UnknownError: 404,
    UsageError: 422,
}
"""Of an error's page; others are a store's that is away."""


def _minute(moment: float | datetime | None) -> str:
    if moment is None:
        return "–"
    time = datetime.fromtimestamp(moment, UTC) if isinstance(moment, int | float) else moment
    return f"{time:%Y-%m-%d %H:%M}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f} %"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.3g} %"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _interval(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    return "no ends yet" if low is None or high is None else f"{_percent(low)} to {_percent(high)}"


def _span(ends: tuple[float | None, float | None]) -> str:
    low, high = ends
    return "no ends yet" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"


def _both(values: tuple[float, float] | None) -> str:
    return "–" if values is None else f"{values[0]:.1f} and {values[1]:.1f}"


def _seconds(value: float | None) -> str:
    """A length of time in the unit that suits it."""
    if value is None:
        return "–"
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.1f} s"


def _words(text: str) -> str:
    return text.replace("_", " ")


FILTERS: dict[str, Callable[[Any], str]] = {
    "minute": _minute,
    "percent": _percent,
    "share": _share,
    "number": _number,
    "interval": _interval,
    "span": _span,
    "both": _both,
    "seconds": _seconds,
    "words": _words,
}
