"""Capture as others use it: the first full load, then drains, for one database and one lake.

Here: what is due, one capture at a time, and the order that makes an interrupted first load start afresh. Not here:
how anything is read or written (`full_load`, `stream`), or what starts a drain (a sensor).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from threading import Event

from psycopg import Error as DatabaseError
from psycopg.errors import LockNotAvailable

from upsell_assets.capture import stream
from upsell_assets.capture.full_load import Progress, Snapshot, load_table, snapshot
from upsell_assets.capture.landing import LoadResult, State, read_state, state_key, utc, write_state
from upsell_assets.capture.setup import drop_slot, find_slot, preflight
from upsell_assets.capture.stream import Drained, Lag
from upsell_assets.capture.values import SESSION
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError, RetryableError, SlotLostError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.source.database import Connection, connect, database_errors

IDLE_BYTES = 64 << 20
"""Log without a change of our tables after which the slot is moved all the same."""

_log = logging.getLogger(__name__)


class Capture:
    """One database's tables on their way to raw.

    Args:
        dsn: of a role that may replicate and read the tables.
        store: the lake.
        contracts: by table; all of one schema.
        name: of the publication and the replication slot.
        schema: where the source tables are by default.
        resync: whether a drain whose slot is lost takes a new full load by itself.
    """

    def __init__(
        self,
        dsn: str,
        store: ObjectStore,
        contracts: Mapping[str, Contract],
        *,
        name: str,
        schema: str,
        resync: bool = False,
    ) -> None:
        schemas = {contract.schema_name for contract in contracts.values()}
        if len(schemas) != 1:
            raise PermanentError(
                f"capture {name}: contracts of one schema are needed, found {sorted(schemas) or 'none'}. Give the "
                "tables of one database one schema, in UPSELL_CONTRACTS."
            )
        self._dsn = dsn
        self._store = store
        self._contracts = dict(contracts)
        self._name = name
        self._schema = schema
        self._resync = resync
        self._key = state_key(next(iter(contracts.values())))

    def ensure_full_load(self, progress: Progress | None = None) -> list[LoadResult]:
        """Load what has no full load yet: everything at first, later the tables of new contracts.

        A first load that was interrupted is started again, with a new slot. Nothing to do: an empty list.

        Raises:
            PermanentError: the database is not ready (all that is missing is named), or the slot is another lake's.
            RetryableError: another capture is at work, or database or store cannot be reached.
        """
        with self._alone() as connection:
            state = self._state(connection)
            if state is None or not state.handover:
                return self._first_load(connection, state, progress)
            missing = {table: c for table, c in self._contracts.items() if table not in state.tables}
            if not missing:
                return []
            results = self._load_beside(connection, missing, progress)
            write_state(self._store, self._key, replace(state, tables=(*state.tables, *missing)))
            return results

    def resync(self, tables: Collection[str] = (), progress: Progress | None = None) -> list[LoadResult]:
        """Take a new full load of some tables beside the stream, which goes on; of none named: begin anew.

        To begin anew is to give up the slot and load every table, after a slot was lost. What the lake has stays; the
        new load's position tells what is gone from the database.

        Raises:
            SlotLostError: of some tables only, where there is no stream that could go on.
            PermanentError, RetryableError: as `ensure_full_load`.
        """
        if not tables:
            with self._alone() as connection:
                state = self._state(connection)
                return self._first_load(connection, state and replace(state, handover=False), progress)
        with connect(self._dsn) as connection:
            stream.lag(connection, self._handed_over(connection))
            wanted = {table: self._contracts[table] for table in tables}
            return self._load_beside(connection, wanted, progress)

    def drain(self, progress: Progress | None = None) -> Drained:
        """Bring everything into the lake that is committed by now, and stop.

        Changes of tables without a contract are not kept, so that such a table counts as not loaded afterwards:
        whoever has its contract (again) takes a full load of it.

        Raises:
            SlotLostError: a new full load is needed, and is not to be taken by itself.
            PermanentError: there is no full load yet, or the database is at an earlier state than the lake.
            RetryableError: another capture is at work, or database or store cannot be reached.
        """
        with self._alone() as connection:
            try:
                return self._drain(connection, progress=progress)
            except SlotLostError as error:
                if not self._resync:
                    raise
                _log.warning("%s It is taken now: UPSELL_CAPTURE_RESYNC is set.", error)
                self._first_load(connection, replace(self._handed_over(connection), handover=False), progress)
                return self._drain(connection, progress=progress)

    def _drain(self, connection: Connection, *, upto: int | None = None, progress: Progress | None = None) -> Drained:
        return stream.drain(
            connection,
            self._store,
            self._contracts,
            key=self._key,
            schema=self._schema,
            state=self._carried(self._handed_over(connection)),
            upto=upto,
            progress=progress,
        )

    @contextmanager
    def reached(self, tables: Collection[str]) -> Iterator[tuple[Snapshot, Callable[[], None]]]:
        """The database as of one position, and raw up to exactly there, until the function that comes with it is called.

        Until then no drain begins. The snapshot lasts as long as the context.

        Raises:
            SlotLostError, PermanentError, RetryableError: as `drain`.
        """
        wanted = {table: self._contracts[table] for table in tables}
        slot = f"{self._name}_verify"
        with ExitStack() as alone, ExitStack() as stack:
            connection = alone.enter_context(self._alone())
            taken = stack.enter_context(snapshot(self._dsn, wanted, slot=slot, temporary=True, schema=self._schema))
            self._drain(connection, upto=taken.consistent_point)
            yield taken, alone.close

    def drop(self) -> None:
        """Leave no slot behind; the publication is its owner's to drop (`setup.drop_publication`).

        Raises:
            RetryableError: a capture is at work, or the database cannot be reached.
        """
        with self._alone() as connection:
            drop_slot(connection, self._name)

    def follow(self, stop: Event, *, seconds: float = 1.0) -> Iterator[Drained]:
        """Drain again and again until `stop` is set, with a pause of some seconds after each; yields each drain.

        Raises:
            PermanentError, RetryableError: as `drain`.
        """
        while not stop.is_set():
            yield self.drain()
            stop.wait(seconds)

    def lag(self) -> Lag:
        """How far the lake is behind the database; cheap, and allowed while a capture is at work.

        Raises:
            SlotLostError: a new full load is needed.
            PermanentError: there is no full load yet, or the database is at an earlier state than the lake.
        """
        with connect(self._dsn) as connection:
            return stream.lag(connection, self._handed_over(connection))

    def pending(self) -> tuple[bool, Lag]:
        """Whether a drain would bring something, or should let the server forget log that nobody needs; and the lag.

        Raises:
            SlotLostError: a new full load is needed.
            PermanentError: there is no full load yet, or the database is at an earlier state than the lake.
            RetryableError: a drain is at work, or the database cannot be reached.
        """
        with connect(self._dsn) as connection:
            state = self._handed_over(connection)
            lag = stream.lag(connection, state)
            return lag.bytes > IDLE_BYTES or (lag.bytes > 0 and stream.has_changes(connection, state)), lag

    @contextmanager
    def _alone(self) -> Iterator[Connection]:
        """A session that holds this capture's lock in the database; the lock ends with the session."""
        with connect(self._dsn) as connection:
            with database_errors("opening the capture's session"):
                connection.execute(SESSION)
                self._lock(connection, "", "another capture of this name is at work")
            with database_errors(f"capture {self._name}"):
                yield connection

    def _lock(self, connection: Connection, what: str, refusal: str) -> None:
        """Take a lock of this capture for as long as the session lasts.

        Raises:
            RetryableError: somebody else holds it.
        """
        try:
            with connection.transaction():
                # The server takes a moment to notice that the session before this one has ended.
                connection.execute("SET LOCAL lock_timeout TO '2s'")
                key = f"upsell capture {self._name}{what}"
                connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [key])
        except LockNotAvailable:
            raise RetryableError(f"capture {self._name}: {refusal}. Try again later.") from None

    def _state(self, connection: Connection) -> State | None:
        """The durable state.

        Raises:
            PermanentError: it belongs to another database, whose positions mean nothing here.
        """
        state = read_state(self._store, self._key)
        if state is not None and state.system != _system(connection):
            raise PermanentError(
                f"capture {self._name}: the lake was filled from database cluster {state.system}, and this is another. "
                "Point UPSELL_SOURCE_DSN to that one, or begin a new lake."
            )
        return state

    def _handed_over(self, connection: Connection) -> State:
        state = self._state(connection)
        if state is None or not state.handover:
            raise PermanentError(f"capture {self._name}: there is no full load yet. Take it before the first drain.")
        return state

    def _carried(self, state: State) -> State:
        """The state without the tables whose changes pass by, for want of a contract."""
        passed = [table for table in state.tables if table not in self._contracts]
        if passed:
            _log.warning(
                "capture %s: no contract of %s: their changes pass by, and a full load is due once there is one.",
                self._name,
                ", ".join(passed),
            )
        return replace(state, tables=tuple(table for table in state.tables if table in self._contracts))

    def _preflight(self, connection: Connection) -> None:
        for warning in preflight(connection, self._contracts, name=self._name, schema=self._schema):
            _log.warning("capture %s: %s.", self._name, warning)

    def _load_beside(
        self, connection: Connection, contracts: Mapping[str, Contract], progress: Progress | None
    ) -> list[LoadResult]:
        """Load tables that the stream carries already: what commits at or below their load's position is ignored."""
        self._lock(connection, " load", "another load beside the stream is under way")
        self._preflight(connection)
        _, results = self._load(contracts, slot=f"{self._name}_load", temporary=True, progress=progress)
        return results

    def _first_load(self, connection: Connection, state: State | None, progress: Progress | None) -> list[LoadResult]:
        self._preflight(connection)
        if find_slot(connection, self._name) is not None:
            if state is None:
                raise PermanentError(
                    f"capture {self._name}: a replication slot of this name exists, and this lake did not make it. Set "
                    "UPSELL_CAPTURE_NAME to another name, or, if nothing uses it, SELECT "
                    f"pg_drop_replication_slot('{self._name}')."
                )
            drop_slot(connection, self._name)
        # The intent goes first: a slot found later without a handover is known to be a dead load's.
        intent = State(self._name, _system(connection))
        write_state(self._store, self._key, intent)
        try:
            state, results = self._load(self._contracts, slot=self._name, temporary=False, progress=progress)
        except BaseException:
            # A slot that nobody reads keeps the server's log for ever.
            with suppress(DatabaseError, RetryableError):
                drop_slot(connection, self._name)
            raise
        write_state(self._store, self._key, replace(state, system=intent.system))
        return results

    def _load(
        self, contracts: Mapping[str, Contract], *, slot: str, temporary: bool, progress: Progress | None
    ) -> tuple[State, list[LoadResult]]:
        with snapshot(self._dsn, contracts, slot=slot, temporary=temporary, schema=self._schema) as taken:
            results = [
                load_table(taken, self._store, contract, schema=self._schema, progress=progress)
                for contract in contracts.values()
            ]
        return State(
            slot=slot,
            system=0,
            handover=True,
            tables=tuple(contracts),
            consistent_point=taken.consistent_point,
            confirmed_lsn=taken.consistent_point,
            confirmed_at=utc(taken.time).isoformat(),
        ), results


def _system(connection: Connection) -> int:
    """What tells this database cluster, and all its replicas and restored copies, from every other."""
    with database_errors("asking for the cluster's identifier"):
        row = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()
    assert row is not None
    return int(row[0])
