"""Reading the texts of a whole catalogue: by length, in shards that survive a kill, by several
processes.

    <directory>/catalogue.json          digest of what was asked for
                shard-00000.safetensors `rows` int64 [n] and `hidden` float [n, H]
                encoder/                for the worker processes, while they run

N texts, T tokens, H hidden width, D width of an item embedding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException, spawn

from hymirec.encoder import (
    PADDING_TOKEN,
    ContentEncoder,
    EncoderConfig,
    ItemTower,
    count_tokens,
    length_batches,
    make_tokenizer,
    text_lengths,
    tokenise,
)
from hymirec.errors import HymirecError
from hymirec.processes import on_main
from hymirec.texts import item_texts

log = logging.getLogger(__name__)

TEXTS_PER_SHARD = 4096
SECONDS_BETWEEN_REPORTS = 10.0
SECONDS_WORTH_PROCESSES = 300.0
"""Left to read alone, by the pace so far, from which on worker processes are started."""
MAX_WORKERS = 8
MANIFEST = "catalogue.json"

Elsewhere = Callable[[Callable[..., None], Sequence[Mapping[str, Any]]], None]
"""Calls a function of a module with each of many sets of arguments, on machines that share the
disk, and returns when all are done."""


def available_workers() -> int:
    """One process for each thread that this one would use, within reason."""
    return min(MAX_WORKERS, max(torch.get_num_threads(), torch.cuda.device_count()))


def make_tower(
    items: pd.DataFrame,
    config: EncoderConfig,
    occurrences: Tensor,
    directory: Path,
    *,
    num_workers: int = 1,
    elsewhere: Elsewhere | None = None,
) -> tuple[ItemTower, Tokenizer]:
    """Make an untrained item tower that has read the catalogue once.

    Args:
        items: the canonical items table; row i is item index i + 1.
        config: settings.
        occurrences: int64 [N + 1], how often an item occurs in training.
        directory: for the shards.
        num_workers: as `encode_catalogue`.
        elsewhere: as `encode_catalogue`.
    """
    texts = item_texts(items)
    tokenizer = make_tokenizer(config, texts)
    tokens = tokenise(tokenizer, texts, config.max_tokens, item_token=config.pooling == "last")
    padding = tokens.new_full((1, tokens.shape[1]), PADDING_TOKEN)
    tower = ItemTower(config, torch.cat([padding, tokens]), count_tokens(tokenizer), occurrences)
    on_main(lambda: read_catalogue(tower, directory, num_workers=num_workers, elsewhere=elsewhere))
    return tower, tokenizer


def embed_catalogue(
    tower: ItemTower, directory: Path, *, num_workers: int = 1, elsewhere: Elsewhere | None = None
) -> Tensor:
    """`ItemTower.embeddings`, [N + 1, D], by way of `encode_catalogue`."""
    if not tower.is_read:
        read_catalogue(tower, directory, num_workers=num_workers, elsewhere=elsewhere)
    return tower.embeddings_as_read()


def read_catalogue(
    tower: ItemTower, directory: Path, *, num_workers: int = 1, elsewhere: Elsewhere | None = None
) -> None:
    """`ItemTower.reread` by way of `encode_catalogue`."""
    hidden = encode_catalogue(
        tower.encoder, tower.tokens, directory, num_workers=num_workers, elsewhere=elsewhere
    )
    tower.last_read.copy_(hidden)


def encode_catalogue(
    encoder: ContentEncoder,
    tokens: Tensor,
    directory: Path,
    *,
    num_workers: int = 1,
    texts_per_shard: int = TEXTS_PER_SHARD,
    elsewhere: Elsewhere | None = None,
) -> Tensor:
    """Read texts in evaluation mode.

    Shards that an interrupted call of the same encoder and texts left in the directory are taken
    as they are; those of any other are removed. Batches are the same however many processes read.

    Args:
        encoder: as it stands, without gradients; left in the mode it was in.
        tokens: int64 [N, T], see `hymirec.encoder.tokenise`.
        directory: for the shards, which stay there.
        num_workers: processes at most, one a GPU where there are GPUs. Each takes seconds to start
            and holds a copy of the encoder, so they are started only once reading alone would
            take much longer. As with any start of processes in Python, a script that asks for
            several keeps its own work under `if __name__ == "__main__":`.
        texts_per_shard: what a kill can cost.
        elsewhere: has other machines read the shards; nothing is read here then.

    Returns:
        float [N, H], on the CPU.

    Raises:
        HymirecError: a worker process failed.
    """
    tokens = tokens.cpu()
    shards = _in_shards(tokens, texts_per_shard)
    directory.mkdir(parents=True, exist_ok=True)
    _claim(directory, _digest(encoder, tokens, texts_per_shard))
    todo = [place for place in range(len(shards)) if not _shard(directory, place).exists()]
    if len(todo) < len(shards):
        log.info("catalogue: %d of %d shards are there already",
                 len(shards) - len(todo), len(shards))  # fmt: skip
    if elsewhere is not None and todo:
        with _left_for_others(encoder, tokens, directory):
            elsewhere(
                read_shard,
                [
                    {"directory": directory, "place": place, "texts_per_shard": texts_per_shard}
                    for place in todo
                ],
            )
        todo = []
    progress = _Progress([int(text_lengths(tokens[rows]).sum()) for rows in shards], todo)
    home = next(encoder.parameters()).device
    encoder.to(_device(0))
    while todo:
        num_useful = min(num_workers, len(todo), torch.cuda.device_count() or num_workers)
        if num_useful > 1 and progress.seconds_left(directory) > SECONDS_WORTH_PROCESSES:
            _encode_in_processes(encoder, tokens, shards, todo, directory, num_useful, progress)
            break
        place = todo.pop(0)
        _encode_shard(encoder, tokens, shards[place], _shard(directory, place))
        progress.report(directory)
    encoder.to(home)
    hidden = torch.empty(len(tokens), encoder.hidden_width)
    for place in range(len(shards)):
        shard = load_file(_shard(directory, place))
        hidden[shard["rows"]] = shard["hidden"]
    return hidden


@torch.no_grad()
def _encode_shard(encoder: ContentEncoder, tokens: Tensor, rows: Tensor, path: Path) -> None:
    """Read some texts and write their shard, whole or not at all."""
    training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    texts = tokens[rows]
    hidden = torch.empty(len(rows), encoder.hidden_width)
    for batch in length_batches(texts):
        hidden[batch] = encoder(texts[batch].to(device)).cpu()
    encoder.train(training)
    partial = path.with_suffix(".partial")
    save_file({"rows": rows.contiguous(), "hidden": hidden}, partial)
    partial.replace(path)


def _encode_in_processes(
    encoder: ContentEncoder, tokens: Tensor, shards: Sequence[Tensor], todo: list[int],
    directory: Path, num_workers: int, progress: _Progress,
) -> None:  # fmt: skip
    work = [
        [(shard, shards[shard]) for shard in todo[worker::num_workers]]
        for worker in range(num_workers)
    ]
    threads = max(1, torch.get_num_threads() // num_workers)
    with _left_for_others(encoder, tokens, directory):
        # Started by `torch`, a worker does not outlive the process that started it.
        context = spawn(_work, (directory, work, threads), nprocs=num_workers, join=False)
        try:
            while not context.join(timeout=1):
                progress.report(directory)
        except ProcessException as error:
            reason = str(error).strip().splitlines()[-1]
            raise HymirecError(f"catalogue: a worker process failed: {reason}") from error
        finally:
            for process in context.processes:
                process.terminate()


@contextmanager
def _left_for_others(encoder: ContentEncoder, tokens: Tensor, directory: Path) -> Iterator[None]:
    """Keep encoder and texts in the directory for the time of the work."""
    place = directory / "encoder"
    shutil.rmtree(place, ignore_errors=True)
    encoder.save(place)
    save_file({"tokens": tokens}, place / "tokens.safetensors")
    try:
        yield
    finally:
        shutil.rmtree(place)


def read_shard(directory: Path, place: int, texts_per_shard: int) -> None:
    """Read one shard of what `encode_catalogue` has left in a directory: what another machine does.

    Args:
        directory: of the shards.
        place: which shard.
        texts_per_shard: as there.
    """
    digest = json.loads((directory / MANIFEST).read_text())["digest"]
    encoder, tokens = _read_for_others(directory, digest)
    rows = _in_shards(tokens, texts_per_shard)[place]
    _encode_shard(encoder, tokens, rows, _shard(directory, place))


@lru_cache(maxsize=1)
def _read_for_others(directory: Path, digest: str) -> tuple[ContentEncoder, Tensor]:
    """Encoder and texts of a digest, read once by a process that reads many shards."""
    encoder = ContentEncoder.load(directory / "encoder").to(_device(0))
    return encoder, load_file(directory / "encoder" / "tokens.safetensors")["tokens"]


def _in_shards(tokens: Tensor, texts_per_shard: int) -> tuple[Tensor, ...]:
    """Rows of texts of like length."""
    return text_lengths(tokens).argsort(stable=True).split(texts_per_shard)


def _work(worker: int, directory: Path, work: list[list[tuple[int, Tensor]]], threads: int) -> None:
    torch.set_num_threads(threads)
    encoder = ContentEncoder.load(directory / "encoder").to(_device(worker))
    tokens = load_file(directory / "encoder" / "tokens.safetensors")["tokens"]
    for place, rows in work[worker]:
        _encode_shard(encoder, tokens, rows, _shard(directory, place))


def _device(worker: int) -> torch.device:
    """GPUs in turn, where there are any."""
    if torch.cuda.is_available():
        return torch.device("cuda", worker % torch.cuda.device_count())
    return torch.device("cpu")


def _shard(directory: Path, place: int) -> Path:
    return directory / f"shard-{place:05}.safetensors"


def _digest(encoder: ContentEncoder, tokens: Tensor, texts_per_shard: int) -> str:
    digest = hashlib.sha256(str((tuple(tokens.shape), texts_per_shard)).encode())
    digest.update(encoder.settings.model_dump_json().encode())
    for name, tensor in (*encoder.state_dict().items(), ("tokens", tokens)):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _claim(directory: Path, digest: str) -> None:
    """Leave shards of this digest only."""
    manifest = directory / MANIFEST
    if not manifest.exists() or json.loads(manifest.read_text())["digest"] != digest:
        for path in directory.glob("shard-*"):
            path.unlink()
        partial = manifest.with_suffix(".partial")
        partial.write_text(json.dumps({"digest": digest}))
        partial.replace(manifest)


class _Progress:
    """A line now and then: shards read, and the time left by the tokens that are."""

    def __init__(self, tokens: Sequence[int], todo: Sequence[int]) -> None:
        self.tokens = tokens
        self.todo = tuple(todo)
        self.started = self.reported = time.monotonic()

    def seconds_left(self, directory: Path) -> float:
        """At the pace so far; 0 before there is one."""
        done = self._done(directory)
        read = sum(self.tokens[place] for place in done)
        left = sum(self.tokens[place] for place in self.todo) - read
        return (time.monotonic() - self.started) * left / read if read else 0.0

    def report(self, directory: Path) -> None:
        """Log where the reading is, unless it has just been said."""
        if time.monotonic() - self.reported < SECONDS_BETWEEN_REPORTS:
            return
        self.reported = time.monotonic()
        log.info(
            "catalogue: %d of %d shards read, about %.0f s left",
            len(self.tokens) - len(self.todo) + len(self._done(directory)), len(self.tokens),
            self.seconds_left(directory),
        )  # fmt: skip

    def _done(self, directory: Path) -> list[int]:
        return [place for place in self.todo if _shard(directory, place).exists()]
