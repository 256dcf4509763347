"""Reading the files of an untrusted package, from a folder or a zip file.

Nothing is unpacked to disk, only regular files are opened, and the limits below bound the memory
and time.
"""

import io
import itertools
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path

from asdjax.config.schema import shown
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import user_files

MOST_ENTRIES = 400
"""Files and folders in one folder."""
MOST_TABLES = 2**26
"""Bytes of all tables and meta.yaml files of a package together."""
MOST_ROWS = 500_000
"""Rows of all tables of a package together."""
MOST_ARCHIVE = 2**27
"""Bytes of a zip file, and of all its members when unpacked (also technical reports)."""
MOST_MEMBERS = 2000
MOST_RATIO = 200
"""Unpacked by packed size of members above a megabyte."""

_END = struct.Struct("<4s4H2LH")  # the end record of a zip file
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075  # extra fields
_ENCRYPTED = 0x2061  # flags: encryption, patches
_DESCRIPTORS = (0, 12, 16, 20, 24)  # possible sizes of a data descriptor after a member
_LOCAL = struct.Struct("<6x2H4x3L2H")  # a member's local header
_MOST_DIRECTORY = MOST_MEMBERS * 600
_TOO_MANY = f"more than {MOST_MEMBERS} files in it, not a submission"
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a later version of the zip format
    OSError,  # an offset outside the file
    OverflowError,
    ValueError,  # a name that is invalid in its encoding
)


def entries(folder: Traversable) -> list[Traversable]:
    """The files and folders in a folder, sorted by name.

    Raises:
        AsdjaxError: the folder cannot be read, or has more than `MOST_ENTRIES` entries.
    """
    try:
        found = list(itertools.islice(folder.iterdir(), MOST_ENTRIES + 1))
    except OSError as error:
        raise ArtifactError(user_files.unreadable(folder, error)) from error
    if len(found) > MOST_ENTRIES:
        reason = f"more than {MOST_ENTRIES} files and folders, not a submission"
        raise ArtifactError(f"{folder}: {reason}")
    return sorted(found, key=lambda entry: entry.name)


def is_folder(entry: Traversable) -> bool:
    """Whether an entry is a folder; links are followed.

    Raises:
        AsdjaxError: no permission to enter the folder that contains it.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        raise ArtifactError(user_files.unreadable(entry, error)) from error


class Allowance:
    """The bytes and rows of a package's tables that may still be read."""

    def __init__(self) -> None:
        self.left = MOST_TABLES
        """Bytes."""
        self.rows = MOST_ROWS

    def read(self, file: Traversable) -> bytes:
        """The content of a file.

        Raises:
            AsdjaxError: not a regular file, not readable, or larger than `left`.
        """
        try:
            opened = user_files.open_regular(file) if isinstance(file, Path) else file.open("rb")
            with opened:
                content = opened.read(self.left + 1)
        except OSError as error:
            raise ArtifactError(user_files.unreadable(file, error)) from error
        except zlib.error as error:  # damage after the stated size
            raise ArtifactError(f"{file}: is damaged in the archive: make it again") from error
        if len(content) > self.left:
            self.left = 0
            raise ArtifactError(
                f"{file}: not read: the package's tables have more than {MOST_TABLES:,} bytes"
            )
        self.left -= len(content)
        return content


@contextmanager
def open_zip(path: Path) -> Iterator[tuple[Traversable, list[str]]]:
    """Open a zip file, check all its members, and list the archive's minor faults.

    Yields:
        The root of the archive, and the faults, one sentence each.

    Raises:
        AsdjaxError: not a plain zip file, damaged, larger than the limits, or ambiguous: different
            programs may unpack different files from it.
    """
    content = user_files.read_bytes(path, most=MOST_ARCHIVE)
    counts = _check_end(content, path)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _UNREADABLE as error:
        raise _no_zip(path, "its directory is damaged") from error
    with archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise ArtifactError(f"{path}: {_TOO_MANY}")
        if counts != (0, 0, len(members), len(members)):
            raise _no_zip(path, "its end record has another number of files than its directory")
        for member in members:
            if why := _refusal(member):
                raise ArtifactError(f"{path}: {shown(member.orig_filename)} in it {why}")
        if sum(member.file_size for member in members) > MOST_ARCHIVE:
            raise ArtifactError(
                f"{path}: more than {MOST_ARCHIVE:,} bytes when unpacked: do not use this file"
            )
        _check_records(content, archive, path)
        for member in members:
            _check_content(archive, member, path)
        faults = _faults(members, path) + [
            f"{path}: {member.filename} in the archive has another size than stated: make the "
            "archive again"
            for member in members
            if _has_wrong_size(content, member)
        ]
        archive.filename = str(path)
        yield zipfile.Path(archive), faults


def _no_zip(path: Path, why: str) -> AsdjaxError:
    return ArtifactError(f"{path}: cannot be read as a zip file ({why})")


def _check_end(content: bytes, path: Path) -> tuple[int, ...]:
    """Check the end record of a zip file.

    Returns:
        Its number of this disk, of the directory's disk, of files on this disk, and of all files.

    Raises:
        AsdjaxError: no end record, two candidates, zip64, or a directory that is too large.
    """
    low = max(0, len(content) - 2**16 - _END.size)
    at = content.rfind(b"PK\5\6", low)
    ends: list[tuple[int, int, tuple[int, ...]]] = []  # place, size of the directory, numbers
    last = at
    while at >= 0:
        if at + _END.size <= len(content):
            _, *numbers, size, _, comment = _END.unpack_from(content, at)
            if at + _END.size + comment == len(content):
                ends.append((at, size, tuple(numbers)))
        at = content.rfind(b"PK\5\6", low, at + 3)
    if not ends:
        raise _no_zip(path, "its end record is missing, or data follows it")
    at, size, counts = ends[0]
    if len(ends) > 1 or at != last:
        raise _no_zip(path, "it has two end records")
    if content[max(0, at - 20) : at].startswith(b"PK\6\7"):
        raise _no_zip(path, "it is in zip64 format, which is for archives of 4 GB and more")
    if size > _MOST_DIRECTORY:
        raise ArtifactError(f"{path}: {_TOO_MANY}")
    return counts


