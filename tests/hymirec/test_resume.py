"""A process killed by the system, whenever, and started again ends as one left alone."""

import pytest

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
def found(run_trainings):
    """Final weights and losses of epochs by the moment at which the training was killed."""
    return run_trainings("kills")


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
