"""One pipeline run on a tiny world, through the command line, shared by all tests here."""

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from hymirec import cli
from hymirec.datasets.synthetic import WorldConfig, generate, write_world
from hymirec.home import Home

HYMIREC = Path(sys.executable).parent / "hymirec"


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        """The object on the last line."""
        return json.loads(self.stdout.strip().splitlines()[-1])


def run_hymirec(*arguments: object, program: object = HYMIREC, **environment: str) -> Finished:
    """Run the command line as a user would, in a process of its own."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=280,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_here(*arguments: object) -> Finished:
    """Run the command line in this process, which has imported everything once."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "argv", ["hymirec", *map(str, arguments)]),
        mock.patch.object(cli, "_show_progress"),  # of this process: it would take pytest's logs
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.main()
    return Finished(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def hymirec():
    """The command line, a process for each command."""
    return run_hymirec


@pytest.fixture(scope="session")
def hymirec_here():
    """The command line without the seconds that a new process takes to import everything."""
    return run_here


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with the tiny world as tabular files."""
    directory = tmp_path_factory.mktemp("world") / "tiny"
    write_world(generate(WorldConfig.tiny()), directory)
    return directory


@pytest.fixture(scope="session")
def first_run(world, tmp_path_factory):
    """The first pipeline run and the home it filled."""
    home = tmp_path_factory.mktemp("home") / "hymirec"
    done = run_hymirec("pipeline", "--data", world, "--recipe", "tiny", "--home", home, "--json")
    assert done.code == 0, done.stderr
    return Home.at(home), done


@pytest.fixture(scope="session")
def home(first_run):
    """A home with one promoted version."""
    return first_run[0]


@pytest.fixture(scope="session")
def result(first_run):
    """What the first run printed as JSON."""
    return first_run[1].json
