"""Shards in this process, what is tried again, and a cluster that is not there."""

import pytest

from flows.runtime import shards
from flows.runtime.shards import each_shard, elsewhere, is_io
from hymirec.errors import DataError, HymirecError, UsageError


def double(number):
    return 2 * number


def test_results_come_in_the_shards_order_one_at_a_time(monkeypatch):
    monkeypatch.delenv(shards.ENV_DASK, raising=False)
    done = []

    def work(number):
        done.append(number)
        return double(number)

    results = each_shard("doubling", work, [{"number": n} for n in (3, 1, 2)])
    assert next(results) == 6
    assert done == [3]
    assert list(results) == [2, 4]
    assert list(each_shard("nothing", work, [])) == []
    assert elsewhere("doubling") is None


def caused(error, cause):
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionResetError("gone"), True),
        (TimeoutError("slow"), True),
        (caused(RuntimeError("wrapped"), OSError("no disk")), True),
        (caused(HymirecError("store cannot be read"), ConnectionRefusedError()), True),
        (DataError("column 'timestamp' is missing"), False),
        (caused(UsageError("no such folder"), FileNotFoundError()), False),
        (ValueError("shapes"), False),
    ],
)
def test_only_reading_and_writing_is_tried_again(error, again):
    assert is_io(error) is again


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_cluster_that_is_not_there_is_one_line(address, monkeypatch):
    pytest.importorskip("prefect_dask")
    monkeypatch.setenv(shards.ENV_DASK, address)
    monkeypatch.setattr(shards, "CONNECT_SECONDS", 1)
    with pytest.raises(UsageError, match="HYMIREC_DASK: no Dask scheduler at ") as caught:
        list(each_shard("doubling", double, [{"number": 1}]))
    assert "\n" not in str(caught.value)
