"""Which dump of the points system a path holds, and how its tables and columns map to ours.

Here: the two dumps that the points system publishes (that of 2024, whose tables are ours, and today's), and which of
them lies in a folder or in an SQLite file. Not here: how files are read (`dump_files`), and how rows go in (`loader`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from upsell_assets.errors import PermanentError
from upsell_assets.source.database import TABLES
from upsell_assets.source.dump_files import CsvFile, Rows, SqliteFile, fault

logger = logging.getLogger(__name__)

OPTIONAL = frozenset({"flEmail"})
"""Columns of ours that a dump need not have: those of early 2024 do not."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Origin:
    """The table of a dump that one of ours is made of.

    `columns` maps our columns to the dump's. What is in `named` stands for a product's id in the dump and for its name
    with us; all else is the same value.
    """

    table: str
    columns: Mapping[str, str]
    named: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Products:
    """The table of a dump that names its products."""

    table: str
    id: str
    name: str


@dataclass(frozen=True)
class Shape:
    """One of the dumps: what our tables are made of, and what names the products that it knows by id."""

    title: str
    origins: Mapping[str, Origin]
    products: Products | None = None

    @property
    def tables(self) -> list[str]:
        """The names of all its tables, in lower case."""
        names = [origin.table for origin in self.origins.values()]
        return [*names, self.products.table] if self.products else names


_SHAPES = (
    Shape(
        "of 2024",
        {table: Origin(table, {column: column for column in columns}) for table, columns in TABLES.items()},
    ),
    Shape(
        "of today",
        {
            "customers": Origin(
                "clientes", {"idCustomer": "idCliente", "PointsCustomer": "qtdePontos", "flEmail": "flEmail"}
            ),
            "transactions": Origin(
                "transacoes",
                {
                    "idTransaction": "IdTransacao",
                    "idCustomer": "IdCliente",
                    "dtTransaction": "DtCriacao",
                    "pointsTransaction": "QtdePontos",
                },
            ),
            "transactions_product": Origin(
                "transacao_produto",
                {
                    "idTransactionCart": "idTransacaoProduto",
                    "idTransaction": "IdTransacao",
                    "NameProduct": "IdProduto",
                    "QuantityProduct": "QtdeProduto",
                },
                named=frozenset({"NameProduct"}),
            ),
        },
        Products("produtos", "IdProduto", "DescNomeProduto"),
    ),
)


@dataclass(frozen=True)
class Dump:
    """An open dump: its shape, and the rows of each of its tables, by their names in lower case."""

    shape: Shape
    rows: Mapping[str, Rows]

    def product_names(self) -> dict[str, str]:
        """The names of its products by id; of a dump that writes names into its lines, none.

        Raises:
            PermanentError: the table lacks a column, or gives one product two names.
        """
        products = self.shape.products
        if products is None:
            return {}
        rows = self.rows[products.table]
        places = places_of(rows, [products.id, products.name])
        at, name_at = places[products.id], places[products.name]
        if others := [column for place, column in enumerate(rows.columns) if place not in (at, name_at)]:
            logger.warning("%s: names go into the lines of carts; left out: %s.", rows.name, ", ".join(others))
        names: dict[str, str] = {}
        for position, values in rows:
            key, name = values[at], values[name_at]
            if key and name and names.setdefault(key, name) != name:
                raise fault(rows, position, f"{products.id} {key} has another name before, {names[key]!r}")
        return names


def places_of(rows: Rows, columns: Iterable[str], optional: Iterable[str] = ()) -> dict[str, int]:
    """Where columns of a table stand, found without case; one that is optional may be nowhere.

    Raises:
        PermanentError: one is not there, or the header names one twice.
    """
    header = ", ".join(rows.columns) or "empty"
    places = {name.lower(): place for place, name in enumerate(rows.columns)}
    if len(places) < len(rows.columns):
        raise PermanentError(f"{rows.name}: the header names a column twice: {header}. Keep one of them.")
    wanted = list(columns)
    if absent := [name for name in wanted if name.lower() not in places and name not in optional]:
        raise PermanentError(
            f"{rows.name}: column {', '.join(absent)} not found; the header is: {header}. "
            "Export the table with this column."
        )
    return {name: places[name.lower()] for name in wanted if name.lower() in places}


@contextmanager
def opened(path: Path) -> Iterator[Dump]:
    """Open the dump in a folder of CSV files or in an SQLite file, as long as the context lasts.

    Names of files, tables and columns are compared without case.

    Raises:
        PermanentError: it holds neither dump, both, or one without all of its tables.
    """
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() == ".csv" and file.is_file()]
        yield _dump(path, {file: file.stem for file in sorted(files)}, CsvFile, "{}.csv")
    elif path.is_file():
        with SqliteFile.opened(path) as file:
            yield _dump(path, {table: table for table in file.tables()}, file.rows, "table {}")
    else:
        raise PermanentError(f"{path}: no such folder or file. Give a folder of CSV files, or an SQLite file.")


def _dump(path: Path, candidates: Mapping[_T, str], read: Callable[[_T], Rows], spelled: str) -> Dump:
    """The dump made of what has the right name; `spelled` is how messages speak of a table's file."""

    def listed(names: Iterable[str]) -> str:
        return ", ".join(spelled.format(name) for name in names)

    by_name: dict[str, list[_T]] = {}
    for candidate, name in candidates.items():
        by_name.setdefault(name.lower(), []).append(candidate)
    begun = [shape for shape in _SHAPES if not by_name.keys().isdisjoint(shape.tables)]
    if not begun:
        either = " nor ".join(f"the dump {shape.title} ({listed(shape.tables)})" for shape in _SHAPES)
        raise PermanentError(f"{path}: holds neither {either}. Give a folder or an SQLite file with one of them.")
    if len(begun) > 1:
        both = " and ".join(
            f"of the dump {shape.title} ({listed(name for name in shape.tables if name in by_name)})" for shape in begun
        )
        raise PermanentError(f"{path}: holds tables {both}. Leave those of one dump, and load again.")
    [shape] = begun
    if missing := [name for name in shape.tables if name not in by_name]:
        raise PermanentError(
            f"{path}: {listed(missing)} not found. The dump {shape.title} is {listed(shape.tables)}, all of them."
        )
    if twice := next((by_name[name] for name in shape.tables if len(by_name[name]) > 1), None):
        raise PermanentError(f"{path}: {' and '.join(map(str, twice))} are one table. Keep one of them.")
    return Dump(shape, {name: read(by_name[name][0]) for name in shape.tables})
