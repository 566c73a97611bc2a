"""Averages of weights: known sums, put in and taken out again, and what a training keeps."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hymirec.averaging import AVERAGES, Averages
from hymirec.training import SELECTION_METRIC, TrainingConfig, train


class Point(nn.Module):
    """One weight that a training moves and one that it must not touch."""

    def __init__(self, value=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))
        self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)

    def forward(self, points):
        loss = (self.weight - points).square().mean()
        return {"loss": loss, "weight": torch.tensor(len(points))}


def move(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def test_a_step_keeps_at_most_its_share_and_less_early_on():
    model = Point(1.0)
    averages = Averages(model, decay=0.25)
    move(model, 2.0)
    averages.update(1)  # keeps 2/11: 2/11 · 1 + 9/11 · 2
    assert averages.averages["weight"].item() == pytest.approx(20 / 11)
    move(model, 4.0)
    averages.update(2)  # keeps 3/12, which is the decay
    assert averages.averages["weight"].item() == pytest.approx(20 / 44 + 3)
    move(model, 0.0)
    averages.update(1000)  # would keep 1001/1010, but keeps the decay
    assert averages.averages["weight"].item() == pytest.approx((20 / 44 + 3) / 4)


def test_without_decay_the_average_is_the_last_weight():
    model = Point(1.0)
    averages = Averages(model, decay=0.0)
    move(model, 5.0)
    averages.update(500)
    assert averages.averages["weight"].item() == 5.0


def test_what_training_does_not_change_has_no_average():
    assert Averages(Point(), decay=0.9).averages.keys() == {"weight"}


def test_the_model_has_the_averages_inside_and_its_own_weights_after_whatever_happens():
    model = Point(1.0)
    averages = Averages(model, decay=0.9)
    move(model, 3.0)

    def fail_inside():
        with averages.in_place():
            assert model.weight.item() == 1.0
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert model.weight.item() == 3.0


def test_saved_and_loaded_they_are_the_same(tmp_path):
    averages = Averages(Point(1.5), decay=0.9)
    averages.save(tmp_path)
    other = Averages(Point(0.0), decay=0.9)
    other.load(tmp_path)
    assert other.averages["weight"].item() == 1.5


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_a_training_validates_and_keeps_the_average_of_its_weights(averaging, tmp_path):
    model = Point()
    trail, validated = [model.weight.item()], []

    def validate():
        validated.append(model.weight.item())
        return {SELECTION_METRIC: float(len(validated))}

    def collate(examples):
        trail.append(model.weight.item())  # after the step before
        return {"points": torch.tensor(examples)}

    train(
        model, [1.0, 2.0, 3.0, 4.0], collate, validate,
        TrainingConfig(num_epochs=2, batch_size=1, learning_rate=0.1, averaging=averaging),
        directory=tmp_path, name="point",
    )  # fmt: skip
    last = load_file(tmp_path / "checkpoint-8" / "model.safetensors")["weight"].item()
    steps = [*trail[2:], last]
    assert len(steps) == 8
    expected = trail[0]
    for step, weight in enumerate(steps, start=1):
        kept = min(averaging, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * weight
    assert validated[-1] == pytest.approx(expected)
    assert model.weight.item() == pytest.approx(expected)
    assert (model.weight.item() == pytest.approx(last)) == (averaging == 0)
    assert model.frozen.item() == 7.0


def test_a_checkpoint_without_averages_is_not_whole(tmp_path):
    def run():
        model = Point()
        train(
            model, [1.0, 2.0], lambda examples: {"points": torch.tensor(examples)},
            lambda: {SELECTION_METRIC: 1.0},
            TrainingConfig(num_epochs=1, batch_size=1), directory=tmp_path, name="point",
        )  # fmt: skip
        return model.weight.item()

    first = run()
    (tmp_path / "finished.json").unlink()
    (tmp_path / "checkpoint-2" / AVERAGES).unlink()
    assert run() == first  # trained again from the start
