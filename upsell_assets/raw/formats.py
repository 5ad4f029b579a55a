"""Bytes of a file as rows, as the file has them: parquet, CSV, JSON lines.

Nothing is guessed: CSV and JSON come as text, and the contract's types are reached by the same lossless casts as
everything else. Not here: what columns mean.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from upsell_assets.errors import FileRejectedError

_GZIP = b"\x1f\x8b"


def read_parquet(body: bytes) -> pa.Table:
    """The rows of a parquet file.

    Raises:
        FileRejectedError: the bytes are not parquet, or what they hold is broken.
    """
    try:
        found = pq.read_table(io.BytesIO(body))
        found.validate(full=True)  # parquet says of text that it is UTF-8, and does not look
        str(found.schema)  # nor at names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FileRejectedError(f"not readable as parquet ({str(error).splitlines()[0]})") from error
    return found


def read_csv(body: bytes, names: Iterable[str] | None, *, delimiter: str, null_value: str) -> pa.Table:
    """The rows of a CSV file, every value as text; what stands in quotes is never null.

    Args:
        body: the object's bytes, plain or gzip.
        names: of the columns; None: the first line has them.
        delimiter: one character.
        null_value: the text that means null.

    Raises:
        FileRejectedError: a row has more or fewer columns than there are names, or the bytes are no such text.
    """
    text = _plain(body)
    if text.count(b'"') % 2:
        raise FileRejectedError("not readable as CSV (an odd number of quotes: a quoted value does not end)")
    try:
        header = list(names or first_row(text, delimiter))
        return pc_csv.read_csv(
            io.BytesIO(text),
            # One block and one thread: then a fault is told with its row.
            pc_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=header, skip_rows=not names),
            pc_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False),
            pc_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                null_values=[null_value],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise FileRejectedError(
            f"not readable as CSV of the columns {', '.join(names or ['of its header'])} ({str(error).splitlines()[0]})"
        ) from error


def first_row(body: bytes, delimiter: str) -> list[str]:
    """The values of the first row of a CSV file.

    Raises:
        UnicodeDecodeError: it is no text.
        csv.Error: a value is too long for a name.
    """
    text = io.TextIOWrapper(io.BytesIO(_plain(body)), encoding="utf-8", newline="")
    return next(csv.reader(text, delimiter=delimiter), [])


def read_json_lines(body: bytes) -> list[dict[str, object]]:
    """The objects of a file with one on each line; numbers keep the digits that they have, as text.

    Raises:
        FileRejectedError: a line is no object; it is named.
    """
    found = []
    for number, line in enumerate(_plain(body).splitlines(), start=1):
        try:
            value = json.loads(line, parse_float=str, parse_int=str)
        except (ValueError, RecursionError) as error:
            raise FileRejectedError(f"not readable as JSON lines (line {number}: {error})") from error
        if not isinstance(value, dict):
            raise FileRejectedError(f"line {number} is no JSON object: {line[:40]!r}")
        found.append(value)
    return found


def _plain(body: bytes) -> bytes:
    if not body.startswith(_GZIP):
        return body
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error) as error:
        raise FileRejectedError(f"not readable as gzip ({error})") from error
