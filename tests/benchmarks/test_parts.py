"""Every part of the method moves the measure it is there for, on a world whose truth is known."""

import runpy
from pathlib import Path

import pytest

PARTS = Path(__file__).parents[2] / "benchmarks" / "parts.py"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_without_a_part_its_own_measure_is_worse():
    rows = runpy.run_path(str(PARTS))["compare"](2)
    assert len(rows) >= 5
    for row in rows:
        print(row)
        if row["more_is_better"]:
            assert row["with"] > 1.05 * row["without"], row
        else:
            assert row["with"] < 0.95 * row["without"], row
