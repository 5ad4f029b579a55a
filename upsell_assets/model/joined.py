"""The four feature tables as one: a row per (dtRef, idCliente), for training with its label.

Here: the query that joins them, over pinned versions. Not here: which rows train (`training_set`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
from sqlglot import exp

from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.sql import DTREFS, load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.model.training_set import CUSTOMER, DTREF, LABEL

FEATURE_TABLES = tuple(
    f"feature_store.upsell.{name}" for name in ("fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario")
)
EVENTS = "silver.upsell.transacoes"
LABEL_SQL = load_sql(Path(__file__).parent / "label.sql")


def pins(lake: Lake, *, label: bool) -> dict[str, int]:
    """The newest version of each table that is read.

    Raises:
        UnknownTableError: a feature table has not been made.
    """
    return {name: lake.open(name).version() for name in (*FEATURE_TABLES, *((EVENTS,) if label else ()))}


def read_features(lake: Lake, engine: Engine, days: Iterable[date], versions: dict[str, int]) -> pa.Table:
    """All features of the population of the given dtRefs, in the order of the tables."""
    return engine.run(_joined(lake, days, versions)).read_all()


def read_labelled(
    lake: Lake, engine: Engine, days: Iterable[date], versions: dict[str, int], now: datetime
) -> pa.Table:
    """The same with flChurn, where the label is mature."""
    labels = engine.run(Query(LABEL_SQL.tree, {"now": now}, {DTREFS: _relation(days)}, versions)).read_all()
    features = read_features(lake, engine, days, versions)
    return features.join(labels.select([DTREF, CUSTOMER, LABEL]), [DTREF, CUSTOMER], join_type="inner")


def _joined(lake: Lake, days: Iterable[date], versions: dict[str, int]) -> Query:
    columns: list[exp.Expr] = [exp.column(key, "f0") for key in (DTREF, CUSTOMER)]
    tree = exp.select().from_(exp.alias_(exp.to_table(FEATURE_TABLES[0], dialect="spark"), "f0", table=True))
    tree = tree.join(exp.alias_(exp.to_table(DTREFS), "r", table=True), on=f"r.{DTREF} = f0.{DTREF}")
    for number, name in enumerate(FEATURE_TABLES):
        alias = f"f{number}"
        schema = lake.open(name, versions[name]).schema()
        columns += [
            exp.column(field.name, alias)
            for field in schema.fields
            if field.name not in (DTREF, CUSTOMER) and not field.name.startswith("_")
        ]
        if number:
            same = f"{alias}.{DTREF} = f0.{DTREF} AND {alias}.{CUSTOMER} = f0.{CUSTOMER}"
            tree = tree.join(exp.alias_(exp.to_table(name, dialect="spark"), alias, table=True), on=same)
    return Query(tree.select(*columns), {}, {DTREFS: _relation(days)}, versions)


def _relation(days: Iterable[date]) -> pa.Table:
    return pa.table({DTREF: pa.array(list(days), pa.date32())})
