"""The tables of a dump as rows of text: a CSV file, or a table of an SQLite file.

Here: separator, header, quoting, encoding, and where a row stands, so that a fault can name it. An empty text is a
null. Memory holds one row at a time. Not here: which tables a dump has (`dumps`), and what its values mean
(`dump_values`).
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from upsell_assets.errors import PermanentError

_SQLITE_MAGIC = b"SQLite format 3\0"


class Rows(Protocol):
    """One table of a dump. It can be iterated over as often as needed, each time from its first row."""

    name: str
    columns: list[str]

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Each row's position (a line or a rowid) and its values, one per column.

        Raises:
            PermanentError: a row cannot be read; it is named.
        """

    def place(self, position: int) -> str:
        """The row at a position, as a message names it."""


def fault(rows: Rows, position: int, reason: str) -> PermanentError:
    """What is wrong with a row, and that it kept all others out."""
    return PermanentError(f"{rows.place(position)}: {reason}. Nothing was loaded; correct the file and load again.")


class CsvFile:
    """A CSV file: UTF-8 with a header, separated by `;` or `,`. Positions are the lines where rows end, from 1."""

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        self._file = file
        with file.open("rb") as handle:
            header = next(self._lines(handle), "")
        self._separator = max(";,", key=header.count)
        self.columns = [name.strip() for name in next(csv.reader([header], delimiter=self._separator), [])]

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        width = len(self.columns)
        with self._file.open("rb") as handle:
            reader = csv.reader(self._lines(handle), delimiter=self._separator, strict=True)
            next(reader)
            try:
                for values in reader:
                    if len(values) == width:
                        yield reader.line_num, values
                    elif values:
                        reason = f"{len(values)} values, but the header has {width} columns"
                        raise fault(self, reader.line_num, reason)
            except csv.Error as error:
                raise fault(self, reader.line_num, str(error)) from error

    def place(self, position: int) -> str:
        """The line that a row ends on."""
        return f"{self.name} line {position}"

    def _lines(self, handle: Iterator[bytes]) -> Iterator[str]:
        for number, line in enumerate(handle, 1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise fault(self, number, "not UTF-8") from error


class SqliteFile:
    """An SQLite file, as it is at one moment; nothing is written to it."""

    def __init__(self, file: Path, connection: sqlite3.Connection) -> None:
        self.file = file
        self.connection = connection

    @classmethod
    @contextmanager
    def opened(cls, file: Path) -> Iterator[SqliteFile]:
        """Open it, as long as the context lasts.

        Raises:
            PermanentError: it is no SQLite file, or damaged.
        """
        with file.open("rb") as handle:
            if handle.read(len(_SQLITE_MAGIC)) != _SQLITE_MAGIC:
                raise PermanentError(f"{file}: not an SQLite file. Give one, or a folder with one CSV file per table.")
        address = f"{file.resolve().as_uri()}?mode=ro"
        with (
            sqlite_errors(file),
            closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection,
        ):
            connection.text_factory = _decoded
            connection.execute("BEGIN")  # tables are read one after another, and more than once
            yield cls(file, connection)

    def tables(self) -> list[str]:
        """The names of its tables."""
        return [name for (name,) in self.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]

    def rows(self, table: str) -> SqliteTable:
        """One of its tables."""
        return SqliteTable(self, table)


class SqliteTable:
    """A table of an SQLite file. Positions are rowids; of a table without them, numbers of rows, from 1."""

    def __init__(self, of: SqliteFile, table: str) -> None:
        self.name = f"{of.file} table {table}"
        self._connection = of.connection
        self._from = 'FROM "{}"'.format(table.replace('"', '""'))
        self.columns = [column[0] for column in self._select("*", "LIMIT 0").description]
        self._rowid = self._find_rowid()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        for number, (rowid, *values) in enumerate(self._select(f"{self._rowid or 'NULL'}, *"), 1):
            position = number if rowid is None else rowid
            if bytes in map(type, values):
                column = self.columns[[type(value) for value in values].index(bytes)]
                raise fault(self, position, f"column {column} holds bytes that are no text")
            yield position, [_text(value) for value in values]

    def place(self, position: int) -> str:
        """The row of a rowid."""
        return f"{self.name} {'rowid' if self._rowid else 'row'} {position}"

    def _find_rowid(self) -> str | None:
        taken = {column.lower() for column in self.columns}
        for name in ("rowid", "_rowid_", "oid"):
            if name not in taken:
                try:
                    self._select(name, "LIMIT 0")
                except sqlite3.OperationalError:
                    return None  # WITHOUT ROWID
                return name
        return None

    def _select(self, what: str, rest: str = "") -> sqlite3.Cursor:
        return self._connection.execute(f"SELECT {what} {self._from} {rest}")


def _decoded(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data  # refused where the row is known


def _text(value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # integers with a null among them became floats in many a tool
    return str(value)


@contextmanager
def sqlite_errors(file: Path) -> Iterator[None]:
    """Turn what SQLite says of a file into one line.

    Raises:
        PermanentError: SQLite cannot read the file.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise PermanentError(
            f"{file}: SQLite cannot read it: {error}. Nothing was loaded; give a whole file that no program is writing."
        ) from error
