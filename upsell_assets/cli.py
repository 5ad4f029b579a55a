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

    from upsell_assets.contracts import Contract
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.raw.landing import LandedFile
    from upsell_assets.raw.ledger import Record
    from upsell_assets.services.embedded import Running

HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="The upsell lakehouse: a points database becomes bronze, silver, features and churn scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
quarantine = typer.Typer(
    help="Files that broke their contract: which, why, and once more.", no_args_is_help=True, context_settings=HELP
)
app.add_typer(quarantine, name="quarantine")

Tables = Annotated[list[str] | None, typer.Argument(help="Tables; none: all.")]
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
def ingest(tables: Tables = None) -> None:
    """Raw to bronze, without Dagster: what landed and was not taken in yet.

    Example: upsell ingest customers transactions
    """
    from upsell_assets.bronze.ingest import ingest as take_in
    from upsell_assets.bronze.repair import complaints

    with _lakehouse() as (lakehouse, _):
        for contract in _contracts(lakehouse, "ingest", tables):
            done = take_in(lakehouse.store, lakehouse.lake, contract, progress=_progress)
            typer.echo(
                f"{contract.name}: {done.files} files, {done.rows:,} changes, {done.upserts:,} written, "
                f"{done.deletes:,} deleted, {len(done.quarantined)} quarantined"
            )
            for record in done.quarantined:
                _progress(f"quarantined {record.file.key}: {record.reason}")
            for decision, files in done.decisions.items():
                _progress(f"decided {decision} ({files} files)")
            for complaint in complaints(contract, done):
                _progress(f"{contract.name}: {complaint}")


@app.command()
def check(tables: Tables = None) -> None:
    """Look whether bronze has one row a key, in all rows; exit code 1 and the keys where it has not.

    Example: upsell check transactions
    """
    from upsell_assets.bronze.repair import doubled_keys

    doubled = False
    with _lakehouse() as (lakehouse, _):
        for contract in _contracts(lakehouse, "check", tables):
            found = doubled_keys(lakehouse.lake, contract)
            doubled |= bool(found)
            for key in found:
                typer.echo(f"{contract.name}: several rows of {', '.join(map(str, key))}")
            if found:
                _progress(
                    f"{contract.name}: the contract is wrong. Correct it, then run: upsell repair {contract.table}"
                )
            else:
                typer.echo(f"{contract.name}: one row a key")
    if doubled:
        raise typer.Exit(1)


@app.command()
def repair(
    table: Annotated[str, typer.Argument(help="Table of which the contract was corrected.")],
    from_raw: Annotated[
        bool, typer.Option(help="From all files of raw again: where rows were lost, because the key was none.")
    ] = False,
) -> None:
    """Write a bronze table anew under its contract: one row a key, in the layout that the contract asks for.

    Example: upsell repair transactions
    """
    from upsell_assets.bronze import repair as repairs

    with _lakehouse() as (lakehouse, _):
        [contract] = _contracts(lakehouse, "repair", [table])
        if from_raw:
            done = repairs.rebuild(lakehouse.store, lakehouse.lake, contract, _progress)
            typer.echo(f"{contract.name}: {done.files} files, {done.rows:,} changes taken in again")
        else:
            typer.echo(f"{contract.name}: {repairs.repair(lakehouse.lake, contract):,} rows")


@app.command()
def tidy(tables: Tables = None) -> None:
    """Bronze's upkeep, where it is needed: small files become few, months are sorted again, tombstones expire.

    Merges compact small files by themselves; tombstones expire only if the contract says when.
    """
    from upsell_assets.bronze.upkeep import tidy as tidy_up

    with _lakehouse() as (lakehouse, _):
        for contract in _contracts(lakehouse, "tidy", tables):
            typer.echo(f"{contract.name}: {tidy_up(lakehouse.lake, contract)} files written anew")


def _contracts(lakehouse: Lakehouse, command: str, tables: list[str] | None) -> list[Contract]:
    contracts = lakehouse.contracts
    if unknown := [name for name in tables or () if name not in contracts]:
        raise PermanentError(f"{command}: no contract for {', '.join(unknown)}; there are {', '.join(contracts)}.")
    return [contracts[name] for name in tables or contracts]


