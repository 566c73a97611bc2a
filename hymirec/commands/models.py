"""`hymirec models`: the registered versions, what became of them, and going back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from hymirec.commands.options import HomeOption, JsonOption, configured
from hymirec.display import out, show_wide
from hymirec.errors import UsageError
from hymirec.home import DEFAULT_HOME

if TYPE_CHECKING:
    from features.logs.audit_log import Entry
    from flows.registry.promote import Promotion

app = typer.Typer(no_args_is_help=True, help="Registered versions: which answers, and since when.")

VersionArgument = Annotated[str, typer.Argument(help="A version's number, or an alias.")]


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the versions, their aliases, and whether they could answer."""
    place = configured(home)
    from flows.registry.aliases import Aliases
    from flows.registry.inventory import describe_all

    aliases = Aliases(place)
    aliases.notice()
    rows = describe_all(aliases)
    table = Table(title=f"versions of hymirec in {escape(str(place.root))}")
    for name in ("version", "aliases", "registered", "recipe", "R@10", "codebook", "gate"):
        table.add_column(name)
    for row in rows:
        recall = row["metrics"].get("R@10")
        codebook = row["codebook_id"] + ("" if row["features_online"] else " (dropped)")
        table.add_row(
            row["version"], ", ".join(row["aliases"]), _minute(row["registered"]), row["recipe"],
            "–" if recall is None else f"{recall:.4f}", codebook, escape(row["gate"]),
        )  # fmt: skip
    show_wide(table)
    if as_json:
        print(json.dumps({"versions": rows}))


