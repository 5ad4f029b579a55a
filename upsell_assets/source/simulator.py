"""A seeded history of the points system, copied into its empty tables.

Here: ids and rows of what `behaviour` draws, and their transaction. Not here: activity as it happens (`live`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from upsell_assets.errors import PermanentError
from upsell_assets.source.behaviour import Ints, draw_history
from upsell_assets.source.database import TABLES, Connection, copy_statement, database_errors, is_filled


def simulate(
    connection: Connection,
    *,
    customers: int = 3000,
    days: int = 365,
    seed: int = 42,
    until: datetime | None = None,
    schema: str = "public",
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, int]:
    """Fill the empty tables in one transaction. The same arguments give the same rows.

    Args:
        connection: to a database with the tables of `create_schema`.
        customers: rows of customers; the number of transactions grows with them and with `days`.
        days: local days of history, that of `until` included.
        seed: of all that is random.
        until: the instant at which the history ends, with a zone; now, if None.
        schema: of the tables.
        progress: called with a table's name and its rows, once it is filled.

    Returns:
        Rows written, by table.

    Raises:
        ValueError: `until` has no zone.
        PermanentError: the tables have rows, or a size is below 1; nothing was written.
        RetryableError: the database was lost on the way; nothing was written.
    """
    until = until or datetime.now(UTC)
    if until.tzinfo is None:
        raise ValueError("until needs a zone")
    if customers < 1 or days < 1:
        raise PermanentError(f"simulator: {customers} customers over {days} days: both must be at least 1.")
    with database_errors("simulating a history"), connection.transaction():
        if is_filled(connection, schema):
            raise PermanentError(
                f"source database: the tables of schema {schema} have rows already, and the simulator fills empty ones "
                "only. Use another schema or database."
            )
        counts = {}
        for table, rows in simulated_tables(customers, days, seed, until):
            counts[table] = _copy(connection, schema, table, rows)
            if progress:
                progress(table, counts[table])
    return counts


def _copy(connection: Connection, schema: str, table: str, rows: Iterable[Sequence[Any]]) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(copy_statement(schema, table, TABLES[table])) as copy:
            for row in rows:
                copy.write_row(row)
        return cursor.rowcount


def simulated_tables(
    customers: int, days: int, seed: int, until: datetime
) -> Iterator[tuple[str, Iterable[Sequence[Any]]]]:
    """The rows of each table, in the order of its columns and of time (arguments as of `simulate`)."""
    rng = np.random.default_rng(seed)
    history = draw_history(rng, customers, days, until)
    events, lines = history.events, history.lines
    ids = _uuids(rng, len(history.joined) + 1)
    balances = np.bincount(events.person, history.points, len(ids)).astype(np.int64)[:customers]
    yield (
        "customers",
        zip(ids[:customers], balances.tolist(), _email_flags(rng, history.joined[:customers], days), strict=True),
    )

    carts = _uuids(rng, len(events.person))
    owners = (ids[person] for person in events.person.tolist())
    instants = np.datetime_as_string(events.instant.astype("datetime64[ms]")).tolist()
    yield "transactions", zip(carts, owners, instants, history.points.tolist(), strict=True)

    transactions = (carts[event] for event in lines.event.tolist())
    line_ids = _uuids(rng, len(lines.names))
    yield "transactions_product", zip(line_ids, transactions, lines.names, lines.quantity.tolist(), strict=True)


def _email_flags(rng: np.random.Generator, joined: Ints, days: int) -> list[int | None]:
    """Null for most who joined before the flag existed, in the first quarter."""
    unknown = (joined < days / 4) & (rng.random(len(joined)) < 0.6)
    flags = (rng.random(len(joined)) < 0.55).astype(int)
    return [None if null else flag for null, flag in zip(unknown.tolist(), flags.tolist(), strict=True)]


def _uuids(rng: np.random.Generator, count: int) -> list[str]:
    """Random UUIDs of version 4, as text."""
    raw = rng.integers(0, 256, (count, 16), np.uint8)
    raw[:, 6] = raw[:, 6] & 0x0F | 0x40
    raw[:, 8] = raw[:, 8] & 0x3F | 0x80
    text = raw.tobytes().hex()
    digits = (text[at : at + 32] for at in range(0, 32 * count, 32))
    return [f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in digits]
