"""One user's history as a value, and as bytes; one item's code as bytes.

The bytes are self-describing, little-endian and versioned, because they outlive the process that
wrote them: a feature store keeps them between training and serving.

A history:

    offset  size  field
    0       4     magic "HMH2" (HyMiRec history, format 2)
    4       1     id kind: 0 int32, 1 int64, 2 UTF-8
    5       1     bytes of one event's time: 4, or 8 where the history spans over 136 years
    6       1     bytes of one item's code (0: no codes)
    7       16    codebook id, ASCII, padded with NUL
    23      4     number of events L
    27      8     time of the first event, int64 seconds since 1970 UTC
    35      8     when the row was written, int64 seconds since 1970 UTC; 0 where nobody says
    43      ...   L event times, seconds since the first
            ...   L item ids: integers, or L uint16 lengths followed by the text
            ...   L codes

2,000 events with integer ids below 2³¹ and codes of 9 bytes take 34,043 bytes.

A code:

    offset  size  field
    0       4     magic "HMC1"
    4       1     bytes of the code
    5       16    codebook id, ASCII, padded with NUL
    21      ...   the code
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hymirec.errors import DataError, VersionError

MAGIC = b"HMH2"
CODE_MAGIC = b"HMC1"
_HEADER = struct.Struct("<4sBBB16sIqq")
_CODE_HEADER = struct.Struct("<4sB16s")
_INT32, _INT64, _TEXT = 0, 1, 2
_TIME_TYPES = {4: "<u4", 8: "<u8"}


@dataclass(frozen=True)
class History:
    """Events of one user, oldest first; events of one second keep the order they came in.

    Attributes:
        item_ids: L item ids as the user's data names them.
        times: int64 [L], seconds since 1970 UTC, never falling.
        codes: uint8 [L, bytes per item]: each item's packed code under `codebook_id`.
        codebook_id: the digest of the codebook the codes were made with.
        written_at: seconds since 1970 UTC when a store's row was written, 0 where nobody says; a
            row's age is counted from here.
    """

    item_ids: Sequence[str]
    times: NDArray[np.int64]
    codes: NDArray[np.uint8]
    codebook_id: str
    written_at: int = 0

    def __post_init__(self) -> None:
        """Refuse a history whose parts disagree in length or type, or run back in time."""
        length = len(self.item_ids)
        if self.times.shape != (length,) or self.codes.ndim != 2 or len(self.codes) != length:
            raise DataError(
                f"history: {length} item ids, {self.times.shape} times and {self.codes.shape} codes"
            )
        if self.times.dtype != np.int64 or self.codes.dtype != np.uint8:
            raise DataError(
                f"history: times are {self.times.dtype} and codes {self.codes.dtype}, "
                "not int64 and uint8"
            )
        if (self.times[1:] < self.times[:-1]).any():
            raise DataError("history: event times are not in order")

    def __len__(self) -> int:
        return len(self.item_ids)

    def tail(self, num_events: int) -> History:
        """Return the most recent `num_events` events, or all there are."""
        start = max(0, len(self) - num_events)
        return self[start:]

    def __getitem__(self, part: slice) -> History:
        return replace(
            self, item_ids=self.item_ids[part], times=self.times[part], codes=self.codes[part]
        )


def pack(history: History) -> bytes:
    """Write a history as bytes (the layout is at the top of this file).

    Raises:
        DataError: an item id, a code or the codebook id is too long for the layout.
    """
    kind, ids = _pack_ids(history.item_ids)
    first = int(history.times[0]) if len(history) else 0
    span = int(history.times[-1]) - first if len(history) else 0
    time_bytes = 4 if span < 2**32 else 8
    # The difference is taken modulo 2⁶⁴, so that it is right for any two times.
    since_first = history.times.astype(np.uint64) - np.uint64(first % 2**64)
    header = _HEADER.pack(
        MAGIC,
        kind,
        time_bytes,
        _code_bytes(history.codes),
        _pack_codebook_id(history.codebook_id),
        len(history),
        first,
        history.written_at,
    )
    times = since_first.astype(_TIME_TYPES[time_bytes]).tobytes()
    return b"".join((header, times, ids, history.codes.tobytes()))


def unpack(blob: bytes, codebook_id: str = "") -> History:
    """Read what `pack` wrote.

    Args:
        blob: the bytes.
        codebook_id: when given, codes made with any other codebook are refused.

    Raises:
        DataError: the bytes are not a history, or are damaged.
        VersionError: the codes belong to another codebook.
    """
    _check_magic(blob, MAGIC, _HEADER.size, "history")
    _, kind, time_bytes, code_bytes, raw_id, length, first, written = _HEADER.unpack_from(blob)
    stored_id = _unpack_codebook_id(raw_id, codebook_id, "history")
    if time_bytes not in _TIME_TYPES:
        raise DataError(f"packed history has times of {time_bytes} bytes")
    try:
        offset = _HEADER.size
        since_first = np.frombuffer(blob, _TIME_TYPES[time_bytes], length, offset)
        times = (since_first.astype(np.uint64) + np.uint64(first % 2**64)).astype(np.int64)
        offset += since_first.nbytes
        item_ids, offset = _unpack_ids(blob, kind, length, offset)
        codes = np.frombuffer(blob, np.uint8, length * code_bytes, offset)
    except ValueError as error:
        raise DataError(f"packed history of {length} events is damaged: {error}") from error
    end = offset + codes.size
    if end != len(blob):
        raise DataError(f"packed history of {length} events has {len(blob)} bytes, not {end}")
    return History(item_ids, times, codes.reshape(length, code_bytes), stored_id, written)


def pack_codes(codes: NDArray[np.uint8], codebook_id: str) -> list[bytes]:
    """Write N items' codes, uint8 [N, bytes per item], as one blob for each item."""
    header = _CODE_HEADER.pack(CODE_MAGIC, _code_bytes(codes), _pack_codebook_id(codebook_id))
    return [header + code.tobytes() for code in codes]


