"""The registry on a real S3 server, and scores from what was read back."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from sklearn.base import BaseEstimator

from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.model.registry import LoadedModel, Origin, Registry
from upsell_assets.model.scoring import SCHEMA, histogram, score
from upsell_assets.model.training import churn_probability, train
from upsell_assets.model.training_set import fingerprint, matrix
from upsell_assets.services.embedded import embedded
from upsell_assets.settings import Settings

pytestmark = pytest.mark.services

ORIGIN = Origin(
    versions={"feature_store.upsell.fs_geral": 3, "silver.upsell.transacoes": 12}, grid="monday", rows_per_customer=8
)


class Foreign(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no stubs
    """A type that skops can write and that no model of ours has."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    # A DSN that is never opened, so that no database is started.
    settings = Settings(home=tmp_path_factory.mktemp("registry"), source_dsn="postgresql://127.0.0.1:1/unused")
    with embedded(settings) as running:
        yield ObjectStore.from_settings(running.settings)


@pytest.fixture
def registry(store: ObjectStore, request: pytest.FixtureRequest) -> Registry:
    return Registry(store, f"models/{request.node.name}/churn")


def training_set(seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    recency = random.integers(1, 29, 600)
    return pa.table(
        {
            "dtRef": pa.array([date(2024, 1, 1) + timedelta(days=30 * (n // 150)) for n in range(600)], pa.date32()),
            "idCliente": [f"customer {n % 150}" for n in range(600)],
            "nrRecencia": pa.array(recency, pa.int64(), mask=random.random(600) < 0.1),
            "nrPctPontosRLover": random.random(600),
            "flChurn": pa.array((random.random(600) < recency / 30).astype(int), pa.int64()),
        }
    )


def features(rows: int = 3) -> pa.Table:
    return pa.table(
        {
            "dtRef": pa.array([date(2024, 6, 3)] * rows, pa.date32()),
            "idCliente": pa.array([f"customer {n}" for n in range(rows)], pa.string()),
            "nrPctPontosRLover": pa.array([0.5, None, None][:rows], pa.float64()),
            "nrRecencia": pa.array([2, 27, None][:rows], pa.int64()),
            "_computed_at": pa.array([datetime(2024, 6, 3, tzinfo=UTC)] * rows),
        }
    )


def loaded(registry: Registry) -> LoadedModel:
    table = training_set()
    return registry.load(registry.register(train(table, seed=1), table, ORIGIN))


def test_empty_registry_has_no_latest_version(registry: Registry) -> None:
    assert registry.latest() is None
    assert registry.versions() == []


def test_loaded_model_gives_the_probabilities_of_the_trained_one(registry: Registry) -> None:
    table = training_set()
    trained = train(table, seed=1)
    number = registry.register(trained, table, ORIGIN)
    model = registry.load(number)
    assert (model.name, model.number, model.features) == ("churn", 1, ["nrRecencia", "nrPctPontosRLover"])
    values = matrix(table, model.features)
    np.testing.assert_array_equal(
        churn_probability(model.pipeline, values), churn_probability(trained.pipeline, values)
    )


def test_card_says_what_the_model_was_made_from(registry: Registry) -> None:
    table = training_set()
    trained = train(table, seed=1)
    registry.register(trained, table, ORIGIN)
    latest = registry.latest()
    assert latest is not None
    card = latest.card
    assert card["features"] == {"nrRecencia": "int64", "nrPctPontosRLover": "double"}
    assert card["training_set"] == {
        "fingerprint": fingerprint(table),
        "rows": 600,
        "versions": {"feature_store.upsell.fs_geral": 3, "silver.upsell.transacoes": 12},
        "grid": "monday",
        "rows_per_customer": 8,
        "features_as": "latest",
    }
    assert card["seed"] == 1
    assert card["evaluation"] == trained.evaluation.as_json()
    assert set(card["libraries"]) >= {"scikit-learn", "skops", "numpy"}
    age = datetime.now(UTC) - datetime.fromisoformat(card["created_at_utc"])
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_training_set_is_kept_with_the_model(registry: Registry, store: ObjectStore) -> None:
    table = training_set()
    registry.register(train(table, seed=1), table, ORIGIN)
    kept = pq.read_table(BytesIO(store.read(f"{registry.prefix}/v00001/training_set.parquet")))
    assert kept.equals(table)


def test_versions_are_numbered_and_the_newest_is_the_latest(registry: Registry) -> None:
    for seed in (1, 2, 3):
        table = training_set(seed)
        assert registry.register(train(table, seed=seed), table, ORIGIN) == seed
    latest = registry.latest()
    assert latest is not None
    assert (latest.number, latest.card["seed"]) == (3, 3)
    assert registry.version(2).card["seed"] == 2


def test_version_without_a_card_does_not_exist_and_its_number_is_not_used_again(
    registry: Registry, store: ObjectStore
) -> None:
    loaded(registry)
    store.write(f"{registry.prefix}/v00002/model.skops", b"from a training that was killed")
    assert registry.versions() == [1]
    with pytest.raises(PermanentError, match=r"version 2 has no card\.json .*versions with a card: 1\)"):
        registry.load(2)
    assert loaded(registry).number == 3


def test_trainings_at_the_same_time_get_different_numbers(registry: Registry) -> None:
    table = training_set()
    trained = train(table, seed=1)
    start = threading.Barrier(4)

    def register(_: int) -> int:
        start.wait()
        return registry.register(trained, table, ORIGIN)

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(register, range(4)))
    assert sorted(numbers) == registry.versions() == [1, 2, 3, 4]


def test_model_file_that_was_replaced_is_refused(registry: Registry, store: ObjectStore) -> None:
    table = training_set()
    number = registry.register(train(table, seed=1), table, ORIGIN)
    store.write(f"{registry.prefix}/v00001/model.skops", skops.io.dumps(train(training_set(5), seed=1).pipeline))
    with pytest.raises(
        PermanentError, match=r"v00001/model\.skops: refused, it is not the file that its card describes"
    ):
        registry.load(number)


def test_model_file_with_a_foreign_type_is_refused_even_if_its_card_agrees(
    registry: Registry, store: ObjectStore
) -> None:
    table = training_set()
    number = registry.register(train(table, seed=1), table, ORIGIN)
    forged = skops.io.dumps(Foreign())
    card = {**registry.version(number).card, "model_sha256": hashlib.sha256(forged).hexdigest()}
    store.write(f"{registry.prefix}/v00001/model.skops", forged)
    store.write(f"{registry.prefix}/v00001/card.json", json.dumps(card).encode())
    with pytest.raises(PermanentError, match=r"refused, it holds types that no model of ours has.*Foreign"):
        registry.load(number)


def test_scores_are_two_rows_a_customer_that_sum_to_1(registry: Registry) -> None:
    scores = score(loaded(registry), features())
    assert scores.schema == SCHEMA
    rows = scores.to_pylist()
    assert [(row["idCliente"], row["descLabel"]) for row in rows] == [
        (f"customer {n}", label) for n in range(3) for label in ("0", "1")
    ]
    assert {(row["dtRef"], row["descModelName"], row["nrModelVersion"]) for row in rows} == {
        (date(2024, 6, 3), "churn", 1)
    }
    for stays, churns in zip(rows[::2], rows[1::2], strict=True):
        assert stays["nrProbLabel"] + churns["nrProbLabel"] == 1
        assert 0 < churns["nrProbLabel"] < 1
    assert rows[1]["nrProbLabel"] < rows[3]["nrProbLabel"]  # away for 2 days, for 27 days
    assert histogram(scores).startswith(b"\x89PNG")


def test_score_of_a_customer_does_not_hang_on_who_else_is_scored(registry: Registry) -> None:
    model = loaded(registry)
    assert score(model, features()).slice(2, 2).equals(score(model, features().slice(1, 1)))


def test_missing_feature_stops_scoring_and_is_named(registry: Registry) -> None:
    with pytest.raises(PermanentError, match=r"the model needs nrRecencia, which the table does not have"):
        score(loaded(registry), features().drop_columns(["nrRecencia"]))


def test_empty_population_gives_an_empty_table_of_the_same_schema(registry: Registry) -> None:
    scores = score(loaded(registry), features().slice(0, 0))
    assert (scores.num_rows, scores.schema) == (0, SCHEMA)
    assert histogram(scores).startswith(b"\x89PNG")


@pytest.mark.parametrize("label", [0, 1])
def test_model_of_a_single_class_scores_that_class(registry: Registry, label: int) -> None:
    table = training_set().set_column(4, "flChurn", pa.array([label] * 600, pa.int64()))
    model = registry.load(registry.register(train(table, seed=1), table, ORIGIN))
    churn = score(model, features())["nrProbLabel"].to_pylist()
    assert churn == [1.0 - label, float(label)] * 3
