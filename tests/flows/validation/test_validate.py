import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from flows.validation.validate import SUITES, ValidationReport, validate
from hymirec.datasets import Dataset, load
from hymirec.datasets.synthetic import WorldConfig, generate
from hymirec.errors import DataError, HymirecError, UsageError

NOW = datetime(2024, 8, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return generate(WorldConfig.tiny()).dataset


def changed(dataset: Dataset, table: str, row: int, column: str, value: object) -> Dataset:
    frame = getattr(dataset, table).copy()
    frame.loc[row, column] = value
    return replace(dataset, **{table: frame})


def from_csv(tmp_path: Path, interactions: list[str], items: list[str]) -> Dataset:
    (tmp_path / "interactions.csv").write_text(
        "\n".join(["user_id,item_id,timestamp", *interactions])
    )
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *items]))
    return load(tmp_path)


def message_of(report: ValidationReport) -> str:
    assert not report.success
    with pytest.raises(DataError) as caught:
        report.raise_for_failures()
    message = str(caught.value)
    assert "\n" not in message
    assert str(report.docs_index) in message
    return message


def test_good_data_passes_and_leaves_a_report(dataset, tmp_path, capfd):
    report = validate(dataset, tmp_path / "report", NOW)
    assert report.success
    assert report.failures == []
    assert report.errors == []
    report.raise_for_failures()
    assert report.docs_index == tmp_path / "report" / "index.html"
    first_page = report.docs_index.read_text()
    assert first_page.count("every rule is met") == 2
    for page in re.findall('href="(.*?)"', first_page):
        assert (report.docs_index.parent / page).exists()
    suite_page = (tmp_path / "report" / "expectations" / "interactions.html").read_text()
    assert "with an item that items does not hold" in suite_page
    # No progress bars, no chatter.
    assert capfd.readouterr() == ("", "")


def test_report_shows_the_latest_validation_only(dataset, tmp_path):
    for _ in range(2):
        validate(dataset, tmp_path, NOW)
    pages = list((tmp_path / "validations").rglob("*.html"))
    assert sorted(page.name for page in pages) == [
        "dataset-interactions.html",
        "dataset-items.html",
    ]


def test_every_wrong_value_is_named_with_its_row(tmp_path):
    interactions = [
        "a,i1,100",
        "a,x,101",
        ",i1,102",
        "a,,103",
        "b,i1,",
        "b,i1,-5",
        "b,y,2000000000",
        "b,i1,200",
    ]
    items = ["i1,One", "i2,", "i3,  ", ",Four", "i1,One again"]
    report = validate(from_csv(tmp_path, interactions, items), tmp_path / "report", NOW)
    assert report.errors == []
    assert report.failures == [
        "interactions: user_id: 1 row without a user id (row 4) [missing-user]",
        "interactions: item_id: 1 row without an item id (row 5) [missing-item]",
        "interactions: timestamp: 1 row without a time (row 6) [missing-time]",
        "interactions: item_id: 2 rows with an item that items does not hold "
        "(rows 3, 8; item_id 'x', 'y') [unknown-item]",
        "interactions: timestamp: 1 row before 1970 (row 7; timestamp 1969-12-31 23:59:55+00:00) "
        "[before-1970]",
        "interactions: timestamp: 1 row more than a day in the future "
        "(row 8; timestamp 2033-05-18 03:33:20+00:00) [in-the-future]",
        "interactions: timestamp: 1 row more than thirty years from the median time: another unit, "
        "or a broken clock (row 8; timestamp 2033-05-18 03:33:20+00:00) [far-from-the-rest]",
        "items: item_id: 1 row without an item id (row 5) [missing-item]",
        "items: item_id: 2 rows with an item id that stands in more than one row "
        "(rows 2, 6; item_id 'i1') [repeated-item]",
        "items: title: 1 row without a title (row 3) [missing-title]",
        "items: title: 1 row with a blank title (row 4; title '  ') [blank-title]",
    ]
    assert "; ".join(report.failures) in message_of(report)
    assert report.docs_index.is_file()


def test_rows_are_the_first_of_the_source_and_not_all_of_them(tmp_path):
    interactions = [f"u{9 - n},gone{n},{n + 1}" for n in range(8)] + ["a,i1,1", "a,i1,2", "a,i1,3"]
    report = validate(from_csv(tmp_path, interactions, ["i1,One"]), tmp_path / "report", NOW)
    assert report.failures == [
        "interactions: item_id: 8 rows with an item that items does not hold "
        "(rows 2, 3, 4, …; item_id 'gone0', 'gone1', 'gone2') [unknown-item]"
    ]


