"""The trainer: same seed same weights, interrupted or not, and the best weights are kept."""

import logging
import math
import re

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from hymirec.checkpoints import alone_in
from hymirec.errors import DivergedError, HymirecError, UsageError
from hymirec.training import SELECTION_METRIC, TrainingConfig, train

NUM_EXAMPLES, BATCH_SIZE = 20, 4
STEPS_PER_EPOCH = 5


class InterruptedTrainingError(Exception):
    """Stands for a killed process."""


class RandomExamples(Dataset):
    """Like the library's own: what an example holds is drawn anew every time."""

    def __init__(self):
        self.drawn = 0
        self.fail_at = math.inf

    def __len__(self):
        return NUM_EXAMPLES

    def __getitem__(self, place):
        self.drawn += 1
        if self.drawn > self.fail_at:
            raise InterruptedTrainingError
        return torch.randn(3) + place / NUM_EXAMPLES

    @staticmethod
    def collate(examples):
        return {"points": torch.stack(examples)}


class Regression(nn.Module):
    """Learns the sum of the coordinates, with dropout; may come upon what is no number."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.steps = 0
        self.not_a_number_at = None
        self.no_gradient_at = None

    def forward(self, points):
        self.steps += 1
        self.weights_now = {name: value.clone() for name, value in self.state_dict().items()}
        loss = (self.layers(points)[:, 0] - points.sum(dim=1)).square().mean()
        if self.steps == self.not_a_number_at:
            loss = loss * math.nan
        if self.steps == self.no_gradient_at:  # a root at zero: it has a value and no slope
            loss = loss + (self.layers[0].weight * 0).square().sum().sqrt()
        return {"loss": loss, "weight": torch.tensor(len(points))}


class Run:
    """One call of `train` after another on one directory, with all that can be seen of it."""

    def __init__(self, directory, scores=None, **config):
        self.directory = directory
        self.scores = scores
        self.config = TrainingConfig(
            **{"num_epochs": 4, "batch_size": BATCH_SIZE, "learning_rate": 1e-2, **config}
        )
        self.logged = []

    def __call__(self, fail_in_epoch=None, fail_at_example=math.inf, **model_settings):
        self.model = Regression()
        for name, value in model_settings.items():
            setattr(self.model, name, value)
        self.examples = RandomExamples()
        self.examples.fail_at = fail_at_example
        self.validated = {}  # epoch to the weights that were validated

        def validate():
            epoch = self.epoch_now
            self.validated[epoch] = self.weights()
            fit = -sum(weight.square().sum().item() for weight in self.weights().values())
            return {SELECTION_METRIC: self.scores[epoch - 1] if self.scores else fit, "R@10": epoch}

        def log_metrics(metrics, step):
            assert step == self.epoch_now * STEPS_PER_EPOCH
            if self.epoch_now == fail_in_epoch:
                raise InterruptedTrainingError
            self.logged.append((step, dict(metrics)))

        return train(
            self.model,
            self.examples,
            self.examples.collate,
            validate,
            self.config,
            directory=self.directory,
            name="toy",
            log_metrics=log_metrics,
        )

    @property
    def epoch_now(self):
        """Epochs done, told by the checkpoints' steps and the steps of this call."""
        return (self.steps_before + self.model.steps) // STEPS_PER_EPOCH

    steps_before = 0

    def weights(self):
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def checkpoints(directory):
    return sorted(
        int(path.name.removeprefix("checkpoint-")) for path in directory.glob("checkpoint-*")
    )


