"""Commands between the database and the lake: capture into raw, and the comparison of bronze with the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import AsJson, Tables, contracts_of, lakehouse_of_settings, print_json, progress
from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    from upsell_assets.capture.job import Capture
    from upsell_assets.capture.landing import LoadResult
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.services.embedded import Running

app = typer.Typer()


@app.command()
def capture(
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on until Ctrl-C, or drain once.")] = False,
    resync: Annotated[
        list[str] | None,
        typer.Option(metavar="TABLE", help="New full load of a table beside the stream; all: of everything, anew."),
    ] = None,
    setup: Annotated[bool, typer.Option("--setup", help="Prepare the database: role, grants, publication.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Print what --setup does, and what is missing.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Leave no slot and no publication behind.")] = False,
) -> None:
    """Database to raw: the full load if it is due, then every change committed by now.

    Example: upsell capture --resync customers
    """
    import threading

    from upsell_assets.capture.assets import open_capture

    if sum(map(bool, (follow, resync, setup, explain, drop))) > 1:
        raise typer.BadParameter("give one of --follow, --resync, --setup, --explain and --drop")
    with lakehouse_of_settings() as (lakehouse, running):
        found = open_capture(lakehouse)
        if found is None:
            raise PermanentError("capture: there is no database, or no table of it to capture. Set UPSELL_SOURCE_DSN.")
        if setup or explain or drop:
            if drop:
                _drop(found, running)
            else:
                _prepare(lakehouse, running) if setup else _explain(lakehouse, running)
            return
        for load in _full_loads(found, lakehouse, resync or []):
            progress(f"full load of {load.table}: {load.rows:,} rows")
        if not follow:
            drained = found.drain()
            typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")
            return
        for drained in found.follow(threading.Event()):
            if drained.changes:
                typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")


def _full_loads(found: Capture, lakehouse: Lakehouse, tables: list[str]) -> list[LoadResult]:
    from upsell_assets.progress import seldom

    say = seldom(lambda table, rows: progress(f"  {table}: {rows:,} rows"))
    if not tables:
        return found.ensure_full_load(say)
    if tables == ["all"] and "all" not in lakehouse.captured:
        return found.resync(progress=say)
    if unknown := [table for table in tables if table not in lakehouse.captured]:
        raise PermanentError(
            f"capture --resync: no table {', '.join(unknown)}; captured are {', '.join(lakehouse.captured)}."
        )
    return found.resync(tables, say)


def _owner_dsn(running: Running) -> str:
    settings = running.settings
    owner = settings.source_owner_dsn or settings.source_dsn
    return running.owner_dsn or (owner.get_secret_value() if owner else "")


def _dsn(running: Running) -> str:
    return running.settings.source_dsn.get_secret_value() if running.settings.source_dsn else ""


def _prepare(lakehouse: Lakehouse, running: Running) -> None:
    """Tell the database what capture needs; exit code 1 if something is still missing."""
    from psycopg.conninfo import conninfo_to_dict

    from upsell_assets.capture import setup
    from upsell_assets.source.database import connect

    settings, dsn = running.settings, conninfo_to_dict(_dsn(running))
    with connect(_owner_dsn(running)) as owner:
        role = str(dsn.get("user") or owner.info.user)
        if setup.ensure_role(owner, role, str(dsn.get("password") or "")):
            typer.echo(f"created role {role}")
        setup.prepare(
            owner,
            lakehouse.captured,
            name=settings.capture_name,
            schema=settings.source_schema,
            capture_role=None if role == owner.info.user else role,
        )
    typer.echo(f"prepared {', '.join(lakehouse.captured)} for role {role}, publication {settings.capture_name}")
    if _say_what_is_missing(lakehouse, running):
        raise typer.Exit(1)


def _explain(lakehouse: Lakehouse, running: Running) -> None:
    """Print what the database must be told, as SQL, and on stderr what of it is missing now."""
    from upsell_assets.capture import setup
    from upsell_assets.source.database import connect

    settings = running.settings
    with connect(_dsn(running)) as connection:
        statements = setup.explain(
            connection,
            lakehouse.captured,
            name=settings.capture_name,
            schema=settings.source_schema,
            capture_role=connection.info.user,
        )
    for statement in statements:
        typer.echo(statement)
    _say_what_is_missing(lakehouse, running)


def _say_what_is_missing(lakehouse: Lakehouse, running: Running) -> bool:
    from upsell_assets.capture import setup
    from upsell_assets.source.database import connect

    settings = running.settings
    with connect(_dsn(running)) as connection:
        missing = setup.find_faults(
            connection, lakehouse.captured, name=settings.capture_name, schema=settings.source_schema
        )
        dangers = setup.find_dangers(connection)
    for fault in missing:
        progress(f"missing: {fault}")
    for danger in dangers:
        progress(f"dangerous: {danger}")
    if not missing:
        progress("nothing is missing")
    return bool(missing)


def _drop(found: Capture, running: Running) -> None:
    """Leave nothing behind in the database but replica identities and the role."""
    from upsell_assets.capture import setup
    from upsell_assets.source.database import connect

    found.drop()
    typer.echo(f"dropped slot {running.settings.capture_name}")
    with connect(_owner_dsn(running)) as owner:
        setup.drop_publication(owner, running.settings.capture_name)
    typer.echo(f"dropped publication {running.settings.capture_name}")


@app.command()
def verify(tables: Tables = None, as_json: AsJson = False) -> None:
    """Is bronze what the database holds, at one position of its log; exit code 1 and the keys where it is not.

    Example: upsell verify customers
    """
    from dataclasses import asdict

    from upsell_assets.verify import verify as compare

    with lakehouse_of_settings() as (lakehouse, _):
        found = []
        wanted = contracts_of(lakehouse, "verify", tables or [*lakehouse.captured])
        for done in compare(lakehouse, wanted, progress):
            found.append(done)
            if as_json:
                continue
            said = "equal" if done.equal else f"NOT equal, the database has {done.source_rows:,}"
            typer.echo(f"{done.table}: {done.bronze_rows:,} rows, {said} (position {done.position})")
            for kind, key in done.differing:
                typer.echo(f"{done.table}: {kind}: {', '.join(map(str, key))}")
    if as_json:
        print_json([asdict(done) | {"equal": done.equal} for done in found])
    if not all(done.equal for done in found):
        raise typer.Exit(1)
