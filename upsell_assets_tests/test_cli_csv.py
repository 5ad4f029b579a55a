"""How commands print rows where a program reads them."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from upsell_assets.cli.common import print_csv


def test_csv_says_every_value_and_quotes_only_what_must_be(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["plain", "a b", "a,b", 'a "b"', "a\nb", "a\r", "", None, "Lista de presença"]
    rows = pa.table(
        {
            "text": texts,
            "a,b": pa.array([*range(8), None], pa.int64()),
            "at": pa.array([datetime(2024, 6, 13, 1, tzinfo=UTC)] * 9, pa.timestamp("us", "UTC")),
            "day": [date(2024, 6, 13)] * 9,
            "true": [True] * 9,
        }
    )

    print_csv(pa.concat_tables([rows.slice(0, 4), rows.slice(4), rows.slice(0, 0)]))

    printed = capsys.readouterr().out
    assert printed.startswith('text,"a,b",at,day,true\nplain,0,2024-06-13 01:00:00.000000Z,2024-06-13,true\na b,1,')
    header, *read = csv.reader(io.StringIO(printed, newline=""))
    assert header == rows.column_names
    assert [row[0] for row in read] == [text or "" for text in texts]
    assert [row[1] for row in read] == ["0", "1", "2", "3", "4", "5", "6", "7", ""]
    assert '\n"",6,' in printed  # an empty text
    assert "\n,7," in printed  # none


def test_csv_of_no_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(pa.table({"a": pa.array([], pa.string())}))
    assert capsys.readouterr().out == "a\n"
