"""`kill -9` in the cheap steps, then again: the end is an uninterrupted run's.

`benchmarks/kill_steps.py` does the same with the whole pipeline, at each of its steps.
"""

import subprocess
import sys

import pytest

from flows.steps.data import ingest_step, read_ref
from flows.validation.admission import admit, admitted
from hymirec.datasets.synthetic import WorldConfig, generate, write_world
from hymirec.home import Home

KILLED = """
import os, signal, sys
from pathlib import Path
from flows.validation.admission import admit
from flows.steps.data import ingest_step, read_ref
from hymirec.home import Home
home, world, step = Home.at(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
rename = Path.rename
def die(path, target):  # when all is done but to give the result its name
    if Path(target).name.startswith(step + "-"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = die
admit(home, read_ref(home, ingest_step(home, world)), "run")
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = tmp_path_factory.mktemp("world") / "tiny"
    write_world(generate(WorldConfig.tiny()), directory)
    return directory


def end(home, world):
    """Digest of the data admitted, and what lies in the home's results."""
    admit(home, read_ref(home, ingest_step(home, world)), "run")
    return admitted(home).digest, sorted(path.name for path in home.runs.iterdir())


def test_steps_killed_before_they_have_a_name_are_done_again(world, tmp_path):
    killed = Home.at(tmp_path / "killed").create()
    for step in ("data", "validate"):
        command = [sys.executable, "-c", KILLED, killed.root, world, step]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == -9, done.stderr
        assert list(killed.runs.glob(f"{step}-*.partial"))
    assert end(killed, world) == end(Home.at(tmp_path / "whole").create(), world)
