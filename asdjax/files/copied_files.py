"""Files that have no file of their own on a disk, and are copied to a temporary one for reading."""

import dataclasses
import io
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path


class Copied(ABC):
    """A file in an archive or in memory."""

    __slots__ = ()

    @property
    @abstractmethod
    def path(self) -> Path:
        """For messages and tables."""

    @abstractmethod
    def parts(self) -> Iterable[bytes]:
        """The content, in order.

        Raises:
            AsdjaxError: it cannot be read.
            OSError: likewise.
        """

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> io.BufferedReader:
        """Copy the content to a temporary file without a name, and open that.

        Raises:
            AsdjaxError: as for `parts`.
            OSError: likewise, or the copy cannot be written.
        """
        with tempfile.TemporaryFile() as copy:
            copy.writelines(self.parts())
            copy.seek(0)
            return open(os.dup(copy.fileno()), "rb")


@dataclasses.dataclass(frozen=True, slots=True)
class Held(Copied):
    """A file in memory."""

    name: str
    content: bytes = dataclasses.field(repr=False)

    @property
    def path(self) -> Path:
        """The name as a path."""
        return Path(self.name)

    def parts(self) -> Iterable[bytes]:
        """The content."""
        return (self.content,)
