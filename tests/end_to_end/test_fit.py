"""Training with the library alone, in two processes."""

import sys
from pathlib import Path

import pytest

from hymirec.package import RecommenderPackage

pytestmark = pytest.mark.slow  # two minutes; tests/hymirec has both stages in two processes

TORCHRUN = Path(sys.executable).parent / "torchrun"


@pytest.fixture(scope="module")
def out(hymirec, world, tmp_path_factory):
    """A folder filled by two processes."""
    out = tmp_path_factory.mktemp("fit") / "out"
    done = hymirec(
        "--nproc-per-node", 2, "-m", "hymirec", "fit", "--data", world, "--out", out,
        "--recipe", "tiny", program=TORCHRUN, OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    # Told by the first process alone.
    assert (
        done.stderr.count("encoder: epoch 1/6") == done.stderr.count("recommender: epoch 3/3") == 1
    )
    assert done.stdout.count("HyMiRec") == 1
    return out


def test_a_run_repeated_takes_what_is_done_and_says_the_same(hymirec, world, out):
    metrics = (out / "metrics.json").read_text()
    done = hymirec("fit", "--data", world, "--out", out, "--recipe", "tiny", "--json")
    assert done.code == 0, done.stderr
    assert "encoder: finished before" in done.stderr
    assert "epoch" not in done.stderr
    assert (out / "metrics.json").read_text() == metrics
    assert done.json["metrics"]["R@10"] > 0.4  # seen: 0.54
    assert done.json["metrics"]["R@10"] > 3 * done.json["popularity"]["R@10"]
    package = RecommenderPackage.load(Path(done.json["model"]))
    found, served_by = package.recommend(None, 5)
    assert (len(found), served_by) == (5, "popular")


def test_a_folder_begun_otherwise_is_refused(hymirec, world, out):
    done = hymirec("fit", "--data", world, "--out", out, "--recipe", "demo")
    assert done.code == 2
    assert "error: " in done.stderr
    assert "begun with another recipe.name (tiny, now demo)" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
