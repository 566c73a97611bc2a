"""`hymirec features`: what the feature store holds, whether it is right, dropping a codebook."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from hymirec.commands.options import HomeOption, JsonOption, configured
from hymirec.display import out
from hymirec.errors import HymirecError, UsageError
from hymirec.home import DEFAULT_HOME, Home

app = typer.Typer(no_args_is_help=True, help="Look into the feature store, check it, clear it up.")

CodebookOption = Annotated[
    str, typer.Option("--codebook", help="Of one codebook; of all that are published if not given.")
]
_NAMED = 5
"""Events and items named of one mismatch in a table; JSON has them all."""


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the published codebooks and the model versions that need them."""
    place = configured(home)
    from features.inspection import describe_codebook
    from features.online import list_codebooks
    from flows.registry.versions import registered_versions

    versions = registered_versions(place)
    rows = []
    for codebook_id in list_codebooks(place):
        needing = [one for one in versions if one.codebook_id == codebook_id]
        row: dict[str, Any] = {"codebook_id": codebook_id, "problem": ""}
        try:
            known = describe_codebook(place, codebook_id)
        except HymirecError as error:
            row["problem"] = str(error)
        else:
            row |= vars(known) | {"published_at": known.published_at.isoformat(timespec="seconds")}
        row["versions"] = [
            {"model": one.model, "version": one.version, "aliases": list(one.aliases)}
            for one in needing
        ]
        row["needed_by"] = ", ".join(map(str, needing))
        rows.append(row)
    columns = ("codebook_id", "num_users", "num_items", "bytes_per_item", "published_at")
    table = Table(title=f"codebooks published in {escape(str(place.root))}")
    for name in ("codebook", "users", "items", "bytes an item", "published", "needed by"):
        table.add_column(name, overflow="fold", no_wrap=name in ("codebook", "published", "time"))
    for row in rows:
        cells = [str(row.get(name, "–")) for name in columns]
        table.add_row(*cells, escape(row["problem"] or row["needed_by"] or "–"))
    nothing = f"no codebook is published in {escape(str(place.root))}"
    out.print(table if rows else nothing, soft_wrap=not rows)
    if as_json:
        print(json.dumps({"codebooks": rows}))


