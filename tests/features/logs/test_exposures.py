"""No exposure is lost and none is there twice, whoever dies. Runs on PostgreSQL too."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from features.logs import exposure_journal
from features.logs.exposure_journal import ExposureJournal
from features.logs.exposures import Exposure, ExposureLog, ShadowAnswer
from hymirec.errors import HymirecError
from hymirec.home import Home

ROW = Exposure(
    request_id="r1", time=100.5, experiment="one", user_id="u1", variant="control", mode="ab",
    model_version="7", codebook_id="abc", feature_age_seconds=12.0, served_by="full", degraded="",
    error="", is_fallback=False, is_override=False, propensity=0.5, latency_ms=3.25,
    items=["a", "b"], interests=[1, 2], teams=[],
)  # fmt: skip


@pytest.fixture(params=["file", "postgresql"])
def home(request, tmp_path, monkeypatch):
    if request.param == "postgresql":
        address = request.getfixturevalue("postgresql_database")
        monkeypatch.setenv("HYMIREC_EVENT_LOG", address)
    return Home.at(tmp_path)


def rows_of(home, name="one"):
    log = ExposureLog(home)
    found = log.of_experiment(name)
    log.close()
    return found


def test_rows_come_back_as_they_were(home):
    journal = ExposureJournal(home)
    journal.append(ROW)
    journal.append(replace(ROW, experiment="", variant="", feature_age_seconds=None))
    journal.append(ShadowAnswer("r1", 1.0, "one", 0.5, True, 10.0, 9.0, ""))
    assert journal.drain() == 3
    assert journal.drain() == 0
    found = rows_of(home)
    assert len(found) == 1
    assert {name: found[name].iloc[0] for name in vars(ROW)} == vars(ROW) | {
        "items": ["a", "b"], "interests": [1, 2], "teams": [],
    }  # fmt: skip
    log = ExposureLog(home)
    assert len(log.since(0.0, 10)) == 2
    assert len(log.since(0.0, 1)) == 1
    assert len(log.since(200.0, 10)) == 0
    assert len(log.of_user("u1")) == 2
    assert log.count("one") == 1
    assert log.shadows("one")["overlap"].tolist() == [0.5]
    log.close()
    journal.close()
    assert not list((home.events / "exposures").iterdir())


def test_the_thread_brings_rows_in(home):
    with ExposureJournal(home) as journal:
        for number in range(100):
            journal.append(replace(ROW, request_id=str(number)))
        deadline = time.monotonic() + 20
        while len(rows_of(home)) < 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)


WRITER = """
import sys, time
from dataclasses import replace
sys.path[:0] = sys.argv[3:]
from features.logs.exposure_journal import ExposureJournal
from hymirec.home import Home
from test_exposures import ROW
with ExposureJournal(Home.at(sys.argv[1])) as journal:
    for number in range(100_000):
        journal.append(replace(ROW, request_id=f"{sys.argv[2]}-{number}"))
        print(number, flush=True)  # acknowledged
        time.sleep(0.0005)
