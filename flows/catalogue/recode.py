"""The dynamic codebook: refitted on all items there are now, under the same recommender.

The recommender reads histories as the vectors that codes decode to, so its weights fit any codebook
of the same items. What comes of it is a version of its own, which has to pass the gate and which no
alias but `challenger` names.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import mlflow
import torch
from pydantic import TypeAdapter
from torch import Tensor

from features.lineage import tell_run
from features.offline import read_user_ids
from flows.catalogue.items import bring_online, publishing
from flows.registry.promote import GATE_METRIC, place_new
from flows.registry.served import ServedVersion, served_versions
from flows.runtime.settings import (
    CHAMPION,
    CODEBOOK_MODEL_TAG,
    ENCODER_MODEL_TAG,
    MODEL_NAME,
    PARENT_TAG,
)
from flows.steps.data import DataRef
from flows.steps.encode import read_codebook, read_codes, read_health, read_texts, write_codebook
from flows.steps.publish import publish_codes
from flows.steps.register import (
    find_version,
    package_digest,
    register_package,
)
from flows.steps.results import StepResult, run_step
from flows.tracking.record import log_component, log_metrics
from flows.tracking.runs import flow_run
from hymirec.additions import Additions, publications, publish, read
from hymirec.codebook import Codebook, CodebookConfig, fit_item_codebook
from hymirec.datasets import Dataset
from hymirec.errors import UsageError
from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.protocol import rank_cases
from hymirec.frozen import FrozenEncoder
from hymirec.home import Home
from hymirec.inputs import build_histories, index_history, number_items
from hymirec.models.popularity import PopularityRecommender
from hymirec.package import RecommenderPackage
from hymirec.schema import ITEM_ID, USER_ID
from hymirec.splits import LeaveLastSplit, count_items

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recoded:
    """What an update came to; errors are mean 1 - cosine over all items."""

    model_version: str
    parent_version: str
    codebook_id: str
    parent_codebook_id: str
    items: int
    error_before: float
    error_after: float
    before: float
    after: float
    gate: bool
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; R@10 under its name."""
        return asdict(self)


def update_codebook(home: Home, alias: str = CHAMPION) -> Recoded:
    """Refit the codebook of a served version on its items and those published since.

    Codes and histories are published beside the old ones, and a version with the same weights is
    registered.

    Raises:
        UsageError: nothing is served under the alias, or no item was published since its training.
    """
    (served,) = served_versions(home, alias)
    added = publications(home.catalogue / served.codebook_id)
    additions = read(added)
    if additions is None:
        raise UsageError(
            f"no items were published under codebook {served.codebook_id}: it is up to date"
        )
    package = RecommenderPackage.load(served.package).extended(additions)
    with flow_run(home, "codebook") as run:
        run_id = run.run_id
        mlflow.set_tags({PARENT_TAG: served.name, "codebook_update": "true"})
        step = _refit(home, served, package, additions, [path.name for path in added])
        book = read_codebook(step)
        digest = package.info.data_digest
        ref = DataRef("", home.data / digest, digest)
        item_ids = package.items[ITEM_ID].tolist()
        publish_codes(home, ref, item_ids, read_codes(step), book.id)
        tell_run(home, book.id, len(read_user_ids(home, book.id)))
        log_metrics(run_id, {f"codebook/{name}": v for name, v in read_health(step).items()})
        recoded = package.recoded(book)
        dataset = ref.read()
        before, _ = _measure(package, dataset)
        after, floor = _measure(recoded, dataset)
        errors = _errors(step)
        log_metrics(
            run_id,
            {f"before/{GATE_METRIC}": before[GATE_METRIC], **errors}
            | {f"test/{name}": value for name, value in after.items()},
        )
        parts = {
            ENCODER_MODEL_TAG: served.version.tags[ENCODER_MODEL_TAG],
            CODEBOOK_MODEL_TAG: log_component(run_id, step, served.codebook_params),
            PARENT_TAG: served.name,
        }
        digest = package_digest(f"{step.digest} {served.name}")
        card = (
            f"Version {served.version.version} with its codebook {served.codebook_id} refitted on "
            f"{len(item_ids)} items as {book.id}: {GATE_METRIC} {before[GATE_METRIC]:.4f} before, "
            f"{after[GATE_METRIC]:.4f} after."
        )
        users = dataset.interactions[USER_ID].head(1).tolist()
        version = find_version(digest) or register_package(
            home, recoded, users, digest, card, parts
        )
        # Once it has an alias, whoever publishes items publishes under it as well.
        with publishing(home):
            _carry_over(home, served.codebook_id, book, {path.name for path in added})
            passed = place_new(home, version, after, floor) != "refused"
        mlflow.set_tag("model_version", f"{MODEL_NAME}/{version.version}")
    log.info("codebook: %s", card)
    return Recoded(
        str(version.version), str(served.version.version), book.id, served.codebook_id,
        len(item_ids), errors["codebook/error_before"], errors["codebook/error_after"],
        before[GATE_METRIC], after[GATE_METRIC], passed, run_id,
    )  # fmt: skip


