"""Files as tables: every failure is one line that names the file and the place in it."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hymirec.errors import DataError

_NEWLINE, _RETURN, _QUOTE = b'\n\r"'
_FIELD = b"\x1f"
"""ASCII's unit separator: stands in for '::', since fast CSV readers take one byte only."""

_BLOCK_BYTES = 1 << 24
"""The longest row that can be read: a description may be long."""


@dataclass(frozen=True)
class Source:
    """One file's table, and where each of its rows stands in the file.

    Attributes:
        file: the file's name, for messages.
        unit: what a place is called: 'line' in text files, 'row' in parquet files.
        table: the columns; a text file's are all text.
        rows: int64 [number of rows], counted from 1; a text file's header is a line too.
    """

    file: str
    unit: str
    table: pa.Table
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def place(self, index: int) -> str:
        """Name the row at a 0-based index as its file's reader would find it."""
        return f"{self.file} {self.unit} {self.rows[index]}"

    def require(self, columns: Sequence[str]) -> None:
        """Refuse a table without rows, or one that lacks any of the columns."""
        names = self.table.column_names
        missing = [column for column in columns if column not in names]
        if missing:
            wanted = ", ".join(map(repr, missing))
            found = " ".join(", ".join(names).split()) or "none"
            raise DataError(
                f"{self.file}: no column{'s' * (len(missing) > 1)} {wanted}; columns found: {found}"
            )
        if not len(self):
            raise DataError(f"{self.file}: empty: it has columns but no rows")

    def renamed(self, names: dict[str, str]) -> Source:
        """Return the same table under other column names; columns not named keep theirs.

        Raises:
            DataError: a column has one of the new names already.
        """
        for old, new in names.items():
            if {old, new} <= set(self.table.column_names):
                raise DataError(f"{self.file}: columns {old!r} and {new!r} mean the same")
        columns = [names.get(name, name) for name in self.table.column_names]
        return Source(self.file, self.unit, self.table.rename_columns(columns), self.rows)


def read_csv(path: Path) -> Source:
    """Read a comma-separated UTF-8 file with a header; all columns as text, '' as null."""
    data = _bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name} line {line}: not UTF-8 text ({error.reason})") from error
    names = _header(path, text)
    del text
    _refuse_twins(path, [name.strip() for name in names if name.strip()])
    lines = _record_lines(data)
    table = _parse(path, data, names, lines, header=True, delimiter=",", quotes=True)
    if table.num_columns != len(names):
        raise DataError(f"{path.name} line {lines[0]}: the header cannot be told apart")
    table = table.rename_columns([name.strip() for name in names])
    # A nameless column is a trailing comma's, or the row numbers some tools write.
    table = table.select([index for index, name in enumerate(names) if name.strip()])
    _refuse_open_quote(path, data, table)
    return Source(path.name, "line", table, _line_numbers(lines[1:], table.num_rows, first=2))


def read_dat(path: Path, names: Sequence[str]) -> Source:
    """Read MovieLens's header-less '::' format; all columns as text, '' as null.

    Old copies are in Latin-1, newer ones in UTF-8; bytes that are valid UTF-8 are taken as that.
    """
    data = _bytes(path)
    try:
        data.decode()
    except UnicodeDecodeError:
        data = data.decode("latin-1").encode()
    data = data.replace(b"::", _FIELD)
    lines = _record_lines(data, quotes=False)
    table = _parse(path, data, names, lines, header=False, delimiter=_FIELD.decode(), quotes=False)
    return Source(path.name, "line", table, _line_numbers(lines, table.num_rows, first=1))


def read_parquet(path: Path) -> Source:
    """Read a parquet file, or a folder of parquet parts, with the types it holds."""
    if path.is_file() and not path.stat().st_size:
        raise DataError(f"{path.name}: the file is empty")
    try:
        # `read_table` would make columns out of 'key=value' folders on the way to a single file.
        table = pq.ParquetFile(path).read() if path.is_file() else pq.read_table(path)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        reason = _one_line(error)
        raise DataError(f"{path.name}: cannot be read as parquet: {reason}") from error
    _refuse_twins(path, table.column_names)
    index = [name for name in table.column_names if re.fullmatch(r"__index_level_\d+__", name)]
    table = table.drop_columns(index)
    return Source(path.name, "row", table, np.arange(1, table.num_rows + 1, dtype=np.int64))


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name}: cannot be read: {error.strerror}") from error
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DataError(f"{path.name}: the file is empty")
    return data


def _header(path: Path, text: str) -> list[str]:
    try:
        return next(row for row in csv.reader(StringIO(text, newline="")) if row)
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path.name}: no header can be read: {_one_line(error)}") from error


def _parse(
    path: Path,
    data: bytes,
    names: Sequence[str],
    lines: NDArray[np.int64],
    *,
    header: bool,
    delimiter: str,
    quotes: bool,
) -> pa.Table:
    try:
        return pa_csv.read_csv(
            BytesIO(data),
            # A single thread, since only then does a parse error say which row it is in.
            read_options=pa_csv.ReadOptions(
                column_names=None if header else list(names),
                use_threads=False,
                block_size=_BLOCK_BYTES,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quotes else False,
                newlines_in_values=quotes,
            ),
            # Text throughout: types guessed from a file's beginning fail on what comes later.
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (pa.ArrowException, ValueError) as error:
        reason = _one_line(error)
        match = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", reason)
        if not match:
            raise DataError(f"{path.name}: cannot be read as a table: {reason}") from error
        row, expected, got = map(int, match.groups())
        line = lines[row - 1] if row <= len(lines) else row
        raise DataError(f"{path.name} line {line}: {got} fields instead of {expected}") from error


def _record_lines(data: bytes, quotes: bool = True) -> NDArray[np.int64]:
    """Number the lines on which records begin, from 1: blank lines and quoted newlines do not."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == _NEWLINE)
    if not len(ends) or ends[-1] != len(raw) - 1:
        ends = np.append(ends, len(raw))
    starts = np.concatenate([[0], ends[:-1] + 1])
    width = ends - starts
    blank = (width == 0) | ((width == 1) & (raw[np.minimum(starts, len(raw) - 1)] == _RETURN))
    begins = ~blank
    if quotes:
        marks = np.flatnonzero(raw == _QUOTE)
        begins &= np.searchsorted(marks, starts) % 2 == 0
    return np.flatnonzero(begins).astype(np.int64) + 1


def _line_numbers(lines: NDArray[np.int64], num_rows: int, first: int) -> NDArray[np.int64]:
    """Line of each row; counted plainly where stray quotes make the lines ambiguous."""
    return lines if len(lines) == num_rows else np.arange(first, first + num_rows, dtype=np.int64)


def _refuse_open_quote(path: Path, data: bytes, table: pa.Table) -> None:
    """Refuse a file whose last field swallowed the rest of it after a quote that never closed."""
    if not table.num_rows or data.count(b'"') % 2 == 0:
        return
    last = table.slice(table.num_rows - 1).to_pylist()[0]
    swallowed = sum((value or "").count("\n") for value in last.values())
    if swallowed:
        line = data.count(b"\n") - swallowed + 1
        raise DataError(f"{path.name} line {line}: a quote that opens here is never closed")


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    twins = sorted({name for name in names if list(names).count(name) > 1})
    if twins:
        raise DataError(f"{path.name}: column {twins[0]!r} stands there twice")


def _one_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
