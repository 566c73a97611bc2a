"""What chaos.py proves it would not prove of a system that breaks its promises."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock, Mock

import psutil
import psycopg
import pytest

from benchmarks.hostile_day import injuries, report
from benchmarks.hostile_day.day import BrokenPromiseError, Day, Injury, Outcome, plan
from benchmarks.hostile_day.disk import Disk
from benchmarks.hostile_day.injuries import INJURIES
from benchmarks.hostile_day.journal import Journal, Request, Sent
from benchmarks.hostile_day.load import Load
from benchmarks.hostile_day.proof import (
    NOT_READY,
    Found,
    Window,
    events_in_log,
    events_in_rows,
    exposures_of_answers,
    moved_users,
    unexplained,
    wrong_versions,
)
from benchmarks.hostile_day.stage import Stage
from benchmarks.hostile_day.wire import Wire

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"
EVENTS = [Sent(f"e{n}", f"u{n % 2}", f"i{n}", "click", 100 + n) for n in range(6)]
ANSWER = Request(
    "recommendations", 1000.0, 0.1, 200, request_id="r1", user_id="u1", version="1", run_id="run1"
)
RUNS = {"1": "run1", "2": "run2", "3": "run3"}
VARIANTS = {"day/control": "1", "day/treatment": "2"}


@pytest.fixture
def journal():
    kept = Journal()
    kept.sent(EVENTS[:4], "acknowledged")
    kept.sent(EVENTS[4:5], "given up")
    kept.sent(EVENTS[5:], "refused")
    return kept


def wrong(found):
    return {name for name, one in found.items() if one.wrong}


def test_a_log_that_keeps_its_word_is_found_to(journal):
    journal.sent(EVENTS[:1], "given up")  # sent again: it stays acknowledged
    for logged in (EVENTS[:4], EVENTS[:5]):
        assert not wrong(events_in_log(journal, logged))


@pytest.mark.parametrize(
    ("logged", "broken"),
    [
        (EVENTS[1:4], {"lost"}),
        ([*EVENTS[:4], EVENTS[0]], {"doubled"}),
        ([replace(EVENTS[0], item_id="other"), *EVENTS[1:4]], {"altered"}),
        ([*EVENTS[:4], EVENTS[5]], {"strange"}),
        ([*EVENTS[:4], replace(EVENTS[0], event_id="nobody's")], {"strange"}),
    ],
)
def test_a_log_that_does_not_is_found_out(journal, logged, broken):
    assert wrong(events_in_log(journal, logged)) == broken


def test_rows_lack_nothing_and_have_nothing_twice():
    published = {"u0": Counter([("old", 1), ("old", 1)])}
    row = {"u0": [("old", 1), ("old", 1), ("i0", 100)], "u1": [("i1", 101)]}
    assert events_in_rows(published, EVENTS[:2], row) == ([], [], [])
    lost, doubled, disordered = events_in_rows(
        published, EVENTS[:3], {"u0": [("i2", 102), ("i2", 102), ("i0", 100), ("old", 1)]}
    )
    assert lost == ["u0 old 1", "u1 i1 101"]
    assert doubled == ["u0 i2 102"]
    assert disordered == ["u0"]


def test_a_user_in_two_variants_is_found_in_answers_and_in_exposures():
    one, other = replace(ANSWER, variant="day/control"), replace(ANSWER, variant="day/treatment")
    assert moved_users([one, one, ANSWER], [("u1", "control")], "day").wrong == 0
    assert moved_users([one, other], [], "day").wrong == 1
    assert moved_users([one], [("u1", "treatment")], "day").wrong == 1


@pytest.mark.parametrize(
    ("answer", "is_wrong"),
    [
        ({}, False),
        ({"version": "2", "run_id": "run2"}, True),  # not champion yet
        ({"run_id": "run2"}, True),  # says one version and is another
        ({"begun": 1200.0}, True),  # long after the switch
        ({"begun": 1110.0}, False),  # just after it
        ({"begun": 1200.0, "version": "2", "run_id": "run2"}, False),
        # Version 3 was champion for a while and cannot be loaded: the one before goes on.
        ({"begun": 1350.0, "version": "2", "run_id": "run2"}, False),
        ({"begun": 1350.0, "version": "3", "run_id": "run3"}, True),
        ({"variant": "day/treatment", "version": "2", "run_id": "run2"}, False),
        ({"variant": "day/treatment"}, True),
        ({"variant": "day/treatment", "degraded": NOT_READY}, False),
    ],
)
def test_an_answer_by_the_wrong_version_is_found(answer, is_wrong):
    moves = [(0.0, "1"), (1100.0, "2"), (1300.0, "3"), (1400.0, "2")]
    found = wrong_versions([replace(ANSWER, **answer)], moves, VARIANTS, RUNS, {"3"})
    assert bool(found.wrong) == is_wrong


def test_a_list_shown_that_is_not_in_the_exposure_log_is_found():
    visitor = replace(ANSWER, request_id="r2", user_id="")
    failed = replace(ANSWER, request_id="r3", status=503)
    assert not wrong(exposures_of_answers([ANSWER, visitor, failed], ["r1"]))
    assert wrong(exposures_of_answers([ANSWER], ["r0"])) == {"exposures_lost"}
    assert wrong(exposures_of_answers([ANSWER], ["r1", "r1"])) == {"exposures_doubled"}


def test_what_fails_while_nothing_is_broken_is_found():
    windows = [Window("store", 990.0, 1000.05)]
    failed = replace(ANSWER, status=0, problem="connection refused")
    assert unexplained([failed, ANSWER], windows).wrong == 0
    assert unexplained([replace(failed, begun=1001.0)], windows).wrong == 1
    assert unexplained([replace(ANSWER, begun=1001.0, degraded="late events")], windows).wrong == 1


def test_a_promise_over_nothing_is_not_kept(journal):
    nothing = events_in_log(Journal(), []) | exposures_of_answers([], [])
    nothing |= {"rows": Found.of("every click is in the rows of all 0 codebooks", 0, [])}
    assert not any(one.green for one in nothing.values())
    assert unexplained([ANSWER], []).green  # a day on which nothing fails is a good one
    day = {name: Found(name, 0, 5) for name in ("doubled", "rows_doubled")}
    day |= {name: Found(name, 0, 5) for name in ("lost", "moved_users", "wrong_version")}
    assert report.result([], journal, day | {"rows_lost": Found("rows", 0, 1)}, 1, 0)["green"]
    day["rows_lost"] = nothing["rows"]
    assert not report.result([], journal, day, 1, 0)["green"]
    said = report.report([], journal, day, 0.0, [])
    assert "RED   every click is in the rows of all 0 codebooks: 0 looked at" in said
    assert "red: 1 lines" in said


def test_a_whole_day_has_every_injury_once():
    schedule = plan(INJURIES, 600, random.Random(0))
    assert sorted(one.name for _, one in schedule) == sorted({one.name for one in INJURIES})
    assert all(one.limit > 0 and callable(one.inflict) for one in INJURIES)
    assert all(0 <= begins < 600 for begins, _ in schedule)


def test_a_schedule_is_its_seeds():
    some = [Injury(name, "", lambda day: "", 1) for name in ("a", "b", "rollback", "promotion")]
    first, again, other = (plan(some, 600, random.Random(seed)) for seed in (7, 7, 8))
    assert first == again != other
    for one in (first, other):
        times = [when for when, _ in one]
        assert times == sorted(times)
        names = [injury.name for _, injury in one]
        assert names.index("promotion") < names.index("rollback")
        assert times[-1] < 600


@pytest.mark.parametrize("names", [["disk ful"], ["disk full", "disk ful"]])
def test_an_injury_that_there_is_not_is_named(monkeypatch, capsys, names):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # which the script adds to
    monkeypatch.syspath_prepend(str(FOLDER))
    import chaos

    monkeypatch.setattr(sys, "argv", ["chaos.py", "--only", *names])
    with pytest.raises(SystemExit, match="2"):
        chaos.main()
    assert "no injury is called 'disk ful'; there are gateway killed, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("well", "broke", "lost", "is_green"),
    [(1020.0, "", 0, True), (1060.0, "", 0, False), (None, "", 0, False),
     (1020.0, "it lied", 0, False), (1020.0, "", 1, False)],
)  # fmt: skip
def test_one_red_line_makes_the_day_red(journal, well, broke, lost, is_green):
    outcome = Outcome(
        Injury("store", "", lambda day: "", 30), 990.0, 1000.0, well, "away", 30.0, broke
    )
    names = ("lost", "doubled", "rows_lost", "rows_doubled", "moved_users", "wrong_version")
    found = {name: Found(name, 0, 5) for name in names} | {"lost": Found("lost", lost, 5)}
    journal.note(ANSWER)
    journal.note(replace(ANSWER, status=503, problem="503 away"))
    values = report.result([outcome], journal, found, 600.0, 0)
    assert values["green"] == report.is_green([outcome], found) == is_green
    assert values["lost"] == lost
    assert values["failed_because"] == {"store": 1}
    assert values["recoveries"] == {"store": None if well is None else well - 1000.0}
    text = report.report([outcome], journal, found, 990.0, [])
    assert ("RED" in text) == (not is_green)
    assert "1 503 away" in text


@pytest.fixture
def echo():
    """A server that says what it is told; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with contextlib.suppress(OSError):
            while data := connection.recv(100):
                connection.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def test_a_wire_is_cut_and_goes_dead_and_is_mended(echo):
    wire = Wire(echo)

    def call():
        return socket.create_connection(("127.0.0.1", wire.port), timeout=0.5)

    with call() as one:
        one.sendall(b"one")
        assert one.recv(10) == b"one"
        wire.cut()
        with contextlib.suppress(ConnectionError):
            assert one.recv(10) == b""
    with pytest.raises(ConnectionRefusedError):
        call()
    wire.mend()
    with call() as one:
        one.sendall(b"two")
        assert one.recv(10) == b"two"
        wire.go_dead()
        one.sendall(b"three")
        with pytest.raises(TimeoutError):
            one.recv(10)
        wire.mend()
        assert one.recv(10) == b"three"
    wire.close()


