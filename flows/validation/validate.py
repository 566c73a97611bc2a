"""Validation of tables against the suites in `expectations/`, by Great Expectations.

`flows.validation.suites` says what a suite may hold, `flows.validation.frames` which columns there
are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader
from numpy.typing import NDArray

from flows.validation.frames import dataset_frames
from flows.validation.suites import (
    PARAMETERS,
    SUITES,
    WARNING,
    Rule,
    find_suite,
    one_line,
    read_suite,
)
from hymirec.datasets import Dataset
from hymirec.errors import DataError, HymirecError
from hymirec.schema import SOURCE_ROW, USER_ID

_SHOWN_ROWS, _LONGEST_VALUE = 3, 80
_SITE = "report"
_STYLE = Path(__file__).parents[1] / "templates" / "data_docs.css"


@dataclass(frozen=True)
class Finding:
    """A rule that a table does not meet.

    Attributes:
        table: which.
        rule: the suite's words on it.
        message: one line that says which rows, or what was found instead.
        about_rows: whether the rule is about rows, rather than the table as a whole.
        rows: int64, places of the rows that break the rule, where all were asked for.
    """

    table: str
    rule: Rule
    message: str
    about_rows: bool = False
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)


@dataclass(frozen=True)
class ValidationReport:
    """What validation found.

    Attributes:
        findings: the rules that are not met, in the order of tables and suites.
        errors: one line for each expectation that could not be checked: the suite's fault or the
            program's, not the data's.
        docs_index: the first page of the data report.
        kept: names of rules whose rows are kept, so that they are no failure.
    """

    findings: list[Finding]
    errors: list[str]
    docs_index: Path
    kept: frozenset[str] = frozenset()

    @property
    def success(self) -> bool:
        """Whether every expectation was checked, and every critical one held."""
        return not self.failures and not self.errors

    @property
    def failures(self) -> list[str]:
        """One line for each critical rule that the data does not meet."""
        return [one.message for one in self.findings if self.is_failure(one)]

    @property
    def warnings(self) -> list[str]:
        """One line for each other rule that the data does not meet."""
        return [one.message for one in self.findings if not self.is_failure(one)]

    def is_failure(self, finding: Finding) -> bool:
        """Whether a finding stops what follows."""
        return finding.rule.severity != WARNING and finding.rule.name not in self.kept

    def page(self, table: str) -> Path:
        """The report's page on a table, with every rule and what was observed."""
        return next(self.docs_index.parent.glob(f"validations/{table}/**/*.html"))

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
    dataset: Dataset,
    report_dir: Path,
    now: datetime,
    suites: Path = SUITES,
    *,
    previous: Dataset | None = None,
    all_rows: bool = False,
) -> ValidationReport:
    """Check a data set, and leave a report that a browser can open.

    Args:
        dataset: the canonical tables.
        report_dir: where the Data Docs go; those of an earlier validation are replaced.
        now: the time of validation; a time without zone is UTC.
        suites: a folder of suites; of tables for which it has none, ours hold.
        previous: data of the same name that was validated before, if any.
        all_rows: let findings name all rows, rather than the first of them in a message.

    Raises:
        DataError: a canonical column is missing, so that nothing can be checked.
        UsageError: a suite cannot be read, or Great Expectations does not know what it asks for.
    """
    frames = dataset_frames(dataset, now, previous)
    return check(frames, report_dir, suites, all_rows=all_rows)


def check(
    frames: Mapping[str, pd.DataFrame],
    report_dir: Path,
    suites: Path = SUITES,
    *,
    all_rows: bool = False,
) -> ValidationReport:
    """Check tables against the suites of their names; arguments and errors as `validate`."""
    context = _context(report_dir)
    source = context.data_sources.add_pandas("dataset")
    findings: list[Finding] = []
    errors: list[str] = []
    found: dict[str, list[tuple[str, str]]] = {}
    for table, frame in frames.items():
        result = _run(context, source, table, frame, find_suite(suites, table), all_rows=all_rows)
        its = list(_findings(table, frame, result))
        wrong = list(_errors(table, result))
        found[table] = [
            *(("error", line) for line in wrong),
            *(("warning" if one.rule.severity == WARNING else "failure", one.message)
              for one in its),
        ]  # fmt: skip
        findings.extend(its)
        errors.extend(wrong)
    context.build_data_docs()
    _style(report_dir)
    _write_index(report_dir, found)
    return ValidationReport(findings, errors, report_dir.resolve() / "index.html")


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


