"""The gate asked from where it cannot run: it starts model servers, which flows know nothing of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from hymirec.errors import HymirecError
from hymirec.home import Home

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
    done = subprocess.run(
        [str(program), "promote", version, "--home", str(home.root), "--json", *options],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in JUDGED:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        problem = lines[-1].removeprefix("error: ")
        raise HymirecError(f"the gate could not judge version {version}: {problem}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
