"""What is reported of a model."""

import numpy as np
import pandas as pd
import pytest
import torch

from hymirec.evaluation.metrics import summarise
from hymirec.evaluation.report import Catalogue, cold_metrics, evaluate, length_slices
from hymirec.inputs import IndexedHistory
from hymirec.models.popularity import PopularityRecommender
from hymirec.splits import LeaveLastSplit, count_items


def history(items):
    items = np.asarray(items, dtype=np.int64)
    return IndexedHistory.of(items)


def test_cold_metrics_are_those_of_targets_without_occurrences():
    ranks = torch.tensor([1.0, 20.0, 3.0, 300.0])
    targets = np.array([1, 2, 3, 2])
    found = cold_metrics(ranks, targets, np.array([0, 5, 0, 1]))
    assert found["cold_cases"] == 2
    assert found["cold_R@10"] == 0
    assert found["cold_R@50"] == 0.5
    assert cold_metrics(ranks, targets, np.array([0, 5, 1, 1])) == {"cold_cases": 0}


def test_slices_hold_every_case_once():
    ranks = torch.tensor([1.0, 11.0, 1.0, 5.0])
    found = length_slices(ranks, np.array([19, 20, 49, 5000]))
    assert found["length_0_20/R@10"] == 1
    assert found["length_20_50/R@10"] == 0.5
    assert found["length_1000_up/R@10"] == 1
    cases = {name: value for name, value in found.items() if name.endswith("/cases")}
    assert cases == {"length_0_20/cases": 1, "length_20_50/cases": 2, "length_1000_up/cases": 1}


@pytest.mark.parametrize("window", [1, 2])
def test_a_report_holds_all_measures_and_every_user(window):
    histories = [history([1, 2, 3, 4, 5, 6]), history([1]), history([6, 5, 4, 3, 2, 1])]
    split = LeaveLastSplit(histories, window)
    items = pd.DataFrame(
        {"item_id": list("abcdef"), "title": list("abcdef"), "genres": list("xxyyxy")}
    )
    occurrences = count_items(split.training, len(items))
    model = PopularityRecommender(occurrences)
    catalogue = Catalogue.of(items, occurrences)
    report = evaluate(model, split.test, ["ann", "bob", "cid"], catalogue)
    assert report.users["user_id"].tolist() == ["ann", "cid"]
    assert report.users["length"].tolist() == [6 - window] * 2
    ranks = torch.tensor(report.users["rank"].to_numpy())
    assert report.metrics["R@10"] == summarise(ranks)["R@10"]
    assert {"seen_kept_R@10", "cold_cases", "coverage", "calibration"} <= report.metrics.keys()
    assert ("window_R@10" in report.metrics) == (window > 1)
    for known, row in zip(split.test, report.users["listed"], strict=True):
        listed = [item for item in row if item]
        assert sorted(listed) == sorted(set(range(1, 7)) - set(known.known.items.tolist()))


def test_window_recall_is_the_share_of_the_window_found():
    histories = [history([1, 2, 3, 4, 5]), history([9, 8, 7, 6, 1])]
    split = LeaveLastSplit(histories, window=2)
    # Of 400 items the first eleven were taken in training: 10 is then the least popular of them.
    model = PopularityRecommender(torch.tensor([0, *range(400, 0, -1)]))
    items = pd.DataFrame({"item_id": map(str, range(400)), "title": "x"})
    catalogue = Catalogue.of(items, model.counts)
    metrics = evaluate(model, split.test, ["ann", "bob"], catalogue).metrics
    # Unseen in order: 4, 5 first and second; of the other, 6 is 6th and 1 the first.
    assert metrics["window_R@10"] == 1
    assert metrics["R@10"] == 1
