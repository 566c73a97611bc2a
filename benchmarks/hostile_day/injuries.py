"""What goes wrong on a hostile day, and what happens on every ordinary one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import psutil
import requests

from benchmarks.hostile_day.artifacts import ARTIFACTS
from benchmarks.hostile_day.day import BrokenPromiseError, Day, Injury
from benchmarks.hostile_day.journal import Sent
from benchmarks.hostile_day.load import send
from benchmarks.hostile_day.stage import EXPERIMENT

AWAY_SECONDS = 8.0
"""That a store, a registry or the disk is away."""
FUTURE, AHEAD = 3600, 200
"""Seconds by which a clock is wrong: refused, and taken."""
ANCIENT = (0, 631_152_000, -86_400)
"""Times of 1970, 1990 and before, which are taken."""
REPLAYED = 300
YEAR_1000_BC = -93_692_592_000


def kill_gateway(day: Day) -> str:
    """End the gateway; its model servers end with it."""
    day.stage.service("gateway").kill()
    return "killed"


def kill_one_model_server(day: Day) -> str:
    """End one of the servers of the version that most are answered by."""
    servers = day.stage.model_servers(1)
    day.restarts = day.stage.restarts()
    day.rng.choice(servers).kill()
    return f"one of {len(servers)} of version 1 killed"


def kill_a_version(day: Day) -> str:
    """End all servers of one variant's version."""
    servers = day.stage.model_servers(2)
    day.restarts = day.stage.restarts()
    for one in servers:
        one.kill()
    return f"all {len(servers)} of version 2 killed"


def kill_all_model_servers(day: Day) -> str:
    """End every child of the gateway, the one that waits too."""
    children = day.stage.service("gateway").children()
    day.restarts = day.stage.restarts()
    for one in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    return f"all {len(children)} processes behind the gateway killed"


def kill_consumer(day: Day) -> str:
    """End the process that brings events into histories beside the gateway."""
    day.stage.consumer.kill()
    return "killed"


def kill_worker(day: Day) -> str:
    """End the worker that runs flows."""
    day.stage.service("worker").kill()
    return "killed"


def kill_prefect(day: Day) -> str:
    """End Prefect's server."""
    _kill_family(day.stage.service("prefect"))
    return "killed"


def kill_mlflow(day: Day) -> str:
    """End MLflow's server and its workers."""
    _kill_family(day.stage.service("mlflow"))
    return "killed"


def stop_redis(day: Day) -> str:
    """Kill the online store, and start it again after a while."""
    day.stage.redis.kill()
    time.sleep(AWAY_SECONDS)
    day.stage.redis.start()
    return _away(day, "features unavailable")


def stop_postgresql(day: Day) -> str:
    """Kill the database of log and registries, and start it again after a while."""
    day.stage.postgresql.kill()
    time.sleep(AWAY_SECONDS)
    day.stage.postgresql.start()
    return _away(day)


def cut_registry(day: Day) -> str:
    """Refuse all connections to the registries."""
    return _without_registry(day, day.stage.wire.cut)


def deaden_registry(day: Day) -> str:
    """Let connections to the registries hang."""
    return _without_registry(day, day.stage.wire.go_dead)


def _without_registry(day: Day, injure: Callable[[], None]) -> str:
    back = time.monotonic() + AWAY_SECONDS
    injure()
    try:
        if day.stage.registry_answers():
            raise BrokenPromiseError("the registry could be asked, though it was to be away")
        time.sleep(max(0.0, back - time.monotonic()))
    finally:
        day.stage.wire.mend()
    return _away(day)


def fill_disk(day: Day) -> str:
    """Let nobody write a byte in the home."""
    services = [day.stage.service(name) for name in day.stage.services]
    family = [one for each in services for one in (each, *each.children(recursive=True))]
    family.append(day.stage.consumer)
    with day.stage.disk.full(family):
        if day.stage.disk.takes(family):
            raise BrokenPromiseError("the home could be written to, though its disk was to be full")
        time.sleep(AWAY_SECONDS)
    return _away(day)


def skew_clock(day: Day) -> str:
    """Send events of wrong clocks: what is too far ahead is refused whole, the rest is taken."""
    now = int(time.time())
    refused = [
        [day.event(moment=now + FUTURE)],
        [day.event(), day.event(), day.event(moment=now + FUTURE)],
        [day.event(moment=now * 1000)],
        [day.event(moment=YEAR_1000_BC)],
    ]
    taken = [
        [day.event(moment=now + AHEAD) for _ in range(20)],
        [day.event(moment=moment) for moment in ANCIENT for _ in range(20)],
    ]
    with requests.Session() as session:
        for events in refused:
            if send(session, day.stage.url, events, day.journal):
                raise BrokenPromiseError(f"events of {events[-1].time} were acknowledged")
        for events in taken:
            if not send(session, day.stage.url, events, day.journal):
                raise BrokenPromiseError(f"events of {events[-1].time} were not acknowledged")
    return f"{len(refused)} requests refused whole, {sum(map(len, taken))} events taken"


