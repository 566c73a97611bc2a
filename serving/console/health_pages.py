"""The page of health: serving, features, and the series of monitoring."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from hymirec.errors import HymirecError
from serving.console import health
from serving.console.charts import Chart, Mark, Point, draw
from serving.console.site import SiteOf


def add_pages(router: APIRouter) -> None:
    """Add it."""

    @router.get("/health")
    def healthy(request: Request, site: SiteOf) -> Response:
        counters = health.read(site.gateway.metrics.registry)
        try:
            series, problem = list(site.desk.monitoring()), ""
        except HymirecError as error:
            series, problem = [], str(error)
        return site.page(
            request, "health.html", state=site.gateway.state(), counters=counters,
            latency=health.latency_rows(counters), answers=health.answer_rows(counters),
            lag=counters.values.get(health.LAG), charts=site.gateway.pulse.charts(),
            series=series,
            monitored=[one for at, its in enumerate(series) if (one := _chart(its, at))],
            problem=problem,
        )  # fmt: skip


def _chart(series: dict[str, Any], number: int) -> Chart | None:
    points = [Point(time, value) for time, value in series["points"]]
    limit = series["limit"]
    across = [] if limit is None else [Mark(limit, f"too far {series['side']}")]
    return draw(f"series-{number}", series["metric"], points, across=across)
