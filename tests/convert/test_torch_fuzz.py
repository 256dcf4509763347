"""Whatever the file: a tree within bounds or the one sentence, in little time and memory."""

import os
import pickletools
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN, VARIANTS
from support.torch_reading import leaves, same_bits
from support.torch_writer import Call, Global, write, write_pickle

from asdjax.convert.torch_file import read
from asdjax.errors import AsdjaxError

WORDS = [  # what a pickle is made of, to be inserted anywhere
    b"}", b"]", b")", b"(", b"t", b"R", b"b", b"\x81", b"\x92", b"Q", b".", b"0", b"1", b"s", b"u",
    b"a", b"e", b"\x85", b"\x86", b"\x87", b"\x93", b"\x94", b"h\x00", b"q\x00", b"N", b"\x88",
    b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
    b"\x8a\x00", b"\x8a\xff" + b"\x7f" * 255, b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\xff",
    b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 7 + b"\x7f", b"r\xff\xff\xff\xff",
    b"j\xff\xff\xff\xff",
    b"\x95" + b"\xff" * 8, b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nBoolStorage\n", b"ctorch\nSize\n",
    b"c_codecs\nencode\n", b"ctorch\nfloat16\n", b"cposix\nsystem\n", b"\x8f", b"\x90", b"\x91",
]  # fmt: skip


def mutate(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """Change a few places: bits, bytes, numbers, pieces, opcodes, the end."""
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(content) + 1)), int(rng.integers(1, 40))
        head, tail = content[:at], content[at:]
        match rng.integers(8):
            case 0 if tail:
                content = head + bytes([tail[0] ^ (1 << int(rng.integers(8)))]) + tail[1:]
            case 1:
                content = head + rng.bytes(1) + tail[1:]
            case 2:
                number = [b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0" * 8, b"\xff" * 8]
                chosen = number[rng.integers(len(number))]
                content = head + chosen + tail[len(chosen) :]
            case 3:
                content = head + tail[length:]
            case 4:
                content = head + tail[:length] + tail
            case 5:
                start = int(rng.integers(len(other)))
                content = head + other[start : start + length] + tail
            case 6:
                content = head + WORDS[rng.integers(len(WORDS))] + tail
            case 7 if rng.random() < 0.2:
                content = head
    return content or b"\0"


def rearrange(rng: np.random.Generator, content: bytes) -> bytes:
    """Change a few whole opcodes, so that what follows is still understood as it was meant."""
    places = [at for _, _, at in pickletools.genops(content)]
    ops = [content[i:j] for i, j in zip(places, [*places[1:], len(content)], strict=True)]
    for _ in range(rng.integers(1, 5)):
        at, other = rng.integers(len(ops), size=2)
        match rng.integers(5):
            case 0:
                del ops[at]
            case 1:
                ops.insert(at, WORDS[rng.integers(len(WORDS))])
            case 2:
                ops[at] = WORDS[rng.integers(len(WORDS))]
            case 3:
                ops[at] = ops[other]
            case 4:
                ops[at], ops[other] = ops[other], ops[at]
    return b"".join(ops)


def outcome(path: Path, **options) -> bool:
    """Whether a file loads; the arrays must then lie within bounds and in proportion to it."""
    start = time.perf_counter()
    try:
        tree = read(path, **options)
    except AsdjaxError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        loads = False
    else:
        arrays = list(leaves(tree))
        assert sum(array.nbytes for array in arrays) <= 8 * path.stat().st_size + 2**26
        for array in arrays:
            assert not array.flags.writeable
            array.tobytes() if array.nbytes < 2**20 else array[..., -1].copy()
        loads = True
    assert time.perf_counter() - start < 5
    return loads


def fuzz(tmp_path: Path, seed: int, rounds: int) -> dict[str, tuple[int, int]]:
    """Mutate each kind of file; counts of those that load and of those refused, by kind."""
    rng, path = np.random.default_rng(seed), tmp_path / "fuzz.pt"
    foreign = Call(Global("omegaconf", "DictConfig"), ((1,),), {"_content": [1]}, new=True)
    write(tmp_path / "placeholders.pt", {"state_dict": OrderedDict(w=np.zeros(4)), "cfg": foreign})
    zips = [VARIANTS / f"{name}.pt" for name in ("dtypes", "views", "nano_proto4", "neg_offset")]
    zips.append(tmp_path / "placeholders.pt")
    olds = [VARIANTS / f"{name}.pt" for name in ("dtypes_legacy", "views_legacy")]
    pickles, records = [], []
    for file in zips:
        with zipfile.ZipFile(file) as archive:
            contents = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        pickles.append(contents.pop("data.pkl"))
        records.append({k[5:]: v for k, v in contents.items() if k.startswith("data/")})
    counts = {}

    def count(kind: str, **options) -> None:
        loads, refused = counts.get(kind, (0, 0))
        loaded = outcome(path, **options)
        counts[kind] = loads + loaded, refused + (not loaded)

    for i in range(rounds):
        match i % 4:
            case 0 | 1:  # the pickle, in a sound container: the interpreter is what is tried
                k, other = i // 4 % len(zips), pickles[rng.integers(len(zips))]
                whole = rng.random() < 0.7
                body = rearrange(rng, pickles[k]) if whole else mutate(rng, pickles[k], other)
                write_pickle(path, body, records[k])
                inside = k == len(zips) - 1
                count("pickle", placeholders_outside="state_dict" if inside else None)
            case 2:
                old = olds[i // 4 % 2].read_bytes()
                path.write_bytes(mutate(rng, old, olds[rng.integers(2)].read_bytes()))
                count("old")
            case 3:
                whole = zips[i // 4 % 2].read_bytes()
                head, directory = np.split(
                    np.frombuffer(whole, np.uint8), [whole.rindex(b"PK\1\2")]
                )
                if rng.random() < 0.5:
                    whole = head.tobytes() + mutate(rng, directory.tobytes(), whole)
                else:
                    whole = mutate(rng, whole, whole)
                path.write_bytes(whole)
                count("container")
    return counts


def test_fuzz(tmp_path):
    counts = fuzz(tmp_path, seed=1, rounds=1000)
    assert all(min(both) > 5 for both in counts.values()), counts


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_fuzz_more(tmp_path, seed):
    tracemalloc.start()
    counts = fuzz(tmp_path, seed, rounds=20_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(min(both) > 50 for both in counts.values()), counts
    assert peak < 2**29


@pytest.mark.parametrize("name", ["dtypes.pt", "views.pt", "nano_zip_deflated.pt"])
def test_no_flipped_bit_goes_unnoticed(name, tmp_path, rng):
    """Of a zip file: it is refused, or what was flipped carried nothing that is read."""
    content, path = (VARIANTS / name).read_bytes(), tmp_path / name
    original = read(VARIANTS / name)["model"]
    for at in rng.integers(0, 8 * len(content), 150):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << (at % 8)
        path.write_bytes(flipped)
        if outcome(path):
            model = read(path)["model"]
            assert list(model) == list(original)
            assert all(same_bits(model[key], original[key]) for key in original)


def test_no_truncation_goes_unnoticed(tmp_path):
    for name in ("views.pt", "views_legacy.pt", "beats_tiny.pt"):
        file = (GOLDEN if name.startswith("beats") else VARIANTS) / name
        content, path = file.read_bytes(), tmp_path / name
        for size in np.linspace(0, len(content) - 1, 60).astype(int):
            path.write_bytes(content[:size])
            assert not outcome(path)
    assert os.listdir(tmp_path)
