"""What a user with wrong data, a wrong command or no patience sees."""

import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

HYMIREC = Path(sys.executable).parent / "hymirec"


def error_line(done):
    """The one line of an error; fails if there is more than one, or a traceback."""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    return line


def copy_world(world, target):
    target.mkdir()
    for name in ("interactions.parquet", "items.parquet"):
        (target / name).write_bytes((world / name).read_bytes())
    return target


def test_a_missing_folder_is_named(hymirec_here, tmp_path):
    done = hymirec_here("pipeline", "--data", tmp_path / "none", "--home", tmp_path / "home")
    assert done.code == 2
    assert "none is not a folder" in error_line(done)
    assert not (tmp_path / "home").exists()


def test_an_unknown_recipe_is_answered_with_those_there_are(hymirec_here, world, tmp_path):
    done = hymirec_here(
        "pipeline", "--data", world, "--recipe", "huge", "--home", tmp_path / "home"
    )
    assert done.code == 2
    assert "no recipe is called 'huge'; there are base, demo, " in error_line(done)


def test_an_unknown_backbone_is_named_before_anything_is_done(hymirec_here, world, tmp_path):
    done = hymirec_here(
        "pipeline", "--data", world, "--backbone", "no/such-model", "--home", tmp_path / "home"
    )
    assert done.code == 2
    assert "backbone no/such-model: neither a directory nor" in error_line(done)
    assert not (tmp_path / "home").exists()


def test_bad_rows_are_named_and_the_home_is_none_the_worse(hymirec, world, home, tmp_path):
    data = copy_world(world, tmp_path / "data")
    bad = pd.read_parquet(data / "interactions.parquet")
    bad.loc[7, "item_id"] = "no-such-item"
    bad.to_parquet(data / "interactions.parquet")
    finished = {path.name for path in home.runs.iterdir() if not path.name.startswith("data-")}
    done = hymirec("pipeline", "--data", data, "--recipe", "tiny", "--home", home.root)
    assert done.code == 2
    assert "no-such-item" in error_line(done)
    assert "1 row" in error_line(done)
    left = {path.name for path in home.runs.iterdir() if not path.name.startswith("data-")}
    assert left == finished


def interrupt(command, at):
    """Run until a line begins so, and press Ctrl-C; what was said on standard error."""
    with subprocess.Popen([HYMIREC, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith(at):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in "".join(seen)
    return seen


def test_an_interrupted_run_says_so(world, tmp_path):
    command = ["pipeline", "--data", world, "--recipe", "tiny", "--home", tmp_path / "home"]
    seen = interrupt(map(str, command), at="validate:")
    assert seen[-1] == "error: interrupted: the same command goes on from here\n"


@pytest.mark.slow
def test_an_interrupted_run_goes_on_where_it_stopped(hymirec, world, tmp_path, result):
    command = [
        "pipeline", "--data", str(world), "--recipe", "tiny", "--home", str(tmp_path / "home")
    ]  # fmt: skip
    interrupt(command, at="recommender: epoch 1/")
    done = hymirec(*command, "--json")
    assert done.code == 0, done.stderr
    assert done.json["skipped"] == ["data", "validate", "encoder", "codebook", "publish"]
    assert done.json["ran"] == ["recommender", "evaluation", "register", "promote"]
    assert done.json["metrics"] == result["metrics"]
