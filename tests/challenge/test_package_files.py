"""Untrusted packages: zip files, ordinary and hostile."""

import io
import os
import random
import stat
import struct
import zipfile
import zlib

import pytest
from support.packages import LABEL, SCORES, error, faults, zip_bytes
from support.packages import system as system  # a fixture

from asdjax.challenge import package_files
from asdjax.errors import ArtifactError

# zip files


def special(name, mode):
    """A member that Unix programs do not unpack as a regular file."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (mode | 0o777) << 16
    return member


def raw_zip(members, *, size=None):
    """A zip file built record by record.

    Args:
        members: per entry of the directory: name, packed content, stated size and checksum,
            method, and whether it has its own record or points to the one before it.
        size: stated size of the directory, if not the true one.
    """
    body, directory, offset = b"", b"", 0
    for name, packed, unpacked, checksum, method, own in members:
        facts = (method, 0, 0, checksum, len(packed), unpacked, len(name), 0)
        if own:
            offset = len(body)
            body += struct.pack("<4s2H", b"PK\3\4", 20, 0) + struct.pack("<3H3L2H", *facts)
            body += name + packed
        directory += struct.pack("<4s3H", b"PK\1\2", 20, 20, 0) + struct.pack("<3H3L2H", *facts)
        directory += struct.pack("<3H2L", 0, 0, 0, 0, offset) + name
    count = len(members)
    length = len(directory) if size is None else size
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, length, len(body), 0)
    return body + directory + end


def stored(name, content, own=True):
    """An entry for `raw_zip` without compression."""
    return name, content, len(content), zlib.crc32(content), 0, own


class Stream(io.RawIOBase):
    """A file without seek: zipfile then writes sizes after the content."""

    def __init__(self):
        self.content = b""

    def write(self, data):
        """Append."""
        self.content += bytes(data)
        return len(data)


def unpacked_size_first(content):
    """As by Info-ZIP into a pipe and libarchive: the record has the unpacked size only."""
    changed = bytearray(content)
    for member in zipfile.ZipFile(io.BytesIO(content)).infolist():
        struct.pack_into("<L", changed, member.header_offset + 22, member.file_size)
    return bytes(changed)


def test_ordinary_archives_of_other_programs(system, tmp_path):
    package = tmp_path / "p.zip"
    streamed = Stream()
    with zipfile.ZipFile(streamed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in system.iterdir():
            archive.writestr(f"task2/{LABEL}/{file.name}", file.read_bytes())
    with_zip64 = io.BytesIO()
    with zipfile.ZipFile(with_zip64, "w") as archive:
        for file in system.iterdir():
            member = zipfile.ZipInfo(f"task2/{LABEL}/{file.name}")
            with archive.open(member, "w", force_zip64=True) as opened:
                opened.write(file.read_bytes())
    for content in (
        zip_bytes(system),
        zip_bytes(system, method=zipfile.ZIP_STORED),
        zip_bytes(system, ("task2/", b""), (f"task2/{LABEL}/", b""), comment=b"made by hand"),
        zip_bytes(system, ("x.technical_report.pdf", os.urandom(2**20))),
        streamed.content,
        unpacked_size_first(streamed.content),
        with_zip64.getvalue(),
    ):
        package.write_bytes(content)
        assert faults(package) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "'../x' in it "),
        (f"task2/{LABEL}/../../../x", "not a plain path"),
        ("/etc/passwd", "not a plain path"),
        ("//x", "not a plain path"),  # endless loop in zipfile.Path of Python 3.11.0
        ("task2//x", "not a plain path"),
        ("./x", "not a plain path"),
        ("C:/x", "not a plain path"),
        ("task2\\x", "a backslash"),
        ("task2/\x1b[31m", "'task2/\\x1b[31m' in it has unprintable"),
        ("task2/a\nb", "'task2/a\\nb' in it has unprintable"),
        ("task2/\u202egpj.exe", "'task2/\\u202egpj.exe' in it has unprintable"),
        ("x" * 300, "too long"),
        ("a/" * 20 + "b", "too long"),
    ],
)
def test_names_in_an_archive(system, tmp_path, name, words):
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system, (name, b"1")))
    assert words in error(package)


@pytest.mark.parametrize("name", [b"task2/a\0b", b"task2/\x81\x82"])
def test_names_that_zipfile_would_not_write(tmp_path, name):
    package = tmp_path / "p.zip"
    package.write_bytes(raw_zip([stored(name, b"1")]))
    if b"\0" in name:
        assert "'task2/a\\x00b' in it has unprintable" in error(package)
    else:  # a name in the encoding of MS-DOS
        assert any("task2/üé: only the systems' folders" in fault for fault in faults(package))


def test_names_that_differ_by_case_or_unicode_form(system, tmp_path):
    package = tmp_path / "p.zip"
    other = f"task2/{LABEL}/{SCORES.upper()}"
    package.write_bytes(zip_bytes(system, (other, b"")))
    assert f"{package}: {other} and task2/{LABEL}/{SCORES} " in " ".join(faults(package))
    package.write_bytes(zip_bytes(system, ("e\u0301.technical_report.pdf", b""),
                                  ("\xe9.technical_report.pdf", b"")))  # fmt: skip
    assert "Unicode form" in " ".join(faults(package))
    package.write_bytes(zip_bytes(system, (f"task2/{LABEL}", b"")))
    assert f"{package}: task2/{LABEL} in the archive is a file and a folder" in (
        " ".join(faults(package))
    )


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_members_that_are_not_files(system, tmp_path, mode):
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system, (special("task2/l", mode), b"/etc/passwd")))
    assert "'task2/l' in it is a link" in error(package)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_of_unbounded_memory(system, tmp_path, method):
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system, method=method))
    assert "deflate" in error(package)


def test_archives_that_are_large_when_unpacked(system, tmp_path, monkeypatch):
    package = tmp_path / "p.zip"
    report = "x.technical_report.pdf"
    package.write_bytes(zip_bytes(system, (report, bytes(2**21))))
    assert "more than 200 times" in error(package)
    monkeypatch.setattr(package_files, "MOST_ARCHIVE", 2**21)
    package.write_bytes(zip_bytes(system, *((f"{i}{report}", bytes(2**20)) for i in range(2))))
    assert "2,097,152 bytes when unpacked" in error(package)
    package.write_bytes(zip_bytes(system, (report, os.urandom(2**21))))
    assert "larger than 2,097,152 bytes" in error(package)


def test_a_member_longer_than_its_stated_size(tmp_path):
    """Ten bytes of a table with their checksum, followed by a hundred megabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"a.wav,0.5\n" + bytes(100 * 2**20)) + packer.flush()
    name = f"task2/{LABEL}/{SCORES}".encode()
    package = tmp_path / "p.zip"
    package.write_bytes(raw_zip([(name, packed, 10, zlib.crc32(b"a.wav,0.5\n"), 8, True)]))
    found = faults(package)
    assert any(f"{SCORES}: row 1: 'a.wav'" in fault for fault in found)
    assert any("has another size than stated" in fault for fault in found)


