"""What commands print: tables and answers, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def show_metrics(result: Any) -> None:
    """What a pipeline's model came to, and whether it answers from now on."""
    show_table(
        f"version {result.model_version}, test items ranked among all unseen",
        {"metrics": result.metrics, "popularity": result.popularity},
    )
    if result.standing == "refused":
        out.print(
            "this version was not promoted: it does not beat popularity on R@10; "
            "an earlier champion, if there is one, goes on answering"
        )
    elif result.standing == "challenger":
        out.print(
            f"this version is challenger; the champion goes on answering until `hymirec promote "
            f"{result.model_version}` has compared the two",
            soft_wrap=True,
        )
    elif result.standing == "passed":
        out.print(
            f"this version is there already and has no alias any more: `hymirec promote "
            f"{result.model_version}` compares it with the champion",
            soft_wrap=True,
        )


def show_table(title: str, result: dict[str, dict[str, float]]) -> None:
    """A model's test metrics above those of popularity."""
    table = Table(title=title)
    table.add_column("")
    names = ("R@10", "R@50", "R@200", "N@10", "N@50", "N@200")
    for name in names:
        table.add_column(name, justify="right")
    for label, part in (("HyMiRec", "metrics"), ("popularity", "popularity")):
        table.add_row(label, *(f"{result[part][name]:.4f}" for name in names))
    out.print(table)


def show_comparison(records: list[dict[str, Any]]) -> None:
    """Several models over seeds, see `hymirec.evaluation.table.table_of`."""
    from hymirec.evaluation.table import HEADLINE, mark

    users = records[0]["users"]
    table = Table(title=f"test items of {users} users, ranked among all unseen")
    table.add_column("", no_wrap=True)
    for name in (*HEADLINE, "s", "parameters", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for record in records:
        cells = []
        for metric in HEADLINE:
            spread = f"±{record[f'{metric} sd']:.3f}" if f"{metric} sd" in record else ""
            cells.append(f"{record[metric]:.4f}{spread}{mark(record, metric) or ' '}")
        cells += [f"{record[name]:.0f}" for name in ("seconds", "parameters", "peak_mb")]
        table.add_row(escape(record["model"]), *cells)
    show_wide(table)
    if len(records) > 1:
        out.print(
            f"▼ worse than {records[0]['model']}, ▲ better: paired permutation test over users, "
            "p ≤ 0.05 after Holm's correction"
        )


def show_trials(trials: list[dict[str, Any]]) -> None:
    """Validation of each multiple of the learning rate, see `flows.benchmark.BenchmarkResult`."""
    if not trials:
        return
    factors = list(dict.fromkeys(trial["factor"] for trial in trials))
    table = Table(title="validation N@10 by multiple of the learning rate (*: kept)")
    table.add_column("", no_wrap=True)
    for factor in factors:
        table.add_column(f"× {factor:g}", justify="right")
    for model in dict.fromkeys(trial["model"] for trial in trials):
        own = [trial for trial in trials if trial["model"] == model]
        table.add_row(escape(model), *map(_tried, own))
    out.print(table)


def _tried(trial: dict[str, Any]) -> str:
    found = trial["validation N@10"]
    if found is None:
        return "diverged "
    return f"{found:.4f}{'*' if trial['chosen'] else ' '}"


def show_wide(table: Table) -> None:
    """A table of which half says nothing: a pipe or a narrow window gets all of it."""
    needed = table.__rich_measure__(out, out.options.update(width=1000)).maximum
    Console(highlight=False, width=max(out.width, needed)).print(table)


def show_differences(table: dict[str, list[Any]], first: str) -> None:
    """Runs against a first one, see `flows.compare.differences`."""
    shown = Table(title=f"difference from {escape(first)}, 95 % interval over users")
    for name in ("run", "metric"):
        shown.add_column(name)
    for name in ("value", "difference", "interval", "p"):
        shown.add_column(name, justify="right", no_wrap=True)
    for label, found in table.items():
        for one in found:
            interval = f"{one.found.low:+.4f} to {one.found.high:+.4f}"
            shown.add_row(
                escape(label),
                one.metric,
                f"{one.value:.4f}",
                f"{one.found.difference:+.4f}",
                interval,
                f"{one.p_value:.4f}",
            )
    out.print(shown)


def show_answer(answer: dict[str, Any]) -> None:
    """A served answer: what the user took lately, the list, and why."""
    if answer["recent"]:
        out.print(f"user {escape(answer['user_id'])} lately: {escape(', '.join(answer['recent']))}")
    else:
        out.print(f"user {escape(answer['user_id'])} is unknown: the most popular items instead")
    table = Table(title=f"recommended by version {answer['model_version']}")
    for name in ("", "item", "title", "interest", "score"):
        table.add_column(name)
    for place, item in enumerate(answer["recommendations"], start=1):
        interest = str(item["interest"] or "–")
        table.add_row(str(place), escape(item["item_id"]), escape(item["title"]), interest,
                      f"{item['score']:.3f}")  # fmt: skip
    out.print(table)
    reasons = {item["interest"]: item["because"] for item in answer["recommendations"]}
    for interest, near in sorted(reasons.items()):
        if near:
            titles = ", ".join(item["title"] for item in near)
            out.print(f"interest {interest} is nearest to {escape(titles)} of the history")
