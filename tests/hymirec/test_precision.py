"""Mixed precision and recomputed activations."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.training import SELECTION_METRIC, TrainingConfig, train


class Points(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, place):
        return torch.randn(5, 8)

    @staticmethod
    def collate(examples):
        return {"points": torch.stack(examples)}


class Backbone(nn.Module):
    """Learns the sum of what came before, with a backbone as the recommenders have it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.backbone = build_backbone(8, BackboneConfig(num_layers=2, num_heads=2, dropout=0.1))
        self.head = nn.Linear(8, 8)
        self.dtypes, self.losses = set(), []
        self.backbone.layers[0].mlp.up_proj.register_forward_hook(self._note)

    def _note(self, module, inputs, output):
        self.dtypes.add(output.dtype)

    def forward(self, points):
        hidden = self.backbone(inputs_embeds=points).last_hidden_state
        loss = (self.head(hidden) - points.cumsum(dim=1)).square().mean()
        self.losses.append(loss.item())
        return {"loss": loss, "weight": torch.tensor(len(points))}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    def run(**settings):
        model = Backbone()
        config = TrainingConfig(num_epochs=10, batch_size=8, learning_rate=3e-2, **settings)
        scores = iter(range(100))
        train(
            model, Points(), Points.collate, lambda: {SELECTION_METRIC: next(scores)}, config,
            directory=tmp_path_factory.mktemp("run"), name="toy",
        )  # fmt: skip
        return model

    return run


@pytest.fixture(scope="module")
def plain(run):
    return run(precision="fp32")


def test_in_bf16_the_layers_compute_in_it_and_the_weights_stay_fp32(run, plain):
    model = run(precision="bf16")
    assert torch.bfloat16 in model.dtypes
    assert plain.dtypes == {torch.float32}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert model.losses[-1] < 0.8 * model.losses[0]  # seen: 0.765
    assert model.losses[-1] == pytest.approx(plain.losses[-1], rel=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in bf16 by itself")
def test_on_a_cpu_precision_is_full_unless_asked_otherwise(run, plain):
    model = run()
    assert model.dtypes == {torch.float32}
    assert model.losses == plain.losses
