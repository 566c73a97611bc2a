"""From a request for recommendations to its answer: route, ask, and fall back where that fails."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from features.lag import LagLimit
from hymirec.query import Query
from hymirec.schema import QUERY, USER_ID
from serving.api import Ask
from serving.dispatch import RefusedError, UnavailableError
from serving.fallback import popular
from serving.fleet import Fleet
from serving.metrics import Metrics
from serving.rollout import Answered, Rollout, Route
from serving.versions import ServedVersion

log = logging.getLogger(__name__)

NO_SERVER, TOO_SLOW, REFUSED = "no model server", "model too slow", "model failed"
NOT_ROUTED = "variant's version not ready"


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

    async def answer(self, ask: Ask, request: Request) -> tuple[dict[str, Any], dict[str, float]]:
        """The answer as JSON values, and how long its stages took, in seconds.

        There always is an answer: without a model server that can give one in time it is the most
        popular items of the version that should have answered.
        """
        route, query = self._route(ask.user_id, ask.query)
        version = self.fleet.served(route.version)
        degraded = None
        if version is None:
            version, degraded = self.fleet.champion, NOT_ROUTED
        prediction, stages = await self._predict(version, ask.user_id, query)
        answer = {
            "request_id": request.request_id,
            **prediction,
            "user_id": ask.user_id,
            "degraded": prediction["degraded"] or degraded or self.lag.degraded,
            "variant": route.variant or None,
        }
        seconds = time.perf_counter() - request.started
        stages = {
            "total": seconds,
            "gateway": max(0.0, seconds - sum(stages.values())),
            **stages,
        }
        self.metrics.saw(answer, stages)
        answered = Answered(
            request.request_id, ask.user_id, query, route, answer,
            as_routed=answer["degraded"] is None, seconds=seconds,
        )  # fmt: skip
        try:
            await self.rollout.on_answer(answered)
        except Exception:
            log.exception("request %s: its answer could not be noted", request.request_id)
        return answer, stages

    def _route(self, user_id: str | None, query: Query) -> tuple[Route, Query]:
        try:
            route = self.rollout.route(user_id, query)
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