def replay(day: Day) -> str:
    """Send old events again, some with another content under their id."""
    old = day.journal.acknowledged()
    again = day.rng.sample(old, min(REPLAYED, len(old)))
    forged = [
        Sent(one.event_id, one.user_id, day.rng.choice(day.load.items), one.kind, one.time - 1)
        for one in again[: len(again) // 10]
    ]
    told: list[dict[str, object]] = []
    with requests.Session() as session:
        for events in (again, forged):
            send(session, day.stage.url, events, day.journal, told.append)
    for events, answer in zip((again, forged), told, strict=True):
        if answer.get("duplicates") != len(events):
            raise BrokenPromiseError(f"{len(events)} old events were sent again: {answer}")
    return f"{len(again)} old events sent again, {len(forged)} of them with another content"


def promote(day: Day) -> str:
    """Make version 2 champion."""
    return _move_champion(day, "2")


def roll_back(day: Day) -> str:
    """Go back to the champion before."""
    return _move_champion(day, "")


def ramp(day: Day) -> str:
    """Let more users take part in the experiment."""
    from features.logs.experiments import ExperimentStore

    store = ExperimentStore(day.stage.home)
    try:
        stored = store.ramp(EXPERIMENT, reason="an ordinary day")
    finally:
        store.close()
    return f"{stored.share:.0%} of the traffic takes part"


def servers_restarted(day: Day) -> bool:
    """Whether the gateway has noticed that servers were lost, and started others."""
    return day.stage.restarts() > day.restarts


def registry_is_back(day: Day) -> bool:
    """Whether the registry answers again, so that it was the injury that kept it from that."""
    return day.stage.registry_answers()


def a_flow_runs(day: Day) -> bool:
    """Whether a run that began after the injury has come to its end."""
    return day.stage.flow_completed(day.since)


def _move_champion(day: Day, version: str) -> str:
    from features.logs.audit_log import PROMOTION
    from flows.registry.aliases import Aliases

    aliases = Aliases(day.stage.home)
    try:
        if version:
            aliases.move("champion", version, PROMOTION, reason="an ordinary day")
        else:
            version = aliases.rollback("an ordinary day").after
    finally:
        aliases.log.close()
    seconds = day.stage.until(
        f"version {version} answers",
        lambda: day.stage.version().get("model_version") == version, 60,
    )  # fmt: skip
    return f"version {version} answers after {seconds:.1f} s"


def _away(day: Day, *needed: str) -> str:
    """What became of requests meanwhile, in a line.

    Raises:
        BrokenPromiseError: none was marked as it has to be.
    """
    asked = [one for one in day.journal.since(day.since) if one.kind == "recommendations"]
    marks = {one.degraded for one in asked if one.degraded}
    for mark in needed:
        if mark not in marks:
            raise BrokenPromiseError(f"no answer was marked {mark!r}, though the store was away")
    failed = sum(one.failed for one in asked)
    degraded = sum(bool(one.degraded) for one in asked)
    named = ", ".join(sorted(marks)) or "none"
    asks = f"{len(asked)} asked, {failed} failed, {degraded} degraded ({named})"
    return f"away {AWAY_SECONDS:g} s: {asks}"


def _kill_family(process: psutil.Process) -> None:
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


INJURIES: tuple[Injury, ...] = (
    Injury("gateway killed", "kill -9 of the gateway", kill_gateway, 60),
    Injury("model server killed", "kill -9 of one of a version's two", kill_one_model_server, 45,
           well=servers_restarted),
    Injury("version killed", "kill -9 of all model servers of one variant", kill_a_version, 60,
           well=servers_restarted),
    Injury("all model servers killed", "kill -9 of all, the one that waits too",
           kill_all_model_servers, 90, quick=False, well=servers_restarted),
    Injury("consumer killed", "kill -9 of `hymirec events follow`", kill_consumer, 45),
    Injury("worker killed", "kill -9 of Prefect's worker", kill_worker, 240, quick=False,
           well=a_flow_runs),
    Injury("Prefect killed", "kill -9 of Prefect's server", kill_prefect, 240, quick=False,
           well=a_flow_runs),
    Injury("MLflow killed", "kill -9 of MLflow's server", kill_mlflow, 90, quick=False),
    Injury("Redis stopped", "kill -9, started again", stop_redis, 30),
    Injury("PostgreSQL stopped", "kill -9, started again", stop_postgresql, 60),
    Injury("disk full", "no byte can be written in the home", fill_disk, 60),
    Injury("clock skewed", "events of the future, of long ago, in milliseconds", skew_clock, 30),
    Injury("registry cut off", "connections to both registries refused", cut_registry, 30,
           well=registry_is_back),
    Injury("registry dead", "connections to both registries hang", deaden_registry, 45,
           well=registry_is_back),
    Injury("events replayed", "old events again, and others under their ids", replay, 30),
    Injury("promotion", "version 2 becomes champion", promote, 30),
    Injury("rollback", "and version 1 again", roll_back, 30),
    Injury("ramp", "the experiment goes from half to all of its traffic", ramp, 30),
    *ARTIFACTS,
)  # fmt: skip
"""In no order; chance makes one."""
