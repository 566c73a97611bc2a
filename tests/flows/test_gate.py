"""From numbers to verdicts, and the file of limits."""

import json
import math
import re

import numpy as np
import pytest
import yaml

from flows.gate import checks
from flows.gate.checks import Check, overall, summary
from flows.gate.config import BUILT_IN, Limit, read_config
from flows.gate.evaluation import _run_worker
from flows.gate.report import GateReport, served_numbers, side
from hymirec.errors import HymirecError, UsageError
from hymirec.home import Home
from serving.trial import Tried


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return read_config(Home.at(tmp_path_factory.mktemp("home")))[0]


def ranks(hits, users=1000, last=False):
    """Of users, so many of the first, or the last, have their target on top, others nowhere."""
    found = np.where(np.arange(users) < hits, 1.0, np.inf)
    return found[::-1].copy() if last else found


def verdicts(found):
    return {one.name: one.verdict for one in found}


def test_the_built_in_limits_are_read(config):
    assert config.comparisons["R@10"].must_be_shown
    assert config.limits["server"]["latency_p50_ms"].may_rise_by == 0.5


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict"),
    [
        (ranks(600), ranks(600), "pass"),
        (ranks(700), ranks(600), "pass"),
        (ranks(590), ranks(600), "pass"),  # a loss, shown to be small
        (ranks(500), ranks(600), "fail"),
        (ranks(300, last=True), ranks(300), "inconclusive"),  # as good, but for quite other users
        (ranks(35, 60, last=True), ranks(36, 60), "inconclusive"),
    ],
)
def test_a_headline_metric_has_to_be_shown_not_to_be_worse(config, candidate, champion, verdict):
    found = {one.name: one for one in checks.comparisons(candidate, champion, config)}
    assert found["R@10"].verdict == verdict
    assert found["R@10"].low <= found["R@10"].difference <= found["R@10"].high
    assert ("users would tell" in found["R@10"].detail) == (
        verdict == "inconclusive" and found["R@10"].difference > -0.05 * found["R@10"].champion
    )


def test_what_need_not_be_shown_fails_only_for_certain(config):
    found = verdicts(checks.comparisons(ranks(300, last=True), ranks(300), config))
    assert found == {"R@10": "inconclusive", "N@10": "inconclusive", "R@200": "pass"}
    found = verdicts(checks.comparisons(ranks(500), ranks(600), config))
    assert found["R@200"] == "fail"


def test_slices_are_judged_where_there_are_users(config):
    lengths = np.where(np.arange(1000) < 100, 200, 20)
    cold = np.arange(1000) >= 990
    candidate, champion = ranks(600), ranks(600)
    candidate[:50] = np.inf
    found = checks.slices(candidate, champion, lengths, cold, config)
    assert [one.verdict for one in found] == ["fail", "not measured"]
    assert found[0].candidate == 0.5
    assert found[1].detail == "10 users, 30 are needed"
    assert overall(found[1:]) == "pass"
    nobody = checks.slices(candidate, champion, lengths, cold & False, config)[1]
    assert nobody.to_json()["candidate"] is None


@pytest.mark.parametrize(
    ("limit", "value", "champion", "verdict"),
    [
        ({"at_least": 0.5}, 0.5, None, "pass"),
        ({"at_least": 0.5}, 0.4, None, "fail"),
        ({"at_most": 0.0}, 0.0, None, "pass"),
        ({"at_most": 100}, 101, 200, "fail"),
        ({"may_fall_by": 0.2}, 0.81, 1.0, "pass"),
        ({"may_fall_by": 0.2}, 0.79, 1.0, "fail"),
        ({"may_fall_by": 0.2}, 0.1, None, "pass"),
        ({"may_rise_by": 0.5}, 14, 10, "pass"),
        ({"may_rise_by": 0.5}, 16, 10, "fail"),
        ({"at_most": 15, "may_rise_by": 1.0}, 16, 10, "fail"),
        ({"may_fall_by": 0.2}, -1.1, -1.0, "pass"),
        ({"may_fall_by": 0.2}, -1.3, -1.0, "fail"),
        ({"at_least": 0.5}, math.nan, 1.0, "not measured"),
    ],
)
def test_single_numbers(config, limit, value, champion, verdict):
    asked = config.model_copy(update={"limits": {"g": {"n": Limit(**limit)}}})
    other = None if champion is None else {"g": {"n": champion}}
    (found,) = checks.limits({"g": {"n": value}}, other, asked)
    assert found.verdict == verdict


