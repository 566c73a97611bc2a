"""Who takes part in a benchmark, and what a step tells of its cost."""

import mmap
import time
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from flows import benchmark
from flows.benchmark import contenders, tuned
from flows.runtime.locks import DATA, alone_in
from flows.runtime.settings import EXPERIMENT
from flows.steps import contender as module
from flows.steps.contender import Contender, inputs_of, text_models, with_transitions
from flows.steps.data import DataRef
from flows.steps.results import StepResult, measured, step_digest
from flows.tracking.record import FLOW_RUN_TAG, LOCK_TAG, close_killed
from hymirec.display import show_trials
from hymirec.errors import DataError, DivergedError, UsageError
from hymirec.evaluation.protocol import rank_cases
from hymirec.home import Home
from hymirec.inputs import IndexedHistory
from hymirec.models.base import TrainingData
from hymirec.models.sasrec import SASRec, SASRecConfig
from hymirec.recipes import ABLATIONS, BASELINES, get_baseline, get_recipe
from hymirec.schema import ITEM_ID
from hymirec.splits import LEAVE_LAST
from hymirec.transitions import TransitionConfig

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
    with pytest.raises(UsageError, match="no model is called ':sasrec'; there are hymirec"):
        names(":sasrec")
    with pytest.raises(UsageError, match="no sweep is called 'colour'; there are interests"):
        names("hymirec", sweeps=["colour"])
    with pytest.raises(UsageError, match="no model is named"):
        names()


def test_all_may_stand_beside_others():
    assert len(names("all", "sasrec")) == 1 + len(BASELINES)


