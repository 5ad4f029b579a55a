"""Checks in Dagster of what a run writes, within that run: one row a key, and the columns that were declared.

Both block: what stands behind a table is not asked to run while one of them fails (`automation`). A doubled key is
found before the commit, so that the table stays as it was; the failed check is reported by whoever writes, since a run
that raises tells no results. Where the check failed last, by a run or by the daily audit, the next run looks at the
whole table, and takes nothing for granted. Not here: how keys are compared (`lake.keys`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.lake.files import column_types
from upsell_assets.lake.keys import SHOWN, DoubledKeysError, Keys, doubled_in_table
from upsell_assets.lake.tables import Lake

KEY_UNIQUE, COLUMNS_DECLARED = "key_unique", "columns_declared"

Columns = Mapping[str, str | None]
"""Column -> its declared type in Delta's words; None: any type."""


def written_specs(name: str, key: Sequence[str]) -> list[dg.AssetCheckSpec]:
    """The checks of a table."""
    return [
        dg.AssetCheckSpec(
            KEY_UNIQUE,
            asset=name.split("."),
            blocking=True,
            description=f"One row per {', '.join(key)}. Of what a run writes it is looked at before the commit; once a "
            "day (the schedule audit), and after a failure, in all rows.",
        ),
        dg.AssetCheckSpec(
            COLUMNS_DECLARED,
            asset=name.split("."),
            blocking=True,
            description="The table has the columns, and the types, that its contract or its .sql file declares.",
        ),
    ]


def written_results(
    instance: dg.DagsterInstance,
    lake: Lake,
    table: DeltaTable,
    key: Sequence[str],
    declared: Columns,
    doubled: Keys | None = None,
) -> list[dg.AssetCheckResult]:
    """What the checks say after a commit, in whose rows these keys were doubled (none, where that is refused)."""
    name = ".".join(table.table_uri.rstrip("/").split("/")[-3:])
    failed = last_failed(instance, name)
    found = doubled or (doubled_in_table(lake, table, key) if failed else [])
    seen = {"rows": "all" if failed else "those that the run wrote", "delta_version": table.version()}
    return [
        dg.AssetCheckResult(
            check_name=KEY_UNIQUE,
            asset_key=name.split("."),
            passed=not found,
            metadata={**seen, **({"keys": keys_table(key, found)} if found else {})},
        ),
        columns_result(name, pa.schema(table.schema().to_arrow()), declared),
    ]


def nothing_written(name: str) -> list[dg.AssetCheckResult]:
    """What the checks say where there is no table yet."""
    return [
        dg.AssetCheckResult(check_name=check, asset_key=name.split("."), passed=True, metadata={"rows": "no table yet"})
        for check in (KEY_UNIQUE, COLUMNS_DECLARED)
    ]


def columns_result(name: str, found: pa.Schema, declared: Columns) -> dg.AssetCheckResult:
    """Whether a table has what is declared; columns beyond it are shown, and hold nothing back."""
    types = column_types(found.empty_table())
    missing = [column for column in declared if column not in types]
    other = [(c, kind, types[c]) for c, kind in declared.items() if kind is not None and types.get(c, kind) != kind]
    more = [column for column in types if column not in declared and not column.startswith("_")]
    faults = [f"| {column} | | not there |" for column in missing]
    faults += [f"| {column} | {kind} | {has} |" for column, kind, has in other]
    return dg.AssetCheckResult(
        check_name=COLUMNS_DECLARED,
        asset_key=name.split("."),
        passed=not faults,
        metadata={
            "columns": len(types),
            "not_declared": ", ".join(more) or "none",
            **(
                {"faults": dg.MetadataValue.md("\n".join(["| column | declared | found |", "|---|---|---|", *faults]))}
                if faults
                else {}
            ),
        },
    )


def report_doubled(instance: dg.DagsterInstance, error: DoubledKeysError) -> None:
    """Say on the table's page which keys kept a run from writing."""
    instance.report_runless_asset_event(key_evaluation(error.table, error.key, error.keys, error.files, str(error)))


def key_evaluation(
    name: str, key: Sequence[str], keys: Keys, files: Sequence[str] = (), description: str | None = None
) -> dg.AssetCheckEvaluation:
    """What is said of a table's keys outside of a result; without any it passed."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(name.split(".")),
        check_name=KEY_UNIQUE,
        passed=not keys,
        description=description,
        blocking=True,
        metadata={
            **({"keys": keys_table(key, keys)} if keys else {}),
            **({"raw_files": dg.MetadataValue.md("\n".join(f"- {file}" for file in files[:SHOWN]))} if files else {}),
        },
    )


def keys_table(key: Sequence[str], keys: Keys) -> dg.MarkdownMetadataValue:
    """Some keys, as Dagster shows them."""
    rows = [f"| {' | '.join(map(str, found))} |" for found in keys[:SHOWN]]
    return dg.MetadataValue.md("\n".join([f"| {' | '.join(key)} |", f"|{'---|' * len(key)}", *rows]))


def last_failed(instance: dg.DagsterInstance, name: str) -> bool:
    """Whether the newest evaluation of a table's key failed; one that is only planned says nothing."""
    key = dg.AssetCheckKey(dg.AssetKey(name.split(".")), KEY_UNIQUE)
    history = instance.event_log_storage.get_asset_check_execution_history(key, limit=10)
    # That of the run which asks is among them, and is only planned.
    said = [record.status.value for record in history if record.status.value in ("FAILED", "SUCCEEDED")]
    return said[:1] == ["FAILED"]