def test_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    one, same, other = (
        Run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one() == same()
    other()
    assert_same_weights(same.weights(), one.weights())
    assert same.logged == one.logged
    assert not torch.equal(other.weights()["layers.0.weight"], one.weights()["layers.0.weight"])


def test_training_learns(tmp_path):
    run = Run(tmp_path, scores=[1, 2, 3, 4, 5, 6, 7, 8], num_epochs=8, learning_rate=3e-2)
    run()
    losses = [metrics["toy/loss"] for _, metrics in run.logged]
    assert losses[-1] < 0.7 * losses[0]


def test_every_epoch_is_logged_with_loss_and_validation(tmp_path, caplog):
    run = Run(tmp_path, scores=[0.1, 0.3, 0.2, 0.4])
    with caplog.at_level(logging.INFO, logger="hymirec"):
        best = run()
    assert best == {SELECTION_METRIC: 0.4, "R@10": 4}
    assert [step for step, _ in run.logged] == [5, 10, 15, 20]
    for (_, metrics), score in zip(run.logged, run.scores, strict=True):
        assert metrics.keys() == {"toy/loss", "toy/validation_N@10", "toy/validation_R@10"}
        assert math.isfinite(metrics["toy/loss"])
        assert metrics["toy/validation_N@10"] == score
    lines = [record.message for record in caplog.records if "epoch" in record.message]
    assert len(lines) == 4
    assert lines[2].startswith("toy: epoch 3/4, loss ")
    assert "validation N@10 0.2000 (best 0.3000)" in lines[2]


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_interrupted_after_an_epoch_and_resumed_gives_the_same_weights(epoch, tmp_path):
    whole = Run(tmp_path / "whole")
    expected = whole()
    run = Run(tmp_path / "interrupted")
    with pytest.raises(InterruptedTrainingError):
        run(fail_in_epoch=epoch)
    run.steps_before = (epoch - 1) * STEPS_PER_EPOCH  # the last checkpoint
    assert run() == expected
    assert run.model.steps == (4 - epoch + 1) * STEPS_PER_EPOCH
    assert_same_weights(run.weights(), whole.weights())
    assert run.logged == whole.logged


@pytest.mark.parametrize(
    ("fail_at_example", "checkpoint_steps", "resumed_from"),
    [(49, 500, 10), (49, 4, 12), (47, 2, 10), (35, 2, 8), (25, 2, 6), (21, 4, 5), (3, 1, 0)],
)
def test_interrupted_within_an_epoch_and_resumed_gives_the_same(
    fail_at_example, checkpoint_steps, resumed_from, tmp_path
):
    whole = Run(tmp_path / "whole")
    expected = whole()
    run = Run(tmp_path / "interrupted", checkpoint_steps=checkpoint_steps)
    with pytest.raises(InterruptedTrainingError):
        run(fail_at_example=fail_at_example)
    assert max(checkpoints(run.directory), default=0) == resumed_from
    logged = list(run.logged)
    run.steps_before = resumed_from
    assert run() == expected
    assert run.model.steps == 20 - resumed_from
    assert_same_weights(run.weights(), whole.weights())
    assert [step for step, _ in run.logged] == [5, 10, 15, 20]
    for (_, found), (_, metrics) in zip(run.logged, whole.logged, strict=True):
        # The mean over an epoch is a sum of means between checkpoints: the last digit may differ.
        assert found == pytest.approx(metrics, rel=1e-6)
    assert run.logged[: len(logged)] == logged


def test_whether_checkpoints_fall_within_epochs_changes_no_weight(tmp_path):
    one, other = Run(tmp_path / "one"), Run(tmp_path / "other", checkpoint_steps=2)
    one()
    other()
    assert_same_weights(other.weights(), one.weights())


@pytest.mark.parametrize("state", [None, "", '{"epoch": 2.0, "global_'])
def test_a_checkpoint_half_written_is_not_resumed_from(state, tmp_path):
    whole = Run(tmp_path / "whole")
    expected = whole()
    run = Run(tmp_path / "killed")
    with pytest.raises(InterruptedTrainingError):
        run(fail_in_epoch=3)
    half = run.directory / "checkpoint-15"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    if state is not None:
        (half / "trainer_state.json").write_text(state)  # the file that is written last
    run.steps_before = 10
    assert run() == expected
    assert_same_weights(run.weights(), whole.weights())


def test_the_weights_that_validated_best_are_kept(tmp_path):
    run = Run(tmp_path, scores=[0.1, 0.5, 0.5, 0.2])
    assert run() == {SELECTION_METRIC: 0.5, "R@10": 2}  # the first of equals
    assert_same_weights(run.weights(), run.validated[2])
    assert not torch.equal(run.validated[2]["layers.0.weight"], run.validated[4]["layers.0.weight"])


def test_training_stops_when_validation_has_not_improved_for_long(tmp_path):
    run = Run(tmp_path, scores=[0.1, 0.5, 0.4, 0.3, 0.9, 0.9], num_epochs=6, patience=2)
    assert run()["R@10"] == 2
    assert list(run.validated) == [1, 2, 3, 4]
    assert_same_weights(run.weights(), run.validated[2])


@pytest.mark.parametrize("epoch", [3, 4])
def test_resuming_keeps_the_best_weights_their_metrics_and_the_patience(epoch, tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3, 0.9, 0.9]
    whole = Run(tmp_path / "whole", scores=scores, num_epochs=6, patience=2)
    expected = whole()
    run = Run(tmp_path / "interrupted", scores=scores, num_epochs=6, patience=2)
    with pytest.raises(InterruptedTrainingError):
        run(fail_in_epoch=epoch)
    run.steps_before = (epoch - 1) * STEPS_PER_EPOCH
    assert run() == expected == {SELECTION_METRIC: 0.5, "R@10": 2}
    assert max(run.validated) == 4
    assert_same_weights(run.weights(), whole.weights())


def test_a_finished_training_called_again_is_loaded(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3, 0.9, 0.9]
    run = Run(tmp_path, scores=scores, num_epochs=6, patience=2)
    expected = run()
    weights = run.weights()
    assert checkpoints(tmp_path) == [10]  # of the weights kept
    assert run() == expected
    assert run.model.steps == 0
    assert_same_weights(run.weights(), weights)


def test_a_directory_moved_before_the_last_word_still_gives_the_best_weights(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3]
    whole = Run(tmp_path / "whole", scores=scores)
    expected = whole()
    run = Run(tmp_path / "begun", scores=scores)
    with pytest.raises(InterruptedTrainingError):
        run(fail_in_epoch=4)
    run.directory = run.directory.rename(tmp_path / "moved")
    run.steps_before = 15
    assert run() == expected
    assert_same_weights(run.weights(), whole.weights())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", 1, r"another seed \(0, now 1\)"),
        ("batch_size", 5, r"another batch_size \(4, now 5\)"),
        ("num_epochs", 9, r"another num_epochs \(4, now 9\)"),
    ],
)
def test_a_directory_begun_with_other_settings_is_refused(name, value, message, tmp_path):
    Run(tmp_path)()
    with pytest.raises(UsageError, match=message):
        Run(tmp_path, **{name: value})()


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    with alone_in(tmp_path), pytest.raises(UsageError, match="another process is training in"):
        Run(tmp_path)()
    Run(tmp_path)()


