"""What a model learns from, as one table: the label of each (dtRef, idCliente), and its features.

Here: the label's query beside the feature store. Not here: how features are looked up (`feature_store.point_in_time`),
nor which rows train (`training_set`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
from sqlglot import exp

from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import FeatureStore, KnownAt
from upsell_assets.lake.engines import Query
from upsell_assets.lake.sql import DTREFS, Parameter, load_sql, parse_query
from upsell_assets.model.training_set import DTREF

EVENTS = "silver.upsell.transacoes"
LABEL_SQL = load_sql(Path(__file__).parent / "label.sql")


@dataclass(frozen=True)
class Draw:
    """Which labels are drawn: at most `per_customer` of each customer, by a lot that hangs on the seed and the key alone."""

    per_customer: int
    seed: int


_LABELS = "labels"


def _drawn() -> exp.Query:
    """The labels with a place in their customer's draw; see `training_set.sample`, which draws the same rows."""
    query = parse_query("""
        SELECT s.dtRef, s.idCliente, s.flChurn
        FROM (
            SELECT l.*, ROW_NUMBER() OVER (PARTITION BY l.idCliente ORDER BY
                SHA2(CONCAT(:seed, ':', l.idCliente, ':', CAST(l.dtRef AS STRING)), 256)) AS nrLugar
            FROM labels AS l
        ) AS s
        WHERE s.nrLugar <= :per_customer
    """)
    [labels] = [table for table in query.find_all(exp.Table) if table.name == _LABELS]
    labels.replace(LABEL_SQL.tree.subquery("l"))
    return query


DRAWN = _drawn()


def pins(store: FeatureStore, known_at: KnownAt) -> dict[str, int]:
    """The newest version of each table that a training set is read from.

    Raises:
        UnknownTableError: a feature table has not been made.
        PermanentError: see `FeatureStore.training_set`.
    """
    return {**store.pins(known_at), EVENTS: store.lake.open(EVENTS).version()}


def read_labelled(
    store: FeatureStore,
    days: Iterable[date],
    versions: dict[str, int],
    now: datetime,
    known_at: KnownAt,
    draw: Draw | None = None,
) -> pa.Table:
    """All features of the population of the given dtRefs with flChurn, where the label is mature.

    The label is always what is known of it now. With a `draw` the engine draws, and no other rows leave it; as known at
    a dtRef fewer rows may come back than were drawn, since not all of them were known.

    Raises:
        PermanentError: see `FeatureStore.training_set`; or nothing had arrived when the dtRefs began.
    """
    drawn: dict[str, Parameter] = {"seed": str(draw.seed), "per_customer": draw.per_customer} if draw else {}
    labels = Query(
        DRAWN if draw else LABEL_SQL.tree,
        {"now": now, **drawn},
        {DTREFS: days_of(days)},
        {EVENTS: store.lake.open(EVENTS, versions[EVENTS])},
    )
    labelled = store.engine.run(labels).read_all()
    rows = store.training_set(labelled, pins=versions, known_at=known_at)
    if labelled.num_rows and not rows.num_rows:
        raise PermanentError(
            f"training set: {labelled.num_rows} labels, and nothing was known of any of them when their dtRefs began: "
            "the lake took its changes in later. Train on features as they are now: UPSELL_TRAINING_KNOWN_AT=latest."
        )
    return rows


def days_of(days: Iterable[date]) -> pa.Table:
    """A relation of dtRefs."""
    return pa.table({DTREF: pa.array(list(days), pa.date32())})
