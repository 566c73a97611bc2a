"""Experiments in the gateway: who is shown what, and the exposure log.

Assignment is a function of the user alone (`hymirec.abtest.assignment`); which experiments run is
looked up once a second, so that a kill takes effect within one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.logs.experiments import ExperimentStore
from features.logs.exposure_journal import ExposureJournal
from features.logs.exposures import Exposure, ShadowAnswer
from features.logs.standing import StoredExperiment
from hymirec.abtest.assignment import Assignment, Split, assign
from hymirec.abtest.definition import Variant
from hymirec.abtest.shadow import overlap
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.query import Query
from serving.answering import FALLBACKS, NOT_ROUTED
from serving.rollout import Answered, Beside, Route, Shadowed

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class _Running:
    """A running experiment, ready to be asked."""

    stored: StoredExperiment
    split: Split

    @property
    def name(self) -> str:
        return self.stored.name


@dataclass(frozen=True)
class _Part:
    """What a route was made of."""

    running: _Running
    assignment: Assignment

    @property
    def variant(self) -> Variant:
        return self.running.stored.experiment.variant(self.assignment.variant)


class ExperimentRollout:
    """Routes requests by the experiments of a home and writes down what was shown.

    A context manager: experiments are followed and exposures written inside.
    """

    def __init__(self, home: Home, *, clock: Callable[[], float] = time.time) -> None:
        """Open the stores.

        Args:
            home: whose experiments these are.
            clock: tells what time it is; simulations have their own.

        Raises:
            HymirecError: the database cannot be used.
        """
        self._clock = clock
        self._store = ExperimentStore(home, clock=clock)
        self._journal = ExposureJournal(home)
        self._revision = -1
        self._running: tuple[_Running, ...] = ()
        self._by_name: dict[str, _Running] = {}
        self._splits: tuple[Split, ...] = ()
        self._begun: frozenset[str] = frozenset()
        self._is_ready: Callable[[int], bool] = lambda version: True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="experiments", daemon=True)

    def serve_from(self, is_ready: Callable[[int], bool]) -> None:
        """Say how to find out whether a version is ready.

        An experiment begins when all of its versions are: otherwise one variant would be shown
        while another still loads, which is a sample-ratio mismatch of our own making.
        """
        self._is_ready = is_ready

    def __enter__(self) -> ExperimentRollout:
        self.look()
        self._journal.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._journal.close()
        self._store.close()

    def look(self) -> None:
        """Take note of experiments that were started, changed or ended.

        Raises:
            HymirecError: the store cannot be read; what ran before goes on.
        """
        revision = self._store.revision()
        if revision != self._revision:
            running = tuple(
                _Running(one, one.experiment.split(one.share))
                for one in self._store.active()
                if one.state == "running"
            )
            self._by_name |= {one.name: one for one in running}
            self._running, self._revision = running, revision
            log.info("experiments: %s", ", ".join(
                f"{one.name} at {one.stored.share:.4g}" for one in running) or "none")  # fmt: skip
        # One that was paused begins anew: its versions were let go meanwhile.
        self._begun &= {one.name for one in self._running}
        self._begun |= {one.name for one in self._running if self._can_begin(one)}
        self._splits = tuple(one.split for one in self._running if one.name in self._begun)

    def flush(self) -> None:
        """Bring all exposures so far into the log now.

        Raises:
            HymirecError: the log cannot be written; nothing is lost.
        """
        self._journal.drain()

    def _can_begin(self, one: _Running) -> bool:
        return all(self._is_ready(version) for version in set(one.stored.versions.values()))

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.look()
            except Exception as error:  # whatever it is, a kill must still be noticed
                known = isinstance(error, HymirecError)
                log.warning("experiments cannot be looked up: %s", error, exc_info=not known)

    # What follows is called on the gateway's event loop.

    def versions(self) -> Collection[int]:
        """Versions of all variants of running experiments."""
        return {version for one in self._running for version in one.stored.versions.values()}

    def route(self, user_id: str | None, query: Query, attributes: Mapping[str, str]) -> Route:
        """The route of the user's variant; of a visitor, or outside of experiments, the champion's.

        Of several experiments, in layers of their own, one decides which version answers and the
        others what it is asked with.
        """
        if user_id is None or not self._splits:
            return Route()
        assigned = assign(self._splits, user_id, attributes)
        if not assigned:
            return Route()
        return _route([_Part(self._by_name[one.experiment], one) for one in assigned])

    async def on_answer(self, answered: Answered) -> None:
        """Write down what is about to be shown to a user."""
        if answered.user_id is None:
            return
        now = self._clock()
        for part in answered.route.context or (None,):
            self._journal.append(_exposure(answered, answered.user_id, part, now))

    async def on_shadow(self, shadowed: Shadowed) -> None:
        """Write down how a list compares that nobody is shown."""
        part: _Part = shadowed.answered.route.context[0]
        shown = _ids(shadowed.answered.answer["recommendations"])
        found = _ids(shadowed.recommendations)
        self._journal.append(
            ShadowAnswer(
                request_id=shadowed.answered.request_id,
                time=self._clock(),
                experiment=part.running.name,
                overlap=overlap(shown, found),
                same_first=bool(shown and found and shown[0] == found[0]),
                latency_ms=1000 * shadowed.seconds,
                champion_latency_ms=1000 * shadowed.shown_seconds,
                error=shadowed.error,
            )
        )


def _route(parts: list[_Part]) -> Route:
    """The route of all that a user takes part in; the part that chooses the version comes first."""
    parts.sort(key=lambda part: not part.running.stored.chooses_versions)
    settings: dict[str, Any] = {}
    called = []
    for part in parts:
        mode = part.running.stored.experiment.mode
        if mode == "ab":
            settings |= part.variant.settings
            called.append(f"{part.running.name}/{part.variant.name}")
        elif mode == "interleaving":  # both variants are shown; of a shadow neither is
            called.append(part.running.name)
    stored, named = parts[0].running.stored, ", ".join(called)
    if stored.experiment.mode == "ab":
        return Route(stored.versions[parts[0].variant.name], settings, named, context=parts)
    control, treatment = stored.experiment.variants
    beside = Beside(
        stored.versions[treatment.name],
        settings | treatment.settings,
        is_mixed=stored.experiment.mode == "interleaving",
    )
    return Route(stored.versions[control.name], settings | control.settings, named, beside, parts)


def _exposure(answered: Answered, user_id: str, part: _Part | None, now: float) -> Exposure:
    answer = answered.answer
    degraded = answer["degraded"] or ""
    is_fallback = degraded in FALLBACKS or degraded == NOT_ROUTED
    version = answer["model_version"]
    if answered.teams and answered.route.beside is not None:
        version = f"{version}+{answered.route.beside.version}"
    items = answer["recommendations"]
    return Exposure(
        request_id=answered.request_id,
        time=now,
        experiment=part.running.name if part else "",
        user_id=user_id,
        variant=part.variant.name if part else "",
        mode=part.running.stored.experiment.mode if part else "",
        model_version=version,
        codebook_id=answer["codebook_id"],
        feature_age_seconds=answer["feature_age_seconds"],
        served_by=answer["served_by"],
        degraded=degraded,
        # A version on its way up is no error of that version.
        error=degraded if degraded in FALLBACKS else "",
        is_fallback=is_fallback,
        is_override=part.assignment.is_override if part else False,
        propensity=part.assignment.propensity if part else 1.0,
        latency_ms=1000 * answered.seconds,
        items=_ids(items),
        interests=[one["interest"] for one in items],
        teams=list(answered.teams),
    )


def _ids(recommendations: Sequence[Mapping[str, Any]]) -> list[str]:
    return [one["item_id"] for one in recommendations]
