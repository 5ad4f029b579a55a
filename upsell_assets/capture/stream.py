"""Changes after the snapshot: read from the slot in commit order, written as raw files, and only then let go.

Here: one drain up to a fixed target. Not here: when to drain (`job`). Enforced here: the watermark in the lake is
moved after the files are written, and the slot after the watermark; commits below the watermark are skipped, since a
slot may fall back when the server crashes. A repeat after a crash begins at the same commit, so it writes files of the
same names, which reach at least as far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from psycopg import sql

from upsell_assets.capture.changes import Round
from upsell_assets.capture.full_load import Progress
from upsell_assets.capture.landing import State, change_seq, lsn_text, utc, write_state
from upsell_assets.capture.setup import Slot, find_slot
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError, SlotLostError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.source.database import Connection, database_errors

ROUND_BYTES = 256 << 20
"""Log read between two moves of the watermark: the server keeps a round's changes in a temporary file."""

_FETCH_ROWS, _FETCH_BYTES = 10_000, 8 << 20


@dataclass(frozen=True)
class Drained:
    """What a drain added: rows by table, the keys written (manifests of truncates among them), how far it came.

    Every change that sorts below `position` is in the lake.
    """

    changes: dict[str, int]
    files: list[str]
    position: str


@dataclass(frozen=True)
class Lag:
    """Log that the lake has not seen, in bytes, and the greatest age of an unseen commit, in seconds.

    Not all of the log is changes of the contracts' tables: a lag is what may be there. `retained` is the log, in
    bytes, that the server keeps for the slot; `left` how much more it may grow before the server gives the slot up,
    None where it never does.
    """

    bytes: int
    seconds: float
    retained: int = 0
    left: int | None = None


def read_round(
    connection: Connection,
    store: ObjectStore,
    contracts: Mapping[str, Contract],
    *,
    name: str,
    schema: str,
    confirmed: int,
    upto: int,
    progress: Progress | None = None,
) -> tuple[Round, list[str]]:
    """Write the changes that commit between the watermark `confirmed` and `upto` to files; moves nothing.

    A commit record that begins below `upto` is read whole, even if it ends beyond.
    """
    taken = Round(store, contracts, schema=schema, confirmed=confirmed)
    with database_errors(f"reading slot {name}"), connection.transaction():
        for messages in _peek(connection, name, upto):
            for data in messages:
                taken.take(data)
            if progress:
                for table, rows in taken.changes.items():
                    progress(table, rows)
    taken.confirmed = max(taken.confirmed, upto)
    return taken, taken.finish()


