from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hymirec.datasets import Dataset, load, read, write
from hymirec.errors import DataError

INTERACTIONS = "user_id,item_id,timestamp\nu1,i1,100\nu2,i2,50\nu1,i2,90\n"
ITEMS = "item_id,title\ni1,One\ni2,Two\n"


def folder(tmp_path: Path, interactions: str | bytes = INTERACTIONS, items: str = ITEMS) -> Path:
    data = interactions if isinstance(interactions, bytes) else interactions.encode()
    (tmp_path / "interactions.csv").write_bytes(data)
    (tmp_path / "items.csv").write_text(items)
    return tmp_path


def parquet_folder(tmp_path: Path, interactions: pd.DataFrame, items: pd.DataFrame) -> Path:
    interactions.to_parquet(tmp_path / "interactions.parquet")
    items.to_parquet(tmp_path / "items.parquet")
    return tmp_path


def times_of(tmp_path: Path, *times: object) -> list[pd.Timestamp]:
    lines = [f"u,i,{time}" for time in times]
    text = "\n".join(["user_id,item_id,timestamp", *lines])
    return list(load(folder(tmp_path, text)).interactions["timestamp"])


def utc(text: str) -> pd.Timestamp:
    return pd.Timestamp(text, tz="UTC")


def message_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_csv_becomes_canonical_tables(tmp_path):
    dataset = load(folder(tmp_path))
    assert dataset.name == tmp_path.name
    events = dataset.interactions
    assert list(events.columns) == ["user_id", "item_id", "timestamp", "source_row"]
    # In order of user and time; source rows are the file's lines, the header being line 1.
    assert events["user_id"].tolist() == ["u1", "u1", "u2"]
    assert events["item_id"].tolist() == ["i2", "i1", "i2"]
    assert events["source_row"].tolist() == [4, 2, 3]
    assert events["timestamp"].dtype == "datetime64[ns, UTC]"
    assert events["timestamp"].tolist()[0] == utc("1970-01-01 00:01:30")
    assert dataset.items["title"].tolist() == ["One", "Two"]
    assert isinstance(events["user_id"].dtype, pd.StringDtype)


def test_events_of_one_time_keep_the_order_of_the_file(tmp_path):
    text = "user_id,item_id,timestamp\n" + "".join(f"u,i{n},5\n" for n in (3, 1, 2))
    assert load(folder(tmp_path, text)).interactions["item_id"].tolist() == ["i3", "i1", "i2"]


def test_csv_ids_stay_as_they_are_written(tmp_path):
    text = "user_id,item_id,timestamp\n007,1,1\nNA,01,2\n,1e5,3\n"
    events = load(folder(tmp_path, text)).interactions
    assert events["user_id"].tolist() == ["007", "NA", pd.NA]
    assert events["item_id"].tolist() == ["1", "01", "1e5"]


def test_csv_ids_that_a_tool_turned_into_floats_become_whole_again(tmp_path):
    text = "user_id,item_id,timestamp\n7.0,1.0,1\n,2.5,2\n"
    events = load(folder(tmp_path, text)).interactions
    assert events["user_id"].tolist() == ["7", pd.NA]
    assert events["item_id"].tolist() == ["1.0", "2.5"]


def test_parquet_ids_of_every_kind_become_text(tmp_path):
    interactions = pd.DataFrame(
        {"user_id": [2**60 + 1, 3], "item_id": [7.0, np.nan], "timestamp": [1, 2]}
    )
    items = pd.DataFrame({"item_id": pd.Categorical(["7", "x"]), "title": ["Seven", None]})
    dataset = load(parquet_folder(tmp_path, interactions, items))
    assert dataset.interactions["user_id"].tolist() == [str(2**60 + 1), "3"]
    assert dataset.interactions["item_id"].tolist() == ["7", pd.NA]
    assert dataset.interactions["source_row"].tolist() == [1, 2]
    assert dataset.items["item_id"].tolist() == ["7", "x"]
    assert dataset.items["title"].tolist() == ["Seven", pd.NA]


def test_parquet_id_that_is_a_fraction_is_refused(tmp_path):
    interactions = pd.DataFrame({"user_id": ["a", "a"], "item_id": [1.0, 1.5], "timestamp": [1, 2]})
    items = pd.DataFrame({"item_id": [1], "title": ["One"]})
    message = message_of(parquet_folder(tmp_path, interactions, items))
    assert message == (
        "interactions.parquet row 2: column 'item_id': 1.5 is neither text nor a whole number"
    )


