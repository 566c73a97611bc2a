"""One passage through the gate: both versions measured, every number judged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities.model_registry import ModelVersion

from features.online import FeatureReader
from flows.gate import checks
from flows.gate.checks import Check
from flows.gate.config import GateConfig, read_config
from flows.gate.evaluation import Evaluated, Questions, evaluate_versions, list_metrics
from flows.gate.report import GateReport, StartTrial, Tried, served_numbers, side
from flows.registry.aliases import Aliases
from flows.runtime.settings import CODEBOOK_TAG
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.schema import ITEM_ID
from hymirec.shipped import SCHEMA_DIGEST

log = logging.getLogger(__name__)

SAMPLE = 500
"""Users and items whose features are looked for online."""


def pass_gate(
    aliases: Aliases, candidate: ModelVersion, champion: ModelVersion | None, alias: str,
    start_trial: StartTrial, config_path: Path | None = None,
) -> GateReport:  # fmt: skip
    """Measure a version, beside the champion where there is one, and judge it; no alias moves.

    Args:
        aliases: of the home.
        candidate: the version.
        champion: the one that answers at present.
        alias: that the candidate is to have.
        start_trial: starts model servers of versions.
        config_path: limits other than the home's.

    Raises:
        UsageError: the data is gone, or the limits cannot be read.
        HymirecError: a version cannot be evaluated.
    """
    home = aliases.home
    config, config_file = read_config(home, config_path)
    versions = [candidate, *([champion] if champion else [])]
    names = " and ".join(f"version {one.version}" for one in versions)
    log.info("gate: %s by the limits of %s; starting model servers", names, config_file)
    with start_trial([int(one.version) for one in versions]) as trial:
        questions = Questions.of(home, candidate.tags.get("data_digest", ""), config.max_users)
        evaluated = evaluate_versions(home, aliases.client, versions, questions)
        lists = list_metrics(questions, evaluated)
        log.info("gate: %d requests to each model server", config.requests)
        tried = trial.measure(questions.users, config.requests)
    numbers = [
        _numbers(one, measured, served)
        for one, measured, served in zip(evaluated, lists, tried, strict=True)
    ]
    numbers[0]["features"] = _features(home, candidate, evaluated[0], questions)
    return GateReport(
        str(candidate.version), str(champion.version) if champion else "", alias,
        f"{questions.dataset.name}, digest {questions.digest}, {len(questions.users)} users",
        _judge(evaluated, questions, numbers, config),
        {
            f"version {one.version}": side(one.ranks, questions.lengths) for one in evaluated
        } | {"popularity": side(questions.popularity_ranks, questions.lengths)},
        _notes(versions, evaluated, tried),
        config.model_dump(mode="json", exclude_none=True),
    )  # fmt: skip


def _judge(
    evaluated: list[Evaluated], questions: Questions, numbers: list[dict[str, dict[str, float]]],
    config: GateConfig,
) -> list[Check]:  # fmt: skip
    own, *others = evaluated
    floor = checks.beats_popularity(
        own.ranks, questions.popularity_ranks, config.beats_popularity, config.level
    )
    found = [floor]
    for other in others:
        found += checks.comparisons(own.ranks, other.ranks, config)
        found += checks.slices(own.ranks, other.ranks, questions.lengths, questions.cold, config)
    return found + checks.limits(numbers[0], numbers[1] if others else None, config)


def _numbers(
    evaluated: Evaluated, lists: dict[str, float], tried: Tried
) -> dict[str, dict[str, float]]:
    utilisation = [v for name, v in evaluated.codebook.items() if name.startswith("utilisation_")]
    return {
        "lists": lists,
        "codebook": evaluated.codebook | {"utilisation": min(utilisation)},
        "interests": {"overlap": evaluated.overlap},
        "server": served_numbers(tried),
    }


def _features(
    home: Home, version: ModelVersion, evaluated: Evaluated, questions: Questions
) -> dict[str, float]:
    """Shares of users and items whose rows are online under the version's codebook."""
    users, items = _some(questions.users), _some(evaluated.items[ITEM_ID].tolist())
    try:
        reader = FeatureReader(home, version.tags[CODEBOOK_TAG])
        return {
            "users_online": len(reader.read_users(users)) / len(users),
            "items_online": len(reader.read_item_codes(items)) / len(items),
            "schema_as_registered": float(
                version.tags.get(SCHEMA_DIGEST, reader.schema_digest) == reader.schema_digest
            ),
        }
    except HymirecError as error:
        log.warning("gate: features cannot be read: %s", error)
        return {"users_online": 0.0, "items_online": 0.0}


def _notes(versions: list[ModelVersion], evaluated: list[Evaluated], tried: Any) -> list[str]:
    notes = []
    digests = [one.tags.get("data_digest", "") for one in versions]
    if len(set(digests)) > 1:
        notes.append(
            f"Version {versions[1].version} was trained on other data ({digests[1]}): what it may "
            "have seen of these users' last events, or never saw, is in its numbers."
        )
    for one in evaluated:
        if one.published_since:
            notes.append(
                f"Version {one.version} was given {one.published_since} items published since it "
                "was registered, as its server is."
            )
    for version, found in zip(versions, tried, strict=True):
        notes += [f"Server of version {version.version}: {problem}" for problem in found.problems]
    return notes


def _some(names: list[str]) -> list[str]:
    places = np.unique(np.linspace(0, len(names) - 1, min(len(names), SAMPLE)).astype(int))
    return [names[place] for place in places]
