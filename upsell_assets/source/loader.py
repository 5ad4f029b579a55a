"""CSV dumps of the points system into its tables: all of them in one transaction, or nothing.

Here: how a dump's file is read (separator, header, nulls, dates) and what its faults say. Not here: generated rows
(`simulator`). What a value must be is decided by the database, except dates, whose zone it would drop without a word.
"""

from __future__ import annotations

import csv
import logging
import re
from array import array
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import TABLES, Connection, copy_statement, database_errors

logger = logging.getLogger(__name__)

_OPTIONAL = {"flEmail"}  # dumps of 2024 do not have it
_PROGRESS_ROWS = 10_000
_COPY_LINE = re.compile(r"^COPY [^,]+, line (\d+)(?:, column ([^:]+))?", re.MULTILINE)
_DATE = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(?:[ T](?P<clock>\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?))?"
    r" ?(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?(?: ?UTC)?"
)

Progress = Callable[[str, int], None]
"""Called with a table's name and its rows so far."""


def load_dump(
    connection: Connection, folder: Path, schema: str = "public", progress: Progress | None = None
) -> dict[str, int]:
    """Add the rows of `customers.csv`, `transactions.csv` and `transactions_product.csv` to their tables.

    Files are UTF-8 with a header, separated by `;` or `,`; columns are found without case, in any order. An empty
    value is null. A column that the table does not have is left out, with a warning in the log. Dates are ISO, in
    UTC or with an offset, and are stored in UTC to the millisecond.

    Returns:
        Rows loaded, by table.

    Raises:
        PermanentError: a file, a column or a value is not what it must be; file, line and reason are named, and
            nothing was loaded.
        RetryableError: the database was lost on the way; nothing was loaded.
    """
    missing = [f"{table}.csv" for table in TABLES if not (folder / f"{table}.csv").is_file()]
    if missing:
        raise PermanentError(f"{folder}: {', '.join(missing)} not found. A dump is a folder with one file per table.")
    with database_errors(f"loading {folder}"), connection.transaction():
        return {table: _load_file(connection, folder, schema, table, progress) for table in TABLES}


def _load_file(connection: Connection, folder: Path, schema: str, table: str, progress: Progress | None) -> int:
    file = folder / f"{table}.csv"
    lines = array("Q")  # the file's line of every row, since the database counts rows
    try:
        rows = _Rows(file, TABLES[table])
        with connection.cursor() as cursor, cursor.copy(copy_statement(schema, table, rows.columns)) as copy:
            for row in rows:
                lines.append(rows.line)
                copy.write_row(row)
                if progress and len(lines) % _PROGRESS_ROWS == 0:
                    progress(table, len(lines))
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise PermanentError(_fault(file, lines, error)) from error
    if progress:
        progress(table, len(lines))
    return len(lines)


def _fault(file: Path, lines: array[int], error: psycopg.Error) -> str:
    where = _COPY_LINE.search(error.diag.context or "")
    line = lines[int(where[1]) - 1] if where else lines[-1]
    column = f", column {where[2]}" if where and where[2] else ""
    reason = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.UniqueViolation):
        reason = (error.diag.message_detail or reason).rstrip(".")
    return _message(file, line, f"{reason}{column}")


def _message(file: Path, line: int, reason: str) -> str:
    return f"{file} line {line}: {reason}. Nothing was loaded; correct the file and load again."


class _Rows:
    """The rows of one file, in the table's column order; `line` is where the latest one ends, from 1."""

    def __init__(self, file: Path, types: dict[str, str]) -> None:
        self._file = file
        with file.open("rb") as handle:
            header = next(self._text(handle), "")
        self._separator = max(";,", key=header.count)
        found = next(csv.reader([header], delimiter=self._separator), [])
        positions = {name.strip().lower(): position for position, name in enumerate(found)}
        if len(positions) < len(found):
            raise PermanentError(f"{file}: the header names a column twice: {', '.join(found)}. Keep one of them.")
        known = {name.lower(): name for name in types}
        if absent := [n for low, n in known.items() if low not in positions and n not in _OPTIONAL]:
            raise PermanentError(
                f"{file}: column {', '.join(absent)} not found; the header is: {', '.join(found) or 'empty'}. "
                "Export the table with this column."
            )
        if extra := [name for name in found if name.strip().lower() not in known]:
            logger.warning("%s: columns that the table does not have were left out: %s.", file, ", ".join(extra))
        self._width = len(found)
        self._fields = [(positions[low], types[n] == "timestamp") for low, n in known.items() if low in positions]
        self.columns = [n for low, n in known.items() if low in positions]
        self.line = 1

    def __iter__(self) -> Iterator[list[str | datetime | None]]:
        with self._file.open("rb") as handle:
            reader = csv.reader(self._text(handle), delimiter=self._separator, strict=True)
            next(reader)
            try:
                for values in reader:
                    self.line = reader.line_num
                    if values:
                        yield self._row(values)
            except csv.Error as error:
                raise PermanentError(_message(self._file, reader.line_num, str(error))) from error

    def _row(self, values: list[str]) -> list[str | datetime | None]:
        if len(values) != self._width:
            raise PermanentError(
                _message(self._file, self.line, f"{len(values)} values, but the header has {self._width} columns")
            )
        return [
            None if not values[at] else self._instant(values[at]) if is_date else values[at]
            for at, is_date in self._fields
        ]

    def _instant(self, text: str) -> datetime:
        try:
            return parse_instant(text)
        except (ValueError, OverflowError):
            raise PermanentError(_message(self._file, self.line, f"{text!r} is not an ISO date")) from None

    def _text(self, handle: Iterator[bytes]) -> Iterator[str]:
        for number, line in enumerate(handle, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise PermanentError(_message(self._file, number, "not UTF-8")) from error


def parse_instant(text: str) -> datetime:
    """Read an ISO date and time, with or without fractions, offset or the word UTC, as naive UTC.

    Raises:
        ValueError: it is no such text, or no such day.
        OverflowError: in UTC it is outside the years 1 to 9999.
    """
    match = _DATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    clock = (match["clock"] or "00:00").replace(",", ".")
    instant = datetime.fromisoformat(f"{match['day']}T{clock}{match['offset'] or '+00:00'}")
    return instant.astimezone(UTC).replace(tzinfo=None)
