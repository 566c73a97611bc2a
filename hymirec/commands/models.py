"""`hymirec models`: the registered versions, what became of them, and going back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
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
    from features.audit_log import Entry

app = typer.Typer(no_args_is_help=True, help="Registered versions: which answers, and since when.")

VersionArgument = Annotated[str, typer.Argument(help="A version's number, or an alias.")]


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the versions, their aliases, and whether they could answer."""
    place = configured(home)
    from flows.aliases import Aliases
    from flows.inventory import describe_all

    aliases = Aliases(place)
    aliases.notice()
    rows = describe_all(aliases)
    table = Table(title=f"versions of hymirec in {place.root}")
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
    from flows.aliases import Aliases
    from flows.inventory import describe

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
    from flows.aliases import Aliases

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
    from flows.aliases import Aliases

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


def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the history.")] = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Go back to the version that passed and was champion before, with its codebook's features."""
    place = configured(home)
    from flows.aliases import Aliases

    entry = Aliases(place).rollback(reason or "rolled back")
    out.print(
        f"version {entry.after} is champion again, instead of {entry.before or 'none'}; it reads "
        f"codebook {entry.evidence['codebook_id']}",
        soft_wrap=True,
    )
    if as_json:
        print(json.dumps(entry.to_json()))


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
