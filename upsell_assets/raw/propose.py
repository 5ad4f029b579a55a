"""The contract that a sample of a table's files suggests.

Here: types, operations, order, keys and dates, guessed from rows, each guess with its question. Not here: how files
are sampled (`sample`), and the text of the contract (`contracts.propose`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations

import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.contracts import Operations, arrow_type, undeclarable
from upsell_assets.contracts.propose import Proposal, ProposedColumn, lake_name
from upsell_assets.contracts.types import type_name, unify
from upsell_assets.errors import FileRejectedError, PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.raw.files import cast_lossless
from upsell_assets.raw.sample import KINDS, Sampled, data_files, sampled, spread

_OP, _PART = "_op", "_part"
_ORDER = ("modified_date", "change_seq")
_VOCABULARIES = (
    Operations(),
    Operations(insert=("INSERT",), update=("UPDATE",), delete=("DELETE",)),
    Operations(insert=("c", "r"), update=("u",), delete=("d",)),
)
_OURS = r"^[0-9A-F]{16}-\d{10}$"
"""The `change_seq` of our own capture, which alone orders its changes."""

_ID = re.compile(r"^id|id$|uuid|key|cod", re.IGNORECASE)
_NO_KEY = ("float", "double", "boolean", "binary", "date", "timestamp")
_PAIRED = 6
"""Of so many columns pairs are tried as keys."""

_ISO = r"^\d{4}-\d\d-\d\d([ T]|$)"


def propose_tables(store: ObjectStore, prefix: str, names: Sequence[str] = ()) -> list[Proposal]:
    """Contracts of the tables below `raw/<schema>/`, or of one table's folder below it.

    Raises:
        PermanentError: the prefix is none of raw, or has no files of such a table.
    """
    schema, tables = _tables(store, prefix)
    if unknown := [name for name in names if name not in tables]:
        raise PermanentError(
            f"contract init: no files of {', '.join(unknown)} below raw/{schema}/; there are {', '.join(tables)}."
        )
    chosen = names or tables
    if unfit := [name for name in (schema, *chosen) if name != lake_name(name)]:
        raise PermanentError(
            f"contract init: folder {', '.join(unfit)} of raw/{schema}/ is no name of the lake (letters, digits and _, "
            "a letter first). Have its files written to another folder, or name the tables to propose."
        )
    return [propose(store, schema, table) for table in chosen]


def _tables(store: ObjectStore, prefix: str) -> tuple[str, list[str]]:
    parts = prefix.strip("/").split("/")
    if len(parts) not in (2, 3, 4) or parts[0] != "raw" or (len(parts) > 2 and parts[2] not in KINDS):
        raise PermanentError(
            f"--from-files {prefix}: expected raw/SCHEMA, raw/SCHEMA/cdc/TABLE or raw/SCHEMA/full_load/TABLE of the "
            "lake's bucket."
        )
    schema = parts[1]
    folders = {name for kind in KINDS for name in store.folders(f"raw/{schema}/{kind}/") if name[:1] not in "_."}
    tables = sorted(folders & set(parts[3:]) if len(parts) == 4 else folders)
    if not tables:
        raise PermanentError(f"--from-files {prefix}: the bucket {store.bucket} has no files there.")
    return schema, tables


@dataclass(frozen=True)
class _Meaning:
    """Which column says what was done, in which words."""

    column: str | None
    words: Operations
    notes: tuple[str, ...] = ()

    @property
    def declared(self) -> dict[str, str | Sequence[str]] | None:
        """What a contract has to say of it; None: nothing, it is as usual."""
        if self.column is None or (self.column.lower() == "op" and self.words == Operations()):
            return None
        said: dict[str, str | Sequence[str]] = {"column": self.column}
        if self.words != Operations():
            said |= {"insert": self.words.insert, "update": self.words.update, "delete": self.words.delete}
        return said


def propose(store: ObjectStore, schema: str, table: str) -> Proposal:
    """The contract of one table.

    Raises:
        PermanentError: none of its files is readable.
    """
    places = {kind: f"raw/{schema}/{kind}/{table}/" for kind in KINDS}
    listed = {kind: data_files(store, place) for kind, place in places.items()}
    changes, loads = (list(sampled(store, spread(listed[kind]))) for kind in KINDS)
    if not changes and not loads:
        raise PermanentError(f"contract init: no readable parquet file below {' or '.join(places.values())}.")
    meaning = _meaning(changes)
    columns, left_out = _columns([*loads, *changes], meaning)
    rows = _rows(changes, loads, columns, meaning)
    keys = _keys(rows, columns)
    order, seq_type, order_notes = _order(changes or loads)
    flat = [entry for entry in listed["full_load"] if "/" not in entry.key[len(places["full_load"]) :]]
    by_date = order[0] == "modified_date"
    return Proposal(
        origin=f"a sample of {len(changes) + len(loads)} files and {rows.num_rows:,} rows of raw/{schema}/ ({table})",
        schema=schema,
        table=table,
        key=keys[0] if keys else (),
        key_notes=tuple(_key_notes(keys, rows)),
        columns=tuple(columns),
        left_out=tuple(left_out),
        order=order,
        change_seq_type=seq_type,
        order_notes=order_notes,
        operations=meaning.declared,
        operation_notes=meaning.notes,
        dates=tuple(_dates(rows, columns, keys[0])) if keys else (),
        full_load=f"{{as_of: {flat[-1].modified:%Y-%m-%d}, files: {len(flat)}}}" if flat and by_date else None,
        full_load_notes=tuple(_flat_notes(by_date=by_date, flat=bool(flat))),
    )


def _flat_notes(*, by_date: bool, flat: bool) -> Iterator[str]:
    if flat and by_date:
        yield "? when was the flat full_load/ folder taken, and is it whole? Without as_of its files end no load,"
        yield "  and are taken only if their rows have a modified_date of their own"
    elif flat:
        yield "? the flat full_load/ folder needs a manifest with its change_seq"


def _meaning(changes: Sequence[Sampled]) -> _Meaning:
    words: dict[str, set[str]] = {}
    for file in changes:
        for name, field in file.columns.items():
            if type_name(field.type) == "string":
                said = pc.unique(file.rows[field.name].cast(pa.string())).to_pylist()
                words.setdefault(name, set()).update(word for word in said if word is not None)
    spelled = {name: field.name for file in changes for name, field in file.columns.items()}
    for name in sorted(words, key=lambda name: name != "op"):
        for vocabulary in _VOCABULARIES:
            if words[name] and _known(vocabulary).issuperset(word.strip().upper() for word in words[name]):
                return _Meaning(spelled[name], vocabulary, tuple(_operation_notes(name, vocabulary, words[name])))
    if "op" in words:
        shown = ", ".join(sorted(words["op"])[:10])
        return _Meaning(spelled["op"], Operations(), (f"? what do the operations mean: {shown}",))
    asked = ("? which column says what was done? operations: {column: OP, insert: [I], update: [U], delete: [D]}",)
    return _Meaning(None, Operations(), asked if changes else ())


def _known(words: Operations) -> set[str]:
    return {word.upper() for word in (*words.insert, *words.update, *words.delete)}


def _operation_notes(name: str, vocabulary: Operations, said: set[str]) -> Iterator[str]:
    if name != "op":
        yield "? does that column say what was done?"
    unseen = _known(vocabulary) - {word.strip().upper() for word in said}
    if unseen and vocabulary != Operations():
        yield f"? not seen in the sample: {', '.join(sorted(unseen))}"


def _columns(files: Sequence[Sampled], meaning: _Meaning) -> tuple[list[ProposedColumn], list[tuple[str, str]]]:
    found: dict[str, list[pa.Field]] = {}
    for file in files:
        for name, field in file.columns.items():
            found.setdefault(name, []).append(field)
    columns, left_out = [], []
    for name, fields in found.items():
        if name in (*_ORDER, "op", (meaning.column or "").lower()):
            continue
        kinds = [field.type for field in fields if not pa.types.is_null(field.type)]
        if why := undeclarable(fields[-1].name) or _no_type(kinds):
            left_out.append((fields[-1].name, f"{why}; files with it are quarantined"))
        else:
            types = [kind for kind in map(type_name, kinds) if kind]
            kind, question = unify(types) if types else ("string", "? only nulls in the sample")
            columns.append(ProposedColumn(fields[-1].name, kind, question))
    return columns, left_out


def _no_type(kinds: Sequence[pa.DataType]) -> str | None:
    return next((f"{kind} is no type of the lake" for kind in kinds if type_name(kind) is None), None)


def _rows(
    changes: Sequence[Sampled], loads: Sequence[Sampled], columns: Sequence[ProposedColumn], meaning: _Meaning
) -> pa.Table:
    """All rows of the sample with the proposed types, what was done (I, U, D), and which full load they are of."""
    tables = [_typed(file, columns, _letters(file, meaning), "") for file in changes]
    tables += [
        _typed(file, columns, pa.repeat(pa.scalar("I"), file.rows.num_rows), file.key.rpartition("/")[0])
        for file in loads
    ]
    return pa.concat_tables(tables)


def _typed(file: Sampled, columns: Sequence[ProposedColumn], letters: pa.Array, part: str) -> pa.Table:
    count, names = file.rows.num_rows, file.columns
    values: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column in columns:
        target = arrow_type(column.type)
        values[column.name] = pa.nulls(count, target)
        if field := names.get(column.name.lower()):
            with suppress(FileRejectedError):  # the column's question says that its types differ
                values[column.name] = cast_lossless(file.rows[field.name], target, column.name)
    return pa.table(values | {_OP: letters.cast(pa.string()), _PART: pa.repeat(pa.scalar(part), count)})


def _letters(file: Sampled, meaning: _Meaning) -> pa.Array | pa.ChunkedArray:
    field = file.columns.get((meaning.column or "").lower())
    if field is None:
        return pa.nulls(file.rows.num_rows, pa.string())
    words: Mapping[str, Sequence[str]] = {
        "I": meaning.words.insert,
        "U": meaning.words.update,
        "D": meaning.words.delete,
    }
    letter = {word.upper(): letter for letter, spelled in words.items() for word in spelled}
    said = pc.utf8_upper(pc.utf8_trim_whitespace(file.rows[field.name].cast(pa.string())))
    return pc.take(pa.array(letter.values(), pa.string()), pc.index_in(said, pa.array(letter.keys(), pa.string())))


def _inserts(rows: pa.Table) -> pa.Table:
    """The rows that were inserted, each once: a file may have come twice."""
    inserted = rows.filter(pc.equal(rows[_OP], "I"))
    return inserted.group_by(inserted.column_names).aggregate([])


def _keys(rows: pa.Table, columns: Sequence[ProposedColumn]) -> list[tuple[str, ...]]:
    """Columns that no row lacks, and of which no two inserted rows have the same value; else pairs of columns."""
    inserts = _inserts(rows)
    if not inserts.num_rows:
        return []
    whole = [c.name for c in columns if c.type not in _NO_KEY and not rows[c.name].null_count]
    likely = sorted(whole, key=lambda name: not _ID.search(name))
    singles: list[tuple[str, ...]] = [(name,) for name in likely]
    for tried in (singles, combinations(likely[:_PAIRED], 2)):
        if keys := [key for key in tried if _is_key(inserts, key)]:
            return keys
    return []


def _is_key(inserts: pa.Table, columns: Sequence[str]) -> bool:
    # Full loads repeat each other's rows, and those of the changes before them.
    return bool(inserts.group_by([_PART, *columns]).aggregate([]).num_rows == inserts.num_rows)


def _key_notes(keys: Sequence[Sequence[str]], rows: pa.Table) -> Iterator[str]:
    inserts = _inserts(rows).num_rows
    if not keys:
        yield f"? which columns tell rows apart? None, nor two, do in the sample's {inserts:,} inserted rows"
        return
    yield f"? is that the key? It is unique and never null in the sample's {inserts:,} inserted rows"
    if keys[1:]:
        yield f"? so are {'; '.join(', '.join(key) for key in keys[1:])}"


def _order(files: Sequence[Sampled]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """The order columns, the type of change_seq, and what is to be asked."""
    found = {name for file in files for name in file.columns if name in _ORDER}
    kinds = [type_name(file.columns["change_seq"].type) for file in files if "change_seq" in file.columns]
    seq_type, question = unify([kind for kind in kinds if kind] or ["bigint"])
    asked = (question,) if question else ()
    if "change_seq" in found and _is_ours(files):
        return ("change_seq",), "string", ()
    if found:
        return tuple(name for name in _ORDER if name in found), seq_type, asked
    return _ORDER, seq_type, ("? no modified_date and no change_seq in the sample: what orders two changes of a key?",)


def _is_ours(files: Sequence[Sampled]) -> bool:
    values = [file.rows[field.name] for file in files if (field := file.columns.get("change_seq"))]
    return all(
        type_name(column.type) == "string" and pc.all(pc.match_substring_regex(column, _OURS)).as_py() is True
        for column in values
    )


def _dates(rows: pa.Table, columns: Sequence[ProposedColumn], key: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Dates of which no key shows two values."""
    kept = rows.filter(pc.not_equal(pc.fill_null(rows[_OP], "U"), "D"))
    for column in columns:
        values = kept.filter(pc.is_valid(kept[column.name]))
        if column.name in key or not values.num_rows or not _is_date(values[column.name], column.type):
            continue
        counted = values.group_by([*key]).aggregate([(column.name, "count_distinct"), (column.name, "count")])
        if pc.max(counted[f"{column.name}_count_distinct"]).as_py() == 1:
            several = pc.sum(pc.greater(counted[f"{column.name}_count"], 1)).as_py()
            yield column.name, f"does it never change for a key? {several:,} keys have several rows in the sample"


def _is_date(values: pa.ChunkedArray, kind: str) -> bool:
    if kind == "string":
        return bool(pc.all(pc.match_substring_regex(values, _ISO)).as_py())
    return kind in ("date", "timestamp")
