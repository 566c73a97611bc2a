"""Lines over time as geometry, which `templates/chart.html` draws as inline SVG.

The server draws, so that a page needs no script and no host but this one; what a chart shows is
said in its title and stands in a table beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

WIDTH, HEIGHT = 640, 240
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28
MOST_POINTS = 240
"""Of a line; more would fall on the same pixels."""
HEADROOM = 1.6
"""How far beyond the latest interval a chart reaches: the first ones are as wide as the sky."""


@dataclass(frozen=True)
class Point:
    """A value at a time, with the interval it is known to; None where there is no end.

    Attributes:
        time: seconds since 1970 UTC.
        value: what is known best.
        low: end of the interval.
        high: the other.
    """

    time: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A line across at a value, or upright at a time, with a word to it."""

    at: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A number on an axis and where it stands, in the drawing's units."""

    place: float
    label: str


@dataclass(frozen=True)
class Dot:
    """A point that says its numbers when it is pointed at."""

    x: float
    y: float
    says: str


@dataclass(frozen=True)
class Chart:
    """What is to be drawn.

    Attributes:
        key: unlike any other chart's of the page.
        title: in a few words.
        says: what it shows, for those who do not see it.
        line: path of the values.
        band: path around the intervals; empty where there are none.
        dots: the points.
        down: ticks of the upright axis.
        along: ticks of the time axis.
        across: marks at values.
        upright: marks at times.
    """

    key: str
    title: str
    says: str
    line: str
    band: str
    dots: list[Dot]
    down: list[Tick]
    along: list[Tick]
    across: list[Tick]
    upright: list[Tick]


def draw(
    key: str, title: str, points: Sequence[Point], *, as_percent: bool = False,
    across: Sequence[Mark] = (), upright: Sequence[Mark] = (),
) -> Chart | None:  # fmt: skip
    """Lay out a line over time; None of no point.

    Args:
        key: unlike any other chart's of the page.
        title: of the chart.
        points: in the order of time.
        as_percent: whether values are shares.
        across: lines at values, such as 0 or a limit.
        upright: lines at times, such as a step of a ramp.
    """
    if not points:
        return None
    shown = _thinned(points)
    bottom, top = _reach(shown, across)
    start, end = shown[0].time, max(shown[-1].time, shown[0].time + 60)

    def x(time: float) -> float:
        return round(LEFT + (time - start) / (end - start) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float | None, otherwise: float) -> float:
        value = otherwise if value is None else min(max(value, bottom), top)
        return round(TOP + (top - value) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    def says(value: float | None) -> str:
        return _number(value, as_percent=as_percent)

    has_band = any(one.low is not None for one in shown)
    band = ""
    if has_band:
        above = [f"{x(one.time)},{y(one.high, top)}" for one in shown]
        below = [f"{x(one.time)},{y(one.low, bottom)}" for one in reversed(shown)]
        band = "M" + " L".join(above + below) + " Z"
    last = shown[-1]
    between = f", between {says(last.low)} and {says(last.high)}" if has_band else ""
    return Chart(
        key=key,
        title=title,
        says=f"{len(points)} readings from {_day(start)} to {_day(last.time)} UTC; "
        f"the last is {says(last.value)}{between}.",
        line="M" + " L".join(f"{x(one.time)},{y(one.value, bottom)}" for one in shown),
        band=band,
        dots=[
            Dot(
                x(one.time),
                y(one.value, bottom),
                f"{_day(one.time)} UTC: {says(one.value)}"
                + (f" ({says(one.low)} to {says(one.high)})" if has_band else ""),
            )
            for one in shown
        ],
        down=[Tick(y(value, 0), says(value)) for value in _steps(bottom, top)],
        along=[Tick(x(time), label) for time, label in _times(start, end)],
        across=[Tick(y(one.at, 0), one.label) for one in across if bottom <= one.at <= top],
        upright=[Tick(x(one.at), one.label) for one in upright if start <= one.at <= end],
    )


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Not more points than can be told apart, the last among them."""
    step = math.ceil(len(points) / MOST_POINTS)
    return [*points[-1::-step]][::-1]


def _reach(points: Sequence[Point], across: Sequence[Mark]) -> tuple[float, float]:
    latest = points[-1]
    is_sure = latest.low is None and latest.high is None
    values = [one.value for one in (points if is_sure else points[-max(1, 3 * len(points) // 4) :])]
    for end in (latest.low, latest.high):
        if end is not None:
            values.append(latest.value + HEADROOM * (end - latest.value))
    values += [one.at for one in across]
    bottom, top = min(values), max(values)
    room = 0.08 * (top - bottom) or abs(top) * 0.1 or 1.0
    if is_sure and bottom >= 0:  # counts and lengths of time
        return max(0.0, bottom - room), top + room
    return bottom - room, top + room


def _steps(bottom: float, top: float) -> list[float]:
    """Round numbers between two, about five."""
    rough = (top - bottom) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(bottom / step)
    return [round(number * step, 12) for number in range(first, math.floor(top / step) + 1)]


def _times(start: float, end: float) -> list[tuple[float, str]]:
    form = "%H:%M:%S" if end - start < 600 else "%H:%M" if end - start < 86_400 else "%d %b"
    found = [start + share * (end - start) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return [(time, datetime.fromtimestamp(time, UTC).strftime(form)) for time in found]


def _day(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M}"


def _number(value: float | None, *, as_percent: bool) -> str:
    if value is None:
        return "unknown"
    if not as_percent:
        return f"{value:.4g}"
    return f"{100 * value:+.3g} %" if abs(value) < 9.995 else f"{100 * value:+.0f} %"
