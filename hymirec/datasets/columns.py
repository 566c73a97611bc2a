"""Columns of any source as canonical ones: ids as text, times in UTC, the rest kept simple."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hymirec.datasets.source import Source
from hymirec.errors import DataError

TEXT = pd.StringDtype("pyarrow")

_NS_PER_UNIT = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_LARGEST_EXACT_FLOAT = 2**53


def ids(source: Source, column: str) -> pd.Series:
    """Read ids as text; whole numbers become their decimal text, and '' becomes null.

    Raises:
        DataError: the column holds something that is neither text nor a whole number.
    """
    values = _decoded(source.table.column(column))
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        # Integers beside a null are floats in many a tool: 7.0 is the id '7'.
        numbers = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
        present = ~np.isnan(numbers)
        whole = (numbers == np.round(numbers)) & (np.abs(numbers) <= _LARGEST_EXACT_FLOAT)
        _refuse(source, column, present & ~whole, "is neither text nor a whole number")
        values = pa.array(np.where(present, numbers, 0).astype(np.int64), mask=~present)
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{source.file}: column {column!r} holds {kind}, not ids")
    texts = _text(values)
    if source.unit == "line" and pc.all(pc.match_substring_regex(texts, r"^\d+\.0$")).as_py():
        # The same tools write such a column to a text file as '7.0'.
        texts = pc.replace_substring_regex(texts, r"\.0$", "")
    return _series(pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts))


def times(source: Source, column: str) -> pd.Series:
    """Read times as `datetime64[ns, UTC]`; a null stays one, and a time without zone is UTC.

    Numbers count from 1970 in seconds, milliseconds, microseconds or nanoseconds, told apart by
    the column's median; text is a number or ISO 8601; typed times are taken as they are.

    Raises:
        DataError: a value is not a time, or lies outside the years 1677 to 2262.
    """
    values = _decoded(source.table.column(column))
    kind = values.type
    if pa.types.is_date(kind):
        values = values.cast(pa.timestamp("ms"))
        kind = values.type
    if pa.types.is_timestamp(kind):
        present = values.is_valid().to_numpy()
        counts = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
        return _from_counts(source, column, counts, present, _NS_PER_UNIT[kind.unit])
    if pa.types.is_null(kind):
        return pd.Series(pd.NaT, index=range(len(values)), dtype="datetime64[ns, UTC]")
    if _is_text(kind):
        return _from_text(source, column, values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _from_numbers(source, column, values)
    raise DataError(f"{source.file}: column {column!r} holds {kind}, not times")


def texts(source: Source, column: str) -> pd.Series:
    """Read any column as text: lists of text joined by ', ', other nested values as JSON."""
    return _series(_text(_decoded(source.table.column(column))))


def kept(source: Source, column: str) -> pd.Series:
    """Keep a column nobody asked for: numbers and truth values as such, all else as text.

    A text file's column counts as numbers if every value is one and none has leading zeros.
    """
    values = _decoded(source.table.column(column))
    kind = values.type
    if source.unit == "line":
        values = _numbers_if_all(values)
        kind = values.type
    if pa.types.is_boolean(kind):
        return pd.Series(values.to_pandas(), dtype=pd.BooleanDtype())
    if pa.types.is_integer(kind):
        wide = pa.float64() if kind == pa.uint64() or values.null_count else pa.int64()
        return pd.Series(values.cast(wide, safe=False).to_pandas())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pd.Series(values.cast(pa.float64(), safe=False).to_pandas())
    return _series(_text(values))


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo dictionary coding, and take bytes for the text they nearly always are."""
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            return values
    return values


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _text(values: Any) -> Any:
    try:
        return values.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        rows = [_row_text(row) for row in values.to_pylist()]
        return pa.chunked_array([pa.array(rows, type=pa.string())])


def _row_text(row: Any) -> str | None:
    """Write a nested value: tags and the like as a reader would, anything else as JSON."""
    if isinstance(row, list) and all(part is None or isinstance(part, str) for part in row):
        return ", ".join(part for part in row if part is not None)
    return None if row is None else json.dumps(row, default=str, ensure_ascii=False)


