"""What the rules make of planted effects, and how seldom they are fooled by none."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hymirec.abtest.decisions import Progress, _says, decide, doubts
from hymirec.abtest.interleaving import Preference
from hymirec.abtest.readout import read_out

NOW = 1_000_000.0
DAY = 86_400
LAST = 2


@pytest.fixture
def decided(an_experiment, two_variants):
    def decide_on(step=LAST, count=2000, experiment=None, since=NOW - DAY, table=None, **treatment):
        experiment = experiment or an_experiment()
        if table is None:
            table = two_variants(np.random.default_rng(0), count, **treatment)
        readout = read_out(experiment, table, time=NOW, share=experiment.ramp[step].share)
        return decide(experiment, Progress(step, NOW - 2 * DAY, since), readout), readout

    return decide_on


def test_a_better_variant_wins(decided):
    decision, readout = decided(lift=0.3)
    assert (decision.action, decision.winner) == ("conclude", "longer")
    assert "longer is better in click_through: +" in decision.reason
    assert {one.state for one in readout.guardrails} == {"held"}
    assert {one.segment for one in readout.segments} >= {"new users", "short histories"}


def test_an_equal_one_is_held(decided):
    decision, _ = decided()
    assert (decision.action, decision.reason) == ("hold", "not conclusive yet")


def test_a_worse_one_is_rolled_back(decided):
    decision, _ = decided(step=1, lift=-0.4)
    assert decision.action == "roll_back"
    assert "longer is worse in click_through" in decision.reason


def test_a_difference_without_a_lift_comes_with_its_interval(decided):
    _, readout = decided(lift=0.3)
    one = replace(readout.primary[0], lift=None, difference=0.5, interval=(0.25, 0.75))
    assert _says(one, "is better") == "longer is better in click_through: +0.5 (+0.25 to +0.75)"


def test_samples_enough_and_nothing_broken_ramp(decided):
    decision, _ = decided(step=0, count=120)
    assert decision.action == "ramp"
    assert "on to 0.2" in decision.reason
    decision, _ = decided(step=0, count=60)
    assert (decision.action, decision.reason) == ("hold", "60 of 100 users of each variant")


def test_a_step_takes_its_time(decided, an_experiment, declared):
    ramp = [declared["ramp"][0] | {"min_hours": 48}, *declared["ramp"][1:]]
    decision, _ = decided(step=0, count=120, experiment=an_experiment(ramp=ramp))
    assert (decision.action, decision.reason) == ("hold", "24.0 of 48 hours at 0.01")


def test_a_better_variant_that_fails_is_rolled_back(decided):
    decision, _ = decided(lift=0.5, error_rate=0.2)
    assert decision.action == "roll_back"
    assert decision.reason.startswith("guardrail error_rate is broken: longer 0.")
    assert decision.evidence["guardrails"][0]["state"] == "broken"


def test_a_guardrail_that_nothing_is_logged_of_is_not_held(decided, an_experiment, two_variants):
    table = two_variants(np.random.default_rng(0), 2000, lift=0.3).assign(converted=0)
    experiment = an_experiment(guardrails=[{"metric": "converters", "relative": 0.1}])
    decision, readout = decided(experiment=experiment, table=table)
    assert (decision.action, readout.guardrails[0].state) == ("hold", "open")
    said = ["guardrail converters of longer is not settled"]
    assert doubts(experiment, readout, "longer") == said


def test_a_guardrail_that_is_open_keeps_a_winner_waiting(decided, an_experiment):
    experiment = an_experiment(guardrails=[{"metric": "pass_through", "absolute": 1e-6}])
    decision, readout = decided(lift=0.3, experiment=experiment)
    assert readout.guardrails[0].state == "open"
    assert decision.action == "hold"
    assert "guardrails not settled: pass_through" in decision.reason


def test_a_broken_splitter_pauses(decided, some_users):
    rng = np.random.default_rng(0)
    table = pd.concat([some_users(rng, 1000), some_users(rng, 1400, "longer", lift=0.5)])
    decision, _ = decided(table=table)
    assert decision.action == "pause"
    assert "users assigned are control 1000, longer 1400" in decision.reason


def test_lists_that_do_not_come_pause_too(decided, two_variants):
    table = two_variants(np.random.default_rng(0), 2000)
    hidden = (table.variant == "longer") & (np.arange(len(table)) % 4 == 0)
    decision, _ = decided(table=table.assign(first_exposure=table.first_exposure.mask(hidden)))
    assert decision.action == "pause"
    assert "users shown lists are control 2000, longer 1500" in decision.reason


def test_crossovers_pause(an_experiment, two_variants):
    table = two_variants(np.random.default_rng(0))
    experiment = an_experiment()
    progress = Progress(LAST, NOW - DAY, NOW - DAY)
    some = read_out(experiment, table, time=NOW, share=1.0, crossovers=10)
    assert decide(experiment, progress, some).action == "hold"
    assert some.warnings == ["10 users (0.50%) were seen in two variants and are left out"]
    many = read_out(experiment, table, time=NOW, share=1.0, crossovers=100)
    assert decide(experiment, progress, many).action == "pause"
    shadow = an_experiment(mode="shadow", guardrails=[])
    many = read_out(shadow, table, time=NOW, share=1.0, crossovers=100)
    assert decide(shadow, progress, many).action == "pause"


@pytest.mark.parametrize("mode", ["shadow", "interleaving"])
def test_shadow_and_interleaving_ramp_once_a_step_has_its_users(an_experiment, two_variants, mode):
    """They stayed at the first step's share for good."""
    experiment = an_experiment(mode=mode, guardrails=[])
    table = two_variants(np.random.default_rng(0), 120)
    steps = experiment.ramp
    assert steps[0].min_users <= 120 < steps[1].min_users
    readout = read_out(experiment, table, time=NOW, share=steps[0].share)
    first = decide(experiment, Progress(0, NOW - DAY, NOW - DAY), readout)
    assert (first.action, first.reason.endswith(f"on to {steps[1].share:.4g}")) == ("ramp", True)
    for step in (1, len(steps) - 1):
        held = decide(experiment, Progress(step, NOW - DAY, NOW - DAY), readout)
        assert held.action == "hold"


