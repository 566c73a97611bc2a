"""Other libraries, in an environment of their own, on the interactions that ours are trained on."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hymirec.splits import Case, LeaveLastSplit

HERE = Path(__file__).parent


def cases_of_peer(split: LeaveLastSplit) -> list[Case]:
    """The validation cases that peers can be asked about, and so ours too beside one.

    Peers know no item but those of training.
    """
    known = {item for history in split.training for item in history.items.tolist()}
    return [case for case in split.validation if case.target in known]


def epochs_of_peer(
    python: Path, script: str, split: LeaveLastSplit, settings: dict[str, Any], *, evaluate: bool
) -> Iterator[dict[str, float]]:
    """What a peer prints, epoch by epoch, while it trains.

    Args:
        python: an interpreter that has the peer's library.
        script: a module beside this one, by name; it says how to make the interpreter.
        split: what it trains on and, with `evaluate`, is asked about.
        settings: the script's own; interactions, held-out items and threads are added.
        evaluate: ask about the validation items after each epoch.
    """
    with tempfile.TemporaryDirectory() as work:
        rows = [
            (user, item, place)
            for user, history in enumerate(split.training)
            for place, item in enumerate(history.items.tolist())
        ]
        events = pd.DataFrame(rows, columns=["user_id", "item_id", "rank"])
        events.to_csv(f"{work}/interactions.csv", index=False)
        asked = cases_of_peer(split) if evaluate else []
        held_out = [(case.user, case.target) for case in asked]
        pd.DataFrame(held_out, columns=["user_id", "item_id"]).to_csv(
            f"{work}/held.csv", index=False
        )
        settings = settings | {
            "interactions": f"{work}/interactions.csv", "held_out": f"{work}/held.csv",
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        process = subprocess.Popen(
            [python.absolute(), HERE.absolute() / f"{script}.py", json.dumps(settings)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=work,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if process.wait():
            raise SystemExit(f"the peer stopped with status {process.returncode}")