def test_other_columns_are_kept(tmp_path):
    text = "user_id,item_id,timestamp,rating,code,note\nu,i,1,4.5,01,a\nu,i,2,,02,\n"
    items = 'item_id,title,year,plot\ni,One,1999,"Two\nlines"\nj,Two,2001,\n'
    dataset = load(folder(tmp_path, text, items))
    assert dataset.interactions["rating"].tolist()[0] == 4.5
    assert np.isnan(dataset.interactions["rating"].tolist()[1])
    assert dataset.interactions["code"].tolist() == ["01", "02"]
    assert dataset.interactions["note"].tolist() == ["a", pd.NA]
    assert dataset.items["year"].tolist() == [1999, 2001]
    assert dataset.items["plot"].tolist() == ["Two\nlines", pd.NA]
    # The quoted line break counts: the second item starts on line 4.
    assert dataset.items["source_row"].tolist() == [2, 4]


def test_nested_parquet_columns_become_text(tmp_path):
    interactions = pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]})
    items = pd.DataFrame(
        {
            "item_id": ["i"],
            "title": ["One"],
            "tags": [["funny", "short"]],
            "maker": [{"name": "M"}],
            "seen": [True],
        }
    )
    row = load(parquet_folder(tmp_path, interactions, items)).items.iloc[0]
    assert row["tags"] == "funny, short"
    assert row["maker"] == '{"name": "M"}'
    assert row["seen"] is np.True_


@pytest.mark.parametrize("factor", [1, 10**3, 10**6, 10**9], ids=["s", "ms", "us", "ns"])
def test_unit_of_times_is_told_by_their_size(tmp_path, factor):
    second = 1_600_000_000
    events = times_of(tmp_path, second * factor, (second + 5) * factor)
    assert events == [utc("2020-09-13 12:26:40"), utc("2020-09-13 12:26:45")]


def test_times_as_text(tmp_path):
    events = times_of(
        tmp_path, "2020-01-01", "2020-01-01T06:00:00Z", "2020-01-02 01:30:00.25+01:00", ""
    )
    assert events[:3] == [
        utc("2020-01-01"),
        utc("2020-01-01 06:00"),
        utc("2020-01-02 00:30:00.25"),
    ]
    assert events[3] is pd.NaT


def test_times_with_fractions_of_seconds(tmp_path):
    assert times_of(tmp_path, "1600000000.5", "1600000001") == [
        utc("2020-09-13 12:26:40.5"),
        utc("2020-09-13 12:26:41"),
    ]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_times_are_taken_as_they_are(tmp_path, unit):
    times = pd.Series(["2020-01-01 10:00", "1950-01-01"], dtype=f"datetime64[{unit}]")
    interactions = pd.DataFrame({"user_id": ["a", "b"], "item_id": ["i", "i"], "timestamp": times})
    items = pd.DataFrame({"item_id": ["i"], "title": ["I"]})
    dataset = load(parquet_folder(tmp_path, interactions, items))
    assert dataset.interactions["timestamp"].tolist() == [
        utc("2020-01-01 10:00"),
        utc("1950-01-01"),
    ]


@pytest.mark.parametrize(
    ("wrong", "others"),
    [
        ("abc", "100"),
        ("abc", "2020-01-01"),
        ("now", "2020-01-01"),
        ("2020-13-01", "2020-01-01"),
        ("31/01/2020", "2020-01-01"),
        ("inf", "100.5"),
        ("2020-01-01", "100"),
        ("99999999999999", "100"),
    ],
)
def test_time_that_cannot_be_read_names_line_and_value(tmp_path, wrong, others):
    lines = [f"u,i,{others}"] * 15 + [f"u,i,{wrong}"]
    text = "\n".join(["user_id,item_id,timestamp", *lines])
    message = message_of(folder(tmp_path, text))
    assert message == (
        f"interactions.csv line 17: column 'timestamp': cannot read '{wrong}' as a time"
    )


def test_line_numbers_survive_blank_lines_and_quoted_line_breaks(tmp_path):
    text = 'user_id,item_id,timestamp,note\r\n\r\nu,i,1,"a\r\nb ""q"""\r\n\nu,i,x,\r\nu,i,y,\r\n'
    message = message_of(folder(tmp_path, text))
    assert message.startswith("interactions.csv line 6: column 'timestamp': cannot read 'x'")
    assert message.endswith("(and 1 more such rows)")


