"""Commands for bronze without Dagster: take in, check, repair."""

from __future__ import annotations

from typing import Annotated

import typer

from upsell_assets.cli.common import Tables, contracts_of, lakehouse_of_settings, progress

app = typer.Typer()


@app.command()
def ingest(tables: Tables = None) -> None:
    """Raw to bronze, without Dagster: what landed and was not taken in yet.

    Example: upsell ingest customers transactions
    """
    from upsell_assets.bronze.ingest import ingest as take_in
    from upsell_assets.bronze.repair import complaints

    with lakehouse_of_settings() as (lakehouse, _):
        for contract in contracts_of(lakehouse, "ingest", tables):
            done = take_in(lakehouse.store, lakehouse.lake, contract, progress=progress)
            typer.echo(
                f"{contract.name}: {done.files} files, {done.rows:,} changes, {done.upserts:,} written, "
                f"{done.deletes:,} deleted, {len(done.quarantined)} quarantined"
            )
            for record in done.quarantined:
                progress(f"quarantined {record.file.key}: {record.reason}")
            for decision, files in done.decisions.items():
                progress(f"decided {decision} ({files} files)")
            for complaint in complaints(contract, done):
                progress(f"{contract.name}: {complaint}")


@app.command()
def check(tables: Tables = None) -> None:
    """Look whether bronze has one row a key, in all rows; exit code 1 and the keys where it has not.

    Example: upsell check transactions
    """
    from upsell_assets.bronze.repair import doubled_keys

    doubled = False
    with lakehouse_of_settings() as (lakehouse, _):
        for contract in contracts_of(lakehouse, "check", tables):
            found = doubled_keys(lakehouse.lake, contract)
            doubled |= bool(found)
            for key in found:
                typer.echo(f"{contract.name}: several rows of {', '.join(map(str, key))}")
            if found:
                progress(
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

    with lakehouse_of_settings() as (lakehouse, _):
        [contract] = contracts_of(lakehouse, "repair", [table])
        if from_raw:
            done = repairs.rebuild(lakehouse.store, lakehouse.lake, contract, progress)
            typer.echo(f"{contract.name}: {done.files} files, {done.rows:,} changes taken in again")
        else:
            typer.echo(f"{contract.name}: {repairs.repair(lakehouse.lake, contract):,} rows")
