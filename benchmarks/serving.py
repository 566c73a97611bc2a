"""Latency and throughput of the gateway beside MLflow serving a model that does nothing.

    python benchmarks/serving.py [--quick] [--home DIR] [--seconds 10]

Prints one JSON object. Without `--home` the served model has the shapes of recipe `small` on 2,000
items and has learned nothing, which takes as long to ask as one that has; with it, the home's
champion is asked. `noop`: `mlflow models serve` with a model that returns a constant, one client.
`rows`: `hymirec serve` with one model server and 1, 8 and 32 clients in turn, each of which asks
again as soon as it is answered; stages are medians of what the header Server-Timing says: `gateway`
(waiting and gateway), `experiments` (who is shown what, and writing it down), `mlflow` (MLflow
around the model), `features` (Feast), `model`, `search` (FAISS), `serialisation` (JSON on both
sides). `experiment`: one client, in turns while no experiment runs and while one does in which
everybody takes part and both variants are the champion; medians over the turns of p50 and of the
stage `experiments`. `latency_2000_over_50_events`: medians of users with
so many events, one client. `faiss`: p50 of a search of 1,000,000 items (with `--quick` cells are
learned from fewer points) over one of 10,000, and recall@10 of the larger against exact search.

Clients, gateway and model servers share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A script's folder comes first in the search, and there this file would hide the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import faiss
import numpy as np
import pandas as pd

import hymirec.retrieval as retrieval
from benchmarks.served_home import (
    BIN,
    WIDTH,
    catalogue,
    gateway,
    make_home,
    near,
    served,
    users_of_length,
)
from hymirec.home import Home
from hymirec.retrieval import ItemIndex
from serving.server import free_port

CLIENTS = (1, 8, 32)
PATH = "/v1/recommendations"
FOLLOWED_SECONDS = 1.5
"""After which the gateway has seen that an experiment began or ended."""


@contextmanager
def noop(folder: Path) -> Iterator[str]:
    """MLflow's own server with a model that does nothing."""
    code = folder / "noop.py"
    code.write_text(
        "from mlflow.models import set_model\n"
        "from mlflow.pyfunc import PythonModel\n"
        "class Noop(PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return [0] * len(model_input)\n"
        "set_model(Noop())\n"
    )
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    mlflow.pyfunc.save_model(
        folder / "noop", python_model=str(code), pip_requirements=["mlflow"],
        signature=ModelSignature(Schema([ColSpec("string", "user_id")])),
    )  # fmt: skip
    port = free_port("127.0.0.1")
    command = [BIN / "mlflow", "models", "serve", "--model-uri", folder / "noop",
               "--env-manager", "local", "--port", port]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    with served(command, url, folder / "noop.log", PATH=f"{BIN}:{os.environ['PATH']}"):
        yield url


Taken = tuple[float, dict[str, float]]
"""Seconds of one answer, and of its stages."""


