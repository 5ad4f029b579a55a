"""The `upsell` command.

Here: arguments, what is printed, exit codes (0 done, 1 failed, 2 usage). Results go to stdout, progress and errors
to stderr. What a command does lives in the layers, which are imported only when their command runs.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.errors import PermanentError, UpsellError

if TYPE_CHECKING:
    import pyarrow as pa

    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.services.embedded import Running

app = typer.Typer(
    help="The upsell lakehouse: a points database becomes bronze, silver, features and churn scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


@app.callback()
def _options(context: typer.Context, debug: Debug = False) -> None:
    context.obj = {"debug": debug}


def main() -> None:
    """Entry point: an error that a person can act on is one line on stderr and exit code 1."""
    # As Ctrl-C does: what was begun is put in order on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except UpsellError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"upsell: {error}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("upsell: stopped", err=True)
        raise SystemExit(130) from None


@app.command()
def up(
    once: Annotated[bool, typer.Option(help="Process all there is, print the status, stop.")] = False,
    seed_from: Annotated[
        Path | None, typer.Option(help="Folder of CSV dumps to fill the embedded database from.")
    ] = None,
    customers: Annotated[int, typer.Option(min=1, help="Customers to simulate.")] = 3000,
    days: Annotated[int, typer.Option(min=1, help="Days of history to simulate.")] = 180,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the web interface; 0: any free one.")] = 0,
) -> None:
    """Bring everything up: services, data, full load, Dagster with all sensors.

    Example: upsell up --once --seed-from dumps/
    """
    from upsell_assets.progress import reporter
    from upsell_assets.settings import load_settings
    from upsell_assets.up import Options, run

    settings = load_settings()
    with reporter() as report:
        run(settings, Options(once, seed_from, customers, days, port), report)
    if once:
        status(as_json=False)


@app.command()
def down() -> None:
    """Stop a running lake and its services."""
    from upsell_assets.services.embedded import stop_all
    from upsell_assets.settings import load_settings

    stopped = stop_all(load_settings())
    _progress(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Stop everything and delete all local state: the database, the bucket, Dagster's history."""
    from upsell_assets.services.embedded import reset as delete
    from upsell_assets.settings import load_settings

    settings = load_settings()
    if not yes:
        typer.confirm(f"Delete {settings.home} with all its data?", abort=True, err=True)
    delete(settings)
    _progress(f"deleted {settings.home}")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Rows, version, newest event, lag and quarantined files of every table."""
    from upsell_assets.status import capture_lag, table_statuses

    with _lakehouse() as (lakehouse, _):
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
    _print_table(["table", "rows", "version", "newest", "lag", "quarantined"], rows)
    if lag is not None:
        typer.echo(f"capture: {lag.get('error') or '{bytes:,} bytes of log not seen yet'.format(**lag)}")


@app.command()
def simulate(
    bursts: Annotated[int, typer.Option(min=0, help="Stop after so many bursts; 0: go on until Ctrl-C.")] = 0,
    rate: Annotated[float, typer.Option(min=0.01, help="Bursts of activity a second.")] = 1.0,
) -> None:
    """Let customers chat, earn and spend in the embedded points database."""
    import threading
    import time
    from collections import Counter

    from upsell_assets.source.live import LiveActivity

    done: Counter[str] = Counter()
    with _lakehouse() as (lakehouse, running):
        if running.app_dsn is None:
            raise PermanentError(
                "simulate: invents rows, and UPSELL_SOURCE_DSN names a database of yours. Unset it to simulate."
            )
        stop = threading.Event()
        with LiveActivity(running.app_dsn, seed=int(time.time()), schema=lakehouse.settings.source_schema) as live:
            number = 0
            while not bursts or number < bursts:
                number += 1
                step = live.step()
                done.update(step)
                _progress(f"burst {number}: {', '.join(f'{count} {kind}' for kind, count in step.items()) or 'nobody'}")
                if number != bursts and stop.wait(1 / rate):
                    break
    typer.echo(", ".join(f"{count} {kind}" for kind, count in sorted(done.items())))


@app.command()
def capture(
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on until Ctrl-C, or drain once.")] = False,
) -> None:
    """Database to raw: the full load if it is due, then every change committed by now."""
    import threading

    from upsell_assets.capture.assets import open_capture

    with _lakehouse() as (lakehouse, _):
        found = open_capture(lakehouse)
        if found is None:
            raise PermanentError("capture: there is no database. Set UPSELL_SOURCE_DSN.")
        for load in found.ensure_full_load():
            _progress(f"full load of {load.table}: {load.rows:,} rows")
        if not follow:
            drained = found.drain()
            typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")
            return
        for drained in found.follow(threading.Event()):
            if drained.changes:
                typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")


@app.command()
def ingest(tables: Annotated[list[str] | None, typer.Argument(help="Tables; none: all.")] = None) -> None:
    """Raw to bronze, without Dagster: what landed and was not taken in yet.

    Example: upsell ingest customers transactions
    """
    from upsell_assets.bronze.ingest import ingest as take_in

    with _lakehouse() as (lakehouse, _):
        contracts = lakehouse.contracts
        unknown = [name for name in tables or () if name not in contracts]
        if unknown:
            raise PermanentError(f"ingest: no contract for {', '.join(unknown)}; there are {', '.join(contracts)}.")
        for name in tables or contracts:
            done = take_in(lakehouse.store, lakehouse.lake, contracts[name], progress=_progress)
            typer.echo(
                f"{contracts[name].name}: {done.files} files, {done.rows:,} changes, {done.upserts:,} written, "
                f"{done.deletes:,} deleted, {len(done.quarantined)} quarantined"
            )
            for record in done.quarantined:
                _progress(f"quarantined {record.file.key}: {record.reason}")


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
    with _lakehouse() as (lakehouse, _):
        try:
            rows = lakehouse.engine.run(Query(tree)).read_all()
        except UnknownTableError as error:
            raise UnknownTableError(f"{error} There are: {', '.join(lakehouse.tables()) or 'none'}.") from error
        finally:
            lakehouse.engine.close()
    if csv:
        _print_csv(rows)
    elif as_json:
        import json

        typer.echo(json.dumps(rows.to_pylist(), default=str, ensure_ascii=False, indent=2))
    else:
        cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows.to_pylist()]
        _print_table(rows.column_names, cells)


@contextmanager
def _lakehouse() -> Iterator[tuple[Lakehouse, Running]]:
    """The lake, with embedded services that run at least as long as this command."""
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.services.embedded import embedded
    from upsell_assets.settings import load_settings

    with embedded(load_settings()) as running:
        lakehouse = Lakehouse(running.settings)
        lakehouse.store.check()
        yield lakehouse, running


def _print_csv(rows: pa.Table) -> None:
    from pyarrow import csv

    csv.write_csv(rows, sys.stdout.buffer)


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    """A table for people; where nobody looks, tab-separated lines."""
    if not sys.stdout.isatty():
        typer.echo("\n".join("\t".join(row) for row in [header, *rows]))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(*header, box=box.SIMPLE)
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def _progress(line: str) -> None:
    """One line of progress, to stderr."""
    typer.echo(line, err=True)