def test_a_preferred_version_wins_on_any_step(an_experiment, two_variants):
    mixed = an_experiment(mode="interleaving", guardrails=[])
    readout = read_out(mixed, two_variants(np.random.default_rng(0), 120), time=NOW, share=0.1)
    found = Preference(90, (50, 40), 0.2, (0.1, 0.3), 0.01, 0.01)
    decision = decide(mixed, Progress(0, NOW - DAY, NOW - DAY), replace(readout, preference=found))
    assert (decision.action, decision.winner) == ("conclude", "longer")


def test_nobody_yet_is_no_news(decided, two_variants):
    table = two_variants(np.random.default_rng(0), 10).iloc[:0]
    decision, readout = decided(step=0, table=table)
    assert (decision.action, readout.primary) == ("hold", [])


def test_the_horizon_ends_the_waiting(decided, an_experiment):
    short = an_experiment(horizon={"days": 1})
    decision, _ = decided(experiment=short)
    assert decision.action == "hold"
    assert decision.reason.startswith("inconclusive at the horizon")
    decision, _ = decided(step=0, count=60, experiment=short)
    assert "the horizon is reached with 60 of 100 users" in decision.reason


def test_of_two_that_are_better_the_best_wins(an_experiment, some_users):
    experiment = an_experiment(
        variants=[
            {"name": "control", "model": "champion"},
            {"name": "longer", "model": 8},
            {"name": "wider", "model": 9},
        ]
    )
    rng = np.random.default_rng(0)
    table = pd.concat(
        [
            some_users(rng, 2000),
            some_users(rng, 2000, "longer", lift=0.4),
            some_users(rng, 2000, "wider", lift=0.8),
        ]
    )
    readout = read_out(experiment, table, time=NOW, share=1.0)
    decision = decide(experiment, Progress(LAST, NOW - DAY, NOW - DAY), readout)
    assert (decision.action, decision.winner) == ("conclude", "wider")
    assert len(readout.guardrails) == 4


