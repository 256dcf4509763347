"""What a page is made of: headings, tables, figures and sounds, in order."""

import base64
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; the first row is the header."""

    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture."""

    content: bytes
    """PNG or JPEG."""
    caption: str

    @property
    def source(self) -> str:
        """The picture as a data URL."""
        kind = "png" if self.content.startswith(b"\x89PNG") else "jpeg"
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
class Verbatim:
    """Lines in a fixed font that can be copied; closed until asked for."""

    title: str
    text: str


Item = Table | Figure | Sound | Text | Verbatim


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what follows it."""

    title: str
    items: Sequence[Item] = ()
    sections: Sequence["Section"] = ()

    @property
    def anchor(self) -> str:
        """A name for links, of letters, digits and hyphens."""
        return "-".join(
            "".join(c if c.isascii() and c.isalnum() else " " for c in self.title).split()
        )
