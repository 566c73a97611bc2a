"""The file of histories, built in shards: the rows that all at once would give, and resumed."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features import building, offline
from features.offline import history_path
from hymirec.errors import DataError
from hymirec.home import Home
from hymirec.sharding import one_by_one

CODEBOOK = "0123456789ab"
AT = datetime(2026, 1, 1, tzinfo=UTC)
ITEMS = [f"i{number}" for number in range(20)]
CODES = np.random.default_rng(0).integers(0, 256, (20, 4), dtype=np.uint8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(building, "EVENTS_PER_SHARD", 30)
    monkeypatch.setattr(building, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(offline, "ROWS_PER_GROUP", 3)


@pytest.fixture
def interactions():
    """40 users with 1 to 11 events each."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 12, 40)
    users = np.repeat([f"u{number:02}" for number in range(40)], lengths)
    times = rng.integers(0, 10**6, lengths.sum())
    frame = pd.DataFrame({"user_id": users, "item_id": rng.choice(ITEMS, len(users))})
    return frame.assign(timestamp=pd.to_datetime(times, unit="s", utc=True))


@pytest.fixture
def path(interactions, tmp_path):
    """The same as a file whose own groups end anywhere."""
    interactions.to_parquet(tmp_path / "interactions.parquet", index=False, row_group_size=7)
    return tmp_path / "interactions.parquet"


def build(home, path, each_shard=one_by_one, codes=CODES):
    building.build_histories_file(home, CODEBOOK, path, ITEMS, codes, AT, each_shard)
    return pq.read_table(history_path(home, CODEBOOK))


def test_shards_make_the_rows_that_all_at_once_make(tmp_path, path, interactions):
    home = Home.at(tmp_path)
    whole = offline.history_rows(interactions, ITEMS, CODES, CODEBOOK, AT)
    assert len(building.cut_at_users(path)) > 4
    found = build(home, path)
    pd.testing.assert_frame_equal(found.to_pandas(), whole, check_dtype=False)
    sizes = offline.group_sizes(home, CODEBOOK)
    assert sizes == [3] * 13 + [1]
    assert list(history_path(home, CODEBOOK).parent.iterdir()) == [history_path(home, CODEBOOK)]


def test_shards_are_stretches_of_whole_groups_of_users(path, interactions):
    cuts = building.cut_at_users(path)
    users = [interactions.user_id[start:stop].unique().tolist() for start, stop in cuts]
    assert np.concatenate(users).tolist() == interactions.user_id.unique().tolist()
    assert all(len(some) % 3 == 0 for some in users[:-1])
    assert min(stop - start for start, stop in cuts[:-1]) >= 30


def test_an_interrupted_build_goes_on(tmp_path, path):
    home, done = Home.at(tmp_path), []

    def stopped(name, work, shards, **more):
        for place, result in enumerate(one_by_one(name, work, shards, **more)):
            if place == 2:
                raise KeyboardInterrupt
            yield result

    def counting(name, work, shards, **more):
        done.append(len(shards))
        return one_by_one(name, work, shards, **more)

    with pytest.raises(KeyboardInterrupt):
        build(home, path, stopped)
    assert not history_path(home, CODEBOOK).exists()
    found = build(home, path, counting)
    assert build(home, path, counting).equals(found)
    whole = len(building.cut_at_users(path))
    assert done == [whole - 3, whole]
    with pytest.raises(KeyboardInterrupt):
        build(home, path, stopped)
    build(home, path, counting, codes=CODES + 1)  # other codes: nothing of it holds
    assert done[-1] == whole


def test_tables_that_are_none(tmp_path, path, interactions):
    home = Home.at(tmp_path)
    interactions[::-1].to_parquet(path, index=False)
    with pytest.raises(DataError, match="not in order of users"):
        build(home, path)
    interactions[:0].to_parquet(path, index=False)
    with pytest.raises(DataError, match="no interactions"):
        build(home, path)
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="not a readable parquet file"):
        build(home, path)
    path.unlink()
    with pytest.raises(DataError, match="not a readable parquet file"):
        build(home, path)
