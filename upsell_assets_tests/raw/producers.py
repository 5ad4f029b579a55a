"""Files as other producers write them, generated from the documented formats: no such service runs here.

A history is said once, as changes, and written in each layout, so that what becomes of it can be compared.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NOON = datetime(2024, 6, 13, 12, tzinfo=UTC)
COLUMNS = {"id": "bigint", "name": "string", "points": "bigint"}


@dataclass(frozen=True)
class Change:
    """One change; `second` is that of its commit, after noon, and `place` its place in the log."""

    op: str
    id: int
    second: int
    place: int
    name: str | None = None
    points: int | None = None

    @property
    def at(self) -> datetime:
        return NOON + timedelta(seconds=self.second)

    @property
    def row(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "points": self.points}


def parquet(rows: Iterable[Mapping[str, Any]], schema: pa.Schema | None = None) -> bytes:
    return parquet_of(pa.Table.from_pylist([dict(row) for row in rows], schema))


def parquet_of(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink)
    return sink.getvalue()


def own(changes: Iterable[Change]) -> bytes:
    """Our own layout, with the place in the log as its finer order."""
    kinds = [("OP", pa.string()), ("id", pa.int64()), ("name", pa.string()), ("points", pa.int64())]
    schema = pa.schema([*kinds, ("modified_date", pa.timestamp("us", "UTC")), ("change_seq", pa.int64())])
    return parquet(({"OP": c.op, **c.row, "modified_date": c.at, "change_seq": c.place} for c in changes), schema)


def dms_sequence(change: Change) -> str:
    """$AR_H_CHANGE_SEQ: 16 digits of the time, 19 of a counter."""
    return f"{change.at:%Y%m%d%H%M%S}00{change.place:019d}"


def dms_rows(changes: Iterable[Change], *, sequence: bool = True) -> list[dict[str, Any]]:
    """Rows of changes as DMS writes them: Op, the timestamp as text, the table's columns, columns of added rules."""
    return [
        {"Op": c.op, "committed_at": f"{c.at:%Y-%m-%d %H:%M:%S.%f}", **c.row}
        | ({"dms_seq": dms_sequence(c)} if sequence else {})
        for c in changes
    ]


def dms_csv(
    rows: Sequence[Mapping[str, Any]], *, header: bool = False, delimiter: str = ",", null: str = "NULL"
) -> bytes:
    """CSV as RFC 4180 has it: quotes where they are needed, null as a bare word."""
    sink = io.StringIO()
    writer = csv.writer(sink, delimiter=delimiter, lineterminator="\n")
    if header:
        writer.writerow(rows[0])
    for row in rows:
        writer.writerow([null if value is None else value for value in row.values()])
    return sink.getvalue().encode()


def event(change: Change, before: Mapping[str, Any] | None = None, commit: int | None = 1000) -> dict[str, Any]:
    """An event of Debezium's PostgreSQL connector; `before` as the replica identity gives it."""
    op = {"I": "c", "U": "u", "D": "d", "R": "r", "T": "t"}[change.op]
    return {
        "before": {"id": change.id, "name": None, "points": None} if op == "d" and before is None else before,
        "after": None if op in "dt" else change.row,
        "source": {
            "connector": "postgresql",
            "snapshot": "true" if op == "r" else "false",
            "ts_ms": int(change.at.timestamp() * 1000),
            "sequence": json.dumps([None if commit is None else str(commit), str(change.place)]),
            "lsn": change.place,
        },
        "op": op,
        "ts_ms": int(change.at.timestamp() * 1000) + 250,
        "transaction": None,
    }


_ROW = pa.struct([("id", pa.int64()), ("name", pa.string()), ("points", pa.int64())])
_SOURCE = pa.struct(
    [(name, pa.string()) for name in ("connector", "snapshot", "sequence")]
    + [("ts_ms", pa.int64()), ("lsn", pa.int64())]
)
ENVELOPE = pa.schema(
    [("before", _ROW), ("after", _ROW), ("source", _SOURCE), ("op", pa.string()), ("ts_ms", pa.int64())]
)


def enveloped(events: Iterable[Mapping[str, Any]]) -> bytes:
    return parquet(({name: found[name] for name in ENVELOPE.names} for found in events), ENVELOPE)


def json_lines(events: Iterable[Mapping[str, Any]], *, schemas: bool = False) -> bytes:
    wrapped = ({"schema": {"type": "struct"}, "payload": found} if schemas else found for found in events)
    return "\n".join(json.dumps(found) for found in wrapped).encode()


def flattened(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What ExtractNewRecordState makes of events: add.fields=op,table,source.sequence,source.ts_ms, deletes rewritten."""
    return [
        {**(found["before"] if found["op"] == "d" else found["after"]), "__deleted": str(found["op"] == "d").lower()}
        | {"__op": found["op"], "__table": "t", "__source_sequence": found["source"]["sequence"]}
        | {"__source_ts_ms": found["source"]["ts_ms"]}
        for found in events
    ]
