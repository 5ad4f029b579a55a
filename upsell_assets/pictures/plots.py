"""The plots themselves, as PNG: matplotlib over plain values, with axes, units and a title that says what is seen.

Sizes are those of a page of Dagster, which shows a picture some 650 points wide. Matplotlib takes half a second to
import: nothing here is imported before a plot is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from upsell_assets.pictures.history import Moment
from upsell_assets.settings import LOCAL_ZONE

WIDTH, DPI = 6.6, 120
INK, QUIET, BARS = "#1f2a44", "#7a8299", "#9db4e0"
GRID_COLUMNS = 3
BINS = 24

MOST_HOURS = 72
"""A lag that is mostly longer is told in days."""


def growth_plot(name: str, moments: Sequence[Moment]) -> bytes:
    """Rows over time, and below them how far the newest event was behind, where the table has times."""
    timed = [(moment.at, moment.lag) for moment in moments if moment.lag is not None]
    figure, panels = _figure(
        f"{name}: rows" + (", and how far the newest event was behind" if timed else ""), 2 if timed else 1
    )
    _steps(panels[0], [moment.at for moment in moments], np.array([moment.rows for moment in moments]))
    panels[0].set_ylabel("rows")
    if timed:
        hours = np.array([lag for _, lag in timed]).clip(min=0)
        in_days = bool(np.median(hours) > MOST_HOURS)
        _steps(panels[1], [at for at, _ in timed], hours / (24 if in_days else 1))
        panels[1].set_ylabel("lag, days" if in_days else "lag, hours")
        # A history that is loaded is months behind for a moment: what follows would be a line on the axis.
        if not in_days and hours.max() > MOST_HOURS:
            panels[1].set_yscale("symlog", linthresh=1)
    for panel in panels:
        panel.set_ylim(bottom=0)
        panel.yaxis.set_major_formatter(FuncFormatter(_thousands))
    _dates(panels[-1], f"time of commit, {LOCAL_ZONE.key}")
    return _png(figure)


def features_plot(name: str, dtref: date, features: Mapping[str, NDArray[np.float64]]) -> bytes:
    """A histogram of each feature of one dtRef, from the 1st to the 99th percentile; nulls are told in its title."""
    rows = -(-len(features) // GRID_COLUMNS)
    customers = max((len(values) for values in features.values()), default=0)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.25 * rows), dpi=DPI, layout="constrained")
    figure.suptitle(f"{name}, dtRef {dtref}: {customers:,} customers", fontsize=10, color=INK, x=0.01, ha="left")
    panels = figure.subplots(rows, GRID_COLUMNS, squeeze=False).ravel()
    for panel, (feature, values) in zip(panels, features.items(), strict=False):
        known = values[~np.isnan(values)]
        null = 1 - len(known) / len(values) if len(values) else 1.0
        panel.set_title(feature + (f" ({null:.0%} null)" if null else ""), fontsize=7, color=INK, loc="left", pad=3)
        if len(known):
            low, high = np.percentile(known, [1, 99])
            whole = bool(np.all(known == np.round(known)))
            # Whole numbers fall into bins of one width in whole numbers, or some bins would have more of them.
            step = np.ceil((high - low + 1) / BINS)
            edges = np.arange(np.floor(low) - 0.5, high + step + 0.5, step) if whole else BINS
            shown = np.clip(known, low, high)
            panel.xaxis.set_major_locator(MaxNLocator(4, integer=whole))
            panel.hist(shown, bins=edges, color=BARS, edgecolor="white", linewidth=0.3)
        else:
            panel.text(
                0.5, 0.5, "all null", ha="center", va="center", fontsize=7, color=QUIET, transform=panel.transAxes
            )
        _quiet(panel, 6)
        panel.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        panel.yaxis.set_major_formatter(FuncFormatter(_thousands))
        panel.xaxis.set_major_formatter(FuncFormatter(_thousands))
    for panel in panels[len(features) :]:
        panel.set_visible(False)
    figure.supylabel("customers", fontsize=8, color=QUIET)
    return _png(figure)


def churn_plot(days: Sequence[date], rates: Sequence[float | None], base: Sequence[int]) -> bytes:
    """The churn rate of each dtRef, and the customers that it is a share of."""
    figure, [above, below] = _figure("Churn: customers of the 28 days before who did not come back in 28 days", 2)
    above.plot(np.array(days), [np.nan if rate is None else rate for rate in rates], color=INK)
    above.set_ylabel("churn rate")
    above.set_ylim(0, 1)
    above.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.fill_between(np.array(days), base, step="mid", color=BARS, linewidth=0)
    below.set_ylabel("base, customers")
    below.set_ylim(bottom=0)
    below.yaxis.set_major_formatter(FuncFormatter(_thousands))
    _dates(below, "dtRef")
    return _png(figure)


def _steps(panel: Axes, at: Sequence[datetime], values: NDArray[np.float64]) -> None:
    """What holds from one moment to the next."""
    panel.step(np.array([*at]), values, where="post", color=INK, marker=".", markersize=4)


def _figure(title: str, panels: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, 0.9 + 1.45 * panels), dpi=DPI, layout="constrained")
    made = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    made[0].set_title(title, fontsize=10, color=INK, loc="left")
    for panel in made:
        _quiet(panel, 8)
        panel.grid(axis="y", color="0.92", linewidth=0.8)
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    return figure, list(made)


def _quiet(panel: Axes, size: int) -> None:
    """Little ink for what is not data."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color("0.8")
    panel.tick_params(labelsize=size, colors=QUIET, length=2)
    panel.yaxis.label.set(color=QUIET, fontsize=size + 1)
    panel.xaxis.label.set(color=QUIET, fontsize=size + 1)
    panel.set_axisbelow(True)


def _dates(panel: Axes, label: str) -> None:
    locator = AutoDateLocator(tz=LOCAL_ZONE, minticks=4, maxticks=8)  # type: ignore[no-untyped-call]
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz=LOCAL_ZONE))  # type: ignore[no-untyped-call]
    panel.set_xlabel(label)
    panel.xaxis.get_offset_text().set(color=QUIET, fontsize=8)


def _thousands(value: float, _: object) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _png(figure: Figure) -> bytes:
    """Few colours are enough, and a third of the size: a day's pictures stay in the event log."""
    from PIL import Image

    drawn, small = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png")
    with Image.open(drawn) as picture:
        picture.convert("RGB").quantize(32).save(small, format="png", optimize=True)
    return small.getvalue()
