"""A contract proposed to a person: what is known of a table, written as YAML with the open questions beside it.

Here: the proposal, its text, and how files are added to a folder of contracts. Not here: where the facts come from
(`capture.catalog` for a database, `raw.sample` for files). A line with `# ?` is for a person to decide. Enforced
here: every `*.yaml` that is written loads; what lacks a key is a draft, which no command reads.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.errors import PermanentError

DRAFT = ".yaml.draft"
"""The ending of a file that no command reads: its key is missing, and one bad file would stop the whole lake."""


@dataclass(frozen=True)
class ProposedColumn:
    """A column, and what is to be said of it."""

    name: str
    type: str
    note: str = ""


@dataclass(frozen=True)
class Proposal:
    """A contract to be.

    A note that begins with `?` is a question.

    Attributes:
        origin: what it was made from, as a person would say it.
        schema: the lake's schema.
        table: its name in the lake.
        source_table: where that differs, as the contract spells it.
        key: empty where none was found.
        columns: those to declare.
        left_out: columns that no contract can declare, and why.
        order: the order columns.
        change_seq_type: its type.
        operations: where they are not the usual ones.
        dates: columns that may be an immutable date, and what speaks for each.
        full_load: what a flat full load would have to be told, as YAML.
        key_notes, order_notes, operation_notes, full_load_notes: what is to be said of these.
    """

    origin: str
    schema: str
    table: str
    key: tuple[str, ...]
    columns: tuple[ProposedColumn, ...]
    source_table: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    order: tuple[str, ...] = ("change_seq",)
    change_seq_type: str = "string"
    operations: Mapping[str, str | Sequence[str]] | None = None
    dates: tuple[tuple[str, str], ...] = ()
    full_load: str | None = None
    key_notes: tuple[str, ...] = ()
    order_notes: tuple[str, ...] = ()
    operation_notes: tuple[str, ...] = ()
    full_load_notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The YAML."""
        return "".join(f"{line}\n" for line in _lines(self))

    @property
    def questions(self) -> int:
        """How many lines ask something."""
        _, *lines = _lines(self)  # the first says what the sign means
        return sum("# ?" in line for line in lines)

    def with_key(self, key: Sequence[str]) -> Proposal:
        """The same with a key that a person chose; names are compared without case.

        Raises:
            PermanentError: the table has no such column.
        """
        names = {column.name.lower(): column.name for column in self.columns}
        if unknown := [name for name in key if name.lower() not in names]:
            raise PermanentError(
                f"--key: {self.origin} has no column {', '.join(unknown)} that a contract can declare; there are "
                f"{', '.join(names.values())}."
            )
        return replace(self, key=tuple(names[name.lower()] for name in key), key_notes=())


def lake_name(name: str) -> str:
    """A name as the lake can have it: letters without accents, digits and `_`, a letter first."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    cleaned = re.sub(r"\W", "_", plain)
    return (cleaned if re.match("[A-Za-z]", cleaned) else f"t_{cleaned}")[:63]


def _lines(of: Proposal) -> Iterator[str]:
    yield f'# Proposed from {_comment(of.origin)}. A line with "# ?" is for a person to decide.'
    yield f"schema: {_scalar(of.schema)}"
    yield f"table: {_scalar(of.table)}"
    if of.source_table is not None:
        yield f"source_table: {_scalar(of.source_table)}"
    yield f"key: {_list(of.key)}" if of.key else "# key: []"
    yield from map(_note, of.key_notes)
    yield "columns:"
    for column in of.columns:
        yield f"  {_scalar(column.name)}: {column.type}{f' {_note(column.note)}' if column.note else ''}"
    for name, why in of.left_out:
        yield f"  # ? {_comment(name)} is left out: {why}"
    yield f"order: {_list(of.order)}"
    yield from map(_note, of.order_notes)
    if "change_seq" in of.order:
        yield f"change_seq_type: {of.change_seq_type}"
    if of.operations:
        words = (f"{k}: {_scalar(v) if isinstance(v, str) else _list(v)}" for k, v in of.operations.items())
        yield f"operations: {{{', '.join(words)}}}"
    yield from map(_note, of.operation_notes)
    for date, why in of.dates:
        yield f"# immutable_date: {_scalar(date)} # ? {_comment(why)}"
    if of.full_load:
        yield f"# full_load: {of.full_load}"
    yield from map(_note, of.full_load_notes)


def _note(text: str) -> str:
    return f"# {_comment(text)}"


def _comment(text: str) -> str:
    """Text that stays on its line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"


def _scalar(value: str) -> str:
    """A text as YAML reads it back: quoted where it must be."""
    style = None if value.isprintable() else '"'
    dumped = yaml.safe_dump([value], default_flow_style=True, default_style=style, allow_unicode=True, width=1 << 20)
    return dumped.strip()[1:-1]


@dataclass(frozen=True)
class Added:
    """What became of a proposal.

    Attributes:
        written: the file; None: nothing was written.
        said: one line for a person.
        draft: whether the table still has no contract that can be read.
    """

    written: Path | None
    said: str
    draft: bool = False


def add(folder: Path, proposals: Sequence[Proposal], *, force: bool = False) -> list[Added]:
    """Write one file a table into the folder; what is there stays, unless `force` is given.

    Raises:
        ContractError: a contract in the folder is not valid.
        PermanentError: two tables would have one name.
    """
    counted = Counter(proposal.table.lower() for proposal in proposals)
    for name, count in counted.items():
        if count > 1:
            origins = ", ".join(proposal.origin for proposal in proposals if proposal.table.lower() == name)
            raise PermanentError(
                f"contract init: {origins} would both be {name} in the lake. Ask for one of them, and give the "
                "other's file another table name by hand."
            )
    known = existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_add(folder, proposal, known, force=force) for proposal in proposals]


def existing(folder: Path) -> dict[str, Contract]:
    """The contracts that the folder has; none where it has no file, or does not exist."""
    return load_contracts(folder) if any(folder.glob("*.yaml")) else {}


def _add(folder: Path, proposal: Proposal, known: Collection[str], *, force: bool) -> Added:
    whole, draft = folder / f"{proposal.table}.yaml", folder / f"{proposal.table}{DRAFT}"
    there = [path for path in (whole, draft) if path.exists()]
    if there and not force:
        return Added(None, f"left alone {there[0]}: it exists; --force writes it anew", draft=not whole.exists())
    if proposal.table in known and not whole.exists():
        return Added(None, f"left alone {proposal.table}: another file in {folder} declares it")
    path = whole if proposal.key else draft
    path.write_text(proposal.text, encoding="utf-8")
    for other in set(there) - {path}:
        other.unlink()
    said = f"{len(proposal.columns)} columns, {_counted(proposal.questions, 'question')} (lines with # ?)"
    if proposal.key:
        return Added(path, f"wrote {path}: key {', '.join(proposal.key)}, {said}")
    return Added(
        path,
        f"wrote {path}: no key found, {said}. Complete the key and rename it to {whole.name}, or give --key.",
        draft=True,
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
