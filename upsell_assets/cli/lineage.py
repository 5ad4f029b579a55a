"""Commands that tell where something comes from: a column, and the row of a key."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import AsJson, print_json

if TYPE_CHECKING:
    from rich.tree import Tree

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
        tree = Tree(label) if under is None else under.add(label)
        told.add(column)
        for other in () if again else near:
            grow(other, tree)
        return tree

    # Where nobody looks, a line is a line.
    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    for column in start:
        console.print(grow(column, None))
