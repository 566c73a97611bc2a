"""The same work on a Dask scheduler with two workers: the same bytes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("prefect_dask", reason="the package prefect-dask is not installed")

import dask
from distributed import Client
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from features import building, publication
from features.logs.event_log import Event, EventLog
from features.offline import (
    group_sizes,
    history_path,
    read_histories,
    read_item_codes,
    read_user_ids,
)
from features.online import FeatureReader, list_codebooks
from flows import recommend_all
from flows.registry.served import served_versions
from flows.runtime import shards
from flows.steps import ranking
from flows.steps.data import DataRef
from flows.steps.publish import publish_codes
from hymirec.catalogue import encode_catalogue
from hymirec.encoder import ContentEncoder, EncoderConfig
from hymirec.errors import UsageError
from hymirec.home import Home
from hymirec.inputs import index_history
from hymirec.models.layers import BackboneConfig
from hymirec.package import RecommenderPackage
from hymirec.splits import LeaveLastSplit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENT = {f"distributed.comm.timeouts.{what}": "300s" for what in ("tcp", "connect")}
"""On a busy machine half a minute of silence would be taken for a connection lost."""


@pytest.fixture(scope="module")
def copied(home, tmp_path_factory):
    """A home whose histories lie in twelve groups of rows."""
    target = tmp_path_factory.mktemp("dask") / "hymirec"
    shutil.copytree(home.root, target)
    home = Home.at(target)
    (served,) = served_versions(home)
    path = history_path(home, served.codebook_id)
    pq.write_table(pq.read_table(path), path, row_group_size=10)
    return home


@pytest.fixture(scope="module")
def cluster(copied, tmp_path_factory):
    """Address of a scheduler with two workers, each a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    program = str(Path(sys.executable).parent / "dask")
    folder = tmp_path_factory.mktemp("cluster")
    commands = [[program, "scheduler", "--host", "127.0.0.1", "--port", address.split(":")[-1],
                 "--no-dashboard"]]  # fmt: skip
    commands += [
        [program, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
         "--local-directory", str(folder / str(number))]
        for number in range(2)
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(copied.prefect)}
    for setting, value in PATIENT.items():
        environment[f"DASK_{setting.upper().replace('.', '__')}"] = value
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
    deadline = time.monotonic() + 300
    dask.config.set(PATIENT)
    with Client(address, timeout=60, set_as_default=False) as client:
        while len(client.scheduler_info(n_workers=-1)["workers"]) < 2:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
    yield address
    for process in reversed(processes):
        process.kill()  # a busy scheduler takes its time to end of itself
        process.wait()


@pytest.fixture(scope="module")
def prefect_server():
    """A server for all, which workers are told of with every task."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def redis_store(tmp_path):
    """Addresses of two empty online stores."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    redis = pytest.importorskip("redis", reason="the package redis is not installed (extra scale)")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    patient = redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 100)
    redis.Redis(port=port, retry=patient).ping()
    yield {"one": f"redis://127.0.0.1:{port}/1", "two": f"redis://127.0.0.1:{port}/2"}
    process.kill()
    process.wait()


@pytest.fixture
def on_cluster(prefect_server, cluster, monkeypatch):
    """Call something as a flow whose shards go to the cluster."""

    def call(work, environment=None):
        monkeypatch.setenv(shards.ENV_DASK, cluster)
        with Client(cluster, set_as_default=False) as client:
            client.run(lambda more: os.environ.update(more), environment or {})
            try:
                return flow(name="on-cluster")(work)()
            finally:
                monkeypatch.delenv(shards.ENV_DASK)
                client.run(lambda names: [os.environ.pop(one) for one in names], environment or {})

    return call


