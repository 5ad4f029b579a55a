"""How often the tests of the law try it, and the table of docs/reliability.md that says so.

Here: the counts of each claim, and `make proof`, which runs their tests with the full counts and writes the table.
What is claimed is checked by the tests themselves, in `bronze`, `capture`, `daily` and `spark`.

    make proof [ARGS="WORD ..."]     only claims whose test has one of these words in its path
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

SHARE = os.environ.get("UPSELL_PROOF")
"""The share of the full counts that is asked for; none: the counts of each change."""

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
HEAD = ("| law | tried by | how often | wrong | seconds | when |", "|---|---|---|---|---|---|")
BEGIN, END = "<!-- proof: begin -->", "<!-- proof: end -->"


@dataclass(frozen=True)
class Claim:
    """One row of the table: a law, how it is tried, and how often with every change of the code and in full."""

    law: str
    tried: str
    unit: str
    each_change: int
    full: int
    test: str

    @property
    def count(self) -> int:
        """How often here."""
        return max(1, round(float(SHARE) * self.full)) if SHARE else self.each_change


RULE = Claim(
    "The table is a function of the set of changes",
    "the rule alone: random histories, permuted, repeated, cut into batches",
    "histories",
    500,
    20_000,
    "bronze/test_bronze_law.py::test_any_arrival_of_a_history_gives_what_the_oracle_says",
)
TABLES = Claim(
    "The same of Delta tables, over crashes and compaction",
    "the same, each step dying before any of its commits and repeated at once or later, tables tidied in between",
    "histories",
    100,
    1_000,
    "bronze/test_bronze_merge.py::test_any_arrival_and_any_crash_give_what_the_oracle_says",
)
KILLS = Claim(
    "A process may die at any moment",
    "kill -9 of `upsell ingest` on S3, then run to its end and compared",
    "kills",
    10,
    100,
    "bronze/test_bronze_crash.py::test_a_killed_ingest_is_made_good_by_the_next",
)
TWO_WRITERS, FOUR_WRITERS = (
    Claim(
        f"{word.capitalize()} writers of one table lose and repeat nothing",
        f"{word} processes merge contested keys on S3 while another compacts the table without pause",
        "rounds",
        5,
        50,
        f"bronze/test_bronze_concurrency.py::test_processes_that_merge_while_another_tidies_lose_and_repeat_nothing[{number}]",
    )
    for number, word in ((2, "two"), (4, "four"))
)
CAPTURE_KILLS = Claim(
    "A capture may die at any moment, under clients that write",
    "kill -9 in the first load and in the stream, then run to its end: bronze and database compared row by row",
    "kills",
    10,
    100,
    "capture/test_capture_crash.py::test_a_killed_capture_is_made_good_by_the_next",
)
POSTGRES_KILLS = Claim(
    "So may the database",
    "kill -9 of PostgreSQL while a capture reads and clients write, then compared",
    "kills",
    3,
    20,
    "capture/test_capture_crash.py::test_a_killed_database_loses_nothing_for_the_lake",
)
STORE_FAULTS = Claim(
    "So may the object store, before and after it has stored",
    "a capture through a proxy that refuses, stalls, and cuts the connection before the answer, then compared",
    "faults",
    30,
    300,
    "capture/test_capture_store_faults.py::test_a_store_that_fails_at_any_request_loses_nothing",
)
HANDOVERS = Claim(
    "From snapshot to stream nothing is lost or doubled",
    "a first load while four clients write, then compared",
    "loads",
    2,
    20,
    "capture/test_capture_crash.py::test_handover_under_four_writers_gives_the_same_table",
)
LARGE = Claim(
    "A transaction may have any size",
    "one of so many inserts, with key changes and deletes, between those of clients that write, then compared",
    "rows",
    20_000,
    1_000_000,
    "capture/test_capture_crash.py::test_a_large_transaction_between_small_ones_arrives_whole",
)
TOUCHED = Claim(
    "The dtRefs that a change touches are all that must be computed again",
    "late changes through bronze and silver; tables of which only touched dtRefs are replaced, compared with a rebuild",
    "histories",
    6,
    500,
    "daily/test_daily_touched.py::test_touched_dt_refs_alone_keep_every_table_equal_to_a_rebuild",
)
ON_SPARK = Claim(
    "The same where Spark reads and writes the files",
    "random histories into tables whose every step is Spark's, tidied at the end",
    "histories",
    3,
    100,
    "spark/test_spark_law.py::test_any_arrival_gives_what_the_oracle_says",
)
EXECUTOR_KILLS = Claim(
    "An executor may die in the middle of a merge",
    "kill -9 of an executor of a cluster of two workers while Spark looks up and rewrites, then compared",
    "kills",
    2,
    40,
    "spark/test_spark_crash.py::test_an_executor_may_die_in_the_middle_of_a_merge",
)
CLAIMS = (
    RULE,
    TABLES,
    ON_SPARK,
    EXECUTOR_KILLS,
    KILLS,
    TWO_WRITERS,
    FOUR_WRITERS,
    CAPTURE_KILLS,
    POSTGRES_KILLS,
    STORE_FAULTS,
    HANDOVERS,
    LARGE,
    TOUCHED,
)


def prove(claim: Claim) -> tuple[bool, float]:
    """Run a claim's test to its end; whether nothing was wrong, and the seconds that it took."""
    began = time.monotonic()
    options = ["-q", "--timeout=0", "--log-cli-level=INFO"]
    done = subprocess.run([sys.executable, "-m", "pytest", *options, TESTS / claim.test], cwd=TESTS.parent, check=False)
    return done.returncode == 0, time.monotonic() - began


def row(claim: Claim, right: bool, seconds: float) -> str:
    """The claim's line of the table."""
    wrong = "0" if right else "**at least 1**"
    by = ", ".join(f"{name} {version(name)}" for name in ("deltalake", "duckdb"))
    when = f"{datetime.now(UTC):%Y-%m-%d}, {by}, {os.cpu_count()} cores"
    return f"| {claim.law} | {claim.tried} | {claim.count:,} {claim.unit} | {wrong} | {seconds:,.0f} | {when} |"


def write(rows: Mapping[str, str]) -> None:
    """Put lines, by their laws, between the page's markers; those of other laws stay."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, after = rest.partition(END)
    known = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    lines = {**known, **rows}
    text = [BEGIN, *HEAD, *(lines[claim.law] for claim in CLAIMS if claim.law in lines), END]
    PAGE.write_text(before + "\n".join(text) + after, encoding="utf-8")


def main(words: Sequence[str]) -> int:
    """Prove claims, and write the line of each that was tried in full; 1 if anything was wrong."""
    chosen = [claim for claim in CLAIMS if not words or any(word in claim.test for word in words)]
    if not chosen:
        there_are = "\n  ".join(claim.test for claim in CLAIMS)
        sys.exit(f"proof: no claim has {' or '.join(words)} in the path of its test. There are:\n  {there_are}")
    every = True
    for claim in chosen:
        right, seconds = prove(claim)
        if claim.count >= claim.full:  # a shorter try takes no evidence away
            write({claim.law: row(claim, right, seconds)})
        every = every and right
    return 0 if every else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
