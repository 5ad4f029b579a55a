"""Where columns come from: the graph, the command, and what Dagster shows of it."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import dagster as dg
import pytest
from dagster import AssetKey
from typer.testing import CliRunner, Result

from upsell_assets.bronze.tables import changes_schema, live_schema
from upsell_assets.cli import app
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.definitions import build_defs
from upsell_assets.errors import PermanentError
from upsell_assets.lineage.graph import Column, ColumnGraph, column_graph
from upsell_assets.lineage.picture import picture
from upsell_assets.model.scoring import SCHEMA as SCORES
from upsell_assets.settings import Settings


@pytest.fixture(scope="module")
def graph() -> ColumnGraph:
    return column_graph(load_contracts())


@pytest.fixture(scope="module")
def assets() -> dict[AssetKey, dg.AssetSpec]:
    settings = Settings(s3_endpoint="http://127.0.0.1:9", s3_bucket="nowhere")
    return {spec.key: spec for spec in build_defs(settings).resolve_all_asset_specs()}


def upsell(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lineage", *arguments])


def reached(graph: ColumnGraph, name: str, *, down: bool = False) -> set[str]:
    return {str(column) for column in graph.reach(graph.find(name), down=down)}


def test_a_report_comes_from_the_database_through_every_layer(graph: ColumnGraph) -> None:
    assert [str(column) for column in graph.reach(graph.find("gold.upsell.churn_report.ChurnRate"))] == [
        "gold.upsell.churn_report.ChurnRate",
        "silver.upsell.transacoes.dtTransacao",
        "bronze.upsell.transactions.dtTransaction",
        "raw.upsell.transactions.dtTransaction",
        "source.public.transactions.dtTransaction",
    ]
    assert graph.origins[Column("gold.upsell.churn_report", "ChurnRate")].meaning.endswith(
        "Formula: nrQtdeChurn / qtdeBaseOld"
    )


def test_a_feature_comes_through_the_aggregates_and_the_changes_that_are_kept(graph: ColumnGraph) -> None:
    assert graph.next(Column("feature_store.upsell.fs_pontos", "nrPctPontosChatMessage")) == [
        Column("silver.upsell.transacao_produto", "descNomeProduto"),
        Column("silver.upsell.transacoes", "dtTransacao"),
        Column("silver.upsell.transacoes", "nrPontosTransacao"),
    ]
    assert reached(graph, "feature_store.upsell.fs_geral.flEmail") == {
        "feature_store.upsell.fs_geral.flEmail",
        "silver.upsell.cliente_historico.flEmailCliente",
        "bronze.upsell._customers_changes.flEmail",
        "raw.upsell.customers.flEmail",
        "source.public.customers.flEmail",
    }


def test_whatever_a_column_comes_from_knows_it(graph: ColumnGraph) -> None:
    for column in graph.origins:
        for source in graph.next(column):
            assert column in graph.next(source, down=True)
            assert source in graph.origins, f"{column} comes from {source}, which no table has"
    down = reached(graph, "source.public.customers.flEmail", down=True)
    assert "feature_store.upsell.models.nrProbLabel" in down
    assert not [name for name in down if name.startswith("gold.")]


def test_only_what_is_counted_or_asked_for_comes_from_no_column(graph: ColumnGraph) -> None:
    made = ("source.", "raw.", "bronze.")
    ends = [column for column in graph.origins if not graph.next(column) and not column.table.startswith(made)]

    assert {column.name for column in ends} == {
        *("dtRef", "_computed_at", "descModelName", "nrModelVersion", "descLabel"),
        *("nrDiaSemana", "nrDiaMes", "nrSemanaAno", "nrMes", "nrAno"),
        *("nrQtdeDias", "nrQtdeLivesSemanal", "nrQtdeTransacaoD56", "nrQtdeTransacaoDiaD56", "nrQuantidadeTrasacoes"),
    }
    for contract in load_contracts().values():
        for table in (f"raw.{contract.name}", f"bronze.{contract.name}"):
            for name in contract.columns:
                assert reached(graph, f"{table}.{name}") & {f"source.public.{contract.table}.{name}"}


def test_the_tables_have_the_columns_that_they_are_made_with(graph: ColumnGraph) -> None:
    for contract in load_contracts().values():
        named = {table: [column.name for column in columns] for table, columns in graph.tables.items()}
        assert named[f"bronze.{contract.name}"] == live_schema(contract).names
        assert named[f"bronze.upsell._{contract.table}_changes"] == changes_schema(contract).names
        assert named[f"source.public.{contract.table}"] == list(contract.columns)
    assert named["feature_store.upsell.models"] == SCORES.names


@pytest.mark.parametrize(
    ("files", "sequence", "headers"),
    [
        (
            {"layout": "dms", "path": "d", "timestamp": "ts", "change_seq": "seq"},
            "decimal(38,0)",
            ["id", "OP", "ts", "seq"],
        ),
        ({"layout": "debezium", "path": "d"}, "string", ["after.id", "op", "source.ts_ms", "source.sequence"]),
        (
            {"layout": "debezium", "path": "d", "shape": "flat"},
            "string",
            ["id", "__op", "__source_ts_ms", "__source_sequence"],
        ),
    ],
    ids=["dms", "envelope", "flat"],
)
def test_files_of_others_have_their_own_headers_and_no_database_of_ours(
    files: dict[str, str], sequence: str, headers: list[str]
) -> None:
    contract = Contract.model_validate(
        {
            "schema": "shop",
            "table": "orders",
            "key": ["id"],
            "columns": {"id": "string"},
            "change_seq_type": sequence,
            "files": files,
        }
    )
    graph = column_graph({"orders": contract})

    assert [column.name for column in graph.tables["raw.shop.orders"]] == headers
    assert [str(c) for c in graph.next(Column("bronze.shop.orders", "_modified_date"))] == [
        f"raw.shop.orders.{headers[2]}"
    ]
    assert not [table for table in graph.tables if table.startswith("source.")]


def test_an_unknown_name_lists_those_that_are_near(graph: ColumnGraph) -> None:
    with pytest.raises(
        PermanentError, match=r"ChurnRte: no such table or column\. gold\.upsell\.churn_report has ChurnRate"
    ):
        graph.find("gold.upsell.churn_report.ChurnRte")
    with pytest.raises(PermanentError, match=r"Near are .*gold\.upsell\.churn_report"):
        graph.find("gold.upsel.churn_report")
    with pytest.raises(PermanentError, match=r"There are the tables source\.public\.customers"):
        graph.find("?")
    assert graph.find("GOLD.upsell.churn_report.churnrate") == [Column("gold.upsell.churn_report", "ChurnRate")]


def test_the_command_prints_a_plain_tree() -> None:
    assert upsell("silver.upsell.produtos").stdout.splitlines() == [
        "silver.upsell.produtos.descProduto  product name, as the points system spells it",
        "└── silver.upsell.transacao_produto.descNomeProduto  product name, as the points system spells it",
        "    └── bronze.upsell.transactions_product.NameProduct",
        "        └── raw.upsell.transactions_product.NameProduct",
        "            └── source.public.transactions_product.NameProduct",
    ]


def test_the_command_goes_down_and_speaks_json() -> None:
    lines = upsell("silver.upsell.cliente_historico.flEmailCliente", "--down").stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines[:1]] == ["silver.upsell.cliente_historico.flEmailCliente"]
    assert "feature_store.upsell.fs_geral.flEmail " in lines[1]
    assert "feature_store.upsell.models.nrProbLabel " in lines[2]

    found = json.loads(upsell("silver.upsell.cliente.nrPontosCliente", "--json").stdout)
    assert found[0] == {
        "column": "silver.upsell.cliente.nrPontosCliente",
        "meaning": "current balance, points",
        "from": ["bronze.upsell.customers.PointsCustomer"],
    }
    assert [entry["column"] for entry in found][-1] == "source.public.customers.PointsCustomer"


def test_the_command_needs_neither_a_lake_nor_dagster() -> None:
    code = (
        "import sys; sys.argv = ['upsell', 'lineage', 'gold.upsell.churn_report.ChurnRate'];"
        "from upsell_assets.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    tree, modules = done.stdout.strip().rsplit("\n", 1)
    assert tree.splitlines()[-1].endswith("source.public.transactions.dtTransaction")
    assert not {"dagster", "pyspark", "sklearn"} & set(modules.split())


def test_every_sql_asset_and_bronze_have_dagsters_own_column_lineage(assets: dict[AssetKey, dg.AssetSpec]) -> None:
    def deps(key: str, column: str) -> set[str]:
        found = assets[AssetKey(key.split("/"))].metadata["dagster/column_lineage"].deps_by_column[column]
        return {f"{dep.asset_key.to_user_string()}.{dep.column_name}" for dep in found}

    assert deps("bronze/upsell/transactions", "_date") == {"raw/upsell/transactions.dtTransaction"}
    # The changes that are kept, and the ends of full loads, are of the asset bronze/upsell/customers.
    assert deps("silver/upsell/cliente_historico", "flEmailCliente") == {"bronze/upsell/customers.flEmail"}
    assert "bronze/upsell/customers._modified_date" in deps("silver/upsell/cliente_historico", "dtInicio")
    assert deps("gold/upsell/churn_report", "ChurnRate") == {"silver/upsell/transacoes.dtTransacao"}
    assert "feature_store/upsell/fs_pontos.nrQtdePontosD7" in deps("feature_store/upsell/models", "nrProbLabel")
    for key, spec in assets.items():
        if key.path[0] in ("bronze", "silver", "feature_store", "gold") and "_touched" not in key.path:
            for columns in spec.metadata["dagster/column_lineage"].deps_by_column.values():
                assert {dep.asset_key for dep in columns} <= set(assets), key


def test_a_page_links_to_the_assets_that_columns_come_from(assets: dict[AssetKey, dg.AssetSpec]) -> None:
    page = assets[AssetKey(["feature_store", "upsell", "fs_pontos"])].metadata["lineage"].md_str

    made_of = "[silver.upsell.transacoes](/assets/silver/upsell/transacoes): nrPontosTransacao"
    assert f"| nrQtdePontosD56, nrQtdePontosPosD56, nrQtdePontosNegD56 | {made_of} |" in page
    assert "| dtRef, \\_computed\\_at | no column |" in page
    targets = set(re.findall(r"\]\(/assets/([^)]+)\)", page))
    assert {AssetKey(target.split("/")) for target in targets} <= set(assets)
    [drawn] = re.findall(r"data:image/svg\+xml;base64,([^)]+)\)", page)
    assert ET.fromstring(base64.b64decode(drawn)).tag.endswith("svg")
    raw = assets[AssetKey(["raw", "upsell", "customers"])].metadata["lineage"].md_str
    assert "| PointsCustomer | source.public.customers: PointsCustomer |" in raw


def test_a_picture_has_every_column_once_and_few_lines(graph: ColumnGraph) -> None:
    for table, columns in graph.tables.items():
        tree = ET.fromstring(picture(graph, table))
        texts = [element.text or "" for element in tree.iter("{http://www.w3.org/2000/svg}text")]
        names = [name for text in texts for name in re.split(r", ?", text) if name and "." not in name]
        sources = {source for column in columns for source in graph.next(column)}
        assert sorted(names) == sorted([column.name for column in columns] + [source.name for source in sources]), table
        assert len(list(tree.iter("{http://www.w3.org/2000/svg}path"))) <= 40, table


def test_contracts_of_another_database_have_their_own_graph(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(
        "schema: shop\ntable: orders\nsource_table: sales.Orders\nkey: [id]\ncolumns: {id: string, total: bigint}\n"
    )
    graph = column_graph(load_contracts(tmp_path), "main")

    assert reached(graph, "bronze.shop.orders.total") == {
        "bronze.shop.orders.total",
        "raw.shop.orders.total",
        "source.sales.Orders.total",
    }
