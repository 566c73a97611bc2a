"""What is known of registered versions: what they are of, what they came to, what they need."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from features.online import list_codebooks
from flows.aliases import GATE_TAG, Aliases
from flows.settings import CODEBOOK_TAG

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
        "gate_report": tags.get("gate_report", ""),
        "metrics": test_metrics(aliases, version),
    }
