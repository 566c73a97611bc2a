"""Prefect's server for the time of one command, where none is named.

Prefect would start one itself, but later, after everything is imported, and would leave it running
when the command is killed. This one starts while the command imports what it needs, and ends when
the command does, however it does: it watches a pipe that only the command holds open.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import threading

API_URL = "PREFECT_API_URL"
_SECONDS_TO_STOP = 10


def start_temporary_server() -> None:
    """Start the server and name it in the environment; nothing if another is named there.

    Prefect reads the environment when it is imported, so this has to be called before.
    """
    if os.environ.get(API_URL):
        return
    # Bound here, so that no port is guessed; what is asked before the server answers waits.
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the command, which has to report it here
        )
        os.environ[API_URL] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    # Registered before Prefect is imported, so it is called after Prefect has sent its last events.
    atexit.register(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(descriptor: int) -> None:
    import uvicorn
    from prefect.server.api.server import create_app

    # `ephemeral`: no page, no scheduler. `final`: no second application in this process.
    app = create_app(ephemeral=True, final=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))

    def end_with_command() -> None:
        sys.stdin.read()
        server.should_exit = True
        threading.Timer(_SECONDS_TO_STOP / 2, os._exit, [1]).start()

    threading.Thread(target=end_with_command, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[socket.socket(fileno=descriptor)])
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
