"""Columns that no contract declares, from a dump through the database and raw to bronze."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from capture_place import APP_ROLE, PASSWORD, Place
from psycopg.conninfo import make_conninfo

from upsell_assets.bronze.tables import table_name
from upsell_assets.lake.tables import Lake
from upsell_assets.source.database import connect
from upsell_assets.source.live import LiveActivity
from upsell_assets.source.loader import load_dump

pytestmark = pytest.mark.services

DUMP = {
    "clientes": "idCliente,qtdePontos,flTwitch,DtCriacao\nana,7,0,2024-02-01 10:00:00 +0000 UTC\nbia,8,1,\n",
    "transacoes": "IdTransacao,IdCliente,DtCriacao,QtdePontos,DescSistemaOrigem\nt1,ana,2024-02-01,7,twitch\n",
    "transacao_produto": "idTransacaoProduto,IdTransacao,IdProduto,QtdeProduto,vlProduto\nl1,t1,5,1,1.5\n",
    "produtos": "IdProduto,DescNomeProduto\n5,Ponei\n",
}


@pytest.fixture
def loaded(place: Place, tmp_path: Path) -> Place:
    """Today's dump in the database, and its full load in raw."""
    for table, content in DUMP.items():
        (tmp_path / f"{table}.csv").write_text(content)
    load_dump(place.owner, tmp_path)
    place.capture().ensure_full_load()
    return place


def bronze(place: Place, table: str) -> pa.Table:
    place.bronze(table)
    return Lake.of(place.store).open(table_name(place.contracts[table])).to_pyarrow_table()


def by_key(place: Place, table: str, *columns: str) -> dict[str, tuple[Any, ...]]:
    key = place.contracts[table].key[0]
    found = bronze(place, table).select([key, *columns]).to_pylist()
    return {row[key]: tuple(row[column] for column in columns) for row in found}


def test_added_columns_reach_bronze_for_loaded_and_for_changed_rows(loaded: Place) -> None:
    created = datetime(2024, 2, 1, 10, tzinfo=UTC)
    assert by_key(loaded, "customers", "flTwitch", "DtCriacao") == {"ana": (0, created), "bia": (1, None)}

    with connect(make_conninfo(loaded.owner_dsn, user=APP_ROLE, password=PASSWORD)) as app:
        app.execute('UPDATE customers SET "flTwitch" = 1, "PointsCustomer" = 9 WHERE "idCustomer" = \'ana\'')
        app.execute('INSERT INTO customers ("idCustomer", "flTwitch") VALUES (\'caio\', 0)')
        app.execute("DELETE FROM customers WHERE \"idCustomer\" = 'bia'")
        app.execute('UPDATE transactions_product SET "vlProduto" = 2.25')
    loaded.capture().drain()

    assert by_key(loaded, "customers", "PointsCustomer", "flTwitch", "DtCriacao") == {
        "ana": (9, 1, created),
        "caio": (None, 0, None),
    }
    assert by_key(loaded, "transactions", "DescSistemaOrigem") == {"t1": ("twitch",)}
    assert by_key(loaded, "transactions_product", "NameProduct", "IdProduto", "vlProduto") == {"l1": ("Ponei", 5, 2.25)}
    schema = bronze(loaded, "customers").schema
    assert schema.field("flTwitch").nullable
    assert (schema.field("flTwitch").type, schema.field("DtCriacao").type) == (pa.int64(), pa.timestamp("us", "UTC"))


def test_live_activity_goes_on_beside_added_columns(loaded: Place) -> None:
    app_dsn = make_conninfo(loaded.owner_dsn, user=APP_ROLE, password=PASSWORD)
    with LiveActivity(app_dsn, seed=1) as live:
        done = [live.step() for _ in range(40)]
    loaded.capture().drain()

    assert {"visit", "new_customer", "email", "delete", "correction"} <= {name for step in done for name in step}
    assert loaded.differences() == []
    assert by_key(loaded, "customers", "flTwitch")["bia"] == (1,)
    assert None in {kind for (kind,) in by_key(loaded, "transactions", "DescSistemaOrigem").values()}
