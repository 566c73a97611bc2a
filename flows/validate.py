"""Validation of a data set against the suites in `expectations/`, by Great Expectations.

A suite is a JSON file that a person can edit: a list of expectations by Great Expectations' own
names. In `meta`, `note` is the plain-English rule that error messages use, and `about` names the
column a message should speak of where the expectation is on a derived one. `$min_users` and
`$min_events` stand for the values of `hymirec.schema`.

Derived columns of the interactions, for suites to use:
    item_is_known             whether the items hold this item (also true where no item is named)
    seconds_since_previous    time since the same user's row before; null in a user's first
    seconds_since_1970        negative before
    seconds_after_validation  negative in the past
    events_of_user            rows of the same user
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hymirec.datasets import Dataset
from hymirec.errors import DataError, HymirecError, UsageError
from hymirec.schema import (
    INTERACTION_COLUMNS,
    ITEM_COLUMNS,
    ITEM_ID,
    MIN_EVENTS,
    MIN_USERS,
    SOURCE_ROW,
    TIMESTAMP,
    USER_ID,
)

SUITES = Path(__file__).parent / "expectations"
TABLES = ("interactions", "items")

_SHOWN_ROWS = 3
_SITE = "report"
_PARAMETERS = {"min_users": MIN_USERS, "min_events": MIN_EVENTS}


@dataclass(frozen=True)
class ValidationReport:
    """What validation found.

    Attributes:
        success: every expectation was checked and held.
        failures: one line for each expectation the data does not meet.
        errors: one line for each expectation that could not be checked: the suite's fault or the
            program's, not the data's.
        docs_index: the first page of the data report.
    """

    success: bool
    failures: list[str]
    errors: list[str]
    docs_index: Path

    def raise_for_failures(self) -> None:
        """Do nothing after success.

        Raises:
            DataError: the data is wrong; the message joins all failures and names the report.
            HymirecError: the data may be right, but not everything could be checked.
        """
        if self.success:
            return
        message = "; ".join([*self.failures, *self.errors]) + f" (report: {self.docs_index})"
        raise DataError(message) if self.failures else HymirecError(message)


def validate(
    dataset: Dataset, report_dir: Path, now: datetime, suites: Path = SUITES
) -> ValidationReport:
    """Check a data set, and leave a report that a browser can open.

    Args:
        dataset: the canonical tables.
        report_dir: where the Data Docs go; those of an earlier validation are replaced.
        now: the time of validation; a time without zone is UTC.
        suites: the folder of interactions.json and items.json.

    Raises:
        DataError: a canonical column is missing, so that nothing can be checked.
        UsageError: a suite cannot be read, or Great Expectations does not know what it asks for.
    """
    items = _with_columns("items", dataset.items, ITEM_COLUMNS)
    interactions = _with_columns("interactions", dataset.interactions, INTERACTION_COLUMNS)
    frames = {
        "interactions": _in_source_order(_derived(interactions, items, now)),
        "items": _in_source_order(items),
    }
    context = _context(report_dir)
    source = context.data_sources.add_pandas("dataset")
    failures: list[str] = []
    errors: list[str] = []
    for table in TABLES:
        result = _run(context, source, table, frames[table], suites / f"{table}.json")
        failures.extend(_failures(table, frames[table], result))
        errors.extend(_errors(table, result))
    context.build_data_docs()
    return ValidationReport(
        success=not failures and not errors,
        failures=failures,
        errors=errors,
        docs_index=report_dir.resolve() / "index.html",
    )


def _derived(frame: pd.DataFrame, catalogue: pd.DataFrame, now: datetime) -> pd.DataFrame:
    """Add the derived columns to the interactions, which are in the order of the table."""
    stamps = pd.to_datetime(frame[TIMESTAMP], utc=True, errors="coerce")
    moment = pd.Timestamp(now)
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    items = frame[ITEM_ID]
    users = frame[USER_ID]
    # Numbers for users: grouping a million strings twice is most of the time otherwise.
    numbers, distinct = pd.factorize(users)
    gaps: pd.Series = stamps.groupby(numbers).diff()
    present = numbers >= 0
    events = np.bincount(numbers[present], minlength=len(distinct) or 1)
    return frame.assign(
        item_is_known=(items.isin(catalogue[ITEM_ID]) | items.isna()).to_numpy(bool),
        seconds_since_previous=np.where(present, _seconds(gaps), np.nan),
        seconds_since_1970=_seconds(stamps - pd.Timestamp(0, tz="UTC")),
        seconds_after_validation=_seconds(stamps - moment),
        events_of_user=np.where(present, events[np.maximum(numbers, 0)], 0),
    )


def _seconds(durations: pd.Series) -> NDArray[np.float64]:
    """Seconds of each duration, NaN where it is missing."""
    return durations.to_numpy("timedelta64[ns]") / np.timedelta64(1, "s")


def _with_columns(table: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    missing = [column for column in (*columns, SOURCE_ROW) if column not in frame]
    if missing:
        raise DataError(
            f"{table}: no column {missing[0]!r}; columns found: {', '.join(map(str, frame))}"
        )
    return frame


def _in_source_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Order rows as the file had them, so that the first rows reported are its first."""
    if not frame[SOURCE_ROW].is_monotonic_increasing:
        frame = frame.take(np.argsort(frame[SOURCE_ROW].to_numpy(), kind="stable"))
    return frame.reset_index(drop=True)


