"""What `bench_bronze` merges, and what must come out.

Here: the tables at the start, the batches of changes of each workload, and the oracle. Not here: who merges them, and
how fast. Every row follows from its number: rows are numbered in the order of their time, changes in the order of the
log. The oracle knows nothing of the project's law: it folds base and batches by a window function of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.lake.duck import connect, quote
from upsell_assets.raw.files import change_schema

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]

START, YEAR = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=366)
OLD_SHARE = 0.02  # of the updated and deleted rows of the workload "tail"

_VALUES = {
    "transactions": """
        md5('t' || row)::UUID::VARCHAR AS "idTransaction",
        md5('c' || hash(row) % 20000)::UUID::VARCHAR AS "idCustomer",
        strftime({time}, '%Y-%m-%d %H:%M:%S.%g') AS "dtTransaction",
        (hash(row, version) % 200)::BIGINT - 50 AS "pointsTransaction"
    """,
    "customers": """
        md5('c' || row)::UUID::VARCHAR AS "idCustomer",
        (hash(row, version) % 100000)::BIGINT AS "PointsCustomer",
        (hash(row) % 2)::BIGINT AS "flEmail"
    """,
}


def contract_of(table: str, *, dated: bool) -> Contract:
    """The shipped contract, with its immutable date or without."""
    contract = load_contracts()[table]
    if dated and contract.immutable_date is None:
        raise ValueError(f"the contract of {table} declares no immutable date")
    return contract if dated else contract.model_copy(update={"immutable_date": None})


def base_rows(contract: Contract, rows: int, first: int, last: int) -> pa.Table:
    """Rows `first` up to `last` (not included) of a table of `rows` rows, as the inserts that made them."""
    return _changes(
        contract,
        rows,
        "SELECT range AS row, 0 AS version, 'I' AS op, range AS change, range - ? AS position FROM range(?, ?)",
        [first, first, last],
        f"{first:012d}",
    )


@dataclass
class Source:
    """A table at its source after the base, as far as a workload needs to know it.

    `rows` is the size of the base, `next_row` and `next_change` the numbers of what comes, `gone` the deleted rows.
    """

    contract: Contract
    rows: int
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(42))
    next_row: int = 0
    next_change: int = 0
    version: int = 0
    gone: Numbers = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self.next_row = self.next_change = self.rows

    def batch(self, shares: Mapping[str, float], changes: int, old: Callable[[Source, int], Numbers]) -> pa.Table:
        """Changes by operation, shuffled: new rows in time order after the newest, `old` ones as it draws them.

        All carry all columns, deletes too, as REPLICA IDENTITY FULL gives them.
        """
        counts = {op: round(share * changes) for op, share in shares.items()}
        operations = self.rng.permutation(np.repeat(list(counts), list(counts.values())))
        new = operations == "I"
        numbers = np.empty(len(operations), np.int64)
        numbers[~new] = old(self, int((~new).sum()))
        numbers[new] = self.next_row + np.arange(new.sum())
        self.version += 1
        stated = pa.table({"row": numbers, "op": operations.astype(object), "position": np.arange(len(numbers))})
        with connect() as connection:
            connection.register("stated", stated)
            table = _changes(
                self.contract,
                self.rows,
                "SELECT *, ? AS version, position + ? AS change FROM stated ORDER BY position",
                [self.version, self.next_change],
                f"{self.next_change:012d}",
                connection,
            )
        self.next_row += int(new.sum())
        self.next_change += len(numbers)
        self.gone = np.concatenate([self.gone, numbers[operations == "D"]])
        return table

    def distinct(self, draw: Callable[[int], Numbers], count: int) -> Numbers:
        """So many different rows that are still there, drawn again as long as there are too few."""
        found = np.empty(0, np.int64)
        while len(found) < count:
            more = np.clip(draw(2 * count), 0, self.next_row - 1)
            found = np.setdiff1d(np.concatenate([found, more]), self.gone)
        return self.rng.permutation(found)[:count]


def aged(source: Source, count: int) -> Numbers:
    """Rows of exponential age, with a mean of one day of the table's year."""
    day = source.rows / YEAR.days
    return source.distinct(
        lambda number: source.next_row - 1 - source.rng.exponential(day, number).astype(np.int64), count
    )


def aged_with_tail(source: Source, count: int) -> Numbers:
    """As `aged`, but 2 % of them lie anywhere in the year."""
    day = source.rows / YEAR.days

    def draw(number: int) -> Numbers:
        ages = source.rng.exponential(day, number).astype(np.int64)
        anywhere = source.rng.integers(0, source.next_row, number)
        return np.where(source.rng.random(number) < OLD_SHARE, anywhere, source.next_row - 1 - ages)

    return source.distinct(draw, count)


def uniform(source: Source, count: int) -> Numbers:
    """Any rows of the table."""
    return source.distinct(lambda number: source.rng.integers(0, source.next_row, number), count)


def hot(source: Source, count: int) -> Numbers:
    """Few rows, again and again, which lie all over the table; a hundredth of it takes most of the changes."""
    ranks = source.rng.exponential(source.rows / 100, count).astype(np.int64)
    return ranks * 7919 % source.rows


REALISTIC = {"I": 0.95, "U": 0.04, "D": 0.01}

WORKLOADS: dict[str, tuple[Mapping[str, float], Callable[[Source, int], Numbers]]] = {
    "realistic": (REALISTIC, aged),
    "tail": (REALISTIC, aged_with_tail),
    "inserts": ({"I": 1.0}, aged),
    "uniform": ({"U": 0.90, "I": 0.09, "D": 0.01}, uniform),
    "hot": ({"U": 1.0}, hot),
}


