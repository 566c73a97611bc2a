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


@pytest.fixture
def page(run):
    return sys.modules["page"]


def test_every_benchmark_is_run(figures):
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {
        "run",
        "figures",
        "page",
        "served_home",
    }
    assert {one.name for one in figures.BENCHMARKS} == scripts


def test_the_committed_page_is_of_the_committed_results(run, page):
    assert run.PAGE.read_text() == page.page(run.results())


def test_a_goal_is_met_or_missed(figures, page):
    figure = figures.Figure(
        "n", lambda r: str(r["n"]), goal="3", met=lambda r: r["n"] >= r["least"]
    )
    assert page._goal(figure, {"n": 3, "least": 3}) == "3: met"
    assert page._goal(figure, {"n": 2, "least": 3}) == "3: **missed**"
    assert page._goal(figure, {"n": 2}) == "3"  # nothing stands beside it
    assert page._goal(figure, {}) == "3"
    assert page._goal(figures.Figure("n", figure.value), {"n": 2}) == ""


def test_every_goal_is_judged_where_its_figure_was_measured(run, figures, page):
    results = run.results()
    for benchmark in figures.BENCHMARKS:
        for figure in benchmark.figures:
            assert bool(figure.goal) == (figure.met is not None), figure.what
            if figure.goal and benchmark.name in results:
                result = results[benchmark.name]["result"]
                if page._shown(figure.value, result) != page.MISSING:
                    assert page._goal(figure, result) != figure.goal, figure.what


def judged(figures, name, result):
    """Of each goal of a benchmark whether a result meets it."""
    (benchmark,) = (one for one in figures.BENCHMARKS if one.name == name)
    return [bool(one.met(result)) for one in benchmark.figures if one.met]


ROW = {"method": "ours", "bytes": 9, "cosine": 0.9, "train_encode_seconds": 3.0}
RQ = ROW | {"method": "faiss_rq", "cosine": 0.8, "train_encode_seconds": 30.0}
PQ = ROW | {"method": "faiss_pq", "cosine": 0.7}
DAY = {"lost": 0, "doubled": 0, "events_acknowledged": 9, "moved_users": 0, "wrong_version": 0,
       "requests": 9, "green": True}  # fmt: skip
LINES = [{"clients": 1, "p50_ms": 8.0, "p99_ms": 90.0}, {"clients": 8, "p50_ms": 9.0, "p99_ms": 27}]


@pytest.mark.parametrize(
    ("name", "result", "expected"),
    [
        ("dmil", {"rows": [{"d": 128, "speedup": 20}, {"d": 128, "speedup": 50},
                           {"d": 2048, "speedup": 19.9}, {"d": 2048, "speedup": 50}],
                  "share_of_step": 0.05}, [True, False, True]),
        ("codebook", {"rows": [ROW, RQ, PQ], "compression_2048d": 299.9,
                      "r10_codes_over_exact": 0.99}, [True, False, True]),
        ("codebook", {"rows": [ROW | {"train_encode_seconds": 3.1}, RQ, PQ],
                      "compression_2048d": 300, "r10_codes_over_exact": 0.98},
         [False, True, False]),
        ("codebook", {"rows": [ROW, RQ, PQ | {"cosine": 0.9}], "compression_2048d": 300,
                      "r10_codes_over_exact": 1.1}, [False, True, True]),
        ("baselines", {"rows": [
            {"model": "SASRec", "ours": {"N@10": 0.3}, "theirs": {"N@10": 0.3}},
            {"model": "GRU4Rec", "ours": {"N@10": 0.3}, "theirs": {"N@10": 0.31}},
        ]}, [True, False]),
        ("features", {"bytes_ratio_vs_embeddings": 300, "rows": [
            {"store": store, "events": events, "raw_p50_ms": 0.1, "p50_ms": p50_ms}
            for store, p50_ms in (("sqlite", 0.4), ("redis", 0.41)) for events in (50, 500, 2000)
        ]}, [True] * 3 + [False] * 3 + [True]),
        ("serving", {"noop": {"p50_ms": 2.0}, "rows": LINES}, [True, True]),
        ("serving", {"noop": {"p50_ms": 1.9}, "rows": LINES}, [False, True]),
        ("interleaving", {"users_needed": {"interleaving": 21, "ab": 100}}, [False]),
        ("training", {"ours_per_second": 30, "peer_per_second": 10,
                      "same_ndcg": {"ours_seconds": 34.0, "peer_seconds": 100.0}}, [True, False]),
        ("training", {"ours_per_second": 29, "peer_per_second": 10,
                      "same_ndcg": {"ours_seconds": None, "peer_seconds": 100.0}}, [False, False]),
        ("kill_steps", {"differing": {"all": ["a"]}, "not_reached": [], "left_behind": {}},
         [False, True, True]),
        ("chaos", DAY, [True, True, True]),
        ("chaos", DAY | {"doubled": 1, "wrong_version": 1, "green": False}, [False] * 3),
        ("chaos", DAY | {"events_acknowledged": 0, "requests": 0}, [False, False, True]),
        ("unattended", {"champion": 2, "answering": 2, "retrains_while_quiet": 1}, [True, False]),
        ("unattended", {"champion": 2, "answering": 1, "retrains_while_quiet": 0}, [False, True]),
    ],
)  # fmt: skip
def test_goals_are_judged_by_the_numbers(figures, name, result, expected):
    assert judged(figures, name, result) == expected


def test_what_never_recovered_is_not_passed_over(figures):
    assert figures._slowest({"recoveries": {"store": 0.1, "disk": 33.5}}) == "33.5 s (disk)"
    assert figures._slowest({"recoveries": {"store": None, "disk": 33.5}}) == "never (store)"


def test_committed_results_say_where_and_when_they_were_measured(run):
    for path in run.RESULTS.glob("*.json"):
        kept = json.loads(path.read_text())
        assert {"machine", "versions", "date", "load", "commit", "result"} <= kept.keys()
        assert path.name == f"{kept['benchmark']}{'.quick' if kept['quick'] else ''}.json"


def test_a_result_is_kept_with_machine_versions_and_date(run, figures, page, monkeypatch, tmp_path):
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
    monkeypatch.setattr(page, "BENCHMARKS", (benchmark,))
    text = page.page({"small": json.loads(json.dumps(kept))})
    assert "| n | 3 |  |  |" in text
    assert "(quick)" in text


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('done')", "pass"])
def test_a_benchmark_that_fails_is_named(run, figures, monkeypatch, tmp_path, code):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text(code)
    monkeypatch.setattr(run, "REPOSITORY", tmp_path)
    with pytest.raises(RuntimeError, match=r"^small "):
        run.measure(figures.Benchmark("small", ()), quick=False, peer_python=None)


def test_what_a_benchmark_says_of_its_own_failing_is_kept(
    run, figures, page, monkeypatch, tmp_path
):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "small.py").write_text(
        "print('{\"lost\": 2}')\nraise SystemExit(1)\n"
    )
    small = figures.Benchmark("small", (figures.Figure("lost", lambda r: str(r["lost"])),))
    for module in (run, page):
        monkeypatch.setattr(module, "BENCHMARKS", (small,))
    for name, path in (("REPOSITORY", ""), ("RESULTS", "results"), ("PAGE", "page.md")):
        monkeypatch.setattr(run, name, tmp_path / path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit, match="failed: small ended with 1"):
        run.main()
    text = run.PAGE.read_text()
    assert "`python benchmarks/small.py` (ended with 1), " in text
    assert "| lost | 2 |" in text


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