@app.command()
def show(
    user: Annotated[str, typer.Option(help="User id, as in the data.")] = "",
    item: Annotated[str, typer.Option(help="Item id, as in the data.")] = "",
    codebook: CodebookOption = "",
    last: Annotated[int, typer.Option(help="Events to show of a user.", min=1)] = 10,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show what the online store holds of a user or an item, decoded, with its age."""
    if bool(user) == bool(item):
        raise UsageError("either --user ID or --item ID is shown")
    place = configured(home)
    from features import inspection
    from features.online import FeatureReader

    now = datetime.now(UTC)
    found = []
    for codebook_id in _codebooks(place, codebook):
        reader = FeatureReader(place, codebook_id)
        found.append(
            inspection.show_user(place, reader, user, last=last, now=now)
            if user
            else inspection.show_item(reader, item, now)
        )
    shown = [one for one in found if one is not None]
    what = f"user {user!r}" if user else f"item {item!r}"
    if not shown:
        under = f" under codebook {codebook}" if codebook else ""
        raise UsageError(f"{what} is not in the feature store of {place.root}{under}")
    title = "" if user else inspection.find_titles(place, [item]).get(item, "")
    for one in shown:
        _print_user(user, one) if user else _print_item(item, title, one)
    if as_json:
        who = {"user_id": user} if user else {"item_id": item, "title": title}
        print(json.dumps(who | {"codebooks": shown}))


@app.command()
def diff(
    user: Annotated[
        list[str] | None, typer.Option(help="A user to compare; may be given several times.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Users to draw at random.", min=1)] = 1000,
    codebook: CodebookOption = "",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Compare rows online with published histories and the event log; exit with 1 if any differs.

    Clicks that wait in the log for their consumer are counted, but are no difference.
    """
    place = configured(home)
    from features.logs.event_log import EventLog
    from features.offline import read_user_ids
    from features.parity import ParityCheck

    codebooks = _codebooks(place, codebook)
    event_log = EventLog(place)
    results = []
    try:
        for codebook_id in codebooks:
            users = user or sorted({*read_user_ids(place, codebook_id), *event_log.users()})
            if not user and len(users) > sample:
                users = random.sample(users, sample)
            report = ParityCheck(event_log, codebook_id).check(users)
            if user and report.unknown:
                raise UsageError(
                    f"user {report.unknown[0]!r} is neither in the feature store of {place.root} "
                    "nor in its event log"
                )
            results.append((codebook_id, report))
    finally:
        event_log.close()
    for codebook_id, report in results:
        _print_report(codebook_id, report)
    if as_json:
        print(json.dumps({"codebooks": [_report_json(*result) for result in results]}))
    if any(report.mismatches for _, report in results):
        raise typer.Exit(1)


@app.command()
def drop(
    codebook: Annotated[str, typer.Argument(help="Id of a published codebook.")],
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Drop a codebook's features, unless a running server or a version with an alias needs them."""
    place = configured(home)
    from features.logs.leases import refuse_if_served
    from features.withdrawal import withdraw
    from flows.registry.versions import refuse_if_needed
    from flows.runtime.locks import alone_in

    if not place.feast.exists():
        raise UsageError(f"no codebook is published in {place.root}")
    # A pipeline might be about to give an alias to a version that needs it.
    with alone_in(place):
        refuse_if_needed(place, codebook)
        refuse_if_served(place, codebook)
        withdraw(place, codebook)
    out.print(f"codebook {codebook} is dropped: views, service, rows online, files")


def _codebooks(home: Home, wanted: str) -> list[str]:
    from features.online import list_codebooks

    published = list_codebooks(home)
    if not published:
        raise UsageError(f"no codebook is published in {home.root}: run `hymirec pipeline` first")
    if wanted and wanted not in published:
        raise UsageError(
            f"codebook {wanted} is not published in {home.root}: published: {', '.join(published)}"
        )
    return [wanted] if wanted else published


def _print_user(user: str, row: dict[str, Any]) -> None:
    out.print(
        f"user {escape(user)}, codebook {row['codebook_id']}: {row['num_events']} events from "
        f"{row['first_event']} to {row['last_event']}, written {row['written_at']} "
        f"({_age(row['age_seconds'])} ago)",
        soft_wrap=True,
    )
    table = Table(title=f"the last {len(row['events'])} events, oldest first")
    for name in ("time", "item", "title", "code"):
        table.add_column(name, overflow="fold", no_wrap=name in ("codebook", "published", "time"))
    for event in row["events"]:
        table.add_row(
            event["time"], escape(event["item_id"]), escape(event["title"]), event["code"]
        )
    out.print(table)


def _print_item(item: str, title: str, row: dict[str, Any]) -> None:
    named = f"item {escape(item)} {escape(title)}".rstrip()
    code = f"code {row['code']}" if row["code"] else "no code"
    out.print(f"{named}, codebook {row['codebook_id']}: {code}", soft_wrap=True)
    counted = row["statistics"]
    if counted is None:
        out.print("no events of it were counted")
        return
    out.print(
        f"{counted['popularity']} events of {counted['num_users']} users, first seen "
        f"{counted['first_seen']}, last seen {counted['last_seen']}, counted "
        f"{counted['counted_at']} ({_age(counted['age_seconds'])} ago)",
        soft_wrap=True,
    )


def _print_report(codebook_id: str, report: Any) -> None:
    for one in report.mismatches:
        parts = [f"{len(one.missing)} missing ({_some(one.missing)})"] if one.missing else []
        parts += [f"{len(one.extra)} extra ({_some(one.extra)})"] if one.extra else []
        parts += [f"other codes of {_some(one.other_codes)}"] if one.other_codes else []
        parts += ["another order within a second"] if one.order else []
        out.print(f"user {escape(one.user_id)}: {escape('; '.join(parts))}", soft_wrap=True)
    waiting = f", {report.waiting} clicks wait in the log" if report.waiting else ""
    out.print(
        f"codebook {codebook_id}: {len(report.mismatches)} of {report.compared} users differ "
        f"({report.rate:.2%}){waiting}",
        soft_wrap=True,
    )


def _report_json(codebook_id: str, report: Any) -> dict[str, Any]:
    return {
        "codebook_id": codebook_id,
        "compared": report.compared,
        "mismatch_rate": report.rate,
        "waiting": report.waiting,
        "mismatches": [one.to_json() for one in report.mismatches],
    }


def _some(values: tuple[Any, ...]) -> str:
    named = [value if isinstance(value, str) else f"{value[0]} at {value[1]}" for value in values]
    return ", ".join(named[:_NAMED]) + (", …" if len(named) > _NAMED else "")


def _age(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
