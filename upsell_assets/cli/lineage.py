"""Commands that tell where something comes from: a column, and the row of a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import AsJson, contracts_of, lakehouse_of_settings, print_json, print_table, progress

if TYPE_CHECKING:
    from typing import Any

    from rich.tree import Tree

    from upsell_assets.bronze.trace import Judged, Trace
    from upsell_assets.lineage.graph import Column, ColumnGraph

app = typer.Typer()


@app.command()
def lineage(
    name: Annotated[
        str, typer.Argument(metavar="TABLE[.COLUMN]", help="A table, or one of its columns, by its full name.")
    ],
    as_json: AsJson = False,
    down: Annotated[bool, typer.Option("--down", help="What depends on it, instead of what it comes from.")] = False,
) -> None:
    """The way of a column back to the source database, or on to all that depends on it; needs no running lake.

    Example: upsell lineage gold.upsell.churn_report.ChurnRate
    """
    from upsell_assets.contracts import load_contracts
    from upsell_assets.lineage.graph import column_graph
    from upsell_assets.settings import load_settings

    settings = load_settings()
    graph = column_graph(load_contracts(settings.contracts), settings.source_schema)
    start = graph.find(name)
    if as_json:
        print_json(
            [
                {
                    "column": str(column),
                    "meaning": graph.origins[column].meaning or None,
                    "into" if down else "from": [str(near) for near in graph.next(column, down=down)],
                }
                for column in graph.reach(start, down=down)
            ]
        )
        return
    _print_trees(graph, start, down=down)


@app.command()
def trace(
    table: Annotated[str, typer.Argument(help="A table of bronze: bronze.upsell.customers, or customers.")],
    key: Annotated[
        list[str],
        typer.Argument(help="The key's values, in the contract's order or as COLUMN=VALUE.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Every change of a key in all raw files, which of them wins and why, and what bronze holds of it.

    Exit code 1 if bronze does not hold what its law makes of these changes.

    Example: upsell trace bronze.upsell.customers 8f2c0d52-61c8-4a8c-9d0e-0f6a0f0c9d11
    """
    from upsell_assets.bronze.sightings import parse_key
    from upsell_assets.bronze.trace import trace as trace_key

    with lakehouse_of_settings() as (lakehouse, _):
        names = {
            f"{layer}{c.schema_name}.{name}": name
            for name, c in lakehouse.contracts.items()
            for layer in ("bronze.", "")
        }
        [contract] = contracts_of(lakehouse, "trace", [names.get(table, table)])
        found = trace_key(lakehouse.store, lakehouse.lake, contract, parse_key(contract, key), progress)
    for unread in found.unread:
        progress(f"not looked into: {unread}")
    if as_json:
        print_json(found.as_json())
    else:
        _print_trace(found)
    if not found.agrees:
        raise typer.Exit(1)


def _print_trace(found: Trace) -> None:
    name = f"bronze.{found.contract.name}"
    files = {judged.change.file for judged in found.changes if not judged.ends_load}
    changes = sum(not judged.ends_load for judged in found.changes)
    typer.echo(f"{name} {_said(found.key)}: {changes} changes in {len(files)} files")
    header = ["#", "state", "op", *found.contract.order, "full load", "file", "row", "says", "verdict"]
    if found.changes:
        print_table(header, [_cells(judged, found.contract.order) for judged in found.changes])
    for row in found.live:
        values = {column: value for column, value in row.items() if not column.startswith("_") and value is not None}
        typer.echo(f"{name} holds {_said(values)} (from {row['_file']}, row {row['_row']}; version {row['_version']})")
    if not found.live:
        buried = found.tombstone
        graves = f"; it remembers a delete (from {buried['_file']})" if buried else ""
        typer.echo(f"{name} holds no row of it{graves}")
    if not found.agrees:
        progress(
            f"{name} does not hold what these changes come to. Files may wait to be taken in: upsell ingest "
            f"{found.contract.table}; else take them in again: upsell repair {found.contract.table} --from-raw"
        )


def _cells(judged: Judged, order: tuple[str, ...]) -> list[str]:
    change = judged.change
    places = {"modified_date": change.modified_date, "change_seq": change.change_seq}
    return [
        "" if judged.number is None else str(judged.number),
        "end of load" if judged.ends_load else change.state,
        change.operation or "",
        *("" if (place := places[column]) is None else str(place) for column in order),
        "" if judged.load is None else judged.load or "(flat)",
        change.file,
        "" if judged.ends_load else str(change.row),
        _said(change.values),
        f"wins: {judged.why}" if judged.wins else judged.why,
    ]


def _said(values: dict[str, Any]) -> str:
    return ", ".join(f"{column} = {value}" for column, value in values.items())


def _print_trees(graph: ColumnGraph, start: list[Column], *, down: bool) -> None:
    """A tree for each column; what was told before is named again, and not told again."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    told: set[Column] = set()

    def grow(column: Column, under: Tree | None) -> Tree:
        label = Text.assemble((str(column), "bold" if under is None else ""))
        near, again = graph.next(column, down=down), column in told
        if (meaning := graph.origins[column].meaning) and not again:
            label.append(f"  {meaning}", style="dim")
        if again and near:
            label.append("  (as above)", style="dim")
        if not near and not down and not column.table.startswith("source."):
            label.append("  (from no column)", style="dim")
        tree = Tree(label) if under is None else under.add(label)
        told.add(column)
        for other in () if again else near:
            grow(other, tree)
        return tree

    # Where nobody looks, a line is a line.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    for column in start:
        console.print(grow(column, None))
