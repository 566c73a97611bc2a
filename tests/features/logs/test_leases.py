"""A server that runs holds on to its codebook, and one that ended does not for long."""

import gc
import subprocess
import sys
import time

import pytest

from features.logs import leases
from features.logs.leases import Lease, holders, refuse_if_served
from hymirec.errors import UsageError
from hymirec.home import Home

CODEBOOK, OTHER = "0123456789ab", "ba9876543210"
SERVER = """
import sys, time
from features.logs.leases import Lease
from hymirec.home import Home
lease = Lease(Home.at(sys.argv[1]), sys.argv[2], "version 7")
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path, stores):
    return Home.at(tmp_path).create()


def test_a_running_server_keeps_its_codebook_and_no_other(home):
    lease = Lease(home, CODEBOOK, "version 3")
    assert holders(home, CODEBOOK) == [lease.holder]
    with pytest.raises(UsageError, match=rf"codebook {CODEBOOK} is served by version 3 \(process"):
        refuse_if_served(home, CODEBOOK)
    refuse_if_served(home, OTHER)


def test_two_servers_are_both_named(home):
    held = [Lease(home, CODEBOOK, f"version {number}") for number in (4, 3)]
    assert holders(home, CODEBOOK) == sorted(one.holder for one in held)


def test_a_lease_lapses_when_its_server_is_killed_and_is_swept_out(home, monkeypatch):
    command = [sys.executable, "-c", SERVER, str(home.root), CODEBOOK]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        server.stdout.readline()
        assert [one.partition(" (")[0] for one in holders(home, CODEBOOK)] == ["version 7"]
        server.kill()
    now = time.time() + leases.LEASE_SECONDS + 1
    with monkeypatch.context() as patched:
        patched.setattr(leases.time, "time", lambda: now)
        refuse_if_served(home, CODEBOOK)
        other = Lease(home, OTHER, "version 8")
    assert holders(home, CODEBOOK) == []
    assert holders(home, OTHER) == [other.holder]


def test_a_lease_is_renewed_while_it_lives_and_not_after(home, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(leases, "SECONDS_BETWEEN_RENEWALS", 0.1)
    lease = Lease(home, CODEBOOK, "version 3")
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert holders(home, CODEBOOK)
        time.sleep(0.2)
    del lease
    gc.collect()
    deadline = time.monotonic() + 20
    while holders(home, CODEBOOK):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_server_goes_on_without_a_lease(tmp_path, caplog):
    (tmp_path / "events").write_text("in the way")
    Lease(Home.at(tmp_path), CODEBOOK, "version 3")
    assert "not renewed" in caplog.text
