"""The gate: which registered version answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from features.audit_log import NOMINATION, PROMOTION
from flows.aliases import GATE_TAG, Aliases
from flows.settings import CHALLENGER, CHAMPION, MODEL_NAME
from flows.tracking import metric_name
from hymirec.home import Home

log = logging.getLogger(__name__)

GATE_METRIC = "R@10"


Standing = Literal["champion", "challenger", "refused"]
"""What has become of a new version: it answers, it waits to be promoted, or neither."""


def place_new(
    home: Home, version: ModelVersion, metrics: Mapping[str, float], popularity: Mapping[str, float]
) -> Standing:
    """Judge a new version by the floor: the first that passes is champion, later ones wait.

    Which of two versions is to answer is `promote_version`'s to decide, by a comparison.

    Args:
        home: whose registry it is in.
        version: as `judge`, like those that follow.
        metrics: its own.
        popularity: the floor.
    """
    passed, reason = judge(version, metrics, popularity)
    aliases, number = Aliases(home), str(version.version)
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
