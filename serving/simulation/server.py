"""A model server for simulated versions that is up in a second; takes the place of `standby.py`.

    python -P serving/simulation/server.py FD

It speaks what the gateway speaks with MLflow's server, over the same kind of directory, and nothing
more: MLflow's own serves these versions as well (`serving/simulation/model.py`), only slower.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from hymirec.errors import HymirecError
from hymirec.simulation.recommender import SimulatedRecommender, answers

PACKAGE = Path("artifacts") / "recommender"


def main() -> None:
    """Wait, load, serve; ends with the process that started it."""
    line = sys.stdin.readline()
    if not line:
        return
    directory = Path(json.loads(line)["model"])

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    recommender = SimulatedRecommender.load(directory / PACKAGE)
    marks = json.loads((directory / PACKAGE / "marks.json").read_text())
    meta = yaml.safe_load((directory / "registered_model_meta").read_text())
    marks["model_version"] = str(meta["model_version"])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """That it is up."""
            self._send(200, "\n")

        def do_POST(self) -> None:
            """Predictions, or why there are none."""
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                found = answers(recommender, body["inputs"], marks)
            except HymirecError as error:
                self._send(400, json.dumps({"message": f"Failed to predict data\nError: {error}"}))
            else:
                self._send(200, json.dumps({"predictions": found}))

        def _send(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            """Nothing: there are thousands of requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.socket(fileno=int(sys.argv[1]))
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = "localhost", server.server_address[1]
    server.serve_forever()


if __name__ == "__main__":
    main()
