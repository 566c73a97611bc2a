"""What may be trained on: data sets that were validated, and which of them is the latest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from flows.data import DataRef, read_ref, write_ref
from flows.steps import StepResult, find_step, forget, run_step, source_digest
from flows.validate import SUITES, validate
from hymirec.errors import UsageError
from hymirec.home import Home

VALIDATE = "validate"
LATEST = "latest.json"
VERDICT = "verdict.json"

BadRows = Literal["fail", "drop", "keep"]


@dataclass(frozen=True)
class Verdict:
    """What a validation came to that let the data through.

    Attributes:
        page: of the report, on the interactions, below the reports of the home.
        warnings: one line for each rule that the data does not meet and that is no reason to stop.
        run_id: the MLflow run that has the report.
    """

    page: str
    warnings: list[str]
    run_id: str


def admit(
    home: Home, data: DataRef, run_id: str, bad_rows: BadRows = "fail", suites: Path = SUITES
) -> StepResult:
    """Validate a data set, unless that was done; what is refused is no step's result.

    Args:
        home: where reports go.
        data: what is to be validated.
        run_id: the MLflow run that keeps the report.
        bad_rows: what becomes of rows that do not meet the suites.
        suites: the folder of suites.

    Raises:
        DataError: the data is wrong; the message names the report.
        HymirecError: not everything could be checked.
    """
    inputs = _inputs(data, bad_rows, suites)

    def work(output: Path, checkpoints: Path) -> None:
        report = validate(data.read(), report_of(home, data), datetime.now(UTC), suites)
        report.raise_for_failures()
        page = next(report.docs_index.parent.glob("validations/interactions/**/*.html"))
        verdict = Verdict(str(page.relative_to(home.reports)), [], run_id)
        (output / VERDICT).write_text(json.dumps(asdict(verdict), indent=2))
        write_ref(data, output)

    done = find_step(home, VALIDATE, inputs)
    if done and not (home.reports / read_verdict(done).page).exists():
        forget(done)
    done = run_step(home, VALIDATE, inputs, work)
    _note_latest(home, read_ref(home, done))
    return done


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
    path = home.data / LATEST
    if not digest:
        if not path.exists():
            raise UsageError(
                f"no data has been validated in {home.root}: run `hymirec flow run validate "
                "--data DIR` first"
            )
        digest = json.loads(path.read_text())["digest"]
    steps = home.runs.glob(f"{VALIDATE}-*/data.json")
    notes = [json.loads(one.read_text()) for one in steps if one.parent.suffix != ".partial"]
    found = {one["digest"]: one["name"] for one in notes if one["digest"].startswith(digest)}
    if len(found) != 1:
        known = ", ".join(sorted({one["digest"] for one in notes})) or "none"
        raise UsageError(f"data {digest!r} is not one validated data set: there are {known}")
    ((whole, name),) = found.items()
    return DataRef(name, home.data / whole, whole)


def _note_latest(home: Home, ref: DataRef) -> None:
    path = home.data / LATEST
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"name": ref.name, "digest": ref.digest}))
    partial.replace(path)


def _inputs(data: DataRef, bad_rows: BadRows, suites: Path) -> dict[str, object]:
    return {
        "data": data.digest,
        "bad_rows": bad_rows,
        "suites": {path.name: path.read_text() for path in sorted(suites.glob("*.json"))},
        "code": source_digest(Path(__file__), Path(__file__).with_name("validate.py")),
    }
