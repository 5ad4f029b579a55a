"""From a loaded model and one dtRef's features to scores.

Here: the table of scores and a plot of them. Not here: anything fitted; a null is imputed by what training saw, and a
missing feature is an error, never a default.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.model.registry import LoadedModel
from upsell_assets.model.training import churn_probability
from upsell_assets.model.training_set import CUSTOMER, DTREF, matrix

SCHEMA = pa.schema(
    [
        pa.field(DTREF, pa.date32(), nullable=False),
        pa.field("descModelName", pa.string(), nullable=False),
        pa.field("nrModelVersion", pa.int64(), nullable=False),
        pa.field(CUSTOMER, pa.string(), nullable=False),
        pa.field("descLabel", pa.string(), nullable=False),
        pa.field("nrProbLabel", pa.float64(), nullable=False),
    ]
)


def score(model: LoadedModel, features: pa.Table) -> pa.Table:
    """Two rows a customer, with the probabilities of staying ('0') and of churning ('1'), which sum to 1.

    Args:
        model: what `Registry.load` returned.
        features: the four feature tables joined, one row per (dtRef, idCliente); further columns are ignored.

    Returns:
        A table of `SCHEMA`, that of `feature_store.upsell.models`; empty where `features` has no rows.

    Raises:
        PermanentError: a feature that the model was trained with is missing, or is not numeric.
    """
    churn = churn_probability(model.pipeline, matrix(features, model.features))
    twice = np.repeat(np.arange(features.num_rows), 2)
    rows = len(twice)
    return pa.table(
        [
            features[DTREF].take(twice),
            pa.repeat(model.name, rows),
            pa.repeat(pa.scalar(model.number, pa.int64()), rows),
            features[CUSTOMER].take(twice),
            pa.array(["0", "1"] * features.num_rows, pa.string()),
            np.column_stack([1 - churn, churn]).ravel(),
        ],
        names=SCHEMA.names,
    ).cast(SCHEMA)


def histogram(scores: pa.Table) -> bytes:
    """How the probabilities of churn are spread, as PNG."""
    from matplotlib.figure import Figure  # takes half a second to import, and only plots need it

    churn = scores.filter(pc.equal(scores["descLabel"], "1"))["nrProbLabel"].to_numpy()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(churn, bins=20, range=(0, 1))
    axes.set(
        xlim=(0, 1),
        xlabel="predicted probability of churn",
        ylabel="customers",
        title=f"{len(churn)} customers scored",
    )
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
