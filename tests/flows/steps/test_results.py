"""A step is done once, found again, and leaves nothing half done."""

import errno
import json
import logging
import time
from unittest.mock import Mock

import pytest

from flows.steps import results as steps
from flows.steps.results import find_step, forget, run_step, source_digest, step_digest
from flows.tracking import record as tracking
from hymirec.errors import DataError
from hymirec.home import Home


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


class Work:
    """Counts its calls and writes what it is told; may fail after writing."""

    def __init__(self, text="result", failing=False):
        self.text = text
        self.failing = failing
        self.calls = 0
        self.found = None

    def __call__(self, output, checkpoints):
        self.calls += 1
        assert list(output.iterdir()) == []
        self.found = {path.name: path.read_text() for path in checkpoints.iterdir()}
        (output / "file.txt").write_text(self.text)
        (checkpoints / f"epoch-{self.calls}").write_text(self.text)
        if self.failing:
            raise RuntimeError("interrupted")


def read(step):
    return (step.directory / "file.txt").read_text()


def test_work_is_done_once_and_found_again(home, caplog):
    work = Work()
    first = run_step(home, "encoder", {"data": "abc", "settings": {"width": 3}}, work)
    assert not first.skipped
    assert read(first) == "result"
    assert first.directory == home.runs / f"encoder-{first.digest}"
    with caplog.at_level(logging.INFO):
        # In another order, the same inputs.
        second = run_step(home, "encoder", {"settings": {"width": 3}, "data": "abc"}, work)
    assert second.skipped
    assert (second.directory, second.digest) == (first.directory, first.digest)
    assert work.calls == 1
    assert "encoder: nothing changed" in caplog.text
    assert [path.name for path in home.runs.iterdir()] == [first.directory.name]


def test_models_of_names_with_dots_do_not_meet(home):
    with pytest.raises(RuntimeError, match="interrupted"):
        run_step(home, "my-model-0.7", {}, Work(failing=True))
    assert not run_step(home, "my-model-0.5", {}, Work("half")).skipped
    assert run_step(home, "my-model-0.5", {}, Work()).skipped
    work = Work("seven tenths")
    done = run_step(home, "my-model-0.7", {}, work)
    assert work.found == {"epoch-1": "result"}  # of its own first attempt
    (done.directory / "file.txt").write_text("wrong")
    assert find_step(home, "my-model-0.7", {}) is None
    aside = home.runs / f"{done.directory.name}.damaged"
    assert (aside / "file.txt").read_text() == "wrong"


@pytest.mark.parametrize("inputs", [{"data": "abd"}, {"data": "abc", "more": None}, {}])
def test_other_inputs_are_worked_on_anew_and_the_old_result_stays(inputs, home):
    first = run_step(home, "encoder", {"data": "abc"}, Work("one"))
    second = run_step(home, "encoder", inputs, Work("two"))
    assert not second.skipped
    assert second.digest != first.digest
    assert (read(first), read(second)) == ("one", "two")
    assert run_step(home, "encoder", {"data": "abc"}, Work()).skipped


def test_steps_of_other_names_do_not_meet(home):
    first = run_step(home, "encoder", {"data": "abc"}, Work("one"))
    second = run_step(home, "codebook", {"data": "abc"}, Work("two"))
    assert not second.skipped
    assert second.digest != first.digest


def test_two_homes_do_not_meet(tmp_path):
    one, other = Home.at(tmp_path / "one").create(), Home.at(tmp_path / "other").create()
    run_step(one, "encoder", {}, Work())
    assert not run_step(other, "encoder", {}, Work()).skipped


def test_failing_work_leaves_no_result_and_hands_its_checkpoints_on(home):
    inputs = {"data": "abc"}
    failing = Work("half", failing=True)
    with pytest.raises(RuntimeError, match="interrupted"):
        run_step(home, "encoder", inputs, failing)
    digest = step_digest("encoder", inputs)
    assert not (home.runs / f"encoder-{digest}").exists()

    # Half an output is not handed on: Work asserts that it finds the directory empty.
    with pytest.raises(RuntimeError):
        run_step(home, "encoder", inputs, failing)
    assert failing.found == {"epoch-1": "half"}

    work = Work("whole")
    step = run_step(home, "encoder", inputs, work)
    assert not step.skipped
    assert work.found == {"epoch-1": "half", "epoch-2": "half"}
    assert read(step) == "whole"
    assert {path.name for path in step.directory.iterdir()} == {
        "file.txt", "cost.json", "digests.json",
    }  # fmt: skip
    assert step.cost["seconds"] >= 0
    assert [path.name for path in home.runs.iterdir()] == [step.directory.name]


def test_an_interrupted_attempt_costs_what_it_took_until_it_wrote_last(home):
    worked = []

    def slow(output, checkpoints):
        began = time.monotonic()
        time.sleep(0.3)
        (checkpoints / "epoch-1").write_text("done")
        worked.append(time.monotonic() - began)
        raise RuntimeError("interrupted")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="interrupted"):
            run_step(home, "encoder", {}, slow)
        time.sleep(0.5)  # nobody works between attempts
    cost = run_step(home, "encoder", {}, Work()).cost
    # Times of files are of a clock that ticks a hundred times a second.
    assert sum(worked) - 0.05 <= cost["seconds"] < sum(worked) + 0.9