def test_parquet_time_that_cannot_be_read_names_the_row(tmp_path):
    interactions = pd.DataFrame(
        {"user_id": ["u"] * 3, "item_id": ["i"] * 3, "timestamp": ["1", "2", "soon"]}
    )
    items = pd.DataFrame({"item_id": ["i"], "title": ["I"]})
    assert message_of(parquet_folder(tmp_path, interactions, items)) == (
        "interactions.parquet row 3: column 'timestamp': cannot read 'soon' as a time"
    )


def test_column_that_cannot_be_times_is_refused(tmp_path):
    interactions = pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [True]})
    items = pd.DataFrame({"item_id": ["i"], "title": ["I"]})
    message = message_of(parquet_folder(tmp_path, interactions, items))
    assert message == "interactions.parquet: column 'timestamp' holds bool, not times"


def test_missing_column_is_named_with_those_found(tmp_path):
    message = message_of(folder(tmp_path, "user,item_id,when\na,b,1\n"))
    assert message == (
        "interactions.csv: no columns 'user_id', 'timestamp'; columns found: user, item_id, when"
    )
    message = message_of(folder(tmp_path, items="item_id;title\n1;One\n"))
    assert message == "items.csv: no columns 'item_id', 'title'; columns found: item_id;title"


def test_missing_column_of_parquet_and_movielens(tmp_path):
    frame = pd.DataFrame({"item_id": ["i"], "name": ["I"]})
    interactions = pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": [1]})
    (tmp_path / "a").mkdir()
    message = message_of(parquet_folder(tmp_path / "a", interactions, frame))
    assert message == "items.parquet: no column 'title'; columns found: item_id, name"
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating\n1,1,4\n")
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,One,Drama\n")
    assert message_of(tmp_path) == (
        "ratings.csv: no column 'timestamp'; columns found: userId, movieId, rating"
    )
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp,item_id\n1,1,4,5,1\n")
    assert message_of(tmp_path) == "ratings.csv: columns 'movieId' and 'item_id' mean the same"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "interactions.csv: the file is empty"),
        (b"\xef\xbb\xbf\n \n", "interactions.csv: the file is empty"),
        (b"user_id,item_id,timestamp\n", "interactions.csv: empty: it has columns but no rows"),
        (b"user_id,item_id,timestamp\nu,i\n", "interactions.csv line 2: 2 fields instead of 3"),
        (
            b"user_id,item_id,timestamp\nu,i,1\n\nu,i,1,9\n",
            "interactions.csv line 4: 4 fields instead of 3",
        ),
        (
            b"user_id,item_id,timestamp\nu,i,1\nu,caf\xe9,1\n",
            "interactions.csv line 3: not UTF-8 text",
        ),
        (
            b'user_id,item_id,timestamp\nu,i,1\nu,i,"1\nu,i,1\n',
            "interactions.csv line 3: a quote that opens here is never closed",
        ),
        (
            b"user_id,item_id,timestamp,item_id\nu,i,1,j\n",
            "interactions.csv: column 'item_id' stands there twice",
        ),
    ],
)
def test_damaged_csv_gives_one_line(tmp_path, content, complaint):
    assert message_of(folder(tmp_path, content)).startswith(complaint)


def test_damaged_parquet_gives_one_line(tmp_path):
    items = pd.DataFrame({"item_id": ["i"], "title": ["I"]})
    items.to_parquet(tmp_path / "items.parquet")
    target = tmp_path / "interactions.parquet"
    target.write_bytes(b"PAR1 and then nothing of the kind")
    assert message_of(tmp_path).startswith("interactions.parquet: cannot be read as parquet: ")
    target.write_bytes(b"")
    assert message_of(tmp_path) == "interactions.parquet: the file is empty"
    columns = {"user_id": "str", "item_id": "str", "timestamp": "int64"}
    pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()}).to_parquet(target)
    assert message_of(tmp_path) == "interactions.parquet: empty: it has columns but no rows"


def test_file_that_cannot_be_opened(tmp_path):
    path = folder(tmp_path)
    (path / "items.csv").unlink()
    (path / "items.csv").mkdir()
    assert message_of(path) == "items.csv: cannot be read: Is a directory"


def test_folder_without_a_data_set_says_what_was_looked_for_and_found(tmp_path):
    message = message_of(tmp_path)
    assert message.startswith(f"{tmp_path}: no data set here: looked for interactions.parquet")
    assert "ratings.dat with movies.dat" in message
    assert message.endswith("found nothing")
    (tmp_path / "ratings.csv").touch()
    (tmp_path / "movies.dat").touch()
    assert message_of(tmp_path).endswith("found movies.dat, ratings.csv")


