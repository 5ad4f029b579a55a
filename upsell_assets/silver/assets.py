"""Silver in Dagster: one unpartitioned, incremental asset per table, and the days that a change touches.

What a change touches is reported on one external asset per consumer, `[silver, upsell, _touched, <table>]`, whose
partitions are dtRefs: before the commit, so that a crash repeats rather than forgets. Features and gold run when
their partition of it is reported.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from upsell_assets.automation import on_change
from upsell_assets.clock import Clock, utc_now
from upsell_assets.freshness import follows_source
from upsell_assets.lake.checks import report_doubled, written_results, written_specs
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.metadata import Made, definition_metadata, definition_of, table_metadata
from upsell_assets.partitions import DEFAULT_START, dtrefs
from upsell_assets.retries import retried
from upsell_assets.silver import events
from upsell_assets.silver.dates import UnreadDates, unread_dates
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.future import come_true, future_events
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.tables import SilverTable, silver_tables
from upsell_assets.silver.touched import EventDays, Touched, begun, touched

POOL = "silver"
"""One table of silver at a time: a product line looks up its transaction to know its day."""

DATES_CHECK, FUTURE_CHECK = "dates_readable", "no_event_in_future"
SHOWN_FILES = 20


def touched_key(consumer: str) -> dg.AssetKey:
    """The external asset on which touched dtRefs of a consumer are reported."""
    return dg.AssetKey(["silver", "upsell", "_touched", consumer.rpartition(".")[2]])


def touched_specs(lakehouse: Lakehouse, consumers: list[str]) -> list[dg.AssetSpec]:
    """The external assets of touched dtRefs."""
    transactions = dg.AssetKey(events.TRANSACTIONS.split("."))
    return [
        dg.AssetSpec(
            touched_key(consumer),
            deps=[transactions],
            description=f"dtRefs of {consumer} that a change of silver asks to be computed (again).",
            group_name="touched",  # one box of the graph, between silver and what follows
            kinds={"dagster"},
            owners=["team:upsell"],
            partitions_def=dtrefs(lakehouse.settings),
        )
        for consumer in consumers
    ]


def silver_assets(lakehouse: Lakehouse) -> list[dg.AssetsDefinition]:
    """The assets of every table whose source is declared."""
    tables = silver_tables(lakehouse.contracts)
    names = {table.name for table in tables}
    return [_silver_asset(lakehouse, table, names) for table in tables]


def _silver_asset(lakehouse: Lakehouse, table: SilverTable, names: set[str]) -> dg.AssetsDefinition:
    sources = [name for name in sorted(table.sql.tables) if not name.rpartition(".")[2].startswith("_")]
    if table.contract is not None:
        sources = [f"bronze.{table.contract.name}"]
    if table.name == events.TRANSACTIONS and events.LINES in names:
        # After the product lines that came with them: a new transaction and its lines touch their days once.
        sources.append(events.LINES)
    dated = table.name == events.TRANSACTIONS

    @dg.asset(
        key=table.name.split("."),
        description=table.sql.description,
        deps=[dg.AssetKey(name.split(".")) for name in sources],
        automation_condition=on_change(),
        freshness_policy=follows_source(lakehouse.settings),
        group_name="silver",
        kinds={"deltalake", "sql"},
        owners=["team:upsell"],
        code_version=table.sql.code_version,
        pool=POOL,
        metadata=definition_metadata(lakehouse, table.name),
        check_specs=[*written_specs(table.name, table.key), *(_event_specs(table) if dated else [])],
    )
    @retried
    def silver(context: dg.AssetExecutionContext) -> Made:
        now = datetime.now(UTC)

        def report(change: Difference) -> None:
            for event in touched_events(_touched_by(lakehouse, table, change, now), context.run.run_id):
                context.log_event(event)

        try:
            done = refresh(lakehouse.lake, lakehouse.engine, table, report)
        except DoubledKeysError as error:
            report_doubled(context.instance, error)
            raise
        made = lakehouse.lake.open(table.name)
        declared = dict.fromkeys(table.sql.columns)
        written = written_results(context.instance, lakehouse.lake, made, table.key, declared)
        return dg.MaterializeResult(
            metadata={
                "rows_written": done.upserts,
                "rows_deleted": done.deletes,
                "made_from": done.sources,
                **table_metadata(lakehouse, made, definition_of(context), table.sql),
            },
            check_results=[*written, *(_event_checks(lakehouse, table, now) if dated else [])],
        )

    return silver


def _event_specs(table: SilverTable) -> list[dg.AssetCheckSpec]:
    said = {
        DATES_CHECK: "Every date that the source wrote was read; what could not be is null, counted and stops nothing.",
        FUTURE_CHECK: "No transaction is of a time to come; those that are become events when their time has come.",
    }
    return [dg.AssetCheckSpec(name, asset=table.name.split("."), description=text) for name, text in said.items()]


def _event_checks(lakehouse: Lakehouse, table: SilverTable, now: datetime) -> list[dg.AssetCheckResult]:
    return [_dates_check(lakehouse, table), _future_check(lakehouse, table, now)]


def _future_check(lakehouse: Lakehouse, table: SilverTable, now: datetime) -> dg.AssetCheckResult:
    assert table.contract is not None  # transactions are made from bronze
    found = future_events(lakehouse.lake, table.name, table.contract, now)
    rows = [
        f"| {event.transaction} | {event.at:%Y-%m-%d %H:%M:%S} | {event.file or 'unknown'} |" for event in found.shown
    ]
    head = ["| idTransacao | dtTransacao, UTC | raw file |", "|---|---|---|"]
    return dg.AssetCheckResult(
        check_name=FUTURE_CHECK,
        passed=not found.count,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "events": found.count,
            "latest": dg.MetadataValue.md("\n".join([*head, *rows]) if rows else "none"),
        },
    )


def _dates_check(lakehouse: Lakehouse, table: SilverTable) -> dg.AssetCheckResult:
    assert table.contract is not None  # transactions are made from bronze
    found = unread_dates(lakehouse.lake, table.name, table.contract)
    return dg.AssetCheckResult(
        check_name=DATES_CHECK,
        passed=not found.files,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "zero_dates": found.zero_dates,
            "unreadable": found.unreadable,
            "without a date in the source (not counted)": found.missing,
            "files": dg.MetadataValue.md(_files_table(found)),
        },
    )


def _files_table(found: UnreadDates) -> str:
    rows = [
        f"| {file.file} | {file.zero_dates:,} | {file.unreadable:,} | `{_as_cell(file.sample)}` |"
        for file in found.files[:SHOWN_FILES]
    ]
    more = len(found.files) - len(rows)
    head = ["| raw file | zero dates | unreadable | for example |", "|---|---|---|---|"]
    return "\n".join([*head, *rows, *([f"\nand {more:,} more files"] if more else [])]) if rows else "none"


def _as_cell(text: str, longest: int = 40) -> str:
    # Whatever the text is, it stays within its cell.
    shown = text if len(text) <= longest else f"{text[:longest]}..."
    return repr(shown).replace("|", "¦").replace("`", "'")


def touched_events(days: Touched, cause: str) -> Iterator[dg.AssetMaterialization]:
    """One event per consumer and dtRef."""
    for consumer, found in days.items():
        for day in sorted(found):
            yield dg.AssetMaterialization(
                touched_key(consumer), partition=day.isoformat(), tags={DATA_VERSION_TAG: cause}
            )


def _touched_by(lakehouse: Lakehouse, table: SilverTable, change: Difference, now: datetime) -> Touched:
    lake, today, start = lakehouse.lake, events.local_day(now), _start(lakehouse)
    before = events.event_days(lake, now)
    if table.name == events.TRANSACTIONS:
        after = events.event_days(lake, now, change)
        return touched(events.transaction_days(change, now), None, before, after, today, start)
    if table.name == events.LINES:
        days, _ = events.line_days(lake, change, now)
        return touched(days, None, before, before, today, start)
    if table.name == events.HISTORY:
        return touched((), events.flag_since(change), before, before, today, start)
    return {}


def new_day_sensor(lakehouse: Lakehouse, clock: Clock = utc_now) -> dg.SensorDefinition:
    """Reports what begins with a new local day, for which nothing needs to land.

    That is a dtRef of its own; and what the events of the days that ended touch which arrived before their time: silver
    reported no day that was yet to come.
    """

    @dg.sensor(
        name="new_day_sensor",
        description="Reports dtRefs that a new local day touches: those that begin, and those of events that came too early.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def sense(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        now = clock()
        today = events.local_day(now)
        if context.cursor == today.isoformat():
            return dg.SkipReason("the day has not changed")
        days = events.event_days(lakehouse.lake, now)
        if context.cursor is None or days is None:
            # What exists at the first tick was, or will be, reported by silver itself.
            return dg.SensorResult(cursor=today.isoformat())
        last = date.fromisoformat(context.cursor)
        found = begun(days, days, last, today, _start(lakehouse))
        for consumer, more in _come_true(lakehouse, days, last, today).items():
            found.setdefault(consumer, set()).update(more)
        return dg.SensorResult(asset_events=list(touched_events(found, today.isoformat())), cursor=today.isoformat())

    return sense


def _come_true(lakehouse: Lakehouse, days: EventDays, last: date, today: date) -> Touched:
    """What the events touch that arrived before their time, which came between the begins of two local days."""
    since, until = events.day_begins(last), events.day_begins(today)
    early = come_true(lakehouse.lake, events.TRANSACTIONS, lakehouse.contracts["transactions"], since, until)
    if not early:
        return {}
    before = events.event_days(lakehouse.lake, min(early.values()) - timedelta(microseconds=1))
    return touched(early, None, before, days, today, _start(lakehouse))


def _start(lakehouse: Lakehouse) -> date:
    return lakehouse.settings.first_day or DEFAULT_START
