"""Drawings of what runs came to, as SVG that stands alone."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pandas as pd
from matplotlib import rc_context
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from flows.monitoring.series import Point
from flows.monitoring.settings import Threshold
from hymirec.evaluation.report import LENGTH, RANK

SIZE = (7, 3.2)
SMALL_SIZE = (4.2, 2.1)
NUM_BINS = 8
_FIVE_MINUTES = 5 / (24 * 60)
"""In days, which is how matplotlib counts time."""


def recall_by_length(users: Mapping[str, pd.DataFrame]) -> str:
    """Recall against history length, in bins of equal numbers of users.

    Args:
        users: by label, one row a user, see `hymirec.evaluation.report.Report.users`.
    """
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for label, table in users.items():
        hits = table.assign(hit=table[RANK] <= 10)
        bins = pd.qcut(hits[LENGTH], NUM_BINS, duplicates="drop")
        found = hits.groupby(bins, observed=True).agg(
            length=(LENGTH, "median"), hit=("hit", "mean")
        )
        axes.plot(found["length"], found["hit"], marker="o", label=label)
    axes.set(xlabel="events in the history (median of a bin)", ylabel="R@10", xscale="log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="small")
    return _svg(figure, "Recall by history length")


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]], metric: str) -> str:
    """Validation by training step: by label, pairs of step and value."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set(xlabel="step", ylabel=f"{metric} on validation")
    if curves:
        axes.legend(fontsize="small")
    return _svg(figure, "Validation by training step")


def differences_from_nothing(found: Sequence[tuple[str, float, float, float]]) -> str:
    """Intervals around differences, beside the line of none.

    Args:
        found: name, difference, lower and upper end.
    """
    names, middle, low, high = zip(*reversed(found), strict=True)
    below = [value - end for value, end in zip(middle, low, strict=True)]
    above = [end - value for value, end in zip(middle, high, strict=True)]
    figure = Figure(figsize=(SIZE[0], 0.8 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#999", linewidth=1)
    axes.errorbar(middle, range(len(names)), xerr=(below, above), fmt="o", capsize=3)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="candidate minus champion", ylim=(-0.5, len(names) - 0.5))
    return _svg(figure, "Differences with their intervals")


def time_series(name: str, points: Sequence[Point], threshold: Threshold | None) -> str:
    """One metric over time, with the side of its threshold that is too far."""
    figure = Figure(figsize=SMALL_SIZE, layout="constrained")
    axes = figure.subplots()
    times = date2num([datetime.fromtimestamp(point.time, UTC) for point in points])
    axes.xaxis_date()
    axes.plot(times, [point.value for point in points], marker=".")
    if threshold is not None:
        axes.axhline(threshold.limit, linestyle="--", color="#a3180f", linewidth=1)
        low, high = axes.get_ylim()
        side = (threshold.limit, high) if threshold.above is not None else (low, threshold.limit)
        axes.axhspan(*side, color="#a3180f", alpha=0.08)
        axes.set_ylim(low, high)
    room = max(_FIVE_MINUTES, 0.03 * (times[-1] - times[0]))  # a single look needs some
    axes.set_xlim(times[0] - room, times[-1] + room)
    axes.xaxis.set_major_locator(AutoDateLocator(maxticks=5))
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    return _svg(figure, f"{name} over time")


def _svg(figure: Figure, title: str) -> str:
    file = io.StringIO()
    with rc_context({"svg.hashsalt": title}):  # or its ids are random
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