def write_batches(
    folder: Path, contract: Contract, *, rows: int, changes: int, workload: str, count: int
) -> list[Path]:
    """Write `count` batches of a workload, one parquet file each.

    "duplicate" is one realistic batch, and `count - 1` times the same rows under other names.
    """
    folder.mkdir(parents=True)
    source = Source(contract, rows)
    paths: list[Path] = []
    for number in range(count):
        if workload != "duplicate":
            table = source.batch(WORKLOADS[workload][0], changes, WORKLOADS[workload][1])
        elif number == 0:
            table = source.batch(REALISTIC, changes, aged)
        else:
            renamed = pa.repeat(pa.scalar(_file(contract, f"again-{number}")), table.num_rows)
            table = table.set_column(table.schema.get_field_index("_file"), "_file", renamed)
        paths.append(folder / f"{number:04d}.parquet")
        pq.write_table(table, paths[-1])
    return paths


def _file(contract: Contract, name: str) -> str:
    return f"raw/{contract.schema_name}/cdc/{contract.table}/{name}.parquet"


def _changes(
    contract: Contract,
    rows: int,
    numbers: str,
    parameters: Sequence[object],
    file: str,
    connection: duckdb.DuckDBPyConnection | None = None,
) -> pa.Table:
    """Change rows from their numbers: `row`, `version`, `op`, `change` and `position`."""

    def time(number: str) -> str:
        return (
            f"make_timestamp({START.timestamp() * 1e6:.0f} + ({number} * {YEAR.total_seconds() * 1e6 / rows})::BIGINT)"
        )

    query = f"""
        SELECT {_VALUES[contract.table].format(time=time("row"))},
            op AS _op, {time("change")}::TIMESTAMPTZ AS _modified_date,
            printf('%016X-%010d', change, 1) AS _change_seq, '{_file(contract, file)}' AS _file, position AS _row
        FROM ({numbers})
    """
    found = (connection or connect()).execute(query, parameters).to_arrow_table()
    return found.cast(change_schema(contract))


@dataclass(frozen=True)
class Result:
    """Where a system left its tables."""

    live: Path
    tombstones: Path


def judge(contract: Contract, base: Path, batches: Sequence[Path], results: Mapping[str, Result]) -> dict[str, str]:
    """`right` or `wrong: why` of each result: live rows and effective tombstones against a fold of base and batches.

    Rows that no batch names are compared by their number and the sum of their hashes, all others one by one.
    """
    connection = connect()
    key = ", ".join(quote(name) for name in contract.key)
    order = "_change_seq, _modified_date"
    columns = ", ".join([*(quote(name) for name in contract.columns), "_op", order])
    untouched = f"SELECT count(*), sum(hash({columns})::HUGEINT) FROM {{}} ANTI JOIN touched USING ({key})"
    _view(connection, "base", [*DeltaTable(base).file_uris()], contract)
    _view(connection, "batches", [str(path) for path in dict.fromkeys(batches)], contract)
    connection.execute(f"CREATE TEMP TABLE touched AS SELECT DISTINCT {key} FROM batches")
    connection.execute(f"""
        CREATE TEMP TABLE fold AS
        SELECT * FROM (SELECT {columns} FROM batches UNION ALL SELECT {columns} FROM base SEMI JOIN touched USING ({key}))
        QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY _change_seq DESC, _op = 'D' DESC) = 1
    """)
    others = connection.sql(untouched.format("base")).fetchone()
    verdicts: dict[str, str] = {}
    for system, result in results.items():
        _view(connection, "live", DeltaTable(result.live).file_uris(), contract)
        _view(connection, "tombstones", DeltaTable(result.tombstones).file_uris(), contract)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE named AS SELECT {columns} FROM live SEMI JOIN touched USING ({key})"
        )
        effective = f"""
            SELECT {key}, t._change_seq, t._modified_date FROM tombstones AS t LEFT JOIN named AS l USING ({key})
            WHERE l._change_seq IS NULL OR t._change_seq > l._change_seq
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY t._change_seq DESC) = 1
        """
        faults = {
            "rows that no batch names": connection.sql(untouched.format("live")).fetchone() != others,
            "rows": _differ(connection, "SELECT * FROM named", f"SELECT {columns} FROM fold WHERE _op <> 'D'"),
            "tombstones": _differ(connection, effective, f"SELECT {key}, {order} FROM fold WHERE _op = 'D'"),
        }
        wrong = ", ".join(name for name, fault in faults.items() if fault)
        verdicts[system] = f"wrong: {wrong}" if wrong else "right"
    return verdicts


def known_keys(contract: Contract, base: Path, batches: Sequence[Path]) -> list[int]:
    """How many keys of each batch are in the base."""
    connection = connect()
    key = ", ".join(quote(name) for name in contract.key)
    _view(connection, "base", DeltaTable(base).file_uris(), contract)
    counts: list[int] = []
    for path in batches:
        _view(connection, "batch", [str(path)], contract)
        found = connection.sql(f"SELECT count(*) FROM (SELECT DISTINCT {key} FROM batch) SEMI JOIN base USING ({key})")
        counts += found.fetchone() or (0,)
    return counts


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: Sequence[str], contract: Contract) -> None:
    if files:
        found = connection.read_parquet(list(files), union_by_name=True, hive_partitioning=False)
        found.create_view(name, replace=True)
    else:
        connection.register("nothing", change_schema(contract).empty_table())
        connection.execute(f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM nothing")


def _differ(connection: duckdb.DuckDBPyConnection, left: str, right: str) -> bool:
    """Whether two queries give different rows, or one of them more often."""
    either = f"(({left}) EXCEPT ALL ({right})) UNION ALL (({right}) EXCEPT ALL ({left}))"
    return connection.sql(f"SELECT 1 FROM ({either}) LIMIT 1").fetchone() is not None
