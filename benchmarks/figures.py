"""Which benchmarks there are, and which of their figures docs/performance.md shows, beside what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Result = Any
"""What a benchmark printed."""


@dataclass(frozen=True)
class Figure:
    """One line of the page.

    Attributes:
        what: is measured.
        value: of a result.
        peer: what stands beside it: a text, or of the same result.
        goal: what it is to reach; empty where none was set.
    """

    what: str
    value: Callable[[Result], str]
    peer: str | Callable[[Result], str] = ""
    goal: str = ""


@dataclass(frozen=True)
class Benchmark:
    """One script of this folder.

    Attributes:
        name: the script's, without its ending.
        figures: that the page shows.
        options: that it is run with in full.
        has_quick: whether it takes `--quick`.
        has_peer: whether it takes `--peer-python`.
    """

    name: str
    figures: tuple[Figure, ...]
    options: tuple[str, ...] = ()
    has_quick: bool = True
    has_peer: bool = False


def _rows(result: Result, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if all(row.get(k) == v for k, v in wanted.items())]


def _speedups(result: Result, width: int) -> str:
    found = [row["speedup"] for row in _rows(result, d=width)]
    return f"{min(found):g} to {max(found):g} times"


def _codes(result: Result, method: str) -> str:
    (row,) = _rows(result, method=method, bytes=9)
    return f"{row['cosine']:.3f} in {row['train_encode_seconds']:.1f} s"


def _read(result: Result, store: str, events: int, key: str = "p50_ms") -> str:
    (row,) = _rows(result, store=store, events=events)
    return f"{row[key]:.2f} ms"


def _answers(row: dict[str, Any]) -> str:
    return f"{row['p50_ms']:.1f} and {row['p99_ms']:.1f} ms, {row['rps']:,.0f} a second"


def _recall(result: Result, which: str) -> str:
    return f"{result[which]['R@10']:.3f}"


def _growing(result: Result, key: str) -> str:
    return ", ".join(
        f"{row[key]:g} ({row['users']:,} users of {row['history']:,})" for row in result["growth"]
    )


def _parts(result: Result) -> str:
    rows = result["rows"]
    won = [row for row in rows if (row["with"] > row["without"]) == row["more_is_better"]]
    return f"{len(won)} of {len(rows)} parts better with than without"


def _best(result: Result, model: str, whose: str) -> str:
    (row,) = _rows(result, model=model)
    found = row[whose]
    return "not measured" if found is None else (
        f"{found['N@10']:.3f} after {found['seconds']:.0f} s"
    )  # fmt: skip


def _reached(same: dict[str, Any]) -> str:
    seconds = same["ours_seconds"]
    return f"not reached: {same['ours_N@10']:.3f} of {same['N@10']:.3f}" if seconds is None else (
        f"{seconds:,.0f} s"
    )  # fmt: skip


def _left_behind(result: Result) -> int:
    return sum(len(its) for kinds in result["left_behind"].values() for its in kinds.values())


def _slowest(result: Result) -> str:
    known = {name: seconds for name, seconds in result["recoveries"].items() if seconds}
    name, seconds = max(known.items(), key=lambda one: one[1])
    return f"{seconds:g} s ({name})"


BENCHMARKS = (
    Benchmark(
        "dmil",
        (
            Figure("multi-interest loss, 128 dimensions", lambda r: _speedups(r, 128),
                   "a loop over samples with SciPy's assignment: 1", "20 times"),
            Figure("the same, 2,048 dimensions", lambda r: _speedups(r, 2048), "1", "20 times"),
            Figure("share of a training step", lambda r: f"{100 * r['share_of_step']:.1f} %",
                   goal="5 % at most"),
        ),
    ),
    Benchmark(
        "codebook",
        (
            Figure("cosine kept by nine bytes, and time to train and encode",
                   lambda r: _codes(r, "ours"),
                   lambda r: f"FAISS's residual quantiser {_codes(r, 'faiss_rq')}, product "
                             f"quantiser {_codes(r, 'faiss_pq')}",
                   "ahead of both; a tenth of the residual quantiser's time"),
            Figure("the paper's codebook, nine bytes", lambda r: _codes(r, "paper")),
            Figure("embeddings of 2,048 float32 over codes",
                   lambda r: f"{r['compression_2048d']:g} times", "1", "300 times"),
            Figure("R@10 with codes over without", lambda r: f"{r['r10_codes_over_exact']:.3f}",
                   "1", "0.99"),
        ),
    ),
    Benchmark(
        "baselines",
        tuple(
            Figure(f"our {model}, best validation NDCG@10", lambda r, m=model: _best(r, m, "ours"),
                   lambda r, m=model, p=peer: f"{p} {_best(r, m, 'theirs')}", "no weaker")
            for model, peer in (("SASRec", "RecTools"), ("GRU4Rec", "RecBole"))
        ),
        has_peer=True,
    ),
    Benchmark(
        "evaluation",
        (
            Figure("full ranking, users a second", lambda r: f"{r['users_per_second']:,.0f}",
                   lambda r: f"the product and `topk` alone: {r['floor_users_per_second']:,.0f}"),
            Figure("memory", lambda r: f"{r['peak_mb']:,.0f} MiB"),
        ),
    ),
    Benchmark(
        "features",
        (
            *(
                Figure(f"reading one user's {events:,} events, {store}",
                       lambda r, s=store, e=events: _read(r, s, e),
                       lambda r, s=store, e=events: "raw " + _read(r, s, e, "raw_p50_ms"),
                       "0.3 ms over it at most")
                for store in ("sqlite", "redis")
                for events in (50, 500, 2000)
            ),
            Figure("bytes of 2,000 embeddings over a row",
                   lambda r: f"{r['bytes_ratio_vs_embeddings']:g} times", "1", "300 times"),
        ),
        options=("--publication",),
    ),
    Benchmark(
        "serving",
        (
            *(
                Figure(f"an answer, p50 and p99 at {clients} clients",
                       lambda r, c=clients: _answers(_rows(r, clients=c)[0]),
                       (lambda r: "MLflow serving nothing " + _answers(r["noop"]))
                       if clients == 1 else "",
                       {1: "p50 4 times that at most", 8: "p99 3 times p50 at most"}.get(
                           clients, ""))
                for clients in (1, 8, 32)
            ),
            Figure("p50 with 2,000 events over 50",
                   lambda r: f"{r['latency_2000_over_50_events']:g} times"),
        ),
    ),
    Benchmark(
        "experiments",
        (
            Figure("an experiment's share of a request, p50 and p99",
                   lambda r: "{p50:g} and {p99:g} ms".format(**r["request"]["wall"])),
            Figure("a readout", lambda r: f"{r['readout']['ms']:,.0f} ms of "
                                          f"{r['readout']['users']:,} users"),
        ),
    ),
    Benchmark(
        "interleaving",
        (
            Figure("users to be sure which of two versions is better, 80 % of the time",
                   lambda r: f"interleaving: {r['users_needed']['interleaving']:,}",
                   lambda r: f"the A/B test: {r['users_needed']['ab']:,} "
                             f"(true lift {r['true_lift']:+.0%})",
                   "a fifth"),
        ),
    ),
    Benchmark(
        "scaling",
        (
            Figure("reading an item's text", lambda r: f"{r['text_ms']:g} ms"),
            Figure("coding a vector", lambda r: f"{r['code_ms']:g} ms"),
            Figure("recommending to a user: at no items, and per item",
                   lambda r: f"{r['user_ms']:g} ms and {r['user_item_ns']:g} ns"),
        ),
    ),
    Benchmark(
        "cold_items",
        (
            Figure("R@10 of items nobody has interacted with", lambda r: _recall(r, "text"),
                   lambda r: f"SASRec {_recall(r, 'sasrec')}, chance {r['chance_R@10']:.3f}"),
        ),
    ),
    Benchmark(
        "training",
        (
            Figure("our SASRec, interactions a second", lambda r: f"{r['ours_per_second']:,}",
                   lambda r: f"{r['peer']}: {r['peer_per_second'] or 0:,}"
                   if r["peer_per_second"] else "not measured", "3 times RecTools"),
            Figure("to the best validation NDCG@10 of the peer",
                   lambda r: _reached(r["same_ndcg"]),
                   lambda r: f"{r['peer']}: {r['same_ndcg']['peer_seconds']:,.0f} s",
                   "a third of RecTools' time"),
            Figure("growth: seconds per 1,000 users",
                   lambda r: _growing(r, "seconds_per_1k_users")),
            Figure("growth: MiB at the peak", lambda r: _growing(r, "peak_mib")),
        ),
        has_peer=True,
    ),
    Benchmark(
        "validation",
        (
            Figure("validating, with Data Docs",
                   lambda r: f"{r['validation_seconds']:.1f} s of {r['rows']:,} interactions"),
            Figure("the same where one row in a hundred is bad and dropped",
                   lambda r: f"{r['validation_with_bad_rows_seconds']:.1f} s"),
        ),
    ),
    Benchmark(
        "orchestration",
        (
            Figure("what the flow adds to the work of its steps",
                   lambda r: f"{100 * r['overhead_of_flow']:.1f} %"),
            Figure("a second run, which finds everything done",
                   lambda r: f"{r['second_run_seconds']:.1f} s"),
        ),
    ),
    Benchmark("parts", (Figure("each part against the measure it is there for", _parts),)),
    Benchmark(
        "freshness",
        (
            Figure("from a click's acknowledgement to an answer that knows it, median and longest",
                   lambda r: f"{r['seen_after_p50_ms']:g} and {r['seen_after_max_ms']:g} ms",
                   lambda r: f"one answer: {r['request_p50_ms']:g} ms"),
        ),
    ),
    Benchmark(
        "kill_steps",
        (
            Figure("digests that differ after the pipeline was killed and went on",
                   lambda r: f"{sum(map(len, r['differing'].values()))} of {r['compared']}",
                   lambda r: f"killed at {len(r['killed_at'])} points", "0"),
            Figure("points at which it was to be killed and was not",
                   lambda r: ", ".join(r["not_reached"]) or "0", goal="0"),
            Figure("half results, runs that seem to go on and servers left behind",
                   lambda r: f"{_left_behind(r)}", goal="0"),
        ),
        has_quick=False,
    ),
    Benchmark(
        "chaos",
        (
            Figure("events acknowledged on a hostile day: lost and doubled",
                   lambda r: f"{r['lost']} and {r['doubled']} of {r['events_acknowledged']:,}",
                   lambda r: f"{len(r['recoveries'])} injuries in {r['minutes']:g} minutes",
                   "0 and 0"),
            Figure("users moved between variants, answers of a wrong version",
                   lambda r: f"{r['moved_users']} and {r['wrong_version']}", goal="0 and 0"),
            Figure("requests that failed", lambda r: f"{r['failed']} of {r['requests']:,}"),
            Figure("longest recovery", _slowest),
        ),
    ),
    Benchmark(
        "unattended",
        (
            Figure("the champion and what answers, after users changed and nobody looked",
                   lambda r: f"versions {r['champion']} and {r['answering']}", "1 before"),
            Figure("trainings asked for while nothing had changed",
                   lambda r: f"{r['retrains_while_quiet']}", goal="0"),
        ),
        has_quick=False,
    ),
)  # fmt: skip
"""In the order they are run: the short ones first."""

HEAD = (
    "# Performance\n\n"
    "<!-- Written by benchmarks/run.py from benchmarks/results/: change it there. -->\n\n"
    "`make bench` runs all of this again (`make bench BENCH=--quick` in small, "
    "`python benchmarks/run.py NAME` one of them). A goal is what was asked for before it was "
    "built. What is marked quick has small sizes and few repeats, and shows that it works rather "
    "than how well. Load is the number of processes that wanted a core before and after: above "
    "the number of cores, times are upper bounds.\n\n"
    "What was measured by hand, with other data and at other times, is in the "
    "[results](results.md) and the [experiment log](experiments.md).\n"
)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The page, of what is kept of each benchmark."""
    text = HEAD
    for benchmark in BENCHMARKS:
        text += f"\n## {benchmark.name}\n\n"
        kept = results.get(benchmark.name)
        if kept is None:
            text += f"Not measured yet: `python benchmarks/run.py {benchmark.name}`.\n"
            continue
        machine, load = kept["machine"], kept["load"]
        failed = f" (ended with {kept['status']})" if kept.get("status") else ""
        text += (
            f"`{kept['command']}`{' (quick)' if kept['quick'] else ''}{failed}, "
            f"{kept['date'][:10]}, "
            f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']:g} GiB, "
            f"load {load['before']:g} and {load['after']:g}, {kept['seconds']:,.0f} s\n\n"
            "| what | | beside it | goal |\n| --- | --- | --- | --- |\n"
        )
        for figure in benchmark.figures:
            value = _shown(figure.value, kept["result"])
            text += f"| {figure.what} | {value} | {_shown(figure.peer, kept['result'])} | "
            text += f"{figure.goal} |\n"
    return text


def _shown(value: str | Callable[[Result], str], result: Result) -> str:
    """A figure as text; – where this result does not have it, as a quick one may not."""
    if isinstance(value, str):
        return value
    try:
        return value(result)
    except (KeyError, ValueError, TypeError, IndexError):
        return "–"
