"""What a training tells."""

import pytest
from transformers import TrainerState

from hymirec.long_work import duration, lines
from hymirec.progress import epoch_loss


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (11_100, "3 h 5 min")],
)
def test_durations_are_spelt(seconds, text):
    assert duration(seconds) == text


def test_a_long_count_tells_how_far_it_is_and_how_long_it_takes(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("hymirec.long_work.time.monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="hymirec.long_work")
    tell = lines("evaluation", "users")
    for done, at in ((500, 110.0), (1000, 116.0), (1100, 117.0), (2000, 132.0)):
        now[0] = at
        tell(done, 4000)
    assert caplog.messages == [
        "evaluation: 1,000 of 4,000 users, 48 s left",
        "evaluation: 2,000 of 4,000 users, 32 s left",
    ]


def test_a_long_count_that_has_not_come_to_anything_yet(caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("hymirec.long_work.time.monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="hymirec.long_work")
    tell = lines("recommend-all", "users")
    now[0] = 120.0
    tell(0, 4000)  # its first shards are empty
    assert caplog.messages == ["recommend-all: 0 of 4,000 users"]


@pytest.mark.parametrize(
    ("entries", "loss"),
    [
        ([(10, 2.0)], 2.0),
        ([(10, 9.0), (20, 2.0)], 2.0),  # the epoch before does not count
        ([(10, 9.0), (14, 1.0), (20, 2.0)], 1.6),  # 4 steps at 1 and 6 at 2
        ([(10, 9.0), (11, 5.0), (12, 3.0), (20, 1.0)], 1.6),
    ],
)
def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(entries, loss):
    history = [{"step": step, "loss": value} for step, value in entries]
    history.append({"step": entries[-1][0], "eval_N@10": 0.1})
    state = TrainerState(global_step=entries[-1][0], log_history=history)
    assert epoch_loss(state, steps_per_epoch=10) == pytest.approx(loss)
