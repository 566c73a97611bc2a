"""What several models are made of.

D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, scaled_dot_product_attention
from transformers import LlamaConfig, LlamaModel

from hymirec.models.decoder import PretrainedDecoder
from hymirec.models.pretrained import PretrainedConfig


class BackboneConfig(BaseModel):
    """A small Llama trained from scratch or, where `pretrained` names one, a model to start from.

    A pretrained model has its own layers, heads and dropout; the settings here are then those of
    what stands beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_layers: PositiveInt = 2
    """Transformer layers."""
    num_heads: PositiveInt = 2
    """Of the attention; the width is divided among them."""
    expansion: PositiveInt = 2
    """Width of the feed-forward layer, in widths of the model."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of activations left out."""
    pretrained: PretrainedConfig = PretrainedConfig()
    """The model to start from; none unless it names one."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a learned table [n, …] by number, int64 of any shape.

    PyTorch sums the gradient of `table[index]` in whatever order threads arrive on a CPU, and that
    of `index_select` on a GPU (`torch.use_deterministic_algorithms` lists them): two trainings of
    one seed would end with different weights.
    """
    if table.is_cuda:
        return table[index]
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def build_backbone(
    width: int, config: BackboneConfig, *, max_tokens: int = 4096, saved: Path | None = None
) -> nn.Module:
    """Make a causal model over embeddings of width D, called as a `transformers` model is.

    Args:
        width: D, of what comes in and goes out.
        config: settings.
        max_tokens: positions it will be asked for.
        saved: where `hymirec.models.pretrained.save_architecture` wrote that of a pretrained
            backbone; its weights are then the caller's to load.

    Raises:
        UsageError: see `hymirec.models.decoder.PretrainedDecoder`.
        DataError: the same.
    """
    if config.pretrained.source:
        decoder = PretrainedDecoder(width, config.pretrained, max_tokens=max_tokens, saved=saved)
        checkpoint_gradients(decoder.model, config)
        return decoder
    backbone = build_llama(width, config, vocab_size=1, max_tokens=max_tokens)
    # Never read: several processes would wait in vain for its gradient.
    backbone.get_input_embeddings().requires_grad_(False)
    return backbone


def build_llama(
    width: int, config: BackboneConfig, *, vocab_size: int, max_tokens: int
) -> LlamaModel:
    """Make a `transformers` Llama of width D that adds dropout where small data needs it.

    Llama has no dropout on its residual branches, being made for data that is seen once; a
    catalogue's few hundred thousand events are seen many times.
    """
    backbone = LlamaModel(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=config.expansion * width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            max_position_embeddings=max_tokens,
            # Without it PyTorch's fused attention runs on a CPU too, at half the time of a step;
            # the branches have dropout of their own.
            attention_dropout=0.0,
            use_cache=False,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    for layer in backbone.layers:
        for branch in (layer.self_attn.o_proj, layer.mlp.down_proj):
            branch.register_forward_hook(
                lambda module, _, output: dropout(output, config.dropout, module.training)
            )
    checkpoint_gradients(backbone, config)
    return backbone


def checkpoint_gradients(model: Any, config: BackboneConfig) -> None:
    """Switch a `transformers` model to computing activations twice, if the settings say so."""
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})


def token_scale(vectors: Tensor) -> Tensor:
    """Vectors [..., D] of any length to backbone inputs: one standard deviation a coordinate."""
    return normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5


class InputDropout(nn.Module):
    """Leaves out whole items of a sequence, and coordinates of those it keeps.

    A model that has to do without some items of a history leans less on having seen that very
    history before.
    """

    def __init__(self, items: float, coordinates: float) -> None:
        """Take the shares that a training step leaves out."""
        super().__init__()
        self.items = items
        self.coordinates = nn.Dropout(coordinates)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]; an item left out is zero."""
        if self.training and self.items:
            kept = torch.rand(tokens.shape[:2], device=tokens.device) >= self.items
            tokens = tokens * kept[..., None]
        return self.coordinates(tokens)


class FeedForward(nn.Module):
    """Norm, two layers, dropout: one residual branch of a Transformer block."""

    def __init__(self, width: int, config: BackboneConfig) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.RMSNorm(width),
            nn.Linear(width, config.expansion * width),
            nn.GELU(),
            nn.Linear(config.expansion * width, width),
            nn.Dropout(config.dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] to [..., D], residual included."""
        return tokens + self.layers(tokens)


class CausalBlock(nn.Module):
    """A Transformer block whose positions see themselves and what lies before them."""

    def __init__(self, width: int, config: BackboneConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm = nn.RMSNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.to_output = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.feed_forward = FeedForward(width, config)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, D] to [B, T, D]."""
        parts = self.to_query_key_value(self.norm(tokens)).chunk(3, dim=2)
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts
        )
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        seen = self.to_output(seen.transpose(1, 2).flatten(2))
        return self.feed_forward(tokens + self.dropout(seen))
