"""The series as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader

from flows.monitoring.series import Point
from flows.monitoring.settings import METRICS, MonitorConfig
from flows.monitoring.verdict import Crossing
from flows.tracking.plots import time_series


def write_report(
    path: Path, *, version: str, codebook_id: str, step: int,
    series: Mapping[str, Sequence[Point]], not_judged: Mapping[str, str],
    crossed: Sequence[Crossing], config: MonitorConfig, retrain: str,
) -> None:  # fmt: skip
    """Write the page.

    Args:
        path: where to.
        version: name of the monitored version.
        codebook_id: its codebook's.
        step: the look that the page is of.
        series: all points by metric.
        not_judged: why a metric has no value at this look.
        crossed: what is too far.
        config: thresholds.
        retrain: what became of a retrain, in one sentence or nothing.
    """
    too_far = {one.metric: one for one in crossed}
    rows = []
    for name, what in METRICS.items():
        points = series.get(name, [])
        latest = points[-1] if points and points[-1].step == step else None
        threshold = config.thresholds.get(name)
        if latest is None:
            state, says = "none", not_judged.get(name, "not judged")
        elif name in too_far:
            state, says = too_far[name].policy, too_far[name].policy
        elif threshold is not None and threshold.crossed(latest.value):
            state, says = "alarm", f"too far, waiting for {threshold.patience} looks"
        else:
            state, says = "good", "fine" if threshold else "kept"
        rows.append(
            {
                "name": name, "what": what, "state": state, "says": says,
                "value": latest.value if latest else None,
                "threshold": str(threshold) if threshold else "",
                "plot": time_series(name, points, threshold) if points else "",
            }
        )  # fmt: skip
    page = Environment(loader=PackageLoader("flows"), autoescape=True).get_template("monitor.html")
    text = page.render(
        version=version, codebook_id=codebook_id, step=step, rows=rows, crossed=crossed,
        retrain=retrain, when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
