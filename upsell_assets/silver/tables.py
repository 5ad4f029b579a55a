"""The tables of silver: which query makes each, by which key, from which source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from upsell_assets.contracts import Contract
from upsell_assets.lake.sql import load_sql
from upsell_assets.silver.refresh import SilverTable

FOLDER = Path(__file__).parent

_KEYED = {
    # silver table: (contract, its key, silver's key, from all accepted changes)
    "cliente": ("customers", "idCustomer", ("idCliente",), False),
    "transacoes": ("transactions", "idTransaction", ("idTransacao",), False),
    "transacao_produto": ("transactions_product", "idTransactionCart", ("idTransacaoProduto",), False),
    "cliente_historico": ("customers", "idCustomer", ("idCliente", "dtInicio"), True),
}


def silver_tables(contracts: Mapping[str, Contract]) -> list[SilverTable]:
    """Silver's tables whose sources are declared; the others are left out."""
    tables = []
    for name, (source, source_key, key, from_changes) in _KEYED.items():
        contract = contracts.get(source)
        if contract is not None and contract.schema_name == "upsell":
            tables.append(SilverTable(load_sql(FOLDER / f"{name}.sql"), key, source_key, contract, from_changes))
    if any(table.name == "silver.upsell.transacao_produto" for table in tables):
        tables.append(SilverTable(load_sql(FOLDER / "produtos.sql"), ("descProduto",)))
    return tables
