"""The factories as Dagster components, for projects of others: a `defs.yaml` instead of code.

`LakeTables` lakes a database's tables, `SqlTables` makes one table per `.sql` file. Here: attributes, what they mean, and
what `dg scaffold` writes. Not here: how anything is made; the factories are those of our own code location. Nothing of
the lake imports this package.
"""

from upsell_assets.components.lake_tables import LakeTables
from upsell_assets.components.sql_tables import SqlTables

__all__ = ["LakeTables", "SqlTables"]
