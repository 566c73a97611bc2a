"""Texts as bags of weighted words (TF-IDF): what a text says, without a model of language.

N texts, V words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def split_words(text: str) -> list[str]:
    """Lower-case words of a text, in order."""
    return re.findall(r"\w+", text.lower())


class WordVectors:
    """The words of a set of texts, rarer ones counting more.

    Attributes:
        words: the V words, sorted.
        weights: float64 [V], log((1 + N) / (1 + texts with the word)) + 1.
        shares: float64 [V], share of the texts that hold a word.
        table: [N, V], the texts themselves at unit length; a text without words is zero.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the words of N texts."""
        parts = [split_words(text) for text in texts]
        self.words = sorted({word for part in parts for word in part})
        self._place = {word: place for place, word in enumerate(self.words)}
        holders = np.zeros(len(self.words))
        for part in parts:
            holders[[self._place[word] for word in set(part)]] += 1
        self.weights: NDArray[np.float64] = np.log((1 + len(texts)) / (1 + holders)) + 1
        self.shares: NDArray[np.float64] = holders / max(1, len(texts))
        self.table = self._vectors(parts)

    def vectors(self, texts: Sequence[str]) -> csr_array:
        """Other texts, [texts, V]; words that were never counted are left out."""
        return self._vectors([split_words(text) for text in texts])

    def share(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of other texts, the share that holds each word: float64 [V]."""
        holders = np.zeros(len(self.words))
        for text in texts:
            words = {word for word in split_words(text) if word in self._place}
            holders[[self._place[word] for word in words]] += 1
        return holders / max(1, len(texts))

    def _vectors(self, parts: Sequence[Sequence[str]]) -> csr_array:
        values: list[float] = []
        columns: list[int] = []
        ends = [0]
        for part in parts:
            counts = Counter(self._place[word] for word in part if word in self._place)
            places = sorted(counts)
            row = np.array([counts[place] for place in places]) * self.weights[places]
            columns += places
            values += (row / max(float(np.linalg.norm(row)), 1e-12)).tolist()
            ends.append(len(columns))
        shape = (len(parts), len(self.words))
        return csr_array((np.array(values), np.array(columns, dtype=np.int64), ends), shape)