def test_one_user(tmp_path):
    data = from_csv(tmp_path, ["a,i1,1", "a,i1,2", "a,i1,3"], ["i1,One"])
    report = validate(data, tmp_path / "report", NOW)
    assert report.failures == [
        "interactions: user_id: there must be at least 2 users (found 1) [few-users]"
    ]


def test_histories_too_short_for_any_use(tmp_path):
    data = from_csv(tmp_path, ["a,i1,1", "a,i1,2", "b,i1,3"], ["i1,One"])
    report = validate(data, tmp_path / "report", NOW)
    assert report.failures == [
        "interactions: user_id: at least one user must have 3 interactions or more (found 2) "
        "[short-histories]"
    ]


def test_empty_tables(dataset, tmp_path):
    empty = replace(dataset, interactions=dataset.interactions.head(0), items=dataset.items.head(0))
    report = validate(empty, tmp_path, NOW)
    assert (
        "interactions: there must be at least one interaction (found 0) [no-rows]"
        in report.failures
    )
    assert "items: there must be at least one item (found 0) [no-rows]" in report.failures
    assert report.errors == []


def test_types_and_order_that_no_loader_would_give(dataset, tmp_path):
    events = dataset.interactions
    wrong = replace(
        dataset,
        interactions=events.iloc[::-1].reset_index(drop=True),
        items=dataset.items.assign(title=7),
    )
    failures = validate(wrong, tmp_path, NOW).failures
    assert failures[0].startswith(
        f"interactions: timestamp: {len(events) - 120} rows earlier than the same user's "
        "interaction before (rows 1, 2, 3, …"
    )
    assert failures[1] == "items: title: must be text (found int64) [title-type]"


def test_a_day_ahead_is_tolerated_and_no_more(dataset, tmp_path):
    last = dataset.interactions.index[-1]
    allowed = NOW + timedelta(days=1)
    soon = changed(dataset, "interactions", last, "timestamp", pd.Timestamp(allowed))
    assert validate(soon, tmp_path, NOW).success
    assert not validate(soon, tmp_path, NOW - timedelta(seconds=1)).success
    # A time without zone is UTC.
    assert validate(soon, tmp_path, NOW.replace(tzinfo=None)).success


def test_missing_column_is_refused_before_anything_runs(dataset, tmp_path):
    without = replace(dataset, items=dataset.items.drop(columns="title"))
    with pytest.raises(DataError, match="items: no column 'title'; columns found: item_id, "):
        validate(without, tmp_path, NOW)


def edited(tmp_path: Path, entry: object) -> Path:
    suites = tmp_path / "suites"
    shutil.copytree(SUITES, suites)
    suite = json.loads((suites / "items.json").read_text())
    suite["expectations"].append(entry)
    (suites / "items.json").write_text(json.dumps(suite))
    return suites


def test_suites_can_be_edited(dataset, tmp_path):
    entry = {
        "type": "expect_column_value_lengths_to_be_between",
        "kwargs": {"column": "title", "max_value": 3},
        "meta": {"note": "with a title too long for the shelf"},
    }
    report = validate(dataset, tmp_path / "report", NOW, edited(tmp_path, entry))
    assert "items: title: 300 rows with a title too long for the shelf" in message_of(report)


def test_expectation_that_errs_is_not_taken_for_bad_data(dataset, tmp_path):
    entry = {"type": "expect_column_max_to_be_between", "kwargs": {"column": "price"}}
    report = validate(dataset, tmp_path / "report", NOW, edited(tmp_path, entry))
    assert not report.success
    assert report.failures == []
    (error,) = report.errors
    assert error.startswith("items: expect_column_max_to_be_between on price could not be checked:")
    assert "price" in error.split("checked:")[1]
    with pytest.raises(HymirecError) as caught:
        report.raise_for_failures()
    assert not isinstance(caught.value, DataError)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"type": "expect_wonders"}, "items.json: expectation 14 \\(expect_wonders\\): "),
        ({"type": "expect_column_to_exist", "kwargs": {"colour": 3}}, "items.json: expectation 14"),
        ("expect", "items.json: expectation 14 \\(expect\\): "),
    ],
)
def test_wrong_suite_is_named(dataset, tmp_path, entry, complaint):
    with pytest.raises(UsageError, match=complaint):
        validate(dataset, tmp_path / "report", NOW, edited(tmp_path, entry))


def test_suite_that_is_not_json(dataset, tmp_path):
    suites = edited(tmp_path, {})
    (suites / "items.json").write_text("{")
    with pytest.raises(UsageError, match=r"items\.json: not a suite of expectations"):
        validate(dataset, tmp_path / "report", NOW, suites)
