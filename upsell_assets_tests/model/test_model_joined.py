"""Labels joined with features, as they are now and as they were known."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from bronze_steps import CONTRACTS, SILVER, Change, take_in

from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import FeatureStore
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.tables import Lake
from upsell_assets.model.joined import EVENTS, pins, read_labelled
from upsell_assets.silver.refresh import refresh

DAY, NOW = date(2024, 2, 2), datetime(2024, 4, 1, tzinfo=UTC)
EVENTS_OF_ANA = [
    Change("customers", "ana", "I", 1, (3, 1)),
    Change("transactions", "t", "I", 2, ("ana", "2024-02-01 10:00:00", 5)),
    Change("transactions", "u", "I", 3, ("ana", "2024-03-05 10:00:00", 5)),
]


def open_store(lake: Lake, arrival: datetime) -> FeatureStore:
    take_in(lake, *EVENTS_OF_ANA, clock=lambda: arrival)
    engine = EmbeddedEngine(lake)
    refresh(lake, engine, SILVER["transacoes"])
    return FeatureStore(lake, engine, CONTRACTS)


def test_features_as_known_at_dtref_go_with_the_label_that_is_known_now(local_lake: Lake) -> None:
    store = open_store(local_lake, datetime(2024, 2, 2, 2, tzinfo=UTC))
    versions = pins(store, "dtref")

    [row] = read_labelled(store, [DAY], versions, NOW, "dtref").to_pylist()

    assert (row["dtRef"], row["idCliente"], row["flChurn"], row["nrSaldoPontos"]) == (DAY, "ana", 1, 5)
    assert EVENTS in versions
    assert "bronze.upsell._transactions_changes" in versions


def test_a_lake_that_knew_nothing_at_its_dtrefs_trains_on_nothing_and_says_so(local_lake: Lake) -> None:
    store = open_store(local_lake, datetime(2024, 3, 6, tzinfo=UTC))

    with pytest.raises(PermanentError, match=r"1 labels, and nothing was known .*UPSELL_TRAINING_KNOWN_AT=latest"):
        read_labelled(store, [DAY], pins(store, "dtref"), NOW, "dtref")
