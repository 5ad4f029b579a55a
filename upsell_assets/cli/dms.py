"""Commands for tables whose files AWS DMS writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from upsell_assets.cli.common import HELP, lakehouse_of_settings, print_json, progress
from upsell_assets.errors import PermanentError

app = typer.Typer(
    help="Files of AWS DMS: is what the endpoint writes safe.", no_args_is_help=True, context_settings=HELP
)

File = TypeVar("File")

_SAMPLE = 20
"""So many files of a folder or prefix are looked at, the last by name."""


@app.callback()
def _group() -> None:
    """A group, though it has one command."""


@app.command("check")
def check(
    settings: Annotated[
        Path, typer.Argument(help="JSON: the endpoint's S3Settings, or what describe-endpoints prints.")
    ],
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Files of changes, or a folder of them; on disk, else in the lake's bucket."),
    ] = None,
) -> None:
    """Say what a DMS endpoint loses, with what to do, and the contract that fits; exit code 1 if anything is unsafe.

    Example: upsell dms check settings.json dms/sales/orders/
    """
    from upsell_assets.raw.dms_settings import contract_section, look, parse, sequence_rule, unsafe

    said = parse(_text(settings), str(settings))
    found = [look(name, body, said) for name, body in _bodies(files or [])]
    if files and not found:
        raise PermanentError(f"dms check: no file of changes in {', '.join(files)}. Name files that DMS wrote.")
    faults = unsafe(said, found)
    progress(f"looked at {len(found)} files of changes")
    for fault in faults:
        typer.echo(f"unsafe: {fault}")
    if any("rule below" in fault.remedy for fault in faults):
        typer.echo("\nrule for the table mappings:")
        print_json(sequence_rule())
    typer.echo(f"\ncontract{' (once that is done)' if faults else ''}:\n{contract_section(said, found)}", nl=False)
    if faults:
        raise typer.Exit(1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"{path}: cannot be read ({error}).") from error


def _bodies(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of files of changes."""
    local = {name: Path(name) for name in names if Path(name).exists()}
    for path in local.values():
        inside = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
        for file in _sample(inside, lambda file: file.name):
            yield str(file), file.read_bytes()
    if remote := [name for name in names if name not in local]:
        with lakehouse_of_settings() as (lakehouse, _):
            for prefix in remote:
                for entry in _sample(lakehouse.store.list(prefix), lambda entry: entry.key):
                    yield entry.key, lakehouse.store.read(entry.key)


def _sample(files: Iterable[File], name: Callable[[File], str]) -> list[File]:
    from upsell_assets.raw.dms_settings import is_load

    return [file for file in files if not is_load(name(file))][-_SAMPLE:]
