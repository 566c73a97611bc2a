"""HyMiRec for requests: the same interests from a third of the operations.

One user's interests are some 10⁷ multiplications, a few tenths of a millisecond; a pass through
`HyMiRec.encode_user` spends ten times that on going from one small operation to the next. So what
does not depend on the user is computed once, what is multiplied by the same vectors is multiplied
at once, and what nobody reads is left out. `tests/hymirec/models/test_fused.py` holds both equal.

B users, L history length, N recent items, Q coarse queries, S interests, T = N + Q + S tokens,
D width, H heads, F width inside a feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.functional import gelu, linear, normalize, scaled_dot_product_attention, silu
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from hymirec.models.hymirec import CoarseInterests, CoarseLayer, HyMiRec

_TINY = 1e-12
"""Keeps zero vectors zero where others get one standard deviation a coordinate."""


class FusedHyMiRec:
    """What a trained model does for users with events; it holds copies of the weights.

    Items and codebook are the model's own at the time of a call.
    """

    @torch.no_grad()
    def __init__(self, model: HyMiRec) -> None:
        """Compute what does not depend on the user.

        Args:
            model: in evaluation mode, on a CPU, and `FusedHyMiRec.fits` it.
        """
        settings = model.settings
        backbone = cast(LlamaModel, model.backbone)
        self._model = model
        self._coarse = None if model.coarse is None else _FusedCoarse(model.coarse, model)
        self._queries = model.refined_queries.detach()
        self._layers = [_FusedLayer(layer) for layer in backbone.layers]
        # Interests are made unit vectors: of the last norm only the weight remains.
        self._norm = backbone.norm.weight.detach()
        positions = torch.arange(settings.num_recent + 1)
        cos, sin = backbone.rotary_emb(self._queries, positions[None])
        # Queries and keys of all heads are turned at once.
        self._cos, self._sin = (
            part[0].repeat(1, 2 * settings.backbone.num_heads) for part in (cos, sin)
        )
        num_last = settings.num_coarse + settings.num_interests
        num_tokens = settings.num_recent + num_last
        mask = torch.full((num_tokens, num_tokens), -torch.inf).triu(1)
        mask[-num_last:, -num_last:] = 0
        self._mask = mask

    @staticmethod
    def fits(model: HyMiRec) -> bool:
        """Whether this knows the model's backbone: a Llama of our own, without adapters."""
        backbone = model.backbone
        return isinstance(backbone, LlamaModel) and all(
            type(part) is nn.Linear and part.bias is None
            for layer in backbone.layers
            for part in (layer.self_attn.q_proj, layer.self_attn.o_proj, layer.mlp.down_proj)
        )

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Model inputs of users with events to interests [B, S, D] at unit length."""
        items, lengths = inputs["recent_items"], inputs["recent_length"]
        num_users, num_recent = items.shape
        recent = _scaled(self._model.items[items])
        last = recent[torch.arange(num_users), lengths - 1]
        tokens = [recent, last[:, None] + self._queries]
        if self._coarse is not None:
            history = _scaled(self._model.codebook.decode(inputs["history_codes"]))
            tokens.insert(1, self._coarse(history, inputs["history_length"]))
        hidden = torch.cat(tokens, dim=1)  # [B, T, D]

        num_tokens = hidden.shape[1]
        num_last = num_tokens - num_recent
        mask = self._mask[-num_tokens:, -num_tokens:]
        # Tokens after the items stand where the next item would.
        place = torch.arange(num_recent).expand(num_users, -1)
        place = torch.cat([place, lengths[:, None].expand(-1, num_last)], dim=1)
        cos, sin = self._cos[place], self._sin[place]
        if num_users > 1:  # of one alone, nothing is padding
            mask = mask.repeat(num_users, 1, 1, 1)
            padding = torch.arange(num_recent) >= lengths[:, None]
            mask[:, :, num_recent:, :num_recent].masked_fill_(padding[:, None, None], -torch.inf)
        for layer in self._layers[:-1]:
            hidden = layer(hidden, cos, sin, mask, 0)
        # Of the last layer only the interests are read.
        first = num_tokens - len(self._queries)
        hidden = self._layers[-1](hidden, cos, sin, mask, first)
        return normalize(hidden * self._norm, dim=-1)


class _FusedLayer:
    """A layer of Llama whose norms' weights are part of what they are multiplied by."""

    def __init__(self, layer: LlamaDecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._head_width = attention.head_dim
        query_key = torch.cat([attention.q_proj.weight, attention.k_proj.weight])
        # A position turns a vector by adding a multiple of the vector with halves swapped.
        together = torch.cat(
            [query_key, _halves_swapped(query_key, self._head_width), attention.v_proj.weight]
        )
        self._norm = _Norm(together.shape[1], layer.input_layernorm.variance_epsilon)
        self._attend = self._norm.into(together, layer.input_layernorm.weight)
        self._output = attention.o_proj.weight.detach()
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        self._gate_up = self._norm.into(gate_up, layer.post_attention_layernorm.weight)
        self._down = mlp.down_proj.weight.detach()

    def __call__(
        self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, first: int
    ) -> Tensor:
        """Tokens [B, T, D] to those from `first` on; cos and sin are [B, T, 2·D]."""
        num_users, num_tokens, width = tokens.shape
        parts = linear(self._norm(tokens), self._attend)
        turned = parts[..., : 2 * width] * cos
        turned.addcmul_(parts[..., 2 * width : 4 * width], sin)
        heads = (num_users, num_tokens, -1, self._head_width)
        query = turned[..., :width].view(heads).transpose(1, 2)
        key = turned[..., width:].view(heads).transpose(1, 2)
        value = parts[..., 4 * width :].view(heads).transpose(1, 2)
        if first:
            query, mask, tokens = query[:, :, first:], mask[..., first:, :], tokens[:, first:]
        seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + linear(seen.transpose(1, 2).flatten(2), self._output)
        gate, up = linear(self._norm(tokens), self._gate_up).chunk(2, -1)
        return tokens + linear(silu(gate).mul_(up), self._down)


class _FusedCoarse:
    """The light recommender: keys and values of all layers at once, ages looked up."""

    def __init__(self, coarse: CoarseInterests, model: HyMiRec) -> None:
        width = model.items.shape[1]
        num_heads = model.settings.backbone.num_heads
        layers = [layer for layer in coarse.layers if isinstance(layer, CoarseLayer)]
        self._start = coarse.queries.detach()
        self._shape = (len(layers), 2, num_heads, width // num_heads)
        # An event at one standard deviation a coordinate is its own norm.
        self._key_value = torch.cat(
            [layer.to_key_value.weight * layer.event_norm.weight for layer in layers]
            or [torch.zeros(0, width)]
        ).detach()
        ages = CoarseLayer.age(torch.arange(model.settings.max_history))
        self._layers = [_FusedCoarseLayer(layer, ages) for layer in layers]
        self._norm = coarse.norm
        self._mark = None if model.indicator is None else model.indicator.detach()

    def __call__(self, history: Tensor, lengths: Tensor) -> Tensor:
        """Events [B, L, D] at one standard deviation a coordinate to marked interests [B, Q, D]."""
        num_users, length, _ = history.shape
        parts = linear(history, self._key_value).view(num_users, length, *self._shape)
        parts = parts.permute(2, 3, 0, 4, 1, 5)  # [layers, 2, B, H, L, D / H]
        since = (lengths[:, None] - torch.arange(length)).clamp_(min=0)  # [B, L], from 1; 0: none
        queries = self._start.expand(num_users, -1, -1)
        for layer, (key, value) in zip(self._layers, parts, strict=True):
            queries = layer(queries, key, value, since)
        queries = self._norm(queries)
        return queries if self._mark is None else queries + self._mark


class _FusedCoarseLayer:
    """A `CoarseLayer` that is given the events as keys and values."""

    def __init__(self, layer: CoarseLayer, ages: Tensor) -> None:
        to_query = layer.to_query.weight
        norm, up, _, down, _ = cast(Any, layer.feed_forward.layers)
        self._norm = _Norm(to_query.shape[1], torch.finfo(to_query.dtype).eps)
        self._to_query = self._norm.into(to_query, layer.query_norm.weight)
        self._output = layer.to_output.weight.detach()
        self._up = self._norm.into(up.weight, norm.weight), up.bias.detach()
        self._down = down.weight.detach(), down.bias.detach()
        # By events since, from 1; 0 stands for places that hold no event.
        bias = layer.age_bias.detach()[:, ages]
        self._bias = torch.cat([torch.full_like(bias[:, :1], -torch.inf), bias], dim=1)

    def __call__(self, queries: Tensor, key: Tensor, value: Tensor, since: Tensor) -> Tensor:
        """Queries [B, Q, D], keys and values [B, H, L, D / H], events since [B, L] to queries."""
        query = linear(self._norm(queries), self._to_query)
        query = query.unflatten(2, (key.shape[1], -1)).transpose(1, 2)
        bias = self._bias[:, since].transpose(0, 1)[:, :, None]  # [B, H, 1, L]
        seen = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        queries = queries + linear(seen.transpose(1, 2).flatten(2), self._output)
        return queries + linear(gelu(linear(self._norm(queries), *self._up)), *self._down)


class _Norm:
    """A root-mean-square norm without its weight and its constant, in three operations.

    PyTorch has no kernel of its own for it on a CPU, and takes seven.
    """

    def __init__(self, width: int, eps: float) -> None:
        self._root = width**0.5
        self._eps = torch.tensor((width * eps) ** 0.5)

    def __call__(self, vectors: Tensor) -> Tensor:
        return vectors / torch.hypot(vector_norm(vectors, dim=-1, keepdim=True), self._eps)

    def into(self, weight: Tensor, norm: Tensor) -> Tensor:
        """What the vectors [..., D] are multiplied by, [anything, D], with what this leaves out."""
        return (weight * norm * self._root).detach()


def _scaled(vectors: Tensor) -> Tensor:
    """As `hymirec.models.layers.token_scale`."""
    norm = vector_norm(vectors, dim=-1, keepdim=True).clamp_(min=_TINY)
    return vectors * (vectors.shape[-1] ** 0.5 / norm)


def _halves_swapped(weight: Tensor, head_width: int) -> Tensor:
    """Rows [heads · head width, D] such that a head's product is (-second half, first half)."""
    first, second = weight.unflatten(0, (-1, 2, head_width // 2)).unbind(1)
    return torch.stack([-second, first], dim=1).flatten(0, 2)
