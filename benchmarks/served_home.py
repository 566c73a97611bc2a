"""A home whose model has learned nothing, served: what the benchmarks of serving ask."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hymirec.home import Home
from serving.server import free_port

NUM_ITEMS, LENGTHS, USERS_PER_LENGTH = 2000, (50, 500, 2000), 40
WIDTH, TOPICS = 64, 1000
BIN = Path(sys.executable).parent


def users_of_length(length: int) -> list[str]:
    """Users of the home with so many events."""
    return [f"e{length}-{number}" for number in range(USERS_PER_LENGTH)]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows at unit length."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def near(centres: np.ndarray, distance: float, rng: np.random.Generator) -> np.ndarray:
    """A unit vector near each of the rows."""
    noise = rng.standard_normal(centres.shape, dtype=np.float32)
    return unit(centres + distance * unit(noise))


def catalogue(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """Vectors [N + 1, D] in topics, as items are; the first is zero."""
    topics = unit(rng.standard_normal((TOPICS, WIDTH)))
    vectors = near(topics[rng.integers(0, TOPICS, num_items + 1)], 0.6, rng)
    vectors[0] = 0
    return vectors


def make_home(home: Home) -> None:
    """Publish users and register an untrained model as champion."""
    from flows.runtime.settings import CHAMPION, MODEL_NAME, configure_tools

    configure_tools(home.create())
    import mlflow

    from features.publication import publish
    from flows.steps.register import register_package
    from hymirec.codebook import fit_codebook
    from hymirec.inputs import IndexedHistory
    from hymirec.models.hymirec import HyMiRec
    from hymirec.package import RecommenderPackage
    from hymirec.recipes import get_recipe
    from hymirec.transitions import Transitions

    recipe = get_recipe("small")
    rng = np.random.default_rng(0)
    vectors = torch.from_numpy(catalogue(NUM_ITEMS, rng))
    codebook = fit_codebook(vectors[1:], recipe.codebook)
    torch.manual_seed(0)
    model = HyMiRec(vectors, codebook, recipe.recommender)
    # As a trained one has them: some three hundred followers of each item.
    paths = rng.integers(1, NUM_ITEMS + 1, (5000, 200))
    table = Transitions.count(list(map(IndexedHistory.of, paths)), NUM_ITEMS, recipe.transitions)
    model.transitions = table.scaled(recipe.recommender.temperature)
    ids = [f"i{number:05d}" for number in range(1, NUM_ITEMS + 1)]
    titles = [f"Title of {item}" for item in ids]
    genres = [f"Genre {number % 20}" for number in range(NUM_ITEMS)]
    items = pd.DataFrame({"item_id": ids, "title": titles, "genre": genres})
    package = RecommenderPackage.assemble(
        model, items, torch.ones(NUM_ITEMS + 1, dtype=torch.int64), recipe="small",
        data_digest="0" * 16,
    )  # fmt: skip
    users = [user for length in LENGTHS for user in users_of_length(length)]
    events = pd.DataFrame({"user_id": np.repeat(users, np.repeat(LENGTHS, USERS_PER_LENGTH))})
    events["item_id"] = np.asarray(ids)[rng.integers(0, NUM_ITEMS, len(events))]
    start = pd.Timestamp("2026-01-01", tz="UTC")
    events["timestamp"] = start + pd.to_timedelta(np.arange(len(events)), unit="min")
    codes = codebook.encode(vectors[1:]).numpy()
    path = home.root / "interactions.parquet"
    events.sort_values("user_id", kind="stable").to_parquet(path, index=False)
    publish(home, codebook.id, path, ids, codes, datetime.now(UTC))
    mlflow.set_tracking_uri(home.mlflow_uri)
    artifacts = (home.mlflow / "artifacts").as_uri()
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("serving", artifacts))
    with mlflow.start_run():
        version = register_package(home, package, users[:1], "benchmark", "untrained", {})
    mlflow.MlflowClient().set_registered_model_alias(MODEL_NAME, CHAMPION, version.version)


@contextmanager
def served(
    command: Sequence[str | Path], url: str, log: Path, **environment: str
) -> Iterator[None]:
    """Run a server until the block ends; it begins when the server answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=output, stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=1).read()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit(f"{command[1]} ended: {log.read_text()[-500:]}")
                time.sleep(0.1)
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def gateway(home: Home) -> Iterator[str]:
    """`hymirec serve` as typed, with one model server."""
    port = free_port("127.0.0.1")
    command = [BIN / "hymirec", "serve", "--home", home.root, "--port", port, "--replicas", "1",
               "--no-standby"]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with served(command, url, home.root / "gateway.log"):
        yield url
