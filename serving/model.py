"""The MLflow model: a user id in, recommendations out, features read online in between.

This file is the model's code (`mlflow.pyfunc` logs it by path, nothing is pickled). It runs in the
model server's process, which finds its home in HYMIREC_HOME.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic_core import to_json

from features.limits import read_seconds
from features.logs.leases import Lease
from features.online import FeatureReader, UserRow
from hymirec.additions import publications, read
from hymirec.errors import DataError, HymirecError
from hymirec.home import DEFAULT_HOME, ENV_HOME, Home
from hymirec.package import RecommenderPackage
from hymirec.query import MAX_K, Query
from hymirec.schema import QUERY, USER_ID
from hymirec.shipped import SCHEMA_DIGEST, metadata, refuse_other_code

log = logging.getLogger(__name__)

ENV_MAX_AGE = "HYMIREC_MAX_FEATURE_AGE"
"""Seconds since a user's row was written, past which an answer is marked as degraded; a week."""
DEFAULT_MAX_AGE = 7 * 86_400.0
SECONDS_BETWEEN_LOOKS = 1.0
"""For items published since."""
SECONDS_BETWEEN_TRIES = 0.5
"""Of reading features, once that has failed: until then nobody waits for it to fail again."""
NUM_RECENT = 5
"""Latest items of the history that an answer names."""

STALE, NO_FEATURES, DAMAGED = "stale features", "features unavailable", "damaged features"


def _as_text(value: Any) -> str:
    """A user id: a whole number is as good as a text."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    raise MlflowException(
        f"{USER_ID} is {value!r}: a text or a whole number is needed", INVALID_PARAMETER_VALUE
    )


def _as_json(value: Any) -> Any:
    """A query's text: an object is as good, and so is what a table holds where there is none."""
    if value is None or value != value:  # NaN
        return None
    return to_json(value).decode() if isinstance(value, dict) else value


class Row(BaseModel):
    """One row of the input.

    MLflow takes the model's signature from here, and then hands rows on as they come: making a data
    frame of them and checking its columns would take a millisecond a call.
    """

    user_id: Annotated[str, BeforeValidator(_as_text)]
    query: Annotated[str | None, BeforeValidator(_as_json)] = None


