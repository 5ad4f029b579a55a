"""What a refresh of silver changes, as rows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Difference:
    """What a refresh will change.

    Attributes:
        old, new: the rows that differ, in the table's columns.
        whole: the table is made anew by a cluster, and the rows are not here: of each local day the first and the last
            moment alone, of all that the table had, and of all that it will have.
    """

    old: pa.Table
    new: pa.Table
    whole: bool = False
