"""Readouts of experiments as tables and lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from hymirec.display import out, show_wide

if TYPE_CHECKING:
    from features.logs.standing import StoredExperiment

_COLUMNS = ("", "metric", "variant", "control", "treatment", "lift", "interval", "p", "note")


def show_readout(stored: StoredExperiment, found: dict[str, Any]) -> None:
    """What is known of an experiment, as tables."""
    out.print(
        f"[bold]{stored.name}[/] is {stored.state.replace('_', ' ')}; read out "
        f"{minute(found['time'])} UTC at {found['share']:.4g} of its traffic", soft_wrap=True,
    )  # fmt: skip
    for what, one in (("assigned", found["assigned"]), ("shown lists", found["exposed"])):
        counts = ", ".join(f"{name} {count}" for name, count in one["counts"].items())
        verdict = "[red]mismatch[/]" if one["found"] else "as they should be"
        out.print(f"users {what}: {counts} ({verdict}, p {one['p_value']:.2g})", soft_wrap=True)
    rows = [("primary", one) for one in found["primary"]]
    rows += [("secondary", one) for one in found["secondary"]]
    rows += [(one["segment"], one["estimate"]) for one in found["segments"]]
    if rows:
        table = Table()
        for column in _COLUMNS:
            table.add_column(column)
        for kind, one in rows:
            table.add_row(
                kind, one["metric"], one["variant"], f"{one['control']:.4g}",
                f"{one['treatment']:.4g}", _percent(one["lift"]), _between(one["lift_interval"]),
                f"{one['corrected']:.2g}",
                escape(one["note"] or (f"CUPED −{one['foretold']:.0%}" if one["foretold"] else "")),
            )  # fmt: skip
        show_wide(table)
    for one in found["items"]:
        out.print(
            f"{one['metric']}: {one['variant']} {one['treatment']:.4g}, control "
            f"{one['control']:.4g} (difference {one['interval'][0]:+.4g} to "
            f"{one['interval'][1]:+.4g}, one look)", soft_wrap=True,
        )  # fmt: skip
    for one in found["guardrails"]:
        colour = {"held": "green", "broken": "red", "open": "yellow"}[one["state"]]
        out.print(
            f"guardrail {one['metric']}: [{colour}]{one['state']}[/], {one['variant']} "
            f"{_number(one['treatment'])}, control {_number(one['control'])}, margin "
            f"{one['margin']}", soft_wrap=True,
        )  # fmt: skip
    if shadow := found["shadow"]:
        out.print(
            f"shadow: {shadow['answers']} answers, {shadow['errors']} errors, overlap "
            f"{_share(shadow['overlap'])}, milliseconds (median, 95 %) "
            f"{_both(shadow['latency_ms'])} beside the champion's "
            f"{_both(shadow['champion_latency_ms'])}",
            soft_wrap=True,
        )  # fmt: skip
    if preferred := found["preference"]:
        low, high = preferred["interval"]
        out.print(
            f"preference {preferred['preference']:+.3f} ({low:+.3f} to {high:+.3f}) of "
            f"{preferred['num_users']} users who clicked", soft_wrap=True,
        )  # fmt: skip
    for warning in found["warnings"]:
        out.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1%}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"


def _both(values: tuple[float, float] | None) -> str:
    return "unknown" if values is None else f"{values[0]:.1f}, {values[1]:.1f}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def _between(interval: list[float | None]) -> str:
    low, high = interval
    return "–" if low is None or high is None else f"{low:+.1%} to {high:+.1%}"


def minute(moment: float | None) -> str:
    """A time as text, to the minute; empty for none."""
    return "" if moment is None else f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"
