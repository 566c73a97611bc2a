"""Pages of registered versions: the list with its history, one, two side by side, going back."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hymirec.errors import UsageError
from serving.console.site import ROOT, FormOf, Site, SiteOf, UnknownError, go_to
from serving.console.versions import differences

ENTRIES_SHOWN = 50


def add_pages(router: APIRouter) -> None:
    """Add them."""

    @router.get("/versions")
    def versions(request: Request, site: SiteOf) -> Response:
        try:
            found, history = site.desk.versions(), site.desk.history(limit=ENTRIES_SHOWN)
        except UsageError:  # nothing is registered yet
            found, history = [], []
        return site.page(
            request, "versions.html", versions=found, history=history, served=_served(site)
        )

    @router.get("/versions/compare")
    def compare(request: Request, site: SiteOf, a: str = "", b: str = "") -> Response:
        first, second = _find(site, a), _find(site, b)
        return site.page(
            request, "compare.html", first=first["version"], second=second["version"],
            parts=differences(first, second),
        )  # fmt: skip

    @router.get("/versions/roll-back")
    def roll_back_page(request: Request, site: SiteOf) -> Response:
        site.refuse_readers(request)
        return _confirm(site, request)

    @router.post("/versions/roll-back")
    def roll_back(request: Request, site: SiteOf, fields: FormOf) -> Response:
        reason = fields.get("reason", "").strip()
        try:
            if not reason:
                raise UsageError("a reason is needed: it is what the log will tell")
            site.desk.roll_back(reason=reason, actor=site.actor(request))
        except UsageError as error:
            return _confirm(site, request, problem=str(error), status=422)
        site.gateway.fleet.look_now()
        return go_to("/versions")

    @router.get("/versions/{name}")
    def version(request: Request, site: SiteOf, name: str) -> Response:
        found = _find(site, name)
        history = site.desk.history(version=found["version"], limit=ENTRIES_SHOWN)
        served = _served(site).get(found["version"], "")
        return site.page(
            request, "version.html", version=found, history=history, served=served
        )  # fmt: skip


def _find(site: Site, name: str) -> dict[str, Any]:
    try:
        return site.desk.version(name)
    except UsageError as error:
        raise UnknownError(str(error)) from error


def _served(site: Site) -> dict[str, str]:
    """What versions do here, in words, by number."""
    return {
        one.model_version: f"{one.role}, {one.servers} of {one.wanted} servers"
        for one in site.gateway.state().versions
    }


def _confirm(site: Site, request: Request, problem: str = "", status: int = 200) -> Response:
    champion = site.gateway.state().model_version
    return site.page(
        request, "confirm.html", status, word="Roll back", subject=f"version {champion}",
        what="The version that passed the gate and was champion before answers again. Experiments "
        "go on: their variants are versions, not aliases.",
        problem=problem, action=f"{ROOT}/versions/roll-back", back=f"{ROOT}/versions",
        danger=True, winners=[], revision=None, reason="",
    )  # fmt: skip
