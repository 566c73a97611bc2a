"""The content encoder: item text to item embedding, by a language model.

The model reads "Title: … Content: …" with a special token at the end, whose hidden state is what
it has understood of the item (HyMiRec, section on the content encoder). It is a small Llama trained
from scratch, with a tokenizer trained on the catalogue, or a pretrained model of `transformers`,
causal or bidirectional, with its own.

N items, T tokens, H hidden width, D width of an item embedding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from hymirec.errors import UsageError
from hymirec.models.layers import BackboneConfig, build_llama, checkpoint_gradients
from hymirec.models.pretrained import (
    check_length,
    fit_vocabulary,
    read_architecture,
    read_model,
    read_tokenizer,
    save_architecture,
    tune,
    without_adapters,
)
from hymirec.models.towers import START_SIZE, Tower
from hymirec.schema import PADDING_INDEX

PAD_TOKEN, UNKNOWN_TOKEN, ITEM_TOKEN = "[PAD]", "[UNK]", "[ITEM]"
_SPECIAL_TOKENS = (PAD_TOKEN, UNKNOWN_TOKEN, ITEM_TOKEN)
"""The trainer gives them the ids 0, 1 and 2, in this order."""
PADDING_TOKEN = -1
"""Where a row of token ids has ended. No vocabulary holds it; a text may hold any token it does."""
TOKENS_PER_BATCH = 16_384
"""Of texts read together without gradients, padding counted."""


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


def make_tokenizer(config: EncoderConfig, texts: Sequence[str]) -> Tokenizer:
    """Load the pretrained model's tokenizer, or train one on the texts."""
    source = config.backbone.pretrained.source
    if source:
        return read_tokenizer(source, ITEM_TOKEN)
    return train_tokenizer(texts, config.vocab_size)


def count_tokens(tokenizer: Tokenizer) -> int:
    """Rows that an embedding table needs: the highest token id and one."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenise(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, *, item_token: bool = True
) -> Tensor:
    """Texts to token ids, int64 [N, T], padded on the right with `PADDING_TOKEN`.

    Args:
        tokenizer: brings its own special tokens, such as BERT's at either end.
        texts: N texts; one that is too long is cut, its special tokens kept.
        max_tokens: T at most.
        item_token: let the item token follow at the end of each.

    Raises:
        UsageError: `max_tokens` leaves no room for any text.
    """
    room = max_tokens - item_token
    if room < tokenizer.num_special_tokens_to_add(False) + 1:
        raise UsageError(f"max_tokens is {max_tokens}: that leaves no room for any text")
    tokenizer.enable_truncation(room)
    end = [tokenizer.token_to_id(ITEM_TOKEN)] if item_token else []
    encoded = [[*text.ids, *end] for text in tokenizer.encode_batch(list(texts))]
    tokens = torch.full((len(texts), max(1, *map(len, encoded))), PADDING_TOKEN)
    for row, ids in zip(tokens, encoded, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return tokens


def text_lengths(tokens: Tensor) -> Tensor:
    """Token ids [N, T] to the number of tokens in each row, int64 [N], at least 1."""
    return (tokens != PADDING_TOKEN).sum(dim=1).clamp(min=1)


def length_batches(tokens: Tensor) -> Iterator[Tensor]:
    """Rows of token ids in batches of about `TOKENS_PER_BATCH`, shortest first: int64 indices.

    Texts of one length share a batch, so that it holds little padding.
    """
    lengths = text_lengths(tokens)
    order = lengths.argsort(stable=True)
    while len(order):
        # As many as fit at the length of the longest, which comes last.
        longest = lengths[order[:TOKENS_PER_BATCH]]
        sizes = torch.arange(1, len(longest) + 1, device=order.device) * longest
        size = max(1, int((sizes <= TOKENS_PER_BATCH).sum()))
        yield order[:size]
        order = order[size:]


class EncoderConfig(BaseModel):
    """Settings of the content encoder and of what stands beside it while it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: PositiveInt = 64
    """Of the item embeddings: D."""
    hidden_width: PositiveInt = 64
    """Of a language model from scratch: H. A pretrained one has its own."""
    backbone: BackboneConfig = BackboneConfig(dropout=0.1)
    """The language model."""
    pooling: Literal["last", "mean"] = "last"
    """What of the hidden states is the text's: that of the item token at its end, or the mean over
    its tokens, without an item token, which most bidirectional models were made for."""
    vocab_size: PositiveInt = 4096
    """Of a tokenizer trained on the catalogue, at most. A pretrained model has its own."""
    max_tokens: PositiveInt = 32
    """Of one text; what is longer is cut."""
    texts_per_step: PositiveInt = 256
    """Items of a batch whose text is read anew, with gradients; the others use what was read
    last, at most some steps ago."""
    free_vectors: bool = True
    """Learn a vector of each item's own beside its text: behaviour that no title tells."""
    text_events: PositiveFloat = 30.0
    """How many events of an item its text counts as, where it has a vector of its own: an item
    with as many is told half by the one, half by the other; one without any by text alone."""
    text_weight: NonNegativeFloat = 0.05
    """Of the loss that teaches text to stand alone, beside vectors of the items' own."""
    text_temperature: PositiveFloat = 0.07
    """τ of that loss."""


