"""From a request for recommendations to its answer: route, ask, and fall back where that fails."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from features.logs.lag import LagLimit
from hymirec.abtest.interleaving import team_draft
from hymirec.query import Query
from hymirec.schema import QUERY, USER_ID
from serving.api import Ask
from serving.dispatch import RefusedError, UnavailableError
from serving.fallback import popular
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.rollout import Answered, Beside, Rollout, Route, Shadowed
from serving.versions import ServedVersion

log = logging.getLogger(__name__)

NO_SERVER, TOO_SLOW, REFUSED = "no model server", "model too slow", "model failed"
FALLBACKS = (NO_SERVER, TOO_SLOW, REFUSED)
NOT_ROUTED = "variant's version not ready"
MOST_SHADOWS = 32
"""Asked at once; more are left out, so that shadows never keep answers waiting."""


@dataclass(frozen=True)
class Request:
    """One request as it came in: its id and when, in seconds of `time.perf_counter`."""

    request_id: str
    started: float


class Answerer:
    """Answers requests with the versions of a fleet, as a rollout says."""

    def __init__(self, fleet: Fleet, rollout: Rollout, metrics: Metrics, lag: LagLimit) -> None:
        """Say whom to ask, and who knows whether rows lack events."""
        self.fleet = fleet
        self.rollout = rollout
        self.metrics = metrics
        self.lag = lag
        self._shadows: set[asyncio.Task[None]] = set()
        self._wrong: set[int] = set()

    async def answer(self, ask: Ask, request: Request) -> tuple[dict[str, Any], dict[str, float]]:
        """The answer as JSON values, and how long its stages took, in seconds.

        There always is an answer: without a model server that can give one in time it is the most
        popular items of the version that should have answered.
        """
        began = time.perf_counter()
        route, query = self._route(ask)
        routing = time.perf_counter() - began
        version = self.fleet.served(route.version)
        degraded = None
        if version is None:
            version, degraded = self.fleet.champion, NOT_ROUTED
        teams: list[int] = []
        asked = time.perf_counter()
        if route.beside is not None and route.beside.is_mixed:
            prediction, stages, teams = await self._mixed(
                version, route.beside, ask, query, request.request_id
            )
        else:
            prediction, stages = await self._predict(version, ask.user_id, query)
        model_seconds = time.perf_counter() - asked
        answer = {
            "request_id": request.request_id,
            **prediction,
            "user_id": ask.user_id,
            # That the variant was not there comes first: what befell the answer in its place is
            # no error of the variant's.
            "degraded": degraded or prediction["degraded"] or self.lag.degraded,
            "variant": route.variant or None,
        }
        noting = time.perf_counter()
        seconds = noting - request.started
        answered = Answered(
            request.request_id, ask.user_id, query, route, answer,
            seconds=seconds, teams=teams,
        )  # fmt: skip
        try:
            await self.rollout.on_answer(answered)
        except Exception:
            log.exception("request %s: its answer could not be noted", request.request_id)
        now = time.perf_counter()
        stages["experiments"] = routing + now - noting
        seconds = now - request.started
        stages = {
            "total": seconds,
            "gateway": max(0.0, seconds - sum(stages.values())),
            **stages,
        }
        self.metrics.saw(answer, stages)
        if route.beside is not None and not route.beside.is_mixed:
            self._ask_shadow(route.beside, ask, answered, model_seconds)
        return answer, stages

    async def _mixed(
        self, version: ServedVersion, beside: Beside, ask: Ask, query: Query, request_id: str
    ) -> tuple[dict[str, Any], dict[str, float], list[int]]:
        """The lists of two versions in one; the first's where the other gives none."""
        second, other_query = self.fleet.served(beside.version), self._beside(query, beside)
        if second is None or other_query is None:
            prediction, stages = await self._predict(version, ask.user_id, query)
            prediction["degraded"] = prediction["degraded"] or NOT_ROUTED
            return prediction, stages, []
        (prediction, stages), (other, _) = await asyncio.gather(
            self._predict(version, ask.user_id, query),
            self._predict(second, ask.user_id, other_query),
        )
        if prediction["degraded"] in FALLBACKS or other["degraded"] in FALLBACKS:
            prediction["degraded"] = prediction["degraded"] or other["degraded"]
            return prediction, stages, []
        by_id = {one["item_id"]: one for one in other["recommendations"]}
        by_id |= {one["item_id"]: one for one in prediction["recommendations"]}
        # The request's id is the coin: asked again, it falls the same way. It keeps no secret.
        drafted = team_draft(
            [one["item_id"] for one in prediction["recommendations"]],
            [one["item_id"] for one in other["recommendations"]],
            query.k, random.Random(f"{request_id}:{ask.user_id}"),  # noqa: S311
        )  # fmt: skip
        prediction["recommendations"] = [by_id[item] for item, _ in drafted]
        return prediction, stages, [team for _, team in drafted]

    def _ask_shadow(
        self, beside: Beside, ask: Ask, answered: Answered, shown_seconds: float
    ) -> None:
        """Ask a version that nobody is shown, after the answer."""
        if len(self._shadows) >= MOST_SHADOWS:
            return
        task = asyncio.create_task(self._shadow(beside, ask, answered, shown_seconds))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _shadow(
        self, beside: Beside, ask: Ask, answered: Answered, shown_seconds: float
    ) -> None:
        version, query = self.fleet.served(beside.version), self._beside(ask.query, beside)
        if version is None or query is None:
            return  # it is on its way up, or cannot be asked this
        started = time.perf_counter()
        prediction, _ = await self._predict(version, ask.user_id, query)
        failed = prediction["degraded"] if prediction["degraded"] in FALLBACKS else ""
        shadowed = Shadowed(
            answered, [] if failed else prediction["recommendations"], failed,
            time.perf_counter() - started, shown_seconds,
        )  # fmt: skip
        try:
            await self.rollout.on_shadow(shadowed)
        except Exception:
            log.exception("request %s: its shadow could not be noted", answered.request_id)

    def _beside(self, query: Query, beside: Beside) -> Query | None:
        """What the second version is asked: the request, with the variant's settings.

        None where they do not fit. They are looked at when an experiment starts, but a later
        release may take other ones; that is to cost nobody an answer.
        """
        if not beside.settings:
            return query
        try:
            return query.with_settings(**beside.settings)
        except ValidationError as error:
            if beside.version not in self._wrong:  # once, not for every request
                self._wrong.add(beside.version)
                log.error(
                    "version %d cannot be asked as its variant says: %s", beside.version, error
                )
            return None

    def _route(self, ask: Ask) -> tuple[Route, Query]:
        query = ask.query
        try:
            route = self.rollout.route(ask.user_id, query, ask.attributes)
            return route, query.with_settings(**route.settings) if route.settings else query
        except ValidationError as error:
            log.error("the settings of a route are wrong: %s", error)
        except Exception:
            log.exception("a request could not be routed")
        return Route(), query

    async def _predict(
        self, version: ServedVersion, user_id: str | None, query: Query
    ) -> tuple[dict[str, Any], dict[str, float]]:
        record = {USER_ID: user_id or "", QUERY: query.model_dump_json(exclude_defaults=True)}
        try:
            async with asyncio.timeout(self.fleet.settings.answer_seconds):
                prediction = await version.ask(record)
        except TimeoutError:
            degraded = TOO_SLOW
        except UnavailableError:
            degraded = NO_SERVER
        except RefusedError as error:
            log.error("version %d refuses a request: %s", version.info.version, error)
            degraded = REFUSED
        else:
            stages = prediction.pop("stage_seconds")
            call = prediction.pop("call_seconds")
            return prediction, {"mlflow": max(0.0, call - sum(stages.values())), **stages}
        fallback: dict[str, Any] = {
            "served_by": "popular",
            "feature_age_seconds": None,
            "degraded": degraded,
            "model_version": str(version.info.version),
            "run_id": version.info.run_id,
            "codebook_id": version.info.codebook_id,
            "recommendations": popular(version.popular, query),
        }
        return fallback, {}
