"""Printed tables: as Markdown, and for a terminal of any width.

A table is a caption and rows of cells, the header first; the first cell of a row is its name. A
cell may have more lines, such as the interval of a figure. Names may come from a data set: callers
pass them through `console.printable`; they are not interpreted as markup.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

_ANY_WIDTH = 10**6
_WIDE = 120  # terminals of this width or more always show intervals
_LEFT_OUT = "intervals: --json or a wider terminal"


class Table(NamedTuple):
    """One printed table."""

    caption: str
    cells: list[list[str]]
    total: bool = True
    """Whether the last row summarises the others and is set apart by a line."""


def markdown(table: Table) -> str:
    """A table as Markdown; the lines of a cell are joined by spaces."""
    escaped = [[cell.replace("\n", " ").replace("|", "\\|") for cell in row] for row in table.cells]
    header, *body = escaped
    rule = ["---"] + ["---:"] * (len(header) - 1)
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *body)]
    return "\n".join([table.caption, "", *lines])


class Fitted:
    """Tables for a terminal, fitted to its width when rich prints them.

    Below 120 columns, a table that is too wide is printed without intervals. If it is still too
    wide, its columns are split over several grids, and if a name leaves no space for a column, it
    becomes a list. Names and figures are never cut.
    """

    def __init__(self, whole: Sequence[Table], brief: Sequence[Table], legend: Sequence[str]):
        """Take the tables with intervals, the same ones without, and lines to print after them."""
        self._pairs = list(zip(whole, brief, strict=True))
        self._legend = legend

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left_out = False
        for pair in self._pairs:
            whole, brief = (_spelled(table, options.encoding) for table in pair)
            parts = _grids(whole, 1, console, options)
            chosen = whole if parts or options.max_width >= _WIDE else brief
            left_out |= chosen != whole
            yield Text(chosen.caption, style="italic")
            yield from parts or _narrow(chosen, console, options)
        for line in [*self._legend, *([_LEFT_OUT] if left_out else [])]:
            yield Text(line)


def _spelled(table: Table, encoding: str) -> Table:
    """A table with characters outside the terminal's encoding replaced by escapes."""

    def spelled(text: str) -> str:
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            return text.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)
        return text

    cells = [[spelled(cell) for cell in row] for row in table.cells]
    return Table(spelled(table.caption), cells, table.total)


def _narrow(table: Table, console: Console, options: ConsoleOptions) -> list[Grid] | list[Text]:
    """As few grids as fit the terminal, or a list if none fit."""
    for count in range(1, len(table.cells[0])):
        grids = _grids(table, count, console, options)
        if grids is not None:
            return grids
    header, *body = table.cells
    lines = []
    for name, *values in body:
        pairs = zip(header[1:], values, strict=True)
        lines += [name, *(f"  {column} {value}".replace("\n", " ") for column, value in pairs)]
    return [Text(line, overflow="fold") for line in lines]


def _grids(
    table: Table, count: int, console: Console, options: ConsoleOptions
) -> list[Grid] | None:
    """A table in `count` grids, each with the names of the rows; None if one is too wide."""
    grids = [
        _grid([[row[0], *(row[i] for i in part)] for row in table.cells], table.total)
        for part in np.array_split(np.arange(1, len(table.cells[0])), count)
    ]
    unbound = options.update(width=_ANY_WIDTH)
    widths = [Measurement.get(console, unbound, grid).maximum for grid in grids]
    return grids if max(widths) <= options.max_width else None


def _grid(cells: Sequence[Sequence[str]], total: bool) -> Grid:
    """A grid of cells; lines after the first are dim, and a line sets a total apart."""
    header, *body = cells
    grid = Grid()
    grid.add_column(Text(header[0]), no_wrap=True)
    for name in header[1:]:
        grid.add_column(Text(name.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    for row in body:
        parts = [cell.partition("\n") for cell in row]
        texts = [Text.assemble(first, end, (rest, "dim")) for first, end, rest in parts]
        grid.add_row(*texts, end_section=total and row is body[-2:][0])
    return grid
