"""Limits, thresholds, suites and options as nobody would write them: read, or refused in a line."""

import json
from pathlib import Path

import pytest
import yaml
from hostile import ANY_BYTES, CHANGES, changed, taken_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.gate import config as gate
from flows.monitoring import settings as monitoring
from flows.validation.suites import SUITES, Suite, read_suite
from hymirec.commands.flow import _given, _parameters
from hymirec.errors import HymirecError
from hymirec.home import Home

GATE = gate.BUILT_IN.read_bytes()
MONITOR = Path(monitoring.__file__).with_name(monitoring.FILE).read_bytes()
SUITE = (SUITES / "items.json").read_bytes()
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
DEEP = b"[" * 1500
ODD = [b"level: 2026-13-45", b"level: !!int many", b"? [1]\n: 2", b"\xff", b"- 1", b"", DEEP]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Home.at(tmp_path_factory.mktemp("home"))


READERS = {
    "gate.yaml": (GATE, lambda home: gate.read_config(home)[0]),
    "monitor.yaml": (MONITOR, monitoring.read_config),
}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_settings_of_any_bytes(home, name, data):
    valid, read = READERS[name]
    content = data.draw(st.one_of(ANY_BYTES, st.builds(changed, st.just(valid), CHANGES)))
    (home.root / name).write_bytes(content)
    taken_or_refused(read, home)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_settings_with_a_field_of_any_kind(home, name, data):
    valid, read = READERS[name]
    values = yaml.safe_load(valid)
    field = data.draw(st.sampled_from([*values, "unknown"]))
    (home.root / name).write_text(yaml.safe_dump(values | {field: data.draw(ANYTHING)}))
    taken_or_refused(read, home)


@pytest.mark.parametrize("content", ODD)
@pytest.mark.parametrize("name", READERS)
def test_what_yaml_itself_stumbles_over_is_one_line(home, name, content):
    (home.root / name).write_bytes(content)
    found = taken_or_refused(READERS[name][1], home)
    assert isinstance(found, HymirecError)
    assert name in str(found)


@settings(max_examples=15)  # Great Expectations takes long over each
@given(content=st.one_of(ANY_BYTES, st.builds(changed, st.just(SUITE), CHANGES)))
def test_suites_of_any_bytes(home, content):
    path = home.root / "items.json"
    path.write_bytes(content)
    assert isinstance(taken_or_refused(read_suite, path), Suite | HymirecError)


@settings(max_examples=15)
@given(field=st.sampled_from(["type", "kwargs", "meta", "severity", "more"]), value=ANYTHING)
def test_an_expectation_with_a_field_of_any_kind(home, field, value):
    path = home.root / "items.json"
    entry = json.loads(SUITE)["expectations"][0] | {field: value}
    path.write_text(json.dumps({"expectations": [entry]}))
    assert isinstance(taken_or_refused(read_suite, path), Suite | HymirecError)


@given(words=st.lists(st.text(max_size=12).map(lambda text: f"--{text}") | st.text(max_size=8)))
def test_options_of_a_flow_of_any_text(words):
    def flow(data: Path, home: Path, seed: int | None = None, names: list[str] = []) -> None:  # noqa: B006
        """Stands in for one."""

    flow.__annotations__ = {"data": Path, "home": Path, "seed": int | None, "names": list[str]}

    def read():
        return _parameters("flow", flow, _given(words))

    found = taken_or_refused(read)
    if not isinstance(found, HymirecError):
        assert set(found) <= {"data", "seed", "names"}