def load(url: str, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> list[Taken]:
    """Ask with so many clients for so long."""
    host, port = url.removeprefix("http://").split(":")
    end = time.perf_counter() + seconds
    taken: list[Taken] = []

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        turn = number
        while (start := time.perf_counter()) < end:
            body = bodies[turn % len(bodies)]
            turn += clients
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
            content = await reader.readexactly(int(fields["content-length"]))
            if not head.startswith("http/1.1 200"):
                sys.exit(f"{path}: {head.splitlines()[0]}: {content[:300]!r}")
            stages = {
                name: float(value) / 1000
                for name, value in (
                    part.split(";dur=")
                    for part in fields.get("server-timing", "").split(", ")
                    if part
                )
            }
            taken.append((time.perf_counter() - start, stages))
        writer.close()

    async def everybody() -> None:
        await asyncio.gather(*(client(number) for number in range(clients)))

    asyncio.run(everybody())
    return taken


def summary(taken: list[Taken], seconds: float) -> dict[str, Any]:
    """Quantiles in milliseconds, answers a second and the stages' medians."""
    whole = np.array([one for one, _ in taken]) * 1000
    found: dict[str, Any] = {
        f"p{quantile}_ms": round(float(np.percentile(whole, quantile)), 2)
        for quantile in (50, 95, 99)
    }
    found["rps"] = round(len(taken) / seconds, 1)
    names = [name for name in taken[0][1] if name != "total"]
    found["stages_ms"] = {
        name: round(1000 * float(np.median([stages[name] for _, stages in taken])), 3)
        for name in names
    }
    return found


def measure_experiment(
    home: Home, url: str, bodies: Sequence[bytes], turns: int, seconds: float
) -> dict[str, float]:
    """What assignment and an exposure log add to an answer, with one client."""
    from features.logs.experiments import ExperimentStore
    from flows.runtime.settings import CHAMPION, MODEL_NAME
    from hymirec.abtest.definition import Experiment
    from serving.registry import Registry

    store, champion = ExperimentStore(home), Registry(home, MODEL_NAME).resolve(CHAMPION)
    found: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    for turn in range(turns):
        found["without"].append(summary(load(url, PATH, bodies, 1, seconds), seconds))
        name = f"benchmark-{time.time_ns()}"
        store.create(
            Experiment.model_validate(
                {
                    "name": name, "hypothesis": "none", "owner": "benchmark",
                    "variants": [{"name": "control", "model": champion},
                                 {"name": "same", "model": champion, "settings": {"diversity": 0}}],
                    "ramp": [{"share": 1.0, "min_users": 100}], "horizon": {"days": 7},
                    "guardrails": [{"metric": "error_rate", "absolute": 0.01},
                                   {"metric": "latency_ms", "relative": 0.5}],
                }
            )
        )  # fmt: skip
        store.start(name, {"control": champion, "same": champion})
        time.sleep(FOLLOWED_SECONDS)
        found["with"].append(summary(load(url, PATH, bodies, 1, seconds), seconds))
        store.kill(name)
        if turn < turns - 1:
            time.sleep(FOLLOWED_SECONDS)
    store.close()
    medians = {
        f"{name}_{which}": round(float(np.median([of(one) for one in taken])), 3)
        for name, of in (
            ("p50_ms", lambda one: one["p50_ms"]),
            ("stage_ms", lambda one: one["stages_ms"]["experiments"]),
        )
        for which, taken in found.items()
    }
    added = medians["p50_ms_with"] - medians["p50_ms_without"]
    return medians | {"added_p50_ms": round(added, 3)}


def measure_faiss(quick: bool) -> dict[str, float]:
    """Large over small, and what the large one finds of what there is."""
    if quick:
        retrieval.POINTS_PER_CELL = 20
    rng = np.random.default_rng(1)
    medians = {}
    recall = 0.0
    for num_items in (10_000, 1_000_000):
        vectors = catalogue(num_items, rng)
        index = ItemIndex.build(vectors)
        faiss.omp_set_num_threads(1)
        interests = near(vectors[rng.integers(1, num_items, 400)], 0.5, rng).reshape(200, 2, -1)
        seen = rng.integers(1, num_items, (200, 500))
        times = []
        for pair, its in zip(interests, seen, strict=True):
            started = time.perf_counter()
            index.search(pair, 10, excluded=its)
            times.append(time.perf_counter() - started)
        medians[num_items] = float(np.median(times))
        if num_items > retrieval.MOST_EXACT:
            exact = faiss.IndexFlatIP(WIDTH)
            exact.add(vectors)
            some = interests[:50]
            true = [{hit.item for hit in ItemIndex(exact).search(pair, 10)} for pair in some]
            found = [{hit.item for hit in index.search(pair, 10)} for pair in some]
            recall = sum(len(a & b) for a, b in zip(true, found, strict=True)) / (10 * len(some))
        faiss.omp_set_num_threads(os.cpu_count() or 1)
    return {
        "recall": round(recall, 4),
        "latency_1m_over_10k": round(medians[1_000_000] / medians[10_000], 2),
        "p50_ms_10k": round(1000 * medians[10_000], 3),
        "p50_ms_1m": round(1000 * medians[1_000_000], 3),
    }


def users_of(home: Home) -> list[str]:
    """Users of a home that was given."""
    (path, *_) = sorted((home.root / "data").glob("*/interactions.parquet"))
    return pd.read_parquet(path, columns=["user_id"])["user_id"].drop_duplicates().tolist()[:200]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="under a minute on two cores")
    parser.add_argument("--home", type=Path, help="serve its champion")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    arguments = parser.parse_args()
    seconds = 1.5 if arguments.quick else arguments.seconds
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        home = Home.at(arguments.home or folder / "home")
        if arguments.home:
            users = users_of(home)
        else:
            make_home(home)
            users = users_of_length(50)
        asked = [json.dumps({"user_id": user, "k": 10}).encode() for user in users]
        plain = [json.dumps({"dataframe_records": [{"user_id": user}]}).encode() for user in users]
        result: dict[str, Any] = {}
        with noop(folder) as url:
            load(url, "/invocations", plain, 1, 1.0)
            found = summary(load(url, "/invocations", plain, 1, seconds), seconds)
            result["noop"] = {name: found[name] for name in ("p50_ms", "p99_ms", "rps")}
        with gateway(home) as url:
            load(url, PATH, asked, 1, 1.0)
            result["rows"] = [
                {"clients": clients} | summary(load(url, PATH, asked, clients, seconds), seconds)
                for clients in CLIENTS
            ]
            if not arguments.home:
                by_length = {}
                for length in (50, 2000):
                    bodies = [json.dumps({"user_id": user}).encode()
                              for user in users_of_length(length)]  # fmt: skip
                    by_length[length] = summary(load(url, PATH, bodies, 1, seconds), seconds)
                result["latency_2000_over_50_events"] = round(
                    by_length[2000]["p50_ms"] / by_length[50]["p50_ms"], 2
                )
                result["stages_ms_2000_events"] = by_length[2000]["stages_ms"]
            turns = 1 if arguments.quick else 5
            result["experiment"] = measure_experiment(home, url, asked, turns, seconds)
        result["faiss"] = measure_faiss(arguments.quick)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
