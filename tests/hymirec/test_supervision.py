"""Programs in the background, with a program of the tests' own."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from hymirec import supervision
from hymirec.errors import HymirecError
from hymirec.home import Home
from hymirec.supervision import Service, find, found, keep, log_path, start, stop

SERVER = """
import http.server, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
handler = http.server.SimpleHTTPRequestHandler
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""

SLEEPER = Service("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path / "home").create()


@pytest.fixture
def running(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(port)]
    one = start(home, Service("web", command, f"http://127.0.0.1:{port}", "/"), os.environ)
    yield one
    stop(home, one)


def child_of(home):
    return int(log_path(home, "web").read_text().split()[1])


def test_it_answers_when_start_returns_and_is_found_again(home, running):
    assert running.state == "running"
    assert find(home, "web") == running
    assert found(home) == [running]


def test_stop_ends_it_and_what_it_started_and_nothing_else(home, running):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child = child_of(home)
    assert psutil.pid_exists(child)
    assert stop(home, running)
    assert running.state == "stopped"
    assert not psutil.pid_exists(child)
    assert find(home, "web") is None
    assert bystander.poll() is None
    assert not stop(home, running)
    bystander.kill()
    bystander.wait()


def test_what_a_killed_program_left_is_stopped_too(home, running):
    child = child_of(home)
    psutil.Process(running.pid).kill()
    assert not running.comes_round()
    assert [one.pid for one in running.left] == [child]
    assert not stop(home, running)
    assert running.left == []
    assert not psutil.pid_exists(child)


def test_one_that_had_much_to_do_is_not_taken_for_dead(running, monkeypatch):
    answers = iter([False, False, True])
    monkeypatch.setattr(supervision.Running, "answers", lambda _: next(answers))
    assert running.comes_round()


def test_a_number_that_another_program_has_by_now_is_nobody_of_ours(home, running):
    file = supervision.folder(home) / "web.json"
    other = json.loads(file.read_text()) | {"pid": os.getpid()}
    file.write_text(json.dumps(other))
    recycled = find(home, "web")
    assert recycled.state == "stopped"
    assert not stop(home, recycled)  # else this test would end here


def test_one_that_ends_at_once_is_told_with_its_last_line_and_log(home):
    command = [sys.executable, "-c", "raise SystemExit('no luck today')"]
    with pytest.raises(HymirecError, match=r"mayfly ended: no luck today \(log: .*mayfly.log\)"):
        start(home, Service("mayfly", command), os.environ)
    assert find(home, "mayfly") is None


def test_one_that_never_answers_is_not_left_behind(home, monkeypatch):
    monkeypatch.setattr(supervision, "START_SECONDS", 1.0)
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    began = time.time()
    with pytest.raises(HymirecError, match="mute did not answer within 1 s"):
        start(home, Service("mute", command, "http://127.0.0.1:9", "/"), os.environ)
    ours = [one for one in psutil.Process().children() if one.create_time() >= began - 1]
    assert not [one for one in ours if one.status() != psutil.STATUS_ZOMBIE]


def test_one_that_cannot_be_written_down_is_not_left_behind(home):
    (supervision.folder(home) / "sleeper.tmp").mkdir(parents=True)  # nothing can be written there
    before = {one.pid for one in psutil.Process().children()}
    message = r"sleeper was not started: .*sleeper\.json cannot be written: Is a directory"
    with pytest.raises(HymirecError, match=message):
        start(home, SLEEPER, os.environ)
    assert {one.pid for one in psutil.Process().children()} <= before
    assert find(home, "sleeper") is None
    (supervision.folder(home) / "sleeper.tmp").rmdir()
    assert stop(home, start(home, SLEEPER, os.environ))


def test_a_damaged_file_is_as_none(home):
    supervision.folder(home).mkdir(parents=True)
    (supervision.folder(home) / "web.json").write_text("{")
    assert find(home, "web") is None
    assert found(home) == []


@pytest.fixture
def keeping(home, monkeypatch):
    """A program that is kept by a thread; called with what starts it again."""
    monkeypatch.setattr(supervision, "_SECONDS_BETWEEN_LOOKS", 0.01)
    told, threads = threading.Event(), []

    def begin(again):
        start(home, SLEEPER, os.environ)
        thread = threading.Thread(target=keep, args=(home, ["sleeper"], again, told))
        thread.start()
        threads.append(thread)
        return thread

    yield begin
    told.set()
    for thread in threads:
        thread.join()
    if (left := find(home, "sleeper")) is not None:
        stop(home, left)


def wait_for(reached, seconds=20):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


@pytest.mark.parametrize("error", [HymirecError("not yet"), OSError(errno.ENOSPC, "No space")])
def test_what_is_killed_is_started_again_also_where_that_fails_at_first(home, keeping, error):
    tries = []

    def again(name):
        tries.append(time.monotonic())
        if len(tries) < 2:
            raise error
        stop(home, find(home, name))
        start(home, SLEEPER, os.environ)

    keeping(again)
    first = find(home, "sleeper")
    first.process.kill()
    wait_for(lambda: len(tries) == 2 and (one := find(home, "sleeper")) and one.pid != first.pid)
    assert find(home, "sleeper").state == "running"
    assert tries[1] - tries[0] >= 1.0


def test_what_was_stopped_stays_stopped_and_nothing_is_kept_then(home, keeping):
    again = []
    thread = keeping(again.append)
    stop(home, find(home, "sleeper"))
    thread.join(20)
    assert not thread.is_alive()
    assert again == []


def test_what_takes_long_to_stop_is_not_started_meanwhile(home, keeping, monkeypatch):
    again = []
    thread = keeping(again.append)
    wait_procs = psutil.wait_procs

    def slowly(processes, timeout):
        found = wait_procs(processes, timeout=timeout)
        time.sleep(0.3)  # it has ended, and its children have not yet
        return found

    monkeypatch.setattr(psutil, "wait_procs", slowly)
    stop(home, find(home, "sleeper"))
    thread.join(20)
    assert not thread.is_alive()
    assert again == []
    assert [path.name for path in supervision.folder(home).iterdir()] == ["sleeper.log"]
