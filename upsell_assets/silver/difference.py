"""What a refresh of silver changes, as rows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Difference:
    """What a refresh will change; `old` and `new` hold the rows that differ, in the table's columns."""

    old: pa.Table
    new: pa.Table
