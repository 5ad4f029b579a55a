"""One table and what its columns are made from, as an SVG that stays readable however many columns there are.

Columns that come from the same columns share a box, and so do columns of a source table that go into the same boxes:
what would be hundreds of lines becomes a few. Not here: where a picture is shown (`metadata`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from textwrap import wrap

from upsell_assets.lineage.graph import Column, ColumnGraph

_LINE, _PADDING, _SPACE, _GAP = 16, 8, 14, 150
_CHARACTER = 6.7
_WIDTHS = (46, 64)
"""Characters of a line of a box: of the sources, and of the table."""

_COLOURS = ("#4f43dd", "#0e7a5f", "#b4540a", "#a02070", "#2467a8", "#6b6b00")


@dataclass
class _Box:
    """Columns that are drawn together; `y` and `height` in pixels."""

    title: str
    lines: list[str]
    y: int = 0
    into: list[_Box] = field(default_factory=list)

    @property
    def height(self) -> int:
        return _LINE * (len(self.lines) + bool(self.title)) + 2 * _PADDING

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


def picture(graph: ColumnGraph, table: str) -> str:
    """The SVG; its sources stand to the left, the table to the right."""
    left, right = _boxes(graph, table)
    widths = [int(most * _CHARACTER) + 2 * _PADDING for most in _WIDTHS]
    height = max(_stack(left), _stack(right))
    x = widths[0] + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x + widths[1] + 2 * _SPACE}" height="{height}" '
        'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="11">',
        '<rect width="100%" height="100%" rx="6" fill="#fff"/>',
        f'<g transform="translate({_SPACE})">',
    ]
    for number, box in enumerate(left):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += [_curve(widths[0], box.middle, x, target.middle, colour) for target in box.into]
    parts += [_drawn(box, 0, widths[0], _COLOURS[n % len(_COLOURS)]) for n, box in enumerate(left)]
    parts += [_drawn(box, x, widths[1], "#333") for box in right]
    return "".join([*parts, "</g></svg>"])


def _boxes(graph: ColumnGraph, table: str) -> tuple[list[_Box], list[_Box]]:
    right: list[_Box] = []
    uses: dict[Column, list[_Box]] = defaultdict(list)
    for sources, columns in graph.alike(table).items():
        box = _Box("" if right else table, _names(columns, _WIDTHS[1]))
        right.append(box)
        for source in sources:
            uses[source].append(box)
    together: dict[tuple[str, tuple[int, ...]], list[Column]] = defaultdict(list)
    order = {column: number for number, column in enumerate(graph.origins)}
    for source, boxes in sorted(uses.items(), key=lambda use: order[use[0]]):
        together[source.table, tuple(id(box) for box in boxes)].append(source)
    left: list[_Box] = []
    titled = ""
    for (of, _), columns in sorted(together.items(), key=lambda group: order[group[1][0]]):
        left.append(_Box("" if of == titled else of, _names(columns, _WIDTHS[0]), into=uses[columns[0]]))
        titled = of
    return left, right


def _names(columns: Sequence[Column], most: int) -> list[str]:
    # A name is never broken, not even at a hyphen or where it is longer than a line.
    text = ", ".join(column.name for column in columns)
    return wrap(text, most, break_long_words=False, break_on_hyphens=False)


def _stack(boxes: list[_Box]) -> int:
    """Place the boxes below each other; those of one table touch."""
    y = _SPACE
    for number, box in enumerate(boxes):
        y += _SPACE if number and box.title else 4 if number else 0
        box.y = y
        y += box.height
    return y + _SPACE


def _curve(x: int, y: int, to_x: int, to_y: int, colour: str) -> str:
    middle = (x + to_x) // 2
    path = f"M{x} {y}C{middle} {y} {middle} {to_y} {to_x} {to_y}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3" opacity=".75"/>'


def _drawn(box: _Box, x: int, width: int, colour: str) -> str:
    frame = f'<rect x="{x}" y="{box.y}" width="{width}" height="{box.height}" rx="4" fill="#fafafa" stroke="{colour}"/>'
    return frame + "".join(_texts(box, x + _PADDING))


def _texts(box: _Box, x: int) -> Iterator[str]:
    y = box.y + _PADDING + 11
    if box.title:
        yield f'<text x="{x}" y="{y}" font-weight="bold">{escape(box.title)}</text>'
        y += _LINE
    for line in box.lines:
        yield f'<text x="{x}" y="{y}">{escape(line)}</text>'
        y += _LINE
