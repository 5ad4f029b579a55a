"""The graph of all columns, from the source database to the scores, read from the contracts and the `.sql` files.

A column is made from those that go into its values; columns that only filter, join or group are not among them. Internal
views and daily aggregates are seen through: a feature comes from silver, as its `.sql` file says it. The tables that bronze
keeps beside its live rows stand for themselves. Not here: which files and rows a value came from (`bronze.trace`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from upsell_assets.bronze.floors import RECORDED, floors_name, floors_schema
from upsell_assets.bronze.layout import DATE, MONTH
from upsell_assets.bronze.tables import INGESTED, VERSION, changes_name, changes_schema, live_schema, table_name
from upsell_assets.capture.setup import source_name
from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import DebeziumFiles, DmsFiles
from upsell_assets.dtref_files import declared_files, described
from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import CUSTOMER, DTREF, FEATURE_TABLES
from upsell_assets.lake.sql import DTREFS, SqlFile, lineage, load_sql
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE
from upsell_assets.silver.tables import silver_tables
from upsell_assets.silver.touched import SCORES

MODEL, LABEL = "model.upsell.churn", "flChurn"

_INTERNAL = {
    OP: "what the change did: I, U or D",
    MODIFIED: "when it was made, UTC",
    SEQUENCE: "its place in the order of changes",
    FILE: "the raw file that it came in",
    ROW: "the number of its row there",
    INGESTED: "when the lake took it in, UTC",
    VERSION: "the version of the table that wrote it",
    DATE: "the contract's immutable date as an instant, UTC",
    MONTH: "the month of that date, by which files lie",
    RECORDED: "when the lake saw the full load end, UTC",
}


class Column(NamedTuple):
    """A column by its table's name."""

    table: str
    name: str

    def __str__(self) -> str:
        """As people write it: `gold.upsell.churn_report.ChurnRate`."""
        return f"{self.table}.{self.name}"


@dataclass(frozen=True)
class Origin:
    """What a column is, in words ('' where nothing is said), and the columns that it is made from."""

    meaning: str = ""
    sources: tuple[Column, ...] = ()


@dataclass(frozen=True)
class ColumnGraph:
    """All columns, with their origins; tables and columns are in the order of the data's way."""

    origins: Mapping[Column, Origin]

    @cached_property
    def tables(self) -> dict[str, list[Column]]:
        """The columns of each table."""
        found: dict[str, list[Column]] = defaultdict(list)
        for column in self.origins:
            found[column.table].append(column)
        return dict(found)

    @cached_property
    def _dependents(self) -> dict[Column, list[Column]]:
        found: dict[Column, list[Column]] = defaultdict(list)
        for column, origin in self.origins.items():
            for source in origin.sources:
                found[source].append(column)
        return dict(found)

    def next(self, column: Column, *, down: bool = False) -> list[Column]:
        """The columns that a column is made from; `down`: those that are made from it."""
        return self._dependents.get(column, []) if down else list(self.origins[column].sources)

    def alike(self, table: str) -> dict[tuple[Column, ...], list[Column]]:
        """The columns of a table by what they are made from; those of a group are made from the same columns."""
        found: dict[tuple[Column, ...], list[Column]] = defaultdict(list)
        for column in self.tables[table]:
            found[tuple(sorted(self.origins[column].sources))].append(column)
        return dict(found)

    def reach(self, start: Iterable[Column], *, down: bool = False) -> Iterator[Column]:
        """The columns, and all that they come from (or go into) by any way, each once, the nearest first."""
        seen = dict.fromkeys(start)
        waiting = list(seen)
        for column in waiting:
            yield column
            fresh = [near for near in self.next(column, down=down) if near not in seen]
            seen |= dict.fromkeys(fresh)
            waiting += dict.fromkeys(fresh)

    def find(self, name: str) -> list[Column]:
        """A column by its full name, or all columns of a table; their case does not matter.

        Raises:
            PermanentError: there is no such table or column; those with near names are listed.
        """
        wanted = name.lower()
        for table, columns in self.tables.items():
            if table.lower() == wanted:
                return columns
        for column in self.origins:
            if str(column).lower() == wanted:
                return [column]
        raise PermanentError(f"{name}: no such table or column. {self._near(name)}")

    def _near(self, name: str) -> str:
        head, _, last = name.rpartition(".")
        of_table = next((table for table in self.tables if table.lower() == head.lower()), None)
        if of_table:
            names = [column.name for column in self.tables[of_table]]
            near = _close(last, names)
            return (
                f"{of_table} has {', '.join(near or names)}{', and others' if near and len(near) < len(names) else ''}."
            )
        shown = _close(name, [*self.tables, *map(str, self.origins)]) or [*self.tables]
        return f"{'Near are' if len(shown) < len(self.tables) else 'There are the tables'} {', '.join(shown)}."


