"""A process that becomes MLflow's model server for one version, as soon as it is told which.

    python -P serving/standby.py FD

FD is a socket that listens already. One line of JSON on standard input says what to serve:
`{"model": directory}`. What runs then is what `mlflow models serve --env-manager local` runs,
without the process around it and without a line in the log for each request.

Importing torch, Feast and MLflow takes many times as long as loading a model; so it is done while
waiting. Nothing of this project may be imported here: a version brings its own `hymirec` and
`features`, and a process has room for one of each.

When standard input ends, so does this process: its parent is gone, however it went.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import sys
import threading

PRELOADED = (
    "accelerate",
    "dask.dataframe",
    "faiss",
    "mlflow.pyfunc.scoring_server",
    "pandas",
    "pyarrow.parquet",
    "redis",
    "safetensors.torch",
    "scipy.sparse",
    "sqlalchemy.orm",
    "torch",
    "transformers.models.llama.modeling_llama",
    "uvicorn",
)
"""What takes long to import of what a version will. Feast itself is not among it: a version has its
own way of importing it (`features.lean_feast`)."""


def main() -> None:
    """Wait, load, serve."""
    # The parent holds the other end: nothing is lost by reading in a thread of its own.
    told = threading.Event()
    line: list[str] = []

    def listen() -> None:
        line.append(sys.stdin.readline())
        told.set()
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # what is not installed nobody will need
            importlib.import_module(name)
    told.wait()
    if not line[0]:
        return
    order = json.loads(line[0])

    import uvicorn
    from mlflow.pyfunc import scoring_server

    os.environ[scoring_server._SERVER_MODEL_PATH] = order["model"]
    app = importlib.import_module("mlflow.pyfunc.scoring_server.app").app
    # What is loaded now stays: the collector need not walk through it in the middle of requests.
    gc.collect()
    gc.freeze()
    listening = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(app, access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
