"""Whatever a file holds, it is read rightly or refused in one line; docs/bad-input.md lists what.

`HYPOTHESIS_PROFILE=search pytest tests/hymirec/test_bad_input.py` looks for long.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import ANY_BYTES, CHANGES, changed, taken_or_refused
from hypothesis import given, settings
from hypothesis import strategies as st

from hymirec import additions, datasets
from hymirec.abtest.definition import Experiment, parse
from hymirec.additions import Additions
from hymirec.codebook.kinds import load_codebook
from hymirec.datasets import Dataset
from hymirec.datasets.items import load_items
from hymirec.errors import DataError, HymirecError
from hymirec.history import History, pack, pack_codes, unpack, unpack_code
from hymirec.package import RecommenderPackage

RATINGS = b"userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n1,1029,3.0,1260759179\n2,31,4,1\n"
MOVIES = b'movieId,title,genres\n31,"Dangerous, Minds (1995)",Drama\n1029,Dumbo (1941),Animation\n'
EXPERIMENT = b"""name: new-codebook
hypothesis: finer codes find more
owner: somebody
variants:
- {name: control, model: champion}
- {name: treatment, model: 3}
ramp:
- {share: 0.1, min_users: 100}
- {share: 1.0, min_users: 1000}
horizon: {days: 14}
"""


@pytest.fixture(scope="module")
def folder():
    """A place for the files of one example after the other."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def bytes_of(valid):
    """Bytes of any kind, or valid ones changed."""
    return st.one_of(ANY_BYTES, st.builds(changed, st.just(valid), CHANGES))


def parquet_of(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


# Data files


@given(ratings=bytes_of(RATINGS), movies=bytes_of(MOVIES))
def test_movielens_as_csv(folder, ratings, movies):
    (folder / "ratings.csv").write_bytes(ratings)
    (folder / "movies.csv").write_bytes(movies)
    found = taken_or_refused(datasets.load, folder)
    if isinstance(found, Dataset):
        assert len(found.interactions)
        assert str(found.interactions["timestamp"].dtype) == "datetime64[ns, UTC]"


@given(
    ratings=bytes_of(b"1::31::2::1260759144\n1::1029::3::1260759179\n"),
    movies=bytes_of(b"31::Dangerous Minds (1995)::Drama\n1029::Dumbo::Animation|Children\n"),
)
def test_movielens_with_colons(tmp_path_factory, ratings, movies):
    folder = tmp_path_factory.getbasetemp() / "colons"
    folder.mkdir(exist_ok=True)
    (folder / "ratings.dat").write_bytes(ratings)
    (folder / "movies.dat").write_bytes(movies)
    taken_or_refused(datasets.load, folder)


@given(content=bytes_of(MOVIES), name=st.sampled_from(["movies.csv", "movies.dat", "new.csv"]))
def test_items_alone(folder, content, name):
    (folder / name).write_bytes(
        content.replace(b"movieId", b"item_id") if "new" in name else content
    )
    found = taken_or_refused(load_items, folder / name)
    if not isinstance(found, HymirecError):
        assert found["item_id"].is_unique
        assert (found["title"].str.strip() != "").all()


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.binary(max_size=8), st.datetimes(), st.dates(), st.decimals(),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.text(max_size=3), st.none()),
)  # fmt: skip


@st.composite
def columns(draw):
    """A column of one kind with holes, of whatever kind."""
    sample = draw(st.lists(VALUES, min_size=2, max_size=2))
    try:
        return pa.array(sample)
    except (pa.ArrowException, OverflowError, ValueError):
        return pa.array([str(one) if one is not None else None for one in sample])


@given(user=columns(), item=columns(), time=columns(), title=columns(), tags=columns())
def test_tables_of_any_types(tmp_path_factory, user, item, time, title, tags):
    folder = tmp_path_factory.getbasetemp() / "types"
    folder.mkdir(exist_ok=True)
    events = {"user_id": user, "item_id": item, "timestamp": time, "tags": tags}
    catalogue = {"item_id": item, "title": title, "tags": tags}
    (folder / "interactions.parquet").write_bytes(parquet_of(pa.table(events)))
    (folder / "items.parquet").write_bytes(parquet_of(pa.table(catalogue)))
    found = taken_or_refused(datasets.load, folder)
    if isinstance(found, Dataset):
        found.digest()


ITEMS_PARQUET = parquet_of(pa.table({"item_id": ["1", "2"], "title": ["one", "two"]}))


@given(content=bytes_of(ITEMS_PARQUET))
def test_damaged_parquet(folder, content):
    (folder / "items.parquet").write_bytes(content)
    taken_or_refused(load_items, folder / "items.parquet")


# Rows of the feature store


IDS = st.lists(
    st.one_of(st.integers(-(2**70), 2**70).map(str), st.text(max_size=12)), max_size=6
)  # fmt: skip


