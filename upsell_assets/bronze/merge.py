"""The law applied to Delta: one batch of change rows merged into a live table and its tombstones.

Tombstones are committed first, then the live rows, each only if there is something to say. Both tables are opened,
read and committed at one version; when anybody else committed in between, the whole is decided anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from time import perf_counter

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from upsell_assets.bronze.floors import read_floors, write_floor
from upsell_assets.bronze.law import (
    below_floor,
    canonical_text,
    judged,
    may_be_below,
    newest_floor,
    place_terms,
    same_key,
    settled,
    unheard,
)
from upsell_assets.bronze.layout import DATE, Files, check_layout, date_of, partition_by
from upsell_assets.bronze.probe import keys_differ, probe
from upsell_assets.bronze.tables import (
    VERSION,
    late_name,
    live_schema,
    table_name,
    tombstone_schema,
    tombstones_name,
)
from upsell_assets.bronze.upkeep import compact, expired_before
from upsell_assets.bronze.write import append, constant, staged_rows, touched_paths, write
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import retry_conflicts
from upsell_assets.lake.duck import quote, reader, text
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.files import FILE, MODIFIED, OP, SEQUENCE, Position, order_fields
from upsell_assets.raw.landing import full_load_prefix


@dataclass(frozen=True)
class Merged:
    """What one batch did.

    Attributes:
        upserts, deletes, tombstones: rows written, deleted, and remembered as deleted.
        version: the live table's version.
        moved: keys (at most 20) whose date is another one than before, though the contract calls it immutable.
        doubled: keys (at most 20) of which one place in the order says two things: they are no keys.
        tied: places in the order at which a key has several changes that differ, and only the name of the file and
            the number of the row decide between them; those within the batch.
        late: changes set aside, see `tombstone_days` of the contract.
        files: how many files were read for keys, and in how many the batch had rows.
        seconds: where the time went: open, reduce, probe, commit (of tombstones), merge, upkeep.
    """

    upserts: int
    deletes: int
    tombstones: int
    version: int
    moved: list[tuple[object, ...]] = field(default_factory=list)
    doubled: list[tuple[object, ...]] = field(default_factory=list)
    tied: int = 0
    late: int = 0
    files: tuple[int, int] = (0, 0)
    seconds: dict[str, float] = field(default_factory=dict)


def merge(lake: Lake, contract: Contract, changes: pa.Table) -> Merged:
    """Merge change rows (see `raw.files.change_schema`) into the live table, by the law.

    Args:
        lake: where the tables lie.
        contract: the table.
        changes: any number of changes, of any order, repeated or not; rows of full loads among them.

    Raises:
        RetryableError: other writers kept committing in between; nothing is half-written.
    """
    return retry_conflicts(table_name(contract), lambda: _merge_once(lake, contract, changes))


def end_load(lake: Lake, contract: Contract, position: Position, token: str, clock: Clock = utc_now) -> Merged | None:
    """End a full load whose rows are all merged: what lies at or below its position and is not in it is deleted.

    Args:
        lake: where the tables lie.
        contract: the table.
        position: the load's place in the order; it becomes a floor.
        token: the load's name; the live table remembers it with the commit, and a repeat does nothing (None).
        clock: says when the lake learns of the end.

    Raises:
        RetryableError: other writers kept committing in between; a repeat does what is left.
    """
    if has_ended(lake, contract, token):
        return None
    write_floor(lake, contract, position, clock())
    return retry_conflicts(table_name(contract), lambda: _merge_once(lake, contract, None, {token: 1}))


def has_ended(lake: Lake, contract: Contract, token: str) -> bool:
    """Whether the full load of that name was ended."""
    try:
        return lake.open(table_name(contract)).transaction_version(token) is not None
    except UnknownTableError:
        return False


def _merge_once(
    lake: Lake, contract: Contract, changes: pa.Table | None, tokens: dict[str, int] | None = None
) -> Merged:
    """Decide and commit; without changes, what the newest floor deletes."""
    clock = _Clock()
    # The live table first: a tombstone or a floor that appears after it was opened comes with a later commit to
    # the live table, on which our own commit then fails.
    live = lake.open_or_create(table_name(contract), live_schema(contract), partition_by=partition_by(contract))
    check_layout(contract, live)
    tombstones = lake.open_or_create(tombstones_name(contract), tombstone_schema(contract))
    files, graves = Files.of(live), Files.of(tombstones)
    with reader(lake) as connection:
        floors = read_floors(lake, contract)
        connection.register("floors", floors)
        clock.end("open")
        differ = _changes(lake, connection, contract, changes, files, graves, floored=floors.num_rows > 0)
        doubled, tied = [], 0
        if not differ and changes is not None:
            columns = _source_columns(connection, "changes")
            doubled = _doubled(connection, contract, columns)
            tied = _tied(connection, contract, columns) if _unsequenced(contract, changes) else 0
        clock.end("reduce")
        probed = probe(lake, connection, contract, files, graves, pa.schema(live.schema().to_arrow()))
        late = _too_late(connection, contract, expired_before(tombstones))
        clock.end("probe")
        buried = _judge(connection, contract)
        staged, touched = staged_rows(connection, contract), touched_paths(connection, contract)
    clock.end("reduce")
    if late.num_rows:
        _set_aside(lake, contract, late)
    if buried.num_rows:
        append(tombstones, buried.append_column(VERSION, constant(tombstones.version() + 1, buried)))
    clock.end("commit")
    if staged.num_rows:
        write(lake, live, contract, files, staged, touched, tokens)
    elif buried.num_rows or tokens:
        # A commit of its own makes a concurrent merge of an older change fail and look again.
        append(live, live_schema(contract).empty_table(), tokens)
    clock.end("merge")
    if staged.num_rows:
        compact(lake, live)
    if buried.num_rows:
        compact(lake, tombstones)
    clock.end("upkeep")
    deletes = pc.sum(staged["_delete"]).as_py() or 0
    return Merged(
        staged.num_rows - deletes,
        deletes,
        buried.num_rows,
        live.version(),
        probed.moved,
        doubled,
        tied,
        late.num_rows,
        (probed.read, probed.touched),
        clock.spent,
    )


def _changes(
    lake: Lake,
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    batch: pa.Table | None,
    live: Files,
    graves: Files,
    *,
    floored: bool,
) -> bool:
    """Make the relation `changes`, one row a key: of the batch, or what the newest floor says of all keys.

    Returns:
        Whether no key came twice.
    """
    connection.execute(f"CREATE TEMP TABLE floor AS {newest_floor(contract)}")
    if batch is not None:
        connection.register("received", batch)
    else:
        _old_keys(lake, connection, contract, live, graves)
        connection.execute(f"CREATE TEMP VIEW received AS {below_floor(contract)}")
    differ = keys_differ(connection, contract, "received")
    newest = settled(contract, _source_columns(connection, "received"), keys_differ=differ, floored=floored)
    date = ""
    if contract.immutable_date:
        date = f", {date_of(contract, 'c') if batch is not None else 'NULL::TIMESTAMPTZ'} AS {DATE}"
    connection.execute(f"CREATE TEMP TABLE changes AS SELECT c.*{date} FROM ({newest}) AS c")
    return differ


def _old_keys(
    lake: Lake, connection: duckdb.DuckDBPyConnection, contract: Contract, live: Files, graves: Files
) -> None:
    """Make the relations `live_rows` and `tombstone_rows`: keys and order of all that may lie below the floor."""
    names = [*contract.key, *(field.name for field in order_fields(contract))]
    [floor] = connection.execute(f"SELECT {MODIFIED}, {SEQUENCE} FROM floor").fetchall()
    for relation, files in (("live_rows", live), ("tombstone_rows", graves)):
        rows = lake.data.rows(
            lake, connection, files.paths, tombstone_schema(contract), names, where=may_be_below(contract, "r", floor)
        )
        connection.execute(f"CREATE TEMP VIEW {relation} AS SELECT * EXCLUDE (filename) FROM {rows}")


def _too_late(connection: duckdb.DuckDBPyConnection, contract: Contract, horizon: datetime | None) -> pa.Table:
    """Take out of `changes` those older than what tombstones remember, whose key is not live; and return them."""
    if horizon is None:
        return pa.table({})
    unknown = " ".join(
        f"ANTI JOIN {known} AS k{n} ON {same_key(contract, 'c', f'k{n}')}"
        for n, known in enumerate(("live", "tombstones"))
    )
    connection.execute(
        f"CREATE TEMP TABLE late AS SELECT c.* FROM changes AS c {unknown} WHERE c.{MODIFIED} < ?", [horizon]
    )
    connection.execute(f"DELETE FROM changes AS c USING late AS l WHERE {same_key(contract, 'c', 'l')}")
    return connection.sql("FROM late").to_arrow_table()


def _set_aside(lake: Lake, contract: Contract, late: pa.Table) -> None:
    # Appends never conflict with each other: the library's own retries are right here.
    write_deltalake(lake.open_or_create(late_name(contract), late.schema), late, mode="append", schema_mode="merge")


def _doubled(connection: duckdb.DuckDBPyConnection, contract: Contract, columns: list[str]) -> list[tuple[object, ...]]:
    """Keys of which the batch says two things at one place in the order, where a key has only one (at most 20)."""
    keys = ", ".join(f"c.{quote(name)}" for name in contract.key)
    placed = f"starts_with(c.{FILE}, {text(full_load_prefix(contract))})"
    if "change_seq" in contract.order:
        placed += f" OR c.{SEQUENCE} IS NOT NULL"
    several = f"(SELECT {keys} FROM received AS c GROUP BY {keys} HAVING count(*) > 1)"
    position = ", ".join(place_terms(contract, "c"))
    return connection.execute(
        f"SELECT DISTINCT {keys} FROM received AS c SEMI JOIN {several} AS k ON {same_key(contract, 'c', 'k')} "
        f"WHERE c.{OP} <> 'D' AND ({placed}) GROUP BY {keys}, {position} "
        f"HAVING count(DISTINCT {canonical_text('c', columns)}) > 1 ORDER BY ALL LIMIT 20"
    ).fetchall()


def _unsequenced(contract: Contract, changes: pa.Table) -> bool:
    return "change_seq" not in contract.order or changes[SEQUENCE].null_count > 0


def _tied(connection: duckdb.DuckDBPyConnection, contract: Contract, columns: list[str]) -> int:
    """How often the batch says several things of a key at one place in the order, and nothing finer orders them."""
    keys = ", ".join(f"c.{quote(name)}" for name in contract.key)
    open_order = f"c.{SEQUENCE} IS NULL" if "change_seq" in contract.order else "true"
    loaded = f"starts_with(c.{FILE}, {text(full_load_prefix(contract))})"
    # Texts are made of few rows: those that share key and moment.
    several = (
        f"(SELECT {keys}, c.{MODIFIED} FROM received AS c WHERE {open_order} AND NOT {loaded} "
        f"GROUP BY {keys}, c.{MODIFIED} HAVING count(*) > 1)"
    )
    said = f"CASE WHEN c.{OP} = 'D' THEN 'D' ELSE 'I' || {canonical_text('c', columns)} END"
    row = connection.execute(
        f"SELECT count(*) FROM (SELECT {keys} FROM received AS c SEMI JOIN {several} AS k "
        f"ON {same_key(contract, 'c', 'k')} AND c.{MODIFIED} = k.{MODIFIED} WHERE {open_order} AND NOT {loaded} "
        f"GROUP BY {keys}, c.{MODIFIED} HAVING count(DISTINCT {said}) > 1)"
    ).fetchone()
    return int(row[0]) if row else 0


def _judge(connection: duckdb.DuckDBPyConnection, contract: Contract) -> pa.Table:
    """Make the relation `judged`, and return the new tombstones."""
    columns, live_columns = (_source_columns(connection, relation) for relation in ("changes", "live"))
    verdict = unheard()
    if connection.execute("SELECT EXISTS (FROM live) OR EXISTS (FROM tombstones)").fetchone() == (True,):
        differ = keys_differ(connection, contract, "tombstones")
        verdict = judged(contract, columns, live_columns, tombstones_differ=differ)
    connection.execute(f"CREATE TEMP TABLE judged AS {verdict}")
    keys = [quote(name) for name in contract.key]
    order = [field.name for field in order_fields(contract)]
    return connection.sql(f"SELECT {', '.join([*keys, *order])} FROM judged WHERE _bury").to_arrow_table()


def _source_columns(connection: duckdb.DuckDBPyConnection, relation: str) -> list[str]:
    return [name for name in connection.sql(f"SELECT * FROM {relation}").columns if not name.startswith("_")]


class _Clock:
    """Seconds spent, by what they were spent on."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._since = perf_counter()

    def end(self, name: str) -> None:
        now = perf_counter()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._since
        self._since = now
