"""What nothing has used for long goes, and everything else stays."""

import json
import os
import time

import pytest
from typer.testing import CliRunner

from flows.clean import clear, find_unused
from flows.runtime.locks import alone_in
from flows.steps.results import run_step
from hymirec.cli import app
from hymirec.home import Home

DAY = 86_400.0


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


def done(home, name, *, days=0.0):
    """A step's result, last used so many days ago."""
    found = run_step(home, name, {}, lambda output, _: (output / "weights").write_text("1234567"))
    age(found.directory, days)
    return found.directory


def age(directory, days):
    moment = time.time() - days * DAY
    for path in (*directory.rglob("*"), directory):
        os.utime(path, (moment, moment))


def names(home, days=30.0):
    return [one.path.name.partition("-")[0] for one in find_unused(home, days)]


def test_what_is_unused_for_long_is_found_the_oldest_first(home):
    done(home, "encoder", days=31)
    done(home, "recommender", days=29)
    done(home, "codebook", days=40)
    assert names(home) == ["codebook", "encoder"]
    assert names(home, days=35) == ["codebook"]
    assert find_unused(home, 35)[0].bytes >= 7


def test_a_result_that_is_found_again_counts_as_used(home):
    done(home, "encoder", days=31)
    done(home, "encoder")
    assert names(home) == []


def test_what_a_run_has_taken_since_it_was_found_stays(home):
    directory = done(home, "encoder", days=31)
    done(home, "codebook", days=31)
    encoder, codebook = sorted(find_unused(home, 30), key=lambda one: one.path.name, reverse=True)
    done(home, "encoder")
    assert not clear(encoder)
    assert clear(codebook)
    assert not clear(codebook)  # somebody else was faster
    assert list(home.runs.iterdir()) == [directory]


def test_what_a_run_may_have_taken_that_still_goes_on_stays(home):
    done(home, "codebook", days=41)
    done(home, "encoder", days=39)
    lock = home.root / "pipeline.lock"
    with alone_in(home):
        os.utime(lock, (0, time.time() - 40 * DAY))
        assert names(home) == ["codebook"]
    assert names(home) == ["codebook", "encoder"]
    lock.write_text("a process that was killed")
    os.utime(lock, (0, time.time() - 40 * DAY))
    assert names(home) == ["codebook", "encoder"]
    with alone_in(home):
        pass


def test_half_done_and_damaged_work_and_what_a_kill_left_go_by_what_was_written_last(home):
    left = {name: home.runs / name for name in ("a.partial", "b.damaged", ".c.gone", "tmpd")}
    for directory in left.values():
        (directory / "checkpoints").mkdir(parents=True)
        (directory / "checkpoints" / "last").write_text("weights")
        age(directory, 50)
    os.utime(left["a.partial"] / "checkpoints" / "last")
    assert sorted(names(home)) == [".c.gone", "b.damaged", "tmpd"]


def test_what_changes_meanwhile_is_in_use(home):
    directory = done(home, "encoder", days=31)
    (directory / "renamed").symlink_to(directory / "just now")  # listed, and not there
    os.utime(directory, (0, 0))
    assert names(home) == []


def test_what_would_not_come_out_the_same_again_stays(home):
    for name in ("data", "validate", "promote", "baseline"):
        done(home, name, days=400)
    (home.data / "0123").mkdir()
    age(home.data / "0123", 400)
    assert names(home) == []


def test_what_was_fetched_and_reports_of_steps_go_too(home):
    for name in ("fetched/m-1", "reports/recommender-1", "reports/0123", "reports/monitor"):
        (home.root / name).mkdir(parents=True)
        age(home.root / name, 31)
    assert sorted(names(home)) == ["m", "recommender"]


def test_what_is_cleared_is_made_again(home):
    directory = done(home, "encoder", days=31)
    clear(find_unused(home, 30)[0])
    assert list(home.runs.iterdir()) == []
    assert done(home, "encoder") == directory
    assert (directory / "weights").read_text() == "1234567"


def test_the_command_says_what_goes_and_clears_it(home, monkeypatch):
    directory = done(home, "encoder", days=31)
    kept = done(home, "recommender")
    place = ["--home", str(home.root), "--json"]
    for options, still_there in ((["--dry-run"], True), ([], False)):
        printed = CliRunner().invoke(app, ["clean", *options, *place]).output
        assert f"0.0 MB {'would be ' * still_there}freed (results: 1)" in printed
        told = json.loads(printed.splitlines()[-1])
        assert [one["path"] for one in told["cleared"]] == [str(directory)]
        assert directory.exists() == still_there
    assert kept.exists()
    assert "0.0 MB freed (results: 0)" in CliRunner().invoke(app, ["clean", *place]).output
    age(kept, 31)
    monkeypatch.setattr("flows.clean.clear", lambda unused: False)  # used since
    assert "0.0 MB freed (results: 0)" in CliRunner().invoke(app, ["clean", *place]).output
