"""What was decided, written to the live table: in one commit, or in several where much of the table is touched.

Every commit fails when anybody else committed since the table was opened (`commit_properties`). Not here: which rows
are written (`law`, `merge`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.law import same_key
from upsell_assets.bronze.layout import DATE, NO_MONTH, TARGET_FILE_SIZE, Files, partition, place_of
from upsell_assets.bronze.probe import SLACK
from upsell_assets.bronze.tables import WRITTEN
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import quote
from upsell_assets.lake.tables import commit_properties
from upsell_assets.raw.files import FILE, MODIFIED, ROW, SEQUENCE

STEP_ROWS = 1_500_000
"""Rows of the table that one commit may touch: a merge holds them in memory."""

RANGES = 64
"""Ranges of dates in the condition of a merge."""

_PART, _DELETE = "_part", "_delete"

Range = tuple[datetime, datetime]


@dataclass
class _Step:
    """One commit: the partitions that it touches, how many rows their files hold, and where these lie by `_date`."""

    parts: list[str] = field(default_factory=list)
    rows: int = 0
    ranges: list[Range] = field(default_factory=list)


def staged_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, files: Files) -> pa.Table:
    """Of the relation `judged`, the rows to write and (`_delete`) those to delete, with all columns of the live table.

    What a newer row does not have is null, not the older value. `_part` is the partition of the live row, null for
    a new key.
    """
    keys = ", ".join(quote(name) for name in contract.key)
    place = place_of(contract, "s", "b.part", files.rows_of_parts())
    by_time = DATE if contract.immutable_date else f"{MODIFIED}, {SEQUENCE}, {FILE}, {ROW}"
    return connection.sql(
        f"SELECT *, NULL::VARCHAR AS {_PART}, NULL::BOOLEAN AS {_DELETE} FROM shape UNION ALL BY NAME "
        f"SELECT s.* EXCLUDE (_upsert, _bury), b.part AS {_PART}, {place} AS {partition(contract)} FROM judged AS s "
        f"LEFT JOIN (SELECT {keys}, min(part) AS part FROM candidates GROUP BY ALL) AS b "
        f"ON {same_key(contract, 's', 'b')} WHERE s._upsert OR s._delete ORDER BY {partition(contract)}, {by_time}"
    ).to_arrow_table()


def steps(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[_Step]:
    """The commits in which the judged rows are written, so that none touches more rows than `STEP_ROWS`.

    By the law a batch may be cut anywhere. No steps: there is no live row of any key.
    """
    dates = f"min(l.{DATE}), max(l.{DATE})" if contract.immutable_date else "NULL, NULL"
    touched = connection.sql(
        f"SELECT l.part, f.rows, {dates} FROM candidates AS l JOIN files AS f USING (path) "
        f"SEMI JOIN judged AS s ON {same_key(contract, 's', 'l')} AND (s._upsert OR s._delete) "
        "GROUP BY l.part, f.path, f.rows ORDER BY l.part"
    ).fetchall()
    found: list[_Step] = []
    for part, group in groupby(touched, key=lambda file: file[0]):
        of_part = list(group)
        rows = sum(count for _, count, _, _ in of_part)
        if not found or found[-1].rows + rows > STEP_ROWS:
            found.append(_Step())
        found[-1].parts.append(part)
        found[-1].rows += rows
        found[-1].ranges += [(first, last) for _, _, first, last in of_part if first is not None]
    return found


def write(
    live: DeltaTable, contract: Contract, staged: pa.Table, commits: list[_Step], tokens: Mapping[str, int] | None
) -> None:
    """Write staged rows; the last commit takes the new keys and the tokens with it.

    Raises:
        CommitFailedError: somebody else committed since the table was opened; what was committed so far stands.
    """
    if not commits:
        append(live, _stamped(staged, live), tokens)
        return
    for step in commits:
        last = step is commits[-1]
        mine = pc.is_in(staged[_PART], pa.array(step.parts))
        _merge(
            live,
            contract,
            staged.filter(pc.or_(mine, pc.is_null(staged[_PART])) if last else mine),
            step,
            tokens if last else None,
        )


def _merge(
    live: DeltaTable, contract: Contract, staged: pa.Table, step: _Step, tokens: Mapping[str, int] | None
) -> None:
    rows = _stamped(staged, live)
    columns = {quote(name): f"s.{quote(name)}" for name in rows.column_names}
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
        .when_matched_update(columns)
        .when_not_matched_insert(columns, predicate=f"NOT s.{quote(_DELETE)}")
        .execute()
    )


def _where(contract: Contract, step: _Step) -> str:
    """Condition on the live rows that a step touches: what is not so lies in files that are not read."""
    if contract.immutable_date is None:
        return f"t.{quote(partition(contract))} IN ({', '.join(step.parts)})"
    parts = ", ".join(f"'{part}'" for part in step.parts)
    dates = " OR ".join(
        f"(t.{quote(DATE)} >= {_instant(first - SLACK)} AND t.{quote(DATE)} <= {_instant(last + SLACK)})"
        for first, last in covering(step.ranges)
    )
    if NO_MONTH in step.parts:
        dates = " OR ".join(filter(None, [dates, f"t.{quote(DATE)} IS NULL"]))
    return f"t.{quote(partition(contract))} IN ({parts}) AND ({dates})"


def _instant(value: datetime) -> str:
    return f"'{value.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z'"


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
    rows = staged.drop_columns([_PART, _DELETE])
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
        target_file_size=TARGET_FILE_SIZE,
        commit_properties=commit_properties(tokens),
    )


def constant(value: object, like: pa.Table, kind: pa.DataType | None = None) -> pa.Array:
    """One value for every row of a table."""
    return pa.repeat(pa.scalar(value, kind or pa.int64()), like.num_rows)
