"""What a model learns from, as one table: the label of each (dtRef, idCliente), and its features.

Here: the label's query beside the feature store. Not here: how features are looked up (`feature_store.point_in_time`),
nor which rows train (`training_set`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa

from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import FeatureStore, KnownAt
from upsell_assets.lake.engines import Query
from upsell_assets.lake.sql import DTREFS, load_sql
from upsell_assets.model.training_set import DTREF

EVENTS = "silver.upsell.transacoes"
LABEL_SQL = load_sql(Path(__file__).parent / "label.sql")


def pins(store: FeatureStore, known_at: KnownAt) -> dict[str, int]:
    """The newest version of each table that a training set is read from.

    Raises:
        UnknownTableError: a feature table has not been made.
        PermanentError: see `FeatureStore.training_set`.
    """
    return {**store.pins(known_at), EVENTS: store.lake.open(EVENTS).version()}


def read_labelled(
    store: FeatureStore, days: Iterable[date], versions: dict[str, int], now: datetime, known_at: KnownAt
) -> pa.Table:
    """All features of the population of the given dtRefs with flChurn, where the label is mature.

    The label is always what is known of it now.

    Raises:
        PermanentError: see `FeatureStore.training_set`; or nothing had arrived when the dtRefs began.
    """
    labels = Query(
        LABEL_SQL.tree, {"now": now}, {DTREFS: days_of(days)}, {EVENTS: store.lake.open(EVENTS, versions[EVENTS])}
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
