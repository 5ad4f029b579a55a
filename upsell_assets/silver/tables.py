"""The tables of silver: which query makes each, by which key, from which source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from upsell_assets.contracts import Contract
from upsell_assets.lake.sql import SqlFile, load_sql

FOLDER = Path(__file__).parent

_KEYED = {
    # silver table: (contract, its key, silver's key, from all accepted changes)
    "cliente": ("customers", "idCustomer", ("idCliente",), False),
    "transacoes": ("transactions", "idTransaction", ("idTransacao",), False),
    "transacao_produto": ("transactions_product", "idTransactionCart", ("idTransacaoProduto",), False),
    "cliente_historico": ("customers", "idCustomer", ("idCliente", "dtInicio"), True),
}


@cache
def _sql(name: str) -> SqlFile:
    return load_sql(FOLDER / f"{name}.sql")


@dataclass(frozen=True)
class SilverTable:
    """One table of silver.

    Attributes:
        sql: its query.
        key: its key columns.
        source_key: bronze's key column for the first key column; empty where the table is not made key by key.
        contract: the bronze table that it is made from; None: it is made from silver tables, whole.
        from_changes: it is made from all accepted changes of the contract's table and the ends of its full loads, not
            from the live rows.
    """

    sql: SqlFile
    key: tuple[str, ...]
    source_key: str = ""
    contract: Contract | None = None
    from_changes: bool = False

    @property
    def name(self) -> str:
        """The table's three-part name."""
        return self.sql.name


def silver_tables(contracts: Mapping[str, Contract]) -> list[SilverTable]:
    """Silver's tables whose sources are declared; the others are left out."""
    tables = []
    for name, (source, source_key, key, from_changes) in _KEYED.items():
        contract = contracts.get(source)
        if contract is not None and contract.schema_name == "upsell":
            tables.append(SilverTable(_sql(name), key, source_key, contract, from_changes))
    if any(table.name == "silver.upsell.transacao_produto" for table in tables):
        tables.append(SilverTable(_sql("produtos"), ("descProduto",)))
    return tables
