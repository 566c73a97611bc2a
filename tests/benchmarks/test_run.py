"""One command runs the benchmarks, keeps what they print, and writes the page."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hymirec.inputs import IndexedHistory
from hymirec.splits import LeaveLastSplit

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import run

    return run


@pytest.fixture
def figures(run):
    return sys.modules["figures"]


def test_every_benchmark_is_run(figures):
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"run", "figures", "served_home"}
    assert {one.name for one in figures.BENCHMARKS} == scripts


def test_the_committed_page_is_of_the_committed_results(run, figures):
    assert run.PAGE.read_text() == figures.page(run.results())


def test_committed_results_say_where_and_when_they_were_measured(run):
    for path in run.RESULTS.glob("*.json"):
        kept = json.loads(path.read_text())
        assert {"machine", "versions", "date", "load", "commit", "result"} <= kept.keys()
        assert path.name == f"{kept['benchmark']}{'.quick' if kept['quick'] else ''}.json"


def test_a_result_is_kept_with_machine_versions_and_date(run, figures, monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text('print("progress")\nprint(\'{"n": 3}\')\n')
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    benchmark = figures.Benchmark("small", (figures.Figure("n", lambda r: str(r["n"])),))
    kept = run.measure(benchmark, quick=True, peer_python=None)
    assert kept["result"] == {"n": 3}
    assert kept["quick"]
    assert kept["command"] == "python benchmarks/small.py --quick"
    assert kept["machine"]["cores"] >= 1
    assert kept["versions"]["python"].startswith("3.")
    monkeypatch.setattr(figures, "BENCHMARKS", (benchmark,))
    text = figures.page({"small": json.loads(json.dumps(kept))})
    assert "| n | 3 |  |  |" in text
    assert "(quick)" in text


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('done')", "pass"])
def test_a_benchmark_that_fails_is_named(run, figures, monkeypatch, tmp_path, code):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text(code)
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    with pytest.raises(RuntimeError, match=r"^small "):
        run.measure(figures.Benchmark("small", ()), quick=False, peer_python=None)


def test_what_a_benchmark_says_of_its_own_failing_is_kept(run, figures, monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text(
        "print('{\"lost\": 2}')\nraise SystemExit(1)\n"
    )
    small = figures.Benchmark("small", (figures.Figure("lost", lambda r: str(r["lost"])),))
    for module in (run, figures):
        monkeypatch.setattr(module, "BENCHMARKS", (small,))
    for name, path in (("REPOSITORY", ""), ("RESULTS", "results"), ("PAGE", "page.md")):
        monkeypatch.setattr(run, name, tmp_path / path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit, match="failed: small ended with 1"):
        run.main()
    page = (tmp_path / "page.md").read_text()
    assert "`python benchmarks/small.py` (ended with 1), " in page
    assert "| lost | 2 |" in page


@pytest.fixture
def kill_steps(run):
    import kill_steps

    return kill_steps


CLEAN = {"half_results": [], "mlflow_runs": [], "prefect_flow_runs": [], "servers": []}


@pytest.mark.parametrize(
    ("ends", "missing", "shown"),
    [
        ({"all": ([], CLEAN)}, 0, ("0 of 100", "0", "0")),
        ({"all": (["a", "b", "c"], CLEAN)}, 0, ("3 of 100", "0", "0")),
        ({"one": (["a", "b"], CLEAN), "other": (["a"], CLEAN)}, 0, ("3 of 200", "0", "0")),
        ({"all": ([], CLEAN | {"servers": ["7 x"], "half_results": ["y"]})}, 0,
         ("0 of 100", "0", "2")),
        ({"all": ([], CLEAN)}, 1, ("0 of 100", "data", "0")),
    ],
)  # fmt: skip
def test_all_that_kills_have_changed_is_counted(kill_steps, figures, ends, missing, shown):
    found = kill_steps.summary(list(kill_steps.POINTS)[missing:], 100, ends)
    assert kill_steps.is_well(found) == (shown == ("0 of 100", "0", "0"))
    (benchmark,) = (one for one in figures.BENCHMARKS if one.name == "kill_steps")
    assert tuple(one.value(found) for one in benchmark.figures) == shown


@pytest.fixture
def training(run):
    import training

    return training


@pytest.mark.parametrize(
    ("theirs", "ours", "shown"),
    [
        ([0.2, 0.5, 0.4], [0.1, 0.3, 0.6, 0.7], "30 s"),
        ([0.2, 0.5, 0.4], [0.1, 0.3, 0.4], "not reached: 0.400 of 0.500"),
        ([0.0], [0.0], "10 s"),
    ],
)
def test_what_was_never_reached_has_no_time(training, figures, monkeypatch, theirs, ours, shown):
    histories = [np.array([1, 2, 3, 1, 2]), np.array([1, 2, 3, 4, 1])]
    split = LeaveLastSplit([IndexedHistory.of(items) for items in histories])
    asked, clock, scores = [], iter(range(0, 10_000, 10)), iter(ours)

    def rank(model, cases):
        asked.append([case.user for case in cases])
        return next(scores)

    def train(model, examples, collate, validate, config, **_):
        for _ in ours:
            validate()

    def peer(*_, **__):
        return [{"N@10": score, "seconds": 7.0 * n} for n, score in enumerate(theirs, 1)]

    monkeypatch.setattr(training, "epochs_of_peer", peer)
    monkeypatch.setattr(training, "rank_cases", rank)
    monkeypatch.setattr(training, "summarise", lambda score: {"N@10": score})
    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    found = training.same_ndcg(split, 4, Path("python"), 3)
    assert {tuple(users) for users in asked} == {(0,)}  # item 4 of the other is in no training
    (benchmark,) = (one for one in figures.BENCHMARKS if one.name == "training")
    assert benchmark.figures[1].value({"same_ndcg": found}) == shown


def test_a_name_that_is_none_is_refused():
    done = subprocess.run(
        [sys.executable, FOLDER / "run.py", "fast"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no benchmark is called 'fast'" in done.stderr
