"""Reading the files of a package that anybody may have made, from a folder or a zip file.

Nothing is unpacked to disk, nothing but regular files is opened, and no package costs more than the
bounds below allow.
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
"""Rows of all its tables together."""
MOST_ARCHIVE = 2**27
"""Bytes of a zip file, and of all that is in it (technical reports too)."""
MOST_MEMBERS = 2000
MOST_RATIO = 200
"""Bytes of a member by its bytes in the archive; not asked of less than a megabyte."""

_END = struct.Struct("<4s4H2LH")  # the record that ends a zip file
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075  # extra fields of a record
_ENCRYPTED = 0x2061  # flags of a record: encryption, patches
_DESCRIPTORS = (0, 12, 16, 20, 24)  # bytes that may follow a member whose sizes stand behind it
_LOCAL = struct.Struct("<6x2H4x3L2H")  # of a member's own record
_MOST_DIRECTORY = MOST_MEMBERS * 600
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # zipfile's, of a later version of the format
    OSError,  # of an offset outside the file
    OverflowError,
    ValueError,  # of a name that is not in the encoding it states
)


def entries(folder: Traversable) -> list[Traversable]:
    """What lies in a folder, sorted by name.

    Raises:
        AsdjaxError: the folder cannot be read, or holds more than `MOST_ENTRIES`.
    """
    try:
        found = list(itertools.islice(folder.iterdir(), MOST_ENTRIES + 1))
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be read ({error.strerror})") from error
    if len(found) > MOST_ENTRIES:
        raise ArtifactError(f"{folder}: more than {MOST_ENTRIES} files and folders: no submission")
    return sorted(found, key=lambda entry: entry.name)


def is_folder(entry: Traversable) -> bool:
    """Whether an entry is a folder; links are followed.

    Raises:
        AsdjaxError: the folder around it may not be entered.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        raise ArtifactError(f"{entry}: cannot be read ({error.strerror})") from error


class Allowance:
    """How much of a package's tables may still be read."""

    def __init__(self) -> None:
        self.left = MOST_TABLES
        """Bytes."""
        self.rows = MOST_ROWS

    def read(self, file: Traversable) -> bytes:
        """The content of a file.

        Raises:
            AsdjaxError: not a regular file, not readable, or larger than what is left.
        """
        try:
            opened = user_files.open_regular(file) if isinstance(file, Path) else file.open("rb")
            with opened:
                content = opened.read(self.left + 1)
        except OSError as error:
            raise ArtifactError(f"{file}: cannot be read ({error.strerror})") from error
        except zlib.error as error:  # behind the size that an archive states
            raise ArtifactError(f"{file}: cannot be read (damaged in the archive)") from error
        if len(content) > self.left:
            self.left = 0
            raise ArtifactError(
                f"{file}: not read: the tables are larger than {MOST_TABLES:,} bytes together"
            )
        self.left -= len(content)
        return content


@contextmanager
def open_zip(path: Path) -> Iterator[tuple[Traversable, list[str]]]:
    """The inside of a zip file, whose members are all whole, and what is wrong with the archive.

    Raises:
        AsdjaxError: not a plain zip file, a damaged one, one that is larger than the bounds allow,
            or one whose names or records lead two programs to unpack different files.
    """
    content = user_files.read_bytes(path, most=MOST_ARCHIVE)
    counts = _check_end(content, path)
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except _UNREADABLE as error:
        raise _no_zip(path, "its list of files is damaged") from error
    with archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise ArtifactError(f"{path}: more than {MOST_MEMBERS} files in it: no submission")
        if counts != (0, 0, len(members), len(members)):
            raise _no_zip(path, "its end does not count the files that its list names")
        for member in members:
            if why := _refusal(member):
                raise ArtifactError(f"{path}: {shown(member.orig_filename)} in it {why}")
        if sum(member.file_size for member in members) > MOST_ARCHIVE:
            raise ArtifactError(f"{path}: more than {MOST_ARCHIVE:,} bytes when unpacked")
        _check_records(content, archive, path)
        for member in members:
            _check_content(archive, member, path)
        faults = _faults(members, path) + [
            f"{path}: {member.filename} in the archive ends elsewhere than the archive states: "
            "make it again"
            for member in members
            if _ends_elsewhere(content, member)
        ]
        archive.filename = str(path)
        yield zipfile.Path(archive), faults


def _no_zip(path: Path, why: str) -> AsdjaxError:
    return ArtifactError(f"{path}: cannot be read as a zip file ({why})")


