"""The explorer: what is known of a user, and what each served version makes of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from features.inspection import find_titles, show_user
from features.logs.events import MAX_ID
from features.online import FeatureReader, list_codebooks
from hymirec.errors import HymirecError
from hymirec.query import Query
from hymirec.schema import QUERY, USER_ID
from serving.console.site import Site, SiteOf
from serving.dispatch import RefusedError, UnavailableError
from serving.versions import ServedVersion

ITEMS, EVENTS, LISTS = 10, 30, 10
"""How many of each a page shows."""
ASK_SECONDS = 10.0


def add_pages(router: APIRouter) -> None:
    """Add it."""

    @router.get("/users")
    async def users(request: Request, site: SiteOf, user_id: str = "") -> Response:
        user_id = user_id.strip()[:MAX_ID].replace("\0", "")
        if not user_id:
            return await run_in_threadpool(site.page, request, "users.html", user_id="", found=None)
        found = {
            "answers": await _answers(site, user_id),
            **await run_in_threadpool(_known, site, user_id),
        }
        return await run_in_threadpool(
            site.page, request, "users.html", user_id=user_id, found=found
        )


async def _answers(site: Site, user_id: str) -> list[dict[str, Any]]:
    """What each served version answers, side by side; nothing of it is an exposure."""
    fleet = site.gateway.fleet
    roles = {one.model_version: one.role for one in site.gateway.state().versions}
    served = [one for _, one in sorted(fleet.versions.items())]
    found = await asyncio.gather(*(_ask(one, user_id) for one in served))
    return [
        {"version": one.info.version, "role": roles.get(str(one.info.version), ""), **answer}
        for one, answer in zip(served, found, strict=True)
    ]


async def _ask(version: ServedVersion, user_id: str) -> dict[str, Any]:
    if not version.ready:
        return {"problem": "it is not ready"}
    query = Query(k=ITEMS, explain=True)
    record = {USER_ID: user_id, QUERY: query.model_dump_json(exclude_defaults=True)}
    try:
        async with asyncio.timeout(ASK_SECONDS):
            answer = await version.ask(record)
    except (TimeoutError, UnavailableError, RefusedError) as error:
        return {"problem": str(error) or "it did not answer in time"}
    interests: dict[int, list[dict[str, Any]]] = {}
    for place, item in enumerate(answer["recommendations"], start=1):
        interests.setdefault(item["interest"], []).append({"place": place, **item})
    return {"problem": "", "interests": sorted(interests.items()), **answer}


def _known(site: Site, user_id: str) -> dict[str, Any]:
    """Rows of the user under each codebook, and the lists that were served."""
    rows: list[dict[str, Any]] = []
    for codebook_id in list_codebooks(site.home):
        try:
            reader = FeatureReader(site.home, codebook_id)
            row = show_user(site.home, reader, user_id, last=EVENTS, now=datetime.now(UTC))
        except HymirecError as error:
            rows.append({"codebook_id": codebook_id, "problem": str(error), "row": None})
        else:
            rows.append({"codebook_id": codebook_id, "problem": "", "row": row})
    lists = site.exposures.of_user(user_id, LISTS).to_dict("records")
    titles = find_titles(site.home, {item for one in lists for item in one["items"]})
    return {"rows": rows, "lists": lists, "titles": titles}