def hidden_record():
    """A member's record and content without a directory."""
    content = raw_zip([stored(b"task2/hidden", b"B" * 99)])
    return content[: content.index(b"PK\1\2")]


@pytest.mark.parametrize(
    ("method", "excess"), [(zipfile.ZIP_DEFLATED, b""), (zipfile.ZIP_DEFLATED, b"x"), (0, b"")]
)
def test_a_file_inside_the_bytes_of_another(system, tmp_path, method, excess):
    """Programs that read a stream find it at the end of the first member's content."""
    package, table = tmp_path / "p.zip", b"a.wav,0.5\n"
    name = f"task2/{LABEL}/{SCORES}".encode()
    packed = table + excess
    if method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(packed) + packer.flush()
    fault = f"{package}: {name.decode()} in the archive has another size than stated"
    for behind in (b"", hidden_record()):
        member = name, packed + behind, len(table), zlib.crc32(table), method, True
        package.write_bytes(raw_zip([member]))
        found = any(text.startswith(fault) for text in faults(package))
        assert found == bool(behind or excess)


@pytest.mark.parametrize(("excess", "behind"), [(b"", b""), (b"~", b"\xff" * 9)])
def test_a_deflate_stream_without_its_end(tmp_path, excess, behind):
    package, name = tmp_path / "p.zip", f"task2/{LABEL}/{SCORES}".encode()
    table = bytes(range(256)) * 2**12  # more than a megabyte: the rest is not read with it
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(table + excess) + packer.flush(zlib.Z_SYNC_FLUSH) + behind
    package.write_bytes(raw_zip([(name, packed, len(table), zlib.crc32(table), 8, True)]))
    assert any("has another size than stated" in fault for fault in faults(package))


@pytest.mark.parametrize("place", [4, 6, 8, 10])  # disks, files on this one, files
def test_an_end_record_with_another_number_of_files(system, tmp_path, place):
    package, content = tmp_path / "p.zip", bytearray(zip_bytes(system))
    for change in (1, -1) if place > 6 else (1,):
        changed = bytearray(content)
        changed[len(content) - 22 + place] += change
        package.write_bytes(changed)
        assert "end record" in error(package)


def test_members_that_share_bytes(tmp_path):
    package = tmp_path / "p.zip"
    twice = [stored(b"task2/x", b"A" * 1000), stored(b"task2/x", b"A" * 1000, own=False)]
    package.write_bytes(raw_zip(twice))
    assert "overlap" in error(package)
    content = raw_zip([stored(b"task2/x", b"A")])
    at = content.rindex(b"PK\1\2") + 42
    package.write_bytes(content[:at] + struct.pack("<L", 2**31) + content[at + 4 :])
    assert "outside" in error(package)


