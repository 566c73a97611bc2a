"""Every command there is, asked wrongly: its usage line and status 2, and nothing is done."""

import enum
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
import typer
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner

from hymirec.cli import app
from hymirec.errors import DataError, UsageError

NO_NUMBER, NO_CHOICE = "many", "neither-of-them"


def leaves(command, path=()):
    if isinstance(command, TyperGroup):
        for name, one in sorted(command.commands.items()):
            yield from leaves(one, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(typer.main.get_command(app)))
HANDS_ON = ("flow", "run")
"""What it does not know are options of the flow; tests/flows/test_bad_input.py has those."""
every_command = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


def kinds(option):
    """What an option takes: a type, or its members where it is a union."""
    annotation = option.type_descriptor.annotation
    return (annotation, *get_args(annotation))


def refused(*words):
    """Ask; what is said is the command's own, and no traceback."""
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 2, (words, found.output)
    assert isinstance(found.exception, SystemExit), found.exception
    said = found.stderr
    assert "Traceback" not in said
    return said


def test_all_commands_are_found():
    assert {("serve",), ("pipeline",), ("experiment", "create"), HANDS_ON} <= set(COMMANDS)


@every_command
def test_an_option_that_is_none(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path != HANDS_ON:
        assert "--no-such-option" in refused(*path, "--no-such-option")
    assert not list(tmp_path.iterdir())


@every_command
def test_values_that_an_option_does_not_take(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in COMMANDS[path].params:
        if not isinstance(one, TyperOption) or one.is_flag:
            continue
        name = one.opts[0]
        wrong = []
        if {int, float} & set(kinds(one)):
            wrong = [NO_NUMBER, *(["-1e9"] if float in kinds(one) and one.min is not None else [])]
            wrong += [str(one.min - 1)] if one.min is not None else []
            wrong += [str(one.max + 1)] if one.max is not None else []
        elif any(get_origin(kind) is Literal or is_enum(kind) for kind in kinds(one)):
            wrong = [NO_CHOICE]
        for value in wrong:
            assert name in refused(*path, f"{name}={value}")
        assert name in refused(*path, name)  # and no value
    assert not list(tmp_path.iterdir())


def is_enum(kind):
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


@every_command
def test_one_argument_too_few_or_too_many(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [one for one in COMMANDS[path].params if not isinstance(one, TyperOption)]
    if any(one.required for one in arguments):
        refused(*path)
    if path != HANDS_ON and all(one.nargs == 1 for one in arguments):
        refused(*path, *["x"] * (len(arguments) + 1))
    assert not list(tmp_path.iterdir())


def test_a_file_where_a_folder_is_wanted_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for words, says in (
        (("fit", "--data", ".", "--out", "file"), "file cannot be written: File exists"),
        (("simulate", "--scenario", "equal", "--keep", "file"), "file is not a folder"),
        (("items", "publish", "."), ".: a folder, not a file of items"),
    ):
        found = CliRunner().invoke(app, list(words))
        assert isinstance(found.exception, UsageError | DataError), (words, found.exception)
        assert says in str(found.exception)


def test_a_world_has_a_seed_that_is_none_below_0(tmp_path):
    assert "--seed" in refused("world", "--out", str(tmp_path / "world"), "--seed=-1")
