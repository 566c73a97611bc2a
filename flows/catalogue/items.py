"""Items that appear or change between trainings: encoded, coded, online, recommendable.

The codes go online first, then the clicks that waited for them into the histories, and last the
publication that servers look for (`hymirec.additions`): it says that all the rest is done, so that
a call cut short is simply made again.

A plain function without Prefect, whose start alone would take as long as all else here: the point
of it is that a hundred items are recommendable within ten seconds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import Metric

from features.logs.event_log import EventLog
from features.online import FeatureWriter
from features.updates import HistoryUpdater
from flows.catalogue.coding import Code, Coded
from flows.catalogue.coding import code as code_here
from flows.registry.served import ServedVersion, served_versions
from hymirec.additions import (
    TEXT_DIGEST,
    Additions,
    known_digests,
    publications,
    publish,
    read,
    text_digest,
)
from hymirec.categories import categories_in
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.schema import ITEM_ID, TITLE
from hymirec.texts import item_texts

log = logging.getLogger(__name__)

DRIFT_ALARM = 1.5
"""How many times the mean cosine error on training's texts the items published may have."""
_ROUNDING = 1e-6
"""Of cosines: a codebook without any error in training is not expected to have less."""


@dataclass(frozen=True)
class Published:
    """What one call did under one codebook.

    `cosine_error` is the mean of 1 - cosine between the published items' vectors and what their
    codes decode to, `training_error` that of training's texts, those that the codebook was not
    fitted on: what to expect of items without events.
    """

    codebook_id: str
    model_version: str
    new: int
    changed: int
    unchanged: int
    users: int = 0
    seconds: float = 0.0
    cosine_error: float | None = None
    training_error: float | None = None
    drift: bool = False
    run_id: str = field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def publish_items(
    home: Home, table: pd.DataFrame, *, alias: str = "", alarm: float = DRIFT_ALARM,
    code: Code = code_here,
) -> list[Published]:  # fmt: skip
    """Publish what is new or changed in a table of items under every codebook that is served.

    A changed item keeps the vector of its own that training gave it. Events of it that histories
    hold keep their codes until the codebook's next update.

    Args:
        home: where the models are.
        table: see `hymirec.datasets.items.load_items`.
        alias: only for the version of this alias.
        alarm: from how many times training's cosine error on drift is reported.
        code: reads the texts and codes them.

    Raises:
        UsageError: nothing is served, or an encoder is missing.
        HymirecError: a store cannot be written.
    """
    versions = served_versions(home, alias)
    with publishing(home):
        return [_publish(home, served, table, alarm, code) for served in versions]


@contextmanager
def publishing(home: Home) -> Iterator[None]:
    """Wait until nobody else publishes items in a home."""
    home.catalogue.mkdir(parents=True, exist_ok=True)
    with (home.catalogue / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(
    home: Home, served: ServedVersion, table: pd.DataFrame, alarm: float, code: Code
) -> Published:
    started = time.monotonic()
    directory = home.catalogue / served.codebook_id
    known = known_digests(_known_items(served), read(publications(directory)))
    catalogue = as_catalogue(table, served.info["text_columns"])
    texts = item_texts(catalogue)
    item_ids, titles = table[ITEM_ID].tolist(), table[TITLE].tolist()
    places = [known.get(item, (0, "")) for item in item_ids]
    rows = [
        row
        for row, (text, (_, digest)) in enumerate(zip(texts, places, strict=True))
        if text_digest(text) != digest
    ]
    is_new = [places[row][0] == 0 for row in rows]
    new = sum(is_new)
    result = Published(
        served.codebook_id, str(served.version.version),
        new=new, changed=len(rows) - new, unchanged=len(table) - len(rows),
    )  # fmt: skip
    if not rows:
        log.info("items: nothing new in %d items, codebook %s", len(table), served.codebook_id)
        return result
    coded = code(
        served.encoder, served.codebook,
        [texts[row] for row in rows], [places[row][0] for row in rows],
    )  # fmt: skip
    additions = Additions(
        [item_ids[row] for row in rows],
        [titles[row] for row in rows],
        [texts[row] for row in rows],
        coded.vectors,
        coded.codes,
        _categories(catalogue.iloc[rows], served.info.get("category_column", "")),
        is_new,
    )
    users = bring_online(home, served.codebook_id, additions)
    publish(directory, additions)
    seconds = time.monotonic() - started
    result = replace(result, users=users, seconds=seconds, **_drift(served, coded, alarm))
    log.info(
        "items: %d new, %d changed, %d unchanged, codebook %s, %.1f s",
        result.new, result.changed, result.unchanged, result.codebook_id, result.seconds,
    )  # fmt: skip
    return _logged(home, served, result)


def as_catalogue(table: pd.DataFrame, text_columns: list[str]) -> pd.DataFrame:
    """The columns that the encoder was trained on, in its order; what is missing is empty."""
    others = [name for name in table if name not in (ITEM_ID, TITLE)]
    missing = [name for name in text_columns if name not in others]
    if missing:
        log.warning("items: no column %s: read as empty", ", ".join(map(repr, missing)))
    return table.reindex(columns=[ITEM_ID, TITLE, *text_columns]).fillna("")


def _categories(catalogue: pd.DataFrame, column: str) -> list[list[str]]:
    return categories_in(catalogue[column]) if column in catalogue else []


def _known_items(served: ServedVersion) -> pd.DataFrame:
    items = pd.read_parquet(served.package / "items.parquet")
    if TEXT_DIGEST not in items:
        raise UsageError(
            f"version {served.version.version} does not tell the texts of its items: "
            "run `hymirec pipeline` again to register one that does"
        )
    return items


def bring_online(home: Home, codebook_id: str, additions: Additions) -> int:
    """Write codes, then the clicks that waited for them; how many users had some."""
    FeatureWriter(home, codebook_id).write_item_codes(additions.item_ids, additions.codes)
    events = EventLog(home)
    try:
        with events.writing():
            users = events.users_who_clicked(additions.item_ids)
            return HistoryUpdater(events, codebook_id).update(users) if users else 0
    finally:
        events.close()


def _drift(served: ServedVersion, coded: Coded, alarm: float) -> dict[str, Any]:
    error = coded.cosine_error
    health = json.loads((served.codebook / "health.json").read_text())
    training = 1 - health.get("text_cosine", health["cosine"])  # earlier versions: one for all
    drift = error > alarm * training + _ROUNDING
    if drift:
        log.warning(
            "items: codebook %s has drifted: cosine error %.4f on these items, %.4f on texts of "
            "training: `hymirec codebook update` refits it", served.codebook_id, error, training,
        )  # fmt: skip
    return {"cosine_error": error, "training_error": training, "drift": drift}


def _logged(home: Home, served: ServedVersion, result: Published) -> Published:
    """Keep a run of it in MLflow, without what a training's run has and takes time."""
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    run = client.create_run(
        client.get_run(str(served.version.run_id)).info.experiment_id,
        run_name="items",
        tags={
            "model_version": served.name,
            "codebook_id": served.codebook_id,
            "codebook_drift": "alarm" if result.drift else "none",
        },
    )
    values = {
        "items/new": result.new,
        "items/changed": result.changed,
        "items/unchanged": result.unchanged,
        "items/users": result.users,
        "items/seconds": result.seconds,
        "codebook/cosine_error": result.cosine_error,
        "codebook/training_error": result.training_error,
    }
    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value or 0), now, 0) for name, value in values.items()]
    client.log_batch(run.info.run_id, metrics=metrics)
    client.set_terminated(run.info.run_id)
    return replace(result, run_id=run.info.run_id)
