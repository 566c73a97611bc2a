"""Steps whose result depends on nothing but their inputs: done once, found again.

A step's directory carries a digest of all its inputs: digests of data and of earlier steps, its
settings, and the source of the library and of the step. It appears under its final name only when
it is complete; until then the work lies in `<name>.partial`, whose checkpoints the next attempt
resumes from. It is sealed: a file that was changed since is found out, and the step is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import hymirec
from hymirec.errors import DataError
from hymirec.home import Home
from hymirec.seal import check_seal, seal
from hymirec.shipped import source_digest as source_digest

log = logging.getLogger(__name__)

LIBRARY = Path(hymirec.__file__).parent
COMMAND_LINE = ("cli.py", "commands", "display.py")
"""Of the library: what no result depends on."""
COST = "cost.json"
PARTIAL, DAMAGED = ".partial", ".damaged"


@dataclass(frozen=True)
class StepResult:
    """A finished step: where its output lies, the digest of its inputs, whether work was done."""

    name: str
    directory: Path
    digest: str
    skipped: bool

    @property
    def cost(self) -> dict[str, float]:
        """What the step took when it was done: `seconds` and `peak_mb`, see `measured`."""
        return json.loads((self.directory / COST).read_text())


def run_step(
    home: Home, name: str, inputs: Mapping[str, object], work: Callable[[Path, Path], None]
) -> StepResult:
    """Do a step's work unless it has been done.

    Args:
        home: where results are kept.
        name: of the step.
        inputs: all that the result depends on, as JSON values.
        work: called with the directory to fill and one for checkpoints; the first is empty, the
            second holds what an interrupted attempt left there.
    """
    if done := find_step(home, name, inputs):
        log.info("%s: nothing changed, taking what is there", name)
        return done
    digest = step_digest(name, inputs)
    final = home.runs / f"{name}-{digest}"
    partial = _beside(final, PARTIAL)
    output, checkpoints = partial / "output", partial / "checkpoints"
    if output.exists():
        shutil.rmtree(output)
    before = _seconds_before(partial)
    output.mkdir(parents=True)
    checkpoints.mkdir(exist_ok=True)
    try:
        with measured() as cost:
            work(output, checkpoints)
    except Exception:
        if not any(checkpoints.iterdir()):  # there is nothing to go on from
            shutil.rmtree(partial)
        raise
    cost["seconds"] += before
    (output / COST).write_text(json.dumps(cost))
    seal(output)
    output.rename(final)
    shutil.rmtree(partial, ignore_errors=True)  # who finds the result clears this, too
    log.info("%s: done in %.1f s", name, cost["seconds"])
    return StepResult(name, final, digest, skipped=False)


def find_step(home: Home, name: str, inputs: Mapping[str, object]) -> StepResult | None:
    """Find what `run_step` made of the same inputs; None if it has not been done.

    A result with a damaged file is put aside, as `<name>.damaged`, and counts for none.

    Raises:
        DataError: a file cannot be read at present, which says nothing of its content.
    """
    digest = step_digest(name, inputs)
    final = home.runs / f"{name}-{digest}"
    if not final.is_dir():
        return None
    shutil.rmtree(_beside(final, PARTIAL), ignore_errors=True)  # of a kill after the rename
    note_use(final)
    return StepResult(name, final, digest, skipped=True) if _is_whole(final) else None


def forget(done: StepResult) -> None:
    """Let a step be done again, since something else than its inputs has changed."""
    gone = _beside(done.directory, PARTIAL)
    shutil.rmtree(gone, ignore_errors=True)
    done.directory.rename(gone)  # at once: half a result must not be found
    shutil.rmtree(gone)


def note_use(directory: Path) -> None:
    """Let the time of a directory tell that it was needed; `hymirec clean` goes by that."""
    with suppress(OSError):  # a disk that cannot be written can be read
        os.utime(directory)


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measure what happens inside; the numbers are there once it has ended.

    `seconds` of wall time; `peak_mb`, the most memory this process held meanwhile, where the system
    tells (Linux), all it held before included.
    """
    cost: dict[str, float] = {}
    resettable = Path("/proc/self/clear_refs")
    with suppress(OSError):
        resettable.write_text("5")  # the peak counts from here
    started = time.monotonic()
    yield cost
    cost["seconds"] = time.monotonic() - started
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        cost["peak_mb"] = int(peak.split()[1]) / 1024


def _beside(final: Path, ending: str) -> Path:
    """The directory of a result's name and an ending; the name may have dots of its own."""
    return final.with_name(final.name + ending)


def _is_whole(final: Path) -> bool:
    """Whether all files are those that were written; if not, they are put aside."""
    files = [path.stat() for path in sorted(final.rglob("*"))]
    try:
        _check_once(final, tuple((one.st_size, one.st_mtime_ns) for one in files))
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            raise
        log.warning("%s; it is done again", error)
        aside = _beside(final, DAMAGED)
        shutil.rmtree(aside, ignore_errors=True)
        final.rename(aside)
        return False
    return True


@lru_cache(maxsize=64)
def _check_once(final: Path, files: tuple[tuple[int, int], ...]) -> None:
    """Check the seal, which reads everything; `files` changes when one of them does."""
    check_seal(final)


def _seconds_before(partial: Path) -> float:
    """Note that an attempt begins; seconds that those before it lasted until they wrote last."""
    path = partial / "attempts.json"
    seconds = 0.0
    if path.exists():
        seconds, started = json.loads(path.read_text())
        written = [file.stat().st_mtime for file in partial.rglob("*") if file.is_file()]
        seconds += max(0.0, max(written) - started)
    partial.mkdir(exist_ok=True)
    new = path.with_suffix(".tmp")
    new.write_text(json.dumps([seconds, time.time()]))
    new.replace(path)  # half a note, as a kill may leave, would stop every further attempt
    return seconds


def step_digest(name: str, inputs: Mapping[str, object]) -> str:
    """Digest of a step's inputs and of the library's source, 12 hex digits."""
    parts = [path for path in LIBRARY.iterdir() if path.name not in COMMAND_LINE]
    library = source_digest(
        *sorted(path for path in parts if path.is_dir() or path.suffix == ".py")
    )
    content = json.dumps([name, inputs, library], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