def test_a_winner_that_the_numbers_support_is_not_doubted(decided, an_experiment):
    experiment = an_experiment()
    assert doubts(experiment, decided(lift=0.3)[1], "longer") == []
    for lift in (0.0, -0.4):  # nothing has to be better for all to stay as it is
        assert doubts(experiment, decided(lift=lift)[1], "control") == []


@pytest.mark.parametrize(
    ("planted", "winner", "says"),
    [
        ({}, "longer", ["longer is not surely better in click_through: "]),
        ({"lift": -0.4}, "longer", ["longer is worse in click_through: -"]),
        ({"lift": 0.3}, "control", ["longer is better in click_through: +"]),
        ({"lift": 0.5, "error_rate": 0.2}, "longer", ["guardrail error_rate is broken: longer 0."]),
        ({"lift": 0.5, "count": 120}, "longer", ["longer is not surely better in click_thr"]),
    ],
)  # fmt: skip
def test_a_winner_that_the_numbers_do_not_support_is_doubted(
    decided, an_experiment, planted, winner, says
):
    found = doubts(an_experiment(), decided(**planted)[1], winner)
    assert [one[: len(said)] for one, said in zip(found, says, strict=True)] == says


def test_what_nobody_was_shown_or_a_broken_splitter_shows_nothing(
    decided, an_experiment, some_users, two_variants
):
    rng = np.random.default_rng(0)
    table = pd.concat([some_users(rng, 1000), some_users(rng, 1400, "longer", lift=0.5)])
    doubt, *_ = doubts(an_experiment(), decided(table=table)[1], "longer")
    assert doubt.startswith("sample-ratio mismatch: users assigned are control 1000, longer 1400")
    nobody = two_variants(rng, 10).iloc[:0]
    _, readout = decided(table=nobody)
    assert doubts(an_experiment(guardrails=[]), readout, "longer")[-1] == (
        "nothing is known of longer in click_through, with 0 users"
    )
    shadow = an_experiment(mode="shadow", guardrails=[])
    readout = read_out(shadow, two_variants(rng, 100), time=NOW, share=1.0)
    assert doubts(shadow, readout, "longer") == ["a shadow is shown to nobody: no user has chosen"]


@pytest.mark.parametrize(
    ("interval", "doubted"),
    [((0.1, 0.3), "control"), ((-0.3, -0.1), "longer"), ((-0.1, 0.1), "longer")],
)
def test_preference_doubts_whom_it_does_not_prefer(an_experiment, two_variants, interval, doubted):
    mixed = an_experiment(mode="interleaving", guardrails=[])
    readout = read_out(mixed, two_variants(np.random.default_rng(0), 100), time=NOW, share=1.0)
    found = Preference(90, (50, 40), sum(interval) / 2, interval, 0.01, 0.01)
    readout = replace(readout, preference=found)
    for winner in ("control", "longer"):
        assert bool(doubts(mixed, readout, winner)) == (winner == doubted)


def test_a_readout_is_json(decided):
    _, readout = decided()
    assert json.loads(json.dumps(readout.to_json(), allow_nan=False))["experiment"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_decided_of_nothing_more_often_than_allowed(an_experiment, two_variants):
    """300 A/A tests through the whole readout and all rules, looked at six times each."""
    experiment = an_experiment(ramp=[{"share": 1.0, "min_users": 150}])
    alarms = 0
    for seed in range(300):
        table = two_variants(np.random.default_rng(seed), 1500)
        order = np.random.default_rng(seed).permutation(len(table))
        for look in range(1, 7):
            seen = table.iloc[order[: look * len(table) // 6]]
            readout = read_out(experiment, seen, time=NOW, share=1.0)
            decision = decide(experiment, Progress(0, NOW - DAY, NOW - DAY), readout)
            if decision.action != "hold":
                alarms += 1
                break
    assert alarms / 300 <= experiment.alpha
