"""`kill -9` at every step of the pipeline in turn: the end must be an uninterrupted run's.

    python benchmarks/kill_steps.py [--data DIR] [--recipe tiny] [--separately]

runs the pipeline on the tiny built-in world (or DIR) once without interruption; then again in
another home, killed at each step in turn and called again, until it ends by itself. With
`--separately` every kill has a home of its own. Prints one JSON object: where it was killed,
whether the ends are equal (weights, codes, features offline and online, metrics, the registered
package, aliases; everything but ids, times and costs), what differs if not, and whether anything
was left behind: half results, runs that seem to go on, servers. The exit status is 1 if anything
differs or was left behind, or a step was not reached.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# `features` is the package, not the script beside this one.
sys.path[0] = str(Path(__file__).resolve().parents[1])
HYMIREC = Path(sys.executable).parent / "hymirec"
POINTS = {
    "data": "runs/data-*.partial",
    "validate": "runs/validate-*.partial/output",
    "encoder": "line encoder: epoch 2/",
    "catalogue": "runs/encoder-*.partial/checkpoints/trainer/catalogue/*",
    "codebook": "runs/codebook-*.partial",
    "publish": "runs/publish-*.partial",
    "publish, after the offline files": "feast/offline/*/user_histories.parquet",
    "recommender": "line recommender: epoch 1/",
    "evaluation": "runs/evaluation-*.partial",
    "register": "mlflow/artifacts/models/*/artifacts/MLmodel",
    "promote": "runs/promote-*.partial",
}
"""Where to kill: as soon as a path is in the home, or a line was printed."""
OF_A_RUN = {"cost.json", "verdict.json", "published.json", "digests.json"}
"""Files that tell of a run, not of its result, and the seal, which is over them too."""

End = tuple[list[str], dict[str, list[str]]]
"""Of a home that the pipeline was killed in: what differs, and what was left behind."""


def run_pipeline(home: Path, data: Path, recipe: str, kill_at: str = "") -> bool:
    """Run the pipeline; whether it came to its end."""
    command = [HYMIREC, "pipeline", "--data", data, "--recipe", recipe, "--home", home]
    with (
        tempfile.TemporaryFile("w+") as printed,
        subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=printed
        ) as process,
    ):
        there = set(home.glob(kill_at)) if kill_at and not kill_at.startswith("line ") else set()
        while process.poll() is None:
            if kill_at and reached(home, kill_at, printed, there):
                process.send_signal(signal.SIGKILL)
                process.wait()
                return False
            time.sleep(0.002)
        printed.seek(0)
        if process.returncode:
            raise SystemExit(f"the pipeline failed:\n{printed.read()}")
    return True


def reached(home: Path, point: str, printed: Any, there: set[Path]) -> bool:
    """Whether a run has come to where it is to be killed."""
    if point.startswith("line "):
        # Read by position, so that the process's own place in the file stays.
        text = os.pread(printed.fileno(), 10**6, 0).decode(errors="replace")
        return f"\n{point.removeprefix('line ')}" in text
    return bool(set(home.glob(point)) - there)


def end_state(home_path: Path) -> dict[str, str]:
    """Digests of everything that a pipeline is for, by name."""
    from flows.runtime.settings import configure_tools
    from hymirec.home import Home

    home = Home.at(home_path)
    configure_tools(home)
    import mlflow

    from features.offline import read_histories, read_item_codes
    from features.online import FeatureReader, list_codebooks

    found = {}
    for step in home.runs.iterdir():
        # What is asked of the gate is a version, which has a time of its own.
        name = step.name.partition("-")[0] if step.name.startswith("promote-") else step.name
        for path in sorted(step.rglob("*")):
            if path.is_file() and path.name not in OF_A_RUN:
                found[f"runs/{name}/{path.relative_to(step)}"] = digest(path.read_bytes())
    for path in home.data.glob("*/*"):
        found[str(path.relative_to(home.root))] = digest(path.read_bytes())
    for codebook in list_codebooks(home):
        reader = FeatureReader(home, codebook)
        histories = read_histories(home, codebook)
        online = {user: reader.read_user(user).history for user in histories}
        for name, its in (("offline", histories), ("online", online)):
            for user, one in its.items():
                content = repr(list(one.item_ids)).encode() + one.times.tobytes()
                found[f"{codebook} {name} {user}"] = digest(content + one.codes.tobytes())
        codes = read_item_codes(home, codebook)
        same = reader.read_item_codes(list(codes))
        for name, its in (("offline", codes), ("online", same)):
            content = b"".join(item.encode() + its[item].tobytes() for item in sorted(its))
            found[f"{codebook} {name} items"] = digest(content)
    client = mlflow.MlflowClient(home.mlflow_uri, home.mlflow_uri)
    model = client.get_registered_model("hymirec")
    found["aliases"] = json.dumps({k: str(v) for k, v in model.aliases.items()}, sort_keys=True)
    for version in client.search_model_versions("name = 'hymirec'"):
        location = client.get_logged_model(version.source.removeprefix("models:/"))
        package = Path(location.artifact_location.removeprefix("file://")) / "artifacts"
        for path in sorted((package / "package").rglob("*")):
            if path.is_file():
                name = f"version {version.version} {path.relative_to(package)}"
                found[name] = digest(path.read_bytes())
        tags = {name: version.tags.get(name) for name in ("gate", "codebook_id", "data_digest")}
        found[f"version {version.version} tags"] = json.dumps(tags)
    return found


def left_behind(home_path: Path) -> dict[str, list[str]]:
    """What kills may leave and reruns have to clear: half results, runs that never end, servers."""
    partial = [str(path) for path in home_path.rglob("*.partial")]
    with contextlib.closing(sqlite3.connect(home_path / "mlflow" / "mlflow.db")) as database:
        runs = database.execute("select name from runs where status = 'RUNNING'").fetchall()
    with contextlib.closing(sqlite3.connect(home_path / "prefect" / "prefect.db")) as database:
        states = "select name from flow_run where state_type = 'RUNNING'"
        flow_runs = database.execute(states).fetchall()
    return {
        "half_results": partial,
        "mlflow_runs": [name for (name,) in runs],
        "prefect_flow_runs": [name for (name,) in flow_runs],
        "servers": servers(home_path),
    }


def servers(home: Path) -> list[str]:
    """Processes of the temporary server that belong to a home; on Linux."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            environment = (process / "environ").read_bytes().decode(errors="replace")
            if "temporary_server" in command and f"HYMIREC_HOME={home}\0" in environment:
                found.append(f"{process.name} {command}")
    return found


