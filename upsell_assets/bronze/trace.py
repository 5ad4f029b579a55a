"""Why bronze holds what it holds of a key: its changes in the order of the law, which of them wins, and by what.

The verdict is the law's own (`law`): the same terms that merge rank the changes here, and the first term that tells two
of them apart is the reason. Not here: where changes are found (`sightings`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import pyarrow as pa

from upsell_assets.bronze.floors import floors_name, floors_schema
from upsell_assets.bronze.ingest import undeclared_columns
from upsell_assets.bronze.law import decided_by, newest_floor, newest_per_key, order_terms, settled, settled_by
from upsell_assets.bronze.layout import Files, date_of
from upsell_assets.bronze.sightings import Key, Sighting, rows_of_key, sightings
from upsell_assets.bronze.tables import live_schema, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect, text
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema
from upsell_assets.raw.landing import full_load_prefix

_LOSES = {
    "modified_date": "older than {winner}, by modified_date",
    "sequenced": "without a change_seq, below {winner}",
    "change_seq": "older than {winner}, by change_seq",
    "load": "at the position of {winner}, which stands above it: it says what all changes up to there came to",
    "file": "tied with {winner}: the later name of a file wins",
    "row": "tied with {winner}: the later row of the file wins",
    "delete": "tied with {winner}: a delete wins",
    "text": "tied with {winner}: the greater text of the row wins",
    "operation": "tied with {winner}: the same row by another operation",
    "committed": "tied with {winner}: the same row by an earlier modified_date",
    None: "a copy of {winner}",
}
"""The first term of the law's order that tells a change from the one that wins (`law.decided_by`) -> why it loses."""

_WINS = {
    "modified_date": "the newest, by modified_date",
    "sequenced": "the newest: it has a change_seq",
    "change_seq": "the newest, by change_seq",
    "load": "a row of a full load stands above all else at its position",
    "file": "the later name of a file wins a tie with {rival}",
    "row": "the later row of the file wins a tie with {rival}",
    "delete": "a delete wins a tie with {rival}",
    "text": "the greater text of the row wins a tie with {rival}",
    "operation": "its operation wins a tie with {rival}, which says the same",
    "committed": "its modified_date wins a tie with {rival}, which says the same",
}
"""The term that tells the winner from the next below it -> why it wins."""


@dataclass(frozen=True)
class Judged:
    """A change, or the end of a full load, and what the law makes of it.

    Attributes:
        number: its place in the order of the law; None: it does not count.
        change: what was said; of the end of a load (`ends_load`), a delete of whom the load does not hold.
        load: the full load that it is of; None: of none.
        wins: whether it decides what bronze holds.
        why: why it does, or does not, or does not count.
    """

    number: int | None
    change: Sighting
    load: str | None
    wins: bool
    why: str
    ends_load: bool = False


@dataclass(frozen=True)
class Trace:
    """What is known of a key.

    Attributes:
        contract, key: of which table and row.
        changes: oldest first, in the order of the law; then those that do not count.
        live: the rows that bronze holds: none, or one where the contract is right.
        tombstone: the delete that bronze remembers, the newest.
        agrees: whether bronze holds what the law makes of the changes that count.
        unread: files that could not be looked into, each with why.
    """

    contract: Contract
    key: Key
    changes: list[Judged]
    live: list[dict[str, Any]]
    tombstone: dict[str, Any] | None
    agrees: bool
    unread: list[str]

    @property
    def winner(self) -> Judged | None:
        """What decides; None: nothing was ever said of the key."""
        return next((judged for judged in self.changes if judged.wins), None)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "table": table_name(self.contract),
            "key": self.key,
            "changes": [
                {
                    "number": judged.number,
                    **asdict(judged.change),
                    "full_load": judged.load,
                    "ends_full_load": judged.ends_load,
                    "wins": judged.wins,
                    "why": judged.why,
                }
                for judged in self.changes
            ],
            "live": self.live,
            "tombstone": self.tombstone,
            "agrees": self.agrees,
            "unread": self.unread,
        }


