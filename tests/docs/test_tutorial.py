"""The tutorial's commands, run as they stand, on a small data set of MovieLens's form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from hymirec.datasets.synthetic import WorldConfig, generate

TUTORIAL = Path(__file__).parent.parent.parent / "docs" / "tutorial.md"


def script():
    """All commands, in their order; what is indented is what happens before."""
    return "\n".join(re.findall(r"```sh\n(.*?)```", TUTORIAL.read_text(), re.DOTALL))


def write_movielens(directory):
    """The tiny world with whole numbers as ids, as GroupLens would publish it."""
    world = generate(WorldConfig.tiny()).dataset
    users = {name: number for number, name in enumerate(world.interactions.user_id.unique(), 1)}
    films = {name: number for number, name in enumerate(world.items.item_id, 1)}
    directory.mkdir()
    pd.DataFrame(
        {
            "userId": world.interactions.user_id.map(users),
            "movieId": world.interactions.item_id.map(films),
            "rating": 4.0,
            "timestamp": world.interactions.timestamp.astype("int64") // 10**9,
        }
    ).to_csv(directory / "ratings.csv", index=False)
    pd.DataFrame(
        {"movieId": world.items.item_id.map(films), "title": world.items.title, "genres": "Drama"}
    ).to_csv(directory / "movies.csv", index=False)


def test_the_tutorial_names_what_its_data_has():
    text = script()
    assert "--recipe demo" in text
    assert "ml-latest-small" in text
    assert len(text.splitlines()) > 20


@pytest.mark.slow
@pytest.mark.usefixtures("documented_port")
@pytest.mark.timeout(1800)
def test_the_tutorial_runs_as_it_stands(tmp_path):
    write_movielens(tmp_path / "ml-latest-small")
    # A recipe for so few films; all else is as it stands.
    commands = script().replace("--recipe demo", "--recipe tiny")
    program = f"set -eu -o pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{commands}"
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    environment.pop("HYMIREC_HOME", None)
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "2 events, 2 of them new" in done.stdout
    assert "0 of 100 users differ" in done.stdout
    assert "Starship Railway" in done.stdout
