"""Aliases of a real registry: moved, rolled back, moved behind our back; all of it recorded."""

from datetime import timedelta
from types import SimpleNamespace
from typing import get_args

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from features import online
from features.logs.audit_log import FORCED, NOMINATION, NOTICED, PROMOTION, ROLLBACK
from flows.registry.aliases import Aliases
from flows.registry.promote import place_new, promote_version
from flows.registry.served import served_versions
from flows.runtime.locks import alone_in
from flows.steps.results import StepResult
from flows.tasks import Standing, standing_of
from hymirec.display import show_metrics
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home

CODEBOOK = "0123456789ab"
GOOD, BAD, FLOOR = {"R@10": 0.5}, {"R@10": 0.05}, {"R@10": 0.1}


@pytest.fixture(scope="module")
def registry(make_registry):
    """A home with four versions registered and nothing decided."""
    return make_registry([CODEBOOK] * 4)


@pytest.fixture
def home(registry, copy_of):
    return copy_of(registry, CODEBOOK)


@pytest.fixture
def aliases(home):
    found = Aliases(home)
    yield found
    found.log.close()


def promote(aliases, version, kind=PROMOTION):
    return aliases.move("champion", version, kind, reason="test")


def test_a_move_is_made_and_recorded(aliases):
    entry = aliases.move(
        "champion", "2", PROMOTION, reason="better", evidence={"verdict": "pass"}, expected=""
    )
    assert aliases.all() == {"champion": "2"}
    assert (entry.subject, entry.before, entry.after) == ("hymirec@champion", "", "2")
    assert aliases.history() == [entry]
    with pytest.raises(UsageError, match="champion has become version 2 meanwhile, it was 1"):
        aliases.move("champion", "3", PROMOTION, reason="late", expected="1")
    assert aliases.history() == [entry]


def test_a_version_that_passed_and_lost_its_alias_is_said_to_have_passed(aliases, tmp_path, capsys):
    judged = StepResult("promote", tmp_path, "0123", skipped=True)
    (tmp_path / "standing.json").write_text('"challenger"')
    promote(aliases, "1")
    aliases.move("challenger", "2", NOMINATION, reason="test")
    found = [standing_of(version, judged) for version in (1, 2, 3)]
    assert found == ["champion", "challenger", "passed"]
    (tmp_path / "standing.json").write_text('"refused"')
    assert standing_of(3, judged) == "refused"
    assert set(get_args(Standing)) == {*found, "refused"}
    none = dict.fromkeys(("R@10", "R@50", "R@200", "N@10", "N@50", "N@200"), 0.0)
    show_metrics(SimpleNamespace(model_version=3, standing="passed", metrics=none, popularity=none))
    assert "no alias any more: `hymirec promote 3` compares" in capsys.readouterr().out


def test_who_passes_the_gate_is_alone_and_ends_the_run_of_a_gate_that_was_killed(home, monkeypatch):
    client = MlflowClient()
    experiment = client.create_experiment("hymirec", home.artifact_uri)

    def passing(*_):
        (run,) = client.search_runs([experiment], "attributes.status = 'RUNNING'")
        if killed:
            (gone,) = killed
            assert client.get_run(gone).info.status == "KILLED"
            assert run.info.run_id != gone
        else:
            killed.append(run.info.run_id)
            with pytest.raises(UsageError, match="another gate"), alone_in(home, "gate"):
                pass
        raise HymirecError("it ends here")

    killed = []
    monkeypatch.setattr("flows.gate.passage.pass_gate", passing)
    for _ in range(2):
        with pytest.raises(HymirecError, match="it ends here"):
            promote_version(home, "2", "champion", None)
        client.update_run(killed[0], "RUNNING")  # as if nobody had been left to end it


def test_a_registry_that_is_away_is_not_taken_for_an_empty_one(aliases, monkeypatch):
    def away(*_):
        raise MlflowException("API request to http://mlflow:5000 failed\nwith a trace")

    monkeypatch.setattr(MlflowClient, "get_registered_model", away)
    for ask in (aliases.all, lambda: served_versions(aliases.home)):
        with pytest.raises(HymirecError, match=r"cannot be read: API request .* failed$") as failed:
            ask()
        assert not isinstance(failed.value, UsageError)


def test_a_move_that_cannot_be_recorded_is_not_made(aliases, monkeypatch):
    promote(aliases, "1")

    def fail(*args, **kwargs):
        raise HymirecError("audit log cannot be used")

    monkeypatch.setattr(aliases.log, "record", fail)
    with pytest.raises(HymirecError):
        promote(aliases, "2")
    assert aliases.get("champion") == "1"


