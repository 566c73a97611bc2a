"""How the runs of a comparison are found."""

from collections import Counter

import mlflow
import pytest

from flows.compare import _find
from hymirec.errors import UsageError


def test_a_run_is_found_however_many_are_newer(home_with_store, monkeypatch):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("hymirec", home_with_store.artifact_uri)
    runs = [client.create_run(experiment).info.run_id for _ in range(17)]
    search = mlflow.MlflowClient.search_runs

    def search_one(*args, max_results, **kwargs):  # a server gives what it likes at once
        return search(*args, max_results=1, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "search_runs", search_one)
    for run in (runs[0], runs[-1]):
        assert {_find(run).info.run_id, _find(run[:20]).info.run_id} == {run}
    ((first, count),) = Counter(run[0] for run in runs).most_common(1)  # of 16 there are
    with pytest.raises(UsageError, match=f"{count} runs begin with '{first}'"):
        _find(first)
    for unknown in ("zzz", "", "it's", "%"):
        with pytest.raises(UsageError, match="no run begins with"):
            _find(unknown)