def _style(report_dir: Path) -> None:
    """Let the pages be read where the internet is not, from which they take their styles."""
    style = f"<style>\n{_STYLE.read_text()}</style>\n</head>"
    for page in report_dir.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", style, 1), encoding="utf-8")


def _write_index(report_dir: Path, found: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write the first page, in place of one that shows nothing without a script from the internet.

    Args:
        report_dir: of the report.
        found: by table, kinds and messages of what is not as it should be.
    """
    tables = [
        {
            "name": table, "suite": f"expectations/{table}.html",
            "page": next(report_dir.glob(f"validations/{table}/**/*.html"))
            .relative_to(report_dir).as_posix(),
            "found": [{"kind": kind, "message": message} for kind, message in its],
        }
        for table, its in found.items()
    ]  # fmt: skip
    environment = Environment(loader=PackageLoader("flows"), autoescape=True)
    page = environment.get_template("data_report.html")
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    (report_dir / "index.html").write_text(page.render(when=when, tables=tables), encoding="utf-8")


def _run(
    context: Any, source: Any, table: str, frame: pd.DataFrame, suite: Path, *, all_rows: bool
) -> Any:
    import great_expectations as gx

    batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    expectations = read_suite(suite).expectations
    definition = gx.ValidationDefinition(
        name=table,
        data=batch,
        suite=context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations)),
    )
    detail = "COMPLETE" if all_rows else "SUMMARY"
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        run_id=gx.RunIdentifier(run_name="validation"),
        expectation_parameters=dict(PARAMETERS),
        result_format={"result_format": detail, "partial_unexpected_count": 20},
    )


def _in_suite_order(result: Any) -> list[Any]:
    return sorted(result.results, key=lambda each: each.expectation_config.meta["position"])


def _findings(table: str, frame: pd.DataFrame, result: Any) -> Iterator[Finding]:
    for each in _in_suite_order(result):
        if each.success or _exception(each):
            continue
        rule = Rule.of(each.expectation_config)
        name = f" [{rule.name}]" if rule.name else ""
        place = f"{table}: {rule.about}" if rule.about else table
        places = each.result.get("partial_unexpected_index_list")
        if places is None:
            message = f"{place}: {rule.note} ({_instead(each.result)}){name}"
            yield Finding(table, rule, message)
            continue
        count, first = each.result["unexpected_count"], frame.loc[places]
        message = (
            f"{place}: {_rows(frame, count)} {rule.note} ({_places(first, rule, count)}){name}"
        )
        every = each.result.get("unexpected_index_list") or []
        yield Finding(table, rule, message, True, np.array(every, dtype=np.int64))


def _instead(result: Mapping[str, Any]) -> str:
    """What was found of a table as a whole."""
    if missing := result.get("partial_missing_list"):
        return f"missing {', '.join(map(_shown, missing))}"
    found = result.get("observed_value")
    return f"found {found:.4g}" if isinstance(found, float) else f"found {found}"


def _rows(frame: pd.DataFrame, count: int) -> str:
    what = "row" if SOURCE_ROW in frame else "user"
    return f"{count} {what}{'s' * (count != 1)}"


def _places(first: pd.DataFrame, rule: Rule, count: int) -> str:
    """Say where the rule is broken first: rows of a file or users, and the values there."""
    what, column = ("row", SOURCE_ROW) if SOURCE_ROW in first else ("user", USER_ID)
    shown = ", ".join(map(str, first[column].head(_SHOWN_ROWS)))
    shown += ", …" if count > _SHOWN_ROWS else ""
    values: Any = first[rule.about].dropna().unique() if rule.about in first else []
    named = f"; {rule.about} " + ", ".join(map(_shown, values[:_SHOWN_ROWS])) if len(values) else ""
    return f"{what}{'s' * (count != 1)} {shown}{named}"


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
            return one_line(entry.get("exception_message") or "no reason given")
    return ""


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def rows_to_drop(report: ValidationReport, table: str) -> pd.Series:
    """Which rows of a table break critical rules about rows: names of these by place of the row.

    The report is one with all rows.
    """
    rules: dict[int, list[str]] = {}
    for finding in report.findings:
        if finding.table == table and report.is_failure(finding):
            for row in finding.rows.tolist():
                rules.setdefault(row, []).append(finding.rule.name)
    names = {row: ", ".join(rules[row]) for row in sorted(rules)}
    return pd.Series(names, dtype=object)
