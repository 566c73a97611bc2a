"""The gate: which registered version answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import EvaluationResult, MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from flows.settings import CHAMPION, MODEL_NAME
from flows.tracking import metric_name

log = logging.getLogger(__name__)

GATE_METRIC = "R@10"
GATE_TAG = "gate"


def promote(
    version: ModelVersion, metrics: Mapping[str, float], popularity: Mapping[str, float]
) -> bool:
    """Move the alias `champion` to a version that passes the gate.

    Arguments and tags as `judge`.

    Returns:
        Whether the alias points at the version now.
    """
    passed = judge(version, metrics, popularity)
    if passed:
        client = mlflow.MlflowClient()
        client.set_registered_model_alias(MODEL_NAME, CHAMPION, version.version)
        log.info("promote: version %s is %s", version.version, CHAMPION)
    return passed


def judge(
    version: ModelVersion, metrics: Mapping[str, float], popularity: Mapping[str, float]
) -> bool:
    """Say whether a version beats popularity; no alias moves.

    Args:
        version: the candidate.
        metrics: its test metrics.
        popularity: those of the most popular items on the same cases.

    Returns:
        Whether it passed; the version's tag `gate` says why.
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
    return passed
