"""The figures, against values worked out by hand."""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

from upsell_assets.model.evaluation import Bin, Evaluation, Side, measure


def test_figures_of_four_rows_are_those_worked_out_by_hand() -> None:
    metrics = measure(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    assert metrics.auc == 0.75  # 3 of 4 pairs in the right order
    assert metrics.average_precision == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert metrics.brier == pytest.approx((0.1**2 + 0.4**2 + 0.65**2 + 0.2**2) / 4)
    assert metrics.calibration_error == pytest.approx((0.1 + 0.4 + 0.65 + 0.2) / 4)
    assert metrics.base_rate == 0.5
    assert metrics.lift_at_10pct == 2  # the highest row churned


def test_reliability_counts_each_row_in_one_tenth() -> None:
    metrics = measure(np.array([0, 1, 1, 0]), np.array([0.0, 0.52, 1.0, 0.58]))
    assert metrics.reliability == [Bin(1, 0.0, 0.0), Bin(2, pytest.approx(0.55), 0.5), Bin(1, 1.0, 1.0)]


def test_lift_looks_at_the_highest_tenth_only() -> None:
    labels = np.array([1] * 5 + [0] * 5 + [1] * 10 + [0] * 80)
    probabilities = np.linspace(1, 0, 100)
    assert measure(labels, probabilities).lift_at_10pct == pytest.approx((5 / 10) / (15 / 100))


def test_evaluation_without_figures_is_plain_json() -> None:
    nobody = Side(0, 0, 0, None, None)
    somebody = Side(2, 1, 1, date(2024, 1, 1), date(2024, 2, 1))
    content = Evaluation(somebody, nobody, None, ["Not judged: no rows."]).as_json()
    assert json.loads(json.dumps(content)) == {
        "judged": False,
        "training": {
            "rows": 2,
            "customers": 1,
            "churners": 1,
            "first_dtref": "2024-01-01",
            "last_dtref": "2024-02-01",
        },
        "held_out": {"rows": 0, "customers": 0, "churners": 0, "first_dtref": None, "last_dtref": None},
        "metrics": None,
        "caveats": ["Not judged: no rows."],
    }
