"""A small catalogue without a world behind it: random unit items, their codebook, histories.

And small text models with random weights, saved as `transformers` saves real ones.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    AutoModel,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from hymirec.codebook import ResidualCodebook, ResidualConfig
from hymirec.history import History
from hymirec.inputs import IndexedHistory
from hymirec.models.hymirec import HyMiRec, HyMiRecConfig
from hymirec.models.layers import BackboneConfig
from hymirec.package import RecommenderPackage

NUM_ITEMS, WIDTH = 40, 16
TRAININGS = Path(__file__).parent / "trainings.py"


@pytest.fixture(scope="session")
def run_trainings(tmp_path_factory):
    """Run a part of `trainings.py` in a process of its own; the JSON object that it prints."""

    def run(part: str) -> Any:
        done = subprocess.run(
            [sys.executable, TRAININGS, part, tmp_path_factory.mktemp(part)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def items() -> Tensor:
    """Unit vectors [41, 16]; row 0, padding, is zero."""
    generator = torch.Generator().manual_seed(0)
    vectors = normalize(torch.randn(NUM_ITEMS + 1, WIDTH, generator=generator), dim=1)
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="session")
def codebook(items: Tensor) -> ResidualCodebook:
    """Two layers of eight entries: 6 bytes an item."""
    return ResidualCodebook.fit(items[1:], ResidualConfig(num_layers=2, num_entries=8))


@pytest.fixture(scope="session")
def history_of(items: Tensor, codebook: ResidualCodebook) -> Callable[..., IndexedHistory]:
    """Make the history of the given item indices, with their codes."""
    codes = codebook.encode(items).numpy()

    def make(indices: object) -> IndexedHistory:
        array = np.array(indices, dtype=np.int64)
        # Hours, with two events in each and a pause that grows: times that tie and differ.
        times = 3600 * (np.arange(len(array)) // 2) ** 2
        return IndexedHistory.of(array, codes[array], times)

    return make


@pytest.fixture(scope="session")
def random_histories(
    history_of: Callable[..., IndexedHistory],
) -> Callable[..., list[IndexedHistory]]:
    """Make histories of the given lengths, of items drawn at random."""

    def make(lengths: list[int], seed: int = 0) -> list[IndexedHistory]:
        rng = np.random.default_rng(seed)
        return [history_of(rng.integers(1, NUM_ITEMS + 1, length)) for length in lengths]

    return make


ITEM_IDS = [f"item {number}" for number in range(1, NUM_ITEMS + 1)]


@pytest.fixture(scope="session")
def model(items: Tensor, codebook: ResidualCodebook) -> HyMiRec:
    """Random weights, three interests."""
    torch.manual_seed(0)
    config = HyMiRecConfig(
        num_interests=3, num_coarse=2, max_history=12, num_recent=6, coarse_layers=1,
        backbone=BackboneConfig(num_layers=1, num_heads=2, dropout=0.3),
    )  # fmt: skip
    return HyMiRec(items, codebook, config)


@pytest.fixture(scope="session")
def package(model: HyMiRec) -> RecommenderPackage:
    """What is served of that model; item 5 has no title."""
    table = pd.DataFrame(
        {"item_id": ITEM_IDS, "title": [f"Title {i}" for i in ITEM_IDS], "genre": "x"}
    )
    table.loc[4, "title"] = None
    # The most popular: item 40, then 39, ...; padding's count is no item's.
    counts = torch.arange(NUM_ITEMS + 1)
    counts[0] = 999
    return RecommenderPackage.assemble(model, table, counts, recipe="tiny", data_digest="d" * 16)


@pytest.fixture(scope="session")
def make_history(items: Tensor, codebook: ResidualCodebook) -> Callable[..., History]:
    """Make events with the given item numbers; one beyond the catalogue is an unknown item."""
    codes = codebook.encode(items).numpy()

    def make(numbers: list[int], codebook_id: str = codebook.id) -> History:
        known = np.array([n if n <= NUM_ITEMS else 0 for n in numbers], dtype=np.int64)
        ids = [f"item {number}" for number in numbers]
        return History(ids, np.arange(len(ids)), codes[known], codebook_id)

    return make


@pytest.fixture(scope="session")
def some_histories(make_history: Callable[..., History]) -> Callable[..., list[History]]:
    """Make histories of random events, some of them of unknown items."""

    def make(count: int = 12) -> list[History]:
        rng = np.random.default_rng(0)
        return [
            make_history(rng.integers(1, 50, rng.integers(1, 30)).tolist()) for _ in range(count)
        ]

    return make


TEXTS = [
    "Title: Heat 1995 Content: crime thriller",
    "Title: Casablanca Content: drama",
    "Title:  Content:",
    "Title: The Third Man Content: film noir mystery thriller of Vienna after the war",
    "Title: Toy Story Content: animation children comedy",
]
KINDS = ("llama", "qwen2", "gpt2", "bert")


@pytest.fixture(scope="session")
def text_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories of tiny text models with random weights, each with a tokenizer of its own."""
    sizes: dict[str, Any] = {
        "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 40,
    }  # fmt: skip
    configs = {
        "llama": lambda **kwargs: LlamaConfig(**sizes, **kwargs),
        "qwen2": lambda **kwargs: Qwen2Config(**sizes, num_key_value_heads=1, **kwargs),
        "gpt2": lambda **kwargs: GPT2Config(
            n_embd=12, n_layer=2, n_head=2, n_positions=40, **kwargs
        ),
        "bert": lambda **kwargs: BertConfig(**sizes, **kwargs),
    }
    found = {}
    for seed, kind in enumerate(KINDS):
        # Without a padding token, as GPT-2's; BERT's puts tokens at either end.
        special = ["[CLS]", "[SEP]"] if kind == "bert" else []
        tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = BertPreTokenizer()
        tokenizer.train_from_iterator(
            TEXTS,
            BpeTrainer(vocab_size=120, special_tokens=["[UNK]", *special], show_progress=False),
        )
        if special:
            tokenizer.post_processor = TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
            )
        torch.manual_seed(seed)
        config = configs[kind](
            vocab_size=tokenizer.get_vocab_size(), initializer_range=0.3,
            bos_token_id=None, eos_token_id=None, pad_token_id=None,
        )  # fmt: skip
        directory = tmp_path_factory.mktemp(kind)
        AutoModel.from_config(config).save_pretrained(directory)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
        found[kind] = directory
    return found