def unpack_code(blob: bytes, codebook_id: str = "") -> NDArray[np.uint8]:
    """Read one blob that `pack_codes` wrote, as uint8 [bytes per item].

    Raises:
        DataError: the bytes are not a code, or are damaged.
        VersionError: the code belongs to another codebook than the one given.
    """
    _check_magic(blob, CODE_MAGIC, _CODE_HEADER.size, "code")
    _, code_bytes, raw_id = _CODE_HEADER.unpack_from(blob)
    _unpack_codebook_id(raw_id, codebook_id, "code")
    end = _CODE_HEADER.size + code_bytes
    if end != len(blob):
        raise DataError(f"packed code has {len(blob)} bytes, not {end}")
    return np.frombuffer(blob, np.uint8, code_bytes, _CODE_HEADER.size)


def _check_magic(blob: bytes, magic: bytes, header_size: int, what: str) -> None:
    if not isinstance(blob, bytes):
        raise DataError(f"not a packed {what}: {type(blob).__name__}, not bytes")
    if len(blob) < header_size or blob[:4] != magic:
        raise DataError(f"not a packed {what}: {len(blob)} bytes starting {blob[:4]!r}")


def _code_bytes(codes: NDArray[np.uint8]) -> int:
    if codes.dtype != np.uint8 or codes.shape[1] > 255:
        raise DataError(f"codes are {codes.dtype} {codes.shape}; a code is up to 255 uint8")
    return int(codes.shape[1])


def _pack_codebook_id(codebook_id: str) -> bytes:
    if len(codebook_id) > 16 or not codebook_id.isascii():
        raise DataError(f"codebook id {codebook_id!r} is not of up to 16 ASCII characters")
    return codebook_id.encode("ascii")


def _unpack_codebook_id(raw: bytes, wanted: str, what: str) -> str:
    """Read the codebook id of a header; refuse any but the wanted one, if one is wanted."""
    try:
        stored = raw.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError as error:
        raise DataError(f"packed {what} is damaged: codebook id {raw!r}") from error
    if wanted and stored != wanted:
        raise VersionError(f"packed {what} is of codebook {stored}, not {wanted}")
    return stored


def _pack_ids(item_ids: Sequence[str]) -> tuple[int, bytes]:
    """Store ids as integers where that brings back the same text, else as text."""
    try:
        numbers = np.array([int(item) for item in item_ids], dtype=np.int64)
    except (ValueError, OverflowError):
        numbers = None
    if numbers is not None and all(
        str(number) == item for number, item in zip(numbers.tolist(), item_ids, strict=True)
    ):
        small = not len(numbers) or (numbers.min() >= -(2**31) and numbers.max() < 2**31)
        if small:
            return _INT32, numbers.astype("<i4").tobytes()
        return _INT64, numbers.astype("<i8").tobytes()
    texts = [item.encode() for item in item_ids]
    lengths = np.array([len(text) for text in texts])
    if lengths.max() > 0xFFFF:
        raise DataError(f"item id of {lengths.max()} bytes: 65535 is the most")
    return _TEXT, lengths.astype("<u2").tobytes() + b"".join(texts)


def _unpack_ids(blob: bytes, kind: int, length: int, offset: int) -> tuple[list[str], int]:
    if kind in (_INT32, _INT64):
        numbers = np.frombuffer(blob, "<i4" if kind == _INT32 else "<i8", length, offset)
        # Arrow spells numbers in two thirds of Python's time, which is most of a long row's.
        texts = pa.array(numbers).cast(pa.string()).to_numpy(zero_copy_only=False)
        return texts.tolist(), offset + numbers.nbytes
    if kind != _TEXT:
        raise DataError(f"packed history has unknown id kind {kind}")
    lengths = np.frombuffer(blob, "<u2", length, offset)
    offset += lengths.nbytes
    ends = offset + np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return [blob[a:b].decode() for a, b in pairs], int(ends[-1]) if length else offset
