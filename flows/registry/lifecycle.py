"""Where experiments meet the registry: which versions variants are, and who becomes champion.

Without Prefect, so that the console's process need not load it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from features.logs.audit_log import PROMOTION
from features.logs.experiments import ExperimentStore, StoredExperiment
from flows.registry.aliases import Aliases
from flows.runtime.settings import CHAMPION
from hymirec.abtest.definition import Experiment
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.query import Query

log = logging.getLogger(__name__)


def resolve_versions(home: Home, experiment: Experiment) -> dict[str, int]:
    """Registered version of each variant, as aliases stand now.

    Raises:
        UsageError: one is not registered, cannot answer for its codebook is not in the feature
            store, or does not know one of its settings.
    """
    aliases = Aliases(home)
    found = {}
    for variant in experiment.variants:
        version = aliases.find(str(variant.model))
        aliases.refuse_without_features(str(version.version))
        unknown = [name for name in variant.settings if name not in Query.model_fields]
        if unknown:
            known = ", ".join(Query.model_fields)
            raise UsageError(
                f"variant {variant.name}: there is no setting {unknown[0]!r}; there are {known}"
            )
        found[variant.name] = int(version.version)
    alike = {(found[one.name], str(sorted(one.settings.items()))) for one in experiment.variants}
    if experiment.mode != "ab" and len(alike) < 2:
        raise UsageError(f"{experiment.mode} of version {found[experiment.control.name]} with "
                         "itself shows nothing")  # fmt: skip
    return found


def start(
    home: Home, name: str, *, reason: str = "", actor: str = "",
    clock: Callable[[], float] = time.time,
) -> StoredExperiment:  # fmt: skip
    """Start a draft with the versions that its variants name now.

    Raises:
        UsageError: as `resolve_versions` and `ExperimentStore.start`.
    """
    store = ExperimentStore(home, clock=clock)
    versions = resolve_versions(home, store.get(name).experiment)
    return store.start(name, versions, reason=reason, actor=actor)


def conclude(
    home: Home, name: str, winner: str, *, reason: str, actor: str = "",
    evidence: dict[str, Any] | None = None, promote: bool = True,
    clock: Callable[[], float] = time.time,
) -> StoredExperiment:  # fmt: skip
    """End an experiment, and let `champion` name the winner's version if that is another.

    Raises:
        UsageError: it has ended, has no such variant, or the winner cannot answer; nothing is
            changed then.
    """
    store = ExperimentStore(home, clock=clock)
    stored = store.get(name)
    variant = stored.experiment.variant(winner)
    version = str(stored.versions.get(winner, ""))
    aliases = Aliases(home) if promote and version else None
    if aliases is not None:
        aliases.refuse_without_features(version)
        if variant.settings:
            log.info("the winner's settings are not a version's: send %s with requests",
                     variant.settings)  # fmt: skip
    ended = store.end(
        name, "concluded", reason=reason, winner=winner, actor=actor, evidence=evidence
    )
    if aliases is not None and aliases.get(CHAMPION) != version:
        aliases.move(
            CHAMPION, version, PROMOTION, reason=f"experiment {name}: {reason}",
            evidence=(evidence or {}) | {"experiment": name, "variant": winner}, actor=actor,
        )  # fmt: skip
    return ended
