"""Sound files in tar archives, as WebDataset writes them, each read at its place without a scan."""

import dataclasses
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from asdjax.errors import ArtifactError
from asdjax.files.copied_files import Copied
from asdjax.files.user_files import open_regular, unreadable

_MOST_AT_ONCE = 2**20  # bytes that a header may have: names of a few thousand characters


@dataclasses.dataclass(frozen=True, slots=True)
class Member(Copied):
    """A file in a tar archive."""

    tar: Path
    name: str
    offset: int
    """Of its first byte in the archive."""
    size: int
    """Bytes."""

    @property
    def path(self) -> Path:
        """The path of the archive, followed by the name in it: for messages and tables."""
        return self.tar / self.name

    def parts(self) -> Iterator[bytes]:
        """The content, in order.

        Raises:
            AsdjaxError: the archive cannot be opened, or is too short.
            OSError: the archive cannot be read.
        """
        with open_regular(self.tar) as tar:
            tar.seek(self.offset)
            left = self.size
            while left and (content := tar.read(min(left, _MOST_AT_ONCE))):
                yield content
                left -= len(content)
        if left:
            raise ArtifactError(f"{self}: the archive ends {left} bytes too early: restore it")


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A member that is not read, or that the archive cannot be read to its end."""

    name: str
    """Empty: of the archive."""
    reason: str


def members(path: Path) -> Iterator[Member | Refused]:
    """The files in a tar archive without compression, in order; folders are passed over.

    Links, sparse files, names that lead out of the archive, names that come twice, and members that
    are longer than the archive are refused. The last member must be followed by zeros alone:
    `tarfile` takes a damaged header, and the end of the file, for the end of the archive.

    Raises:
        AsdjaxError: the file cannot be read.
    """
    with open_regular(path) as file:
        size, seen = os.fstat(file.fileno()).st_size, set[str]()
        try:
            bounded = _Bounded(file)
            with tarfile.TarFile(fileobj=bounded) as tar:
                place = -1
                while (info := tar.next()) is not None:
                    if info.offset <= place:
                        raise tarfile.ReadError("its headers lead backwards")
                    place = info.offset
                    if info.isdir():
                        continue
                    reason = _refusal(info, size, seen)
                    seen.add(str(PurePosixPath(info.name)))
                    if reason is not None:
                        yield Refused(info.name, reason)
                    else:
                        yield Member(path, info.name, info.offset_data, info.size)
            if not bounded.is_over():
                yield Refused("", "is cut, damaged or joined with another: restore it")
        except OSError as error:
            raise ArtifactError(unreadable(path, error)) from error
        except (tarfile.TarError, ValueError, RecursionError) as error:
            # ValueError: of numbers in headers; RecursionError: of headers that name the next one
            reason = f"cannot be read as a tar archive without compression ({error}): restore it"
            yield Refused("", reason)


def _refusal(info: tarfile.TarInfo, size: int, seen: set[str]) -> str | None:
    """Why a member is refused; None if it is not."""
    if not info.isreg() or info.issparse():
        return "is a link, a device or a sparse file: store the file itself"
    if not info.name.strip("/."):
        return "it has no name: the archive is damaged: restore it"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "its name leads out of the archive: give it a relative name"
    if str(PurePosixPath(info.name)) in seen:
        return "its name is in the archive twice: give each file its own"
    if info.size < 0 or info.offset_data + info.size > size:
        return f"states {info.size} bytes, more than the archive has: restore it"
    return None


class _Bounded(io.RawIOBase):
    """A file for reading whose single reads are limited: a header may claim any length."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._last = b""

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self._last = self._file.read(size)
        return self._last

    def is_over(self) -> bool:
        """Whether the last read was a block of zeros, and only zeros follow."""
        if len(self._last) < tarfile.BLOCKSIZE or any(self._last):
            return False
        while content := self._file.read(_MOST_AT_ONCE):
            if content.strip(b"\0"):
                return False
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
