import builtins
import hashlib
import json
import mmap
import os
import shutil
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDEN, VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st
from support import torch_writer
from support.torch_reading import leaves, refusal, same_bits
from support.torch_writer import tensor, write, write_pickle

from asdjax.convert import weights_file
from asdjax.convert.torch_file import read, sha256
from asdjax.errors import AsdjaxError

INDEX = json.loads((VARIANTS / "index.json").read_text("utf-8"))
LOADS = [name for name, entry in INDEX.items() if entry["expect"] in ("load", "either")]
REFUSED = [name for name, entry in INDEX.items() if entry["expect"].startswith("refuse")]
REASONS = {  # what a refusal must name, where it is not "damaged or cut short"
    "mal_os_system.pt": "'posix.system'",
    "mal_os_system_legacy.pt": "'posix.system'",
    "mal_os_system_proto4.pt": "'posix.system'",
    "mal_builtins_eval.pt": "'__builtin__.eval'",
    "mal_subprocess.pt": "'commands.check_output'",
    "mal_torch_load_from_bytes.pt": "'torch.storage._load_from_bytes'",
    "mal_legacy_first_pickle.pt": "'posix.system'",
    "foreign_namespace_cfg.pt": "'argparse.Namespace'",
    "huge_expand.pt": "expands",
    "empty.pt": "empty: download it again",
    "html_error_page.pt": "a web page",
    "short_record.pt": "32760 bytes, not 32768",
    "missing_record.pt": "data/5' is missing",
    "bitflip.pt": "checksum of record 'nano_zip/data/5'",
}
DTYPES = [*torch_writer._CLASSES, *map(np.dtype, (np.uint16, np.uint32, np.uint64))]
DTYPES += [np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)]


