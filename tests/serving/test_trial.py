"""Model servers that are tried: they end with the trial, whatever ends it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import serving.server
import serving.trial
from hymirec.home import Home
from serving.registry import Registry
from serving.trial import Trial


def test_a_trial_that_ends_at_once_waits_for_no_server(tmp_path, monkeypatch):
    begun = []

    class Slow(serving.server.ModelProcess):
        def __init__(self, *args, **kwargs):
            time.sleep(0.3)  # the trial is over by then
            super().__init__(*args, **kwargs)
            begun.append(self)

    (tmp_path / "never_up.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(serving.server, "STANDBY", tmp_path / "never_up.py")
    monkeypatch.setattr(serving.server, "START_SECONDS", 5)
    monkeypatch.setattr(serving.server, "ModelProcess", Slow)
    monkeypatch.setattr(Registry, "fetch", lambda self, version: tmp_path)
    started = time.monotonic()
    with Trial(Home.at(tmp_path / "home").create(), "hymirec", [1, 2]):
        time.sleep(0.05)  # both are begun
    assert time.monotonic() - started < 4
    assert [process.running for process in begun] == [False, False]


def test_a_trial_waits_for_no_server_that_was_never_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(serving.trial, "_start", lambda server: time.sleep(0.1))
    trial = Trial(Home.at(tmp_path / "home").create(), "hymirec", [1, 2])
    trial._pool = ThreadPoolExecutor(1)  # the second waits for the first, as on a busy machine

    def run():
        with trial:
            pass

    running = threading.Thread(target=run, daemon=True)
    running.start()
    running.join(5)
    assert not running.is_alive()