def _refit(
    home: Home, served: ServedVersion, package: RecommenderPackage, additions: Additions,
    added: list[str],
) -> StepResult:  # fmt: skip
    config: Any = TypeAdapter(CodebookConfig).validate_python(
        {name.removeprefix("codebook."): value for name, value in served.codebook_params.items()}
    )
    vectors = package.model.item_vectors()[1:]
    old = package.model.codebook

    def work(output: Path, checkpoints: Path) -> None:
        by_text = _by_text(served, package, vectors, additions)
        book = fit_item_codebook(vectors, by_text, config, start=old)
        write_codebook(output, book, vectors, by_text, seed=0)
        before = {"cosine": old.health(vectors)["cosine"]}
        (output / "before.json").write_text(json.dumps(before))

    inputs = {"codebook": old.id, "added": added, "settings": config.model_dump(mode="json")}
    return run_step(home, "codebook", inputs, work)


def _carry_over(home: Home, old_id: str, book: Codebook, taken_in: set[str]) -> None:
    """Publish under a refitted codebook the items that were published while it was made.

    Doing it again changes nothing.

    Args:
        home: where, held by `flows.catalogue.items.publishing`.
        old_id: the codebook they were published under.
        book: the refitted one.
        taken_in: names of the publications that it was fitted on.
    """
    later = [one for one in publications(home.catalogue / old_id) if one.name not in taken_in]
    if (additions := read(later)) is None:
        return
    codes = book.encode(torch.from_numpy(additions.vectors)).numpy()
    additions = replace(additions, codes=codes)
    bring_online(home, book.id, additions)
    publish(home.catalogue / book.id, additions)
    log.info("codebook: %d items that were published meanwhile are carried over", len(additions))


def _by_text(
    served: ServedVersion, package: RecommenderPackage, vectors: Tensor, additions: Additions
) -> Tensor:
    """What texts alone say [N, D] of all items of a package that additions are in.

    Of items that earlier updates took in that is their vectors [N, D]: no behaviour is in them.
    """
    by_text = vectors.clone()
    read_in_training = read_texts(served.encoder)[1:]
    by_text[: len(read_in_training)] = read_in_training
    index = number_items(package.items[ITEM_ID].tolist())
    rows = [index[item] - 1 for item in additions.item_ids]
    by_text[rows] = FrozenEncoder.load(served.encoder).embed(additions.texts, [0] * len(rows))
    return by_text


def _errors(step: StepResult) -> dict[str, float]:
    before = json.loads((step.directory / "before.json").read_text())["cosine"]
    return {
        "codebook/error_before": 1 - before,
        "codebook/error_after": 1 - read_health(step)["cosine"],
    }


def _measure(
    package: RecommenderPackage, dataset: Dataset
) -> tuple[dict[str, float], dict[str, float]]:
    """Test metrics of a package's model and of popularity, on histories with its codes.

    Those are made of the data as publishing makes them: under the codebook of before, others may
    have been published since.
    """
    item_ids, model = package.items[ITEM_ID].tolist(), package.model
    index = number_items(item_ids)
    codes = model.codebook.encode(model.item_vectors()[1:]).numpy()
    histories = build_histories(dataset.interactions, item_ids, codes, package.info.codebook_id)
    split = LeaveLastSplit([index_history(one, index) for one in histories.values()])
    popularity = PopularityRecommender(count_items(split.training, len(index)))
    return (
        summarise(rank_cases(model, split.test)),
        summarise(rank_cases(popularity, split.test)),
    )
