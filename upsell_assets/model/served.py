"""Features as they were served: kept beside the scores made from them, and compared with what is known now.

Late data changes features, never issued scores: how far both have come apart is the skew. Here: the table of what was
served, and the comparison, which is pure. Not here: how much skew is too much, nor when it is looked at (`checks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from upsell_assets.feature_store.point_in_time import FeatureStore
from upsell_assets.lake.engines import Query
from upsell_assets.model.joined import days_of
from upsell_assets.model.training_set import CUSTOMER, DTREF, KEYS

SERVED = "feature_store.upsell._models_served"
MODEL_NAME, MODEL_VERSION = "descModelName", "nrModelVersion"

TOLERANCE = 1e-9
"""Relative difference up to which two floats are the same: sums of other partitions of rows differ in the last bits."""


@dataclass(frozen=True)
class Skew:
    """How the rows of a dtRef as served differ from those of now.

    Attributes:
        dtref: their dtRef.
        served: rows as served.
        differing: customers of both whose features differ.
        appeared, vanished: customers of the population of now only, and of that as served only.
        features: feature -> customers for whom it differs; those that never do are left out.
        uncompared: features that only one side has, since their definition changed.
    """

    dtref: date
    served: int
    differing: int
    appeared: int
    vanished: int
    features: dict[str, int] = field(default_factory=dict)
    uncompared: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The share of all customers, then or now, for whom anything is different."""
        return (self.differing + self.appeared + self.vanished) / max(self.served + self.appeared, 1)


def as_served(features: pa.Table, model: str, version: int) -> pa.Table:
    """The rows of features with the model that is about to score them."""
    count = features.num_rows
    named = features.append_column(MODEL_NAME, pa.repeat(pa.scalar(model), count))
    return named.append_column(MODEL_VERSION, pa.repeat(pa.scalar(version, pa.int64()), count))


def skews(store: FeatureStore, model: str, newest: int) -> Iterator[Skew]:
    """The skew of the newest dtRefs that a model has scored, the oldest of them first; one is in memory at a time."""
    if (table := store.lake.find(SERVED)) is None:
        return
    parts = pa.table(table.get_add_actions(flatten=True))
    scored = parts.filter(pc.equal(parts[f"partition.{MODEL_NAME}"], model))[f"partition.{DTREF}"]
    versions = store.pins()
    for dtref in sorted(pc.unique(scored).to_pylist())[-newest:]:
        rows = exp.select("*").from_(exp.to_table(SERVED, dialect="spark"))
        rows = rows.where(exp.column(DTREF).eq(exp.cast(exp.Literal.string(dtref.isoformat()), "date")))
        served = store.engine.run(Query(rows.where(exp.column(MODEL_NAME).eq(model)), tables={SERVED: table}))
        yield compare(dtref, served.read_all(), store.training_set(days_of([dtref]), pins=versions))


def compare(dtref: date, served: pa.Table, latest: pa.Table) -> Skew:
    """Compare the rows of one dtRef, customer by customer; nulls equal nulls, floats within `TOLERANCE`.

    Args:
        dtref: of both tables.
        served: one row a customer, as `as_served` made them.
        latest: one row a customer, as `FeatureStore.training_set` gives them.
    """
    was, now = (set(names) - {*KEYS, MODEL_NAME, MODEL_VERSION} for names in (served.column_names, latest.column_names))
    place = pc.index_in(served[CUSTOMER], latest[CUSTOMER])
    before, after = served.filter(pc.is_valid(place)), latest.take(place.drop_null())
    differing = pa.chunked_array([pa.repeat(pa.scalar(False), before.num_rows)])
    features: dict[str, int] = {}
    for name in (name for name in latest.column_names if name in was & now):
        differs = _differs(before[name], after[name])
        differing = pc.or_(differing, differs)
        if count := pc.sum(differs).as_py():
            features[name] = count
    return Skew(
        dtref,
        served=served.num_rows,
        differing=pc.sum(differing).as_py() or 0,
        appeared=latest.num_rows - after.num_rows,
        vanished=served.num_rows - before.num_rows,
        features=features,
        uncompared=tuple(sorted(was ^ now)),
    )


def _differs(was: pa.ChunkedArray, now: pa.ChunkedArray) -> pa.ChunkedArray:
    same = pc.equal(was, now)
    if pa.types.is_floating(was.type) or pa.types.is_floating(now.type):
        apart = pc.abs(pc.subtract(was, now))
        same = pc.or_(same, pc.less_equal(apart, pc.multiply(TOLERANCE, pc.max_element_wise(pc.abs(was), pc.abs(now)))))
    return pc.invert(pc.if_else(pc.is_valid(same), same, pc.and_(pc.is_null(was), pc.is_null(now))))
