"""How long validation takes: a million interactions of 20,000 users and 10,000 items.

    python benchmarks/validation.py [--rows 1000000] [--quick]

prints one JSON object: seconds of the derived columns, of the whole with Data Docs, and of the
same where a hundredth of the rows is bad and dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from flows.validation.frames import dataset_frames
from flows.validation.validate import rows_to_drop, validate
from hymirec.datasets import Dataset
from hymirec.datasets.canonical import in_order

TEXT = pd.StringDtype("pyarrow")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def made_up(rows: int, users: int, items: int) -> Dataset:
    """Interactions at random times, popular items more often."""
    rng = np.random.default_rng(0)
    users_of = rng.integers(0, users, rows)
    items_of = (items * rng.random(rows) ** 2).astype(int)
    seconds = rng.integers(1_600_000_000, 1_700_000_000, rows)
    interactions = pd.DataFrame(
        {
            "user_id": pd.Series([f"u{n}" for n in users_of.tolist()], dtype=TEXT),
            "item_id": pd.Series([f"i{n}" for n in items_of.tolist()], dtype=TEXT),
            "timestamp": pd.to_datetime(seconds, unit="s", utc=True).astype("datetime64[ns, UTC]"),
            "source_row": np.arange(rows) + 2,
        }
    )
    catalogue = pd.DataFrame(
        {
            "item_id": pd.Series([f"i{n}" for n in range(items)], dtype=TEXT),
            "title": pd.Series([f"Title of item {n}" for n in range(items)], dtype=TEXT),
            "source_row": np.arange(items) + 2,
        }
    )
    return Dataset("made up", in_order(interactions), catalogue)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    arguments = parser.parse_args()
    rows = arguments.rows // 10 if arguments.quick else arguments.rows
    dataset = made_up(rows, users=max(200, rows // 50), items=max(200, rows // 100))
    import great_expectations  # noqa: F401  # whose import is no part of what is measured

    bad = dataset.interactions.copy()
    bad.loc[::100, "item_id"] = "nobody knows this"
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        report_dir = Path(directory)
        with timed(figures, "derived_columns"):
            dataset_frames(dataset, NOW)
        with timed(figures, "validation"):
            report = validate(dataset, report_dir, NOW)
        assert report.success, report.failures
        with timed(figures, "validation_with_bad_rows"):
            found = validate(replace(dataset, interactions=bad), report_dir, NOW, all_rows=True)
        assert len(rows_to_drop(found, "interactions")) == rows // 100
    print(json.dumps({"rows": rows, "cores": os.cpu_count(), **figures}))


class timed:  # noqa: N801
    """Seconds, and seconds of processor, that something takes."""

    def __init__(self, figures: dict[str, float], name: str) -> None:
        self.figures, self.name = figures, name

    def __enter__(self) -> None:
        self.started = time.monotonic(), time.process_time()

    def __exit__(self, *error: object) -> None:
        wall, processor = self.started
        self.figures[f"{self.name}_seconds"] = round(time.monotonic() - wall, 2)
        self.figures[f"{self.name}_cpu_seconds"] = round(time.process_time() - processor, 2)


if __name__ == "__main__":
    main()
