"""Model servers that are tried: they end with the trial, whatever ends it."""

import time

import serving.server
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
