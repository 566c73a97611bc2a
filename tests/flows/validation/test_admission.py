"""Bad rows are refused, dropped or kept by policy; what was validated is found again."""

from dataclasses import replace

import pandas as pd
import pytest

from flows.steps.data import keep, read_ref
from flows.validation.admission import admit, admitted, read_verdict, report_of
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.errors import DataError, UsageError
from hymirec.home import Home


@pytest.fixture(scope="module")
def dataset():
    return replace(generate(WorldConfig.tiny()).dataset, name="shop")


@pytest.fixture
def home(tmp_path):
    return Home.at(tmp_path).create()


def spoiled(dataset, rows, column, value):
    events = dataset.interactions.copy()
    events.loc[rows, column] = value
    return replace(dataset, interactions=events)


def test_good_data_is_admitted_once_and_found_again(home, dataset):
    with pytest.raises(UsageError, match="no data has been validated in"):
        admitted(home)
    ref = keep(home, dataset)
    done = admit(home, ref, "run")
    assert not done.skipped
    assert admitted(home) == ref == admitted(home, ref.digest[:6]) == read_ref(home, done)
    assert admit(home, ref, "another run").skipped
    assert read_verdict(done).run_id == "run"
    with pytest.raises(UsageError, match="data 'ffff' is not one validated data set: there are "):
        admitted(home, "ffff")
    (done.directory / "data.json").write_text("{")
    assert not admit(home, ref, "run").skipped
    assert admitted(home) == ref


def test_refused_data_leaves_the_latest_as_it_was_and_no_result(home, dataset):
    good = keep(home, dataset)
    admit(home, good, "run")
    bad = keep(home, spoiled(dataset, [3, 4], "item_id", "gone"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"2 rows with an item .* \[unknown-item\]"):
            admit(home, bad, "run")
    assert admitted(home) == good
    assert (report_of(home, bad) / "index.html").exists()
    assert len(list(home.runs.iterdir())) == 1


def test_dropped_rows_are_kept_aside_with_the_rules_they_broke(home, dataset):
    broken = spoiled(dataset, [3, 4], "item_id", "gone")
    broken = spoiled(broken, [4], "timestamp", pd.Timestamp("1969-12-31", tz="UTC"))
    # An item that stands there twice goes, and its interactions with it.
    twice = pd.concat([broken.items, broken.items.iloc[[7]]], ignore_index=True)
    twice["source_row"] = range(len(twice))
    ref = keep(home, replace(broken, items=twice))
    done = admit(home, ref, "run", "drop")
    rest = read_ref(home, done)
    lost = int((broken.interactions["item_id"] == broken.items.loc[7, "item_id"]).sum())
    assert read_verdict(done).dropped == {"interactions": 2 + lost, "items": 2}
    assert len(rest.read().interactions) == len(dataset.interactions) - 2 - lost
    assert rest.digest != ref.digest
    assert admitted(home) == rest
    aside = pd.read_parquet(report_of(home, ref) / "quarantine" / "interactions.parquet")
    assert len(aside) == 2 + lost
    assert aside["broken_rules"].str.contains("unknown-item").all()
    assert aside["broken_rules"].str.contains("unknown-item, .*before-1970").sum() == 1
    assert admit(home, ref, "run", "drop").skipped


def test_data_that_is_mostly_bad_is_not_dropped_to_a_rest(home, dataset):
    half = range(0, len(dataset.interactions), 2)
    ref = keep(home, spoiled(dataset, list(half), "item_id", "gone"))
    with pytest.raises(DataError, match="rows would have to be dropped, which is more than 5%"):
        admit(home, ref, "run", "drop")


def test_rows_that_nothing_could_take_are_not_kept(home, dataset):
    odd = keep(home, spoiled(dataset, dataset.interactions.index[-1:], "timestamp",
                             pd.Timestamp("2200-01-01", tz="UTC")))  # fmt: skip
    with pytest.raises(DataError, match="in-the-future"):
        admit(home, odd, "run")
    done = admit(home, odd, "run", "keep")
    assert read_ref(home, done) == odd
    assert any("[in-the-future]" in warning for warning in read_verdict(done).warnings)
    unknown = keep(home, spoiled(dataset, [3], "item_id", "gone"))
    with pytest.raises(DataError, match="unknown-item"):
        admit(home, unknown, "run", "keep")


def test_data_of_the_same_name_is_held_against_what_was_there_before(home, dataset):
    ref = keep(home, dataset)
    admit(home, ref, "run")
    few = dataset.interactions["user_id"].drop_duplicates()[:40]
    some = dataset.interactions[dataset.interactions["user_id"].isin(few)].reset_index(drop=True)
    smaller = replace(dataset, interactions=some)
    with pytest.raises(DataError) as caught:
        admit(home, keep(home, smaller), "run")
    assert "[rows-lost]" in str(caught.value)
    assert "[users-lost]" in str(caught.value)
    other = replace(smaller, name="another shop")
    assert not admit(home, keep(home, other), "run", as_latest=False).skipped
    assert admitted(home) == ref  # what a benchmark looked at is nothing to publish


def test_a_home_may_have_suites_of_its_own(home, dataset):
    (home.root / "expectations").mkdir()
    own = home.root / "expectations" / "items.json"
    own.write_text('{"expectations": [{"type": "expect_column_to_exist", '
                   '"kwargs": {"column": "price"}, "meta": {"name": "no-price"}}]}')  # fmt: skip
    ref = keep(home, dataset)
    with pytest.raises(DataError, match="no-price"):
        admit(home, ref, "run")
    own.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"items.json: not a suite of expectations"):
        admit(home, ref, "run")
    own.unlink()
    assert not admit(home, ref, "run").skipped
