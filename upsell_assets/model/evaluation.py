"""How well a model does on rows that it never saw: figures, their limits in plain sentences, one plot.

Here: the figures over (label, probability) pairs and the record that goes into the model's card. Not here: which
rows are held out, and what is fitted on the others (`training`). What cannot be judged has no figure and a
sentence that says why: a missing figure is never a zero.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

BINS = 10
FEW_ROWS = 200
"""With fewer held-out rows, two standard errors of an AUC of 0.8 are more than 0.06."""


@dataclass(frozen=True)
class Side:
    """One side of the split: what a model was fitted on, or what it was judged by."""

    rows: int
    customers: int
    churners: int
    first_dtref: date | None
    last_dtref: date | None


@dataclass(frozen=True)
class Bin:
    """Rows whose probability of churn lies in one tenth of [0, 1]."""

    rows: int
    mean_probability: float
    churn_rate: float


@dataclass(frozen=True)
class Metrics:
    """Figures of the held-out side; all but `lift_at_10pct` lie in [0, 1].

    `calibration_error` is the mean distance of probability and churn rate over the bins, weighted by rows.
    `lift_at_10pct` is the churn rate of the tenth with the highest probabilities, divided by `base_rate`.
    """

    auc: float
    average_precision: float
    brier: float
    calibration_error: float
    lift_at_10pct: float
    base_rate: float
    reliability: list[Bin]


@dataclass(frozen=True)
class Evaluation:
    """What a model card says of a model's quality; `metrics` is None where `caveats` say that nothing was judged."""

    training: Side
    held_out: Side
    metrics: Metrics | None
    caveats: list[str] = field(default_factory=list)

    @property
    def judged(self) -> bool:
        """Whether there were rows to judge the model by."""
        return self.metrics is not None

    def as_json(self) -> dict[str, Any]:
        """Plain values for the model's card; dates as ISO text."""
        content = {"judged": self.judged, **asdict(self)}
        for side in ("training", "held_out"):
            for key in ("first_dtref", "last_dtref"):
                content[side][key] = content[side][key] and content[side][key].isoformat()
        return content


def measure(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> Metrics:
    """The figures of a model.

    Args:
        labels: 0 or 1, both present.
        probabilities: of label 1, one per label.
    """
    top = np.argsort(-probabilities, kind="stable")[: max(1, len(labels) // 10)]
    base_rate = float(labels.mean())
    bins = _reliability(labels, probabilities)
    return Metrics(
        auc=float(roc_auc_score(labels, probabilities)),
        average_precision=float(average_precision_score(labels, probabilities)),
        brier=float(brier_score_loss(labels, probabilities)),
        calibration_error=sum(b.rows * abs(b.mean_probability - b.churn_rate) for b in bins) / len(labels),
        lift_at_10pct=float(labels[top].mean()) / base_rate,
        base_rate=base_rate,
        reliability=bins,
    )


def reliability_plot(evaluation: Evaluation) -> bytes:
    """Churn rate against probability, with the rows behind each point, as PNG; an unjudged model has no points."""
    from matplotlib.figure import Figure  # takes half a second to import, and only plots need it

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="perfectly calibrated")
    if evaluation.metrics:
        bins = evaluation.metrics.reliability
        x, y = [b.mean_probability for b in bins], [b.churn_rate for b in bins]
        axes.plot(x, y, marker="o", label=f"model (calibration error {evaluation.metrics.calibration_error:.3f})")
        for point in bins:
            axes.annotate(
                f"{point.rows}",
                (point.mean_probability, point.churn_rate),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
            )
    else:
        axes.text(0.5, 0.45, "not judged", ha="center", va="top")
    axes.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="predicted probability of churn",
        ylabel="share that churned",
        title="Held-out customers and later dtRefs",
    )
    axes.legend(loc="upper left")
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _reliability(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> list[Bin]:
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        Bin(int(rows.sum()), float(probabilities[rows].mean()), float(labels[rows].mean()))
        for rows in (place == n for n in range(BINS))
        if rows.any()
    ]
