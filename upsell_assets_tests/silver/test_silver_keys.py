"""Silver refuses rows that would give a key two rows, names them and their raw files, and tells nobody of them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from bronze_steps import CONTRACTS, SILVER, Change, held, take_in
from deltalake import write_deltalake

from upsell_assets.bronze.tables import VERSION, table_name
from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.keys import DoubledKeysError
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.refresh import refresh

TABLE = SILVER["transacoes"]
DAY = "2024-02-01 10:00:00"


def transaction(key: str, seq: int, points: int = 1, file: str = "f") -> Change:
    return Change("transactions", key, "I", seq, ("ana", DAY, points), file=file)


def copy_in_bronze(lake: Lake, key: str) -> None:
    """Two rows more: what another writer, or a merge with a fault, leaves behind."""
    table = lake.open(table_name(CONTRACTS["transactions"]))
    rows = table.to_pyarrow_table().filter(pa.compute.field("idTransaction") == key)
    versions = pa.repeat(pa.scalar(table.version() + 1, pa.int64()), rows.num_rows)
    newer = rows.set_column(rows.column_names.index(VERSION), VERSION, versions)
    write_deltalake(table, pa.concat_tables([newer, newer]), mode="append")


def test_a_doubled_key_is_refused_before_anything_is_told_or_written(local_lake: Lake) -> None:
    engine, told = EmbeddedEngine(local_lake), list[Difference]()
    take_in(local_lake, transaction("a", 1), transaction("b", 2, file="morning"))
    refresh(local_lake, engine, TABLE)
    before = held(local_lake, "transacoes")
    copy_in_bronze(local_lake, "b")
    take_in(local_lake, transaction("c", 3))

    with pytest.raises(DoubledKeysError, match="idTransacao = b, from raw/upsell/cdc/transactions/morning") as caught:
        refresh(local_lake, engine, TABLE, told.append)

    assert caught.value.files == ("raw/upsell/cdc/transactions/morning",)
    assert told == []
    assert held(local_lake, "transacoes") == before


def test_a_doubled_key_is_refused_again_until_it_is_repaired(local_lake: Lake) -> None:
    engine = EmbeddedEngine(local_lake)
    take_in(local_lake, transaction("a", 1))
    copy_in_bronze(local_lake, "a")

    for _ in range(2):
        with pytest.raises(DoubledKeysError):
            refresh(local_lake, engine, TABLE)


def test_a_table_whose_column_was_altered_is_not_written_into(local_lake: Lake) -> None:
    engine = EmbeddedEngine(local_lake)
    take_in(local_lake, transaction("a", 1))
    refresh(local_lake, engine, TABLE)
    rows = local_lake.open(TABLE.name).to_pyarrow_table()
    column = rows.column_names.index("nrPontosTransacao")
    other = rows.set_column(column, "nrPontosTransacao", rows["nrPontosTransacao"].cast(pa.string()))
    write_deltalake(local_lake.uri(TABLE.name), other, mode="overwrite", schema_mode="overwrite")
    take_in(local_lake, transaction("b", 2))

    with pytest.raises(
        PermanentError, match=r"silver.upsell.transacoes: expected the columns .*altered by other hands"
    ):
        refresh(local_lake, engine, TABLE)