def trace(
    store: ObjectStore, lake: Lake, contract: Contract, key: Key, progress: Callable[[str], None] = lambda _: None
) -> Trace:
    """Find every change of a key, judge them, and look what bronze holds.

    Args:
        store: where the raw files lie.
        lake: where the tables lie.
        contract: the table.
        key: its key columns with their values (`sightings.parse_key`).
        progress: called with each step that takes long.

    Raises:
        RetryableError: the store cannot be reached.
    """
    seen = sightings(store, lake, contract, key, progress)
    counting = sorted(
        (sighting for sighting in seen.found if sighting.state == "accepted"),
        key=lambda sighting: (str(sighting.arrived or ""), sighting.file, sighting.row),
    )
    ends = lake.find(floors_name(contract))
    floors = lake.rows(ends).to_table() if ends else floors_schema(contract).empty_table()
    undeclared = [*undeclared_columns(lake, contract).values()]
    with connect() as connection:
        judged = judge(connection, contract, key, counting, floors, seen.loads, undeclared)
        live, tombstone = _live(connection, lake, contract, key), _tombstone(connection, lake, contract, key)
        agrees = _agrees(connection, contract, live, tombstone)
    others = sorted(
        (sighting for sighting in seen.found if sighting.state != "accepted"), key=lambda o: (o.file, o.row)
    )
    judged += [Judged(None, other, _load_of(contract, other.file), False, other.reason) for other in others]
    return Trace(contract, key, judged, live.to_pylist(), tombstone, agrees, seen.unread)


def judge(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    key: Key,
    counting: Sequence[Sighting],
    floors: pa.Table,
    loads: Mapping[str, str],
    undeclared: Iterable[pa.Field] = (),
) -> list[Judged]:
    """The changes of one key, and the newest floor, in the order of the law.

    Args:
        connection: gets the relations `received` (the changes), `floor`, and `winning`, what decides: at most one row.
        contract: the table.
        key: of all the changes.
        counting: accepted changes, each once, in the order of their arrival.
        floors: the positions of ended full loads.
        loads: their names (see `Sightings`).
        undeclared: columns of the table that the contract does not declare.
    """
    columns = _changes(connection, contract, key, counting, floors, undeclared)
    folder = full_load_prefix(contract)
    # The end of a load has no number. It stands for itself in the order; where it decides, `settled` says so of a change.
    ends = "UNION ALL BY NAME FROM floor" if counting else ""
    connection.execute(f"CREATE TEMP TABLE lines AS SELECT * FROM received {ends}")
    connection.execute(f"CREATE TEMP TABLE newest AS {settled(contract, columns)}")
    # Of copies the first to arrive, which bronze holds.
    connection.execute(
        f"CREATE TEMP TABLE winning AS SELECT l.* FROM lines AS l CROSS JOIN newest AS n WHERE "
        f"CASE WHEN n.{FILE} = {text(folder)} THEN l._number IS NULL "
        f"ELSE {decided_by(contract, 'l', 'n', columns, columns)} IS NULL END ORDER BY l._number LIMIT 1"
    )
    order = ", ".join(order_terms(contract, "l", columns))
    found = connection.sql(
        f"SELECT l._number, l.{MODIFIED}, l.{SEQUENCE}, l._number IS NOT DISTINCT FROM w._number AS wins, "
        f"{decided_by(contract, 'l', 'w', columns, columns)} AS term, "
        f"l._number IS NOT NULL AND {settled_by(contract, 'l', 'f')} AS late "
        f"FROM lines AS l CROSS JOIN winning AS w LEFT JOIN floor AS f ON true ORDER BY {order}, wins, l._number"
    )
    lines = found.to_arrow_table().to_pylist()
    judged: list[Judged] = []
    for number, line in enumerate(lines, 1):
        if line["_number"] is None:
            name = loads.get(str(Position(line[MODIFIED], line[SEQUENCE])), "")
            end = Sighting("accepted", folder, 0, "D", line[MODIFIED], line[SEQUENCE], {})
            judged.append(Judged(number, end, name, line["wins"], _why(lines, number), ends_load=True))
        else:
            change = counting[line["_number"]]
            load = _load_of(contract, change.file)
            judged.append(Judged(number, change, load, line["wins"], _why(lines, number)))
    return judged


