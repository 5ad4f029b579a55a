"""Plots in Dagster: a job that observes each table once a day, with its plots as metadata.

Not at each materialization: a table is made every few seconds, and a plot takes longer than such a run.
"""

from base64 import b64encode
from collections.abc import Iterator, Sequence

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.dtref_files import COMPUTED, KEYS
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.settings import LOCAL_ZONE

JOB = "pictures"
CHURN_REPORT, CHURN_DTREFS = "gold.upsell.churn_report", 180


def pictures_schedule(lakehouse: Lakehouse, tables: Sequence[str]) -> dg.ScheduleDefinition:
    """Draws the plots of these tables, of the assets that they are, once a day."""

    @dg.op(name="draw", description="Observes each table, with its plots.")
    def draw(context: dg.OpExecutionContext) -> None:
        for name in tables:
            try:
                plots = {said: picture(png) for said, png in drawn(lakehouse.lake, name)}
            except UnknownTableError as error:
                context.log.info("%s", error)
                continue
            context.log_event(dg.AssetObservation(name.split("."), metadata=plots))

    @dg.job(name=JOB, description="Plots of every table, on its asset's page.", executor_def=dg.in_process_executor)
    def pictures() -> None:
        draw()

    return dg.ScheduleDefinition(
        name=JOB,
        job=pictures,
        cron_schedule=lakehouse.settings.audit_schedule,
        execution_timezone=str(LOCAL_ZONE),
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def drawn(lake: Lake, name: str) -> Iterator[tuple[str, bytes]]:
    """The plots of a table, each with what it shows.

    Raises:
        UnknownTableError: the table has not been made.
    """
    from upsell_assets.pictures.history import growth
    from upsell_assets.pictures.plots import churn_plot, features_plot, growth_plot

    yield "growth", growth_plot(name, growth(lake, name))
    if name == CHURN_REPORT:
        rows = lake.rows(lake.open(name)).to_table(columns=["dtRef", "ChurnRate", "qtdeBaseOld"])
        rows = rows.sort_by("dtRef").slice(max(rows.num_rows - CHURN_DTREFS, 0))
        yield "churn", churn_plot(*(rows[column].to_pylist() for column in rows.column_names))
    elif name.startswith("feature_store.upsell.fs_"):
        dtrefs = pa.table(lake.open(name).get_add_actions(flatten=True))["partition.dtRef"]
        newest = pc.max(dtrefs).as_py()
        if newest is not None:
            rows = lake.rows(lake.open(name)).to_table(filter=pc.field("dtRef") == newest)
            features = rows.drop_columns([c for c in rows.column_names if c in KEYS or c == COMPUTED])
            numbers = {name: features[name].cast(pa.float64()).to_numpy() for name in features.column_names}
            yield "features", features_plot(name, newest, numbers)


def picture(png: bytes) -> dg.MarkdownMetadataValue:
    """A plot as Dagster shows it."""
    return dg.MetadataValue.md(f"![](data:image/png;base64,{b64encode(png).decode()})")
