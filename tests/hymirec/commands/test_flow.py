"""`hymirec flow`: options are the flow's own parameters, checked before anything runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from hymirec.cli import app
from hymirec.commands.flow import _given, _options, _parameters
from hymirec.errors import UsageError


def a_flow(
    data: Path,
    home: Path,
    bad_rows: Literal["fail", "drop"] = "fail",
    share: float = 0.5,
    again: bool = False,
    names: Sequence[str] = (),
) -> None:
    pass


def test_options_become_parameters_of_the_right_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["--data", "here", "--bad-rows=drop", "--again", "--share", "0.25", "--names", "a,b"]
    assert _parameters("a", a_flow, _given(typed)) == {
        "data": tmp_path / "here", "bad_rows": "drop", "again": True, "share": 0.25,
        "names": ["a", "b"],
    }  # fmt: skip
    assert _options(a_flow) == ["--data", "[--bad-rows]", "[--share]", "[--again]", "[--names]"]


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        (["here"], "'here' is not an option"),
        (["--epochs", "3"], r"flow a has no option --epochs; it takes --data \[--bad-rows\]"),
        ([], "flow a needs --data"),
        (["--data", "x", "--bad-rows", "eat"], "--bad-rows eat: Input should be 'fail' or 'drop'"),
        (["--data", "x", "--share", "half"], "--share half: Input should be a valid number"),
    ],
)
def test_a_wrong_option_is_named(typed, complaint):
    with pytest.raises(UsageError, match=complaint):
        _parameters("a", a_flow, _given(typed))


def test_a_name_that_is_no_flows_is_answered_with_those_there_are(tmp_path):
    done = CliRunner().invoke(app, ["flow", "run", "promoet", "--home", str(tmp_path / "home")])
    assert isinstance(done.exception, UsageError)
    assert "no flow is called 'promoet'; there are validate, train-enc" in str(done.exception)
    assert not (tmp_path / "home").exists()
