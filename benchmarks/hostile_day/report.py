"""What is printed of the day: a line for each injury and each promise, and one JSON object."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from benchmarks.hostile_day.day import Injury, Outcome
from benchmarks.hostile_day.journal import Journal, Request
from benchmarks.hostile_day.proof import Found, Window, explanation

GREEN, RED = "green", "RED  "


def planned(plan: Sequence[tuple[float, Injury]], seconds: float, seed: int) -> str:
    """The schedule, as it is printed before anything happens."""
    lines = [f"schedule of seed {seed}, {seconds / 60:g} minutes:"]
    lines += [f"  {_clock(when)}  {one.name:28} {one.says}" for when, one in plan]
    return "\n".join(lines)


def report(
    outcomes: Sequence[Outcome], journal: Journal, found: dict[str, Found], began: float,
    notes: Sequence[str],
) -> str:  # fmt: skip
    """The whole day in lines."""
    windows = [one.window for one in outcomes]
    suffered = {id(window): Counter[str]() for window in windows}
    for one in journal.requests:
        if (one.failed or one.degraded) and (window := explanation(one, windows)):
            suffered[id(window)][one.problem or one.degraded] += 1
    lines = [*notes, "", "      at     well after  limit  what"]
    for outcome, window in zip(outcomes, windows, strict=True):
        lines.append(_line(outcome, suffered[id(window)], began))
    lines += ["", *(_promise(one) for one in found.values())]
    red = _red_lines(outcomes, found)
    lines += ["", f"red: {red} lines" if red else "all green"]
    return "\n".join(lines)


def result(
    outcomes: Sequence[Outcome],
    journal: Journal,
    found: dict[str, Found],
    seconds: float,
    seed: int,
) -> dict[str, Any]:
    """The same as JSON values."""
    requests = journal.requests
    return {
        "minutes": round(seconds / 60, 1),
        "seed": seed,
        "requests": len(requests),
        "failed": sum(one.failed for one in requests),
        "degraded": sum(bool(one.degraded) for one in requests),
        "events_acknowledged": len(journal.acknowledged()),
        "lost": found["lost"].wrong + found["rows_lost"].wrong,
        "doubled": found["doubled"].wrong + found["rows_doubled"].wrong,
        "moved_users": found["moved_users"].wrong,
        "wrong_version": found["wrong_version"].wrong,
        "failed_because": _because(requests, [one.window for one in outcomes]),
        "recoveries": {
            one.injury.name: None if one.seconds is None else round(one.seconds, 1)
            for one in outcomes
        },
        "promises": {
            name: {"wrong": one.wrong, "of": one.looked_at} for name, one in found.items()
        },
        "green": is_green(outcomes, found),
    }


def is_green(outcomes: Sequence[Outcome], found: dict[str, Found]) -> bool:
    """Whether no line is red."""
    return not _red_lines(outcomes, found)


def _red_lines(outcomes: Sequence[Outcome], found: dict[str, Found]) -> int:
    return [*(one.green for one in outcomes), *(one.green for one in found.values())].count(False)


def _because(requests: Sequence[Request], windows: Sequence[Window]) -> dict[str, int]:
    """Failed requests by what was broken then."""
    found: Counter[str] = Counter()
    for one in requests:
        if one.failed:
            window = explanation(one, windows)
            found[window.name if window else "nothing"] += 1
    return dict(found)


def _line(outcome: Outcome, suffered: Counter[str], began: float) -> str:
    seconds = "never" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
    cost = ", ".join(f"{count} {what}" for what, count in suffered.most_common())
    return (
        f"{GREEN if outcome.green else RED} {_clock(outcome.begun - began)}  {seconds:>9}  "
        f"{outcome.limit:>4.0f} s  {outcome.injury.name}: {outcome.broke or outcome.saw}"
        f"{f' [{cost}]' if cost else ''}"
    )


def _promise(found: Found) -> str:
    said = f"{GREEN if found.green else RED} {found.promise}: {found.looked_at:,} looked at"
    if not found.wrong:
        return said
    return f"{said}, {found.wrong} not so: {'; '.join(found.examples)}"


def _clock(seconds: float) -> str:
    return time.strftime("%M:%S", time.gmtime(max(0.0, seconds)))
