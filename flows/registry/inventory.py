"""What is known of registered versions: what they are of, what they came to, what they need."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from features.online import list_codebooks
from flows.registry.aliases import GATE_TAG, REPORT_TAG, Aliases
from flows.runtime.settings import CODEBOOK_TAG
from hymirec.errors import UsageError
from hymirec.evaluation.table import HEADLINE

TEST = "test/"
"""Prefix of a run's test metrics."""


def describe_all(aliases: Aliases) -> list[dict[str, Any]]:
    """Describe every version, the oldest first; see `describe`."""
    by_version = _by_version(aliases)
    online = list_codebooks(aliases.home)
    return [_describe(aliases, one, by_version, online) for one in aliases.versions()]


def describe(aliases: Aliases, version: ModelVersion) -> dict[str, Any]:
    """Describe a version as JSON values.

    Returns:
        `version`, `aliases`, `registered`, `recipe`, `data_digest`, `codebook_id`,
        `feature_service`, `features_online`, `run_id`, `gate` (the last verdict), `gate_report`
        and `metrics`, those of its test.
    """
    return _describe(aliases, version, _by_version(aliases), list_codebooks(aliases.home))


def test_metrics(aliases: Aliases, version: ModelVersion) -> dict[str, float]:
    """Test metrics of a version's run under their own names; none where it is gone."""
    try:
        found = aliases.client.get_run(str(version.run_id)).data.metrics
    except MlflowException:
        return {}
    return {
        name.removeprefix(TEST).replace("_at_", "@"): value
        for name, value in found.items()
        if name.startswith(TEST)
    }


def differences(
    aliases: Aliases, first: ModelVersion, second: ModelVersion
) -> dict[str, list[dict[str, Any]]]:
    """What two versions differ in.

    Returns:
        `belongs`, tags, and `settings`, parameters of their runs: `name`, `first`, `second`.
        `metrics`, those of the test that both have: `name`, `first`, `second`, and where both
        answered the same users one by one, `difference`, `low` and `high` of its 95 % interval.
    """
    tags = [{**one.tags, "run": one.run_id or ""} for one in (first, second)]
    parameters = [_parameters(aliases, one) for one in (first, second)]
    measured = [test_metrics(aliases, one) for one in (first, second)]
    intervals = _intervals(aliases, first, second)
    rows = [
        {"name": name, "first": measured[0][name], "second": measured[1][name]}
        | intervals.get(name, {})
        for name in HEADLINE
        if all(name in one for one in measured)
    ]
    unlike = [name for name in tags[0] | tags[1] if name not in (GATE_TAG, REPORT_TAG)]
    return {
        "belongs": _differing(tags[0], tags[1], unlike),
        "settings": _differing(parameters[0], parameters[1], sorted(parameters[0] | parameters[1])),
        "metrics": rows,
    }


def _intervals(
    aliases: Aliases, first: ModelVersion, second: ModelVersion
) -> dict[str, dict[str, float]]:
    """By metric; nothing where a run has no answers user by user, or of other users."""
    # Imported here since drawing takes its time to import, which who only lists need not wait for.
    from flows import compare

    try:
        runs = compare.read_runs(aliases.home, [str(first.run_id), str(second.run_id)])
    except UsageError:
        return {}
    (rows,) = compare.differences(runs).values()
    return {
        one.metric: {
            "difference": one.found.difference, "low": one.found.low, "high": one.found.high,
        }
        for one in rows
    }  # fmt: skip


def _parameters(aliases: Aliases, version: ModelVersion) -> dict[str, str]:
    try:
        return dict(aliases.client.get_run(str(version.run_id)).data.params)
    except MlflowException:
        return {}


def _differing(
    first: Mapping[str, str], second: Mapping[str, str], names: Iterable[str]
) -> list[dict[str, Any]]:
    return [
        {"name": name, "first": first.get(name, ""), "second": second.get(name, "")}
        for name in names
        if first.get(name) != second.get(name)
    ]


def _by_version(aliases: Aliases) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alias, version in sorted(aliases.all().items()):
        found.setdefault(version, []).append(alias)
    return found


def _describe(
    aliases: Aliases, version: ModelVersion, by_version: dict[str, list[str]], online: list[str]
) -> dict[str, Any]:
    tags = version.tags
    registered = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return {
        "version": str(version.version),
        "aliases": by_version.get(str(version.version), []),
        "registered": registered.isoformat(timespec="seconds"),
        "recipe": tags.get("recipe", ""),
        "data_digest": tags.get("data_digest", ""),
        "codebook_id": tags.get(CODEBOOK_TAG, ""),
        "feature_service": tags.get("feature_service", ""),
        "features_online": tags.get(CODEBOOK_TAG, "") in online,
        "run_id": str(version.run_id or ""),
        "gate": tags.get(GATE_TAG, "never judged"),
        "gate_report": tags.get(REPORT_TAG, ""),
        "metrics": test_metrics(aliases, version),
    }
