"""docs/performance.md, of what is kept of each benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from figures import BENCHMARKS, Figure, Result

MISSING = "–"
HEAD = (
    "# Performance\n\n"
    "<!-- Written by benchmarks/run.py from benchmarks/results/: change it there. -->\n\n"
    "`make bench` runs all of this again (`make bench BENCH=--quick` in small, "
    "`python benchmarks/run.py NAME` one of them). A goal is what was asked for before it was "
    "built; whether it is met is worked out from the numbers of its row. What is marked quick has "
    "small sizes and few repeats, and shows that it works rather than how well. Load is the number "
    "of processes that wanted a core before and after: above the number of cores, times are upper "
    "bounds.\n\n"
    "What was measured by hand, with other data and at other times, is in the "
    "[results](results.md) and the [experiment log](experiments.md).\n"
)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page."""
    text = HEAD
    for benchmark in BENCHMARKS:
        text += f"\n## {benchmark.name}\n\n"
        kept = results.get(benchmark.name)
        if kept is None:
            text += f"Not measured yet: `python benchmarks/run.py {benchmark.name}`.\n"
            continue
        machine, load = kept["machine"], kept["load"]
        failed = f" (ended with {kept['status']})" if kept.get("status") else ""
        text += (
            f"`{kept['command']}`{' (quick)' if kept['quick'] else ''}{failed}, "
            f"{kept['date'][:10]}, "
            f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']:g} GiB, "
            f"load {load['before']:g} and {load['after']:g}, {kept['seconds']:,.0f} s\n\n"
            "| what | | beside it | goal |\n| --- | --- | --- | --- |\n"
        )
        for figure in benchmark.figures:
            value = _shown(figure.value, kept["result"])
            text += f"| {figure.what} | {value} | {_shown(figure.peer, kept['result'])} | "
            text += f"{_goal(figure, kept['result'])} |\n"
    return text


def _goal(figure: Figure, result: Result) -> str:
    """The goal, and whether this result reaches it where it has the figure."""
    if figure.met is None or _shown(figure.value, result) == MISSING:
        return figure.goal
    try:
        return f"{figure.goal}: {'met' if figure.met(result) else '**missed**'}"
    except (KeyError, ValueError, TypeError, IndexError):  # nothing stands beside it
        return figure.goal


def _shown(value: str | Callable[[Result], str], result: Result) -> str:
    """A figure as text; – where this result does not have it, as a quick one may not."""
    if isinstance(value, str):
        return value
    try:
        return value(result)
    except (KeyError, ValueError, TypeError, IndexError):
        return MISSING
