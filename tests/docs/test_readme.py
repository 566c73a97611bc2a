"""The README's commands, run as they stand."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hymirec.datasets.synthetic import WorldConfig, generate, write_world

README = Path(__file__).parent.parent.parent / "README.md"
STAYS = {"hymirec serve", "hymirec ui mlflow", "hymirec ui prefect", "hymirec ui feast"}
"""Servers, which run until they are interrupted."""
ELSEWHERE = {
    # tests/end_to_end/test_mlflow_project.py runs it.
    "mlflow run . -e pipeline -P data=DIR",
}


def commands():
    """Each line of the README's blocks that is a command, without what a `#` says of it."""
    text = README.read_text().replace("\\\n", " ")
    found = re.findall(r"^    ((?:hymirec|curl|mlflow) .*)$", text, re.MULTILINE)
    return [re.sub(r"\s+", " ", line.partition("  #")[0]).strip() for line in found]


def library():
    """The program that uses the library."""
    (program,) = re.findall(
        r"((?:    .*\n|\n)+)", README.read_text().partition("## As a library")[2]
    )[:1]
    return "\n".join(line.removeprefix("    ") for line in program.splitlines())


class Shell:
    """Runs lines in a folder, those that stay until they are stopped."""

    def __init__(self, folder):
        self.folder = folder
        self.environment = os.environ | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        self.environment.pop("HYMIREC_HOME", None)

    def __call__(self, line):
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, text=True,
            capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    @contextlib.contextmanager
    def running(self, line):
        """While the server that a line starts answers."""
        with (self.folder / "server.log").open("w+") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
            try:
                address = self._address(process, Path(log.name))
                self(
                    f"curl -s -o /dev/null --retry 60 --retry-delay 1 --retry-connrefused {address}"
                )
                yield
            finally:
                os.killpg(process.pid, signal.SIGINT)
                process.wait(60)

    @staticmethod
    def _address(process, log):
        """Told by the server itself."""
        for _ in range(1200):
            if found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
                return found[0]
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError(log.read_text()[-2000:])


def test_the_readme_has_commands_and_a_program():
    assert len(commands()) >= 20
    assert set(commands()) > STAYS | ELSEWHERE
    compile(library(), str(README), "exec")
    assert "fit(load(" in library()


@pytest.mark.slow
@pytest.mark.usefixtures("documented_port")
@pytest.mark.timeout(2400)
def test_the_readme_runs_as_it_stands(tmp_path):
    run = Shell(tmp_path)
    write_world(generate(WorldConfig.tiny()), tmp_path / "DIR")
    run("hymirec demo")  # what `make demo` does when it has installed
    run(r"hymirec experiment example | sed s/model:.8/model:\ 2/ > FILE")
    left = [line for line in commands() if line not in ELSEWHERE]
    done = {
        "hymirec pipeline --data DIR [--recipe small|base|large] [--home DIR] [--json]":
            "hymirec pipeline --data DIR --recipe tiny --home other --json",
        "hymirec recommend --user 42 -k 10": "hymirec recommend --user u0042 -k 10",
        "hymirec models champion --at 2026-11-03T10:00":
            f"hymirec models champion --at {time.strftime('%Y-%m-%dT%H:%M', time.gmtime())}",
        "hymirec experiment start NAME": "hymirec experiment start longer-histories",
        "hymirec up --data DIR": "hymirec up --data .hymirec/world --recipe demo",
    }  # fmt: skip

    def go(*lines):
        for line in lines:
            left.remove(line)
            run(done.get(line, line))

    curl = next(line for line in left if line.startswith("curl "))
    pipeline, *_ = left
    go(pipeline)
    left.remove("hymirec serve")
    with run.running("hymirec serve"):
        go(curl)
        while left[0] != "hymirec simulate --scenario better":
            go(left[0])
    go("hymirec simulate --scenario better", "hymirec up --data DIR")
    try:
        go("hymirec monitor", "hymirec recommend-all --out lists.parquet", "hymirec clean")
    finally:
        run("hymirec down")
    for page in sorted(STAYS - {"hymirec serve"}):
        left.remove(page)
        with run.running(page):
            pass
    assert not left
    shutil.rmtree(tmp_path / "other")
    # The README's user 42 is one of the tiny world here, and its recipe the tiny world's.
    program = library().replace('"small"', '"tiny"').replace('"42"', '"u0042"')
    (tmp_path / "program.py").write_text(program)
    assert "found by interest" in run("python program.py")