def _close(name: str, names: list[str]) -> list[str]:
    spelled = {known.lower(): known for known in names}
    return [spelled[found] for found in get_close_matches(name.lower(), spelled, n=5)]


def column_graph(
    contracts: Mapping[str, Contract], source_schema: str = "public", daily: Iterable[SqlFile] | None = None
) -> ColumnGraph:
    """The graph of every table that the contracts and the `.sql` files declare.

    Args:
        contracts: the source tables.
        source_schema: schema of the source database, where a contract does not say one.
        daily: the tables of features and gold, where they were read already.
    """
    origins: dict[Column, Origin] = {}
    for contract in contracts.values():
        origins |= _taken_in(contract, source_schema)
    silver = [table.sql for table in silver_tables(contracts)]
    files = declared_files([sql.name for sql in silver]) if daily is None else daily
    for sql in (*silver, *map(described, files)):
        origins |= _queried(sql, origins, sql.name)
    if set(FEATURE_TABLES) <= {column.table for column in origins}:
        label = load_sql(Path(__file__).parents[1] / "model" / "label.sql")
        origins |= {
            column: origin for column, origin in _queried(label, origins, MODEL).items() if column.name == LABEL
        }
        origins |= _scores(origins)
    return ColumnGraph(origins)


def _taken_in(contract: Contract, source_schema: str) -> dict[Column, Origin]:
    """The database, the raw files and the tables of bronze of one contract."""
    raw = f"raw.{contract.name}"
    headers = {name: Column(raw, header) for name, header in _headers(contract).items()}
    found: dict[Column, Origin] = {}
    captured = contract.files.layout == "own"
    if captured:
        table = ".".join(("source", *source_name(contract, source_schema)))
        found |= {Column(table, name): Origin() for name in contract.columns}
    for name, header in headers.items():
        of_database = captured and name in contract.columns
        found[header] = Origin(_INTERNAL.get(name, ""), (Column(table, name),) if of_database else ())
    dated = (headers[contract.immutable_date],) if contract.immutable_date else ()
    sources = {name: (header,) for name, header in headers.items()} | {DATE: dated, MONTH: dated}
    kept = {table_name(contract): live_schema(contract), floors_name(contract): floors_schema(contract)}
    if contract.history:
        kept[changes_name(contract)] = changes_schema(contract)
    for table, schema in kept.items():
        found |= {Column(table, name): Origin(_INTERNAL.get(name, ""), sources.get(name, ())) for name in schema.names}
    return found


def _headers(contract: Contract) -> dict[str, str]:
    """What the columns of a change row are called in the raw files of the contract's producer."""
    files, prefix = contract.files, ""
    order = {MODIFIED: MODIFIED[1:], SEQUENCE: SEQUENCE[1:]}
    if isinstance(files, DmsFiles):
        order = {MODIFIED: files.timestamp, SEQUENCE: files.change_seq or ""}
    elif isinstance(files, DebeziumFiles):
        flat = files.shape == "flat"
        prefix = "" if flat else "after."
        order = (
            {MODIFIED: files.timestamp, SEQUENCE: files.sequence}
            if flat
            else {MODIFIED: "source.ts_ms", SEQUENCE: "source.sequence"}
        )
    named = {name: f"{prefix}{name}" for name in contract.columns} | {OP: contract.operations.column} | order
    return {name: header for name, header in named.items() if header}


def _queried(sql: SqlFile, origins: Mapping[Column, Origin], name: str) -> dict[Column, Origin]:
    """The columns of a query over tables that are known."""
    tables: dict[str, dict[str, str]] = {table: {} for table in sql.tables if table != DTREFS}
    for column in origins:
        if column.table in tables:
            # Of the types nothing depends here.
            tables[column.table][column.name] = "string"
    found = lineage(sql.tree, tables)
    return {
        Column(name, column): Origin(str(comment), tuple(Column(*source) for source in sorted(found.get(column, ()))))
        for column, comment in sql.columns.items()
    }


def _scores(origins: Mapping[Column, Origin]) -> dict[Column, Origin]:
    keys = {name: tuple(Column(table, name) for table in FEATURE_TABLES) for name in (DTREF, CUSTOMER)}
    features = tuple(c for c in origins if c.table in FEATURE_TABLES and c.name not in keys and c.name[0] != "_")
    said = {
        DTREF: Origin("the day that the features look back from, local", keys[DTREF]),
        "descModelName": Origin("name of the registered model"),
        "nrModelVersion": Origin("version of the registered model"),
        CUSTOMER: Origin("customer, uuid", keys[CUSTOMER]),
        "descLabel": Origin("what is foretold: 0 = stays, 1 = churns"),
        "nrProbLabel": Origin(
            f"probability of the label, by a model of the features that was trained on {MODEL}.{LABEL}",
            (*features, Column(MODEL, LABEL)),
        ),
    }
    return {Column(SCORES, name): origin for name, origin in said.items()}
