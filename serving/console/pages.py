"""The console: experiments, versions, health and users as web pages for people who operate them.

Rendered here, without any script: a page is what it is when it arrives. What changes something is a
form that asks for a reason and a second look, sealed against other sites.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from fastapi import APIRouter, FastAPI, Request, Response

from hymirec.home import Home
from serving.console import experiment_pages, health_pages, user_pages, version_pages
from serving.console.desk import Desk
from serving.console.site import ROOT, ForbiddenError, Page, Site, SiteOf, UnknownError, go_to
from serving.sessions import COOKIE, SECONDS, Sessions

if TYPE_CHECKING:
    from serving.gateway import Gateway

STATIC = {"console.css": "text/css", "icon.svg": "image/svg+xml"}
"""Files that pages use, and what they are."""
STATIC_SECONDS = 600
"""For which a browser keeps them."""


def add_console(app: FastAPI, home: Home, gateway: Gateway, desk: Desk, sessions: Sessions) -> Site:
    """Give a gateway's application its console.

    Args:
        app: whose routes begin with `/console` from then on.
        home: whose experiments these are.
        gateway: the running parts.
        desk: what flows and registry know.
        sessions: who is signed in.
    """
    site = Site(home, gateway, desk, sessions)
    app.state.console = site
    router = APIRouter(prefix=ROOT, route_class=Page, include_in_schema=False)
    _add_entrance(router)
    for part in (experiment_pages, version_pages, health_pages, user_pages):
        part.add_pages(router)
    _add_rest(router)
    app.include_router(router)
    return site


def _add_entrance(router: APIRouter) -> None:
    shipped = files("serving.console").joinpath("static")
    static = {name: shipped.joinpath(name).read_bytes() for name in STATIC}

    @router.get("")
    @router.get("/")
    def root() -> Response:
        return go_to("/experiments")

    @router.get("/static/{name}")
    def static_file(name: str) -> Response:
        if name not in static:
            raise UnknownError(f"there is no file {name[:100]}")
        return Response(
            static[name], media_type=STATIC[name],
            headers={"cache-control": f"private, max-age={STATIC_SECONDS}"},
        )  # fmt: skip

    @router.get("/sign-in")
    def sign_in_page(request: Request, site: SiteOf, next: str = "") -> Response:
        return site.page(request, "sign_in.html", problem="", next=next)

    @router.post("/sign-in")
    async def sign_in(request: Request, site: SiteOf) -> Response:
        try:
            fields = await site.own_form(request)
        except ForbiddenError as error:
            return site.page(request, "sign_in.html", 403, problem=str(error), next="")
        cookie = site.sessions.sign_in(fields.get("token", ""))
        place = fields.get("next", "")
        if cookie is None:
            problem = "This token is not known, or has neither the role read nor operate."
            return site.page(request, "sign_in.html", 401, problem=problem, next=place)
        answer = go_to(_inside(place))
        answer.set_cookie(
            COOKIE, cookie, max_age=SECONDS, path=ROOT, httponly=True, samesite="lax",
            secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    @router.post("/sign-out")
    async def sign_out(request: Request, site: SiteOf) -> Response:
        await site.own_form(request)
        answer = go_to("/sign-in")
        answer.delete_cookie(COOKIE, path=ROOT)
        return answer


def _add_rest(router: APIRouter) -> None:
    @router.get("/{rest:path}")
    def nothing(rest: str) -> Response:
        raise UnknownError(f"there is no page {ROOT}/{rest[:100]}")


def _inside(place: str) -> str:
    """Where to go after signing in: a page of the console and nowhere else."""
    if place.startswith(f"{ROOT}/") and "\\" not in place and not set(place) & set("\r\n"):
        return place.removeprefix(ROOT)
    return "/experiments"