def test_popularity_is_the_floor():
    assert checks.beats_popularity(ranks(100), ranks(10), "R@10", 0.95).verdict == "pass"
    assert checks.beats_popularity(ranks(10), ranks(10), "R@10", 0.95).verdict == "fail"
    level = checks.beats_popularity(ranks(12, 30, last=True), ranks(10, 30), "R@10", 0.95)
    assert level.verdict == "inconclusive"


def test_one_failure_decides_and_is_named():
    good, bad, open_ = (
        Check("g", name, verdict, 1.0, detail=f"{name} it is")
        for name, verdict in (("a", "pass"), ("b", "fail"), ("c", "inconclusive"))
    )
    assert (overall([good]), summary([good])) == ("pass", "all 1 checks")
    assert (overall([good, open_]), summary([good, open_])) == ("inconclusive", "c c it is")
    assert (overall([open_, bad]), summary([open_, bad])) == ("fail", "b b it is")


def test_the_report_tells_all_without_other_files(config):
    found = checks.comparisons(ranks(500), ranks(600), config)
    found += checks.slices(ranks(500), ranks(600), np.full(1000, 20), ranks(0) == 1, config)
    lengths = np.arange(1000)
    users = {"version 2": side(ranks(500), lengths), "version 1": side(ranks(600), lengths)}
    report = GateReport(
        "2", "1", "champion", "d <b>", found, users, ["note <i>"], {"level": 0.95, "max_users": 9}
    )
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (record["verdict"], record["champion"]) == ("fail", "1")
    page = report.page()
    assert "FAIL: R@10 differs by -0.1000" in page
    assert page.count("<svg") == 2
    assert "d &lt;b&gt;" in page
    assert "note &lt;i&gt;" in page
    assert not re.search(r"(src|href)=.http", page)


def test_numbers_of_a_trial():
    good = served_numbers(Tried(3.0, [1.0, 2.0, 3.0], 500.0, []))
    assert good == {
        "problems": 0, "latency_p50_ms": 2.0, "latency_p95_ms": pytest.approx(2.9),
        "memory_mb": 500.0, "start_seconds": 3.0,
    }  # fmt: skip
    assert served_numbers(Tried(problems=["it does not start"])) == {"problems": 1}


def edited(tmp_path, change):
    values = yaml.safe_load(BUILT_IN.read_text())
    change(values)
    (tmp_path / "gate.yaml").write_text(yaml.safe_dump(values))


def test_a_homes_own_limits_win_and_a_named_file_over_them(tmp_path):
    home = Home.at(tmp_path)
    assert read_config(home)[1] == BUILT_IN
    edited(tmp_path, lambda values: values.update(max_users=7))
    found, path = read_config(home)
    assert (found.max_users, path) == (7, tmp_path / "gate.yaml")
    assert read_config(home, BUILT_IN)[0].max_users == 20000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(level=2), "level: Input should be less than 1"),
        (lambda v: v.update(extra=1), "extra: Extra inputs"),
        (lambda v: v["comparisons"].update({"R@11": {}}), "comparisons.R@11"),
        (lambda v: v["limits"].update(g={"n": {"at_least": 1, "at_most": 2}}), "limits.g.n: "),
        (lambda v: v["limits"].update(g={"n": {}}), "limits.g.n: "),
    ],
)
def test_wrong_limits_are_one_line_with_the_place(tmp_path, change, message):
    edited(tmp_path, change)
    with pytest.raises(UsageError) as caught:
        read_config(Home.at(tmp_path))
    assert f"gate.yaml: {message}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_is_said_so(tmp_path):
    (tmp_path / "gate.yaml").write_text("a: [")
    with pytest.raises(UsageError, match="no YAML"):
        read_config(Home.at(tmp_path))
    with pytest.raises(UsageError, match="cannot be read"):
        read_config(Home.at(tmp_path), tmp_path / "none.yaml")


def test_a_version_too_old_to_be_asked_is_named_with_the_way_past_it(tmp_path):
    shipped = tmp_path / "code" / "hymirec"
    shipped.mkdir(parents=True)
    (shipped / "__init__.py").touch()
    (shipped / "additions.py").touch()
    with pytest.raises(HymirecError, match=r"version 7 in .* is not one that this gate can ask"):
        _run_worker("7", tmp_path, tmp_path, tmp_path, tmp_path)
