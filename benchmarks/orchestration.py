"""What orchestration costs: the pipeline on the built-in world against the work of its steps.

    python benchmarks/orchestration.py [--quick]

runs `hymirec pipeline` twice (recipe `demo`; `--quick`: the tiny world and recipe) and prints one
JSON object: the command's seconds, those of the flow within it, those of its steps' own work (as
each step noted, and registering the model), the share of the rest in the command and in the flow,
and the seconds of the second run, which finds everything done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# `features` is the package, not the script beside this one.
sys.path[0] = str(Path(__file__).resolve().parents[1])
HYMIREC = Path(sys.executable).parent / "hymirec"


def run(data: Path, home: Path, recipe: str) -> dict[str, Any]:
    """Run the command; its answer, with `command_seconds`."""
    started = time.monotonic()
    done = subprocess.run(
        [HYMIREC, "pipeline", "--data", data, "--recipe", recipe, "--home", home, "--json"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"command_seconds": time.monotonic() - started}


def work_seconds(home: Path, run_id: str) -> float:
    """Seconds that the steps worked, and that registering took."""
    import mlflow

    steps = [json.loads(path.read_text())["seconds"] for path in home.glob("runs/*/cost.json")]
    client = mlflow.MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    (registering,) = client.search_runs(
        [client.get_run(run_id).info.experiment_id],
        f"tags.mlflow.parentRunId = '{run_id}' AND tags.flow = 'register'",
    )
    span = registering.info.end_time - registering.info.start_time
    return sum(steps) + span / 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    from hymirec.datasets.synthetic import WorldConfig, generate, write_world

    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve()
        write_world(generate(WorldConfig.tiny() if quick else WorldConfig()), root / "world")
        recipe = "tiny" if quick else "demo"
        first = run(root / "world", root / "home", recipe)
        work = work_seconds(root / "home", first["run_id"])
        again = run(root / "world", root / "home", recipe)
        assert again["ran"] == [], again["ran"]
    flow, command = first["seconds"], first["command_seconds"]
    print(
        json.dumps(
            {
                "recipe": recipe,
                "command_seconds": round(command, 2),
                "flow_seconds": round(flow, 2),
                "work_seconds": round(work, 2),
                "overhead_of_flow": round(1 - work / flow, 4),
                "overhead_of_command": round(1 - work / command, 4),
                "second_run_seconds": round(again["command_seconds"], 2),
                "second_flow_seconds": round(again["seconds"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