@app.command()
def show(
    version: VersionArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show a version: its card, what it belongs to, what was decided about it."""
    place = configured(home)
    from flows.registry.aliases import Aliases
    from flows.registry.inventory import describe

    aliases = Aliases(place)
    aliases.notice()
    found = aliases.find(version)
    row = describe(aliases, found)
    entries = aliases.history(version=str(found.version))
    out.print(Markdown(found.description or ""))
    table = Table(show_header=False, title=f"version {found.version}")
    for name, value in row.items():
        if name not in ("metrics", "version"):
            shown = ", ".join(value) if isinstance(value, list) else str(value)
            table.add_row(name.replace("_", " "), escape(shown or "–"))
    out.print(table)
    _print_history(entries)
    if as_json:
        history = [one.to_json() for one in entries]
        print(json.dumps(row | {"card": found.description, "history": history}))


@app.command()
def history(
    version: Annotated[str, typer.Option(help="Only of this version.")] = "",
    limit: Annotated[int, typer.Option(help="Entries to show.", min=1)] = 20,
    before: Annotated[
        int | None, typer.Option(help="Entries below this number: the next page.", min=1)
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show every promotion, refusal and rollback, the newest first."""
    place = configured(home)
    from flows.registry.aliases import Aliases

    aliases = Aliases(place)
    aliases.notice()
    number = str(aliases.find(version).version) if version else ""
    entries = aliases.history(version=number, limit=limit, before=before)
    _print_history(entries)
    if len(entries) == limit and entries[-1].position > 1:
        out.print(f"older ones: --before {entries[-1].position}")
    if as_json:
        print(json.dumps({"entries": [one.to_json() for one in entries]}))


@app.command()
def diff(
    first: VersionArgument,
    second: VersionArgument,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what two versions differ in, and by how much."""
    place = configured(home)
    from flows.registry.aliases import Aliases
    from flows.registry.inventory import differences

    aliases = Aliases(place)
    versions = [aliases.find(name) for name in (first, second)]
    found = differences(aliases, *versions)
    numbers = [str(one.version) for one in versions]
    for part, title in (("belongs", "belongs to"), ("settings", "settings")):
        table = Table(title=f"{title}, where they differ")
        for name in ("", *(f"version {number}" for number in numbers)):
            table.add_column(name)
        for row in found[part]:
            table.add_row(*(escape(str(row[key]) or "–") for key in ("name", "first", "second")))
        show_wide(table)
    table = Table(title="test metrics of their runs")
    for name in ("", *(f"version {number}" for number in numbers), "difference", "interval"):
        table.add_column(name, justify="right" if name else "left")
    for row in found["metrics"]:
        interval = f"{row['low']:+.4f} to {row['high']:+.4f}" if "low" in row else "–"
        table.add_row(
            row["name"], f"{row['first']:.4f}", f"{row['second']:.4f}",
            f"{row['second'] - row['first']:+.4f}", interval,
        )  # fmt: skip
    show_wide(table)
    if as_json:
        print(json.dumps({"first": numbers[0], "second": numbers[1], **found}))


@app.command()
def champion(
    at: Annotated[
        str,
        typer.Option(help="A time such as 2026-11-03T10:00, UTC unless it names a zone; now."),
    ] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Say which version was champion at a time, since when, and by whom."""
    moment = _moment(at)
    place = configured(home)
    from flows.registry.aliases import Aliases

    aliases = Aliases(place)
    aliases.notice()
    entry = aliases.champion_at(moment)
    when = f"was champion at {moment:%Y-%m-%d %H:%M:%S} UTC" if at else "is champion"
    if entry is None:
        out.print("nothing is recorded of that time: the log begins later")
    else:
        out.print(
            f"{f'version {entry.after}' if entry.after else 'no version'} {when}, since "
            f"{_second(entry)}: {entry.kind} by {escape(entry.actor)}, {escape(entry.reason)}",
            soft_wrap=True,
        )
    if as_json:
        version = int(entry.after) if entry and entry.after else None
        record = entry.to_json() if entry else None
        print(json.dumps({"at": moment.isoformat(), "version": version, "entry": record}))


@app.command()
def verify(
    version: VersionArgument,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="In a new environment of its requirements (downloads them)."),
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Load a version in a clean process that sees nothing but its files; exits with 1 if it fails.

    A home's features have to be published: the example is answered from them.
    """
    place = configured(home)
    from flows.registry.aliases import Aliases
    from flows.registry.verification import verify as look

    aliases = Aliases(place)
    found = aliases.find(version)
    findings = look(aliases, found, fresh=fresh)
    for one in findings:
        mark = "[green]ok[/]" if one.right else "[red]wrong[/]"
        out.print(f"{mark}  {one.what}: {escape(one.seen)}", soft_wrap=True)
    if as_json:
        print(json.dumps({"version": str(found.version), "findings": [vars(f) for f in findings]}))
    if not all(one.right for one in findings):
        raise typer.Exit(1)


def promote(
    version: VersionArgument,
    alias: Annotated[str, typer.Option(help="The alias it is to have.")] = "champion",
    gate: Annotated[
        Path | None, typer.Option(help="A file of limits in place of the home's gate.yaml.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and judge; change nothing.")
    ] = False,
    judge: Annotated[
        bool,
        typer.Option("--judge", help="Measure, judge and write the verdict down; move nothing."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="At once, without the gate; named so in the history.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why it is forced.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare a version with the champion and, if it passes, let it answer.

    Exits with 3 if it fails, with 4 if the data cannot tell.
    """
    if force and (dry_run or judge or gate):
        raise UsageError("--force asks no gate: it goes with none of --gate, --dry-run and --judge")
    if dry_run and judge:
        raise UsageError("--dry-run writes nothing down, --judge does: choose one of them")
    if reason and not force:
        raise UsageError("--reason goes with --force; the gate has its own")
    place = configured(home)
    from flows.registry import promote as promoting
    from flows.runtime.settings import MODEL_NAME
    from serving.trial import Trial

    if force:
        entry = promoting.force(place, version, alias, reason)
        out.print(f"version {entry.after} is {alias}, forced by {escape(entry.actor)}")
        if as_json:
            print(json.dumps(entry.to_json()))
        return
    done = promoting.promote_version(
        place, version, alias, lambda versions: Trial(place, MODEL_NAME, versions),
        config=gate, dry_run=dry_run, judge_only=judge,
    )  # fmt: skip
    _print_gate(done)
    if as_json:
        print(json.dumps(done.to_json()))
    if done.verdict != "pass":
        raise typer.Exit({"fail": 3}.get(done.verdict, 4))


def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version that passed and was champion before, with its codebook's features."""
    place = configured(home)
    from flows.registry.aliases import Aliases

    entry = Aliases(place).rollback(reason or "rolled back")
    out.print(
        f"version {entry.after} is champion again, instead of {entry.before or 'none'}; it reads "
        f"codebook {entry.evidence['codebook_id']}",
        soft_wrap=True,
    )
    if as_json:
        print(json.dumps(entry.to_json()))


def _print_gate(done: Promotion) -> None:
    report = done.report
    table = Table(title=f"version {report.candidate} at the gate")
    for name in ("", "", "verdict"):
        table.add_column(name)
    for name in (f"version {report.candidate}", f"version {report.champion or '–'}", "interval"):
        table.add_column(name, justify="right")
    table.add_column("wanted")
    colours = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
    group = ""
    for one in report.checks:
        interval = "" if one.low is None else f"{one.low:+.4f} to {one.high:+.4f}"
        table.add_row(
            one.group if one.group != group else "", one.name.replace("_", " "),
            f"[{colours.get(one.verdict, 'default')}]{one.verdict}[/]", _number(one.candidate),
            _number(one.champion), interval, one.wanted,
        )  # fmt: skip
        group = one.group
    show_wide(table)
    for note in report.notes:
        out.print(escape(note), soft_wrap=True)
    ending = f"it is {report.alias}" if done.moved else "no alias was moved"
    out.print(
        f"version {report.candidate}: {report.verdict}, {escape(report.reason)}; {ending}",
        soft_wrap=True,
    )
    out.print(f"the report is with run {done.run_id} in MLflow: {done.page}", soft_wrap=True)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4g}"


def _print_history(entries: list[Entry]) -> None:
    if not entries:
        out.print("nothing was decided yet")
        return
    table = Table(title="what was decided, the newest first; times are UTC")
    for name in ("", "time", "what", "alias", "from", "to", "by", "why"):
        table.add_column(name)
    for one in entries:
        table.add_row(
            str(one.position), _second(one), one.kind, one.subject.partition("@")[2],
            one.before or "–", one.after or "–", escape(one.actor), escape(one.reason),
        )  # fmt: skip
    show_wide(table)


def _moment(text: str) -> datetime:
    if not text:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--at: {text!r} is no time such as 2026-11-03T10:00") from error
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def _second(entry: Entry) -> str:
    return f"{entry.time:%Y-%m-%d %H:%M:%S}"


def _minute(time: Any) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d %H:%M")
