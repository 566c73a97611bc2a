"""Stands in for `serving/standby.py`: a model server that answers as its directory says, at once.

The directory's `answers.json` has the version's marks and may ask for trouble: `stops` (it ends as
it starts, with this line), `seconds` (an answer takes), `refuses` (a user id it cannot answer),
`mute` (it answers without predictions); and for other items than usual: `first` (the number of its
first).
"""

import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

line = sys.stdin.readline()
if not line:
    sys.exit()
directory = Path(json.loads(line)["model"])
told = json.loads((directory / "answers.json").read_text())
if "stops" in told:
    print(told["stops"], flush=True)
    sys.exit(1)


def wait_for_the_parent_to_go():
    sys.stdin.read()
    os._exit(0)


threading.Thread(target=wait_for_the_parent_to_go, daemon=True).start()


def predict(values):
    items = [
        {"item_id": f"i{n}", "title": f"Title {n}", "score": 0.5, "interest": 1,
         "categories": ["Odd" if n % 2 else "Even"]}
        for n in range(told.get("first", 1), told.get("first", 1) + 30)
    ]  # fmt: skip
    query = json.loads(values.get("query") or "{}")
    return {
        "user_id": values.get("user_id"), "served_by": "full", "feature_age_seconds": 60.0,
        "degraded": None, "model_version": told["version"], "run_id": told["run"],
        "codebook_id": told["codebook"], "recommendations": items[: query.get("k", 10)],
        "stage_seconds": {"features": 0.0, "model": 0.0, "search": 0.0, "serialisation": 0.0},
    }  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, b"\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        rows = body.get("inputs")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self.answer(400, b'{"message": "no rows"}')
            return
        if any(row.get("user_id") == told.get("refuses") for row in rows):
            problem = {"message": "Failed to predict data\nError: no, at /secret/path/model.py"}
            self.answer(400, json.dumps(problem).encode())
            return
        time.sleep(told.get("seconds", 0))
        answers = [] if "mute" in told else [predict(row) for row in rows]
        self.answer(200, json.dumps({"predictions": answers}).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = socket.socket(fileno=int(sys.argv[1]))
server.server_address = server.socket.getsockname()
server.server_name, server.server_port = "localhost", server.server_address[1]
server.serve_forever()
