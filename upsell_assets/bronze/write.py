"""What was decided, written to the live table: new keys appended, the others merged, in as many commits as memory asks.

Every commit fails when anybody else committed since the table was opened (`commit_properties`). Not here: which rows
are written (`law`, `merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.law import same_key
from upsell_assets.bronze.layout import BIN, DATE, MONTH, NO_MONTH, SLACK, Files, place_of
from upsell_assets.bronze.tables import WRITTEN
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import quote, text
from upsell_assets.lake.tables import commit_properties

STEP_ROWS = 1_000_000
"""Rows in the files that one merge may touch: it holds them in memory; half as many where it writes to months."""

RANGES = 64
"""Ranges of spots in the condition of a merge."""

_PATH, _DELETE = "_path", "_delete"

Range = tuple[int, int]


@dataclass
class Step:
    """One merge: the files that it touches, how many rows they hold, their partitions, and between which spots."""

    paths: list[str] = field(default_factory=list)
    rows: int = 0
    parts: list[str] = field(default_factory=list)
    ranges: list[Range] = field(default_factory=list)


def staged_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, files: Files) -> pa.Table:
    """Of the relation `judged`, the rows to write and (`_delete`) those to delete, with all columns of the live table.

    What a newer row does not have is null, not the older value. `_path` is the file of the live row, null for a new
    key.
    """
    keys = ", ".join(quote(name) for name in contract.key)
    place = place_of(contract, "s", "b.spot", files.newest_bin())
    order = f"{MONTH}, {DATE}" if contract.immutable_date else BIN
    return connection.sql(
        f"SELECT *, NULL::VARCHAR AS {_PATH}, NULL::BOOLEAN AS {_DELETE} FROM shape UNION ALL BY NAME "
        f"SELECT s.* EXCLUDE (_upsert, _bury), b.path AS {_PATH}, {place} FROM judged AS s LEFT JOIN "
        f"(SELECT {keys}, min(path) AS path, min_by(spot, path) AS spot FROM candidates GROUP BY ALL) AS b "
        f"ON {same_key(contract, 's', 'b')} WHERE s._upsert OR s._delete ORDER BY {order}"
    ).to_arrow_table()


def steps(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[Step]:
    """The merges in which the judged rows reach their live rows; by the law a batch may be cut anywhere."""
    touched = connection.sql(
        "SELECT f.path, f.rows, f.part, min(l.spot), max(l.spot) FROM candidates AS l JOIN files AS f USING (path) "
        f"SEMI JOIN judged AS s ON {same_key(contract, 's', 'l')} AND (s._upsert OR s._delete) "
        "GROUP BY f.path, f.rows, f.part, f.first ORDER BY f.part, f.first, f.path"
    ).fetchall()
    most = STEP_ROWS // (2 if contract.immutable_date else 1)
    found: list[Step] = []
    for path, rows, part, first, last in touched:
        if not found or found[-1].rows + rows > most:
            found.append(Step())
        found[-1].paths.append(path)
        found[-1].rows += rows
        found[-1].parts.append(part)
        if first is not None:
            found[-1].ranges.append((first, last))
    return found


def write(
    live: DeltaTable, contract: Contract, staged: pa.Table, merges: list[Step], tokens: Mapping[str, int] | None
) -> None:
    """Write staged rows: those of new keys by an append, the others by merges; the last commit takes the tokens.

    Raises:
        CommitFailedError: somebody else committed since the table was opened; what was committed so far stands.
    """
    new = pc.is_null(staged[_PATH])
    added = staged.filter(new)
    if added.num_rows:
        append(live, _stamped(added, live), None if merges else tokens)
    for step in merges:
        mine = staged.filter(pc.is_in(staged[_PATH], pa.array(step.paths)))
        _merge(live, contract, mine, step, tokens if step is merges[-1] else None)


def _merge(
    live: DeltaTable, contract: Contract, staged: pa.Table, step: Step, tokens: Mapping[str, int] | None
) -> None:
    rows = _stamped(staged, live)
    (
        live.merge(
            rows.append_column(_DELETE, staged[_DELETE]),
            predicate=f"{same_key(contract, 's', 't')} AND {_where(contract, step)}",
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            streamed_exec=False,
            commit_properties=commit_properties(tokens),
        )
        .when_matched_delete(f"s.{quote(_DELETE)}")
        .when_matched_update({quote(name): f"s.{quote(name)}" for name in rows.column_names})
        .execute()
    )


def _where(contract: Contract, step: Step) -> str:
    """Condition on the live rows that a step touches: what is not so lies in files that are not read."""
    dated = contract.immutable_date is not None
    column, literal = (DATE, _instant) if dated else (BIN, str)
    slack = SLACK if dated else 0
    spots = [
        f"(t.{column} >= {literal(first - slack)} AND t.{column} <= {literal(last + slack)})"
        for first, last in covering(step.ranges)
    ]
    if NO_MONTH in step.parts:
        spots.append(f"t.{column} IS NULL")
    where = f"({' OR '.join(spots)})"
    return f"t.{MONTH} IN ({', '.join(text(part) for part in sorted(set(step.parts)))}) AND {where}" if dated else where


def _instant(micros: int) -> str:
    return f"'{datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros):%Y-%m-%dT%H:%M:%S.%f}Z'"


def covering(ranges: list[Range]) -> list[Range]:
    """Ranges that cover the given ones: joined where they overlap, and the nearest joined until they are few."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    while len(joined) > RANGES:
        nearest = min(range(len(joined) - 1), key=lambda n: joined[n + 1][0] - joined[n][1])
        joined[nearest : nearest + 2] = [(joined[nearest][0], joined[nearest + 1][1])]
    return joined


def _stamped(staged: pa.Table, live: DeltaTable) -> pa.Table:
    ingested, version = WRITTEN
    rows = staged.drop_columns([_PATH, _DELETE])
    for stamp, value in ((ingested, datetime.now(UTC)), (version, live.version() + 1)):
        rows = rows.set_column(rows.column_names.index(stamp.name), stamp, constant(value, rows, stamp.type))
    return rows


def append(table: DeltaTable, rows: pa.Table, tokens: Mapping[str, int] | None = None) -> None:
    """Add rows in a commit of their own, with new columns if they have some."""
    write_deltalake(
        table,
        rows,
        mode="append",
        schema_mode="merge",
        commit_properties=commit_properties(tokens),
    )


def constant(value: object, like: pa.Table, kind: pa.DataType | None = None) -> pa.Array:
    """One value for every row of a table."""
    return pa.repeat(pa.scalar(value, kind or pa.int64()), like.num_rows)
