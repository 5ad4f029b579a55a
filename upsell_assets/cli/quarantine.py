"""Commands for files in quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import HELP, AsJson, lakehouse_of_settings, print_json, print_rows, print_table, progress

if TYPE_CHECKING:
    from upsell_assets.contracts import Contract
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.raw.landing import LandedFile
    from upsell_assets.raw.ledger import Record

app = typer.Typer(
    help="Files that broke their contract: which, why, and once more.", no_args_is_help=True, context_settings=HELP
)


@app.command("list")
def quarantine_list(as_json: AsJson = False) -> None:
    """Files in quarantine, with the reason."""
    from upsell_assets.raw.quarantine import quarantined, record_as_json

    with lakehouse_of_settings() as (lakehouse, _):
        held = quarantined(lakehouse)
    if as_json:
        print_json([{"table": contract.name} | record_as_json(record) for contract, record in held])
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
    print_table(["table", "file", "landed", "bytes", "at (UTC)", "reason"], rows)


@app.command("show")
def quarantine_show(
    file: Annotated[str, typer.Argument(help="Key of the object, or an ending of it that no other file has.")],
    as_json: AsJson = False,
) -> None:
    """All that is known of a file: what the ledger says, what lies there now, columns against the contract's.

    Example: upsell quarantine show 2024/06/14/0007.parquet
    """
    from upsell_assets.raw.quarantine import inspect

    with lakehouse_of_settings() as (lakehouse, _):
        found = inspect(lakehouse, file)
    if as_json:
        print_json(found.as_json())
        return
    typer.echo(f"{found.key} (table {found.contract.name})")
    typer.echo(found.presence)
    typer.echo("\nledger")
    print_table(
        ["at (UTC)", "etag", "bytes", "state", "rows", "reason", "decisions"],
        [
            [_at(r), r.file.etag, f"{r.file.size:,}", r.state, f"{r.rows:,}", r.reason or "", "; ".join(r.decisions)]
            for r in found.records
        ],
    )
    if found.content is None or found.head is None:
        return
    typer.echo("\ncolumns")
    print_table(["column", "in the file", "in the contract"], [[c or "" for c in row] for row in found.columns])
    typer.echo(f"\n{found.content.num_rows:,} rows, the first of them")
    print_rows(found.head)


@app.command("retry")
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
    with lakehouse_of_settings() as (lakehouse, _):
        names = [record.file.key for _, record in quarantined(lakehouse)] if every else files or []
        for table, present in to_retry(lakehouse, names).items():
            contract = lakehouse.contracts[table]
            for record in retry(lakehouse.store, lakehouse.lake, contract, present, progress):
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