def test_checkpoints_are_not_handed_to_work_on_other_inputs(home):
    with pytest.raises(RuntimeError):
        run_step(home, "encoder", {"data": "abc"}, Work(failing=True))
    work = Work()
    run_step(home, "encoder", {"data": "abd"}, work)
    assert work.found == {}


def test_other_source_code_is_other_work(home, monkeypatch):
    first = run_step(home, "encoder", {}, Work())
    monkeypatch.setattr(steps, "source_digest", lambda *places: "other code")
    second = run_step(home, "encoder", {}, Work())
    assert not second.skipped
    assert second.digest != first.digest


def test_source_digest_tells_contents_and_names(tmp_path):
    package = tmp_path / "package"
    (package / "part").mkdir(parents=True)
    for path in ("__init__.py", "a.py", "part/b.py"):
        (package / path).write_text("x = 1")
    before = source_digest(package)
    assert source_digest(package) == before
    assert source_digest(package, package / "a.py") != before
    (package / "notes.txt").write_text("not source")
    assert source_digest(package) == before
    (package / "part" / "b.py").write_text("x = 2")
    changed = source_digest(package)
    assert changed != before
    (package / "part" / "b.py").rename(package / "part" / "c.py")
    assert source_digest(package) not in (before, changed)


def test_a_result_found_again_clears_what_a_killed_attempt_left(home):
    step = run_step(home, "encoder", {}, Work())
    leftover = step.directory.with_suffix(".partial") / "checkpoints"
    leftover.mkdir(parents=True)
    assert run_step(home, "encoder", {}, Work()).skipped
    assert [path.name for path in home.runs.iterdir()] == [step.directory.name]


def test_a_failure_that_left_nothing_to_go_on_from_leaves_nothing(home):
    def failing(output, checkpoints):
        (output / "file.txt").write_text("half")
        raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        run_step(home, "validate", {}, failing)
    assert list(home.runs.iterdir()) == []


def test_a_step_can_be_looked_up_and_forgotten(home):
    assert find_step(home, "encoder", {"data": "abc"}) is None
    step = run_step(home, "encoder", {"data": "abc"}, Work())
    assert find_step(home, "encoder", {"data": "abc"}).directory == step.directory
    assert find_step(home, "encoder", {"data": "abd"}) is None
    forget(step)
    assert find_step(home, "encoder", {"data": "abc"}) is None
    assert list(home.runs.iterdir()) == []
    assert not run_step(home, "encoder", {"data": "abc"}, Work()).skipped


def test_commands_are_no_input_of_any_step(home, monkeypatch, tmp_path):
    library = tmp_path / "library"
    (library / "commands").mkdir(parents=True)
    for path in ("model.py", "cli.py", "commands/flow.py"):
        (library / path).write_text("x = 1")
    monkeypatch.setattr(steps, "LIBRARY", library)
    before = step_digest("encoder", {})
    for path in ("cli.py", "commands/flow.py"):
        (library / path).write_text("x = 2")
    assert step_digest("encoder", {}) == before
    (library / "model.py").write_text("x = 2")
    assert step_digest("encoder", {}) != before


def test_curves_of_a_killed_training_have_every_step_once(home, monkeypatch):
    shown = []
    monkeypatch.setattr(tracking, "log_metrics", lambda run, metrics, step: shown.append(step))
    monkeypatch.setattr(
        tracking, "_replay", lambda run, entries: shown.extend(one["step"] for one in entries)
    )

    def train(*steps, then=None):
        def work(output, checkpoints, log):
            for step in steps:
                log({"loss": 1 / step}, step)
            if then is not None:
                checkpoints.mkdir(exist_ok=True)
                with (checkpoints.parent / tracking.TRAINING_LOG).open("a") as file:
                    file.write('{"step": 3, "met')  # cut short
                raise then

        return tracking.run_training_step(home, "training", {}, "run", work)

    with pytest.raises(KeyboardInterrupt):
        train(1, 2, then=KeyboardInterrupt())
    shown.clear()
    done = train(2, 3, 4)  # the checkpoint was of the first
    assert shown == [1, 2, 3, 4]
    lines = (done.directory / tracking.TRAINING_LOG).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]


def test_a_damaged_result_is_done_again_and_kept_for_looking(home, caplog):
    done = run_step(home, "encoder", {}, Work("right"))
    (done.directory / "file.txt").write_text("wrong")
    assert find_step(home, "encoder", {}) is None
    assert "file.txt is not the file that was written" in caplog.text
    again = run_step(home, "encoder", {}, Work("right"))
    assert not again.skipped
    assert read(again) == "right"
    assert (done.directory.with_suffix(".damaged") / "file.txt").read_text() == "wrong"
    (again.directory / "file.txt").unlink()
    assert not run_step(home, "encoder", {}, Work("right")).skipped


def test_a_result_that_cannot_be_read_at_present_is_not_taken_for_damaged(home, monkeypatch):
    done = run_step(home, "encoder", {}, Work())
    with monkeypatch.context() as patch:
        patch.setattr("hashlib.file_digest", Mock(side_effect=OSError(errno.EMFILE, "too many")))
        with pytest.raises(DataError, match="too many"):
            find_step(home, "encoder", {})
    assert find_step(home, "encoder", {}).directory == done.directory


def test_a_result_of_before_there_were_seals_is_taken(home):
    done = run_step(home, "encoder", {}, Work())
    (done.directory / "digests.json").unlink()
    assert find_step(home, "encoder", {}) is not None