@st.composite
def histories(draw):
    ids = draw(IDS)
    times = sorted(draw(st.lists(st.integers(-(2**62), 2**62), min_size=len(ids),
                                 max_size=len(ids))))  # fmt: skip
    codes = draw(st.binary(min_size=3 * len(ids), max_size=3 * len(ids)))
    return History(
        ids, np.array(times, dtype=np.int64), np.frombuffer(codes, np.uint8).reshape(-1, 3),
        "0123456789ab", draw(st.integers(0, 2**40)),
    )  # fmt: skip


@given(history=histories())
def test_any_history_comes_back_as_it_was(history):
    packed = taken_or_refused(pack, history)
    if not isinstance(packed, HymirecError):
        found = unpack(packed)
        assert list(found.item_ids) == list(history.item_ids)
        np.testing.assert_array_equal(found.times, history.times)
        np.testing.assert_array_equal(found.codes, history.codes)
        assert (found.codebook_id, found.written_at) == (history.codebook_id, history.written_at)


@given(history=histories(), changes=CHANGES)
def test_damaged_rows(history, changes):
    packed = taken_or_refused(pack, history)
    if not isinstance(packed, HymirecError):
        taken_or_refused(unpack, changed(packed, changes))


@given(blob=ANY_BYTES, begin=st.sampled_from([b"", b"HMH2", b"HMC1"]))
def test_rows_of_any_bytes(blob, begin):
    taken_or_refused(unpack, begin + blob)
    taken_or_refused(unpack_code, begin + blob)


@given(changes=CHANGES)
def test_damaged_codes(changes):
    (packed,) = pack_codes(np.arange(9, dtype=np.uint8)[None], "0123456789ab")
    taken_or_refused(unpack_code, changed(packed, changes))


# Packages of models


@given(data=st.data())
def test_a_damaged_codebook(folder, codebook, data):
    path = folder / "codebook.safetensors"
    codebook.save(path)
    path.write_bytes(data.draw(bytes_of(path.read_bytes())))
    taken_or_refused(load_codebook, path)


@pytest.fixture(scope="module")
def saved_package(package):
    with tempfile.TemporaryDirectory() as path:
        package.save(Path(path) / "package")
        yield Path(path) / "package"


def names_of(package):
    return sorted(path.relative_to(package) for path in package.rglob("*") if path.is_file())


def test_every_file_of_a_package_is_sealed(folder, saved_package):
    for name in names_of(saved_package):
        place = folder / "sealed"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(saved_package, place)
        content = bytearray((place / name).read_bytes())
        content[len(content) // 2] ^= 1  # one bit, where no reader would see it
        (place / name).write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read"):
            RecommenderPackage.load(place)


@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_package_of_before_there_were_seals(folder, saved_package, data):
    place = folder / "package"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(saved_package, place)
    (place / "digests.json").unlink()
    path = place / data.draw(st.sampled_from(names_of(place)))
    if data.draw(st.integers(0, 4)):
        path.write_bytes(data.draw(bytes_of(path.read_bytes())))
    else:
        path.unlink()
    found = taken_or_refused(RecommenderPackage.load, place)
    if isinstance(found, DataError):
        assert str(place) in str(found)


@given(data=st.data())
def test_a_damaged_publication(folder, data):
    place = folder / "publications"
    shutil.rmtree(place, ignore_errors=True)
    vectors = np.eye(2, 4, dtype=np.float32)
    new = Additions(["a", "b"], ["A", "B"], ["a", "b"], vectors, np.zeros((2, 3), np.uint8))
    path = additions.publish(place, new)
    path.write_bytes(data.draw(bytes_of(path.read_bytes())))
    taken_or_refused(additions.read, [path])


@given(data=st.data())
def test_a_damaged_data_set_of_ours(folder, data):
    place = folder / "stored"
    shutil.rmtree(place, ignore_errors=True)
    events = pd.DataFrame({"user_id": ["u"], "item_id": ["i"], "source_row": [1]})
    datasets.write(Dataset("mine", events, events), place)
    path = place / data.draw(st.sampled_from(sorted(one.name for one in place.iterdir())))
    path.write_bytes(data.draw(bytes_of(path.read_bytes())))
    taken_or_refused(datasets.read, place)


# Experiments


@given(content=bytes_of(EXPERIMENT))
def test_experiments_in_yaml(content):
    found = taken_or_refused(parse, content.decode(errors="replace"), "experiment.yaml")
    assert isinstance(found, Experiment | HymirecError)


YAML = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(field=st.sampled_from(sorted(Experiment.model_fields)), value=YAML)
def test_an_experiment_with_a_field_of_any_kind(field, value):
    import yaml

    values = yaml.safe_load(EXPERIMENT) | {field: value}
    text = yaml.safe_dump(values, allow_unicode=True)
    found = taken_or_refused(parse, text, "experiment.yaml")
    assert isinstance(found, Experiment | HymirecError)
