"""`hymirec events`: what users did, into the event log and from there into their histories."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from hymirec.commands.options import DEFAULT_HOME, HomeOption, JsonOption, configured
from hymirec.display import out
from hymirec.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="What users did: take it in, see how far it has got.")


@app.command()
def ingest(
    file: Annotated[Path, typer.Argument(help="JSON lines, one event each; - for standard input.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Append events to the log and bring clicks into histories; doing it again adds nothing."""
    place = configured(home).create()
    from features.logs.event_log import EventLog
    from features.logs.events import ingest as take_in
    from features.updates import EventConsumer

    log = EventLog(place)
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as lines:
            read, new = take_in(log, lines, "standard input" if str(file) == "-" else file.name)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    EventConsumer(place).catch_up()
    out.print(f"{read} events, {new} of them new; the log has {log.end}")
    if as_json:
        print(json.dumps({"read": read, "new": new, "end": log.end}))


@app.command()
def follow(home: HomeOption = DEFAULT_HOME) -> None:
    """Bring events into histories as they come, until interrupted.

    `hymirec serve` does this as well; more than one may run.
    """
    place = configured(home).create()
    from features.updates import EventConsumer

    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    EventConsumer(place).run(stop, interval=0.05)


@app.command()
def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show how many events there are and how far they have got."""
    place = configured(home)
    if not place.events.exists():
        raise UsageError(f"{place.root} has no event log")
    from features.updates import CONSUMER, EventConsumer

    consumer = EventConsumer(place)
    end, position = consumer.event_log.end, consumer.event_log.offset(CONSUMER)
    lag = consumer.lag_seconds()
    out.print(f"{end} events in the log, {position} in histories, the oldest waits for {lag:.1f} s")
    if as_json:
        print(json.dumps({"end": end, "in_histories": position, "lag_seconds": lag}))
