"""The file of a detector: equal bytes, and nothing of a stranger's file is believed unchecked."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.machines import sound

from asdjax import Detector
from asdjax.errors import AsdjaxError
from asdjax.files import documents
from asdjax.store import arrays, detector_file


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("detector") / "d.asd"
    Detector().fit([sound(seed) for seed in range(12)]).save(path)
    return path.read_bytes()


def unpacked(content: bytes) -> dict[str, np.ndarray]:
    found = arrays.read(io.BytesIO(content))
    assert found is not None
    return found


def refused(tmp_path, content: bytes, match: str) -> None:
    path = tmp_path / "d.asd"
    path.write_bytes(content)
    with pytest.raises(AsdjaxError, match=match) as refusal:
        Detector.load(path)
    assert str(refusal.value).startswith(f"{path}: ")


def test_equal_detectors_are_equal_bytes(content, tmp_path):
    detector = Detector().fit([sound(seed) for seed in reversed(range(12))])
    detector.save(tmp_path / "d.asd")
    stored = unpacked((tmp_path / "d.asd").read_bytes())
    for name, array in unpacked(content).items():
        if name != "about":  # holds the names of the arrays, here in another order
            assert array.tobytes() == stored[name].tobytes(), name


def test_the_file_is_a_zip_of_arrays_without_pickles(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(io.BytesIO(content), allow_pickle=False) as loaded:
        about = json.loads(loaded["about"].tobytes())
    assert about["schema"] == detector_file.SCHEMA and len(about["recordings"]) == 12


def sealed(tables, about):
    """The arrays with this document and the digest that fits them."""
    rest = {name: table for name, table in tables.items() if name != "about"}
    tree = {name: value for name, value in about.items() if name != "digest"}
    tree["digest"] = documents.fingerprint(tree, arrays.digest(rest))
    return {"about": np.frombuffer(json.dumps(tree).encode(), np.uint8), **rest}


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        (("schema",), "asdjax.detector/9", "version"),
        (("settings", "level"), 0.2, "level"),
        (("settings", "level"), "high", "level"),
        (("settings", "clip_seconds"), 1e9, "clip_seconds"),
        (("settings", "clip_seconds"), -1.0, "clip_seconds"),
        (("settings", "hop_seconds"), 5.0, "hop_seconds"),
        (("settings", "channel"), 0, "channel"),
        (("settings", "backends"), [], "backend"),
        (("settings", "backends"), ["nearest_neighbours"], "held_out"),
        (("settings", "backends"), [{"name": "evil", "plugin": "x.py 00"}], "evil"),
        (("settings", "embedder"), "/etc", "/etc"),
        (("settings", "embedder"), "x" * 10**6, "embedder"),
        (("settings", "identity"), "{}", "identity"),
        (("settings", "identity"), "{", "JSON"),
        (("settings", "identity"), '{"embedder": "spectral", "sample_rate": 1e99}', "identity"),
        (("settings", "identity"), '{"embedder": "spectral", "sample_rate": 999999999}', "rate"),
        (("settings", "identity"), '{"embedder": "spectral", "sample_rate": 8000}', "version"),
        (("settings", "max_bank"), 1, "max_bank"),
        (("recordings",), [], "recording"),
        (("recordings", 0, "rate"), 0, "rate"),
        (("recordings", 0, "level_db"), None, "level_db"),
        (("extra",), 1, "extra"),
        (("recordings", 0, "name"), "\ud800.wav", "recordings"),
        (("recordings", 0, "name"), "x" * 10**6, "recordings"),
        (("settings", "embedder"), "x" * 3000, "embedder"),
    ],
)
def test_documents_are_checked(content, tmp_path, key, value, match):
    tables = unpacked(content)
    about = json.loads(tables["about"].tobytes())
    place = about
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = value
    refused(tmp_path, arrays.to_bytes(sealed(tables, about)), match)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("recording", lambda a: a + 1),
        ("recording", lambda a: a.astype(np.int64)),
        ("recording", lambda a: -a),
        ("start", lambda a: a - 1),
        ("start", lambda a: a * np.nan),
        ("held_out", lambda a: a[:, :-1]),
        ("held_out", lambda a: a * np.inf),
        ("held_out", lambda a: a * 0 + 1e308),
        ("vectors/bands", lambda a: a[:-1]),
        ("vectors/bands", lambda a: a.astype(np.float64)),
        ("vectors/bands", lambda a: np.where(a == a[3, 3], np.nan, a).astype(np.float32)),
        ("probe/bands", lambda a: a * np.float32(1.01)),
        ("probe/bands", lambda a: a[:, :-1]),
        ("probe/bands", lambda a: a * 0),
        ("about", lambda a: a[:-5]),
        ("about", lambda a: a.astype(np.int32)),
        ("about", lambda a: np.frombuffer(b"\xff" * 9, np.uint8)),
    ],
)
def test_arrays_are_checked(content, tmp_path, name, change):
    tables = unpacked(content)
    with np.errstate(invalid="ignore"):
        tables[name] = change(tables[name])
    if name != "about":
        tables = sealed(tables, json.loads(tables["about"].tobytes()))
    refused(tmp_path, arrays.to_bytes(tables), "d.asd")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("held_out", lambda a: a * 10),
        ("held_out", lambda a: a[::-1]),
        ("vectors/bands", lambda a: a * 2),
        ("spectra", lambda a: a + 1),
        ("start", lambda a: a + 1e9),
        (
            "about",
            lambda a: np.frombuffer(
                a.tobytes().replace(b'"level": 0.9', b'"level": 0.8'), np.uint8
            ),
        ),
    ],
)
def test_a_changed_detector_is_not_used(content, tmp_path, name, change):
    """Each is complete and possible: only the digest tells."""
    tables = unpacked(content)
    before = tables[name].tobytes()
    tables[name] = change(tables[name])
    assert tables[name].tobytes() != before
    refused(tmp_path, arrays.to_bytes(tables), "d.asd: was changed")


@pytest.mark.parametrize("name", ["vectors/fast", "probe/fast", "held_out", "about", "start"])
def test_missing_and_further_arrays_are_refused(content, tmp_path, name):
    tables = unpacked(content)
    del tables[name]
    refused(tmp_path, arrays.to_bytes(tables), "d.asd")
    tables = unpacked(content)
    tables["vectors/more"] = tables["vectors/fast"]
    refused(tmp_path, arrays.to_bytes(tables), "d.asd")


def test_pickles_are_not_read(content, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    tables = unpacked(content)
    tables["start"] = np.array([Evil()] * 12, dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, **tables)
    refused(tmp_path, buffer.getvalue(), "damaged")
    assert not (tmp_path / "evil").exists()


def with_header(header: bytes) -> bytes:
    """A zip with one array `about`, whose header is given."""
    header = header.ljust((len(header) + 10 + 63) // 64 * 64 - 11) + b"\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("about.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (True,)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (0, 100000000000000000000)}",
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (0,)}",
        b"{b'descr': '|u1', 'fortran_order': False, 'shape': (0,)}",
        b"-" * 9000,
        b"(" * 3000,
        b"{",
    ],
)
def test_headers_of_arrays_are_checked(tmp_path, header):
    refused(tmp_path, with_header(header), "not a detector")


@pytest.mark.parametrize("what", [b"", b"PK", b"RIFF", b"\x93NUMPY"])
def test_other_files_are_refused(tmp_path, what):
    refused(tmp_path, what, "not a detector")
    with pytest.raises(AsdjaxError, match="cannot be read"):
        Detector.load(tmp_path / "missing.asd")
    with pytest.raises(AsdjaxError, match="is a folder"):
        Detector.load(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_or_equal(content, tmp_path, data):
    """Any changed byte is found by a checksum or a check, or it was in no array."""
    damaged = bytearray(content)
    place = data.draw(st.integers(0, len(content) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "d.asd"
    path.write_bytes(damaged)
    try:
        found = detector_file.read(path)
    except AsdjaxError:
        return
    path.write_bytes(content)
    document, tables = detector_file.read(path)
    assert found[0] == document
    assert all(np.array_equal(found[1][name], tables[name]) for name in tables)