def _refusal(member: zipfile.ZipInfo) -> str | None:
    """Why a member is refused by its entry in the archive's directory; None if it is not."""
    name = member.orig_filename
    parts = name.removesuffix("/").split("/")
    if not name.isprintable():
        return "has unprintable characters in its name"
    if "\\" in name:
        return "has a backslash in its name: separate folders by /"
    if max(map(len, parts)) > 255 or len(parts) > 10:
        return "has a name that is too long"
    if {"", ".", ".."} & {*parts} or parts[0][1:2] == ":":
        return "is not a plain path inside the archive"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device: add the file itself"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted: make the archive without a password"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is not compressed by deflate: make the archive again"
    if _has_other_name(member.extra, name):
        return "has two names, and other programs may use the second: make the archive again"
    if member.file_size > 2**20 and member.file_size > MOST_RATIO * member.compress_size:
        return f"is more than {MOST_RATIO} times as large when unpacked"
    return None


def _has_other_name(extra: bytes, name: str) -> bool:
    """Whether the extra fields contain a Unicode path that differs from the name."""
    # the path follows a version of one byte and a checksum of four
    return any(
        kind == _UNICODE_PATH and value[5:] != name.encode() for kind, value in _extra_fields(extra)
    )


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each extra field."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _check_records(content: bytes, archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that overlap, differ from the directory, or have other bytes between them.

    A small archive with overlapping members may unpack to any size. A program that reads the
    archive as a stream may unpack files that the directory does not list.
    """
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in members), archive.start_dir]
    for member, (at, next_one) in zip(members, itertools.pairwise(starts), strict=True):
        if not 0 <= at <= archive.start_dir - 30:
            raise _no_zip(path, "a file's offset is outside the archive")
        flags, method, crc, packed, size, name, extra = _LOCAL.unpack_from(content, at)
        begin = at + 30 + name + extra
        end = begin + member.compress_size
        if end > next_one:
            raise _no_zip(path, "two files overlap")
        fields = dict(_extra_fields(content[begin - extra : begin]))
        if packed == size == 0xFFFFFFFF and len(fields.get(_ZIP64, b"")) == 16:
            size, packed = struct.unpack("<2Q", fields[_ZIP64])
        if _has_other_name(content[begin - extra : begin], member.orig_filename):
            raise _no_zip(path, "a file has two names")
        stated = member.CRC, member.compress_size, member.file_size
        found = (crc, packed, size)
        # A streaming writer leaves out unknown values and writes them after the content.
        deferred = flags & 8 and all(
            value in (0, 0xFFFFFFFF, true) for value, true in zip(found, stated, strict=True)
        )
        same = method == member.compress_type and not (flags ^ member.flag_bits) & (8 | _ENCRYPTED)
        if not same or not (found == stated or deferred):
            raise _no_zip(path, "a file's local header and the directory differ")
        if next_one - end not in (_DESCRIPTORS if member.flag_bits & 8 else (0,)):
            raise _no_zip(path, "bytes between its files belong to no file")


def _check_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Check that a member is undamaged; it is read in small parts, whatever its stated size."""
    try:
        with archive.open(member) as opened:
            while opened.read(2**20):
                pass
    except _UNREADABLE as error:
        raise ArtifactError(
            f"{path}: {shown(member.orig_filename)} in the archive is damaged: make it again"
        ) from error


def _has_wrong_size(content: bytes, member: zipfile.ZipInfo) -> bool:
    """Whether an undamaged member is shorter or longer than its stated sizes.

    A program that reads the archive as a stream looks for the next file where the deflate stream
    ends.
    """
    if member.compress_type == zipfile.ZIP_STORED or not member.compress_size:
        return member.compress_size != member.file_size
    *_, name, extra = _LOCAL.unpack_from(content, member.header_offset)
    begin = member.header_offset + _LOCAL.size + name + extra
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(
            content[begin : begin + member.compress_size], member.file_size + 1
        )
    except zlib.error:  # damage after the stated size
        return True
    return len(unpacked) > member.file_size or not unpacker.eof or bool(unpacker.unused_data)


def _faults(members: Sequence[zipfile.ZipInfo], path: Path) -> list[str]:
    """Duplicate names, also by case or Unicode form, and bytes before the first file."""
    faults: list[str] = []
    names: dict[str, str] = {}
    for name in (member.filename for member in members):
        folded = unicodedata.normalize("NFC", name.removesuffix("/")).casefold()
        other = names.setdefault(folded, name)
        if other is name:
            continue
        if other == name:
            faults.append(f"{path}: {name} is twice in the archive: make it again")
        else:
            reason = "differ by case or Unicode form only: rename one"
            faults.append(f"{path}: {name} and {other} in the archive {reason}")
    folders = {parent for name in names for parent in _parents(name)}
    faults += [
        f"{path}: {name} in the archive is a file and a folder: make it again"
        for folded, name in names.items()
        if folded in folders and not name.endswith("/")
    ]
    before = min((member.header_offset for member in members), default=0)
    if before:
        faults.append(f"{path}: begins with {before:,} bytes that belong to no file in it")
    return faults


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]