def _series(values: Any) -> pd.Series:
    return pd.Series(values.to_pandas(types_mapper={pa.string(): TEXT}.get))


def _numbers_if_all(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if (
        values.null_count == len(values)
        or pc.any(pc.match_substring_regex(values, r"^0\d")).as_py()
    ):
        return values
    for kind in (pa.int64(), pa.float64()):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:
            continue
    return values


def _from_text(source: Source, column: str, values: pa.ChunkedArray) -> pd.Series:
    with suppress(pa.ArrowInvalid):  # not all of them are whole numbers: read as times below
        return _from_numbers(source, column, values.cast(pa.int64()))
    present = values.is_valid().to_numpy()
    words = values.to_pandas().astype(object)
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(np.float64)
    is_number = np.isfinite(numbers)
    parsed = pd.Series(pd.to_datetime(words, format="ISO8601", utc=True, errors="coerce"))
    # pandas would also take 'now' and 'today'.
    dated = pc.fill_null(pc.match_substring_regex(values, r"^\s*[+-]?\d"), False).to_numpy()
    is_date = parsed.notna().to_numpy() & dated
    # What most values are is what the column means, and the others are the mistakes.
    if is_number.sum() >= is_date.sum():
        _refuse(source, column, present & ~is_number)
        return _from_numbers(source, column, pa.chunked_array([pa.array(numbers, mask=~present)]))
    _refuse(source, column, present & ~is_date)
    return parsed.astype("datetime64[ns, UTC]")


def _from_numbers(source: Source, column: str, values: pa.ChunkedArray) -> pd.Series:
    present = values.is_valid().to_numpy()
    if pa.types.is_integer(values.type) and values.type != pa.uint64():
        counts: NDArray[Any] = pc.fill_null(values.cast(pa.int64()), 0).to_numpy()
    else:
        counts = values.cast(pa.float64(), safe=False).to_numpy().astype(np.float64)
        present = present & ~np.isnan(counts)
        _refuse(source, column, present & np.isinf(counts))
        counts = np.where(present, counts, 0.0)
    return _from_counts(source, column, counts, present, _NS_PER_UNIT[_unit(counts[present])])


def _unit(counts: NDArray[Any]) -> str:
    """Tell the unit by size: as seconds 1e11 is the year 5138, as milliseconds it is 1973."""
    size = float(np.median(np.abs(counts))) if len(counts) else 0.0
    return "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"


def _from_counts(
    source: Source,
    column: str,
    counts: NDArray[Any],
    present: NDArray[np.bool_],
    ns_per_unit: int,
) -> pd.Series:
    limit = (2**63 - 1) // ns_per_unit
    if counts.dtype == np.int64:
        outside = (counts > limit) | (counts < -limit)
    else:
        outside = np.abs(counts) >= float(limit)
    _refuse(source, column, present & outside)
    if counts.dtype == np.int64:
        nanoseconds = counts * ns_per_unit
    else:
        whole = np.floor(counts)
        # A double holds today's time in seconds to a microsecond; digits below are not the file's.
        fraction = np.round((counts - whole) * ns_per_unit / 1000) * 1000
        nanoseconds = whole.astype(np.int64) * ns_per_unit + fraction.astype(np.int64)
    stamps = nanoseconds.view("datetime64[ns]").copy()
    stamps[~present] = np.datetime64("NaT")
    return pd.Series(stamps).dt.tz_localize("UTC")


def _refuse(
    source: Source, column: str, bad: NDArray[np.bool_], why: str = "cannot be read as a time"
) -> None:
    """Name the first bad row, its value, and how many more there are."""
    places = np.flatnonzero(bad)
    if not len(places):
        return
    scalar = source.table.column(column)[int(places[0])]
    try:
        value = scalar.as_py()
    except (OverflowError, ValueError):  # a typed time beyond what Python's own can hold
        value = scalar.value
    shown = repr(value if isinstance(value, str | int | float) else str(value))
    what = f"cannot read {shown} as a time" if "time" in why else f"{shown} {why}"
    more = f" (and {len(places) - 1} more such rows)" if len(places) > 1 else ""
    raise DataError(f"{source.place(int(places[0]))}: column {column!r}: {what}{more}")
