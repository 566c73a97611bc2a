"""Every kind of corrupted input is caught by name before anything is trained on it.

`docs/data-validation.md` lists them.
"""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flows.validation.frames import history_frame, prediction_frame, training_frame
from flows.validation.suites import SUITES
from flows.validation.validate import check, validate
from hymirec.datasets import load
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.errors import DataError
from hymirec.history import History
from hymirec.inputs import IndexedHistory
from hymirec.splits import Case

NOW = datetime(2024, 8, 1, tzinfo=UTC)
DOCS = Path(__file__).parents[3] / "docs" / "data-validation.md"


@pytest.fixture(scope="module")
def dataset():
    return generate(WorldConfig.tiny()).dataset


@pytest.fixture
def folder(tmp_path, dataset):
    """A folder of text files that a test spoils."""
    events = dataset.interactions[["user_id", "item_id", "timestamp"]].head(2000)
    events.to_csv(tmp_path / "interactions.csv", index=False)
    dataset.items[["item_id", "title"]].to_csv(tmp_path / "items.csv", index=False)
    return tmp_path


def spoil(folder, old, new, name="interactions.csv", count=1):
    path = folder / name
    path.write_text(re.sub(old, new, path.read_text(), count=count))


FILES = {
    "a column is missing": (
        lambda at: spoil(at, "timestamp", "when"), r"no column 'timestamp'"),
    "the header is missing": (
        lambda at: spoil(at, "^.*\n", ""), r"no columns 'user_id', 'item_id', 'timestamp'"),
    "a column stands there twice": (
        lambda at: spoil(at, "item_id,timestamp", "user_id,timestamp"), "stands there twice"),
    "the file is empty": (
        lambda at: (at / "interactions.csv").write_text(""), "the file is empty"),
    "a line has too many fields": (
        lambda at: spoil(at, r"\n(u\d+),", r"\n\1,extra,", count=3), r"line 2: 4 fields"),
    "a quote is never closed": (
        lambda at: spoil(at, r"\n(u\d+),", r'\n"\1,'), "never closed|fields instead"),
    "a time is no time": (
        lambda at: spoil(at, r"2\d{3}-\d\d-\d\d [^\n]+", "yesterday"), "cannot read 'yesterday'"),
    "a time is out of any calendar": (
        lambda at: spoil(at, r"2\d{3}-\d\d-\d\d [^\n]+", "17000-01-01"), "cannot read '17000"),
    "parquet was cut short": (lambda at: _cut_parquet(at), "cannot be read as parquet"),
    "two data sets lie in one folder": (
        lambda at: (at / "interactions.parquet").write_bytes(b"x"), "more than one data set"),
    "the items are missing": (lambda at: (at / "items.csv").unlink(), "no data set here"),
}  # fmt: skip


def _cut_parquet(folder):
    whole = pd.read_csv(folder / "interactions.csv")
    whole.to_parquet(folder / "interactions.parquet")
    (folder / "interactions.csv").unlink()
    path = folder / "interactions.parquet"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("kind", FILES)
def test_a_broken_file_is_named_as_it_is_read(folder, kind):
    spoiling, complaint = FILES[kind]
    spoiling(folder)
    with pytest.raises(DataError, match=complaint):
        load(folder)


def at(date):
    return pd.Timestamp(date, tz="UTC")


EVENTS = {
    # of one row each: column, value, rule
    10: ("user_id", None, "missing-user"),
    20: ("item_id", None, "missing-item"),
    30: ("timestamp", pd.NaT, "missing-time"),
    40: ("user_id", "NULL", "placeholder-user"),
    50: ("item_id", "undefined", "placeholder-item"),
    60: ("user_id", "u0001 ", "blanks-in-user"),
    70: ("item_id", "i00\x0049", "blanks-in-item"),
    80: ("item_id", "i99999", "unknown-item"),
    90: ("timestamp", at("1969-07-20"), "before-1970"),
    100: ("timestamp", at("1970-01-01"), "time-zero"),
    110: ("timestamp", at("2038-01-19"), "in-the-future"),
    120: ("timestamp", at("1970-01-20"), "far-from-the-rest"),
    130: ("timestamp", at("2000-01-01"), "out-of-order"),
}
ITEMS = {
    10: ("item_id", None, "missing-item"),
    20: ("title", None, "missing-title"),
    30: ("title", " \t", "blank-title"),
    40: ("title", "N/A", "placeholder-title"),
    50: ("title", "Amelie\ufffds caf\ufffd", "broken-encoding"),
    60: ("title", "LÃ©on", "broken-encoding"),
    70: ("title", "Bell\x07", "unprintable-title"),
    80: ("title", "x" * 3000, "endless-title"),
    90: ("item_id", "i00001", "repeated-item"),
}


