"""`hymirec experiment`: roll a version out to some users, and know whether it is better."""

from __future__ import annotations

import json
import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from hymirec.commands.experiment_display import minute, show_readout
from hymirec.commands.options import HomeOption, JsonOption, configured, existing
from hymirec.display import out, show_wide
from hymirec.errors import UsageError
from hymirec.home import DEFAULT_HOME

if TYPE_CHECKING:
    from features.logs.experiments import ExperimentStore
    from features.logs.standing import StoredExperiment
    from hymirec.abtest.definition import Experiment
    from hymirec.home import Home

log = logging.getLogger(__name__)

app = typer.Typer(
    no_args_is_help=True, help="Experiments: who is shown which version, and which is better."
)

NameArgument = Annotated[str, typer.Argument(help="Of the experiment.")]
ReasonOption = Annotated[str, typer.Option(help="In a line, for the log.")]


@app.command()
def create(
    file: Annotated[
        Path | None, typer.Argument(help="A YAML document; see `hymirec experiment example`.")
    ] = None,
    name: Annotated[str, typer.Option(help="Without a file: the experiment's name.")] = "",
    hypothesis: Annotated[str, typer.Option(help="What is expected, and why.")] = "",
    owner: Annotated[str, typer.Option(help="Who answers for it.")] = "",
    treatment: Annotated[
        str, typer.Option(help="Version or alias that is compared with the champion.")
    ] = "challenger",
    mode: Annotated[str, typer.Option(help="ab, shadow or interleaving.")] = "ab",
    primary: Annotated[str, typer.Option(help="Metric that decides.")] = "click_through",
    layer: Annotated[str, typer.Option(help="Experiments of one never share a user.")] = "ranking",
    traffic: Annotated[str, typer.Option(help="Part of the layer's users: from-to.")] = "0-1",
    ramp: Annotated[
        str, typer.Option(help="Steps: share of the traffic and users of each variant before next.")
    ] = "0.01:100,0.1:500,0.5:2000,1:5000",
    minimum_lift: Annotated[float, typer.Option(help="Relative difference worth finding.")] = 0.05,
    days: Annotated[float, typer.Option(help="Horizon.", min=0.01)] = 28,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of the draft of that name.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Declare an experiment; nobody takes part until it starts."""
    from hymirec.abtest.definition import check, parse

    if (file is None) == (not name):
        raise UsageError("an experiment is either a FILE or --name and what goes with it")
    if file is not None:
        try:
            experiment = parse(file.read_text(), file.name)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
    else:
        experiment = check(
            {
                "name": name, "hypothesis": hypothesis, "owner": owner, "mode": mode,
                "variants": [
                    {"name": "control", "model": "champion"},
                    {"name": "treatment", "model": int(treatment) if treatment.isdecimal()
                     else treatment},
                ],
                "primary": primary,
                "minimum_lift": minimum_lift,
                "traffic": {"layer": layer} | _slice(traffic),
                "guardrails": [
                    {"metric": "error_rate", "absolute": 0.01},
                    {"metric": "latency_ms", "relative": 0.5},
                ] if mode == "ab" else [],
                "ramp": _steps(ramp),
                "horizon": {"days": days},
            },
            "the declaration",
        )  # fmt: skip
    place = configured(home).create()
    from features.logs.experiments import ExperimentStore
    from flows.registry.lifecycle import resolve_versions

    versions = resolve_versions(place, experiment)
    stored = ExperimentStore(place).create(experiment, replace_draft=replace)
    named = ", ".join(f"{variant} version {number}" for variant, number in versions.items())
    out.print(f"{stored.name} is a draft: {named}", soft_wrap=True)
    planned = _plan(place, experiment)
    for line in planned.pop("says"):
        out.print(line, soft_wrap=True)
    if planned.get("is_underpowered"):
        out.print("create it again with --replace to change it before it starts", soft_wrap=True)
    out.print(f"hymirec experiment start {stored.name}   begins it", soft_wrap=True)
    if as_json:
        print(json.dumps(stored.to_json() | {"plan": planned}))


@app.command()
def example() -> None:
    """Print a declaration to begin with."""
    from hymirec.abtest import definition

    print(definition.example(), end="")


@app.command()
def start(
    name: NameArgument, reason: ReasonOption = "", home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Let the first step of a draft begin, or a paused experiment go on."""
    place, store = _store(home)
    if store.get(name).state == "paused":
        _say(store.resume(name, reason=reason), as_json)
        return
    from flows.registry.lifecycle import start as begin

    stored = begin(place, name, reason=reason)
    _say(stored, as_json=False)
    out.print(
        "a gateway shows the variants as soon as it has their versions ready; until the first "
        f"readout there are no numbers: hymirec experiment status {name}", soft_wrap=True,
    )  # fmt: skip
    if as_json:
        print(json.dumps(stored.to_json()))


@app.command()
def ramp(
    name: NameArgument,
    step: Annotated[int, typer.Option(help="Which, from 1; 0: the next.", min=0)] = 0,
    reason: ReasonOption = "by hand",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Go to a later step now."""
    _, store = _store(home)
    _say(store.ramp(name, step - 1 if step else None, reason=reason), as_json)


@app.command()
def pause(
    name: NameArgument, reason: ReasonOption = "by hand", home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Give everybody the champion for now; `start` goes on, with the same users."""
    _, store = _store(home)
    _say(store.pause(name, reason=reason), as_json)


@app.command()
def stop(
    name: NameArgument, reason: ReasonOption = "by hand", home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """End an experiment without a winner."""
    _, store = _store(home)
    _say(store.end(name, "stopped", reason=reason), as_json)


@app.command()
def kill(
    name: Annotated[str, typer.Argument(help="Of the experiment.")] = "",
    everything: Annotated[bool, typer.Option("--all", help="All that hold traffic.")] = False,
    reason: ReasonOption = "killed",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """The kill switch: everybody gets the champion within a second, and it ends for good."""
    if bool(name) == everything:
        raise UsageError("kill either one NAME or --all")
    _, store = _store(home)
    killed = store.kill_all(reason=reason) if everything else [store.kill(name, reason=reason)]
    for stored in killed:
        out.print(f"{stored.name} is {stored.state}: {escape(stored.reason)}", soft_wrap=True)
    if not killed:
        out.print("nothing holds traffic")
    if as_json:
        print(json.dumps({"killed": [one.name for one in killed]}))


@app.command()
def conclude(
    name: NameArgument,
    winner: Annotated[str, typer.Argument(help="Variant whose version becomes champion.")],
    reason: ReasonOption = "",
    keep_champion: Annotated[
        bool, typer.Option("--keep-champion", help="Write the winner down, and no more.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Without the gate; named so in the history.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """End an experiment with a winner, whose version becomes champion if it passes the gate.

    A verdict on record counts; otherwise the gate compares it with the champion now, in a minute.
    What the numbers have against the winner is said first, and kept in the audit log.
    """
    if force and keep_champion:
        raise UsageError("--keep-champion asks for no promotion that --force could force")
    if force and not reason.strip():
        raise UsageError("who forces a version says why: --reason")
    place, _ = _store(home)
    from flows.registry.lifecycle import GateError
    from flows.registry.lifecycle import conclude as end

    try:
        stored = end(
            place, name, winner, reason=reason or "by hand", promote=not keep_champion, force=force
        )
    except GateError as error:
        raise GateError(
            f"{error}; {name} goes on: --keep-champion ends it without a promotion, --force "
            "--reason WHY promotes all the same"
        ) from error
    _say(stored, as_json=False)
    version = stored.versions[winner]
    becomes = "the champion stays" if keep_champion else f"version {version} is champion"
    out.print(f"{escape(winner)} has won: {becomes}", soft_wrap=True)
    if as_json:
        print(json.dumps(stored.to_json()))


@app.command()
def readout(
    name: Annotated[str, typer.Argument(help="Of the experiment; all that run without.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what follows.")] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Read experiments out now and do what follows: ramp, pause, roll back, conclude or hold."""
    place, _ = _store(home)
    from flows.experiments import read_out_running

    found = []
    for one in read_out_running(place, [name] if name else [], act=not dry_run):
        found.append(one)
        show_readout(one.stored, one.readout.to_json())
        would = "would " if dry_run else ""
        action = escape(f"{would}{one.decision.action.replace('_', ' ')}: {one.decision.reason}")
        out.print(f"[bold]{one.stored.name}[/] {action}", soft_wrap=True)
    if not found:
        out.print("no experiment runs")
    if as_json:
        print(json.dumps({"experiments": [one.to_json() for one in found]}))


@app.command()
def watch(
    every: Annotated[float, typer.Option(help="Seconds between readouts.", min=1)] = 30,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Read out all that runs again and again, until interrupted; a schedule does the same."""
    place, _ = _store(home)
    from flows.experiments import read_out_running

    out.print(f"reading out what runs, every {every:g} s; Ctrl-C stops it", soft_wrap=True)
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    while not stop.is_set():
        try:
            for _ in read_out_running(place):
                pass  # it has been acted on
        except Exception as error:  # whatever it is, guardrails go on being watched
            log.warning("%s", error)
        stop.wait(every)


@app.command()
def status(
    name: NameArgument, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False
) -> None:
    """Show where an experiment stands, what was last read of it, and what was done."""
    place, store = _store(home)
    from features.logs.readings import ReadingLog

    stored = store.get(name)
    readings = ReadingLog(place).of_experiment(name, limit=1)
    history = store.history(name)
    if readings:
        show_readout(stored, readings[-1].readout)
        out.print(f"{readings[-1].action}: {escape(readings[-1].reason)}", soft_wrap=True)
    else:
        _say(stored, as_json=False)
        out.print(f"it has not been read out yet: hymirec experiment readout {name}")
    table = Table(title="what was done")
    for column in ("when (UTC)", "what", "by", "from", "to", "why"):
        table.add_column(column)
    for entry in history:
        table.add_row(
            f"{entry.time:%Y-%m-%d %H:%M:%S}", entry.kind, entry.actor, entry.before, entry.after,
            escape(entry.reason),
        )  # fmt: skip
    show_wide(table)
    if as_json:
        latest = vars(readings[-1]) if readings else None
        log = [entry.to_json() for entry in history]
        print(json.dumps(stored.to_json() | {"latest": latest, "log": log}))


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the experiments, the newest first."""
    place, store = _store(home)
    found = store.all()
    table = Table(title=f"experiments in {escape(str(place.root))}")
    for column in ("name", "mode", "state", "share", "started (UTC)", "owner", "last change"):
        table.add_column(column)
    for one in found:
        table.add_row(
            one.name, one.experiment.mode, one.state, f"{one.share:.4g}" if one.share else "",
            minute(one.started), escape(one.experiment.owner), escape(one.reason),
        )  # fmt: skip
    show_wide(table)
    if as_json:
        print(json.dumps({"experiments": [one.to_json() for one in found]}))


@app.command()
def metrics(as_json: JsonOption = False) -> None:
    """List what can be measured."""
    from hymirec.abtest.metrics import METRICS

    table = Table(box=None)
    for column in ("metric", "what it is", "good", "use"):
        table.add_column(column)
    for one in METRICS.values():
        use = "secondary" if one.counts_items else "primary, secondary, guardrail"
        table.add_row(one.name, one.says, one.better, use)
    out.print(table)
    if as_json:
        print(json.dumps({"metrics": [vars(one) for one in METRICS.values()]}))


def _store(home: Path) -> tuple[Home, ExperimentStore]:
    place = existing(home)
    from features.logs.experiments import ExperimentStore

    return place, ExperimentStore(place)


def _plan(place: Home, experiment: Experiment) -> dict[str, Any]:
    """What the experiment needs, and a warning where its ramp does not give that."""
    from features.logs.readouts import ReadoutMaker

    planned = ReadoutMaker(place).plan(experiment)
    if isinstance(planned, str):
        return {"says": [planned]}
    says = [planned.needs(experiment)]
    for lack in planned.shortfalls(experiment):
        word, _, rest = lack.partition(":")
        says.append(f"[yellow]{word}:[/]{rest}")
    return vars(planned) | {"says": says, "is_underpowered": len(says) > 1}


def _slice(text: str) -> dict[str, float]:
    begin, _, end = text.partition("-")
    try:
        return {"begin": float(begin), "end": float(end)}
    except ValueError as error:
        raise UsageError(f"--traffic is from-to, such as 0-0.5, not {text!r}") from error


def _steps(text: str) -> list[dict[str, Any]]:
    steps = []
    for part in text.split(","):
        share, _, users = part.partition(":")
        try:
            steps.append({"share": float(share), "min_users": int(users)})
        except ValueError as error:
            raise UsageError(
                f"--ramp is share:users with commas between, such as 0.1:500,1:2000, not {part!r}"
            ) from error
    return steps


def _say(stored: StoredExperiment, as_json: bool) -> None:
    share = f" at {stored.share:.4g} of its traffic" if stored.share else ""
    line = f"{stored.name} is {stored.state.replace('_', ' ')}{share}"
    out.print(escape(line), soft_wrap=True)
    if as_json:
        print(json.dumps(stored.to_json()))
