import pandas as pd
import pytest

from hymirec.abtest.shadow import overlap, summarise


def test_overlap():
    assert overlap(["a", "b", "c", "d"], ["b", "a", "x", "y"]) == 0.5
    assert overlap([], []) == 1.0
    assert overlap([], ["a"]) == 0.0


def test_errors_are_counted_and_left_out():
    answers = pd.DataFrame(
        {
            "overlap": [0.5, 1.0, 0.0],
            "same_first": [0, 1, 0],
            "latency_ms": [10.0, 30.0, 0.0],
            "champion_latency_ms": [10.0, 12.0, 14.0],
            "error": ["", "", "ReadTimeout"],
        }
    )
    found = summarise(answers)
    assert (found.answers, found.errors) == (3, 1)
    assert (found.overlap, found.same_first) == (0.75, 0.5)
    assert found.latency_ms == pytest.approx((20.0, 29.0))
    assert found.champion_latency_ms[0] == 12.0
    nothing = summarise(answers.iloc[:0])
    assert (nothing.answers, nothing.overlap, nothing.latency_ms) == (0, None, None)
