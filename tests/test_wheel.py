"""What is installed without the repository: the wheel, and a pipeline run from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import hymirec
from hymirec.datasets.synthetic import WorldConfig, generate, write_world

REPOSITORY = Path(__file__).parent.parent
PACKAGES = ("hymirec", "features", "flows", "serving")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy: a build leaves folders behind, and would find those left before."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = built.iterdir()
    return found


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    there = {
        str(path.relative_to(REPOSITORY))
        for name in PACKAGES
        for path in (REPOSITORY / name).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == there


def test_the_wheel_is_of_this_version_and_names_licence_and_command(wheel):
    assert wheel.name == f"hymirec-{hymirec.__version__}-py3-none-any.whl"
    inside = zipfile.ZipFile(wheel)
    names = "\n".join(inside.namelist())
    assert re.search(r"\.dist-info/licenses/LICENSE$", names, re.MULTILINE)
    entry = next(name for name in inside.namelist() if name.endswith("entry_points.txt"))
    assert "hymirec = hymirec.cli:main" in inside.read(entry).decode()


def test_version_changelog_and_citation_agree():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    latest = re.search(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)
    assert latest, "no version with its date in the changelog"
    assert latest[1] == hymirec.__version__
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert str(citation["version"]) == hymirec.__version__
    assert "2510.13738" in citation["preferred-citation"]["url"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert citation["license"] == project["license"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pipeline_runs_from_the_wheel_without_the_repository(wheel, tmp_path):
    """In an environment of its own that borrows the dependencies of this one."""
    place = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    own = next((place / "lib").glob("python*/site-packages"))
    # After its own packages, so that the repository of an editable installation is not found first.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = tmp_path / "elsewhere"
    write_world(generate(WorldConfig.tiny()), where / "world")

    def run(*command):
        done = subprocess.run(
            [place / "bin" / command[0], *command[1:]],
            cwd=where,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    origin = run("python", "-c", "import hymirec, flows; print(hymirec.__file__, flows.__file__)")
    assert origin.count(str(own)) == 2
    assert run("hymirec", "--version").split() == ["hymirec", hymirec.__version__]
    run("hymirec", "pipeline", "--data", "world", "--recipe", "tiny", "--home", "home")
    shown = run("hymirec", "models", "show", "champion", "--home", "home", "--json")
    assert json.loads(shown.splitlines()[-1])["recipe"] == "tiny"
