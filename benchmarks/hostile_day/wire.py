"""A wire to a server that can be cut or go dead: a proxy of TCP on this machine."""

from __future__ import annotations

import contextlib
import socket
import threading

_BYTES = 65_536


class Wire:
    """Passes connections on to a port of this machine, as long as it is whole."""

    def __init__(self, target: int) -> None:
        """Listen on a free port for connections to another."""
        self._target = target
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._flows = threading.Event()
        self._flows.set()
        self._listen(0)
        self.port = int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Drop all connections and refuse new ones."""
        # Shut down first: a thread that waits in `accept` would keep a closed socket listening.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def go_dead(self) -> None:
        """Take connections and bytes, and pass nothing on: whoever asks waits."""
        self._flows.clear()

    def mend(self) -> None:
        """Pass everything on again; of a dead wire also what was sent meanwhile."""
        self._flows.set()
        if self._listener.fileno() == -1:
            self._listen(self.port)

    def close(self) -> None:
        """Cut it for good."""
        self._flows.set()
        self.cut()

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=200)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:  # it was cut
                return
            threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        self._flows.wait()
        try:
            there = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            here.close()
            return
        with self._lock:
            self._open |= {here, there}
        back = threading.Thread(target=self._copy, args=(there, here), daemon=True)
        back.start()
        self._copy(here, there)
        back.join()
        with self._lock:
            self._open -= {here, there}
        here.close()
        there.close()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BYTES):
                self._flows.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
