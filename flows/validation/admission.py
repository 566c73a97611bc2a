"""What may be trained on: data sets that were validated, and which of them is the latest.

Rows that break a rule are dealt with by policy. `fail`: the data is refused. `drop`: they are left
out and kept aside, with the names of the rules, and what remains is validated again; data of which
more than the suite's share would go is refused. `keep`: they stay and are reported, unless the rule
is one that nothing later could do without. Rules about a table as a whole always refuse.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from flows.steps.data import DataRef, keep, read_ref, write_ref
from flows.steps.results import StepResult, find_step, forget, run_step, source_digest
from flows.validation.suites import find_suite, read_suite, suites_of
from flows.validation.validate import ValidationReport, rows_to_drop, validate
from hymirec.datasets import Dataset
from hymirec.errors import DataError, UsageError
from hymirec.home import Home
from hymirec.schema import SOURCE_ROW

log = logging.getLogger(__name__)

VALIDATE = "validate"
LATEST, VERDICT, QUARANTINE = "latest.json", "verdict.json", "quarantine"
TABLES = ("interactions", "items")
BROKEN_RULES = "broken_rules"
"""Column of rows kept aside: the names of the rules, with commas between."""

BadRows = Literal["fail", "drop", "keep"]
_MOST_ROUNDS = 3
"""Of dropping: an item that goes makes interactions unknown, and no more follows from that."""


@dataclass(frozen=True)
class Verdict:
    """What a validation came to that let the data through.

    Attributes:
        page: of the report, on the interactions, below the reports of the home.
        warnings: one line for each rule that the data does not meet and that is no reason to stop.
        dropped: rows left out, by table.
        run_id: the MLflow run that has the report.
    """

    page: str
    warnings: list[str]
    run_id: str
    dropped: dict[str, int] = field(default_factory=dict)


def admit(
    home: Home, data: DataRef, run_id: str, bad_rows: BadRows = "fail", *, as_latest: bool = True
) -> StepResult:
    """Validate a data set, unless that was done; what is refused is no step's result.

    Args:
        home: where reports go.
        data: what is to be validated.
        run_id: the MLflow run that keeps the report.
        bad_rows: what becomes of rows that break a rule, see above.
        as_latest: whether flows that name no data are to take it from now on.

    Raises:
        DataError: the data is wrong; the message names the report.
        HymirecError: not everything could be checked.
    """
    suites = suites_of(home)

    def work(output: Path, checkpoints: Path) -> None:
        report, admitted, dropped = _judged(home, data, bad_rows, suites)
        page = str(report.page("interactions").relative_to(home.reports.resolve()))
        for warning in report.warnings:
            log.warning("validate: %s", warning)
        verdict = Verdict(page, report.warnings, run_id, dropped)
        (output / VERDICT).write_text(json.dumps(asdict(verdict), indent=2))
        write_ref(admitted, output)

    inputs = _inputs(data, bad_rows, suites)
    done = find_step(home, VALIDATE, inputs)
    if done and not _is_whole(home, done):
        forget(done)
    done = run_step(home, VALIDATE, inputs, work)
    if as_latest:
        _note_latest(home, read_ref(home, done))
    return done


def _judged(
    home: Home, data: DataRef, bad_rows: BadRows, suites: Path
) -> tuple[ValidationReport, DataRef, dict[str, int]]:
    """The report on what is admitted, what that is, and the rows left out of it by table."""
    dataset, now = data.read(), datetime.now(UTC)
    previous = _previous(home, data)
    report_dir = report_of(home, data)
    aside = report_dir / QUARANTINE
    for path in aside.glob("*.parquet"):
        path.unlink()
    if bad_rows != "drop":
        report = validate(dataset, report_dir, now, suites, previous=previous)
        if bad_rows == "keep":
            report = replace(report, kept=_spared(report))
        report.raise_for_failures()
        return report, data, {}
    report = validate(dataset, report_dir, now, suites, previous=previous, all_rows=True)
    dropped: dict[str, list[pd.DataFrame]] = {table: [] for table in TABLES}
    rest = dataset
    for _ in range(_MOST_ROUNDS):
        if report.success:
            break
        before = rest
        rest = _without_bad_rows(rest, report, dropped)
        if rest is before:
            break
        _refuse_too_many(dataset, dropped, suites, report)
        scratch = report_dir / "after_dropping"
        report = validate(rest, scratch, now, suites, previous=previous, all_rows=True)
    for table, parts in dropped.items():
        if parts:
            aside.mkdir(parents=True, exist_ok=True)
            pd.concat(parts).to_parquet(aside / f"{table}.parquet", index=False)
    report.raise_for_failures()
    counts = {table: sum(map(len, parts)) for table, parts in dropped.items() if parts}
    for table, count in counts.items():
        log.warning("validate: %d rows of %s left out, see %s", count, table, aside)
    return report, keep(home, rest), counts


def _without_bad_rows(
    dataset: Dataset, report: ValidationReport, dropped: dict[str, list[pd.DataFrame]]
) -> Dataset:
    """Leave out the rows that break rules, and add them to `dropped`."""
    changed: dict[str, Any] = {}
    for table, parts in dropped.items():
        # Rules were checked on rows in the order of the file.
        frame = getattr(dataset, table).sort_values(SOURCE_ROW, kind="stable", ignore_index=True)
        rules = rows_to_drop(report, table)
        if len(rules):
            parts.append(frame.loc[rules.index].assign(**{BROKEN_RULES: rules}))
            kept = frame.drop(index=rules.index)[SOURCE_ROW]
            whole = getattr(dataset, table)
            changed[table] = whole[whole[SOURCE_ROW].isin(kept)].reset_index(drop=True)
    return replace(dataset, **changed) if changed else dataset


def _refuse_too_many(
    dataset: Dataset, dropped: dict[str, list[pd.DataFrame]], suites: Path, report: ValidationReport
) -> None:
    for table, parts in dropped.items():
        count, total = sum(map(len, parts)), len(getattr(dataset, table))
        limit = read_suite(find_suite(suites, table)).max_dropped_share
        if count > limit * total:
            raise DataError(
                f"{table}: {count} of {total} rows would have to be dropped, which is more than "
                f"{limit:.0%}: {'; '.join(report.failures)} (report: {report.docs_index})"
            )


def _spared(report: ValidationReport) -> frozenset[str]:
    """Rules about rows that nothing later needs to hold."""
    return frozenset(
        one.rule.name for one in report.findings if one.about_rows and not one.rule.needed
    )


def read_verdict(step: StepResult) -> Verdict:
    """What a validation came to."""
    return Verdict(**json.loads((step.directory / VERDICT).read_text()))


def report_of(home: Home, data: DataRef) -> Path:
    """Where the report on a data set lies."""
    return home.reports / data.digest


def admitted(home: Home, digest: str = "") -> DataRef:
    """Name a data set that was validated: by its digest or how that begins, or the latest.

    Raises:
        UsageError: there is none.
    """
    if not digest:
        digest = _latest(home).get("", "")
        if not digest:
            raise UsageError(
                f"no data has been validated in {home.root}: run `hymirec flow run validate "
                "--data DIR` first"
            )
    files = home.runs.glob(f"{VALIDATE}-*/data.json")
    # A result that was put aside has an ending to its name, and may be damaged.
    steps = [json.loads(one.read_text()) for one in files if not one.parent.suffix]
    notes = {one["digest"]: one["name"] for one in steps}
    found = [one for one in notes if one.startswith(digest)]
    if len(found) != 1 or not (home.data / found[0]).exists():
        known = ", ".join(sorted(notes)) or "none"
        raise UsageError(f"data {digest!r} is not one validated data set: there are {known}")
    return DataRef(notes[found[0]], home.data / found[0], found[0])


def _is_whole(home: Home, done: StepResult) -> bool:
    """Whether what a validation speaks of is still there."""
    page = home.reports / read_verdict(done).page
    return page.exists() and read_ref(home, done).directory.exists()


def _previous(home: Home, data: DataRef) -> Dataset | None:
    """What was last validated under the same name."""
    digest = _latest(home).get(data.name, "")
    directory = home.data / digest
    if digest in ("", data.digest) or not directory.exists():
        return None
    return DataRef(data.name, directory, digest).read()


def _latest(home: Home) -> dict[str, str]:
    """Digests of the data validated last: by name, and of any name under ''."""
    path = home.data / LATEST
    return json.loads(path.read_text()) if path.exists() else {}


def _note_latest(home: Home, ref: DataRef) -> None:
    path = home.data / LATEST
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(_latest(home) | {ref.name: ref.digest, "": ref.digest}))
    partial.replace(path)


def _inputs(data: DataRef, bad_rows: BadRows, suites: Path) -> dict[str, object]:
    code = [Path(__file__).with_name(f"{name}.py") for name in ("validate", "frames", "suites")]
    return {
        "data": data.digest,
        "bad_rows": bad_rows,
        "suites": [find_suite(suites, table).read_text(errors="replace") for table in TABLES],
        "code": source_digest(Path(__file__), *code),
    }