def _check_end(content: bytes, path: Path) -> tuple[int, ...]:
    """The end record's numbers of disks and files: of this one, of the directory's, here, in all.

    A file with no end record, with two, or with one that announces a huge directory is refused.
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
        raise _no_zip(path, "its end is missing, or something follows it")
    at, size, counts = ends[0]
    if len(ends) > 1 or at != last:
        raise _no_zip(path, "two places in it could be its end")
    if content[max(0, at - 20) : at].startswith(b"PK\6\7"):
        raise _no_zip(path, "it is of the kind zip64, which a submission does not need")
    if size > _MOST_DIRECTORY:
        raise ArtifactError(f"{path}: more than {MOST_MEMBERS} files in it: no submission")
    return counts


def _refusal(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, by what the archive's directory says of it."""
    name = member.orig_filename
    parts = name.removesuffix("/").split("/")
    if not name.isprintable():
        return "has a character in its name that does not print"
    if "\\" in name:
        return "has a backslash in its name: in a zip file / divides folders"
    if max(map(len, parts)) > 255 or len(parts) > 10:
        return "has too long a name"
    if {"", ".", ".."} & {*parts} or parts[0][1:2] == ":":
        return "is not a plain path inside the archive"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device: put the file itself"
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted: make the archive without a password"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is compressed by another method than deflate: make the archive again"
    if _second_name(member.extra, name):
        return "has a second name, which other programs would unpack: make the archive again"
    if member.file_size > 2**20 and member.file_size > MOST_RATIO * member.compress_size:
        return f"is more than {MOST_RATIO} times as large when unpacked"
    return None


def _second_name(extra: bytes, name: str) -> bool:
    """Whether a record's extra fields hold a Unicode path that is not its name."""
    # one byte of version and four of a checksum come before the path
    return any(
        kind == _UNICODE_PATH and value[5:] != name.encode() for kind, value in _extra_fields(extra)
    )


def _extra_fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and value of a record's extra fields."""
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        yield kind, extra[at + 4 : at + 4 + size]
        at += 4 + size


def _check_records(content: bytes, archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that share bytes, and bytes between them that belong to none.

    A small archive of such members may unpack to any size; a program that reads from front to back
    unpacks files that the directory does not list.
    """
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    starts = [*(member.header_offset for member in members), archive.start_dir]
    for member, (at, next_one) in zip(members, itertools.pairwise(starts), strict=True):
        if not 0 <= at <= archive.start_dir - 30:
            raise _no_zip(path, "a member lies outside it")
        flags, method, crc, packed, size, name, extra = _LOCAL.unpack_from(content, at)
        begin = at + 30 + name + extra
        end = begin + member.compress_size
        if end > next_one:
            raise _no_zip(path, "two members overlap")
        fields = dict(_extra_fields(content[begin - extra : begin]))
        if packed == size == 0xFFFFFFFF and len(fields.get(_ZIP64, b"")) == 16:
            size, packed = struct.unpack("<2Q", fields[_ZIP64])
        if _second_name(content[begin - extra : begin], member.orig_filename):
            raise _no_zip(path, "a member has two names")
        stated = member.CRC, member.compress_size, member.file_size
        found = (crc, packed, size)
        # What is not known when a record is written stands behind the content.
        later = flags & 8 and all(
            value in (0, 0xFFFFFFFF, true) for value, true in zip(found, stated, strict=True)
        )
        same = method == member.compress_type and not (flags ^ member.flag_bits) & (8 | _ENCRYPTED)
        if not same or not (found == stated or later):
            raise _no_zip(path, "a file's own record and the list of files state different things")
        if next_one - end not in (_DESCRIPTORS if member.flag_bits & 8 else (0,)):
            raise _no_zip(path, "bytes between its files belong to none of them")


def _check_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Read a member in small parts, whatever size it states: whole and undamaged?"""
    try:
        with archive.open(member) as opened:
            while opened.read(2**20):
                pass
    except _UNREADABLE as error:
        raise ArtifactError(
            f"{path}: {shown(member.orig_filename)} in the archive is damaged: make it again"
        ) from error


def _ends_elsewhere(content: bytes, member: zipfile.ZipInfo) -> bool:
    """Whether a whole member ends before the last of the bytes stated for it, or goes on.

    Behind a deflate stream's own end a program that reads from front to back finds the next file.
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
    except zlib.error:  # behind the stated size
        return True
    return len(unpacked) > member.file_size or not unpacker.eof or bool(unpacker.unused_data)


def _faults(members: Sequence[zipfile.ZipInfo], path: Path) -> list[str]:
    """Names that two files share, on some computers at least, and bytes before the first file."""
    faults: list[str] = []
    names: dict[str, str] = {}
    for name in (member.filename for member in members):
        folded = unicodedata.normalize("NFC", name.removesuffix("/")).casefold()
        other = names.setdefault(folded, name)
        if other is name:
            continue
        if other == name:
            faults.append(f"{path}: {name} is twice in the archive")
        else:
            faults.append(f"{path}: {name} and {other} in the archive have one name")
    folders = {parent for name in names for parent in _parents(name)}
    faults += [
        f"{path}: {name} in the archive is a file and a folder"
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
