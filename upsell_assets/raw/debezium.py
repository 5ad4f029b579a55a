"""Debezium's events in the plain shape: columns, operation, `modified_date`, `change_seq`.

Here: envelopes (`before`, `after`, `op`, `source`), what ExtractNewRecordState makes of them, the order that
`source.sequence` tells, and values that were not sent. Not here: whether rows keep to the contract (`files`).

The order. `source.lsn` is the place of a change in the log, and transactions overlap there; `source.sequence` is the
pair of the last commit before and that place, and it only rises. `change_seq` is the pair as text of fixed width.
Without a commit before it, a change stands below all others, and a row of the snapshot below that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import DebeziumFiles
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.formats import read_json_lines, read_parquet
from upsell_assets.raw.landing import full_load_prefix

_ROWS = ("before", "after", "source")
_SMT = "ExtractNewRecordState"


@dataclass(frozen=True)
class _Events:
    """Events with their rows unfolded: columns before and after, what was done, where that is in the order."""

    done: pa.Array
    before: Mapping[str, pa.Array]
    after: Mapping[str, pa.Array]
    sequence: pa.Array | None
    timestamp: pa.Array | None
    left_out: tuple[str, ...] = ()

    @property
    def words(self) -> pa.Array:
        return pc.utf8_lower(self.done.cast(pa.string()))


def read(body: bytes, files: DebeziumFiles) -> pa.Table:
    """The events as the sink wrote them; the values of JSON as text, without their schemas.

    Raises:
        FileRejectedError: the bytes are not what the contract says.
    """
    if files.format == "parquet":
        return read_parquet(body)
    try:
        return _read_json(body, files)
    except UnicodeEncodeError as error:
        raise FileRejectedError(f"holds text that is no Unicode ({error})") from error


def plain(found: pa.Table, files: DebeziumFiles, contract: Contract) -> tuple[pa.Table, list[str]]:
    """The same events in the plain shape, and what was decided.

    Raises:
        FileRejectedError: an event lacks what the order needs, was a truncate, or holds a placeholder that it cannot
            complete itself.
    """
    try:
        return _plain(_by_name(found.schema, [column.combine_chunks() for column in found.columns]), files, contract)
    except (pa.ArrowException, UnicodeDecodeError) as error:  # of a name
        raise FileRejectedError(f"no events of Debezium ({str(error).splitlines()[0]})") from error


def change_seq(sequence: str, *, snapshot: bool) -> str:
    """A `source.sequence` as text that sorts as the changes do.

    Raises:
        ValueError: it is no pair of numbers.
    """
    pair = json.loads(sequence)
    if not isinstance(pair, list) or len(pair) != 2 or pair[1] is None:
        raise ValueError("no pair")
    last_commit, place = (int(number) if number is not None else int(not snapshot) for number in pair)
    if not 0 <= min(last_commit, place) <= max(last_commit, place) < 1 << 64:
        raise ValueError("no places in a log")
    return f"{last_commit:020d}/{place:020d}"


def _plain(columns: Mapping[str, pa.Array], files: DebeziumFiles, contract: Contract) -> tuple[pa.Table, list[str]]:
    events = _unfolded(columns, contract) if files.shape == "envelope" else _flat(columns, files, contract)
    order = _order(events, files, contract)
    _refuse_truncates(events, order, contract)
    deleted = pc.is_in(events.words, pa.array([word.lower() for word in contract.operations.delete]))
    values = {
        name: _value(name, events.before.get(name), events.after.get(name), deleted, files)
        for name in dict.fromkeys([*events.after, *events.before])
    }
    names = [*values, contract.operations.column, *order]
    return pa.table([*values.values(), events.done, *order.values()], names), list(events.left_out)


def _read_json(body: bytes, files: DebeziumFiles) -> pa.Table:
    events = [_payload(event) for event in read_json_lines(body)]
    names = dict.fromkeys(name for event in events for name in event)
    if files.shape == "flat":
        return pa.table({name: _texts(name, events) for name in names})
    rows = {name: _structs([event.get(name) for event in events]) for name in _ROWS if name in names}
    return pa.table(rows | {name: _texts(name, events) for name in names if name == files.operation})


def _unfolded(columns: Mapping[str, pa.Array], contract: Contract) -> _Events:
    operation = contract.operations.column
    rows = {name: columns[name] for name in _ROWS if name in columns and pa.types.is_struct(columns[name].type)}
    if operation not in columns or not rows.keys() >= {"after", "source"}:
        raise FileRejectedError(
            f"no Debezium envelope: {operation}, after and source are needed, found {', '.join(columns)}. If {_SMT} wrote "
            "it, set files.shape: flat in the contract"
        )
    before, after, source = (_fields(rows[name]) if name in rows else {} for name in _ROWS)
    return _Events(columns[operation], before, after, source.get("sequence"), source.get("ts_ms"))


def _flat(columns: Mapping[str, pa.Array], files: DebeziumFiles, contract: Contract) -> _Events:
    operation = contract.operations.column
    done = columns.get(operation)
    if done is None and files.deleted in columns:
        was_deleted = pc.equal(columns[files.deleted].cast(pa.string()), "true").fill_null(False)
        done = pc.if_else(was_deleted, contract.operations.delete[0], contract.operations.update[0])
    if done is None:
        raise FileRejectedError(
            f"neither {operation!r} nor {files.deleted!r} is there, and nothing else tells a delete; found "
            f"{', '.join(columns)}. Give {_SMT} add.fields=op,source.sequence,source.ts_ms and "
            "delete.tombstone.handling.mode=rewrite"
        )
    known = {operation, files.deleted, files.sequence, files.timestamp}
    added = [name for name in columns if name.startswith("__") and name not in known]
    row = {name: values for name, values in columns.items() if name not in {*known, *added}}
    left_out = tuple(f"{name}: added by Debezium, left out" for name in added)
    # A row of a delete holds what was before.
    return _Events(done, row, row, columns.get(files.sequence), columns.get(files.timestamp), left_out)


def _order(events: _Events, files: DebeziumFiles, contract: Contract) -> dict[str, pa.Array]:
    order: dict[str, pa.Array] = {}
    flat = files.shape == "flat"
    if events.timestamp is not None:
        order["modified_date"] = _moments(events.timestamp, files.timestamp if flat else "source.ts_ms")
    if "change_seq" in contract.order:
        name = files.sequence if flat else "source.sequence"
        if events.sequence is None:
            remedy = f"Give {_SMT} add.fields=op,source.sequence,source.ts_ms" if flat else "Only PostgreSQL's has one"
            raise FileRejectedError(
                f"{name} is missing, which orders the changes. {remedy}; without it, order: [modified_date] in the "
                "contract orders by source.ts_ms alone"
            )
        order["change_seq"] = _change_seqs(events.sequence, events.words, name)
    return order


def _change_seqs(sequences: pa.Array, words: pa.Array, name: str) -> pa.Array:
    found: list[str] = []
    for row, (sequence, word) in enumerate(zip(sequences.to_pylist(), words.to_pylist(), strict=True)):
        try:
            found.append(change_seq(sequence, snapshot=word == "r"))
        except (ValueError, TypeError) as error:
            raise FileRejectedError(
                f"row {row}: {name} {sequence!r} is no pair of the last commit and a place in the log"
            ) from error
    return pa.array(found, pa.string())


def _moments(values: pa.Array, name: str) -> pa.Array:
    if pa.types.is_timestamp(values.type):
        return values
    try:
        return values.cast(pa.int64()).cast(pa.timestamp("ms", "UTC"))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FileRejectedError(f"{name} is {values.type}, and no milliseconds since 1970 ({error})") from error


def _refuse_truncates(events: _Events, order: Mapping[str, pa.Array], contract: Contract) -> None:
    """A truncate is a load of no rows, and a load is declared by a manifest, not by one row among others."""
    row = pc.index(events.words, pa.scalar("t")).as_py()
    if row < 0:
        return
    at = {name: str(order[name][row].as_py()) for name in contract.order if name in order}
    manifest = json.dumps({"position": at, "files": []})
    raise FileRejectedError(
        f"row {row} is a truncate of the table. Write the empty full load that it is, "
        f"{full_load_prefix(contract)}truncate-1/_manifest.json with {manifest}, take the row out of the file and retry "
        "it; the connector's skipped.operations=t keeps such rows out"
    )


def _value(
    name: str, before: pa.Array | None, after: pa.Array | None, deleted: pa.Array, files: DebeziumFiles
) -> pa.Array:
    """A column of the rows that count: before a delete, after all else; what was not sent is taken from before."""
    before, after = (None if side is None else _decoded(side) for side in (before, after))
    kind = next(side.type for side in (after, before) if side is not None)
    old, new = (pa.nulls(len(deleted), kind) if side is None else side for side in (before, after))
    if old.type != kind:
        raise FileRejectedError(f"column {name!r} is {old.type} before a change and {kind} after it")
    value = pc.if_else(deleted, old, new)
    if kind not in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        return value
    mark = pa.scalar(files.placeholder.encode()).cast(kind)
    absent = pc.equal(value, mark).fill_null(False)
    value = pc.if_else(absent, pc.if_else(pc.equal(old, mark), pa.scalar(None, kind), old), value)
    lost = pc.and_(pc.and_(absent, pc.is_null(value)), pc.invert(deleted))
    if pc.any(lost).as_py():
        raise FileRejectedError(
            f"row {pc.index(lost, pa.scalar(True)).as_py()}: column {name!r} was not sent (it is "
            f"{files.placeholder}, unchanged and stored apart), and the event has no value before. Let the table send "
            "whole rows, ALTER TABLE ... REPLICA IDENTITY FULL, and have the row sent again, by an update or a snapshot"
        )
    return value


def _decoded(values: pa.Array) -> pa.Array:
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _fields(rows: pa.Array) -> dict[str, pa.Array]:
    """The columns of a struct, null where it is null."""
    return _by_name(rows.type, [pc.struct_field(rows, [number]) for number in range(rows.type.num_fields)])


def _by_name(fields: Iterable[pa.Field], columns: Iterable[pa.Array]) -> dict[str, pa.Array]:
    named: dict[str, pa.Array] = {}
    for field, column in zip(fields, columns, strict=True):
        if field.name in named:
            raise FileRejectedError(f"column {field.name!r} is there twice")
        named[field.name] = column
    return named


def _payload(event: dict[str, object]) -> dict[str, object]:
    """The event, without the schema that the JSON converter puts beside it unless told not to."""
    payload = event.get("payload") if event.keys() == {"schema", "payload"} else event
    if not isinstance(payload, dict):
        raise FileRejectedError("an event has no payload (a tombstone of Kafka); set tombstones.on.delete=false")
    return payload


def _structs(rows: list[object]) -> pa.Array:
    known = [row if isinstance(row, dict) else None for row in rows]
    names = dict.fromkeys(name for row in known if row for name in row)
    texts = [row and {name: _text(name, value) for name, value in row.items()} for row in known]
    return pa.array(texts, pa.struct([(name, pa.string()) for name in names]))


def _texts(name: str, rows: list[dict[str, object]]) -> pa.Array:
    return pa.array([_text(name, row.get(name)) for row in rows], pa.string())


def _text(name: str, value: object) -> str | None:
    """A value of JSON as text; numbers are text already."""
    if isinstance(value, dict | list):
        raise FileRejectedError(f"column {name!r} holds objects or lists, which is no type of the lake's columns")
    if isinstance(value, bool):
        return str(value).lower()
    return None if value is None else str(value)
