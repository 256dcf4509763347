"""Tables as CSV files."""

import csv
import io

import pytest

from asdjax.files.documents import csv_bytes


@pytest.mark.parametrize("name", ["a", "a\rb", "a\nb", "a\r\nb", "a\r", '"', "a,b", "", " a "])
def test_every_text_is_read_as_it_was_written(name):
    rows = [{"file": name, "score": 0.1}, {"file": "b", "score": 1 / 3}]
    written = csv_bytes(rows)
    read = list(csv.DictReader(io.StringIO(written.decode(), newline="")))
    assert read == [{key: str(value) for key, value in row.items()} for row in rows]
    assert written.startswith(b"file,score\n") and written.endswith(b"\nb,0.3333333333333333\n")
