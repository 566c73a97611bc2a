"""The gate asked from where it cannot run: it starts model servers, which flows know nothing of."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

from hymirec.errors import HymirecError
from hymirec.home import Home

log = logging.getLogger(__name__)

JUDGED = (0, 3, 4)
"""Exit statuses of `hymirec promote` that are verdicts: passed, failed, the data cannot tell."""


def ask_gate(home: Home, version: str, *options: str) -> dict[str, Any]:
    """Have `hymirec promote` compare a version with the champion, in a process of its own.

    Args:
        home: whose registry it is in.
        version: number or alias.
        options: more of the command's, such as `--judge`.

    Returns:
        What the command prints: `verdict`, `reason`, `moved`, and more.

    Raises:
        HymirecError: the gate could not judge.
    """
    program = Path(sys.executable).parent / "hymirec"
    command = [str(program), "promote", version, "--home", str(home.root), "--json", *options]
    with tempfile.TemporaryFile("w+") as answer:
        status, last = _run(command, answer)
        if status not in JUDGED:
            problem = last.removeprefix("error: ")
            raise HymirecError(f"the gate could not judge version {version}: {problem}")
        answer.seek(0)
        found: dict[str, Any] = json.loads(answer.read().strip().splitlines()[-1])
    return found


def _run(command: list[str], answer: IO[str]) -> tuple[int, str]:
    """Run it, passing on what it says of its progress; its exit status and its last line."""
    last = "no reason given"
    with subprocess.Popen(command, stdout=answer, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                last = line.strip() or last
                if last.startswith(("gate: ", "another gate ")):
                    log.info("%s", last)
        except BaseException:
            process.kill()
            raise
    return process.returncode, last
