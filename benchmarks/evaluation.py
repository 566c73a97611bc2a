"""Evaluating many users over many items: users per second and memory.

    python benchmarks/evaluation.py [--quick] [--users 100000] [--items 100000]

A SASRec (d = 64, two blocks, 50 items) with random weights is asked about users with histories of
random items; every item is ranked for every user, with seen ones left out and kept in, and a list
of ten is kept: what of `hymirec benchmark`'s evaluation grows with the catalogue. The floor is what
no full ranking can do without: the same model's user vectors, and one product of them with all item
vectors. Prints one JSON object; `--quick` takes 4,000 users and 100,000 items.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import torch

from flows.steps.results import measured
from hymirec.evaluation.protocol import SCORES_AT_ONCE, answer_cases
from hymirec.inputs import IndexedHistory
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.splits import Case

NUM_RECENT, LIST_LENGTH, BATCH = 50, 10, 256


def make_cases(num_users: int, num_items: int) -> list[Case]:
    """One case a user, of 20 to 200 random events."""
    rng = np.random.default_rng(0)
    cases = []
    for length in rng.integers(20, 200, num_users):
        items = rng.integers(1, num_items + 1, length)
        history = IndexedHistory.of(items)
        cases.append(Case(history, int(rng.integers(1, num_items + 1))))
    return cases


@torch.no_grad()
def floor(model: SASRec, cases: list[Case]) -> float:
    """Seconds for user vectors and scores, and nothing of them kept."""
    started = time.perf_counter()
    items = model.item_vectors()
    size = min(BATCH, max(1, SCORES_AT_ONCE // len(items)))
    for start in range(0, len(cases), size):
        batch = [case.known for case in cases[start : start + size]]
        model.encode_user(model.assemble(batch))[:, 0] @ items.T
    return time.perf_counter() - started


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=100_000)
    arguments = parser.parse_args()
    num_users = 4000 if arguments.quick else arguments.users
    torch.manual_seed(0)
    occurrences = torch.ones(arguments.items + 1, dtype=torch.int64)
    model = SASRec(occurrences, SASRecConfig(width=64, num_recent=NUM_RECENT)).eval()
    cases = make_cases(num_users, arguments.items)
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{done:,} of {total:,} users", file=sys.stderr, flush=True)

    part = cases[: max(1, num_users // 10)]
    with measured() as cost:
        answer_cases(model, cases, list_length=LIST_LENGTH, progress=progress)
    print(
        json.dumps(
            {
                "users": num_users,
                "items": arguments.items,
                "users_per_second": num_users / cost["seconds"],
                "floor_users_per_second": len(part) / floor(model, part),
                "peak_mb": cost["peak_mb"],
                "threads": torch.get_num_threads(),
            }
        )
    )


if __name__ == "__main__":
    main()
