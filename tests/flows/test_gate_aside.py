"""The gate asked in a process of its own: what is passed on, and what is made of its answer."""

import logging
import sys

import pytest

from flows.gate.aside import ask_gate
from hymirec.errors import HymirecError
from hymirec.home import Home


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path / "home")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a script in the place of the command."""

    def write(script):
        path = tmp_path / "hymirec"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    return write


@pytest.mark.parametrize(("status", "verdict"), [(0, "pass"), (3, "fail"), (4, "inconclusive")])
def test_its_verdict_is_read_and_its_progress_passed_on(home, program, caplog, status, verdict):
    program(
        'echo "gate: asking version 1" >&2; echo "a library warns" >&2; echo a table\n'
        f'echo "{{\\"verdict\\": \\"{verdict}\\", \\"asked\\": \\"$*\\"}}"; exit {status}'
    )
    with caplog.at_level(logging.INFO):
        found = ask_gate(home, "2", "--judge")
    assert found["verdict"] == verdict
    assert found["asked"] == f"promote 2 --home {home.root} --json --judge"
    assert caplog.messages == ["gate: asking version 1"]


@pytest.mark.parametrize(
    ("script", "problem"),
    [('echo "error: the data is gone" >&2', "the data is gone"), ("", "no reason given")],
)
def test_that_it_could_not_judge_is_said_with_its_reason(home, program, script, problem):
    program(f"{script}\nexit 2")
    with pytest.raises(HymirecError, match=f"could not judge version 2: {problem}$"):
        ask_gate(home, "2")