def test_nothing_can_be_written_on_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.hostile_day.disk.SIZE", 2**21)
    with Disk(tmp_path / "disk") as disk:
        if not disk.mounted:
            pytest.skip("a file system cannot be mounted by this user")
        (disk.root / "others").write_bytes(b"1" * 4096)
        with disk.full([]):
            assert not disk.takes([])
            (disk.root / "others").unlink()  # who makes room for itself does not make it for all
            assert not disk.takes([])
            with pytest.raises(OSError, match="No space left"):
                (disk.root / "file").write_text("more")
        (disk.root / "file").write_text("again")


def test_a_disk_that_was_not_filled_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(Disk, "_filled", lambda disk: contextlib.nullcontext())
    with Disk(tmp_path / "disk") as disk:
        if not disk.mounted:
            pytest.skip("a file system cannot be mounted by this user")
        with disk.full([]):
            assert disk.takes([])


WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(line.strip(), "w") as file:
            file.write("more")
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_without_a_file_system_of_its_own_no_process_may_write(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:

        def write():
            writer.stdin.write(f"{tmp_path / 'file'}\n")
            writer.stdin.flush()
            return writer.stdout.readline().strip()

        disk = Disk(tmp_path)  # nothing is mounted
        process = psutil.Process(writer.pid)
        with disk.full([process]):
            assert not disk.takes([process])
            assert write() == "File too large"
        assert write() == "written"
        assert disk.takes([process])
        writer.stdin.close()
    assert not disk.takes([process])  # it has ended


@pytest.fixture
def day(tmp_path, journal, monkeypatch):
    """A day on a stage on which nothing that is done has any effect."""
    monkeypatch.setattr(injuries, "AWAY_SECONDS", 0.0)
    stage = Mock(services=("gateway",), **{"restarts.return_value": 0})
    stage.home.root = tmp_path
    stage.service.return_value.children.return_value = []
    stage.model_servers.return_value = [Mock()]
    stage.disk.full.return_value = contextlib.nullcontext()
    return Day(stage, Mock(), journal, random.Random(0))


@pytest.mark.parametrize(
    ("name", "there"),
    [("disk full", "disk.takes"), ("registry cut off", "registry_answers"),
     ("registry dead", "registry_answers")],
)  # fmt: skip
def test_what_was_to_be_away_and_was_not_is_found(day, name, there):
    injury = next(one for one in INJURIES if one.name == name)
    day.stage.configure_mock(**{f"{there}.return_value": False})
    assert injury.inflict(day).startswith("away ")
    if there == "registry_answers":
        assert not injury.well(day)  # it is away still
    day.stage.configure_mock(**{f"{there}.return_value": True})
    with pytest.raises(BrokenPromiseError, match="to be "):
        injury.inflict(day)
    assert injury.well(day)
    assert day.stage.wire.mend.call_count == (2 if there == "registry_answers" else 0)


@pytest.mark.parametrize(
    ("said", "answers"), [({"return_value": (1,)}, True), ({"return_value": None}, False),
                          ({"side_effect": psycopg.OperationalError("server closed")}, False)],
)  # fmt: skip
def test_a_registry_answers_if_it_can_be_asked(monkeypatch, said, answers):
    connection = MagicMock()
    connection.__enter__.return_value.execute.return_value.fetchone.configure_mock(**said)
    connect = Mock(return_value=connection)
    monkeypatch.setattr(psycopg, "connect", connect)
    assert Stage.registry_answers(Mock(registry="postgresql://host/feast")) is answers
    assert connect.call_args.args == ("postgresql://host/feast",)
    connect.side_effect = psycopg.OperationalError("connection refused")
    assert not Stage.registry_answers(Mock(registry="postgresql://host/feast"))


def test_served_files_have_to_be_what_they_were(day, tmp_path):
    injury = next(one for one in INJURIES if one.name == "damaged served files")
    weights = tmp_path / "served" / "hymirec-1" / "package" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(whole := b"weights")
    injury.inflict(day)
    assert weights.read_bytes() != whole
    day.stage.restarts.return_value = 1
    assert not injury.well(day)  # a server runs again, on what is damaged
    weights.unlink()
    assert not injury.well(day)
    weights.write_bytes(whole)
    assert injury.well(day)
    day.stage.restarts.return_value = 0
    assert not injury.well(day)  # nobody has started it again


def test_a_client_that_breaks_is_not_taken_for_one_that_rests():
    load = Load("http://127.0.0.1:9", ["u1"], [], Journal(), seed=0)  # there is nothing to click
    with load:
        for thread in load._threads:
            thread.join(10)
    assert load.broken
