"""A process killed by the system, whenever, and started again ends as one left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "trainings.py"
MOMENTS = (
    "first step",
    "within the first epoch",
    "within a later epoch",
    "half the weights written",
    "no optimizer yet",
    "no state yet",
    "half the state written",
    "half an old checkpoint removed",
    "half the last checkpoint removed",
    "in validation",
    "done but for the word",
    "at random",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Final weights and losses of epochs by the moment at which the training was killed."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "kills", tmp_path_factory.mktemp("kills")],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_moment_is_tried(found):
    assert set(found) == {"whole", *MOMENTS}
    assert found["at random"]["killed"] > 0
    # The steps at which the three epochs end, each loss told once.
    assert {step: len(losses) for step, losses in found["whole"]["losses"].items()} == {
        "7": 1, "14": 1, "21": 1,
    }  # fmt: skip


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again_it_ends_with_the_same_weights_and_losses(moment, found):
    assert found[moment]["weights"] == found["whole"]["weights"]
    told, expected = found[moment]["losses"], found["whole"]["losses"]
    assert told.keys() == expected.keys()
    for step, losses in told.items():  # an epoch done twice is told twice, and alike
        assert set(losses) == set(expected[step])
