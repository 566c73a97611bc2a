"""Histories and codes as bytes: what goes in comes out, and anything else is refused."""

import numpy as np
import pytest

from hymirec.errors import DataError, VersionError
from hymirec.history import History, pack, pack_codes, unpack, unpack_code

CODEBOOK = "0123456789ab"
OTHER = "ba9876543210"


def make_history(item_ids, times=None, code_bytes=9, codebook_id=CODEBOOK):
    length = len(item_ids)
    codes = np.random.default_rng(0).integers(0, 256, (length, code_bytes)).astype(np.uint8)
    times = np.arange(length) * 60 if times is None else times
    return History(item_ids, np.asarray(times, dtype=np.int64), codes, codebook_id, 1_700_000_000)


def assert_same(actual, expected):
    assert list(actual.item_ids) == list(expected.item_ids)
    np.testing.assert_array_equal(actual.times, expected.times)
    np.testing.assert_array_equal(actual.codes, expected.codes)
    assert actual.times.dtype == np.int64
    assert actual.codes.dtype == np.uint8
    assert actual.codebook_id == expected.codebook_id
    assert actual.written_at == expected.written_at


@pytest.mark.parametrize(
    "item_ids",
    [
        ["1", "2", "1"],
        ["-2147483648", "2147483647"],
        ["2147483648", "-9223372036854775808", "9223372036854775807"],
        ["9223372036854775808"],  # one more than int64 holds
        ["007", "7"],  # not the same item
        ["+1", " 1", "1_000", "-0", "٣"],  # int() reads all of these
        ["tt0114709", "café", "映画", ""],
        ["12", "B00A"],
        ["a" * 65_535],
        [],
    ],
)
def test_round_trip_of_ids(item_ids):
    history = make_history(item_ids)
    assert_same(unpack(pack(history), CODEBOOK), history)


@pytest.mark.parametrize(
    "times",
    [
        [0, 0, 0],
        [-2_208_988_800, 0, 4_102_444_800],  # 1900 to 2100: more than 2³² seconds
        [978_300_000, 978_300_000, 978_300_001],
        [-(2**63), 0, 2**63 - 1],
    ],
)
def test_round_trip_of_times(times):
    history = make_history(["a", "b", "c"], times)
    assert_same(unpack(pack(history)), history)


@pytest.mark.parametrize("code_bytes", [0, 1, 12, 255])
def test_round_trip_of_code_lengths(code_bytes):
    for item_ids in ([], ["5", "x"]):
        history = make_history(item_ids, code_bytes=code_bytes)
        assert_same(unpack(pack(history)), history)


def test_size_of_2000_events():
    history = make_history([str(i) for i in range(2_000)], np.arange(2_000) + 1_000_000_000)
    assert len(pack(history)) == 43 + 2_000 * (4 + 4 + 9) == 34_043


def test_item_id_too_long_is_refused():
    with pytest.raises(DataError, match="65536 bytes"):
        pack(make_history(["a" * 65_536]))


def test_wrong_codebook_is_refused():
    blob = pack(make_history(["1"]))
    with pytest.raises(VersionError, match=f"{CODEBOOK}, not {OTHER}"):
        unpack(blob, OTHER)
    (code,) = pack_codes(np.ones((1, 9), np.uint8), CODEBOOK)
    with pytest.raises(VersionError, match=f"{CODEBOOK}, not {OTHER}"):
        unpack_code(code, OTHER)


@pytest.mark.parametrize("item_ids", [["1", "2", "3"], ["a", "bc", "def"]])
def test_every_truncation_and_any_addition_is_refused(item_ids):
    blob = pack(make_history(item_ids))
    for end in range(len(blob)):
        with pytest.raises(DataError):
            unpack(blob[:end])
    with pytest.raises(DataError):
        unpack(blob + b"\0")


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"X"),  # magic
        (3, b"3"),  # format
        (4, b"\x07"),  # id kind
        (5, b"\x03"),  # bytes of a time
        (6, b"\x01"),  # bytes of a code
        (7, b"\xff"),  # codebook id
        (23, b"\xff\xff\xff\xff"),  # number of events
        (43, b"\xff\xff\xff\xff"),  # the first event later than the second
    ],
)
def test_damage_is_refused(offset, value):
    blob = bytearray(pack(make_history(["1", "2"])))
    blob[offset : offset + len(value)] = value
    with pytest.raises(DataError):
        unpack(bytes(blob))


@pytest.mark.parametrize("blob", [None, "HMH2", 7, np.zeros(40, np.uint8), bytearray(40), b""])
def test_what_is_not_bytes_of_ours_is_refused(blob):
    with pytest.raises(DataError, match="not a packed history"):
        unpack(blob)
    with pytest.raises(DataError, match="not a packed code"):
        unpack_code(blob)


@pytest.mark.parametrize(
    ("times", "codes"),
    [
        (np.array([2, 1]), np.zeros((2, 9), np.uint8)),
        (np.array([1]), np.zeros((2, 9), np.uint8)),
        (np.array([1, 2]), np.zeros((3, 9), np.uint8)),
        (np.array([1, 2]), np.zeros(2, np.uint8)),
        (np.array([1, 2]), np.zeros((2, 9), np.int64)),
        (np.array([1.0, 2.0]), np.zeros((2, 9), np.uint8)),
    ],
)
def test_history_refuses_parts_that_disagree(times, codes):
    with pytest.raises(DataError, match="history"):
        History(["1", "2"], times, codes, CODEBOOK)


def test_codes_too_long_for_the_layout_are_refused():
    with pytest.raises(DataError, match="255"):
        pack(make_history(["1"], code_bytes=256))
    with pytest.raises(DataError, match="16 ASCII"):
        pack(make_history(["1"], codebook_id="a" * 17))


def test_tail_is_the_most_recent_events():
    history = make_history(["1", "2", "3"])
    assert history.tail(2).item_ids == ["2", "3"]
    assert_same(history.tail(9), history)
    assert len(history.tail(0)) == 0


def test_codes_of_items_round_trip_and_refuse_damage():
    codes = np.arange(18, dtype=np.uint8).reshape(2, 9)
    blobs = pack_codes(codes, CODEBOOK)
    assert [len(blob) for blob in blobs] == [30, 30]
    np.testing.assert_array_equal([unpack_code(blob, CODEBOOK) for blob in blobs], codes)
    for end in range(30):
        with pytest.raises(DataError):
            unpack_code(blobs[0][:end])
    with pytest.raises(DataError):
        unpack_code(blobs[0] + b"\0")
    with pytest.raises(DataError):
        unpack_code(pack(make_history(["1"])))