def digest(content: bytes) -> str:
    """Short SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def compared(whole: dict[str, str], killed: dict[str, str]) -> list[str]:
    """Names of what is not the same."""
    names = whole.keys() | killed.keys()
    return sorted(name for name in names if whole.get(name) != killed.get(name))


def summary(kills: Sequence[str], num_digests: int, ends: Mapping[str, End]) -> dict[str, Any]:
    """What is printed.

    Args:
        kills: points at which it was killed.
        num_digests: of the uninterrupted run, which each end is compared with.
        ends: by their names, what differs and what was left behind.
    """
    differing = {name: names for name, (names, _) in ends.items() if names}
    return {
        "killed_at": kills,
        "not_reached": sorted(POINTS.keys() - set(kills)),
        "compared": num_digests * len(ends),
        "equal": not differing,
        "differing": differing,
        "left_behind": {name: it for name, (_, it) in ends.items() if any(it.values())},
    }


def is_well(found: Mapping[str, Any]) -> bool:
    """Whether it was killed everywhere and nobody could tell."""
    return not (found["differing"] or found["not_reached"] or found["left_behind"])


def main() -> None:
    """Run, kill, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--separately", action="store_true", help="a home for every kill")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        data = arguments.data or root / "tiny"
        if not arguments.data:
            from hymirec.datasets.synthetic import WorldConfig, generate, write_world

            write_world(generate(WorldConfig.tiny()), data)
        run_pipeline(root / "whole", data, arguments.recipe)
        whole = end_state(root / "whole")
        kills: list[str] = []
        results: dict[str, End] = {}
        homes = {point: root / f"killed-{n}" for n, point in enumerate(POINTS)}
        for point, pattern in POINTS.items():
            home = homes[point] if arguments.separately else root / "killed"
            home.mkdir(exist_ok=True)
            if not run_pipeline(home, data, arguments.recipe, pattern):
                kills.append(point)
                print(f"killed at {point}", file=sys.stderr, flush=True)
            if arguments.separately:
                run_pipeline(home, data, arguments.recipe)
                results[point] = compared(whole, end_state(home)), left_behind(home)
        if not arguments.separately:
            run_pipeline(root / "killed", data, arguments.recipe)
            home = root / "killed"
            results["all in turn"] = compared(whole, end_state(home)), left_behind(home)
    found = summary(kills, len(whole), results)
    print(json.dumps(found))
    sys.exit(0 if is_well(found) else 1)


if __name__ == "__main__":
    main()
