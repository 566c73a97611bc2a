"""The MLflow model: a user id in, recommendations out, features read online in between.

This file is the model's code (`mlflow.pyfunc` logs it by path, nothing is pickled). It runs in the
model server's process, which finds its home in HYMIREC_HOME.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel

from features.online import FeatureReader
from hymirec.additions import publications, read
from hymirec.errors import HymirecError, UsageError
from hymirec.home import DEFAULT_HOME, ENV_HOME, Home
from hymirec.package import RecommenderPackage
from hymirec.schema import USER_ID
from hymirec.shipped import SCHEMA_DIGEST, metadata, refuse_other_code

log = logging.getLogger(__name__)

MAX_K = 1000
ENV_MAX_AGE = "HYMIREC_MAX_FEATURE_AGE"
DEFAULT_MAX_AGE = 7 * 86_400.0
"""Seconds since a user's row was written, past which an answer is marked as degraded."""
SECONDS_BETWEEN_LOOKS = 1.0
"""For items published since."""


class HyMiRecModel(PythonModel):
    """Answers requests for one registered version; `predict` may run in several threads.

    Items published since it was registered are taken in as it is loaded and while it runs: a
    thread makes a package that has them, which then takes the place of the one before. A request
    reads one package from its beginning to its end.
    """

    def load_context(self, context: Any) -> None:
        """Load the package and check that its codebook's features are online.

        Raises:
            VersionError: this process holds another version's modules, or the codebook's features
                are not published, or not with the fields that the version was registered for.
        """
        directory = Path(context.artifacts["package"])
        model = directory.parents[1]
        refuse_other_code(model)
        self.package = RecommenderPackage.load(directory)
        self.version = _registered_version(directory)
        home = Home.at(os.environ.get(ENV_HOME, DEFAULT_HOME))
        self.features = FeatureReader(home, self.package.info.codebook_id)
        self.features.refuse_other_schema(metadata(model).get(SCHEMA_DIGEST, ""))
        self.max_age = _max_age()
        self._publications = home.catalogue / self.package.info.codebook_id
        self._taken: set[str] = set()
        self.take_in_items()
        Thread(target=_keep_looking, args=(weakref.ref(self),), daemon=True).start()

    def take_in_items(self) -> None:
        """Extend the package by what was published since the last look.

        One thread at a time; a publication that cannot be read is passed over for good.
        """
        new = [path for path in publications(self._publications) if path.name not in self._taken]
        if not new:
            return
        self._taken |= {path.name for path in new}
        for path in new:
            try:
                additions = read([path])
                if additions is not None:
                    self.package = self.package.extended(additions)
                    log.info("%d items taken in", len(additions))
            except HymirecError as error:
                log.warning("published items cannot be taken in: %s", error)

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Recommend to each user of the column `user_id`.

        Args:
            context: unused.
            model_input: one row a user.
            params: `k`, how many items, 1 to 1000; `exclude_seen`.

        Returns:
            Per user: `user_id`, `served_by` (`full`, or `popular` for a user without history),
            `feature_age_seconds` (since the user's row was written, None without one), `degraded`
            (why the answer is not as good as it should be, None where it is), `model_version`,
            `recommendations` (item_id, title, score, interest, and as
            `because` the items of the history nearest to that interest) and `recent`, the
            latest titles of the history.

        Raises:
            MlflowException: 400 for a `k` out of range or something that is no user id, 503 while
                features cannot be read.
        """
        params = params or {}
        k, exclude_seen = params.get("k", 10), params.get("exclude_seen", True)
        if k is None or not 1 <= k <= MAX_K:
            raise MlflowException(f"k is {k}: 1 to {MAX_K} items can be asked for",
                                  INVALID_PARAMETER_VALUE)  # fmt: skip
        user_ids = [_user_id(value) for value in model_input[USER_ID].tolist()]
        try:
            rows = self.features.read_users(user_ids)
        except HymirecError as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
        answers = []
        now = datetime.now(UTC)
        package = self.package
        for user_id in user_ids:
            row = rows.get(user_id)
            history = row.history if row else None
            age = row.age_seconds(now) if row else None
            stale = age is not None and age > self.max_age
            found, served_by = package.recommend(history, k, exclude_seen=exclude_seen)
            answers.append(
                {
                    "user_id": user_id,
                    "served_by": served_by,
                    "feature_age_seconds": age,
                    "degraded": "stale features" if stale else None,
                    "model_version": self.version,
                    "recommendations": [item.to_json() for item in found],
                    "recent": package.titles(history.item_ids[-5:]) if history else [],
                }
            )
        return answers


def _max_age() -> float:
    text = os.environ.get(ENV_MAX_AGE, "")
    try:
        seconds = float(text) if text else DEFAULT_MAX_AGE
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise UsageError(f"{ENV_MAX_AGE} is {text!r}: a number of seconds above 0 is needed")
    return seconds


def _keep_looking(model: weakref.ref[HyMiRecModel]) -> None:
    """Look for published items as long as the model is in use."""
    while (found := model()) is not None:
        try:
            found.take_in_items()
        except Exception:  # whatever it was, requests go on and so does looking
            log.exception("looking for published items failed")
        del found
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _user_id(value: Any) -> str:
    """The id as text; MLflow lets whole numbers through where the signature says text."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    raise MlflowException(
        f"{USER_ID} is {value!r}: a text or a whole number is needed", INVALID_PARAMETER_VALUE
    )


def _registered_version(directory: Path) -> str:
    """The version a downloaded model says it is; empty for one that is not registered."""
    for parent in directory.parents:
        meta = parent / "registered_model_meta"
        if meta.exists():
            return str(yaml.safe_load(meta.read_text())["model_version"])
    return ""


set_model(HyMiRecModel())
