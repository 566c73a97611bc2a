"""Who takes part in a benchmark, and what a step tells of its cost."""

import time

import numpy as np
import pytest

from flows.benchmark import contenders
from flows.steps import measured
from hymirec.errors import UsageError
from hymirec.recipes import ABLATIONS, BASELINES, get_recipe

TINY = get_recipe("tiny")


def names(*models, ablations=False, sweeps=()):
    return list(contenders(TINY, models, ablations=ablations, sweeps=sweeps))


def test_all_are_hymirec_and_every_baseline():
    found = names("all")
    assert found[0] == "HyMiRec"
    assert len(found) == 1 + len(BASELINES)


def test_hymirec_comes_first_and_nobody_twice():
    assert names("sasrec", "hymirec", "sasrec") == ["HyMiRec", "SASRec"]


def test_ablations_and_sweeps_stand_beside():
    found = names("hymirec", ablations=True, sweeps=["window"])
    assert len(found) == 1 + len(ABLATIONS) + 4
    assert "HyMiRec, no codebook" in found
    assert "HyMiRec, window=8" in found


def test_unknown_names_are_answered_with_those_there_are():
    with pytest.raises(UsageError, match="no model is called 'bert5rec'; there are hymirec"):
        names("bert5rec")
    with pytest.raises(
        UsageError, match="no sweep is called 'colour'; there are interests, window"
    ):
        names("hymirec", sweeps=["colour"])


def test_cost_is_seconds_and_the_most_memory_meanwhile():
    with measured() as before:
        pass
    with measured() as cost:
        held = np.ones(30_000_000)  # 240 MB
        time.sleep(0.05)
    assert cost["seconds"] >= 0.05
    assert cost["peak_mb"] > before["peak_mb"] + 200
    del held
    with measured() as after:
        pass
    assert after["peak_mb"] < cost["peak_mb"] - 150
