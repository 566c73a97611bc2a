"""A disk for the home that can be filled, and how full is made of it.

Whoever may mount gets a file system in memory of a fixed size, which is filled by a file: writing
fails with "no space left on device". Elsewhere every process of the home gets a limit of zero bytes
on files (`RLIMIT_FSIZE`), which its children inherit: writing fails with "file too large".
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

SIZE = 2**30
PAGE = b"\0" * 4096
FREED_PAGES = 2048
BALLAST = "ballast"


class Disk:
    """A folder to have a home in; a context manager."""

    def __init__(self, root: Path) -> None:
        """Name the folder."""
        self.root = root
        self.mounted = False

    def __enter__(self) -> Disk:
        self.root.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(self.root)]
        with contextlib.suppress(OSError):
            done = subprocess.run(["mount", *options], capture_output=True)
            self.mounted = done.returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.root)], check=False, capture_output=True)

    @property
    def how(self) -> str:
        """How it is filled, for the report."""
        return (
            "a file system of its own, filled to the last byte" if self.mounted
            else "a limit of zero bytes on files of every process (RLIMIT_FSIZE)"
        )  # fmt: skip

    @contextlib.contextmanager
    def full(self, processes: Iterable[psutil.Process]) -> Iterator[None]:
        """Let nothing be written inside.

        Args:
            processes: of the home.
        """
        with self._filled() if self.mounted else _limited(list(processes)):
            yield

    def takes(self, processes: Iterable[psutil.Process]) -> bool:
        """Whether anything can be written inside; to be asked while it is to be full.

        Args:
            processes: of the home; those that have ended meanwhile write nothing.
        """
        if not self.mounted:
            return any(_may_write(one) for one in processes)
        try:
            with (self.root / BALLAST).open("ab", buffering=0) as file:
                for _ in range(FREED_PAGES):  # what others have left since it was filled
                    file.write(PAGE)
        except OSError as error:
            return error.errno != errno.ENOSPC
        return True

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        ballast = self.root / BALLAST
        try:
            with ballast.open("wb", buffering=0) as file:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.root).free)
                file.seek(0, os.SEEK_END)
                with contextlib.suppress(OSError):  # what others have left meanwhile
                    while file.write(PAGE):
                        pass
            yield
        finally:
            ballast.unlink()


@contextlib.contextmanager
def _limited(processes: list[psutil.Process]) -> Iterator[None]:
    before = {}
    for one in processes:
        with contextlib.suppress(OSError, psutil.Error):
            soft, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (0, hard))
            before[one] = (soft, hard)
    try:
        yield
    finally:
        for one, limits in before.items():
            # Its children were born with the limit.
            for each in (one, *_children(one)):
                with contextlib.suppress(OSError, psutil.Error):
                    resource.prlimit(each.pid, resource.RLIMIT_FSIZE, limits)


def _may_write(process: psutil.Process) -> bool:
    try:
        soft, _ = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    except ProcessLookupError:
        return False
    except OSError:  # then it cannot have been limited either
        return True
    return soft != 0 and process.is_running()


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []
