"""A pretrained causal text model that reads item embeddings in place of words.

B users, T tokens, D width of an item embedding, H hidden width of the text model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from hymirec.errors import UsageError
from hymirec.models.pretrained import (
    PretrainedConfig,
    check_length,
    read_architecture,
    read_model,
    tune,
)

PROBE_TOLERANCE = 1e-4
"""Relative; rounding stays two orders of magnitude below."""


class PretrainedDecoder(nn.Module):
    """The layers of a causal text model over item embeddings, with projections in and out."""

    def __init__(
        self, width: int, config: PretrainedConfig, *, max_tokens: int, saved: Path | None = None
    ) -> None:
        """Make a decoder.

        Args:
            width: D, of what comes in and goes out.
            config: settings.
            max_tokens: positions it will be asked for.
            saved: an architecture to take in place of `config.source`, its weights yet to come.

        Raises:
            UsageError: see `read_model`; or the model is not causal, takes no embeddings or no
                block mask, or has too few positions.
            DataError: see `read_model`.
        """
        super().__init__()
        model = read_architecture(saved) if saved else read_model(config.source)
        hidden_width = model.config.hidden_size
        self.project_in = nn.Linear(width, hidden_width)
        self.project_out = nn.Linear(hidden_width, width)
        if not saved:
            check_length(model, config.source, max_tokens, "num_recent")
            table = model.get_input_embeddings().weight.detach()
            if table.shape[1] != hidden_width or not _is_decoder(model, table.std().item()):
                raise UsageError(
                    f"backbone {config.source}: a {model.config.model_type} is not a causal "
                    "decoder with free attention masks: it can read item texts, not histories"
                )
            self._start(table.square().mean().sqrt().item())
            # Items come as embeddings: the table of tokens would be carried around for nothing.
            model.set_input_embeddings(nn.Embedding(1, hidden_width))
            model.config.vocab_size = 1
            for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
                setattr(model.config, name, None)
            model = tune(model, config)
        model.get_input_embeddings().requires_grad_(False)
        self.model = model

    @property
    def config(self) -> Any:
        """The text model's own configuration."""
        return self.model.config

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> BaseModelOutput:
        """Embeddings [B, T, D] to hidden states [B, T, D], called as a `transformers` model is."""
        hidden = self.model(
            inputs_embeds=self.project_in(inputs_embeds),
            attention_mask=attention_mask,
            position_ids=position_ids,
        ).last_hidden_state
        return BaseModelOutput(last_hidden_state=self.project_out(hidden))

    def _start(self, token_size: float) -> None:
        """Begin with items as large as the model's tokens, and the way out as the way in, back."""
        width, hidden_width = self.project_in.in_features, self.project_in.out_features
        nn.init.orthogonal_(self.project_in.weight)
        with torch.no_grad():
            self.project_out.weight.copy_(self.project_in.weight.T)
            # An item has one standard deviation a coordinate (`token_scale`).
            self.project_in.weight.mul_(token_size * max(1.0, hidden_width / width) ** 0.5)
            self.project_in.bias.zero_()
            self.project_out.bias.zero_()


@torch.no_grad()
def _is_decoder(model: Any, token_size: float) -> bool:
    """Try whether a model is causal and keeps to a block mask with positions of our own.

    Asked by trying, since many that are causal by name do neither: state-space models, or those
    that count positions from the mask.
    """
    generator = torch.Generator().manual_seed(0)
    tokens = token_size * torch.randn(1, 5, model.config.hidden_size, generator=generator)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    mask[4, 2:4] = False
    positions = torch.tensor([[0, 1, 2, 3, 2]])
    training = model.training
    model.eval()
    try:
        whole = model(inputs_embeds=tokens).last_hidden_state
        start = model(inputs_embeds=tokens[:, :4]).last_hidden_state
        masked = model(
            inputs_embeds=tokens, attention_mask=mask[None, None], position_ids=positions
        ).last_hidden_state
        picked = model(inputs_embeds=tokens[:, [0, 1, 4]]).last_hidden_state
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False
    finally:
        model.train(training)

    def alike(one: Tensor, other: Tensor) -> bool:
        return bool(((one - other).norm(dim=-1) <= PROBE_TOLERANCE * other.norm(dim=-1)).all())

    return alike(whole[:, :4], start) and alike(masked[:, 4], picked[:, 2])
