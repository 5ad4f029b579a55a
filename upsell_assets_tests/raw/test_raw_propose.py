"""Contracts proposed from files that landed: real parquet files on a real object store."""

from __future__ import annotations

import io
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.contracts.propose import Proposal, add
from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw import sample
from upsell_assets.raw.propose import propose_tables
from upsell_assets.services.embedded import Running

pytestmark = pytest.mark.services

NOON = datetime(2024, 6, 13, 12, tzinfo=UTC).replace(tzinfo=None)


class Raw:
    """A schema of its own in the bucket."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.schema = f"s{uuid4().hex[:12]}"

    @property
    def prefix(self) -> str:
        return f"raw/{self.schema}"

    def put(self, path: str, **columns: object) -> None:
        sink = io.BytesIO()
        pq.write_table(pa.table(columns), sink)
        self.store.write(f"{self.prefix}/{path}", sink.getvalue())

    def propose(self, *names: str) -> Proposal:
        [proposal] = propose_tables(self.store, self.prefix, names)
        return proposal

    def contract(self, folder: Path) -> Contract:
        """The only proposal, written and read back."""
        add(folder, propose_tables(self.store, self.prefix))
        [contract] = load_contracts(folder).values()
        return contract


@pytest.fixture
def raw(services: Running) -> Raw:
    return Raw(ObjectStore.from_settings(services.settings))


def changes(operations: str, **columns: list[object]) -> dict[str, object]:
    """Change rows, a minute apart."""
    times = [NOON + timedelta(minutes=number) for number in range(len(operations))]
    return {"OP": list(operations), **columns, "modified_date": pa.array(times, pa.timestamp("us"))}


def test_the_original_s_flat_layout_goes_from_init_to_bronze(raw: Raw, tmp_path: Path) -> None:
    """The balance moves, the date does not; customers repeat, transactions do not."""
    ids = [f"t{number}" for number in range(40)]
    owners = [f"c{random.Random(number).randrange(5)}" for number in range(40)]
    dates = [f"2024-02-{1 + number % 20:02d} 10:00:00.000" for number in range(40)]
    raw.put(
        "full_load/transactions/full.parquet",
        idTransaction=ids[:30],
        idCustomer=owners[:30],
        dtTransaction=dates[:30],
        points=[*range(30)],
        modified_date=pa.array([NOON] * 30, pa.timestamp("us")),
    )
    raw.put(
        "cdc/transactions/2024-06-14.parquet",
        **changes(
            "IIIUUD",
            idTransaction=[*ids[30:33], ids[0], ids[0], ids[1]],
            idCustomer=[*owners[30:33], owners[0], owners[0], None],
            dtTransaction=[*dates[30:33], dates[0], dates[0], None],
            points=[1, 2, 3, 100, 200, None],
        ),
    )

    contract = raw.contract(tmp_path)

    assert contract.name == f"{raw.schema}.transactions"
    assert contract.key == ("idTransaction",)
    assert contract.columns == {
        "idTransaction": "string",
        "idCustomer": "string",
        "dtTransaction": "string",
        "points": "bigint",
    }
    assert contract.order == ("modified_date",)
    text = (tmp_path / "transactions.yaml").read_text()
    assert "# ? is that the key? It is unique and never null in the sample's 33 inserted rows\n" in text
    assert "# immutable_date: dtTransaction # ? does it never change for a key? 1 keys have several rows" in text
    assert "immutable_date: points" not in text
    assert ", files: 1}\n# ? when was the flat full_load/ folder taken, and is it whole?" in text

    lake = Lake.of(raw.store)
    assert not ingest(raw.store, lake, contract).quarantined
    live = lake.rows(lake.open(table_name(contract))).to_table(["idTransaction", "points"]).to_pylist()
    expected = dict(zip(ids[:33], [*range(30), 1, 2, 3], strict=True)) | {ids[0]: 200}
    del expected[ids[1]]
    assert {row["idTransaction"]: row["points"] for row in live} == expected


def test_types_are_unified_over_files_and_conflicts_are_asked(raw: Raw) -> None:
    raw.put("cdc/t/1", **changes("I", id=[1], n=pa.array([1], pa.int8()), at=["2024-01-01"], x=[None], l=[[1]]))
    raw.put("cdc/t/2", **changes("I", id=[2], n=pa.array([2], pa.int32()), at=[NOON], x=[None], l=[[1]]))

    found = raw.propose()

    assert {column.name: (column.type, column.note) for column in found.columns} == {
        "id": ("bigint", ""),
        "n": ("int", ""),
        "at": ("string", "? string, timestamp in the sample: as text all are kept"),
        "x": ("string", "? only nulls in the sample"),
    }
    assert found.left_out == (("l", "list<element: int64> is no type of the lake; files with it are quarantined"),)


def test_names_that_the_lake_keeps_or_cannot_have_are_left_out(raw: Raw) -> None:
    raw.put("cdc/t/1", **changes("I", id=[1]), **{"Unit Price": [1], "_row": [2]})

    assert [name for name, _ in raw.propose().left_out] == ["Unit Price", "_row"]


def test_operations_of_other_words_and_another_column_are_declared(raw: Raw, tmp_path: Path) -> None:
    raw.put("cdc/t/1", **{**changes("III", id=[1, 2, 3]), "OP": ["", "", ""], "action": ["insert", "Insert", "DELETE"]})

    found = raw.propose()
    assert found.operations == {"column": "action", "insert": ("INSERT",), "update": ("UPDATE",), "delete": ("DELETE",)}
    assert found.operation_notes == ("? does that column say what was done?", "? not seen in the sample: UPDATE")
    contract = raw.contract(tmp_path)
    assert (contract.operations.column, contract.operations.insert) == ("action", ("INSERT",))


def test_words_that_nobody_knows_and_a_missing_operation_column_are_asked_about(raw: Raw) -> None:
    raw.put("cdc/words/1", **{**changes("II", id=[1, 2]), "OP": ["neu", "weg"]})
    raw.put("cdc/none/1", id=[1], modified_date=[NOON])

    assert raw.propose("words").operation_notes == ("? what do the operations mean: neu, weg",)
    assert "which column says what was done" in raw.propose("none").operation_notes[0]


@pytest.mark.parametrize(
    ("columns", "order", "kind"),
    [
        ({"modified_date": [NOON], "change_seq": [7]}, ("modified_date", "change_seq"), "bigint"),
        ({"modified_date": [NOON], "change_seq": ["b7"]}, ("modified_date", "change_seq"), "string"),
        ({"Change_Seq": pa.array([7], pa.int32())}, ("change_seq",), "int"),
        ({"modified_date": [NOON], "change_seq": ["00000000016B3748-0000000001"]}, ("change_seq",), "string"),
    ],
)
def test_the_order_columns_are_those_of_the_files(
    raw: Raw, tmp_path: Path, columns: dict[str, object], order: tuple[str, ...], kind: str
) -> None:
    raw.put("cdc/t/1", OP=["I"], id=[1], **columns)

    contract = raw.contract(tmp_path)

    assert contract.order == order
    assert contract.change_seq_type == kind


def test_without_order_columns_the_question_is_asked(raw: Raw, tmp_path: Path) -> None:
    raw.put("cdc/t/1", OP=["I"], id=[1])

    assert raw.propose().order_notes == (
        "? no modified_date and no change_seq in the sample: what orders two changes of a key?",
    )
    assert raw.contract(tmp_path).key == ("id",)


def test_keys_are_unique_over_inserts_and_those_that_look_like_one_come_first(raw: Raw) -> None:
    rows = changes("IIIU", total=[5, 6, 7, 8], id=[1, 2, 3, 1], name=["a", "b", "a", "c"], maybe=[1, 2, 3, None])
    raw.put("cdc/t/1", **rows)
    raw.put("cdc/t/twice", **rows)

    found = raw.propose()

    assert found.key == ("id",)
    assert found.key_notes == (
        "? is that the key? It is unique and never null in the sample's 3 inserted rows",
        "? so are total",
    )


def test_two_columns_are_tried_where_one_is_none(raw: Raw) -> None:
    raw.put("cdc/t/1", **changes("IIII", order_id=[1, 1, 2, 2], line=[1, 2, 1, 2], note=["x", "x", "x", "x"]))

    assert raw.propose().key == ("order_id", "line")


def test_without_a_key_in_the_sample_the_file_is_a_draft(raw: Raw, tmp_path: Path) -> None:
    raw.put("cdc/t/1", **changes("II", a=[1, 1], b=[1, 1], d=[1.0, 2.0]))

    [added] = add(tmp_path, [raw.propose()])

    assert added.draft
    assert "None, nor two, do in the sample's 2 inserted rows" in (tmp_path / "t.yaml.draft").read_text()


def test_a_date_that_moves_for_a_key_is_not_proposed(raw: Raw) -> None:
    day = datetime(2024, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    moved = [day, day, day + timedelta(1)]
    raw.put("cdc/t/1", **changes("IIU", id=[1, 2, 1], seen=moved, born=[day] * 3, text=["2024-01-01", "x", "y"]))

    assert [name for name, _ in raw.propose().dates] == ["born"]


def test_a_broken_file_is_passed_over_and_a_folder_of_broken_ones_is_an_error(raw: Raw) -> None:
    raw.store.write(f"{raw.prefix}/cdc/t/0", b"not parquet")
    with pytest.raises(PermanentError, match=rf"no readable parquet file below {raw.prefix}/cdc/t/ or"):
        raw.propose()

    raw.put("cdc/t/1", **changes("I", id=[1]))
    assert "a sample of 1 files and 1 rows" in raw.propose().origin


def test_few_files_are_read_and_few_rows_of_each(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "FILES", 3)
    monkeypatch.setattr(sample, "FILE_ROWS", 10)
    for number in range(9):
        raw.put(
            f"cdc/t/{number}", **changes("I" * 20, id=[number * 100 + i for i in range(20)]), **{f"c{number}": [1] * 20}
        )

    found = raw.propose()

    assert "3 files" in found.origin
    assert [column.name for column in found.columns] == ["id", "c0", "c4", "c8"]


@pytest.mark.parametrize("prefix", ["shop", "raw", "raw/x/bronze", "raw/x/cdc/t/2024"])
def test_a_prefix_that_is_none_of_raw_is_refused(raw: Raw, prefix: str) -> None:
    with pytest.raises(PermanentError, match=rf"--from-files {prefix}: expected raw/SCHEMA"):
        propose_tables(raw.store, prefix)


def test_tables_that_are_not_there_are_named(raw: Raw) -> None:
    with pytest.raises(PermanentError, match=r"has no files there"):
        propose_tables(raw.store, raw.prefix)
    raw.put("cdc/t/1", **changes("I", id=[1]))
    raw.put("full_load/Order-Items/1", id=[1], modified_date=[NOON])

    with pytest.raises(PermanentError, match=r"no files of u below .*; there are Order-Items, t"):
        raw.propose("u")
    with pytest.raises(PermanentError, match=r"folder Order-Items of raw/.* is no name of the lake"):
        raw.propose()
    [found] = propose_tables(raw.store, f"{raw.prefix}/cdc/t/")
    assert found.table == "t"
