"""`hymirec flow`: each step of the pipeline by itself, and the flows that have no command else."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import typer
from rich.markup import escape
from rich.table import Table

from hymirec.commands.options import HomeOption, JsonOption, configured, interruptible
from hymirec.display import out
from hymirec.errors import UsageError
from hymirec.home import DEFAULT_HOME

app = typer.Typer(no_args_is_help=True, help="Flows by name: the pipeline's steps one by one.")


@app.command("list")
def list_flows(as_json: JsonOption = False) -> None:
    """Name the flows there are, and what each takes."""
    configured(DEFAULT_HOME)
    from flows.names import FLOWS, load_flow

    found = {name: load_flow(name).fn for name in FLOWS}
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, function in found.items():
        table.add_row(name, escape(_summary(function)))
        table.add_row("", f"[dim]{escape(' '.join(_options(function)))}[/]")
    out.print(table)
    if as_json:
        about = {
            name: {"does": _summary(one), "takes": _options(one)} for name, one in found.items()
        }
        print(json.dumps({"flows": about}))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="See `hymirec flow list`.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Run one flow here and now: `hymirec flow run NAME --its-option VALUE …`."""
    given = _given(context.args)
    place = configured(home)
    from flows.names import load_flow, place_of
    from flows.runtime.temporary_server import start_temporary_server

    place_of(name)  # a wrong name is said at once
    place.create()
    start_temporary_server()
    flow = load_flow(name)
    from flows.tracking.runs import launch

    parameters = _parameters(name, flow.fn, given)
    result = interruptible(lambda: launch(flow, home=place.root, **parameters))
    found = result.to_json() if hasattr(result, "to_json") else {"results": result}
    _show(name, found)
    if as_json:
        print(json.dumps(found))


def _given(arguments: list[str]) -> dict[str, str]:
    """Options as they were typed: `--name value`, `--name=value`, or `--name` alone for yes."""
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        option = rest.pop(0)
        if not option.startswith("--"):
            raise UsageError(f"{option!r} is not an option: options are --name VALUE")
        key, equals, value = option.removeprefix("--").partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        given[key] = value
    return given


def _parameters(name: str, function: Any, given: dict[str, str]) -> dict[str, Any]:
    """Options as the flow's parameters, of their types.

    Raises:
        UsageError: one is unknown, missing, or not what the flow takes.
    """
    from pydantic import TypeAdapter, ValidationError

    expected = _expected(function)
    hints = get_type_hints(function)
    parameters = {}
    for option, value in given.items():
        key = option.replace("-", "_")
        if key not in expected:
            raise UsageError(
                f"flow {name} has no option --{option}; it takes {' '.join(_options(function))}"
            )
        try:
            several = get_origin(hints[key]) in (list, tuple, Sequence)
            read = value.split(",") if several else value
            found = TypeAdapter(hints[key]).validate_python(read)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(f"flow {name}: --{option} {value}: {reason}") from error
        # Wherever the flow runs, it means the same place.
        parameters[key] = found.expanduser().resolve() if isinstance(found, Path) else found
    missing = [
        _option(key) for key, one in expected.items()
        if one.default is inspect.Parameter.empty and key not in parameters
    ]  # fmt: skip
    if missing:
        raise UsageError(f"flow {name} needs {', '.join(missing)}")
    return parameters


def _expected(function: Any) -> dict[str, inspect.Parameter]:
    """What a flow takes besides the home."""
    parameters = dict(inspect.signature(function).parameters)
    parameters.pop("home", None)
    return parameters


def _options(function: Any) -> list[str]:
    return [
        _option(key) if one.default is inspect.Parameter.empty else f"[{_option(key)}]"
        for key, one in _expected(function).items()
    ]


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _summary(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _show(name: str, found: dict[str, Any]) -> None:
    done = [f"{word} {', '.join(found[word])}" for word in ("ran", "skipped") if found.get(word)]
    out.print(f"{name}: {'; '.join(done) or 'done'}", soft_wrap=True)