def _context(report_dir: Path) -> Any:
    """A Great Expectations context that lives in memory and writes nothing but its site."""
    # Imported here since it takes seconds, which no other command should have to wait for.
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    for pages in ("expectations", "validations"):
        shutil.rmtree(report_dir / pages, ignore_errors=True)
    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(report_dir.resolve()),
        },
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={_SITE: site},
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    return gx.get_context(mode="ephemeral", project_config=config)


def _run(context: Any, source: Any, table: str, frame: pd.DataFrame, suite_path: Path) -> Any:
    import great_expectations as gx

    batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=_suite(suite_path)))
    definition = gx.ValidationDefinition(name=table, data=batch, suite=suite)
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        run_id=gx.RunIdentifier(run_name="validation"),
        expectation_parameters=dict(_PARAMETERS),
        result_format={"result_format": "SUMMARY", "partial_unexpected_count": 20},
    )


def _suite(path: Path) -> list[Any]:
    """Read a suite's expectations, each marked with its place in the file."""
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        entries = json.loads(path.read_text())["expectations"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path.name}: not a suite of expectations: {_one_line(error)}") from error
    expectations = []
    for position, entry in enumerate(entries):
        try:
            expectations.append(
                ExpectationConfiguration(
                    type=entry["type"],
                    kwargs=entry.get("kwargs", {}),
                    meta={**entry.get("meta", {}), "position": position},
                    notes=_note(entry.get("meta", {})),
                ).to_domain_obj()
            )
        # Great Expectations raises many kinds of errors over a wrong entry; all mean the same.
        except Exception as error:
            what = entry.get("type") if isinstance(entry, dict) else entry
            raise UsageError(
                f"{path.name}: expectation {position + 1} ({what}): {_one_line(error)}"
            ) from error
    return expectations


def _note(meta: dict[str, Any]) -> str:
    return Template(str(meta.get("note", ""))).safe_substitute(_PARAMETERS)


def _in_suite_order(result: Any) -> list[Any]:
    return sorted(result.results, key=lambda each: each.expectation_config.meta["position"])


def _failures(table: str, frame: pd.DataFrame, result: Any) -> Iterator[str]:
    """Say of every expectation that failed on the data which rule it is and which rows fail."""
    for each in _in_suite_order(result):
        if each.success or _exception(each):
            continue
        config = each.expectation_config
        note = _note(config.meta) or config.type
        about = config.meta.get("about") or config.kwargs.get("column")
        place = f"{table}: {about}" if about else table
        count = each.result.get("unexpected_count")
        if count is None:
            yield f"{place}: {note} (found {each.result.get('observed_value')})"
            continue
        rows = frame.loc[each.result["partial_unexpected_index_list"]]
        shown = ", ".join(map(str, rows[SOURCE_ROW].head(_SHOWN_ROWS)))
        shown += ", …" if count > _SHOWN_ROWS else ""
        values = rows[about].dropna().unique()[:_SHOWN_ROWS] if about in rows else []
        named = f"; {about} " + ", ".join(map(_shown, values)) if len(values) else ""
        yield (
            f"{place}: {count} row{'s' * (count != 1)} {note} "
            f"(row{'s' * (count != 1)} {shown}{named})"
        )


def _errors(table: str, result: Any) -> Iterator[str]:
    for each in _in_suite_order(result):
        message = _exception(each)
        if message:
            config = each.expectation_config
            column = f" on {config.kwargs['column']}" if "column" in config.kwargs else ""
            yield f"{table}: {config.type}{column} could not be checked: {message}"


def _exception(result: Any) -> str:
    """The message of what went wrong inside an expectation, or '' if nothing did."""
    info = result.exception_info or {}
    # One entry per metric, or a single one for the whole expectation.
    entries = [info] if "raised_exception" in info else list(info.values())
    for entry in entries:
        if entry.get("raised_exception"):
            return _one_line(entry.get("exception_message") or "no reason given")
    return ""


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if text else type(error).__name__
