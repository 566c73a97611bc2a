"""The audit log: in order, for ever. Runs on PostgreSQL too where it is there."""

import multiprocessing
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from features.logs import audit_log
from features.logs.audit_log import FORCED, NOTICED, PROMOTION, REFUSAL, ROLLBACK, AuditLog
from features.logs.event_log import Event, EventLog
from hymirec.errors import HymirecError
from hymirec.home import Home

CHAMPION = "hymirec@champion"


@pytest.fixture
def log(tmp_path, place):
    log = AuditLog(Home.at(tmp_path))
    yield log
    log.close()


def test_entries_come_back_as_they_were(log, monkeypatch):
    monkeypatch.setenv("HYMIREC_ACTOR", "ci job 7")
    before = datetime.now(UTC)
    evidence = {"verdict": "pass", "report": "runs:/1/gate/report.html", "R@10": 0.25}
    first = log.record(PROMOTION, CHAMPION, after="1", reason="größer", evidence=evidence)
    second = log.record(REFUSAL, CHAMPION, before="1", after="2", actor="ana")
    assert log.read() == [first, second]
    assert (first.position, first.kind, first.subject) == (1, PROMOTION, CHAMPION)
    assert (first.actor, first.before, first.after) == ("ci job 7", "", "1")
    assert (first.reason, first.evidence) == ("größer", evidence)
    assert before <= first.time <= second.time <= datetime.now(UTC)
    assert second.actor == "ana"
    assert first.to_json()["time"].endswith("+00:00")


def test_it_shares_the_event_logs_database(log):
    events = EventLog(Home.at(log._database._home.root))
    events.append([Event("e1", "u", "i", "click", 1)])
    log.record(PROMOTION, CHAMPION, after="1")
    assert events.end == 1
    assert len(log.read()) == 1
    assert log._database.engine.url == events._database.engine.url
    events.close()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET reason = 'another'",
        "DELETE FROM audit",
        "REPLACE INTO audit SELECT position, 0, 'x', 'x', 'x', 'x', 'x', 'x', '{}' FROM audit",
        "TRUNCATE audit",
    ],
)
def test_nobody_changes_what_was_written(log, change):
    is_sqlite = log._database.is_sqlite
    if change.startswith("TRUNCATE" if is_sqlite else "REPLACE"):
        pytest.skip("not said so by this database")
    entry = log.record(PROMOTION, CHAMPION, after="1")
    with (
        pytest.raises(DBAPIError, match="the audit log is append-only"),
        log._database.engine.begin() as connection,
    ):
        connection.execute(text(change))
    assert log.read() == [entry]


def test_pages_follow_one_another(log):
    for number in range(7):
        log.record(PROMOTION if number % 2 else REFUSAL, CHAMPION, after=str(number))
    log.record(PROMOTION, "another", after="x")
    assert [one.after for one in log.read(limit=3)] == ["0", "1", "2"]
    assert [one.after for one in log.read(after=3, limit=3)] == ["3", "4", "5"]
    newest = log.read(newest_first=True, limit=2)
    assert [one.after for one in newest] == ["x", "6"]
    older = log.read(newest_first=True, limit=2, before=newest[-1].position)
    assert [one.after for one in older] == ["5", "4"]
    some = log.read(subject=CHAMPION, kinds=[PROMOTION])
    assert [one.after for one in some] == ["1", "3", "5"]


def test_what_was_champion_at_a_time(log):
    assert log.as_of(CHAMPION, datetime.now(UTC)) is None
    moves = [
        log.record(kind, CHAMPION, after=after)
        for kind, after in [
            (PROMOTION, "1"), (REFUSAL, "2"), (FORCED, "2"), (ROLLBACK, "1"), (NOTICED, "3"),
        ]
        if not time.sleep(0.002)
    ]  # fmt: skip
    log.record(PROMOTION, "another", after="9")
    tick = timedelta(microseconds=1)
    states = [getattr(log.as_of(CHAMPION, one.time), "after", None) for one in moves]
    assert states == ["1", "1", "2", "1", "3"]
    assert log.as_of(CHAMPION, moves[2].time - tick).after == "1"
    assert log.as_of(CHAMPION, moves[0].time - tick) is None
    elsewhere = moves[3].time.astimezone(datetime.strptime("+0530", "%z").tzinfo)
    assert log.as_of(CHAMPION, elsewhere).after == "1"
    assert log.state(CHAMPION) == "3"
    assert log.state("nothing") == ""


def test_a_clock_set_back_changes_no_order(log, monkeypatch):
    first = log.record(PROMOTION, CHAMPION, after="1")
    monkeypatch.setattr(audit_log.time, "time_ns", lambda: 1_000_000_000)
    second = log.record(PROMOTION, CHAMPION, after="2")
    assert second.time == first.time
    assert log.as_of(CHAMPION, first.time).after == "2"


def test_moves_by_others_are_noticed_once(log):
    assert log.notice(CHAMPION, lambda: "") is None
    begun = log.notice(CHAMPION, lambda: "1")
    assert (begun.kind, begun.before, begun.after) == (NOTICED, "", "1")
    assert begun.reason == "found so when this log began"
    assert log.notice(CHAMPION, lambda: "1") is None
    moved = log.notice(CHAMPION, lambda: "2")
    assert (moved.before, moved.after, moved.actor) == ("1", "2", "unknown")
    assert moved.reason == "moved by other means"
    gone = log.notice(CHAMPION, lambda: "")
    assert (gone.before, gone.after) == ("2", "")
    assert len(log.read()) == 3


def test_an_unwritable_log_is_one_line(log):
    with log._database.engine.begin() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO hidden"))
    with pytest.raises(HymirecError, match=r"^audit log .* cannot be used: [^\n]*audit[^\n]*$"):
        log.record(PROMOTION, CHAMPION, after="1")


def _move_many(home, name, started):
    log = AuditLog(home)
    started.wait()
    for number in range(20):
        with log.moving():
            log.record(PROMOTION, CHAMPION, before=log.state(CHAMPION), after=f"{name}{number}")


def test_processes_take_turns(tmp_path, place):
    home = Home.at(tmp_path)
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(2)
    movers = [context.Process(target=_move_many, args=(home, name, started)) for name in "ab"]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join(60)
        assert mover.exitcode == 0
    log = AuditLog(home)
    found = log.read()
    assert len(found) == 40
    assert [one.before for one in found[1:]] == [one.after for one in found[:-1]]
    log.close()
