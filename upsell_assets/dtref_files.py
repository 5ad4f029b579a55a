"""The `.sql` files of the daily layers, features and gold: which there are, and what their comments must say.

Not here: how one is run (`dtref_assets`) and what it computes (the files).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from upsell_assets.errors import PermanentError
from upsell_assets.lake.comments import ColumnComment
from upsell_assets.lake.sql import SqlFile, load_sql

LAYERS = ("feature_store", "gold")

COMPUTED = "_computed_at"
KEYS = ("dtRef", "idCliente", "descNomeProduto")
"""What tells the rows of a daily table apart; every other column is a feature."""


def sql_files(folder: Path) -> list[SqlFile]:
    """The tables of a daily layer; files that begin with `_` are views, inlined where they are used.

    Raises:
        PermanentError: a file is not readable, or comments do not say all of a feature. The files come with the code,
            so that this stops nobody but a feature's author, and at once.
    """
    files = []
    for path in sorted(folder.glob("[!_]*.sql")):
        sql = load_sql(path)
        if vague := [c for c, said in sql.columns.items() if not (said.meaning if c in KEYS else said.formula)]:
            raise PermanentError(
                f"`{path}`: nothing says what {', '.join(vague)} are. Write `-- meaning | unit | window | formula` "
                f"above each feature, and a meaning above each key ({', '.join(KEYS)})."
            )
        files.append(sql)
    return files


def declared_files(silver: Collection[str]) -> list[SqlFile]:
    """The tables of the daily layers whose inputs there are; `silver` names those of silver.

    Raises:
        PermanentError: as of `sql_files`.
    """
    return [
        sql
        for layer in LAYERS
        for sql in sql_files(Path(__file__).parent / layer)
        if {name for name in sql.tables if name.startswith("silver.")} <= set(silver)
    ]


def described(sql: SqlFile) -> SqlFile:
    """The file with what is said of the columns that every daily table has besides its own."""
    return replace(sql, columns={**sql.columns, COMPUTED: ColumnComment("when the row was computed, UTC")})
