"""Two processes that share every batch learn what one learns."""

import pytest

from hymirec.batches import SharedBatches
from hymirec.processes import is_main, num_processes, on_main, process_index


@pytest.fixture(scope="module")
def found(run_trainings):
    """Final weights and losses of epochs, from trainings in forked processes."""
    return run_trainings("shares")


def curve(run):
    assert list(run["losses"]) == ["7", "14", "21"]  # 21 examples, 4 a step: the last has one
    return [loss for (loss,) in run["losses"].values()]  # told by the first process alone


@pytest.mark.parametrize("stage", ["first stage", "second stage"])
def test_two_processes_give_the_curve_of_one(stage, found):
    one, two = map(curve, found[stage])
    assert one[0] > one[-1] + 0.5
    assert two == pytest.approx(one, rel=1e-5)  # seen: 2e-7


def test_two_processes_killed_and_started_again_end_with_the_same_weights(found):
    """With everything random: dropout, texts read, items left out."""
    assert found["killed"] == found["whole"]


def test_what_two_processes_began_one_can_finish(found):
    assert curve(found["two, then one"]) == pytest.approx(curve(found["first stage"][0]), rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_shares_of_a_batch_are_the_batch(processes):
    whole = SharedBatches(22, 5, seed=3)
    shares = [SharedBatches(22, 5, 3, process=p, processes=processes) for p in range(processes)]
    for epoch in (0, 1):
        for one in (whole, *shares):
            one.set_epoch(epoch)
        batches = list(whole)
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 2]
        assert sorted(example for batch in batches for _, example in batch) == list(range(22))
        for step, (batch, *parts) in enumerate(zip(batches, *shares, strict=True)):
            assert all(parts)  # every process takes part in every step
            idle = [one.is_idle(len(whole) * epoch + step) for one in shares]
            assert idle == [place >= len(batch) for place in range(processes)]
            real = [part for part, rests in zip(parts, idle, strict=True) if not rests]
            assert sorted(place for part in real for place in part) == sorted(batch)


def test_epochs_have_orders_of_their_own_that_depend_on_the_seed():
    def order(seed, epoch):
        batches = SharedBatches(40, 8, seed)
        batches.set_epoch(epoch)
        return [example for batch in batches for _, example in batch]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(one) for one in orders}) == 4
    assert order(1, 0) == orders[2]


def test_one_process_alone_is_the_first():
    assert (num_processes(), process_index(), is_main()) == (1, 0, True)
    assert on_main(lambda: "computed") == "computed"
