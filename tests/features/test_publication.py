"""Offline files are read in pieces, in memory that does not grow with them."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.publication import _pieces


@pytest.mark.parametrize("group_size", [1, 3, 5, 7, 100])
def test_pieces_are_all_rows_in_their_order(tmp_path, group_size):
    pq.write_table(pa.table({"n": range(23)}), tmp_path / "rows", row_group_size=group_size)
    with pq.ParquetFile(tmp_path / "rows") as file:
        found = list(_pieces(file, range(file.num_row_groups), 5))
    assert np.concatenate([rows["n"] for rows in found]).tolist() == list(range(23))
    assert max(map(len, found)) <= 5


def test_what_was_read_is_let_go(tmp_path):
    schema = pa.schema([("blob", pa.binary())])
    with pq.ParquetWriter(tmp_path / "rows", schema) as writer:
        for _ in range(30):
            writer.write_table(pa.table({"blob": [os.urandom(1_000_000)]}, schema))
    before, held = pa.total_allocated_bytes(), []
    with pq.ParquetFile(tmp_path / "rows") as file:
        held += (pa.total_allocated_bytes() - before for _ in _pieces(file, range(30), 2))
    assert len(held) == 15
    assert max(held) < 8e6  # of 30
