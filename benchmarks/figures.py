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
        met: whether a result reaches the goal.
    """

    what: str
    value: Callable[[Result], str]
    peer: str | Callable[[Result], str] = ""
    goal: str = ""
    met: Callable[[Result], bool] | None = None


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


def _row(result: Result, **wanted: Any) -> dict[str, Any]:
    (row,) = _rows(result, **wanted)
    return row


def _speedups(result: Result, width: int) -> list[float]:
    return [row["speedup"] for row in _rows(result, d=width)]


def _least_to_most(speedups: list[float]) -> str:
    return f"{min(speedups):g} to {max(speedups):g} times"


def _codes(result: Result, method: str) -> str:
    row = _row(result, method=method, bytes=9)
    return f"{row['cosine']:.3f} in {row['train_encode_seconds']:.1f} s"


def _codes_are_ahead(result: Result) -> bool:
    ours, residual, product = (
        _row(result, method=method, bytes=9) for method in ("ours", "faiss_rq", "faiss_pq")
    )
    seconds = "train_encode_seconds"
    return (
        ours["cosine"] > max(residual["cosine"], product["cosine"])
        and ours[seconds] <= residual[seconds] / 10
    )  # fmt: skip


def _read(result: Result, store: str, events: int, key: str = "p50_ms") -> str:
    return f"{_row(result, store=store, events=events)[key]:.2f} ms"


def _reads_as_fast(result: Result, store: str, events: int) -> bool:
    row = _row(result, store=store, events=events)
    return bool(row["p50_ms"] <= round(row["raw_p50_ms"] + 0.3, 9))


def _answers(row: dict[str, Any]) -> str:
    return f"{row['p50_ms']:.1f} and {row['p99_ms']:.1f} ms, {row['rps']:,.0f} a second"


def _quick_alone(result: Result) -> bool:
    return bool(_row(result, clients=1)["p50_ms"] <= 4 * result["noop"]["p50_ms"])


def _even_among_eight(result: Result) -> bool:
    row = _row(result, clients=8)
    return bool(row["p99_ms"] <= 3 * row["p50_ms"])


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
    found = _row(result, model=model)[whose]
    return "not measured" if found is None else (
        f"{found['N@10']:.3f} after {found['seconds']:.0f} s"
    )  # fmt: skip


def _is_no_weaker(result: Result, model: str) -> bool:
    row = _row(result, model=model)
    return bool(row["ours"]["N@10"] >= row["theirs"]["N@10"])


def _reached_in_a_third(same: dict[str, Any]) -> bool:
    seconds = same["ours_seconds"]
    return seconds is not None and seconds <= same["peer_seconds"] / 3


def _reached(same: dict[str, Any]) -> str:
    seconds = same["ours_seconds"]
    return f"not reached: {same['ours_N@10']:.3f} of {same['N@10']:.3f}" if seconds is None else (
        f"{seconds:,.0f} s"
    )  # fmt: skip


def _left_behind(result: Result) -> int:
    return sum(len(its) for kinds in result["left_behind"].values() for its in kinds.values())


def _slowest(result: Result) -> str:
    recoveries = result["recoveries"]
    if never := [name for name, seconds in recoveries.items() if seconds is None]:
        return f"never ({', '.join(never)})"
    name, seconds = max(recoveries.items(), key=lambda one: one[1])
    return f"{seconds:g} s ({name})"


BENCHMARKS = (
    Benchmark(
        "dmil",
        (
            Figure("multi-interest loss, 128 dimensions",
                   lambda r: _least_to_most(_speedups(r, 128)),
                   "a loop over samples with SciPy's assignment: 1", "20 times",
                   lambda r: min(_speedups(r, 128)) >= 20),
            Figure("the same, 2,048 dimensions", lambda r: _least_to_most(_speedups(r, 2048)), "1",
                   "20 times", lambda r: min(_speedups(r, 2048)) >= 20),
            Figure("share of a training step", lambda r: f"{100 * r['share_of_step']:.1f} %",
                   goal="5 % at most", met=lambda r: r["share_of_step"] <= 0.05),
        ),
    ),
    Benchmark(
        "codebook",
        (
            Figure("cosine kept by nine bytes, and time to train and encode",
                   lambda r: _codes(r, "ours"),
                   lambda r: f"FAISS's residual quantiser {_codes(r, 'faiss_rq')}, product "
                             f"quantiser {_codes(r, 'faiss_pq')}",
                   "ahead of both; a tenth of the residual quantiser's time", _codes_are_ahead),
            Figure("the paper's codebook, nine bytes", lambda r: _codes(r, "paper")),
            Figure("embeddings of 2,048 float32 over codes",
                   lambda r: f"{r['compression_2048d']:g} times", "1", "300 times",
                   lambda r: r["compression_2048d"] >= 300),
            Figure("R@10 with codes over without", lambda r: f"{r['r10_codes_over_exact']:.3f}",
                   "1", "0.99", lambda r: r["r10_codes_over_exact"] >= 0.99),
        ),
    ),
    Benchmark(
        "baselines",
        tuple(
            Figure(f"our {model}, best validation NDCG@10", lambda r, m=model: _best(r, m, "ours"),
                   lambda r, m=model, p=peer: f"{p} {_best(r, m, 'theirs')}", "no weaker",
                   lambda r, m=model: _is_no_weaker(r, m))
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
                       "0.3 ms over it at most",
                       lambda r, s=store, e=events: _reads_as_fast(r, s, e))
                for store in ("sqlite", "redis")
                for events in (50, 500, 2000)
            ),
            Figure("bytes of 2,000 embeddings over a row",
                   lambda r: f"{r['bytes_ratio_vs_embeddings']:g} times", "1", "300 times",
                   lambda r: r["bytes_ratio_vs_embeddings"] >= 300),
        ),
        options=("--publication",),
    ),
    Benchmark(
        "serving",
        (
            *(
                Figure(f"an answer, p50 and p99 at {clients} clients",
                       lambda r, c=clients: _answers(_row(r, clients=c)), peer, goal, met)
                for clients, peer, goal, met in (
                    (1, lambda r: "MLflow serving nothing " + _answers(r["noop"]),
                     "p50 4 times that at most", _quick_alone),
                    (8, "", "p99 3 times p50 at most", _even_among_eight),
                    (32, "", "", None),
                )
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
                   "a fifth",
                   lambda r: r["users_needed"]["interleaving"] <= r["users_needed"]["ab"] / 5),
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
                   if r["peer_per_second"] else "not measured", "3 times RecTools",
                   lambda r: r["ours_per_second"] >= 3 * r["peer_per_second"]),
            Figure("to the best validation NDCG@10 of the peer",
                   lambda r: _reached(r["same_ndcg"]),
                   lambda r: f"{r['peer']}: {r['same_ndcg']['peer_seconds']:,.0f} s",
                   "a third of RecTools' time", lambda r: _reached_in_a_third(r["same_ndcg"])),
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
                   lambda r: f"killed at {len(r['killed_at'])} points", "0",
                   lambda r: not r["differing"]),
            Figure("points at which it was to be killed and was not",
                   lambda r: ", ".join(r["not_reached"]) or "0", goal="0",
                   met=lambda r: not r["not_reached"]),
            Figure("half results, runs that seem to go on and servers left behind",
                   lambda r: f"{_left_behind(r)}", goal="0",
                   met=lambda r: _left_behind(r) == 0),
        ),
        has_quick=False,
    ),
    Benchmark(
        "chaos",
        (
            Figure("events acknowledged on a hostile day: lost and doubled",
                   lambda r: f"{r['lost']} and {r['doubled']} of {r['events_acknowledged']:,}",
                   lambda r: f"{len(r['recoveries'])} injuries in {r['minutes']:g} minutes",
                   "0 and 0",
                   lambda r: r["lost"] == r["doubled"] == 0 < r["events_acknowledged"]),
            Figure("users moved between variants, answers of a wrong version",
                   lambda r: f"{r['moved_users']} and {r['wrong_version']}", goal="0 and 0",
                   met=lambda r: r["moved_users"] == r["wrong_version"] == 0 < r["requests"]),
            Figure("requests that failed", lambda r: f"{r['failed']} of {r['requests']:,}"),
            Figure("longest recovery", _slowest),
            Figure("injuries got over in time, and promises kept",
                   lambda r: "all" if r["green"] else "not all", goal="all",
                   met=lambda r: r["green"]),
        ),
    ),
    Benchmark(
        "unattended",
        (
            Figure("the champion and what answers, after users changed and nobody looked",
                   lambda r: f"versions {r['champion']} and {r['answering']}", "1 before",
                   "a later one", lambda r: r["answering"] == r["champion"] > 1),
            Figure("trainings asked for while nothing had changed",
                   lambda r: f"{r['retrains_while_quiet']}", goal="0",
                   met=lambda r: r["retrains_while_quiet"] == 0),
        ),
        has_quick=False,
    ),
)  # fmt: skip
"""In the order they are run: the short ones first."""
