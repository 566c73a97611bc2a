"""The content encoder: item text to item embedding, by a language model.

The model reads "Title: … Content: …" with a special token at the end, whose hidden state is what
it has understood of the item (HyMiRec, section on the content encoder). N items, T tokens,
H hidden width, D width of an item embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import normalize

from hymirec.models.layers import BackboneConfig, build_backbone
from hymirec.schema import ITEM_ID, PADDING_INDEX, SOURCE_ROW, TITLE

PAD_TOKEN, UNKNOWN_TOKEN, ITEM_TOKEN = "[PAD]", "[UNK]", "[ITEM]"
_SPECIAL_TOKENS = (PAD_TOKEN, UNKNOWN_TOKEN, ITEM_TOKEN)
"""The trainer gives them the ids 0, 1 and 2, in this order."""


def item_texts(items: pd.DataFrame) -> list[str]:
    """What the encoder reads of each row of a canonical items table.

    The title comes first, then every further column of text, in the table's order.
    """
    titles = items[TITLE].fillna("").astype(str)
    content = pd.Series("", index=items.index)
    for column in items.columns:
        if column in (ITEM_ID, TITLE, SOURCE_ROW) or not _is_text(items[column]):
            continue
        content = content + " " + items[column].fillna("").astype(str)
    return ("Title: " + titles + " Content:" + content).tolist()


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) in ("string", "empty")


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-pair vocabulary of at most `vocab_size` tokens from the catalogue itself.

    Letters' case and accents are dropped; digits stand alone, so that years share their parts.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL_TOKENS),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tensor:
    """Texts to token ids, int64 [N, T], ending in the item token and padded on the right.

    A text longer than `max_tokens` is cut before the item token.
    """
    item_token = _SPECIAL_TOKENS.index(ITEM_TOKEN)
    encoded = [[*text.ids[: max_tokens - 1], item_token] for text in tokenizer.encode_batch(texts)]
    tokens = torch.zeros(len(texts), max(map(len, encoded)), dtype=torch.int64)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens


class EncoderConfig(BaseModel):
    """Settings of the content encoder and of what stands beside it while it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 64
    """Of the item embeddings: D."""
    hidden_width: PositiveInt = 64
    """Of the language model: H."""
    backbone: BackboneConfig = BackboneConfig(dropout=0.1)
    vocab_size: PositiveInt = 4096
    max_tokens: PositiveInt = 32
    texts_per_step: PositiveInt = 256
    """Items of a batch whose text is read anew, with gradients; the others use what was read
    last, at most some steps ago."""
    free_vectors: bool = True
    """Learn a vector of each item's own beside its text: behaviour that no title tells."""
    free_dropout: float = Field(0.3, ge=0, le=1)
    """Share of items whose own vector is left out in a step, so that text stands alone too."""


class ContentEncoder(nn.Module):
    """The language model: token ids to the hidden state of the last token."""

    def __init__(self, config: EncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.backbone = build_backbone(
            config.hidden_width,
            config.backbone,
            vocab_size=vocab_size,
            max_tokens=config.max_tokens,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, T], padded on the right, to hidden states [N, H].

        Attention is causal, so the last token reads the whole text and never the padding.
        """
        last = (tokens != 0).sum(dim=1).clamp(min=1) - 1
        tokens = tokens[:, : int(last.max()) + 1]
        hidden = self.backbone(input_ids=tokens).last_hidden_state
        return hidden[torch.arange(len(tokens), device=tokens.device), last]


class ItemTower(nn.Module):
    """Item indices to item embeddings at unit length: what text says plus what behaviour adds.

    Reading every text of a batch anew in every step would cost more than all else together, so a
    step reads `texts_per_step` of them with gradients and takes the others from a table of what
    was read last, which a training epoch goes through several times.
    """

    tokens: Tensor
    last_read: Tensor
    occurrences: Tensor

    def __init__(
        self, config: EncoderConfig, tokens: Tensor, vocab_size: int, interactions: Tensor
    ) -> None:
        """Make a tower.

        Args:
            config: its settings.
            tokens: int64 [N + 1, T]; row 0 is the padding item.
            vocab_size: number of token ids.
            interactions: int64 [N + 1], how often an item occurs in training; an item that never
                does has no vector of its own, only its text.
        """
        super().__init__()
        self.settings = config
        self.encoder = ContentEncoder(config, vocab_size)
        self.project = nn.Linear(config.hidden_width, config.width)
        self.free = nn.Embedding(len(tokens), config.width)
        nn.init.normal_(self.free.weight, std=0.1)
        self.register_buffer("tokens", tokens)
        self.register_buffer("last_read", torch.zeros(len(tokens), config.hidden_width))
        self.register_buffer("occurrences", interactions)

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return len(self.tokens) - 1

    @torch.no_grad()
    def reread(self, batch_size: int = 512) -> None:
        """Read all texts, shortest first so that a batch holds little padding."""
        training = self.training
        self.eval()
        order = (self.tokens != 0).sum(dim=1).argsort()
        for part in order.split(batch_size):
            self.last_read[part] = self.encoder(self.tokens[part])
        self.train(training)

    def forward(self, items: Tensor) -> Tensor:
        """Distinct item indices [U] to unit vectors [U, D]."""
        text = self.last_read[items]
        if self.training:
            fresh = torch.randperm(len(items), device=items.device)[: self.settings.texts_per_step]
            hidden = self.encoder(self.tokens[items[fresh]])
            text = text.index_copy(0, fresh, hidden)
            self.last_read[items[fresh]] = hidden.detach()
        vectors = self.project(text)
        if self.settings.free_vectors:
            keep = self.occurrences[items] > 0
            if self.training:
                keep = keep & (
                    torch.rand(len(items), device=items.device) >= self.settings.free_dropout
                )
            vectors = vectors + self.free(items) * keep[:, None]
        return normalize(vectors, dim=1)

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """All item embeddings, [N + 1, D] at unit length; row 0, padding, is zero."""
        training = self.training
        self.eval()
        self.reread()
        vectors = self(torch.arange(len(self.tokens), device=self.tokens.device))
        vectors[PADDING_INDEX] = 0
        self.train(training)
        return vectors
