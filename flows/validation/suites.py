"""Suites of expectations: JSON files that a person can edit.

A suite lists expectations by Great Expectations' own names. `severity` is Great Expectations' too:
`critical`, which is the default, stops what follows; `warning` is reported. In `meta`,

    name    of the rule: what messages and the documentation call it
    note    the rule in plain English; messages use it
    about   the column a message should speak of, where the expectation is on a derived one
    needed  true where nothing later could take such rows: they cannot be kept

`max_dropped_share`, beside the expectations, is how much of a table may be left out where bad rows
are dropped. `$min_users` and the like in a note, and `{"$PARAMETER": …}`, stand for `PARAMETERS`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.schema import MIN_EVENTS, MIN_USERS

SUITES = Path(__file__).parents[1] / "expectations"
PARAMETERS = {"min_users": MIN_USERS, "min_events": MIN_EVENTS}
CRITICAL, WARNING = "critical", "warning"


@dataclass(frozen=True)
class Rule:
    """What a suite says of an expectation beside the expectation itself; see the module."""

    name: str
    note: str
    about: str
    needed: bool
    severity: str

    @classmethod
    def of(cls, configuration: Any) -> Rule:
        """Of an expectation's configuration as Great Expectations gives it back."""
        from great_expectations.expectations.metadata_types import FailureSeverity

        meta = configuration.meta
        return cls(
            name=meta.get("name", ""),
            note=_filled(meta.get("note", "")) or configuration.type,
            about=meta.get("about") or configuration.kwargs.get("column") or "",
            needed=bool(meta.get("needed", False)),
            severity=FailureSeverity(configuration.severity).value,
        )


@dataclass(frozen=True)
class Suite:
    """A suite as Great Expectations takes it, each expectation marked with its place."""

    expectations: list[Any]
    max_dropped_share: float


def suites_of(home: Home) -> Path:
    """The folder in which a home has suites of its own; where it lacks one, ours holds."""
    return home.root / SUITES.name


def find_suite(folder: Path, table: str) -> Path:
    """The file of a table's suite: in a folder, or else ours."""
    own = folder / f"{table}.json"
    return own if own.exists() else SUITES / own.name


def read_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        UsageError: it is none, or Great Expectations does not know what it asks for.
    """
    try:
        content = json.loads(path.read_text())
        entries = list(content["expectations"])
        share = float(content.get("max_dropped_share", 0))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path.name}: not a suite of expectations: {one_line(error)}") from error
    return Suite([_expectation(path, at, entry) for at, entry in enumerate(entries)], share)


def _expectation(path: Path, position: int, entry: Any) -> Any:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration
    from great_expectations.expectations.metadata_types import FailureSeverity

    try:
        meta = entry.get("meta", {})
        note = _filled(meta.get("note", ""))
        return ExpectationConfiguration(
            type=entry["type"],
            kwargs=entry.get("kwargs", {}),
            meta={**meta, "position": position},
            notes=note,
            description=_shown(entry["type"], note, meta.get("name", "")),
            severity=FailureSeverity(entry.get("severity", CRITICAL)),
        ).to_domain_obj()
    # Great Expectations raises many kinds of errors over a wrong entry; all mean the same.
    except Exception as error:
        what = entry.get("type") if isinstance(entry, dict) else entry
        raise UsageError(
            f"{path.name}: expectation {position + 1} ({what}): {one_line(error)}"
        ) from error


def _shown(kind: str, note: str, name: str) -> str | None:
    """A rule as reports show it whether it is met or not; notes speak of where it is broken."""
    if not note:
        return None
    about_rows = kind.startswith("expect_column_value") and not kind.endswith("_of_type")
    broken = about_rows or "must" not in note
    prefix = ("no row " if about_rows else "not so: ") if broken else ""
    return f"{prefix}{note} [{name}]"


def _filled(note: object) -> str:
    return Template(str(note)).safe_substitute(PARAMETERS)


def one_line(error: object) -> str:
    """An error's message without its line ends."""
    text = " ".join(str(error).split())
    return text if text else type(error).__name__
