"""The model in Dagster: `[model, upsell, churn]` trains and registers, `[feature_store, upsell, models]` scores.

Grain of the scores: (dtRef, model, customer, label), for the dtRefs that silver reports: the newest one, once. Late
data never rewrites issued scores; running a partition again is how they are made anew on purpose.
"""

from datetime import UTC, date, datetime, timedelta

import dagster as dg

from upsell_assets.automation import once_ready, weekly
from upsell_assets.errors import PermanentError
from upsell_assets.feature_store.point_in_time import FEATURE_TABLES, FeatureStore
from upsell_assets.freshness import each_day, each_week
from upsell_assets.lake.checks import report_doubled, written_results, written_specs
from upsell_assets.lake.files import column_types
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made, definition_metadata, definition_of, table_metadata
from upsell_assets.model.joined import EVENTS, Draw, days_of, pins, read_labelled
from upsell_assets.model.served import MODEL_NAME, SERVED, as_served
from upsell_assets.model.training_set import CUSTOMER, DTREF, grid, sample
from upsell_assets.partitions import dtrefs
from upsell_assets.pictures.assets import picture
from upsell_assets.retries import retried
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.silver.assets import touched_key
from upsell_assets.silver.events import event_days
from upsell_assets.silver.touched import SCORES

LABEL_WINDOW = timedelta(28)
MODEL = dg.AssetKey(["model", "upsell", "churn"])
RETRAIN = "0 5 * * 1"
SCORE_KEY = (DTREF, MODEL_NAME, CUSTOMER, "descLabel")
_FEATURES = [dg.AssetKey(name.split(".")) for name in FEATURE_TABLES]


def model_assets(lakehouse: Lakehouse) -> list[dg.AssetsDefinition]:
    """Training and scores."""
    return [_churn(lakehouse), _scores(lakehouse)]


def _churn(lakehouse: Lakehouse) -> dg.AssetsDefinition:
    @dg.asset(
        key=MODEL,
        description="Churn model: who of the population of dtRef stays away for 28 days. One version per run, kept "
        "with its training set, its card and its evaluation in models/churn.",
        deps=[*_FEATURES, dg.AssetKey(EVENTS.split("."))],
        automation_condition=weekly(RETRAIN, LOCAL_ZONE.key),
        freshness_policy=each_week(),
        group_name="model",
        kinds={"scikitlearn"},
        owners=["team:upsell"],
        pool="model",
        metadata={"dagster/uri": lakehouse.store.uri("models/churn")},
        check_specs=[
            dg.AssetCheckSpec(
                "judged_on_later_dtrefs",
                asset=MODEL,
                description="The model was judged on later dtRefs and other customers; what could not be is said.",
            )
        ],
    )
    @retried
    def churn(context: dg.AssetExecutionContext) -> Made:
        from upsell_assets.model.evaluation import reliability_plot
        from upsell_assets.model.registry import Origin, Registry
        from upsell_assets.model.training import train

        settings = lakehouse.settings
        now = datetime.now(UTC)
        days = _training_days(lakehouse, now)
        store = FeatureStore.of(lakehouse)
        versions = pins(store, settings.training_known_at)
        draw = Draw(settings.training_rows_per_customer, settings.seed)
        # What was known at a dtRef is found out of all changes, and then drawn from.
        by_engine = draw if settings.training_known_at == "latest" else None
        rows = read_labelled(store, days, versions, now, settings.training_known_at, by_engine)
        sampled = sample(rows, draw.per_customer, draw.seed)
        context.log.info("training on %d rows", sampled.num_rows)
        trained = train(sampled, seed=settings.seed)
        origin = Origin(
            versions,
            settings.training_grid,
            settings.training_rows_per_customer,
            "latest" if settings.training_known_at == "latest" else "known at dtRef",
        )
        number = Registry(lakehouse.store).register(trained, sampled, origin)
        evaluation = trained.evaluation
        figures = (
            {} if evaluation.metrics is None else {"auc": evaluation.metrics.auc, "brier": evaluation.metrics.brier}
        )
        return dg.MaterializeResult(
            metadata={
                "version": number,
                "training_rows": sampled.num_rows,
                "features": len(trained.features),
                "made_from": versions,
                "reliability": picture(reliability_plot(evaluation)),
                **figures,
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name="judged_on_later_dtrefs",
                    passed=evaluation.judged,
                    severity=dg.AssetCheckSeverity.WARN,
                    metadata={**figures, "not judged": "; ".join(evaluation.caveats) or "nothing"},
                )
            ],
        )

    return churn


def _training_days(lakehouse: Lakehouse, now: datetime) -> list[date]:
    days = event_days(lakehouse.lake, now)
    every: list[date] = []
    if days is not None:
        first = max(days.first + timedelta(1), lakehouse.settings.first_day or date.min)
        every = [first + timedelta(number) for number in range((days.newest - LABEL_WINDOW - first).days + 1)]
    if not every:
        raise PermanentError(
            "model.upsell.churn: no dtRef has a mature label yet: that takes 28 days of events after the day that "
            "follows the first one. Nothing was registered; it trains by itself once the data reaches that far."
        )
    return grid(every[0], every[-1], lakehouse.settings.training_grid) or every


def _scores(lakehouse: Lakehouse) -> dg.AssetsDefinition:
    @dg.asset(
        key=SCORES.split("."),
        description="Churn scores of the population of dtRef: two rows a customer, descLabel '0' (stays) and '1'.",
        deps=[touched_key(SCORES), MODEL, *_FEATURES],
        partitions_def=dtrefs(lakehouse.settings),
        automation_condition=once_ready(),
        freshness_policy=each_day(),
        group_name="feature_store",
        kinds={"deltalake", "scikitlearn"},
        owners=["team:upsell"],
        pool=SCORES,
        metadata=definition_metadata(lakehouse, SCORES),
        check_specs=written_specs(SCORES, SCORE_KEY),
    )
    @retried
    def models(context: dg.AssetExecutionContext) -> Made:
        from upsell_assets.model.registry import Registry
        from upsell_assets.model.scoring import SCHEMA, histogram, score

        registry = Registry(lakehouse.store)
        latest = registry.latest()
        if latest is None:
            raise PermanentError(f"{SCORES}: no model is registered. Materialize model/upsell/churn first.")
        store = FeatureStore.of(lakehouse)
        versions = store.pins()
        day = date.fromisoformat(context.partition_key)
        served = store.training_set(days_of([day]), pins=versions)
        scores = score(registry.load(latest.number), served)
        partitions: dict[str, list[date | str]] = {MODEL_NAME: [registry.name], DTREF: [day]}
        # As served first: a score without the features that it was made from must not exist.
        lakehouse.lake.replace(
            SERVED, as_served(served, registry.name, latest.number).to_reader(), partitions=partitions
        )
        try:
            table = lakehouse.lake.replace(SCORES, scores.to_reader(), partitions=partitions, key=SCORE_KEY)
        except DoubledKeysError as error:
            report_doubled(context.instance, error)
            raise
        return dg.MaterializeResult(
            metadata={
                "model_version": latest.number,
                "rows_written": scores.num_rows,
                "made_from": versions,
                "scores": picture(histogram(scores)),
                **table_metadata(lakehouse, table, definition_of(context)),
            },
            check_results=written_results(
                context.instance, lakehouse.lake, table, SCORE_KEY, column_types(SCHEMA.empty_table())
            ),
        )

    return models
