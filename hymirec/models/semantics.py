"""Interests put into words: what a group of items that one user took has in common.

A language model is asked in a prompt; or, where there is none, the words that set the group apart
stand in for its answer.

N texts, V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hymirec.errors import DataError
from hymirec.models.pretrained import locate
from hymirec.words import WordVectors

PROMPT = (
    "A person chose these:\n{texts}\n"
    "In a few words, the interest that these choices share is:"
)  # fmt: skip


class InterestWriter(Protocol):
    """Says in words what texts have in common."""

    def describe(self, texts: Sequence[str]) -> str:
        """A short description of an interest from the texts of its items."""


class TopicWords:
    """The words that set the texts apart: a deterministic stand-in for a language model.

    A word weighs what it adds to the divergence of the texts from the catalogue: the share p of
    the texts that hold it times log p/q, with q the share of the catalogue.
    """

    def __init__(self, words: WordVectors, num_words: int = 8) -> None:
        """Take words that are weighted by the whole catalogue."""
        self.words = words
        self.num_words = num_words

    def describe(self, texts: Sequence[str]) -> str:
        """The heaviest words of the texts together, heaviest first; ties by the alphabet."""
        share = self.words.share(texts)
        total = share * np.log(np.maximum(share, 1e-12) / np.maximum(self.words.shares, 1e-12))
        order = np.argsort(-total, kind="stable")[: self.num_words]
        return " ".join(self.words.words[place] for place in order if total[place] > 0)


class PromptedModel:
    """A causal language model that continues a prompt; the likeliest words, so always the same."""

    def __init__(self, source: str, *, max_texts: int = 20, max_new_tokens: int = 24) -> None:
        """Load a model.

        Args:
            source: a local directory or the name of a model in the local cache.
            max_texts: of an interest, those that the prompt holds.
            max_new_tokens: length of an answer.

        Raises:
            UsageError: there is no such model.
            DataError: it cannot be read or does not continue texts.
        """
        directory = locate(source)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(f"writer {source} cannot be loaded: {reason}") from error
        self.model = model.eval()
        self.max_texts = max_texts
        self.max_new_tokens = max_new_tokens

    @torch.no_grad()
    def describe(self, texts: Sequence[str]) -> str:
        """What the model says after the prompt, up to the end of its line."""
        prompt = PROMPT.format(texts="\n".join(f"- {text}" for text in texts[: self.max_texts]))
        room = self.model.config.max_position_embeddings - self.max_new_tokens
        tokens = self.tokenizer(prompt, return_tensors="pt").input_ids[:, -room:]
        said = self.model.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id or 0,
        )
        answer = self.tokenizer.decode(said[0, tokens.shape[1] :], skip_special_tokens=True)
        return answer.strip().partition("\n")[0]
