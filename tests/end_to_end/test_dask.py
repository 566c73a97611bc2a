"""The same work on a Dask scheduler with two workers: the same bytes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("prefect_dask", reason="the package prefect-dask is not installed")

from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from features.offline import history_path, read_histories
from flows import recommend_all
from flows.registry.served import served_versions
from flows.runtime import shards
from flows.steps import ranking
from hymirec.catalogue import encode_catalogue
from hymirec.encoder import ContentEncoder, EncoderConfig
from hymirec.home import Home
from hymirec.inputs import index_history
from hymirec.models.layers import BackboneConfig
from hymirec.package import RecommenderPackage
from hymirec.splits import LeaveLastSplit

pytestmark = pytest.mark.slow


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
    dask = str(Path(sys.executable).parent / "dask")
    folder = tmp_path_factory.mktemp("cluster")
    commands = [[dask, "scheduler", "--host", "127.0.0.1", "--port", address.split(":")[-1],
                 "--no-dashboard"]]  # fmt: skip
    commands += [
        [dask, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
         "--local-directory", str(folder / str(number))]
        for number in range(2)
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PREFECT_HOME": str(copied.prefect)}
    with (folder / "log").open("wb") as log:
        processes = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
    from distributed import Client

    deadline = time.monotonic() + 120
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
def on_cluster(prefect_server, cluster, monkeypatch):
    """Call something as a flow whose shards go to the cluster."""

    def call(work):
        monkeypatch.setenv(shards.ENV_DASK, cluster)
        try:
            return flow(name="on-cluster")(work)()
        finally:
            monkeypatch.delenv(shards.ENV_DASK)

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
