"""Which version answers: real processes, that are told what to answer."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hymirec.errors import HymirecError
from serving.dispatch import Called, Dispatcher, LostError, RefusedError, UnavailableError


async def until(condition, seconds=10.0):
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        await asyncio.sleep(0.01)


async def answered_by(fleet, user="u1"):
    return (await fleet.champion.ask({"user_id": user}))["model_version"]


def test_a_moved_alias_moves_what_answers_and_the_way_back_is_there(registry, make_fleet):
    async def scenario():
        async with make_fleet() as fleet:
            assert await answered_by(fleet) == "1"
            registry.champion = registry.make(2)
            await until(lambda: fleet.champion.info.version == 2)
            assert await answered_by(fleet) == "2"
            assert fleet.previous.info.version == 1
            before = fleet.previous.pids
            assert len(before) == 1
            registry.champion = 1
            await until(lambda: fleet.champion.info.version == 1)
            assert fleet.champion.pids == before
            assert await answered_by(fleet) == "1"
            assert fleet.switches == 2

    asyncio.run(scenario())


def test_a_word_from_another_thread_makes_it_look_at_once(registry, make_fleet, monkeypatch):
    monkeypatch.setattr("serving.fleet.LOOK_SECONDS", 60.0)

    async def scenario():
        loop, looked = asyncio.get_running_loop(), asyncio.Event()
        fleet = make_fleet()
        fleet.on_move = lambda: loop.call_soon_threadsafe(looked.set)
        async with fleet:
            # Nothing else wakes the loop meanwhile.
            threading.Timer(0.2, fleet.look_now).start()
            await asyncio.wait_for(looked.wait(), 5)
        fleet.look_now()  # in vain, and no error

    asyncio.run(scenario())


def test_ten_switches_under_load_fail_nobody(registry, make_fleet):
    async def scenario():
        registry.make(2, seconds=0.005)
        answers, done = [], False

        async def ask(fleet):
            while not done:
                champion = fleet.champion
                got = await champion.ask({"user_id": "u1"})
                answers.append((str(champion.info.version), got["model_version"]))

        async with make_fleet(replicas=2) as fleet:
            clients = [asyncio.create_task(ask(fleet)) for _ in range(8)]
            for target in [2, 1] * 5:
                registry.champion = target
                await until(lambda target=target: fleet.champion.info.version == target)
                await asyncio.sleep(0.02)
            done = True
            await asyncio.gather(*clients)
            assert fleet.switches == 10
        assert {asked for asked, _ in answers} == {"1", "2"}
        assert all(asked == got for asked, got in answers)

    asyncio.run(scenario())


def test_the_version_before_the_previous_is_stopped(registry, make_fleet):
    async def scenario():
        async with make_fleet() as fleet:
            (first,) = fleet.champion.pids
            for version in (2, 3):
                registry.champion = registry.make(version)
                await until(lambda version=version: fleet.champion.info.version == version)
            await until(lambda: registry.forgotten == [1])
            assert set(fleet.versions) == {2, 3}
            assert not Path(f"/proc/{first}").exists() or gone(first)

    asyncio.run(scenario())


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_server_is_started_again_and_its_twin_answers_meanwhile(registry, make_fleet):
    async def scenario():
        async with make_fleet(replicas=2) as fleet:
            await until(lambda: fleet.champion.num_ready == 2)
            killed, twin = fleet.champion.pids
            os.kill(killed, signal.SIGKILL)
            # Whoever was to be answered by it is answered by the other.
            answers = await asyncio.gather(*(answered_by(fleet) for _ in range(20)))
            assert answers == ["1"] * 20
            await until(lambda: fleet.champion.num_ready == 2 and killed not in fleet.champion.pids)
            assert twin in fleet.champion.pids
            assert fleet.champion.restarts == 1

    asyncio.run(scenario())


def test_what_a_lost_server_was_asked_is_asked_of_its_twin(registry, make_fleet):
    async def scenario():
        registry.champion = registry.make(2, seconds=0.3)
        async with make_fleet(replicas=2) as fleet:
            await until(lambda: fleet.champion.num_ready == 2)
            asked = [asyncio.create_task(answered_by(fleet)) for _ in range(2)]
            await asyncio.sleep(0.1)  # one is with each
            os.kill(fleet.champion.pids[0], signal.SIGKILL)
            assert await asyncio.gather(*asked) == ["2", "2"]

    asyncio.run(scenario())


def test_without_any_server_nobody_waits(registry, make_fleet):
    async def scenario():
        registry.champion = registry.make(2, seconds=0.3)
        async with make_fleet() as fleet:
            asked = asyncio.create_task(answered_by(fleet))
            await asyncio.sleep(0.1)
            os.kill(fleet.champion.pids[0], signal.SIGKILL)
            with pytest.raises(UnavailableError):
                await asked

    asyncio.run(scenario())


class Scripted:
    """A caller that does as it is told: an answer, an error, or nothing for ever."""

    def __init__(self, *script):
        self.script = list(script)

    async def invoke(self, records):
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is None:
            await asyncio.Event().wait()
        return Called([{} for _ in records], 0.0)


@pytest.mark.parametrize("end", [LostError("gone"), None])
def test_nobody_is_forgotten_when_a_server_is_lost_while_a_refusal_is_looked_into(end):
    async def scenario():
        dispatcher = Dispatcher()
        caller = Scripted(RefusedError("one of them"), "answer", end)
        working = asyncio.create_task(dispatcher.work(caller, asyncio.Event()))
        await asyncio.sleep(0)
        asked = [asyncio.create_task(dispatcher.ask({"user_id": user})) for user in "abc"]
        await until(lambda: not caller.script)
        working.cancel()  # as when its process is seen to have ended
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [type(one) for one in found] == [dict, UnavailableError, UnavailableError]
        assert dispatcher.idle
        with pytest.raises((LostError, asyncio.CancelledError)):
            await working

    asyncio.run(scenario())


@pytest.mark.parametrize("turns", range(6))
def test_nobody_is_forgotten_who_comes_as_a_server_is_lost(turns):
    async def scenario():
        dispatcher = Dispatcher()
        working = asyncio.create_task(dispatcher.work(Scripted(), asyncio.Event()))
        await asyncio.sleep(0)
        asked = asyncio.create_task(dispatcher.ask({"user_id": "a"}))
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(UnavailableError):
            await asyncio.wait_for(asked, 2)
        with pytest.raises(asyncio.CancelledError):
            await working

    asyncio.run(scenario())


def test_a_loop_that_ends_leaves_no_caller_behind():
    async def scenario():
        dispatcher = Dispatcher()
        working = asyncio.create_task(dispatcher.work(Scripted(), asyncio.Event()))
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task(), working}:
            task.cancel()  # what it waits for, as when all tasks are cancelled
        with pytest.raises(asyncio.CancelledError):
            await working
        assert dispatcher.callers == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("told", "problem"),
    [
        ({"stops": "hymirec.errors.VersionError: codebook 1 is not published"}, "not published"),
        ({"version": "7"}, "answers with model_version '7'"),
        ({"codebook": "other"}, "answers with codebook_id 'other'"),
        ({"refuses": "u1"}, "answers 400 to the version's own example"),
        ({"mute": True}, "its answers cannot be used: IndexError"),
    ],
)
def test_a_version_that_is_not_fit_never_answers(registry, make_fleet, told, problem):
    async def scenario():
        async with make_fleet() as fleet:
            registry.make(2, **told)
            registry.champion = 2
            await until(lambda: 2 in fleet.versions and problem in fleet.versions[2].problem)
            assert await answered_by(fleet) == "1"
            assert fleet.switches == 0
            registry.champion = 1
            await until(lambda: set(fleet.versions) == {1})

    asyncio.run(scenario())


def test_a_version_that_never_comes_up_leaves_one_log(registry, make_fleet, monkeypatch):
    monkeypatch.setattr("serving.versions.LONGEST_PAUSE", 0.01)
    logs = registry.home.root / "logs"

    async def scenario():
        async with make_fleet() as fleet:
            await until(lambda: len(list(logs.iterdir())) == 1)  # of the champion
            registry.champion = registry.make(2, stops="hymirec.errors.VersionError: no codebook")
            await until(lambda: 2 in fleet.versions and fleet.versions[2].restarts >= 3)
            # That of the champion, that which the problem names, and one of a try that goes on.
            assert len(list(logs.iterdir())) <= 3
            problem = fleet.versions[2].problem
            assert "no codebook" in Path(problem.partition("(log: ")[2].rstrip(")")).read_text()
            assert await answered_by(fleet) == "1"
        assert len(list(logs.iterdir())) <= 1  # the last, for who looks

    asyncio.run(scenario())


def test_a_registry_that_is_away_changes_nothing(registry, make_fleet, caplog):
    async def scenario():
        async with make_fleet() as fleet:
            registry.champion = 0
            await until(lambda: "version 1 goes on" in caplog.text)
            assert await answered_by(fleet) == "1"
            registry.champion = registry.make(2)
            await until(lambda: fleet.champion.info.version == 2)

    asyncio.run(scenario())


def test_a_first_version_that_does_not_come_up_is_said_in_one_line(registry, make_fleet):
    async def scenario():
        registry.champion = registry.make(2, stops="hymirec.errors.VersionError: no codebook")
        async with make_fleet():
            pass

    with pytest.raises(HymirecError, match=r"version 2 cannot be served: .*: no codebook \(log: "):
        asyncio.run(scenario())


def test_versions_of_a_rollout_are_ready_beside_the_champion(registry, make_fleet):
    class Two:
        wanted = (2,)

        def versions(self):
            return self.wanted

    async def scenario():
        registry.make(2)
        rollout = Two()
        async with make_fleet(rollout) as fleet:
            assert fleet.served(2) is None
            await until(lambda: fleet.served(2) is not None)
            assert (await fleet.served(2).ask({"user_id": "u1"}))["model_version"] == "2"
            assert fleet.served(None) is fleet.champion
            rollout.wanted = (9,)  # there is none
            await until(lambda: fleet.served(2) is None)
            assert await answered_by(fleet) == "1"
            registry.champion = 8  # nor this, and it keeps nobody else waiting
            rollout.wanted = (2,)
            await until(lambda: fleet.served(2) is not None)
            assert await answered_by(fleet) == "1"

    asyncio.run(scenario())


def test_a_challenger_is_ready_before_it_is_promoted(registry, make_fleet):
    async def scenario():
        async with make_fleet(replicas=2) as fleet:
            registry.others = {"challenger": registry.make(2), "previous": 9}
            await until(lambda: fleet.served(2) is not None)
            assert fleet.versions[2].wanted == 1
            (pid,) = fleet.served(2).pids
            registry.champion = 2
            await until(lambda: fleet.champion.info.version == 2)
            assert pid in fleet.champion.pids
            await until(lambda: fleet.champion.num_ready == 2)

    asyncio.run(scenario())


def test_servers_end_with_a_gateway_that_is_killed(home, registry):
    code = (
        "import sys, time; from pathlib import Path; import serving.server as s\n"
        "from hymirec.home import Home\n"
        f"s.STANDBY = Path({str(Path(__file__).with_name('fake_model_server.py'))!r})\n"
        f"process = s.ModelProcess(Home.at({str(home.root)!r}))\n"
        f"process.serve(Path({str(registry.fetch(1))!r}))\n"
        "print(process.pid, flush=True); time.sleep(60)\n"
    )
    gateway = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    server = int(gateway.stdout.readline())
    gateway.kill()
    gateway.wait()
    deadline = time.monotonic() + 10
    while not gone(server) and Path(f"/proc/{server}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
