"""Where experiments meet the registry: which versions variants are, and who becomes champion.

Without Prefect, so that the console's process need not load it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from mlflow.exceptions import MlflowException

from features.logs.audit_log import FORCED, PROMOTION
from features.logs.experiments import ExperimentStore
from features.logs.readouts import ReadoutMaker
from features.logs.standing import HOLDS_TRAFFIC, StoredExperiment
from flows.gate.aside import ask_gate
from flows.registry.aliases import Aliases
from flows.runtime.settings import CHAMPION
from hymirec.abtest.decisions import doubts
from hymirec.abtest.definition import Experiment
from hymirec.declared import validate
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home
from hymirec.query import Query

log = logging.getLogger(__name__)


def resolve_versions(home: Home, experiment: Experiment) -> dict[str, int]:
    """Registered version of each variant, as aliases stand now.

    Raises:
        UsageError: one is not registered, cannot answer for its codebook is not in the feature
            store, or one of its settings is none that can be asked for.
    """
    found = {}
    with closing(Aliases(home)) as aliases:
        for variant in experiment.variants:
            version = aliases.find(str(variant.model))
            aliases.refuse_without_features(str(version.version))
            unknown = [name for name in variant.settings if name not in Query.model_fields]
            if unknown:
                known = ", ".join(Query.model_fields)
                raise UsageError(
                    f"variant {variant.name}: there is no setting {unknown[0]!r}; there are {known}"
                )
            validate(Query, variant.settings, f"settings of variant {variant.name}")
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
    with closing(ExperimentStore(home, clock=clock)) as store:
        versions = resolve_versions(home, store.get(name).experiment)
        return store.start(name, versions, reason=reason, actor=actor)


class GateError(UsageError):
    """A winner may not become champion; nothing was changed."""


Judge = Callable[[Home, str, str], Mapping[str, Any]]
"""Asks the gate about a version, writes its verdict down, and returns it."""


def conclude(
    home: Home, name: str, winner: str, *, reason: str, actor: str = "",
    evidence: dict[str, Any] | None = None, promote: bool = True, force: bool = False,
    clock: Callable[[], float] = time.time, judge: Judge = ask_gate,
) -> StoredExperiment:  # fmt: skip
    """End an experiment, and let `champion` name the winner's version if that is another.

    That takes what any promotion takes: a verdict of the gate that the version passes beside the
    present champion. One on record counts; where there is none the gate is asked, which takes a
    minute or so.

    Args:
        home: whose.
        name: of the experiment.
        winner: variant that has won.
        reason: in a line.
        actor: who does it, by default who runs this.
        evidence: the numbers behind it. Where there are none, as of a person who decides, the
            numbers are looked at: what they have against the winner is logged, and is on record.
        promote: whether the winner's version is to become champion.
        force: without the gate; named so in the history.
        clock: tells what time it is; simulations have their own.
        judge: asks the gate.

    Raises:
        UsageError: it has ended, has no such variant, the winner cannot answer, or the champion has
            changed meanwhile.
        GateError: the winner has not passed the gate, or the gate could not judge.
        HymirecError: it has ended, but the registry does not take the champion.
    """
    with closing(ExperimentStore(home, clock=clock)) as store, closing(Aliases(home)) as aliases:
        stored = store.get(name)
        variant = stored.experiment.variant(winner)
        if stored.state not in HOLDS_TRAFFIC:
            state = stored.state.replace("_", " ")
            raise UsageError(
                f"{name} is {state}: only one that is running or paused can be concluded"
            )
        if evidence is None:
            evidence = {"doubts": _doubts(home, stored, winner, store.clock())}
        version = str(stored.versions[winner])
        champion = aliases.get(CHAMPION)
        moves = promote and champion != version
        passed: dict[str, Any] = {}
        if moves:
            aliases.refuse_without_features(version)
            passed = {} if force else _passage(aliases, version, champion, judge)
            if variant.settings:
                log.info("the winner's settings are not a version's: send %s with requests",
                         variant.settings)  # fmt: skip
            aliases.refuse_another_champion(champion)  # the gate takes a minute
        ended = store.end(
            name, "concluded", reason=reason, winner=winner, actor=actor, evidence=evidence
        )
        if moves:
            try:
                aliases.move(
                    CHAMPION, version, FORCED if force else PROMOTION,
                    reason=f"experiment {name}: {reason}", expected=champion, actor=actor,
                    evidence=evidence | passed | {"experiment": name, "variant": winner},
                )  # fmt: skip
            except (HymirecError, MlflowException) as error:
                said = str(error).partition("\n")[0]
                raise HymirecError(
                    f"{name} is concluded, but version {version} could not be made {CHAMPION}: "
                    f"{said}: `hymirec promote {version}` is still to be done"
                ) from error
        return ended


def _doubts(home: Home, stored: StoredExperiment, winner: str, now: float) -> list[str]:
    """What the numbers have against a winner that a person names; it is logged."""
    try:
        with closing(ReadoutMaker(home)) as maker:
            found = doubts(stored.experiment, maker.read(stored, now), winner)
    except Exception as error:  # whatever it is, a person has decided
        found = [f"the numbers cannot be read: {error}"]
    for one in found:
        log.warning("%s: the numbers do not support %s: %s", stored.name, winner, one)
    return found


def _passage(aliases: Aliases, version: str, champion: str, judge: Judge) -> dict[str, Any]:
    """The verdict by which a version may take the champion's place."""
    entry = aliases.verdict_on(version, champion)
    if entry is None:
        log.info(
            "gate: version %s has not been compared with version %s yet; doing so now, in a minute "
            "or two", version, champion,
        )  # fmt: skip
        try:
            judge(aliases.home, version, "--judge")
        except HymirecError as error:
            raise GateError(str(error)) from error
        entry = aliases.verdict_on(version, champion)
    if entry is None:
        raise GateError(f"the gate has no verdict on version {version} beside version {champion}")
    if entry.evidence["verdict"] != "pass":
        raise GateError(
            f"version {version} has not passed the gate beside version {champion}: {entry.reason}"
        )
    log.info("gate: version %s beside version %s %s", version, champion, entry.reason)
    names = ("verdict", "gate", "compared_with", "run", "report", "data")
    return {name: entry.evidence[name] for name in names if name in entry.evidence}
