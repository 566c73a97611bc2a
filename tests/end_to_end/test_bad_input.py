"""What a user with wrong data, a wrong command or no patience sees."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

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


def test_a_missing_folder_is_named(hymirec, tmp_path):
    done = hymirec("pipeline", "--data", tmp_path / "none", "--home", tmp_path / "home")
    assert done.code == 2
    assert "none is not a folder" in error_line(done)
    assert not (tmp_path / "home").exists()


def test_an_unknown_recipe_is_answered_with_those_there_are(hymirec, world, tmp_path):
    done = hymirec("pipeline", "--data", world, "--recipe", "huge", "--home", tmp_path / "home")
    assert done.code == 2
    assert "no recipe is called 'huge'; there are demo, small, tiny" in error_line(done)


def test_a_missing_column_stops_the_flow_in_one_line(hymirec, world, tmp_path):
    data = copy_world(world, tmp_path / "data")
    frame = pd.read_parquet(data / "interactions.parquet").drop(columns="timestamp")
    frame.to_parquet(data / "interactions.parquet")
    done = hymirec("pipeline", "--data", data, "--home", tmp_path / "home")
    assert done.code == 2
    assert "interactions.parquet" in error_line(done)
    assert "timestamp" in error_line(done)


def test_bad_rows_are_named_and_the_next_run_is_none_the_worse(hymirec, world, tmp_path):
    data = copy_world(world, tmp_path / "data")
    good = pd.read_parquet(data / "interactions.parquet")
    bad = good.copy()
    bad.loc[7, "item_id"] = "no-such-item"
    bad.to_parquet(data / "interactions.parquet")
    home = tmp_path / "home"
    done = hymirec("pipeline", "--data", data, "--recipe", "tiny", "--home", home)
    assert done.code == 2
    assert "no-such-item" in error_line(done)
    assert "1 row" in error_line(done)

    good.to_parquet(data / "interactions.parquet")
    done = hymirec("pipeline", "--data", data, "--recipe", "tiny", "--home", home, "--json")
    assert done.code == 0, done.stderr
    assert done.json["model_version"] == 1


def test_a_killed_run_goes_on_where_it_stopped(hymirec, world, tmp_path, result):
    """Kill the process while the recommender trains; the same command then finishes the rest."""
    home = tmp_path / "home"
    command = ["pipeline", "--data", str(world), "--recipe", "tiny", "--home", str(home)]
    with subprocess.Popen(
        [HYMIREC, *command], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("recommender: epoch 1/"):
                os.killpg(process.pid, signal.SIGKILL)
                break
    done = hymirec(*command, "--json")
    assert done.code == 0, done.stderr
    assert done.json["skipped"] == ["encoder", "codebook"]
    assert done.json["ran"] == ["recommender", "evaluation"]
    assert done.json["metrics"] == result["metrics"]


def test_ctrl_c_is_one_line_and_status_130(world, tmp_path):
    command = [HYMIREC, "pipeline", "--data", str(world), "--recipe", "tiny", "--home"]
    with subprocess.Popen(
        [*command, str(tmp_path / "home")], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        seen = []
        for line in process.stderr:
            seen.append(line)
            if line.startswith("encoder: epoch 1/"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    assert "Traceback" not in "".join(seen)
    assert seen[-1].startswith("interrupted; the same command goes on")
