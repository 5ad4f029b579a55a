"""Training: what is held out, what is learnt, and what is said where little can be judged."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.model.evaluation import reliability_plot
from upsell_assets.model.training import Split, churn_probability, split, train
from upsell_assets.model.training_set import matrix

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "churn-abt" / "abt_5496x43.csv"
PNG = b"\x89PNG\r\n"


def simulated(dtrefs: int = 12, customers: int = 200, *, step: int = 7, first: date = date(2024, 1, 1)) -> pa.Table:
    """Customers who churn more often the longer they were away; one feature is noise, one always null."""
    random = np.random.default_rng(7)
    rows = dtrefs * customers
    recency = random.integers(1, 29, rows)
    return pa.table(
        {
            "dtRef": pa.array([first + timedelta(days=step * (n // customers)) for n in range(rows)], pa.date32()),
            "idCliente": [f"customer {n % customers}" for n in range(rows)],
            "nrRecencia": pa.array(recency, pa.int64(), mask=random.random(rows) < 0.05),
            "nrRuido": random.normal(size=rows),
            "nrPctPontosResgatarPonei": pa.nulls(rows, pa.float64()),
            "flChurn": pa.array((random.random(rows) < recency / 30).astype(int), pa.int64()),
        }
    )


def sides(table: pa.Table, halves: Split) -> tuple[pa.Table, pa.Table]:
    return table.filter(pa.array(halves.training)), table.filter(pa.array(halves.held_out))


@pytest.mark.parametrize(("dtrefs", "step", "gap"), [(12, 7, 28), (14, 30, 28), (2, 7, 1), (3, 28, 28)])
@pytest.mark.parametrize("seed", [1, 2])
def test_held_out_rows_are_later_and_of_other_customers(dtrefs: int, step: int, gap: int, seed: int) -> None:
    table = simulated(dtrefs, step=step)
    training, held_out = sides(table, split(table, seed=seed))
    assert training.num_rows
    assert held_out.num_rows
    assert not set(training["idCliente"].to_pylist()) & set(held_out["idCliente"].to_pylist())
    distance = min(held_out["dtRef"].to_pylist()) - max(training["dtRef"].to_pylist())
    assert distance >= timedelta(days=gap)


def test_single_dtref_holds_out_nothing_to_judge_by() -> None:
    table = simulated(dtrefs=1)
    assert not split(table, seed=1).training.any()


def test_churn_is_learnt_and_judged_on_rows_never_seen() -> None:
    evaluation = train(simulated(), seed=1).evaluation
    assert evaluation.judged
    assert evaluation.metrics is not None
    assert evaluation.metrics.auc > 0.75
    assert evaluation.metrics.calibration_error < 0.1
    assert evaluation.training.last_dtref == date(2024, 2, 5)
    assert (evaluation.held_out.first_dtref, evaluation.held_out.last_dtref) == (date(2024, 3, 4), date(2024, 3, 18))
    assert reliability_plot(evaluation).startswith(PNG)


def test_labels_that_nothing_explains_are_judged_as_such() -> None:
    table = simulated(customers=400)
    coin = pa.array(np.random.default_rng(1).integers(0, 2, table.num_rows), pa.int64())
    metrics = train(table.set_column(5, "flChurn", coin), seed=1).evaluation.metrics
    assert metrics is not None
    assert 0.4 < metrics.auc < 0.6


def test_same_rows_in_any_order_give_the_same_model() -> None:
    table = simulated()
    other = table.take(np.random.default_rng(1).permutation(table.num_rows))
    one, two = train(table, seed=1), train(other, seed=1)
    assert one.evaluation == two.evaluation
    values = matrix(table, list(one.features))
    np.testing.assert_array_equal(churn_probability(one.pipeline, values), churn_probability(two.pipeline, values))


def test_model_in_use_has_learnt_from_the_held_out_rows_too() -> None:
    table = simulated()
    halves = split(table, seed=1)
    flipped = pa.array(np.where(halves.held_out, 1 - table["flChurn"].to_numpy(), table["flChurn"].to_numpy()))
    values = matrix(table, ["nrRecencia", "nrRuido", "nrPctPontosResgatarPonei"])
    one, two = (train(t, seed=1).pipeline for t in (table, table.set_column(5, "flChurn", flipped)))
    assert (churn_probability(one, values) != churn_probability(two, values)).any()


def test_all_null_feature_stays_in_the_model() -> None:
    trained = train(simulated(), seed=1)
    assert trained.features == {"nrRecencia": "int64", "nrRuido": "double", "nrPctPontosResgatarPonei": "double"}


def test_single_dtref_trains_and_says_that_nothing_was_judged() -> None:
    trained = train(simulated(dtrefs=1), seed=1)
    assert not trained.evaluation.judged
    assert trained.evaluation.caveats == [
        "Not judged: the training side of the split has no rows; it takes two dtRefs and more customers."
    ]
    near, far = churn_probability(trained.pipeline, np.array([[1, 0, np.nan], [28, 0, np.nan]]))
    assert near < far
    assert reliability_plot(trained.evaluation).startswith(PNG)


def test_two_rows_of_two_classes_are_enough_to_train() -> None:
    table = simulated(customers=2, dtrefs=1).set_column(5, "flChurn", pa.array([0, 1]))
    trained = train(table, seed=1)
    assert not trained.evaluation.judged
    assert churn_probability(trained.pipeline, matrix(table, list(trained.features))).shape == (2,)


@pytest.mark.parametrize("label", [0, 1])
def test_single_class_gives_its_prior_and_says_so(label: int) -> None:
    table = simulated()
    trained = train(table.set_column(5, "flChurn", pa.array([label] * table.num_rows)), seed=1)
    assert not trained.evaluation.judged
    assert f"rows have flChurn = {label}: the model gives that label to everybody" in " ".join(
        trained.evaluation.caveats
    )
    assert set(churn_probability(trained.pipeline, np.array([[1.0, 0.0, np.nan]]))) == {float(label)}


def test_short_history_is_judged_with_the_caveat_that_windows_overlap() -> None:
    evaluation = train(simulated(dtrefs=2), seed=1).evaluation
    assert evaluation.judged
    assert "less than 28 days before the first dtRef held out, 2024-01-08" in evaluation.caveats[0]
    assert "rows are held out: the figures are rough" in evaluation.caveats[1]


def test_held_out_side_with_one_class_is_not_judged() -> None:
    table = simulated()
    held_out = split(table, seed=1).held_out
    labels = pa.array(np.where(held_out, 0, table["flChurn"].to_numpy()))
    evaluation = train(table.set_column(5, "flChurn", labels), seed=1).evaluation
    assert evaluation.metrics is None
    assert evaluation.caveats == [f"Not judged: all {held_out.sum()} rows of the held-out side have flChurn = 0."]


def test_empty_training_set_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"training set: it has no rows.*28 days after a dtRef"):
        train(simulated().slice(0, 0), seed=1)


@pytest.mark.parametrize("wrong", [None, 2])
def test_label_that_is_neither_0_nor_1_is_refused(wrong: int | None) -> None:
    table = simulated(dtrefs=1)
    labels = pa.array([wrong, *[0, 1] * 99, 1], pa.int64())
    with pytest.raises(PermanentError, match=r"flChurn is neither 0 nor 1 in 1 of 200 rows"):
        train(table.set_column(5, "flChurn", labels), seed=1)


def test_training_set_without_features_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"no numeric column besides keys and label"):
        train(simulated().select(["dtRef", "idCliente", "flChurn"]), seed=1)


@pytest.mark.skipif(not REAL.exists(), reason=f"the real churn table is not at {REAL}")
def test_real_churn_table_is_ranked_and_calibrated() -> None:
    table = pyarrow.csv.read_csv(REAL)
    table = table.rename_columns({"idUsuario": "idCliente", "flagChurn": "flChurn"})
    metrics = [train(table, seed=seed).evaluation.metrics for seed in range(10)]
    judged = [figures for figures in metrics if figures is not None]
    assert len(judged) == 10
    # About 400 rows are held out in each split; one AUC alone is uncertain by 0.04.
    assert np.mean([figures.auc for figures in judged]) >= 0.79
    assert min(figures.auc for figures in judged) >= 0.75
    assert np.mean([figures.calibration_error for figures in judged]) <= 0.07
    assert min(figures.lift_at_10pct for figures in judged) > 1.5