"""


def test_a_killed_process_loses_nothing_that_was_acknowledged(home):
    here = Path(__file__).parent
    acknowledged = 0
    for round_ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, home.root, str(round_), here],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in writer.stdout:
            if int(line) == 400 + 300 * round_:
                writer.send_signal(signal.SIGKILL)
                break
        acknowledged += 1 + int(line) + sum(1 for _ in writer.stdout)
        writer.wait()
    with ExposureJournal(home):
        pass
    found = rows_of(home)
    # The last row may have been written without its process living to say so.
    assert acknowledged <= len(found) <= acknowledged + 2
    assert found["request_id"].is_unique
    assert not list((home.events / "exposures").iterdir())


def test_what_a_dead_process_left_is_taken_in_once_though_it_was_in_half(home, monkeypatch):
    dead = ExposureJournal(home)
    for number in range(10):
        dead.append(replace(ROW, request_id=str(number)))
    dead.drain()  # in the database, and the file is still there
    dead.append(replace(ROW, request_id="last"))
    with (home.events / "exposures" / "torn.jsonl").open("wb") as file:
        file.write(b'{"kind": "Expos')
    dead._segment.close()
    journal = ExposureJournal(home)
    with monkeypatch.context() as patch:
        patch.setattr(journal._log, "append", mock.Mock(side_effect=HymirecError("it is down")))
        with pytest.raises(HymirecError):
            journal.drain()
    assert journal.drain() == 1
    assert len(rows_of(home)) == 11
    journal.close()


def test_a_living_process_keeps_its_journal(home):
    one, two = ExposureJournal(home), ExposureJournal(home)
    one.append(ROW)
    assert two.drain() == 0
    assert one.drain() == 1
    one.close()
    two.close()


def test_without_a_database_rows_wait(home, monkeypatch):
    journal = ExposureJournal(home)

    def down(rows):
        raise HymirecError("exposure log cannot be used: it is down")

    journal.append(ROW)
    with monkeypatch.context() as patch:
        patch.setattr(journal._log, "append", down)
        with pytest.raises(HymirecError):
            journal.drain()
        journal.append(replace(ROW, request_id="r2"))
        journal.close()
    with ExposureJournal(home):
        pass
    assert set(rows_of(home)["request_id"]) == {"r1", "r2"}


def test_what_waits_in_memory_is_left_to_the_disk_where_no_database_takes_it(home, monkeypatch):
    journal = ExposureJournal(home)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
        journal.append(ROW)
    with monkeypatch.context() as patch:
        patch.setattr(journal._log, "append", mock.Mock(side_effect=RuntimeError("who knows")))
        journal.close()
    with ExposureJournal(home):
        pass
    assert rows_of(home)["request_id"].tolist() == ["r1"]


def test_files_are_begun_anew_and_removed(home, monkeypatch):
    monkeypatch.setattr(exposure_journal, "SEGMENT_BYTES", 2000)
    journal = ExposureJournal(home)
    for number in range(50):
        journal.append(replace(ROW, request_id=str(number)))
    assert len(list((home.events / "exposures").iterdir())) > 5
    assert journal.drain() == 50
    assert len(list((home.events / "exposures").iterdir())) == 1
    journal.close()


@pytest.mark.parametrize("segment_bytes", [10, 10**6])
def test_on_a_full_disk_rows_wait_in_memory_and_tear_no_other(home, monkeypatch, segment_bytes):
    monkeypatch.setattr(exposure_journal, "SEGMENT_BYTES", segment_bytes)
    monkeypatch.setattr(exposure_journal, "ROWS_PER_WRITE", 1)
    journal = ExposureJournal(home)
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
        for name in ("half", "another"):
            journal.append(replace(ROW, request_id=name))
        patch.setattr(exposure_journal, "MOST_IN_MEMORY", 2)
        with pytest.raises(HymirecError, match=r"cannot be written: No space left"):
            journal.append(replace(ROW, request_id="one too many"))
    journal.append(ROW)
    journal.append(replace(ROW, request_id="r2"))
    assert journal.drain() == 4
    assert journal.drain() == 0
    assert sorted(rows_of(home)["request_id"]) == ["another", "half", "r1", "r2"]
    assert len(list((home.events / "exposures").iterdir())) == 1
    journal.close()


def test_a_new_file_that_cannot_be_begun_loses_nothing(home, monkeypatch):
    monkeypatch.setattr(exposure_journal, "SEGMENT_BYTES", 100)
    journal = ExposureJournal(home)
    journal.append(replace(ROW, request_id="first"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", mock.Mock(side_effect=OSError(errno.ENOSPC, "full")))
        for name in ("second", "third"):
            journal.append(replace(ROW, request_id=name))
    journal.append(replace(ROW, request_id="fourth"))
    assert journal.drain() == 4
    assert sorted(rows_of(home)["request_id"]) == ["first", "fourth", "second", "third"]
    journal.close()
    assert list((home.events / "exposures").iterdir()) == []


def test_taking_a_row_takes_microseconds(home):
    journal = ExposureJournal(home)
    row = replace(ROW, items=[f"item-{n}" for n in range(10)], interests=[1] * 10)
    started = time.thread_time()
    for _ in range(500):
        journal.append(row)
    assert (time.thread_time() - started) / 500 < 0.0003
    journal.close()