@quarantine.command("list")
def quarantine_list(as_json: AsJson = False) -> None:
    """Files in quarantine, with the reason."""
    from upsell_assets.raw.quarantine import quarantined, record_as_json

    with _lakehouse() as (lakehouse, _):
        held = quarantined(lakehouse)
    if as_json:
        _print_json([{"table": contract.name} | record_as_json(record) for contract, record in held])
        return
    rows = [
        [
            contract.name,
            record.file.key,
            f"{record.file.day}",
            f"{record.file.size:,}",
            _at(record),
            record.reason or "",
        ]
        for contract, record in held
    ]
    _print_table(["table", "file", "landed", "bytes", "at (UTC)", "reason"], rows)


@quarantine.command("show")
def quarantine_show(
    file: Annotated[str, typer.Argument(help="Key of the object, or an ending of it that no other file has.")],
    as_json: AsJson = False,
) -> None:
    """All that is known of a file: what the ledger says, what lies there now, columns against the contract's.

    Example: upsell quarantine show 2024/06/14/0007.parquet
    """
    from upsell_assets.raw.quarantine import inspect

    with _lakehouse() as (lakehouse, _):
        found = inspect(lakehouse, file)
    if as_json:
        _print_json(found.as_json())
        return
    typer.echo(f"{found.key} (table {found.contract.name})")
    typer.echo(found.presence)
    typer.echo("\nledger")
    _print_table(
        ["at (UTC)", "etag", "bytes", "state", "rows", "reason", "decisions"],
        [
            [_at(r), r.file.etag, f"{r.file.size:,}", r.state, f"{r.rows:,}", r.reason or "", "; ".join(r.decisions)]
            for r in found.records
        ],
    )
    if found.content is None or found.head is None:
        return
    typer.echo("\ncolumns")
    _print_table(["column", "in the file", "in the contract"], [[c or "" for c in row] for row in found.columns])
    typer.echo(f"\n{found.content.num_rows:,} rows, the first of them")
    _print_rows(found.head)


@quarantine.command("retry")
def quarantine_retry(
    files: Annotated[list[str] | None, typer.Argument(help="Keys, or endings of them that no other file has.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All files in quarantine.")] = False,
) -> None:
    """Take files in once more, after they or their contract were repaired; exit code 1 if one is still held.

    Example: upsell quarantine retry 2024/06/14/0007.parquet
    """
    from upsell_assets.bronze.ingest import retry
    from upsell_assets.raw.quarantine import quarantined, to_retry

    if bool(files) == every:
        raise typer.BadParameter("name files, or give --all")
    still = False
    with _lakehouse() as (lakehouse, _):
        names = [record.file.key for _, record in quarantined(lakehouse)] if every else files or []
        for table, present in to_retry(lakehouse, names).items():
            contract = lakehouse.contracts[table]
            for record in retry(lakehouse.store, lakehouse.lake, contract, present, _progress):
                typer.echo(f"{record.file.key}: {_outcome(record)}")
                still |= record.state == "quarantined"
            _tell_dagster(lakehouse, contract, present)
    if still:
        raise typer.Exit(1)


def _outcome(record: Record) -> str:
    if record.state == "accepted":
        return f"taken in, {record.rows:,} rows"
    if record.state == "quarantined":
        return f"still in quarantine: {record.reason}"
    return "waits for the other files of its full load"


def _tell_dagster(lakehouse: Lakehouse, contract: Contract, files: list[LandedFile]) -> None:
    """Have the graph look at what it did not do itself, where there is one."""
    import os

    home = Path(os.environ.get("DAGSTER_HOME") or lakehouse.settings.home / "dagster")
    if (home / "dagster.yaml").exists():
        import dagster as dg

        from upsell_assets.bronze.assets import report_retried

        with dg.DagsterInstance.from_config(str(home)) as instance:
            report_retried(instance, lakehouse, contract, files)


def _at(record: Record) -> str:
    return f"{record.recorded_at:%Y-%m-%d %H:%M:%S}" if record.recorded_at else ""


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
        _print_json(rows.to_pylist())
    else:
        _print_rows(rows)


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


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, default=str, ensure_ascii=False, indent=2))


def _print_rows(rows: pa.Table) -> None:
    cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows.to_pylist()]
    _print_table(rows.column_names, cells)


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