def test_two_models_of_one_title_are_refused(tmp_path, monkeypatch):
    (tmp_path / "another.py").write_text(
        "from hymirec.recipes import get_baseline\n"
        "def wide(size):\n"
        "    return get_baseline('sasrec', size)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="two models are called 'SASRec'"):
        names("sasrec", "another:wide")


def test_a_model_from_elsewhere_depends_on_its_own_code(tmp_path, monkeypatch):
    code = (Path(__file__).parents[2] / "docs" / "adding-a-model.md").read_text()
    (tmp_path / "fresh.py").write_text(code.partition("```python\n")[2].partition("```")[0])
    monkeypatch.chdir(tmp_path)
    recipe = get_baseline("fresh:freshness", TINY)
    data = DataRef("world", tmp_path, "0123")
    before = inputs_of(data, recipe)
    assert before == inputs_of(data, recipe)
    (tmp_path / "fresh.py").write_text((tmp_path / "fresh.py").read_text() + "# another\n")
    assert before != inputs_of(data, recipe)
    assert "code" not in inputs_of(data, get_baseline("sasrec", TINY))


def test_text_models_are_found_wherever_they_stand():
    settings = {"writer": "w", "encoder": {"backbone": {"pretrained": {"source": "a"}}}, "b": 1}
    assert text_models(settings) == {"w", "a"}
    assert text_models(get_baseline("hllm", TINY).model_dump(mode="json")) == set()


def test_nobody_else_writes_a_benchmark_s_data_meanwhile(home_with_store, monkeypatch):
    asked = []

    def held(*_, **options):
        with pytest.raises(UsageError, match="another data"), alone_in(home_with_store, DATA):
            pass
        asked.append(options)
        if "as_latest" in options:
            raise DataError("it ends here")

    for name in ("ingest", "admit"):
        monkeypatch.setattr(benchmark, name, held)
    with pytest.raises(DataError, match="it ends here"):
        benchmark.benchmark.fn(Path(), home_with_store.root, "tiny", ["last_item"])
    assert asked == [{"min_events": 1}, {"as_latest": False}]


def test_a_contender_of_a_killed_benchmark_ends_with_it(home_with_store):
    client = mlflow.MlflowClient()
    experiment = client.create_experiment(EXPERIMENT, home_with_store.artifact_uri)
    tags = {"flow": "benchmark", FLOW_RUN_TAG: "", LOCK_TAG: "pipeline"}
    parent = client.create_run(experiment, tags=tags).info.run_id
    data, recipe = DataRef("world", Path(), "0123"), get_baseline("sasrec", TINY)
    with benchmark._contender_run("SASRec", data, LEAVE_LAST, recipe, parent, {}) as own:
        close_killed(home_with_store, "pipeline")
        assert {client.get_run(run).info.status for run in (parent, own)} == {"KILLED"}


def test_a_rate_at_which_a_model_diverges_has_lost_and_ends_nothing(monkeypatch, caplog, capsys):
    rate = get_baseline("sasrec", TINY).training.learning_rate

    def trial(home, data, split, title, recipe, factor, parent):
        assert recipe.training.learning_rate == pytest.approx(rate * factor)
        if factor > 1:
            raise DivergedError(f"sasrec: the loss is nan at {factor:g}")
        return factor

    monkeypatch.setattr(benchmark, "run_trial", trial)
    monkeypatch.setattr(benchmark, "step", lambda name: lambda function: function)
    chosen = contenders(TINY, ["sasrec", "last_item"], ablations=False, sweeps=[])
    trials = tuned(None, None, None, chosen, [30, 0.3, 1], "run")
    assert [(one["factor"], one[benchmark.TRIED], one["chosen"]) for one in trials] == [
        (30, None, False), (0.3, 0.3, False), (1, 1, True),
    ]  # fmt: skip
    assert "the loss is nan at 30" in caplog.text
    show_trials(trials)
    assert "diverged" in capsys.readouterr().out
    with pytest.raises(DivergedError, match="SASRec diverged at every rate tried"):
        tuned(None, None, None, chosen, [30, 100], "run")


def test_transitions_are_weighed_once_and_never_saved_with_the_model(tmp_path):
    home = Home.at(tmp_path).create()
    # Everybody goes round the same ring, of which an untrained model knows nothing.
    ring = [np.arange(start, start + 12) % 20 + 1 for start in range(20)]
    histories = [IndexedHistory.of(row) for row in ring]
    settings = SASRecConfig(width=8, num_layers=1, num_heads=1, num_recent=10)
    items = pd.DataFrame({ITEM_ID: [str(number) for number in range(20)]})
    only_last = TransitionConfig(num_last=1, max_gap=1, max_weight=64)
    data = TrainingData(items, LEAVE_LAST.of(histories).training, tmp_path)

    def contender():
        trained = StepResult("sasrec", tmp_path, "0123", skipped=False)
        torch.manual_seed(0)
        model = SASRec.build(data, settings).eval()
        return Contender(model, 1, (trained,), [str(user) for user in range(20)], histories)

    for is_there in (False, True):
        found = with_transitions(home, LEAVE_LAST, only_last, contender())
        assert [one.name for one in found.steps] == ["sasrec", "benchmark-transitions"]
        assert found.steps[-1].skipped == is_there
        assert rank_cases(found.model, LEAVE_LAST.of(histories).test).max() == 1
    assert rank_cases(contender().model, LEAVE_LAST.of(histories).test).max() > 1


def test_other_code_of_a_step_makes_it_another(monkeypatch):
    steps = {}

    def note(home, name, inputs, *_):
        steps.setdefault(name, set()).add(step_digest(name, inputs))
        raise DivergedError("not at all")

    monkeypatch.setattr(module, "run_step", note)
    monkeypatch.setattr(module, "run_training_step", note)
    items, events = pd.DataFrame({"item_id": []}), pd.DataFrame({"item_id": [], "user_id": []})
    events["timestamp"] = pd.to_datetime([], unit="s", utc=True)
    table = SimpleNamespace(items=items, interactions=events)
    data = SimpleNamespace(digest="0123", read=lambda: table)
    done = StepResult("sasrec", Path(), "0123", skipped=False)
    trained = Contender(SASRec.__new__(SASRec), 1, (done,), [], [])
    recipe = get_baseline("sasrec", TINY)
    for code in ("one", "another"):
        monkeypatch.setattr(module, "source_digest", lambda *_, code=code: code)
        for step in (
            lambda: module.train_contender(None, data, LEAVE_LAST, recipe, "run"),
            lambda: module.validate_contender(None, LEAVE_LAST, trained),
            lambda: module.evaluate_contender(None, data, LEAVE_LAST, "SASRec", 0, trained),
            lambda: with_transitions(None, LEAVE_LAST, TransitionConfig(), trained),
        ):
            with pytest.raises(DivergedError, match="not at all"):
                step()
    assert {name: len(digests) for name, digests in steps.items()} == dict.fromkeys(
        ("sasrec", "benchmark-validation", "benchmark-evaluation", "benchmark-transitions"), 2
    )


def test_cost_is_seconds_and_the_most_memory_meanwhile():
    with measured() as before:
        pass
    with measured() as cost:
        # Straight from the system, and back to it: what the process freed earlier does not count.
        with mmap.mmap(-1, 800 * 2**20) as held:
            for place in range(0, len(held), mmap.PAGESIZE):
                held[place] = 1
        time.sleep(0.05)
    assert cost["seconds"] >= 0.05
    assert cost["peak_mb"] > before["peak_mb"] + 700
    with measured() as after:
        pass
    assert after["peak_mb"] < cost["peak_mb"] - 700
