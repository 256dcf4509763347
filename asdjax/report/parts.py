"""What a page is made of: headings, tables, figures and sounds, in order."""

import base64
import dataclasses
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[+-]?\d|-$|$")
"""How a cell with a number begins, or one without a value is."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first row is the header."""

    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def words(self) -> set[int]:
        """The columns that are not of numbers; they are set from the left."""
        columns = enumerate(zip(*self.rows[1:], strict=True))
        return {i for i, cells in columns if not all(_NUMBER.match(cell) for cell in cells)}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture."""

    content: bytes
    """SVG, PNG or JPEG."""
    caption: str
    long: bool = False
    """Much wider than high: scrolled on narrow screens."""

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        kinds = {b"\x89PNG": "png", b"<?xm": "svg+xml"}
        kind = kinds.get(self.content[:4], "jpeg")
        return f"data:image/{kind};base64,{base64.b64encode(self.content).decode()}"


@dataclasses.dataclass(frozen=True)
class Sound:
    """A recording that can be played."""

    mp3: bytes
    caption: str

    @property
    def source(self) -> str:
        """The sound as a data URL."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.mp3).decode()}"


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Tile:
    """A figure in large letters."""

    value: str
    words: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Verbatim:
    """Lines in a fixed font that can be copied; closed until asked for."""

    title: str
    text: str


Item = Table | Figure | Sound | Text | Tile | Verbatim


@dataclasses.dataclass(frozen=True)
class Row:
    """Items side by side where the page is wide enough."""

    items: Sequence[Item]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what follows it."""

    title: str
    items: Sequence[Item | Row] = ()
    sections: Sequence["Section"] = ()