def test_a_member_with_two_names(system, tmp_path):
    """Info-ZIP's Unicode path, in the directory or in the member's local header."""
    package = tmp_path / "p.zip"
    member = zipfile.ZipInfo("x.technical_report.pdf")
    name = b"x.technical_report.pdf"
    member.extra = struct.pack("<2HBL", 0x7075, 5 + len(name), 1, zlib.crc32(name)) + name
    package.write_bytes(zip_bytes(system, (member, b"x")))
    assert faults(package) == []
    member.extra = member.extra.replace(b"x.tech", b"y.tech")
    content = zip_bytes(system, (member, b"x"))
    package.write_bytes(content)
    assert "pdf' in it has two names" in error(package)
    at = content.rindex(b"\x75\x70")  # in the directory; the first is in the member's record
    package.write_bytes(content[:at] + b"\x99\x99" + content[at + 2 :])
    assert "a file has two names" in error(package)


def test_a_file_that_the_directory_does_not_list(tmp_path):
    """Programs that read a stream would unpack it."""
    package = tmp_path / "p.zip"
    listed, hidden = raw_zip([stored(b"task2/x", b"A")]), raw_zip([stored(b"task2/y", b"B")])
    hidden = hidden[: hidden.index(b"PK\1\2")]
    at, end = listed.index(b"PK\1\2"), listed.index(b"PK\5\6")
    place = struct.unpack_from("<L", listed, end + 16)[0] + len(hidden)
    content = listed[:at] + hidden + listed[at : end + 16] + struct.pack("<L", place)
    package.write_bytes(content + listed[end + 20 :])
    assert "belong to no file" in error(package)


def test_a_local_header_that_differs_from_the_directory(system, tmp_path):
    """Programs that read a stream use the local header."""
    package, content = tmp_path / "p.zip", zip_bytes(system, method=zipfile.ZIP_STORED)
    for place in (6, 8, 14, 18, 22):  # encryption, method, CRC, sizes of the first record
        changed = bytearray(content)
        changed[place] ^= 1
        package.write_bytes(changed)
        assert "local header" in error(package)


def test_too_many_members(system, tmp_path):
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system, *((f"task2/{i}", b"") for i in range(2001))))
    assert "more than 2000 files in it" in error(package)
    package.write_bytes(raw_zip([stored(b"x", b"")], size=2**31))
    assert "more than 2000 files in it" in error(package)


def test_where_an_archive_begins_and_ends(system, tmp_path):
    package, content = tmp_path / "p.zip", zip_bytes(system)
    package.write_bytes(b"MZ" + content)
    (fault,) = faults(package)
    assert fault.startswith(f"{package}: ") and "2 bytes" in fault
    inner = raw_zip([stored(b"x", b"")])
    for comment in (inner, b"PK\5\6", b"PK\5\6" + bytes(18)):
        package.write_bytes(zip_bytes(system, comment=comment))
        assert "two end records" in error(package)
    for text in (b"", b"x", b"PK\5\6", content[:-1], content + b"x", content[:100]):
        package.write_bytes(text)
        assert "end record is missing" in error(package)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    package.write_bytes(content[:-22] + locator + content[-22:])
    assert "zip64" in error(package)
    package.write_bytes(raw_zip([]))
    assert "no folder task2" in " ".join(faults(package))


def test_encrypted_members(system, tmp_path):
    content = bytearray(zip_bytes(system))
    content[content.rindex(b"PK\1\2") + 8] |= 1
    package = tmp_path / "p.zip"
    package.write_bytes(content)
    assert "is encrypted" in error(package)


def test_archives_in_archives_are_not_opened(system, tmp_path):
    package = tmp_path / "p.zip"
    package.write_bytes(zip_bytes(system, (f"task2/{LABEL}/inner.zip", raw_zip([]))))
    assert [fault for fault in faults(package) if "inner.zip: not a file of a submission" in fault]


def test_damaged_archives_give_one_short_error(system, tmp_path):
    """A small part of a longer search, which found no other failure."""
    rng = random.Random(0)
    package = tmp_path / "p.zip"
    originals = [zip_bytes(system), zip_bytes(system, method=zipfile.ZIP_STORED)]
    for _ in range(300):
        content = bytearray(rng.choice(originals))
        first = rng.choice([0, content.index(b"PK\1\2")])
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(first, len(content))
            content[at] = rng.choice([0, 255, rng.randrange(256)])
        package.write_bytes(content)
        try:
            faults(package)
        except ArtifactError as refusal:
            assert str(refusal).startswith(f"{package}: ") and len(str(refusal)) < 500
