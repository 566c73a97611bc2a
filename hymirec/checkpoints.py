"""What a training leaves on disk: checkpoints to resume from, and the word that it is done.

settings.json      what it was begun with; a call with other settings is refused
checkpoint-<step>  the library's: weights, optimizer, schedule, counters; and ours, averages
finished.json      the checkpoint kept and its validation; written last
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from hymirec.averaging import AVERAGES
from hymirec.errors import UsageError

log = logging.getLogger(__name__)

SETTINGS, FINISHED, LOCK = "settings.json", "finished.json", "lock"


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keep a second training out of a directory while one runs; the lock goes with its process.

    Raises:
        UsageError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another process is training in {directory}") from error
        yield


def check_settings(
    directory: Path, settings: Mapping[str, Any], *, changeable: tuple[str, ...]
) -> None:
    """Refuse to go on with what was begun otherwise, and write down what is begun now.

    Args:
        directory: where the earlier call, if any, wrote its settings.
        settings: names to JSON values.
        changeable: names that may differ between calls.

    Raises:
        UsageError: another setting differs; the message names it with both values.
    """
    path = directory / SETTINGS
    if path.exists():
        begun = json.loads(path.read_text())
        for name in [*settings, *begun]:
            old, new = begun.get(name), settings.get(name)
            if old != new and name not in changeable:
                raise UsageError(
                    f"{directory} holds a training begun with another {name} ({old}, now {new}): "
                    "name another directory, or delete this one"
                )
    write_whole(path, settings)


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2))
    partial.replace(path)


def last_checkpoint(directory: Path) -> str | None:
    """The last whole checkpoint, after removing any that a killed process left in part."""
    for checkpoint in directory.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not _is_whole(checkpoint):
            log.warning("checkpoint %s is not whole: removing it", checkpoint)
            shutil.rmtree(checkpoint)
    return get_last_checkpoint(str(directory))


def _is_whole(checkpoint: Path) -> bool:
    names = (SAFE_WEIGHTS_NAME, AVERAGES, OPTIMIZER_NAME, SCHEDULER_NAME)
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())  # the library writes it last
    except (OSError, ValueError):
        return False
    # A process killed while it deleted a checkpoint leaves some of the files.
    return all((checkpoint / name).exists() for name in names)


def mark_finished(directory: Path, step: int, validation: Mapping[str, float]) -> None:
    """Write down which step's weights were kept, and their validation."""
    write_whole(directory / FINISHED, {"step": step, "validation": dict(validation)})


def finished(directory: Path) -> tuple[int, dict[str, float]] | None:
    """Step and validation of the weights kept, or None where a training is not finished."""
    path = directory / FINISHED
    if not path.exists():
        return None
    kept = json.loads(path.read_text())
    return kept["step"], kept["validation"]


def load_weights(model: nn.Module, directory: Path, step: int) -> None:
    """Put the averaged weights of a step's checkpoint into the model."""
    checkpoint = directory / f"{PREFIX_CHECKPOINT_DIR}-{step}"
    model.load_state_dict(
        load_file(checkpoint / SAFE_WEIGHTS_NAME) | load_file(checkpoint / AVERAGES)
    )