def _peek(connection: Connection, name: str, upto: int) -> Iterator[list[bytes]]:
    """The slot's messages in portions of some megabytes (a transaction has no limit, and a fetch of all holds all)."""
    query = _peek_query(name, lsn_text(upto), None)
    rows = 1_000
    with connection.cursor("capture_changes", binary=True) as cursor:
        cursor.execute(query)
        while fetched := cursor.fetchmany(rows):
            messages = [row[0] for row in fetched]
            yield messages
            mean = sum(map(len, messages)) // len(messages) + 1
            rows = max(1, min(_FETCH_ROWS, _FETCH_BYTES // mean))


def _peek_query(name: str, upto: str | None, messages: int | None) -> sql.Composed:
    return sql.SQL(
        "SELECT data FROM pg_logical_slot_peek_binary_changes({}, {}, {}, 'proto_version', '1', "
        "'publication_names', {})"
    ).format(*map(sql.Literal, (name, upto, messages, f'"{name}"')))


def has_changes(connection: Connection, state: State) -> bool:
    """Whether the slot holds a change of the published tables that the lake has not.

    Raises:
        RetryableError: a drain is at work, or the connection was lost.
    """
    with database_errors(f"looking into slot {state.slot}"):
        return connection.execute(_peek_query(state.slot, None, 1)).fetchone() is not None


def confirm(connection: Connection, store: ObjectStore, key: str, state: State) -> None:
    """Move the watermark in the lake, and only then the slot, so that the server may forget."""
    write_state(store, key, state)
    advance(connection, state)


def advance(connection: Connection, state: State) -> None:
    """Move the slot up to the watermark."""
    with database_errors(f"advancing slot {state.slot}"):
        connection.execute(
            "SELECT pg_replication_slot_advance(%s, %s::pg_lsn)", [state.slot, lsn_text(state.confirmed_lsn)]
        )


def drain(
    connection: Connection,
    store: ObjectStore,
    contracts: Mapping[str, Contract],
    *,
    key: str,
    schema: str,
    state: State,
    upto: int | None = None,
    progress: Progress | None = None,
) -> Drained:
    """Bring everything into the lake that was committed when the drain began, then stop.

    Args:
        connection: with the session settings of `values`, in autocommit mode.
        store: the lake.
        contracts: by table.
        key: of the durable state.
        schema: where the source tables are by default.
        state: as it was read from there.
        upto: no further than the commits that begin below this position.
        progress: called with table and rows of the current round.

    Raises:
        SlotLostError: the slot is gone or does not fit the watermark; a new full load is needed.
        PermanentError: the database is at an earlier state than the lake.
        RetryableError: another capture reads the slot, or the connection was lost.
    """
    end, now = _end_of_log(connection)
    slot = check_slot(connection, state, end)
    target = end if upto is None else min(upto, end)
    changes: Counter[str] = Counter()
    files: list[str] = []
    if slot.confirmed_lsn < state.confirmed_lsn:
        advance(connection, state)
    while state.confirmed_lsn < target:
        until = min(target, state.confirmed_lsn + ROUND_BYTES)
        taken, written = read_round(
            connection,
            store,
            contracts,
            name=state.slot,
            schema=schema,
            confirmed=state.confirmed_lsn,
            upto=until,
            progress=progress,
        )
        moment = now if until == end else state.confirmed_at
        state = replace(state, confirmed_lsn=taken.confirmed, confirmed_at=moment)
        confirm(connection, store, key, state)
        changes += taken.changes
        files += written
    return Drained(dict(changes), files, change_seq(state.confirmed_lsn, 0))


def _end_of_log(connection: Connection) -> tuple[int, str]:
    """Up to where the log is durable, and a moment not after that.

    Decoding reads no further; advancing the slot beyond what was decoded would lose commits that are written, and not
    yet flushed (synchronous_commit = off).
    """
    with database_errors("asking for the end of the log"):
        row = connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, "
            "(pg_current_wal_flush_lsn() - '0/0')::bigint"
        ).fetchone()
    assert row is not None
    return int(row[1]), utc(row[0]).isoformat()


def check_slot(connection: Connection, state: State, end_of_log: int) -> Slot:
    """The slot, if it can carry on from the watermark.

    Raises:
        SlotLostError: it cannot; says why, and what to do.
        PermanentError: the database is at an earlier state than the lake.
    """
    with database_errors(f"looking for slot {state.slot}"):
        slot = find_slot(connection, state.slot)
    where = lsn_text(state.confirmed_lsn)
    if end_of_log < state.confirmed_lsn:
        raise PermanentError(
            f"capture {state.slot}: the source database's log ends at {lsn_text(end_of_log)}, before {where}, which "
            "the lake already has: the database was restored to an earlier state. Restore a later one, or begin a new "
            "lake."
        )
    if slot is None:
        fault = "the replication slot is gone from the source database"
    elif slot.lost:
        fault = f"the replication slot cannot be read any more ({slot.lost})"
    elif slot.confirmed_lsn > state.confirmed_lsn:
        fault = f"the replication slot stands at {lsn_text(slot.confirmed_lsn)}: somebody else moved or made it"
    else:
        return slot
    raise SlotLostError(
        f"capture {state.slot}: {fault}, so the changes after {where} cannot be read. Take a new full load: "
        "upsell capture --resync all."
    )


def lag(connection: Connection, state: State) -> Lag:
    """How far the lake is behind the database.

    Raises:
        SlotLostError: the slot is gone or does not fit the watermark; a new full load is needed.
        PermanentError: the database is at an earlier state than the lake.
    """
    end, now = _end_of_log(connection)
    slot = check_slot(connection, state, end)
    behind = end - state.confirmed_lsn
    age = datetime.fromisoformat(now) - datetime.fromisoformat(state.confirmed_at)
    seconds = max(0.0, age.total_seconds()) if behind else 0.0
    return Lag(behind, seconds, max(0, end - slot.restart_lsn), slot.left)
