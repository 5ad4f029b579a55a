"""What has moved away from a contract: in the source database, in the files of raw, in bronze.

Here: the comparisons, and what a person does about each difference. Not here: what happens to a file that differs
(`raw.files` decides, by file and contract alone). Nothing is read but the catalog, the newest files' headers and the
live table's schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from upsell_assets.bronze.ingest import undeclared_columns
from upsell_assets.bronze.tables import table_name
from upsell_assets.capture.catalog import SourceColumn, SourceTable, find_table
from upsell_assets.capture.setup import source_name
from upsell_assets.capture.values import is_exact, source_type
from upsell_assets.contracts import Contract, undeclarable
from upsell_assets.contracts.types import fits, type_name
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.landing import cdc_prefix, full_load_prefix
from upsell_assets.raw.sample import Sampled, data_files, read_head
from upsell_assets.source.database import Connection

NEWEST = 5
"""So many of the newest change files are looked at, and of the newest files of full loads."""


@dataclass(frozen=True)
class Drift:
    """One difference: where it was seen, what it is, and what to do."""

    table: str
    where: str
    what: str
    remedy: str


def drifts(lakehouse: Lakehouse, contract: Contract, connection: Connection | None) -> list[Drift]:
    """All differences of one contract; `connection` is to the source database, if there is one.

    Tables of other producers are compared with bronze alone: their files say their columns in other ways (`raw.files`
    quarantines what does not fit), and they need not be in this database. Nor need those whose `change_seq_type` is no
    string, which our capture does not write.
    """
    found: list[Drift] = []
    if contract.files.layout == "own":
        if connection is not None and contract.change_seq_type == "string":
            found += of_database(connection, contract, lakehouse.settings.source_schema)
        found += _of_files(lakehouse, contract)
    return [*found, *_of_bronze(lakehouse, contract)]


def of_database(connection: Connection, contract: Contract, default_schema: str) -> Iterator[Drift]:
    """How the source table differs."""
    schema, name = source_name(contract, default_schema)
    where = "database"
    table = find_table(connection, schema, name)
    if table is None:
        yield Drift(
            contract.name,
            where,
            f"table {schema}.{name} is gone",
            "correct source_table or UPSELL_SOURCE_SCHEMA, or remove the contract",
        )
        return
    columns = {column.name.lower(): column for column in table.columns}
    declared = _declared(contract)
    for column_name in contract.columns:
        if column_name.lower() not in columns:
            yield _gone(contract, where, column_name)
    for lowered, column in columns.items():
        if lowered not in declared and not undeclarable(column.name):
            yield _new(contract, where, column.name, source_type(column.column))
        elif lowered in declared and not _holds(declared[lowered], column):
            yield _retyped(contract, where, column.name, _spelled(column), declared[lowered])
    yield from _key_drift(contract, table)


def _declared(contract: Contract) -> dict[str, str]:
    return {name.lower(): kind for name, kind in contract.columns.items()}


def _holds(declared: str, column: SourceColumn) -> bool:
    return is_exact(declared, column.column) or (column.base != column.column and is_exact(declared, column.base))


def _spelled(column: SourceColumn) -> str:
    kind = source_type(column.column)
    return kind if kind == column.spelled else f"{kind} ({column.spelled})"


def _key_drift(contract: Contract, table: SourceTable) -> Iterator[Drift]:
    key = {name.lower() for name in contract.key}
    keys = table.keys[:1] if table.primary else table.keys
    if any(key == {name.lower() for name in names} for names in keys):
        return
    mine = ", ".join(contract.key)
    if table.primary:
        what = f"the primary key is {', '.join(keys[0])}, the contract's key {mine}"
        remedy = f"correct the key, then upsell repair {contract.table} --from-raw"
    else:
        what = f"nothing keeps the key {mine} unique and not null"
        remedy = "add a primary key, or look with upsell check whether it is one"
    yield Drift(contract.name, "database", what, remedy)


def _of_files(lakehouse: Lakehouse, contract: Contract) -> Iterator[Drift]:
    for prefix, is_load in ((cdc_prefix(contract), False), (full_load_prefix(contract), True)):
        newest: list[Sampled] = []
        for entry in data_files(lakehouse.store, prefix)[: -NEWEST - 1 : -1]:
            try:
                newest.append(read_head(lakehouse.store, entry.key, rows=0))
            except FileNotFoundError:
                continue
            except FileRejectedError as error:
                yield Drift(contract.name, entry.key, str(error), "have it written again, then upsell quarantine retry")
        yield from _of_headers(contract, newest, is_load=is_load)


def _of_headers(contract: Contract, newest: list[Sampled], *, is_load: bool) -> Iterator[Drift]:
    """Each difference once, with the newest file that shows it; what is missing, by the newest file alone."""
    if newest:
        yield from _missing(contract, newest[0], is_load=is_load)
    seen: set[str] = set()
    for file in newest:
        for drift in _differing(contract, file):
            if drift.what not in seen:
                seen.add(drift.what)
                yield drift


def _missing(contract: Contract, file: Sampled, *, is_load: bool) -> Iterator[Drift]:
    for declared in contract.columns:
        if declared.lower() not in file.columns:
            yield _gone(contract, file.key, declared)
    if is_load:
        return  # its operation is insert, its position may be a manifest's
    operation = contract.operations.column
    if operation.lower() not in file.columns:
        yield Drift(
            contract.name,
            file.key,
            f"operation column {operation} is missing",
            "correct operations.column; such files are quarantined",
        )
    for column in contract.order:
        if column not in file.columns:
            leads = column == contract.order[0]
            yield Drift(
                contract.name,
                file.key,
                f"order column {column} is missing",
                "correct order; such files are quarantined" if leads else "correct order, if no file will have it",
            )


def _differing(contract: Contract, file: Sampled) -> Iterator[Drift]:
    declared = _declared(contract) | {"change_seq": contract.change_seq_type}
    for lowered, field in file.columns.items():
        kind = type_name(field.type)
        if lowered in declared:
            if not pa.types.is_null(field.type) and (kind is None or not fits(kind, declared[lowered])):
                yield _retyped(contract, file.key, field.name, kind or str(field.type), declared[lowered])
        elif lowered not in (contract.operations.column.lower(), "modified_date"):
            yield _new(contract, file.key, field.name, kind)


def _of_bronze(lakehouse: Lakehouse, contract: Contract) -> Iterator[Drift]:
    for field in undeclared_columns(lakehouse.lake, contract).values():
        yield _new(contract, table_name(contract), field.name, type_name(field.type))


def _new(contract: Contract, where: str, column: str, kind: str | None) -> Drift:
    why = undeclarable(column) or (None if kind else "the lake has no such type")
    if why:
        remedy = f"have it left out: {why}, and such files are quarantined"
    else:
        until = "is added by itself" if contract.drift == "evolve" else "puts its files into quarantine"
        remedy = f"declare it (until then it {until}): {column}: {kind}"
    return Drift(contract.name, where, f"column {column} is new", remedy)


def _gone(contract: Contract, where: str, column: str) -> Drift:
    remedy = (
        "correct the key: files without it are quarantined"
        if column in contract.key
        else "remove it from the contract, or have it sent again; until then it is null"
    )
    return Drift(contract.name, where, f"column {column} is gone", remedy)


def _retyped(contract: Contract, where: str, column: str, found: str, declared: str) -> Drift:
    return Drift(
        contract.name,
        where,
        f"column {column} is {found}, the contract says {declared}",
        "declare a type that holds both; until then a file with a value that does not fit is quarantined",
    )
