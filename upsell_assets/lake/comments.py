"""What the comment of an output column says: a meaning, and of a feature its unit, window and formula too.

Here: the grammar, `meaning | unit | window | formula`, and which windows there are. Not here: which comment belongs
to which column (`lake.sql`), and which columns are features (`dtref_files`).
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOWS = {
    "dtRef": "the calendar day dtRef itself",
    "D7": "the 7 local days before dtRef: from dtRef - 7 to dtRef - 1",
    "D28": "the 28 local days before dtRef: from dtRef - 28 to dtRef - 1",
    "D56": "the 56 local days before dtRef: from dtRef - 56 to dtRef - 1",
    "Vida": "all local days before dtRef",
    "day": "the local day dtRef",
    "28 days": "the 28 local days that end with dtRef: from dtRef - 27 to dtRef",
    "56 days": "the 56 local days that end with dtRef: from dtRef - 55 to dtRef",
}
"""Window -> the days whose activity it sees. Features look back from dtRef, reports include it."""


@dataclass(frozen=True)
class ColumnComment:
    """What is said of a column.

    Attributes:
        meaning: what a value is, and what its null or 0 stands for; "" where nothing is said.
        unit: what it is counted in; this and the next two are "" of a column that is no feature.
        window: one of `WINDOWS`.
        formula: how to recompute it by hand.
    """

    meaning: str
    unit: str = ""
    window: str = ""
    formula: str = ""

    def __str__(self) -> str:
        """The parts in one line."""
        if not self.formula:
            return self.meaning
        return f"{self.meaning}. Unit: {self.unit}. Window: {self.window}. Formula: {self.formula}"


def parse_comment(text: str) -> ColumnComment:
    """The comment of a column: a meaning alone, or all four parts.

    Raises:
        ValueError: it has some of the parts only, or a window that there is not.
    """
    parts = [part.strip() for part in text.split("|")]
    if len(parts) == 1:
        return ColumnComment(*parts)
    if len(parts) != 4 or not all(parts):
        raise ValueError(f"expected `meaning | unit | window | formula`, found `{text}`")
    comment = ColumnComment(*parts)
    if comment.window not in WINDOWS:
        raise ValueError(f"there is no window `{comment.window}`; there are {', '.join(WINDOWS)}")
    return comment