class HyMiRecModel(PythonModel):
    """Answers requests for one registered version; `predict` may run in several threads.

    Items published since it was registered are taken in as it is loaded and while it runs: a
    thread makes a package that has them, which then takes the place of the one before. A request
    reads one package from its beginning to its end.

    While features cannot be read, answers go on without them and say so.
    """

    def load_context(self, context: Any) -> None:
        """Load the package and check that its codebook's features are online.

        Raises:
            VersionError: this process holds another version's modules, or the codebook's features
                are not published, or not with the fields that the version was registered for.
        """
        directory = Path(context.artifacts["package"])
        model = directory.parents[1]
        described = metadata(model)  # MLflow also calls this as it logs a model: there is none yet
        refuse_other_code(model)
        self.package = RecommenderPackage.load(directory)
        self.version, self.run_id = _registered_as(directory)
        home = Home.at(os.environ.get(ENV_HOME, DEFAULT_HOME))
        self.features = FeatureReader(home, self.package.info.codebook_id)
        self.features.refuse_other_schema(described.get(SCHEMA_DIGEST, ""))
        self.max_age = read_seconds(ENV_MAX_AGE, DEFAULT_MAX_AGE)
        codebook_id = self.package.info.codebook_id
        self.lease = Lease(home, codebook_id, f"version {self.version or 'without a number'}")
        self._no_features_until = 0.0
        self._publications = home.catalogue / self.package.info.codebook_id
        self._taken: set[str] = set()
        self._said = ""
        self.take_in_items()
        Thread(target=_keep_looking, args=(weakref.ref(self),), daemon=True).start()

    def take_in_items(self) -> None:
        """Extend the package by what was published since the last look.

        One thread at a time. A damaged publication, which reads no better at the next look, is
        passed over for good; one that the disk does not give is waited for, and those after it with
        it, for they have the last word.
        """
        for path in publications(self._publications):
            if path.name in self._taken:
                continue
            try:
                additions = read([path])
                if additions is not None:
                    self.package = self.package.extended(additions)
                    log.info("%d items taken in", len(additions))
            except HymirecError as error:
                is_news = str(error) != self._said
                if is_news:
                    log.warning("published items cannot be taken in: %s", error)
                    self._said = str(error)
                if is_news or not _is_given(path):
                    return
            self._taken.add(path.name)

    def predict(
        self, context: Any, model_input: list[Row], params: dict[str, Any] | None = None
    ) -> list:  # MLflow would warn, at each loading, of not checking what is in it
        """Recommend to the user of each row.

        Args:
            context: unused.
            model_input: one row a user; an empty id is a visitor, of whom nothing is known. The
                `query`, where there is one, is a `hymirec.query.Query` as JSON. MLflow takes a data
                frame with these columns too.
            params: `k` and `exclude_seen` for rows without a query, which get the reasons too.

        Returns:
            Per user: `user_id`; `served_by` (see `hymirec.package.ServedBy`);
            `feature_age_seconds` (since the user's row was written, None without one); `degraded`
            (why the answer is not as good as it should be, None where it is); `model_version`,
            `run_id` and `codebook_id`; `recommendations` (item_id, title, score, interest,
            categories and, where they were asked for, as `because` the items of the history
            nearest to that interest); `recent`, the latest titles of the history, where reasons
            were asked for; `stage_seconds`, what reading features, the model and the search took
            the call this was answered in.

        Raises:
            MlflowException: 400 for a query that is none or something that is no user id.
        """
        user_ids = [row.user_id for row in model_input]
        queries = _queries(model_input, params or {})
        package = self.package
        started = time.perf_counter()
        rows, problems = self._read(user_ids)
        features_read = time.perf_counter()

        events = []
        for user_id, query in zip(user_ids, queries, strict=True):
            row = rows.get(user_id)
            events.append(package.events(row.history if row else None, query.recent_items))
        with_events = [known for known, _ in events if known is not None]
        interests = iter(package.interests(with_events) if with_events else ())
        modelled = time.perf_counter()

        found = [
            package.choose(query, known, None if known is None else next(interests))
            for query, (known, _) in zip(queries, events, strict=True)
        ]
        searched = time.perf_counter()
        now = datetime.now(UTC)
        stages: dict[str, float] = {}
        answers = []
        for user_id, query, (_, served_by), items in zip(
            user_ids, queries, events, found, strict=True
        ):
            row = rows.get(user_id)
            age = row.age_seconds(now) if row else None
            stale = STALE if age is not None and age > self.max_age else None
            answer: dict[str, Any] = {
                "user_id": user_id,
                "served_by": served_by,
                "feature_age_seconds": age,
                "degraded": problems.get(user_id, stale),
                "model_version": self.version,
                "run_id": self.run_id,
                "codebook_id": package.info.codebook_id,
                "recommendations": [_to_json(item, query) for item in items],
                "stage_seconds": stages,
            }
            if query.explain:
                latest = row.history.item_ids[-NUM_RECENT:] if row else []
                latest = [*latest, *query.recent_items][-NUM_RECENT:]
                answer["recent"] = package.titles(latest)
            answers.append(answer)
        stages |= {
            "features": features_read - started,
            "model": modelled - features_read,
            "search": searched - modelled,
            "serialisation": time.perf_counter() - searched,
        }
        return answers

    def _read(self, user_ids: Sequence[str]) -> tuple[Mapping[str, UserRow], dict[str, str]]:
        """Rows by user, and what is wrong by user, where something is."""
        known = [user_id for user_id in user_ids if user_id]
        if not known:
            return {}, {}
        if time.monotonic() < self._no_features_until:
            return {}, dict.fromkeys(known, NO_FEATURES)
        try:
            return self.features.read_users(known), {}
        except DataError:
            return self._read_one_by_one(known)
        except HymirecError as error:
            log.warning("features cannot be read: %s", error)
            self._no_features_until = time.monotonic() + SECONDS_BETWEEN_TRIES
            return {}, dict.fromkeys(known, NO_FEATURES)

    def _read_one_by_one(
        self, user_ids: Sequence[str]
    ) -> tuple[Mapping[str, UserRow], dict[str, str]]:
        """As `_read`, so that a damaged row is one user's trouble."""
        rows: dict[str, UserRow] = {}
        problems = {}
        for user_id in user_ids:
            try:
                rows |= self.features.read_users([user_id])
            except DataError as error:
                log.warning("the row of user %r: %s", user_id, error)
                problems[user_id] = DAMAGED
            except HymirecError as error:
                log.warning("features cannot be read: %s", error)
                problems[user_id] = NO_FEATURES
        return rows, problems


def _queries(rows: Sequence[Row], params: Mapping[str, Any]) -> list[Query]:
    """What each row asks."""
    k, exclude_seen = params.get("k", 10), params.get("exclude_seen", True)
    if k is None or not 1 <= k <= MAX_K:
        raise MlflowException(
            f"k is {k}: 1 to {MAX_K} items can be asked for", INVALID_PARAMETER_VALUE
        )
    default = Query(k=int(k), exclude_seen=bool(exclude_seen), explain=True)
    return [default if row.query is None else _query(row.query) for row in rows]


def _query(text: str) -> Query:
    try:
        return Query.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in (QUERY, *problem["loc"]))
        raise MlflowException(f"{place}: {problem['msg']}", INVALID_PARAMETER_VALUE) from error


def _to_json(item: Any, query: Query) -> dict[str, Any]:
    values = item.to_json()
    if not query.explain:
        del values["because"]
    return values


def _keep_looking(model: weakref.ref[HyMiRecModel]) -> None:
    """Look for published items as long as the model is in use."""
    while (found := model()) is not None:
        try:
            found.take_in_items()
        except Exception:  # whatever it was, requests go on and so does looking
            log.exception("looking for published items failed")
        del found
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_given(path: Path) -> bool:
    """Whether the disk gives a file at all, whatever is in it."""
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _registered_as(directory: Path) -> tuple[str, str]:
    """The version and run a downloaded model says it is of; empty for one not registered."""
    for parent in directory.parents:
        meta = parent / "registered_model_meta"
        if meta.exists():
            version = str(yaml.safe_load(meta.read_text())["model_version"])
            run_id = yaml.safe_load((parent / "MLmodel").read_text()).get("run_id") or ""
            return version, str(run_id)
    return "", ""


set_model(HyMiRecModel())