def test_recommendations_to_everybody(copied, on_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(recommend_all, "GROUPS_PER_SHARD", 2)
    recommend_all.recommend_all(copied, tmp_path / "one.parquet")
    done = on_cluster(lambda: recommend_all.recommend_all(copied, tmp_path / "two.parquet"))
    assert done.users == 120
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_an_evaluation(copied, on_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "CASES_PER_SHARD", 25)
    (served,) = served_versions(copied)
    package = RecommenderPackage.load(served.package)
    histories = read_histories(copied, served.codebook_id).values()
    cases = LeaveLastSplit([index_history(one, package.item_index) for one in histories]).test
    model = served.package / "recommender"
    one = ranking.in_shards(model, tmp_path / "one")(cases)
    two = on_cluster(lambda: ranking.in_shards(model, tmp_path / "two")(cases))
    assert len(one.ranks) == 120
    for mine, its in zip(one, two, strict=True):
        assert torch.equal(mine, its)


def online_rows(home):
    """What is online of the only codebook: histories by user, codes by item."""
    (codebook,) = list_codebooks(home)
    reader = FeatureReader(home, codebook)
    rows = reader.read_users([*read_user_ids(home, codebook), "newcomer"])
    codes = reader.read_item_codes(list(read_item_codes(home, codebook)))
    histories = {
        user: (list(row.history.item_ids), row.history.times.tolist(), row.history.codes.tobytes())
        for user, row in rows.items()
    }
    return histories, {item: code.tobytes() for item, code in codes.items()}


def test_a_publication(copied, on_cluster, redis_store, tmp_path, monkeypatch):
    """Histories built and rows written by workers, with the log's clicks, on a store they share."""
    monkeypatch.setattr(building, "EVENTS_PER_SHARD", 1)
    monkeypatch.setattr(building, "ROWS_PER_GROUP", 10)
    monkeypatch.setattr(publication, "ROWS_PER_SHARD", 20)
    (served,) = served_versions(copied)
    items = pd.read_parquet(served.package / "items.parquet")["item_id"].tolist()
    codes = np.load(served.codebook / "codes.npy")
    digest, found, asked = served.info["data_digest"], {}, []

    def each_shard(name, work, some, **more):
        asked.append((work.__name__, len(some)))
        return shards.each_shard(name, work, some, **more)

    for place, address in redis_store.items():
        home = Home.at(tmp_path / place).create()
        shutil.copytree(copied.data / digest, home.data / digest)
        data = DataRef("", home.data / digest, digest)
        monkeypatch.setenv("HYMIREC_ONLINE_STORE", address)
        log = EventLog(home)
        user = data.read().interactions["user_id"].iloc[0]
        log.append([Event(one, one, items[0], "click", 10**9) for one in (user, "newcomer")])
        log.close()
        publish = partial(publish_codes, home, data, items, codes, served.codebook_id)
        if place == "one":
            publish()
        else:
            with pytest.raises(UsageError, match="a Dask worker has other stores than the flow"):
                on_cluster(lambda publish=publish: publish(each_shard))
            on_cluster(
                lambda publish=publish: publish(each_shard), {"HYMIREC_ONLINE_STORE": address}
            )
        rows = pq.read_table(history_path(home, served.codebook_id)).drop_columns("history")
        found[place] = *online_rows(home), rows, group_sizes(home, served.codebook_id)
    assert found["one"] == found["two"]
    assert len(found["one"][0]) == 121
    assert found["one"][-1] == [10] * 12
    # Shards of the call that was refused may still be built while the next one begins.
    assert asked[0] == ("build_shard", 12)
    assert asked[-2:] == [("write_items", 1), ("write_histories", 6)]


def test_reading_a_catalogue(on_cluster, tmp_path):
    torch.manual_seed(0)
    backbone = BackboneConfig(num_layers=1, num_heads=2, dropout=0.0)
    encoder = ContentEncoder(
        EncoderConfig(width=8, hidden_width=8, backbone=backbone, max_tokens=12), 100
    )
    tokens = torch.randint(3, 100, (60, 12))
    one = encode_catalogue(encoder, tokens, tmp_path / "one", texts_per_shard=10)
    two = on_cluster(
        lambda: encode_catalogue(
            encoder, tokens, tmp_path / "two", texts_per_shard=10,
            elsewhere=shards.elsewhere("catalogue"),
        )
    )  # fmt: skip
    assert torch.equal(one, two)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    assert len(files) == 7