@pytest.fixture(scope="module")
def expected():
    with np.load(VARIANTS / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def rezip(path: Path, out: Path, method: int | None = None, **records: bytes | None) -> None:
    """Copy a zip file with some records (by their last name) changed, or left out if None."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            content = records.get(info.filename.split("/")[-1], old.read(info))
            if content is not None:
                new.writestr(
                    info.filename, content, info.compress_type if method is None else method
                )


# The variants that torch itself wrote, and their values.


@pytest.mark.parametrize("name", LOADS)
def test_variants_load(name, expected):
    tree = read(VARIANTS / name)
    model = tree if name == "nano_bare_state_dict.pt" else tree["model"]
    prefix = "nano" if name.startswith("nano") else name
    reference = {k.split("::")[1]: k for k in expected if k.startswith(f"{prefix}::")}
    assert list(model) == list(reference)
    for key, array in model.items():
        assert not array.flags.writeable
        value = expected[reference[key]]
        if reference[key].endswith("::f32"):
            assert array.dtype in (np.float16, ml_dtypes.bfloat16)
            array = array.astype(np.float32)
        elif name == "nano_halfprec.pt":
            assert array.dtype in (np.float16, ml_dtypes.bfloat16)
            value, array = value.astype(array.dtype).astype(np.float32), array.astype(np.float32)
        if name == "nano_halfprec.pt" or reference[key].endswith("::f32"):
            np.testing.assert_array_equal(array, value)
            np.testing.assert_array_equal(np.signbit(array), np.signbit(value))
        else:
            assert same_bits(array, value), key


@pytest.mark.parametrize("name", LOADS)
def test_variants_plain_values(name):
    tree = read(VARIANTS / name)
    if name.startswith("dtypes"):
        assert tree["cfg"] == {
            "a": 1, "b": 0.5, "c": "gelu", "d": None, "e": [1, 2, (3, 4)], "f": True,
            "big": 2**70, "neg": -1, "nested": {"x": {"y": b"bytes"}},
        }  # fmt: skip
    elif name != "nano_bare_state_dict.pt" and name.startswith("nano"):
        assert tree["cfg"] == read(VARIANTS / "nano_zip.pt")["cfg"]
        assert tree["cfg"]["dropout"] == 0.1 and len(tree["cfg"]) == 23


@pytest.mark.parametrize("name", REFUSED)
def test_variants_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def no_import(module, *_):
        raise AssertionError(f"imported {module}")

    start = time.perf_counter()
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", no_import)
        sentence = refusal(VARIANTS / name)
    assert time.perf_counter() - start < 1
    assert REASONS.get(name, "damaged or cut short (") in sentence
    assert not any(tmp_path.iterdir())


def test_index_is_whole():
    files = {path.name for path in VARIANTS.glob("*.pt")}
    assert files == set(INDEX) and len(LOADS) + len(REFUSED) == len(INDEX)
    assert all(sha256(VARIANTS / name) == INDEX[name]["sha256"] for name in files)


@pytest.mark.parametrize("name", ["nano_zip.pt", "nano_legacy_nonzip.pt", "nano_zip_deflated.pt"])
def test_one_storage_is_one_buffer(name):
    model = read(VARIANTS / name)["model"]
    first, second = (
        model[f"encoder.layers.{i}.self_attn.relative_attention_bias.weight"] for i in (0, 1)
    )
    assert np.shares_memory(first, second)
    others = read(VARIANTS / "nano_zip_nometa_unshared.pt")["model"]
    names = [f"encoder.layers.{i}.self_attn.relative_attention_bias.weight" for i in (0, 1)]
    assert not np.shares_memory(*(others[name] for name in names))


@pytest.mark.parametrize("name, count", [("beats_tiny", 150_724), ("beats_tiny_finetuned", None)])
def test_tiny_beats(name, count):
    tree = read(GOLDEN / f"{name}.pt")
    storages = {array.__array_interface__["data"][0]: array.size for array in leaves(tree)}
    assert list(tree) == ["cfg", "model"] and tree["cfg"]["encoder_embed_dim"] == 64
    assert sum(storages.values()) == (count or 150_724 + 527 * 65)


# Files of our own: every dtype, shape, view and container.


@given(
    arrays=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)), max_size=4
    ),
    container=st.sampled_from(["zip", "deflate", "legacy"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_round_trip(tmp_path_factory, arrays, container, seed):
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("round") / "some.pt"
    tree = {"cfg": {"a": [1, -(2**40), 0.5, None, True, "é", b"\0\xff", (1, ())], 3: {}}}
    tree["model"] = OrderedDict()
    for i, (dtype, shape) in enumerate(arrays):
        raw = rng.integers(0, 256, (*shape, dtype.itemsize), np.uint8)
        raw = raw % 2 if dtype == np.bool_ else raw
        tree["model"][str(i)] = array = raw.view(dtype)[..., 0]
        tree["model"][f"{i} again"] = array
    kind = "legacy" if container == "legacy" else "zip"
    write(path, tree, container=kind, deflate=container == "deflate")
    result = read(path)
    assert result["cfg"] == tree["cfg"] and list(result["model"]) == list(tree["model"])
    assert type(result["model"]) is dict
    for key, array in tree["model"].items():
        assert same_bits(result["model"][key], array)
    shutil.rmtree(path.parent)


@given(
    view=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=4),
    offset=st.integers(0, 12),
    stored=st.integers(0, 40),
    dtype=st.sampled_from([np.dtype(t) for t in (np.float32, ml_dtypes.bfloat16, np.uint16, bool)]),
)
@settings(max_examples=150)
def test_views_are_right_or_refused(tmp_path_factory, view, offset, stored, dtype):
    shape, strides = tuple(n for n, _ in view), tuple(s for _, s in view)
    flat = np.arange(stored).astype(np.uint8).astype(dtype)
    index = np.full(shape, offset)
    for axis, (size, stride) in enumerate(view):
        index += (np.arange(size) * stride).reshape(-1, *[1] * (len(view) - axis - 1))
    path = tmp_path_factory.mktemp("view") / "view.pt"
    write(path, [tensor(flat, shape, strides, offset)])
    if index.size and index.max() >= stored:
        assert "reaches beyond its storage" in refusal(path)
    else:
        assert same_bits(read(path)[0], flat[index.reshape(-1)].reshape(shape))
    shutil.rmtree(path.parent)


def test_booleans_are_zero_or_one(tmp_path):
    body, _ = torch_writer.dumps([np.zeros(4, bool)])
    write_pickle(tmp_path / "some.pt", body, {"0": b"\x00\x01\x02\xff"})
    (flags,) = read(tmp_path / "some.pt")
    assert same_bits(flags, np.array([False, True, True, True])) and not flags.flags.writeable


def test_stored_records_stay_in_the_file(tmp_path):
    array = np.arange(8_000_000, dtype=np.float32)
    for container in ("zip", "legacy"):
        write(tmp_path / "large.pt", {"w": array}, container=container)
        tracemalloc.start()
        result = read(tmp_path / "large.pt")["w"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The old format's pickles have no length: each is looked for in its own 16 MiB at most.
        assert peak < (2**16 if container == "zip" else 2**24 + 2**20)
        assert isinstance(result.base, mmap.mmap) and np.array_equal(result, array)


# Containers that must be refused.


def test_containers_refused(tmp_path):
    good, bad = tmp_path / "good.pt", tmp_path / "bad.pt"
    write(good, {"w": np.zeros(2**20, np.float32)})
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        rezip(good, bad, method)
        assert np.array_equal(read(bad)["w"], np.zeros(2**20))
    rezip(good, bad, zipfile.ZIP_BZIP2)
    assert "compression" in refusal(bad)
    rezip(good, bad, byteorder=b"big")
    assert "big-endian" in refusal(bad)
    rezip(good, bad, **{"data.pkl": None})
    assert "0 files data.pkl" in refusal(bad)
    with zipfile.ZipFile(good, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    assert "2 files data.pkl" in refusal(good)
    write_pickle(bad, b"\x80\x02" + b"N0" * 2**23 + b"N.")
    assert "more than 16777216" in refusal(bad)


def test_deflated_bomb(tmp_path):
    """A hundred records that unpack to 4 MiB each: no more is unpacked than a file may hold."""
    path, size = tmp_path / "bomb.pt", 2**22
    write(path, [np.zeros(size, np.uint8) for _ in range(100)], deflate=True)
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    assert "unpacks" in refusal(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28 + 2**25


def test_overlapping_records(tmp_path):
    """A directory whose every entry is the same record must not be checked entry by entry."""
    path = tmp_path / "some.pt"
    write(path, [np.full(5000, i, np.uint8) for i in range(3)])
    content = path.read_bytes()
    for name in (b"some/data/1", b"some/data/2"):
        entry = content.rindex(name) - 46
        assert content[entry : entry + 4] == b"PK\x01\x02"
        first = content.rindex(b"some/data/0") - 46  # its checksum and its place
        for start, stop in ((16, 28), (42, 46)):
            place = slice(entry + start, entry + stop)
            content = (
                content[: place.start]
                + content[first + start : first + stop]
                + content[place.stop :]
            )
    path.write_bytes(content)
    assert all(np.array_equal(array, np.zeros(5000)) for array in read(path))  # within the file
    big = content.rindex(b"some/data/0") - 46
    content = content[: big + 20] + struct.pack("<I", len(content)) + content[big + 24 :]
    path.write_bytes(content)
    assert "overlap" in refusal(path)


def legacy(tmp_path: Path, *parts: object, tail: bytes = b"") -> Path:
    path = tmp_path / "old.pt"
    path.write_bytes(b"".join(torch_writer.dumps(p, "legacy")[0] for p in parts) + tail)
    return path


def test_old_containers_refused(tmp_path):
    magic, system = 0x1950A86A20F9469CFC6C, {"little_endian": True}
    head, array = (magic, 1001, system), np.zeros(2, np.int8)
    size = struct.pack("<q", 2)
    assert np.array_equal(
        read(legacy(tmp_path, *head, array, ["0"], tail=size + b"\1\2")), np.array([1, 2])
    )
    for parts, tail, reason in [
        ((7,), b"", "not a PyTorch checkpoint"),
        ((magic, 7), b"", "version"),
        ((magic, 1001, {"little_endian": False}), b"", "big-endian"),
        ((magic, 1001, 7), b"", "big-endian"),
        ((*head, array), b"", "incomplete pickle"),
        ((*head, array, "0"), b"", "the list of storages"),
        ((*head, array, []), b"", "storages are not listed"),
        ((*head, array, ["1"]), size + b"\1\2", "storage '1' is unused"),
        ((*head, array, ["0", "0"]), (size + b"\1\2") * 2, "storage '0' is unused or listed twice"),
        ((*head, array, ["0"]), struct.pack("<q", 3) + b"\1\2\3", "wrong length"),
        ((*head, array, ["0"]), size + b"\1", "the end is missing"),
        ((*head, array, ["0"]), size[:5], "the end is missing"),
    ]:
        assert reason in refusal(legacy(tmp_path, *parts, tail=tail))


def test_unreadable(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        (tmp_path / "missing.pt", "cannot be read"),
        (tmp_path, "is a directory"),
        (tmp_path / "fifo", "is a FIFO"),
        (Path("/dev/zero"), "is a device"),
    ):
        assert words in refusal(path)
        for read_it in sha256, weights_file.is_safetensors:
            with pytest.raises(AsdjaxError, match=f"^{path}: {words}"):
                read_it(path)
    (tmp_path / "text.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "text.pt")


def test_sha256(tmp_path, rng):
    (tmp_path / "file").write_bytes(content := rng.bytes(3_000_000))
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
