"""The embeddings of one machine and view, as arrays and as an .npz file."""

import dataclasses
import io
import math
import tokenize
import zipfile
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from asdjax.store.scores import CLIP_COLUMNS, are_clips


@dataclasses.dataclass(frozen=True)
class MadeFrom:
    """What a file of embeddings was made from; artefacts.json holds it as text."""

    recipe: str
    """Fingerprint of weights, view and settings."""
    precision: str
    """The `compute_dtype`."""
    clips: str
    """Fingerprint of the machine's clips: paths and contents."""
    train: str
    """Fingerprint of names and contents of its training clips, wherever they are."""
    test: str
    """The same of the test clips of each section, as `00:fingerprint;01:fingerprint`."""

    def __str__(self) -> str:
        return "/".join(dataclasses.astuple(self))

    def tests(self, section: str) -> str | None:
        """The fingerprint of a section's test clips; None if it has none."""
        sections = (part.partition(":") for part in self.test.split(";"))
        return {name: found for name, _, found in sections}.get(section)

    @classmethod
    def parse(cls, text: str) -> "MadeFrom | None":
        """The inverse of `str`; None for other text."""
        parts = text.split("/")
        return cls(*parts) if len(parts) == len(dataclasses.fields(cls)) else None


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """The embeddings of one machine and view; row i of every array is clip i, sorted by path."""

    path: np.ndarray
    """Text [N]: relative to the data set's root."""
    split: np.ndarray
    """Text [N]: train or test."""
    section: np.ndarray
    """Text [N]: two digits."""
    domain: np.ndarray
    """Text [N]: source, target, or empty if unknown."""
    label: np.ndarray
    """Text [N]: normal, anomaly, or empty if unknown."""
    embedding: np.ndarray
    """float32 [N, D]."""
    gain: np.ndarray
    """float32 [N]: mean gain of the view; this and the next three are NaN without channel 2."""
    level_db: np.ndarray
    """float32 [N]: level of channel 2 relative to channel 1, decibels."""
    correlation: np.ndarray
    """float32 [N]: correlation of the channels."""
    lag: np.ndarray
    """float32 [N]: delay of channel 2 in samples; NaN without a clear delay."""
    silent: np.ndarray
    """bool [N, 2]: whether a channel is silent; false without channel 2."""
    calibration: np.ndarray
    """float32 [K, F]: the view's calibration for the machine; [2, 0] without one."""

    def rows(self, keep: np.ndarray) -> "Embeddings":
        """The clips selected by a boolean or index array."""
        per_clip = [f.name for f in dataclasses.fields(self) if f.name != "calibration"]
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in per_clip})

    def to_bytes(self) -> bytes:
        """The .npz file; equal arrays give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, **vars(self))
        return buffer.getvalue()

    @classmethod
    def read(cls, file: BinaryIO) -> "Embeddings | None":
        """Read a file written by `to_bytes`; None if its content is invalid."""
        try:
            with zipfile.ZipFile(file) as archive:
                members = {member.filename: member for member in archive.infolist()}
                names = [f"{name}.npy" for name in _KINDS]
                if sorted(archive.namelist()) != sorted(names):
                    return None
                if not all(_is_complete(archive, members[name]) for name in names):
                    return None
            file.seek(0)
            table = cls(**np.load(file, allow_pickle=False))
        except (
            ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, tokenize.TokenError
        ):  # fmt: skip
            return None
        return table if _is_consistent(table) else None


def _is_complete(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether a member is an array as `np.savez` writes it, and as long as its header states.

    Nothing is allocated for an array whose header states more than there is.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        return False  # compressed or encrypted
    with archive.open(member) as file:
        if npy.read_magic(file) != (1, 0):
            return False
        shape, _, dtype = npy.read_array_header_1_0(file)
        return bool(math.prod(shape) * dtype.itemsize == member.file_size - file.tell())


def _is_consistent(table: Embeddings) -> bool:
    """Whether all arrays have the types, shapes and values that `Embeddings` states."""
    n = len(table.path)
    shapes = {
        "embedding": (n, *table.embedding.shape[1:2]),
        "silent": (n, 2),
        "calibration": table.calibration.shape,
    }
    return (
        n > 0
        and all(
            array.dtype.kind == _KINDS[name]
            and array.shape == shapes.get(name, (n,))
            and array.ndim == (2 if name in shapes else 1)
            for name, array in vars(table).items()
        )
        and are_clips(
            [{name: str(vars(table)[name][i]) for name in CLIP_COLUMNS} for i in range(n)]
        )
    )


_KINDS = {field.name: "f" for field in dataclasses.fields(Embeddings)}
_KINDS |= dict.fromkeys(CLIP_COLUMNS, "U") | {"silent": "b"}
