"""Commands for the lake as a whole: bring it up, look at it, look after it, ask it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from upsell_assets.cli.common import (
    AsJson,
    lakehouse_of_settings,
    print_csv,
    print_json,
    print_rows,
    print_table,
    progress,
)

app = typer.Typer()


@app.command()
def up(
    once: Annotated[bool, typer.Option(help="Process all there is, print the status, stop.")] = False,
    seed_from: Annotated[
        Path | None,
        typer.Option(help="Dump to fill the embedded database from: a folder of CSV files, or an SQLite file."),
    ] = None,
    customers: Annotated[int, typer.Option(min=1, help="Customers to simulate.")] = 3000,
    days: Annotated[int, typer.Option(min=1, help="Days of history to simulate.")] = 180,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the web interface; 0: any free one.")] = 0,
    activity: Annotated[bool, typer.Option(help="Let simulated customers go on chatting.")] = True,
) -> None:
    """Bring everything up: services, data, full load, Dagster with all sensors.

    Example: upsell up --once --seed-from dumps/
    """
    from upsell_assets.progress import reporter
    from upsell_assets.settings import load_settings
    from upsell_assets.up import Options, run

    settings = load_settings()
    with reporter() as report:
        run(settings, Options(once, seed_from, customers, days, port, activity), report)
    if once:
        status(as_json=False)


@app.command()
def down() -> None:
    """Stop a running lake and its services."""
    from upsell_assets.services.embedded import stop_all
    from upsell_assets.settings import load_settings

    stopped = stop_all(load_settings())
    progress(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop everything and delete all local state: the database, the bucket, Dagster's history."""
    from upsell_assets.services.embedded import reset as delete
    from upsell_assets.settings import load_settings

    settings = load_settings()
    if not yes:
        typer.confirm(f"Delete {settings.home} with all its data?", abort=True, err=True)
    delete(settings)
    progress(f"deleted {settings.home}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Rows, version, newest event, lag and quarantined files of every table."""
    from upsell_assets.status import capture_lag, table_statuses

    with lakehouse_of_settings() as (lakehouse, _):
        lag = capture_lag(lakehouse)
        tables = list(table_statuses(lakehouse))
    if as_json:
        import json

        typer.echo(json.dumps({"capture": lag, "tables": [table.as_json() for table in tables]}, indent=2))
        return
    rows = [
        [
            table.table,
            "-" if table.rows is None else f"{table.rows:,}",
            "-" if table.version is None else str(table.version),
            "-" if table.newest is None else f"{table.newest:%Y-%m-%d %H:%M}".removesuffix(" 00:00"),
            "-" if table.lag is None else str(table.lag),
            str(table.quarantined),
        ]
        for table in tables
    ]
    print_table(["table", "rows", "version", "newest", "lag", "quarantined"], rows)
    if lag is not None:
        seen = "{bytes:,} bytes of log not seen yet, {seconds:,.0f} s; the server keeps {retained_bytes:,} bytes"
        typer.echo(f"capture: {lag.get('error') or seen.format(**lag)}")


@app.command()
def tidy(
    tables: Annotated[
        list[str] | None,
        typer.Argument(help="Tables by their three parts, or contracts (their bronze tables); none: all."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
) -> None:
    """Upkeep of all tables: small files become few, expired rows go, and files that no kept version names.

    Dagster does the same each day (UPSELL_UPKEEP_SCHEDULE); versions are kept for UPSELL_KEEP_DAYS.

    Example: upsell tidy customers gold.upsell.churn_report --dry-run
    """
    from upsell_assets.upkeep import chosen, upkeep

    with lakehouse_of_settings() as (lakehouse, _):
        for done in upkeep(lakehouse, chosen(lakehouse, tables or []), dry_run=dry_run):
            typer.echo(f"would be: {done}" if dry_run else str(done))


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SELECT in Spark's dialect; tables by their three-part names.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the lake.

    Example: upsell query "SELECT * FROM gold.upsell.churn_report ORDER BY dtRef DESC LIMIT 3"
    """
    from upsell_assets.lake.engines import Query
    from upsell_assets.lake.sql import parse_query
    from upsell_assets.lake.tables import UnknownTableError

    tree = parse_query(sql)
    with lakehouse_of_settings() as (lakehouse, _):
        try:
            rows = lakehouse.engine.run(Query(tree)).read_all()
        except UnknownTableError as error:
            raise UnknownTableError(f"{error} There are: {', '.join(lakehouse.tables()) or 'none'}.") from error
        finally:
            lakehouse.engine.close()
    if csv:
        print_csv(rows)
    elif as_json:
        print_json(rows.to_pylist())
    else:
        print_rows(rows)