def test_epochs_are_cut_to_the_limit_of_steps_but_one_remains(tmp_path):
    run = Run(tmp_path / "two", num_epochs=4, max_steps=14)
    run()
    assert run.model.steps == 2 * STEPS_PER_EPOCH
    run = Run(tmp_path / "one", num_epochs=4, max_steps=1)
    run()
    assert run.model.steps == STEPS_PER_EPOCH


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("not_a_number_at", r"toy: the loss is nan at step 8; .* goes on from checkpoint-5$"),
        ("no_gradient_at", r"toy: the gradient is nan at step 8; .* goes on from checkpoint-5$"),
    ],
)
def test_what_is_no_number_stops_training_before_it_touches_a_weight(cause, message, tmp_path):
    run = Run(tmp_path / "run", num_epochs=3)
    with pytest.raises(HymirecError, match=message):
        run(**{cause: 8})
    assert_same_weights(run.weights(), run.model.weights_now)
    assert [step for step, _ in run.logged] == [5]
    # What went before is not lost: without the cause, it goes on from there.
    run.steps_before = 5
    run()
    assert [step for step, _ in run.logged] == [5, 10, 15]


def test_no_number_in_the_first_epoch_leaves_nothing_to_go_on_from(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(DivergedError, match=r"loss is nan at step 1; .* begins anew"):
        run(not_a_number_at=1)
    assert checkpoints(tmp_path) == []


def test_a_training_goes_on_with_a_lower_learning_rate(tmp_path):
    def rates(run, **settings):
        """Learning rates of the steps of one call."""
        seen = []
        step = torch.optim.AdamW.step

        def noting(optimizer, *args, **kwargs):
            seen.append(optimizer.param_groups[0]["lr"])
            return step(optimizer, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.AdamW, "step", noting)
            run(**settings)
        return seen

    expected = rates(Run(tmp_path / "whole"))
    assert len(expected) == 20
    with pytest.raises(HymirecError):
        Run(tmp_path / "run")(not_a_number_at=12)
    lower = Run(tmp_path / "run", learning_rate=1e-3)  # a tenth
    lower.steps_before = 10
    assert rates(lower) == pytest.approx([rate / 10 for rate in expected[10:]])
    finished = Run(tmp_path / "run", learning_rate=5e-4)  # nothing left to do with it
    finished()
    assert_same_weights(finished.weights(), lower.weights())


class NoLoss(nn.Module):
    """Forgets what a model must return."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, points):
        return {"loss": None} if self.training else {}


def test_a_model_without_a_loss_is_named(tmp_path):
    examples = RandomExamples()
    with pytest.raises(HymirecError, match="toy: the model returned no `loss` with its `weight`"):
        train(
            NoLoss(), examples, examples.collate, dict, TrainingConfig(num_epochs=1),
            directory=tmp_path, name="toy",
        )  # fmt: skip


def test_long_epochs_report_in_between_with_throughput_and_time_left(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("hymirec.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="hymirec"):
        Run(tmp_path, num_epochs=2)()
    lines = [record.message for record in caplog.records if "step" in record.message]
    assert len(lines) == 8  # not at the end of an epoch, which has a line of its own
    pattern = r"toy: epoch 2/2, step 3/5, loss \d\.\d{3}, [\d,]+ targets/s, at most \d+ s left"
    assert re.fullmatch(pattern, lines[6])


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="epochs"):
        TrainingConfig(epochs=3)
    with pytest.raises(ValueError, match="num_epochs"):
        TrainingConfig(num_epochs=0)