def test_folder_with_two_data_sets_is_refused(tmp_path):
    folder(tmp_path)
    (tmp_path / "interactions.parquet").touch()
    message = message_of(tmp_path)
    assert "interactions.parquet with items.csv and interactions.csv with items.csv" in message


def test_path_that_is_no_folder(tmp_path):
    assert message_of(tmp_path / "nowhere") == f"{tmp_path / 'nowhere'}: no such folder"
    file = folder(tmp_path) / "items.csv"
    assert message_of(file) == f"{file}: a file: give the folder it lies in"


def test_movielens_csv(tmp_path):
    (tmp_path / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n10,1,4.0,964982703\n9,2,3.5,964981247\n"
    )
    (tmp_path / "movies.csv").write_text(
        'movieId,title,genres\n1,"One, The (1995)",Comedy|Romance\n2,Two,(no genres listed)\n'
    )
    dataset = load(tmp_path)
    assert dataset.interactions["user_id"].tolist() == ["10", "9"]
    assert dataset.interactions["rating"].tolist() == [4.0, 3.5]
    assert dataset.interactions["timestamp"].tolist()[0] == utc("2000-07-30 18:45:03")
    assert dataset.items["item_id"].tolist() == ["1", "2"]
    assert dataset.items["title"].tolist() == ["One, The (1995)", "Two"]
    assert dataset.items["genres"].tolist() == ["Comedy, Romance", ""]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_dat(tmp_path, encoding):
    (tmp_path / "ratings.dat").write_text("1::73::5::956000000\n1::1::4::956000000\n")
    movies = '1::Toy "Story": A, B (1995)::Animation|Children\'s\n73::Misérables, Les::Drama\n'
    (tmp_path / "movies.dat").write_bytes(movies.encode(encoding))
    dataset = load(tmp_path)
    assert dataset.interactions["item_id"].tolist() == ["73", "1"]
    assert dataset.interactions["source_row"].tolist() == [1, 2]
    assert dataset.interactions["rating"].tolist() == [5, 4]
    assert dataset.items["title"].tolist() == ['Toy "Story": A, B (1995)', "Misérables, Les"]
    assert dataset.items["genres"].tolist() == ["Animation, Children's", "Drama"]


def test_movielens_dat_with_a_torn_line(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::73::5::956000000\n1::1::4\n")
    (tmp_path / "movies.dat").write_text("1::One::Drama\n")
    assert message_of(tmp_path) == "ratings.dat line 2: 3 fields instead of 4"


def awkward(tmp_path: Path) -> Dataset:
    text = "user_id,item_id,timestamp,rating\nu1,i1,100,1.5\n,i2,50,2\nu1,,,\n"
    return load(folder(tmp_path, text, ITEMS + "i2,\n"))


def test_stored_tables_come_back_identical(tmp_path):
    dataset = awkward(tmp_path)
    write(dataset, tmp_path / "store" / "abc")
    back = read(tmp_path / "store" / "abc")
    assert back.name == dataset.name
    assert back.digest() == dataset.digest()
    pd.testing.assert_frame_equal(back.interactions, dataset.interactions)
    pd.testing.assert_frame_equal(back.items, dataset.items)
    assert [entry.name for entry in (tmp_path / "store").iterdir()] == ["abc"]


def test_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    dataset = awkward(tmp_path)
    store = tmp_path / "store"
    to_parquet = pd.DataFrame.to_parquet

    def stop_at_items(frame, path, **options):
        if "items" in str(path):
            raise KeyboardInterrupt
        to_parquet(frame, path, **options)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", stop_at_items)
    with pytest.raises(KeyboardInterrupt):
        write(dataset, store / "abc")
    assert list(store.iterdir()) == []
    monkeypatch.undo()
    write(dataset, store / "abc")
    monkeypatch.setattr(pd.DataFrame, "to_parquet", stop_at_items)
    with pytest.raises(KeyboardInterrupt):
        write(dataset, store / "abc")
    assert read(store / "abc").digest() == dataset.digest()


def test_stored_tables_never_replace_anything_else(tmp_path):
    path = folder(tmp_path)
    with pytest.raises(DataError, match="not a stored data set"):
        write(load(path), path)
    assert (path / "items.csv").exists()


def test_reading_a_store_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no stored data set can be read there"):
        read(tmp_path)