def test_every_bad_row_is_named_by_its_rule(dataset, tmp_path):
    tables = {"interactions": dataset.interactions.copy(), "items": dataset.items.copy()}
    for table, rows in (("interactions", EVENTS), ("items", ITEMS)):
        for row, (column, value, _) in rows.items():
            tables[table].loc[row, column] = value
    report = validate(replace(dataset, **tables), tmp_path, NOW, all_rows=True)
    assert report.errors == []
    # Rows are counted in the order of the file.
    for table, rows in (("interactions", EVENTS), ("items", ITEMS)):
        places = tables[table]["source_row"].to_numpy().argsort(kind="stable").tolist()
        for row, (_, _, rule) in rows.items():
            found = [
                one for one in report.findings
                if (one.table, one.rule.name) == (table, rule) and places.index(row) in one.rows
            ]  # fmt: skip
            assert found, (table, rule)


def repeated(dataset):
    twice = pd.concat([dataset.interactions] * 2).sort_values(["user_id", "timestamp", "item_id"])
    twice = twice.assign(source_row=range(len(twice))).reset_index(drop=True)
    return replace(dataset, interactions=twice)


def renamed(dataset, **columns):
    return replace(dataset, interactions=dataset.interactions.rename(columns=columns))


def with_events(dataset, **columns):
    return replace(dataset, interactions=dataset.interactions.assign(**columns))


def mostly(values, value, share=0.6):
    some = values.copy()
    some[np.random.default_rng(0).random(len(some)) < share] = value
    return some


TABLES = {
    "swapped-columns": lambda d: renamed(d, user_id="item_id", item_id="user_id"),
    "one-time": lambda d: with_events(d, timestamp=at("2024-01-01")),
    "dates-only": lambda d: with_events(d, timestamp=d.interactions["timestamp"].dt.floor("D")),
    "repeated-file": repeated,
    "one-user-has-most": lambda d: with_events(
        d, user_id=mostly(d.interactions["user_id"], "u0001")
    ),
    "one-item-has-most": lambda d: with_events(
        d, item_id=mostly(d.interactions["item_id"], "i00001")
    ),
    "one-title": lambda d: replace(d, items=d.items.assign(title="Title")),
}


@pytest.mark.parametrize("rule", TABLES)
def test_a_table_that_is_wrong_as_a_whole_is_named(dataset, tmp_path, rule):
    report = validate(TABLES[rule](dataset), tmp_path, NOW)
    assert report.errors == []
    found = report.warnings if rule == "dates-only" else report.failures
    assert any(line.endswith(f"[{rule}]") for line in found), found


def test_bad_histories_training_sets_and_predictions_are_named(tmp_path):
    codes = np.zeros((3, 2), np.uint8)
    times = np.array([1, 2, 3])
    histories = {
        "a": History(["x", "y", "x"], times, codes, "0123456789ab"),
        "b": History(["x", "gone", "x"], times, codes, "0123456789ab"),
        "c": History(["x"], np.array([2**33]), codes[:1], "ba9876543210"),
        "d": History([], times[:0], codes[:0], "0123456789ab"),
    }
    frame = history_frame(histories, ["x", "y"], "0123456789ab", NOW)
    frame.loc[0, "num_falls"] = 1  # no `History` can
    whole = IndexedHistory.of(np.array([1, 2, 3, 7]), times=np.arange(4))

    class Leaking:
        training = (whole, whole)
        validation = (Case(whole.until(2), 9, user=0),)
        test = ()

    users = pd.DataFrame({
        "user_id": ["a", "b", "c"], "rank": [1.0, np.nan, 0.0],
        "listed": [np.array([0, 0]), np.array([2, 2]), np.array([3, 99])],
    })  # fmt: skip
    cases = [Case(whole.until(2), 3)] * 3
    frames = {
        "histories": frame,
        "training_sets": training_frame(Leaking(), ["a", "b"], num_items=3),
        "predictions": prediction_frame(users, cases, num_items=5, list_length=2),
    }
    report = check(frames, tmp_path)
    assert report.errors == []
    found = {(one.table, one.rule.name) for one in report.findings}
    assert found == {
        ("histories", "empty-history"), ("histories", "other-codebook"),
        ("histories", "unknown-item"), ("histories", "out-of-order"),
        ("histories", "in-the-future"), ("histories", "short-histories"),
        ("training_sets", "both-parts"), ("training_sets", "leak"),
        ("training_sets", "target-unknown"), ("predictions", "rank-missing"),
        ("predictions", "rank-range"), ("predictions", "short-list"),
        ("predictions", "repeats"), ("predictions", "unknown-item"),
        ("predictions", "seen-item"),
    }  # fmt: skip


def test_the_documentation_lists_every_rule_and_every_broken_file():
    text = DOCS.read_text()
    for suite in SUITES.glob("*.json"):
        for entry in json.loads(suite.read_text())["expectations"]:
            assert f"`{entry['meta']['name']}`" in text, (suite.name, entry["meta"]["name"])
    for kind in FILES:
        assert kind in text, kind
