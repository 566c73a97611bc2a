"""Which registered version answers: the first that beats popularity, then who passes the gate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from features.logs.audit_log import FORCED, NOMINATION, PROMOTION, Entry
from flows.registry.aliases import GATE_TAG, PREVIOUS, REPORT_TAG, Aliases
from flows.runtime.locks import FOREVER, GATE, alone_in
from flows.runtime.settings import CHALLENGER, CHAMPION, CODEBOOK_TAG, MODEL_NAME
from flows.tracking.record import LOCK_TAG, close_killed, metric_name, tracked_run
from hymirec.errors import UsageError
from hymirec.home import Home

if TYPE_CHECKING:
    from flows.gate.checks import Verdict
    from flows.gate.report import GateReport, StartTrial

log = logging.getLogger(__name__)

GATE_METRIC = "R@10"
JUDGE_WAITS = 300.0
"""Seconds that a verdict alone waits for another gate."""

Placed = Literal["champion", "challenger", "refused"]
"""What has become of a new version: it answers, it waits to be promoted, or neither."""


def place_new(
    home: Home, version: ModelVersion, metrics: Mapping[str, float], popularity: Mapping[str, float]
) -> Placed:
    """Judge a new version by the floor: the first that passes is champion, later ones wait.

    Which of two versions is to answer is `promote_version`'s to decide, by a comparison.

    Args:
        home: whose registry it is in.
        version: as `judge`, like those that follow.
        metrics: its own.
        popularity: the floor.
    """
    passed, reason = judge(version, metrics, popularity)
    with closing(Aliases(home)) as aliases:
        return _placed(aliases, version, passed=passed, reason=reason)


def _placed(aliases: Aliases, version: ModelVersion, *, passed: bool, reason: str) -> Placed:
    number = str(version.version)
    aliases.notice()
    champion = aliases.get(CHAMPION)
    if passed and champion == number:
        log.info("promote: version %s is %s already", number, CHAMPION)
        return "champion"
    evidence = {"verdict": "pass" if passed else "fail", "gate": "floor", "run": version.run_id}
    if not passed:
        aliases.refuse(CHAMPION, number, reason=reason, evidence=evidence)
        return "refused"
    if not champion:
        aliases.move(CHAMPION, number, PROMOTION, reason=reason, evidence=evidence, expected="")
        log.info("promote: version %s is %s", number, CHAMPION)
        return "champion"
    if aliases.get(CHALLENGER) != number:
        aliases.move(CHALLENGER, number, NOMINATION, reason=reason, evidence=evidence)
    log.info(
        "promote: version %s is %s; `hymirec promote %s` compares it with version %s",
        number, CHALLENGER, number, champion,
    )  # fmt: skip
    return "challenger"


def judge(
    version: ModelVersion, metrics: Mapping[str, float], popularity: Mapping[str, float]
) -> tuple[bool, str]:
    """Say whether a version beats popularity; no alias moves.

    Args:
        version: the candidate.
        metrics: its test metrics.
        popularity: those of the most popular items on the same cases.

    Returns:
        Whether it passed, and why, as the version's tag `gate` says too.
    """
    name = metric_name(GATE_METRIC)
    reached, floor = metrics[GATE_METRIC], popularity[GATE_METRIC]
    threshold = MetricThreshold(min_absolute_change=1e-9, greater_is_better=True)
    try:
        mlflow.validate_evaluation_results(
            candidate_result=EvaluationResult(metrics={name: reached}, artifacts={}),
            baseline_result=EvaluationResult(metrics={name: floor}, artifacts={}),
            validation_thresholds={name: threshold},
        )
    except ModelValidationFailedException:
        passed = False
    else:
        passed = True
    verdict = "beats" if passed else "does not beat"
    reason = f"{GATE_METRIC} {reached:.4f} {verdict} popularity's {floor:.4f}"
    client = mlflow.MlflowClient()
    client.set_model_version_tag(
        MODEL_NAME, version.version, GATE_TAG, f"{'passed' if passed else 'refused'}: {reason}"
    )
    if passed:
        log.info("gate: version %s passes: %s", version.version, reason)
    else:
        log.warning("gate: version %s is refused: %s", version.version, reason)
    return passed, reason


@dataclass(frozen=True)
class Promotion:
    """What came of asking for an alias.

    Attributes:
        report: of the gate.
        run_id: the MLflow run that keeps it.
        page: its address there.
        moved: whether the alias names the version now.
    """

    report: GateReport
    run_id: str
    page: str
    moved: bool

    @property
    def verdict(self) -> Verdict:
        """Of the gate."""
        return self.report.verdict

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return self.report.to_json() | {
            "run_id": self.run_id, "report": self.page, "moved": self.moved,
        }  # fmt: skip


def promote_version(
    home: Home, name: str, alias: str, start_trial: StartTrial, *, config: Path | None = None,
    dry_run: bool = False, judge_only: bool = False,
) -> Promotion:  # fmt: skip
    """Give an alias to a version if it passes the gate, and record what came of it either way.

    One at a time in a home: who comes second waits, and is compared with the champion of then.

    Args:
        home: whose registry it is in.
        name: the version, by number or alias.
        alias: the alias it is to have.
        start_trial: starts model servers of versions.
        config: limits other than the home's.
        dry_run: only look; nothing moves and the audit log stays as it is.
        judge_only: write the verdict down; nothing moves.

    Raises:
        UsageError: there is no such version, it has the alias already, the champion has changed
            meanwhile, the gate cannot judge, or another goes on for longer than `judge_only` waits.
        HymirecError: a version cannot be evaluated.
    """
    # Imported here since Feast takes seconds, which a pipeline need not wait for.
    from flows.gate.passage import pass_gate

    # Who asks for an experiment has others to look after.
    wait_seconds = JUDGE_WAITS if judge_only else FOREVER
    with closing(Aliases(home)) as aliases, alone_in(home, GATE, wait_seconds=wait_seconds):
        close_killed(home, GATE)
        version = _asked_for(aliases, name, alias)
        number = str(version.version)
        aliases.notice()
        named = aliases.all()
        champion = named.get(CHAMPION, "")
        beside = aliases.find(champion) if champion not in ("", number) else None
        tags = {"candidate": number, LOCK_TAG: GATE}
        with tracked_run(home, f"gate-{number}", tags) as run:
            report = pass_gate(aliases, version, beside, alias, start_trial, config)
            page = report.log(run)
            mlflow.set_tags({"verdict": report.verdict, "champion": report.champion})
        moved = report.verdict == "pass" and not dry_run and not judge_only
        if not dry_run:
            _settle(aliases, report, named.get(alias, ""), run, page, move=moved)
    log.info("gate: %s: %s", report.verdict, report.reason)
    return Promotion(report, run, page, moved)


def force(home: Home, name: str, alias: str, reason: str) -> Entry:
    """Give an alias to a version without asking the gate; named so in the audit log.

    Raises:
        UsageError: no reason is given, there is no such version, it has the alias already, or its
            features are not online.
    """
    if not reason.strip():
        raise UsageError("who forces a version says why: --reason")
    with closing(Aliases(home)) as aliases:
        version = _asked_for(aliases, name, alias)
        number = str(version.version)
        aliases.refuse_without_features(number)
        evidence = {
            "last_verdict": version.tags.get(GATE_TAG, "never judged"),
            "report": version.tags.get(REPORT_TAG, ""),
        }
        return aliases.move(alias, number, FORCED, reason=reason, evidence=evidence)


def _asked_for(aliases: Aliases, name: str, alias: str) -> ModelVersion:
    if alias == PREVIOUS:
        raise UsageError(
            f"{PREVIOUS} names what `hymirec rollback` goes back to; nobody is given it"
        )
    version = aliases.find(name)
    if aliases.get(alias) == str(version.version):
        raise UsageError(f"version {version.version} is {alias} already")
    if not version.tags.get(CODEBOOK_TAG):
        raise UsageError(
            f"version {version.version} has no tag {CODEBOOK_TAG!r}: it is not a pipeline's"
        )
    return version


def _settle(
    aliases: Aliases, report: GateReport, before: str, run: str, page: str, *, move: bool
) -> None:
    """Move the alias or say why not, and let the version tell of its verdict."""
    word = {"pass": "passed", "fail": "failed"}.get(report.verdict, report.verdict)
    for tag, value in ((GATE_TAG, f"{word}: {report.reason}"), (REPORT_TAG, page)):
        aliases.client.set_model_version_tag(MODEL_NAME, report.candidate, tag, value)
    evidence = {
        "verdict": report.verdict, "gate": "champion", "compared_with": report.champion,
        "run": run, "report": page, "data": report.data,
    }  # fmt: skip
    if report.verdict == "pass" and not move:
        aliases.note_verdict(
            report.alias, report.candidate, reason=f"{word}: {report.reason}", evidence=evidence
        )
    elif report.verdict == "pass":
        aliases.move(
            report.alias, report.candidate, PROMOTION, reason=report.reason, evidence=evidence,
            expected=before,
        )  # fmt: skip
        log.info("promote: version %s is %s", report.candidate, report.alias)
    else:
        aliases.refuse(
            report.alias, report.candidate, reason=f"{word}: {report.reason}", evidence=evidence
        )
