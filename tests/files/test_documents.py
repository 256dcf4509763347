"""Tables as CSV files; files that are none."""

import csv
import io
import os

import pytest

from asdjax.errors import ArtifactError
from asdjax.files.documents import csv_bytes, present


@pytest.mark.parametrize("name", ["a", "a\rb", "a\nb", "a\r\nb", "a\r", '"', "a,b", "", " a "])
def test_every_text_is_read_as_it_was_written(name):
    rows = [{"file": name, "score": 0.1}, {"file": "b", "score": 1 / 3}]
    written = csv_bytes(rows)
    read = list(csv.DictReader(io.StringIO(written.decode(), newline="")))
    assert read == [{key: str(value) for key, value in row.items()} for row in rows]
    assert written.startswith(b"file,score\n") and written.endswith(b"\nb,0.3333333333333333\n")


def test_a_fifo_in_place_of_a_document_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "fifo")
    assert [present(tmp_path / name) for name in ("folder", "file", "nowhere", "gone")] == [
        False, True, False, False,
    ]  # fmt: skip
    with pytest.raises(ArtifactError, match="fifo: is not a regular file"):
        present(tmp_path / "fifo")