def _changes(
    connection: duckdb.DuckDBPyConnection,
    contract: Contract,
    key: Key,
    counting: Sequence[Sighting],
    floors: pa.Table,
    undeclared: Iterable[pa.Field],
) -> list[str]:
    """Make `received` and `floor`; returns the source's columns."""
    fields = [*change_schema(contract), *(field for field in undeclared if not field.name.startswith("_"))]
    rows = [
        key
        | sighting.values
        | {OP: sighting.operation, MODIFIED: sighting.modified_date, SEQUENCE: sighting.change_seq}
        | {FILE: sighting.file, ROW: sighting.row, "_number": number}
        for number, sighting in enumerate(counting)
    ]
    received = pa.Table.from_pylist(rows, pa.schema([*fields, pa.field("_number", pa.int64())]))
    connection.register("received_rows", received)
    connection.execute("CREATE TEMP TABLE received AS FROM received_rows")
    connection.register("floors", floors)
    connection.execute(f"CREATE TEMP TABLE floor AS {newest_floor(contract)}")
    return [field.name for field in fields if not field.name.startswith("_")]


def _why(lines: list[dict[str, Any]], number: int) -> str:
    """Why a line wins or loses; `lines` are numbered from 1, in the order of the law."""
    line = lines[number - 1]
    if not line["wins"]:
        if line["late"]:
            floor = next(n for n, other in enumerate(lines, 1) if other["_number"] is None)
            return f"at or below the floor: #{floor}, the end of a full load, settles all that stands there"
        winner = next(n for n, other in enumerate(lines, 1) if other["wins"])
        if line["_number"] is None:
            return f"deletes what lies at or below it and is not in the load; #{winner} stands above"
        return _LOSES[line["term"]].format(winner=f"#{winner}")
    if line["_number"] is None:
        return "nothing newer is known, and the full load does not hold the key: its end deletes it"
    rivals = [n for n, other in enumerate(lines, 1) if other["term"] is not None and not other["late"]]
    return _WINS[lines[rivals[-1] - 1]["term"]].format(rival=f"#{rivals[-1]}") if rivals else "the only change"


def _load_of(contract: Contract, file: str) -> str | None:
    """The folder of the full load that a file is of, '' for the flat one; None: it is of none."""
    folder = full_load_prefix(contract)
    return file[len(folder) :].rpartition("/")[0] if file.startswith(folder) else None


def _live(connection: duckdb.DuckDBPyConnection, lake: Lake, contract: Contract, key: Key) -> pa.Table:
    """The rows of the key in the live table; where the changes tell a date, its files are looked into first."""
    if (table := lake.find(table_name(contract))) is None:
        return live_schema(contract).empty_table()
    files = Files.of(table)
    found = connection.execute(f"SELECT DISTINCT epoch_us({date_of(contract, 'c')}) FROM received AS c").fetchall()
    dates = [date for (date,) in found if date is not None]
    near = [
        file["path"]
        for file in files.table.to_pylist()
        if dates and (file["first"] is None or any(file["first"] <= date <= file["last"] for date in dates))
    ]
    rows = rows_of_key(lake, contract, table, key, near)
    return rows if rows.num_rows else rows_of_key(lake, contract, table, key, sorted({*files.paths} - {*near}))


def _tombstone(
    connection: duckdb.DuckDBPyConnection, lake: Lake, contract: Contract, key: Key
) -> dict[str, Any] | None:
    """The newest tombstone of the key."""
    if (graves := lake.find(tombstones_name(contract))) is None:
        return None
    rows = rows_of_key(lake, contract, graves, key)
    connection.register("tombstones", rows.append_column(OP, pa.repeat("D", rows.num_rows)))
    found = connection.sql(newest_per_key(contract, "tombstones", ())).to_arrow_table().to_pylist()
    return found[0] if found else None


def _agrees(
    connection: duckdb.DuckDBPyConnection, contract: Contract, live: pa.Table, tombstone: dict[str, Any] | None
) -> bool:
    """Whether the lake holds what decides, or a copy of it."""
    connection.register("live", live)
    of_live, columns = (
        [name for name in connection.sql(f"FROM {relation}").columns if not name.startswith("_")]
        for relation in ("live", "winning")
    )
    same = connection.execute(
        f"SELECT w.{OP}, {decided_by(contract, 'l', 'w', of_live, columns)} IS NULL AND l.{OP} IS NOT NULL "
        "FROM winning AS w LEFT JOIN live AS l ON true"
    ).fetchall()
    if not same or same[0][0] == "D":
        remembered = tombstone is not None or contract.tombstone_days is not None or not same
        return live.num_rows == 0 and remembered
    return same == [(same[0][0], True)]