class ContentEncoder(nn.Module):
    """The language model: token ids to one hidden state a text."""

    def __init__(
        self, config: EncoderConfig, vocab_size: int, *, item_token: int = 0,
        saved: Path | None = None,
    ) -> None:  # fmt: skip
        """Make an encoder.

        Args:
            config: settings.
            vocab_size: number of token ids.
            item_token: its id; read only where a pretrained model learns it.
            saved: where `hymirec.models.pretrained.save_architecture` wrote that of a pretrained
                backbone; its weights are then the caller's to load.

        Raises:
            UsageError: the pretrained model cannot be found or cannot do what the settings ask.
            DataError: its files cannot be read or do not belong together.
        """
        super().__init__()
        self.settings = config
        self.vocab_size = vocab_size
        pretrained = config.backbone.pretrained
        self.pretrained = bool(pretrained.source)
        backbone: Any
        if not self.pretrained:
            backbone = build_llama(
                config.hidden_width, config.backbone,
                vocab_size=vocab_size, max_tokens=config.max_tokens,
            )  # fmt: skip
        elif saved:
            backbone = read_architecture(saved)
        else:
            backbone = read_model(pretrained.source)
            check_length(backbone, pretrained.source, config.max_tokens, "encoder.max_tokens")
            fit_vocabulary(backbone, pretrained.source, vocab_size)
            in_use = item_token if config.pooling == "last" else None
            backbone = tune(backbone, pretrained, item_token=in_use)
            checkpoint_gradients(backbone, config.backbone)
        self.backbone = backbone

    def save(self, directory: Path) -> None:
        """Write settings and weights, those of a pretrained backbone among them."""
        directory.mkdir(parents=True)
        settings = {"encoder": self.settings.model_dump(mode="json"), "vocab_size": self.vocab_size}
        (directory / "settings.json").write_text(json.dumps(settings, indent=2))
        save_file(without_adapters(self).state_dict(), directory / "weights.safetensors")
        save_architecture(self.backbone, directory / "encoder")

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        settings = json.loads((directory / "settings.json").read_text())
        config = EncoderConfig.model_validate(settings["encoder"])
        encoder = cls(config, settings["vocab_size"], saved=directory / "encoder")
        encoder.load_state_dict(load_file(directory / "weights.safetensors"))
        return encoder.eval()

    @property
    def hidden_width(self) -> int:
        """H."""
        return self.backbone.config.hidden_size

    @property
    def learns(self) -> bool:
        """Whether training changes what is read in a text."""
        return not self.pretrained or self.settings.backbone.pretrained.tuning != "frozen"

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [N, T], padded on the right, to hidden states [N, H] in single precision."""
        length = text_lengths(tokens)
        tokens = tokens[:, : int(length.max())].clamp(min=0)
        real = torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]  # [N, T]
        # Our own Llama is causal: what is read at the end of a text never saw the padding.
        mask = real.long() if self.pretrained else None
        hidden = self.backbone(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
        if self.settings.pooling == "mean":
            return (hidden * real[..., None]).sum(dim=1) / length[:, None]
        return hidden[torch.arange(len(tokens), device=tokens.device), length - 1]


class ItemTower(Tower):
    """Item indices to item embeddings at unit length: what text says plus what behaviour adds.

    Reading every text of a batch anew in every step would cost more than all else together, so a
    step reads `texts_per_step` of them with gradients and takes the others from a table of what
    was read last, which a training epoch goes through several times.

    With vectors of the items' own, nothing makes text say much by itself; yet it is all that an
    item without interactions has. So the texts read anew are also asked, each alone, which item of
    the step they belong to. (Leaving the own vectors of some items out of a step teaches that too,
    but a third of a sequence then reads as if nobody had ever taken it: docs/experiments.md.)
    """

    tokens: Tensor
    last_read: Tensor

    def __init__(
        self, config: EncoderConfig, tokens: Tensor, vocab_size: int, interactions: Tensor, *,
        saved: Path | None = None,
    ) -> None:  # fmt: skip
        """Make a tower.

        Args:
            config: its settings.
            tokens: int64 [N + 1, T], padded with `PADDING_TOKEN`; row 0 is the padding item.
            vocab_size: number of token ids.
            interactions: int64 [N + 1], how often an item occurs in training; an item that never
                does has no vector of its own, only its text.
            saved: as `ContentEncoder`.

        Raises:
            UsageError: as `ContentEncoder`.
            DataError: as `ContentEncoder`.
        """
        super().__init__()
        self.settings = config
        # With the item token in use, every text ends in it.
        item_token = int(tokens[-1, text_lengths(tokens[-1:]) - 1])
        self.encoder = ContentEncoder(config, vocab_size, item_token=item_token, saved=saved)
        self.project = nn.Linear(self.encoder.hidden_width, config.width)
        self.free = nn.Embedding(len(tokens), config.width) if config.free_vectors else None
        if self.free is not None:
            # Only directions count: the shorter a vector, the further a step turns it.
            nn.init.normal_(self.free.weight, std=START_SIZE)
        self.register_buffer("tokens", tokens)
        self.register_buffer("last_read", torch.zeros(len(tokens), self.encoder.hidden_width))
        self.register_buffer("occurrences", interactions)

    @property
    def num_items(self) -> int:
        """N, padding not counted."""
        return len(self.tokens) - 1

    @property
    def is_read(self) -> bool:
        """Whether what was last read is what the encoder would read now: one that never learns."""
        return not self.encoder.learns and bool(self.last_read.any())

    @torch.no_grad()
    def reread(self) -> None:
        """Read all texts."""
        training = self.training
        self.eval()
        for rows in length_batches(self.tokens):
            self.last_read[rows] = self.encoder(self.tokens[rows])
        self.train(training)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct item indices [U] to unit vectors [U, D] and the loss of text alone, a scalar.

        The loss is zero outside training and where nothing but text makes the vectors.
        """
        text = self.last_read[items]
        fresh = torch.randperm(len(items), device=items.device)[: self.settings.texts_per_step]
        if self.training and self.encoder.learns:
            hidden = self.encoder(self.tokens[items[fresh]])
            text = text.index_copy(0, fresh, hidden)
            self.last_read[items[fresh]] = hidden.detach()
        by_text = normalize(self.project(text), dim=1)
        vectors = self._with_own(by_text, items)
        if self.free is None or not self.training:
            return vectors, by_text.new_zeros(())
        alone = by_text[fresh]
        logits = alone @ vectors.detach().T / self.settings.text_temperature
        return vectors, self.settings.text_weight * cross_entropy(logits, fresh)

    def _with_own(self, by_text: Tensor, items: Tensor) -> Tensor:
        """What texts say [n, D] together with items' own vectors; padding has none: text alone."""
        if self.free is None:
            return by_text
        # Of a hundred events, a text that counts as ten says a tenth.
        trust = self.settings.text_events / (self.settings.text_events + self.occurrences[items])
        own = normalize(self.free(items), dim=1)
        mixed = normalize(own + trust[:, None] * (by_text - own), dim=1)
        return torch.where((items == PADDING_INDEX)[:, None], by_text, mixed)

    @torch.no_grad()
    def embed(self, tokens: Tensor, items: Tensor) -> Tensor:
        """Unit vectors [n, D] of texts that need not be the catalogue's.

        Args:
            tokens: int64 [n, T], as in the constructor.
            items: int64 [n], the item whose own vector goes with a text, 0 for a text alone.
        """
        training = self.training
        self.eval()
        hidden = self.last_read.new_empty(len(tokens), self.encoder.hidden_width)
        for rows in length_batches(tokens):
            hidden[rows] = self.encoder(tokens[rows])
        vectors = self._with_own(normalize(self.project(hidden), dim=1), items)
        self.train(training)
        return vectors

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """All item embeddings, [N + 1, D] at unit length; row 0, padding, is zero."""
        if not self.is_read:
            self.reread()
        return self.embeddings_as_read()

    @torch.no_grad()
    def embeddings_as_read(self) -> Tensor:
        """The same, from what was last read in the texts."""
        training = self.training
        self.eval()
        vectors, _ = self(torch.arange(len(self.tokens), device=self.tokens.device))
        vectors[PADDING_INDEX] = 0
        self.train(training)
        return vectors

    @torch.no_grad()
    def texts_as_read(self) -> Tensor:
        """What texts alone say, [N + 1, D] as `embeddings_as_read`: how an item begins."""
        by_text = normalize(self.project(self.last_read), dim=1)
        by_text[PADDING_INDEX] = 0
        return by_text
