"""Commands for contracts: have them written, and see what moved away from them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import (
    HELP,
    AsJson,
    Tables,
    contracts_of,
    lakehouse_of_settings,
    print_json,
    print_table,
    progress,
)
from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    from upsell_assets.contracts import Contract
    from upsell_assets.contracts.propose import Proposal
    from upsell_assets.settings import Settings

app = typer.Typer(
    help="Contracts of source tables: have them written, and see what moved away from them.",
    no_args_is_help=True,
    context_settings=HELP,
)


@app.command("init")
def contract_init(
    tables: Tables = None,
    from_database: Annotated[bool, typer.Option("--from-database", help="From the source database's catalog.")] = False,
    from_files: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="From a sample of files: raw/SCHEMA, or a table's folder.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="Key column of the one table named; may be repeated.")] = None,
    schema: Annotated[
        str | None, typer.Option(help="The lake's schema (with --from-database); else as the folder's contracts.")
    ] = None,
    into: Annotated[Path | None, typer.Option(help="Folder of the files; else that of UPSELL_CONTRACTS.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write files that exist anew.")] = False,
) -> None:
    """Write a contract per table: key, columns, types; what a person must decide stands in it as a comment, `# ?`.

    A table without a key becomes a draft, which no command reads, and exit code 1.

    Example: upsell contract init --from-database orders --into contracts/
    """
    from upsell_assets.contracts.propose import add
    from upsell_assets.settings import load_settings

    if from_database == (from_files is not None):
        raise typer.BadParameter("give one of --from-database and --from-files PREFIX")
    if schema and not from_database:
        raise typer.BadParameter("--schema goes with --from-database; files have theirs in the prefix")
    settings = load_settings()
    folder = into or settings.contracts
    if folder is None:
        raise PermanentError("contract init: no folder to write to. Give --into FOLDER, or set UPSELL_CONTRACTS.")
    if from_files is None:
        proposals = _from_database(settings, tables or [], schema, folder)
    else:
        proposals = _from_files(from_files, tables or [])
    if key:
        if len(proposals) != 1:
            raise PermanentError(f"--key: is of one table, and there are {len(proposals)}. Name the table.")
        proposals = [proposals[0].with_key(key)]
    done = add(folder, proposals, force=force)
    for added in done:
        typer.echo(added.said)
    if any(added.draft for added in done):
        raise typer.Exit(1)


def _from_database(settings: Settings, tables: list[str], schema: str | None, folder: Path) -> list[Proposal]:
    from upsell_assets.capture.catalog import propose_tables
    from upsell_assets.contracts.propose import existing
    from upsell_assets.services.embedded import embedded
    from upsell_assets.source.database import connect

    schemas = {contract.schema_name for contract in existing(folder).values()}
    if len(schemas) > 1 and not schema:
        raise PermanentError(f"contract init: {folder} has contracts of {', '.join(sorted(schemas))}. Give --schema.")
    with embedded(settings) as running:
        assert running.settings.source_dsn is not None
        with connect(running.settings.source_dsn.get_secret_value()) as connection:
            return propose_tables(
                connection,
                into=schema or next(iter(schemas), None),
                default_schema=settings.source_schema,
                names=tables,
            )


def _from_files(prefix: str, tables: list[str]) -> list[Proposal]:
    from upsell_assets.raw.propose import propose_tables

    with lakehouse_of_settings() as (lakehouse, _):
        return propose_tables(lakehouse.store, prefix, tables)


@app.command("diff")
def contract_diff(tables: Tables = None, as_json: AsJson = False) -> None:
    """What moved away from the contracts, in database, files and bronze, and what to do; exit code 1 if anything did.

    Example: upsell contract diff orders
    """
    from dataclasses import asdict

    from upsell_assets.drift import Drift, drifts
    from upsell_assets.source.database import connect

    found: list[Drift] = []
    with lakehouse_of_settings() as (lakehouse, _):
        contracts: list[Contract] = contracts_of(lakehouse, "contract diff", tables)
        dsn = lakehouse.settings.source_dsn
        with connect(dsn.get_secret_value()) if dsn else nullcontext() as connection:
            for contract in contracts:
                progress(f"comparing {contract.name}")
                found += drifts(lakehouse, contract, connection)
    if as_json:
        print_json([asdict(drift) for drift in found])
    elif found:
        print_table(["table", "where", "what", "what to do"], [[d.table, d.where, d.what, d.remedy] for d in found])
    else:
        typer.echo("no drift")
    if found:
        raise typer.Exit(1)
