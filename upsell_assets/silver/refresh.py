"""Silver from bronze, incrementally: only the keys that changed since the versions already taken in.

The SQL says what a full recompute gives; here it runs over the touched keys only, and the difference to what
silver holds is committed together with the versions of bronze that it was made from. A touched key's state is
the newer of its live row and its tombstone, since silver may run between bronze's two commits. What the change
touches is told before the commit, so that a crash repeats rather than forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.floors import floors_name, open_floors
from upsell_assets.bronze.history import open_changes
from upsell_assets.bronze.tables import GENERATION, changes_name, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.files import column_types
from upsell_assets.lake.keys import DoubledKeysError, Keys, doubled
from upsell_assets.lake.sql import Parameter
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE
from upsell_assets.raw.landing import full_load_prefix
from upsell_assets.silver import changed, events
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.read import touched_rows
from upsell_assets.silver.rebuild import rebuild
from upsell_assets.silver.tables import SilverTable
from upsell_assets.silver.write import difference_to_held, gone, write

CODE = "code_version"


@dataclass
class Refreshed:
    """What a refresh did; `sources` are the versions that the table now stands for.

    Of a table that a cluster made anew, all rows are upserts.
    """

    upserts: int = 0
    deletes: int = 0
    version: int = 0
    sources: dict[str, int] = field(default_factory=dict)


BeforeCommit = Callable[[Difference], None]


def refresh(lake: Lake, engine: Engine, table: SilverTable, before_commit: BeforeCommit | None = None) -> Refreshed:
    """Bring one table up to date with what it is made from; nothing new makes no commit.

    Raises:
        UnknownTableError: a source has not been made yet.
        DoubledKeysError: a key would have several rows; nothing was written, and nothing told.
        PermanentError: the rows do not fit the table's columns; nothing was written.
        RetryableError: other writers kept committing in between.
    """
    return retry_conflicts(table.name, lambda: _refresh_once(lake, engine, table, before_commit))


def versions_behind(lake: Lake, table: SilverTable) -> int:
    """How many versions of its sources a table has not taken in yet; 0: it is current.

    Raises:
        UnknownTableError: a source has not been made yet.
    """
    sources = _versions(_sources(lake, table))
    target = lake.find(table.name)
    known = {name: target.transaction_version(name) if target else None for name in sources}
    return sum(version - (-1 if (at := known[name]) is None else at) for name, version in sources.items())


def _refresh_once(lake: Lake, engine: Engine, table: SilverTable, before_commit: BeforeCommit | None) -> Refreshed:
    tables = _sources(lake, table)
    sources = _versions(tables)
    target = lake.find(table.name)
    code = _code(lake, table)
    known = {name: target.transaction_version(name) for name in (*sources, CODE)} if target else {}
    if target and known == {**sources, CODE: code}:
        return Refreshed(version=target.version(), sources=sources)
    since = _since(table, known, sources) if known.get(CODE) == code else None
    tokens = {**sources, CODE: code}
    if since is None and (cluster := engine.cluster(whole := _whole(table, tables))):

        def tell(change: Difference, version: int) -> None:
            if before_commit:
                before_commit(change)
            _note_days(lake, table, version, change)

        count, version = rebuild(lake, cluster, table, whole, target, tokens, tell)
        return Refreshed(count, 0, version, sources)
    rows, keys = touched_rows(lake, table, since, tables) if table.contract else (None, None)
    new = engine.run(_query(lake, table, rows, tables)).read_all()
    if found := doubled(new, table.key):
        raise DoubledKeysError(table.name, table.key, found, _raw_files(table, rows, found))
    if target is not None and since is not None and column_types(target) != column_types(new):
        raise PermanentError(
            f"{table.name}: expected the columns {column_types(target)}, as the table has them, found {column_types(new)}, "
            f"though {table.sql.path.name} is the same. Nothing was written. Was the table altered by other hands? Delete "
            "it, and it is made anew."
        )
    difference, lying = difference_to_held(lake, target, table.key, new, keys)
    if before_commit and (difference.old.num_rows or difference.new.num_rows):
        before_commit(difference)
    if target is None:
        target = lake.open_or_create(table.name, new.schema)
    _note_days(lake, table, target.version() + 1, difference)
    if since is None and column_types(target) != column_types(new):
        # Only another query has other columns: all rows are written anew.
        properties = commit_properties(tokens)
        write_deltalake(target, new, mode="overwrite", schema_mode="overwrite", commit_properties=properties)
    else:
        write(lake, target, table.key, difference, lying, tokens)
    return Refreshed(difference.new.num_rows, gone(table.key, difference), target.version(), sources)


def _raw_files(table: SilverTable, rows: pa.Table | None, keys: Keys) -> list[str]:
    """The raw files that keys of silver came from."""
    if rows is None or FILE not in rows.column_names:
        return []
    mine = rows.filter(pc.is_in(rows[table.source_key], pa.array([key[0] for key in keys], pa.string())))
    return sorted({file for file in mine[FILE].to_pylist() if file})


def _note_days(lake: Lake, table: SilverTable, version: int, difference: Difference) -> None:
    """Write down which days the commit to come changes, of the tables that daily aggregates are made of."""
    if table.name == events.TRANSACTIONS:
        changed.note(lake, table.name, version, events.transaction_days(difference))
    elif table.name == events.LINES:
        days, looked_up = events.line_days(lake, difference)
        changed.note(lake, table.name, version, days, looked_up)


def _code(lake: Lake, table: SilverTable) -> int:
    """What the table is made by: its SQL, and the generation of the bronze table that it is made from."""
    generation = None
    if table.contract is not None and (live := lake.find(table_name(table.contract))):
        generation = live.transaction_version(GENERATION)
    return int(table.sql.code_version[:12], 16) + (generation or 0)


def _since(table: SilverTable, known: dict[str, int | None], sources: dict[str, int]) -> dict[str, int] | None:
    """The versions taken in already; None: start from nothing, since a source was made anew or never read.

    Also where a full load ended meanwhile: that can end what holds of any key.
    """
    if table.contract and known.get(floors := floors_name(table.contract)) != sources.get(floors):
        return None
    taken = {name: at for name, version in sources.items() if (at := known[name]) is not None and at <= version}
    return taken if len(taken) == len(sources) else None


def _versions(tables: dict[str, DeltaTable]) -> dict[str, int]:
    return {name: table.version() for name, table in tables.items()}


def _sources(lake: Lake, table: SilverTable) -> dict[str, DeltaTable]:
    """What a table is made from, opened at its newest versions."""
    if table.contract is None:
        return {name: lake.open(name) for name in sorted(table.sql.tables)}
    if table.from_changes:
        # The floors first: a load's rows are kept before its end is written down, so that none ends without them.
        floors = {floors_name(table.contract): open_floors(lake, table.contract)}
        lake.open(table_name(table.contract))  # without anything that came there is no history
        return floors | {changes_name(table.contract): open_changes(lake, table.contract)}
    # The live table first: see bronze.merge.
    live = {table_name(table.contract): lake.open(table_name(table.contract))}
    return live | {tombstones_name(table.contract): lake.open(tombstones_name(table.contract))}


def _whole(table: SilverTable, sources: dict[str, DeltaTable]) -> Query:
    """All rows of a table, from all there is."""
    params = history_params(table.contract) if table.contract and table.from_changes else {}
    return Query(table.sql.tree, params, tables=sources)


def _query(lake: Lake, table: SilverTable, rows: pa.Table | None, sources: dict[str, DeltaTable]) -> Query:
    contract = table.contract
    if rows is None or contract is None:
        return Query(table.sql.tree, tables=sources)
    if not table.from_changes:
        return Query(table.sql.tree, relations={table_name(contract): rows})
    floors = floors_name(contract)
    ends = lake.rows(sources[floors]).to_table()
    return Query(table.sql.tree, history_params(contract), {changes_name(contract): rows, floors: ends})


def history_params(contract: Contract) -> dict[str, Parameter]:
    """What a query over all changes must know of the contract to follow the law."""
    return {
        "modified_date_first": contract.order[0] == "modified_date",
        "load_folder": full_load_prefix(contract),
    }
