"""Watching a served version: measure, keep, judge, and ask for a retrain where policy says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from flows.monitoring.baseline import baseline_of
from flows.monitoring.measures import measure
from flows.monitoring.report import write_report
from flows.monitoring.series import RETRAIN_TAG, Series
from flows.monitoring.settings import MonitorConfig, read_config
from flows.monitoring.verdict import Crossing, crossings, trends
from flows.registry.served import served_versions
from flows.runtime.locks import FOREVER, MONITOR, alone_in
from flows.runtime.notify import HOOKS, notify
from flows.runtime.settings import CHAMPION
from hymirec.additions import publications, read
from hymirec.home import Home
from hymirec.package import RecommenderPackage

log = logging.getLogger(__name__)

RETRAIN = "retrain/retrain"
"""Flow and deployment that a crossing of policy `retrain` starts."""


@dataclass(frozen=True)
class Monitored:
    """One look at one version.

    Attributes:
        version: by name.
        step: number of the look.
        values: by metric.
        not_judged: by metric, why it has no value.
        crossed: what is too far.
        news: whether anything is that was not at the look before, or a retrain was started.
        report: the page.
        run_id: the MLflow run of the series.
        retrain: what became of a retrain, if one was asked for.
        retrain_run_id: the flow run that was started for it.
    """

    version: str
    step: int
    values: dict[str, float]
    not_judged: dict[str, str]
    crossed: list[Crossing]
    news: bool
    report: Path
    run_id: str
    retrain: str = ""
    retrain_run_id: str = ""

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return vars(self) | {
            "crossed": [one.to_json() for one in self.crossed],
            "report": str(self.report),
        }


@flow(name="monitor", **HOOKS)
def monitor_flow(
    home: Path, alias: str = CHAMPION, config: Path | None = None, deployment: str = RETRAIN
) -> Monitored:
    """`monitor` as a flow, whose artifact is the look and whose word is a webhook's.

    Args:
        home: of the version.
        alias: of the version.
        config: thresholds, see `flows.monitoring.settings.read_config`.
        deployment: started when policy asks for a retrain; none if empty.
    """
    start = (lambda reason: start_retrain(deployment, reason)) if deployment else None
    found = monitor(Home.at(home), alias, config, start)
    create_markdown_artifact(as_markdown(found), key="monitor", description=found.version)
    if found.news:
        text = f"{found.version} drifts: {'; '.join(map(str, found.crossed))}. {found.retrain}"
        notify(
            "drift", text.rstrip(), version=found.version, retrain=found.retrain_run_id,
            crossed=[one.to_json() for one in found.crossed],
        )  # fmt: skip
    return found


StartRetrain = Callable[[str], FlowRun | None]
"""Starts a retrain for a reason; None where there is nothing that could do it."""


def monitor(
    home: Home, alias: str = CHAMPION, config: Path | None = None,
    start: StartRetrain | None = None,
) -> Monitored:  # fmt: skip
    """Look once at the version an alias names, add the look to its series, write the report.

    Args:
        home: whose version, log and rows.
        alias: which version.
        config: thresholds, see `flows.monitoring.settings.read_config`.
        start: called when policy asks for a retrain and none was started of late.

    Raises:
        UsageError: nothing is served under the alias, or the thresholds cannot be read.
        DataError: what the version was trained on is gone from the home.
        HymirecError: a store cannot be read.
    """
    settings = read_config(home, config)
    with alone_in(home, MONITOR, wait_seconds=FOREVER):  # or two looks would have one number
        return _look(home, alias, settings, start)


def _look(home: Home, alias: str, settings: MonitorConfig, start: StartRetrain | None) -> Monitored:
    (served,) = served_versions(home, alias)
    package = RecommenderPackage.load(served.package)
    baseline = baseline_of(home, served, package, settings)
    additions = read(publications(home.catalogue / served.codebook_id))
    extended = package if additions is None else package.extended(additions)
    now = datetime.now(UTC)
    measured = measure(home, extended, additions, baseline, settings, now)
    series = Series.of(home, served)
    step = series.next_step()
    before = series.read()
    found, missing = trends(before, measured.values, settings.trend_steps)
    values, not_judged = measured.values | found, measured.not_judged | missing
    series.append(step, values)
    series.note_config(settings)
    points = series.read()
    crossed = crossings(points, step, settings)
    known = {one.metric for one in crossings(before, step - 1, settings)}
    for one in crossed:
        log.warning("monitor: %s: %s (%s)", served.name, one, one.policy)
    retrain, run_id = _retrain(series, crossed, settings, start, now)
    report = home.reports / "monitor" / f"version-{served.version.version}.html"
    write_report(
        report, version=f"version {served.version.version} ({alias})",
        codebook_id=served.codebook_id, step=step, series=points, not_judged=not_judged,
        crossed=crossed, config=settings, retrain=retrain,
    )  # fmt: skip
    series.keep(report)
    state = f"{len(crossed)} of {len(values)} metrics too far" if crossed else "nothing too far"
    log.info("monitor: %s, look %d: %s", served.name, step, state)
    news = bool(run_id) or any(one.metric not in known for one in crossed)
    return Monitored(
        served.name, step, values, not_judged, crossed, news, report, series.run_id, retrain, run_id
    )


def _retrain(
    series: Series, crossed: list[Crossing], config: MonitorConfig, start: StartRetrain | None,
    now: datetime,
) -> tuple[str, str]:  # fmt: skip
    """Start a retrain where policy asks for it and none was started of late.

    Returns:
        What became of it, in one sentence, and the flow run's id where there is one; both may be
        empty.
    """
    reasons = [str(one) for one in crossed if one.policy == "retrain"]
    if not reasons:
        return "", ""
    before = series.tags.get(RETRAIN_TAG)
    if before is not None:
        hours = (now - datetime.fromisoformat(before)).total_seconds() / 3600
        if hours < config.retrain_again_hours:
            return f"A retrain was asked for {hours:.1f} hours ago.", ""
    run = start("; ".join(reasons)) if start else None
    if run is None:
        return "A retrain is due: `hymirec flow run retrain` does it.", ""
    series.tag(RETRAIN_TAG, now.isoformat(timespec="seconds"))
    log.info("monitor: retrain asked for as flow run %s", run.name)
    return f"A retrain was started as flow run {run.name}.", str(run.id)


def start_retrain(deployment: str, reason: str) -> FlowRun | None:
    """Have a worker run a deployment; None where there is no such deployment."""
    try:
        run = run_deployment(
            deployment, timeout=0, as_subflow=False, tags=["drift"], parameters={"reason": reason}
        )
    except ObjectNotFound:
        log.warning("monitor: there is no deployment %s: `hymirec up` makes it", deployment)
        return None
    return cast(FlowRun, run)  # not a coroutine, since nothing is asynchronous here


def as_markdown(found: Monitored) -> str:
    """A look as the page of a flow run shows it."""
    lines = [f"# {found.version}, look {found.step}", "", "| metric | value |", "| --- | ---: |"]
    lines += [f"| {name} | {value:.4g} |" for name, value in found.values.items()]
    lines += [f"| {name} | {reason} |" for name, reason in found.not_judged.items()]
    if found.crossed:
        lines += ["", "Too far:", "", *(f"- {one} ({one.policy})" for one in found.crossed)]
    return "\n".join([*lines, "", found.retrain, "", f"Report: {found.report}"])
