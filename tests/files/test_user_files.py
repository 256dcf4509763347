"""Files that a user names: regular ones are read, all others refused without being opened."""

import os
import socket
from pathlib import Path

import pytest

from asdjax.errors import AsdjaxError
from asdjax.files import user_files


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in "file", "link":
        assert user_files.read_bytes(tmp_path / name, most=7) == b"content"
        assert user_files.read_text(tmp_path / name, most=7) == "content"


def test_others_are_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer for ever
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path may be 107 bytes long
        listener.bind("socket")
    cases = {
        tmp_path: "a directory",
        tmp_path / "fifo": "a FIFO",
        tmp_path / "socket": "a socket",
        Path("/dev/zero"): "a device",
    }
    for path, kind in cases.items():
        with pytest.raises(AsdjaxError, match=f"^{path}: .*{kind}.*regular file"):
            user_files.open_regular(path)


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"\xff" * 8)
    with pytest.raises(AsdjaxError, match="gone: .*No such file"):
        user_files.open_regular(tmp_path / "gone")
    with pytest.raises(AsdjaxError, match="null (byte|character)"):
        user_files.open_regular(Path("a\0b"))
    with pytest.raises(AsdjaxError, match="file: .*7 bytes"):
        user_files.read_bytes(tmp_path / "file", most=7)
    with pytest.raises(AsdjaxError, match="file: .*UTF-8"):
        user_files.read_text(tmp_path / "file", most=8)
