"""Two runs never work on one home at once, and no dead one keeps others out."""

import logging
import os
import subprocess
import sys
import threading

import pytest

from flows.runtime.locks import TRAINING, alone_in
from hymirec.errors import UsageError
from hymirec.home import Home

# The child of the killed process has all its files open still.
HOLDER = """
import os, sys, time
from flows.runtime.locks import alone_in
from hymirec.home import Home
with alone_in(Home.at(sys.argv[1])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


@pytest.fixture
def holder(home):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, home.root], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    os.kill(child, 9)


def test_a_second_run_is_told_who_the_first_is(home, holder):
    with pytest.raises(UsageError) as caught, alone_in(home):
        pass
    message = str(caught.value)
    assert message.startswith(f"another pipeline is running in {home.root}: process {holder.pid} ")
    assert " since 20" in message
    assert "\n" not in message


def test_a_home_that_is_not_there_is_said_to_be(tmp_path):
    home = Home.at(tmp_path / "none")
    with pytest.raises(UsageError, match=f"{home.root} does not exist"), alone_in(home):
        pass
    assert not home.root.exists()


def test_the_lock_of_a_killed_process_is_free_though_its_children_live(home, holder):
    holder.kill()
    holder.wait()
    with alone_in(home), pytest.raises(UsageError, match="process"), alone_in(home):
        pass


def test_a_run_that_waits_says_so_and_goes_on_when_the_other_ends(home, holder, caplog):
    threading.Timer(0.5, holder.kill).start()
    with caplog.at_level(logging.INFO), alone_in(home, wait_seconds=3600):
        pass
    (line,) = caplog.messages
    assert line.endswith("; waiting for it, 60 min at most")
    assert f"process {holder.pid}" in line


def test_a_run_that_has_waited_long_enough_is_refused(home, holder):
    expected = rf"process {holder.pid} .*; waited 1 s for it to end$"
    with pytest.raises(UsageError, match=expected), alone_in(home, wait_seconds=0.6):
        pass


def test_threads_of_one_process_keep_apart(home):
    with alone_in(home, TRAINING):
        for _ in range(2):  # trying must not give the lock up
            with pytest.raises(UsageError, match=f"process {os.getpid()} on"), alone_in(home):
                pass
        with alone_in(home, "validate"):
            pass
    with alone_in(home):
        pass
