"""What all commands share: the lake of the settings, tables by name, and how results are printed.

Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    import pyarrow as pa

    from upsell_assets.contracts import Contract
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.services.embedded import Running

HELP = {"help_option_names": ["-h", "--help"]}

Tables = Annotated[list[str] | None, typer.Argument(help="Tables; none: all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def lakehouse_of_settings() -> Iterator[tuple[Lakehouse, Running]]:
    """The lake, with embedded services that run at least as long as this command."""
    from upsell_assets.lake.lakehouse import Lakehouse
    from upsell_assets.services.embedded import embedded
    from upsell_assets.settings import load_settings

    with embedded(load_settings()) as running:
        lakehouse = Lakehouse(running.settings)
        lakehouse.store.check()
        yield lakehouse, running


def contracts_of(lakehouse: Lakehouse, command: str, tables: list[str] | None) -> list[Contract]:
    """The contracts of the named tables, of all where none is named.

    Raises:
        PermanentError: there is no such table.
    """
    contracts = lakehouse.contracts
    if unknown := [name for name in tables or () if name not in contracts]:
        raise PermanentError(f"{command}: no contract for {', '.join(unknown)}; there are {', '.join(contracts)}.")
    return [contracts[name] for name in tables or contracts]


def print_csv(rows: pa.Table) -> None:
    """Rows as CSV, quoted only where it must be: a shell gets a value as it is. An empty text is "", null is nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    typer.echo(",".join(_csv_cells(pa.array(rows.column_names)).to_pylist()))
    for batch in rows.to_batches():
        lines = pc.binary_join_element_wise(*map(_csv_cells, batch.columns), ",", null_handling="replace")
        typer.echo("".join(f"{line}\n" for line in lines.to_pylist()), nl=False)


def _csv_cells(values: pa.Array) -> pa.Array:
    # Arrow's own writer quotes every text.
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = values.cast(pa.string())
    quoted = pc.binary_join_element_wise("", pc.replace_substring(texts, '"', '""'), "", '"')
    return pc.if_else(pc.match_substring_regex(texts, r'^$|[",\r\n]'), quoted, texts)


def print_json(value: object) -> None:
    """JSON; what it has no type for as text."""
    import json

    typer.echo(json.dumps(value, default=str, ensure_ascii=False, indent=2))


def print_rows(rows: pa.Table) -> None:
    """Rows, as `print_table` does."""
    cells = [["" if cell is None else str(cell) for cell in row.values()] for row in rows.to_pylist()]
    print_table(rows.column_names, cells)


def print_table(header: list[str], rows: list[list[str]]) -> None:
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


def print_facts(facts: list[tuple[str, str]]) -> None:
    """Lines with a name each, which is said once for several; where nobody looks, each line has it."""
    if not sys.stdout.isatty():
        typer.echo("\n".join(f"{name}\t{text}" for name, text in facts))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table.grid("", "", padding=(0, 2))
    last = ""
    for name, text in facts:
        shown.add_row("" if name == last else f"[bold]{name}[/bold]", escape(text))
        last = name or last
    Console(highlight=False).print(shown)


def progress(line: str) -> None:
    """One line of progress, to stderr."""
    typer.echo(line, err=True)