def test_a_champion_is_one_though_other_aliases_cannot_follow(aliases, monkeypatch, caplog):
    promote(aliases, "1")
    aliases.move("challenger", "2", PROMOTION, reason="test")
    monkeypatch.setattr(aliases, "_goes_back_to", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # what is no registry's fault is not hidden
        promote(aliases, "2")

    def away():
        raise MlflowException("the registry is away\nwith a trace")

    monkeypatch.setattr(aliases, "_goes_back_to", away)
    promote(aliases, "3")
    assert aliases.get("champion") == "3"
    assert "version 3 is champion, but previous and challenger could not be" in caplog.text
    assert "3" in {entry.after for entry in aliases.history()}


def test_ten_times_there_and_back(aliases):
    promote(aliases, "1")
    for _ in range(10):
        promote(aliases, "2")
        assert aliases.all() == {"champion": "2", "previous": "1"}
        back = aliases.rollback("test")
        assert (back.kind, back.before, back.after) == (ROLLBACK, "2", "1")
        assert back.evidence == {"codebook_id": CODEBOOK}
        assert aliases.all() == {"champion": "1"}
    with pytest.raises(UsageError, match="there is nothing to go back to from version 1"):
        aliases.rollback("once more")
    assert len(aliases.history(limit=100)) == 21


def test_rollbacks_go_back_step_by_step(aliases):
    for version in "1234":
        promote(aliases, version)
    assert [aliases.rollback("test").after for _ in range(3)] == ["3", "2", "1"]
    promote(aliases, "4")
    assert aliases.get("previous") == "1"  # what was rolled back is no place to go back to


def test_a_forced_version_is_passed_over(aliases):
    promote(aliases, "1")
    promote(aliases, "2", FORCED)
    promote(aliases, "3")
    assert aliases.get("previous") == "1"
    assert aliases.rollback("test").after == "1"


def test_a_version_whose_features_are_gone_is_refused(aliases, monkeypatch):
    promote(aliases, "1")
    promote(aliases, "2")
    monkeypatch.setattr(online, "list_codebooks", lambda home: [])
    with pytest.raises(UsageError, match=f"version 1 reads codebook {CODEBOOK}, which is no"):
        aliases.rollback("test")
    assert aliases.get("champion") == "2"


def test_a_deleted_version_is_passed_over(aliases):
    for version in "123":
        promote(aliases, version)
    aliases.client.delete_registered_model_alias("hymirec", "previous")
    aliases.client.delete_model_version("hymirec", "2")
    assert aliases.rollback("test").after == "1"


def test_moves_by_other_means_are_recorded_when_next_seen(aliases, caplog):
    promote(aliases, "1")
    aliases.client.set_registered_model_alias("hymirec", "champion", "2")
    entry = aliases.notice()
    assert (entry.kind, entry.before, entry.after, entry.actor) == (NOTICED, "1", "2", "unknown")
    assert "champion was moved from version 1 to 2 by other means" in caplog.text
    assert aliases.notice() is None
    assert aliases.rollback("undo").after == "1"
    aliases.client.delete_registered_model_alias("hymirec", "champion")
    promote(aliases, "3")  # notices by itself
    assert [one.kind for one in aliases.history(limit=3)] == [PROMOTION, NOTICED, ROLLBACK]
    assert aliases.rollback("test").after == "1"


def test_what_was_champion_at_a_time(aliases):
    moves = [promote(aliases, version) for version in "12"]
    tick = timedelta(microseconds=1)
    assert aliases.champion_at(moves[0].time - tick) is None
    assert aliases.champion_at(moves[1].time - tick).after == "1"
    assert aliases.champion_at(moves[1].time).after == "2"


def test_history_is_paged_and_of_one_version(aliases):
    for version in "1234":
        promote(aliases, version)
    aliases.refuse("champion", "2", reason="worse")
    aliases.log.record("experiment_started", "experiment/1")
    first = aliases.history(limit=3)
    assert [(one.kind, one.after) for one in first] == [
        ("refusal", "2"), ("promotion", "4"), ("promotion", "3"),
    ]  # fmt: skip
    assert [one.after for one in aliases.history(limit=3, before=first[-1].position)] == ["2", "1"]
    of_two = aliases.history(version="2")
    assert [(one.before, one.after) for one in of_two] == [("4", "2"), ("2", "3"), ("1", "2")]


def test_the_first_that_passes_is_champion_and_the_next_waits(home, aliases):
    def place(number, metrics):
        version = aliases.client.get_model_version("hymirec", number)
        return place_new(home, version, metrics, FLOOR)

    assert place("1", BAD) == "refused"
    assert aliases.all() == {}
    assert place("2", GOOD) == "champion"
    assert place("3", BAD) == "refused"
    assert place("4", GOOD) == "challenger"
    assert place("4", GOOD) == "challenger"  # the pipeline again: nothing new
    assert place("2", GOOD) == "champion"
    assert aliases.all() == {"champion": "2", "challenger": "4"}
    kinds = [one.kind for one in reversed(aliases.history())]
    assert kinds == ["refusal", "promotion", "refusal", "nomination"]
    promote(aliases, "4")
    assert aliases.all() == {"champion": "4", "previous": "2"}
    assert aliases.find("3").tags["gate"] == (
        "refused: R@10 0.0500 does not beat popularity's 0.1000"
    )


def test_versions_go_by_number_and_alias(aliases):
    promote(aliases, "2")
    assert aliases.find("champion").version == aliases.find("2").version
    with pytest.raises(UsageError, match="no version of hymirec is '9'; there are 1, 2, 3, 4"):
        aliases.find("9")


def test_a_home_without_versions_says_what_to_run(tmp_path):
    home = Home.at(tmp_path / "none")
    with pytest.raises(UsageError, match="run `hymirec pipeline`"):
        Aliases(home)
    assert not home.root.exists()
    with pytest.raises(UsageError, match="run `hymirec pipeline`"):
        Aliases(home.create()).all()
