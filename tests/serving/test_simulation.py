"""A short simulation through the gateway, with a registry that stands in for MLflow's."""

import asyncio
import json
from dataclasses import replace

import pytest

import serving.simulation.run as module
from features.logs.experiments import ExperimentStore
from features.logs.exposures import ExposureLog
from features.logs.readouts import ReadoutMaker
from hymirec.abtest.decisions import decide
from hymirec.simulation.crowd import Crowd
from hymirec.simulation.recommender import SimulatedRecommender
from hymirec.simulation.scenarios import NAME, SCENARIOS
from serving.registry import VersionInfo
from serving.simulation.report import report
from serving.simulation.run import Simulation


class StandIn:
    """The two versions of a scenario; 1 is champion until another is."""

    name = "hymirec"
    champion = 1

    def __init__(self, home, crowd, scenario):
        self.home = home
        for number, skill in enumerate((scenario.champion, scenario.challenger), start=1):
            inner = self.fetch(number) / "artifacts" / "recommender"
            SimulatedRecommender(crowd, skill).save(inner)
            (inner / "marks.json").write_text(json.dumps({"run_id": "", "codebook_id": "book"}))
            meta = {"model_version": number}
            (self.fetch(number) / "registered_model_meta").write_text(json.dumps(meta))
            example = {"inputs": [{"user_id": ""}]}
            place = self.fetch(number) / "serving_input_example.json"
            place.write_text(json.dumps(example))

    def resolve(self, alias):
        return self.champion

    def aliases(self):
        return {"champion": self.champion}

    def info(self, version):
        return VersionInfo(version, "", "book")

    def fetch(self, version):
        return self.home.root / "served" / f"hymirec-{version}"

    def forget(self, version):
        pass


@pytest.fixture
def simulate(home, monkeypatch):
    """Run a scenario with changes; readouts as the flow has them, without the flow."""

    def run(name, *, num_users, restart_on_day=None, **changes):
        scenario = replace(SCENARIOS[name], num_users=num_users, **changes)
        crowd = Crowd.make(num_users)
        registry = StandIn(home, crowd, scenario)
        monkeypatch.setattr(module, "Registry", lambda home, name: registry)

        def read_out(experiment, clock):
            store, maker = ExperimentStore(home, clock=clock), ReadoutMaker(home)
            stored = store.get(experiment)
            readout = maker.read(stored, clock())
            found = decide(stored.experiment, stored.progress, readout)
            if found.action == "ramp":
                stored = store.ramp(experiment, reason=found.reason)
            elif found.action == "pause":
                stored = store.pause(experiment, reason=found.reason)
            elif found.action == "roll_back":
                stored = store.end(experiment, "rolled_back", reason=found.reason)
            elif found.action == "conclude":
                stored = store.end(
                    experiment, "concluded", reason=found.reason, winner=found.winner
                )
                registry.champion = 2
            for one in (store, maker):
                one.close()
            return {"state": stored.state, "action": found.action, "reason": found.reason,
                    "readout": readout.to_json()}  # fmt: skip

        simulation = Simulation(
            home, crowd, scenario, "ab", model="hymirec", alias="champion", read_out=read_out,
            restart_on_day=restart_on_day,
        )  # fmt: skip
        store = ExperimentStore(home, clock=simulation.calendar)
        store.create(scenario.experiment("ab"))
        store.start(NAME, {"control": 1, "challenger": 2})
        stored = asyncio.run(simulation.run())
        store.close()
        return simulation, report(simulation, stored)

    return run


def test_a_restart_in_the_middle_loses_no_exposure_and_moves_nobody(simulate, home):
    simulation, found = simulate(
        "equal", num_users=120, days=2, ramp=((1.0, 40),), restart_on_day=1.0
    )
    assert found["verdict"] == "held"
    assert len(simulation.readings) == 4
    assert (found["lost_exposures"], found["moved_users"]) == (0, 0)
    log = ExposureLog(home)
    assert log.count(NAME) == len(simulation.seen.answered) == found["lists"]
    times = log.of_experiment(NAME)["time"]
    log.close()
    assert times.max() - times.min() == pytest.approx(1.5 * 86_400)  # by the simulated calendar


def test_a_broken_splitter_is_paused(simulate):
    _, found = simulate("skewed", num_users=300, days=1, ramp=((1.0, 300),), misrouted=0.9)
    assert found["verdict"] == "paused"
    assert "sample-ratio mismatch" in found["reason"]


def test_a_version_that_fails_is_rolled_back(simulate):
    _, found = simulate("broken", num_users=300, days=1, ramp=((1.0, 1000),))
    assert found["verdict"] == "rolled_back"
    assert "guardrail error_rate is broken" in found["reason"]
    assert found["champion"] == "1"
