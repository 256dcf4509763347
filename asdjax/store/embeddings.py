"""The embeddings of one machine and view, as arrays and as an .npz file."""

import dataclasses
import io
import zipfile
from typing import BinaryIO

import numpy as np


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
    """Text [N]: source, target or empty when the file name does not say."""
    label: np.ndarray
    """Text [N]: normal, anomaly or empty when the file name does not say."""
    embedding: np.ndarray
    """float32 [N, D]."""
    gain: np.ndarray
    """float32 [N]: mean gain of the view; this and the next three are NaN without channel 2."""
    level_db: np.ndarray
    """float32 [N]: level of channel 2 against channel 1."""
    correlation: np.ndarray
    """float32 [N]: of the channels."""
    lag: np.ndarray
    """float32 [N]: delay of channel 2 in samples; NaN without a clear delay."""
    silent: np.ndarray
    """bool [N, 2]: whether a channel has no sound; false without channel 2."""
    calibration: np.ndarray
    """float32 [K, F]: what the view learned of the machine; [2, 0] of one that learns nothing."""

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
        """Read what `to_bytes` wrote; None for any other content."""
        try:
            with zipfile.ZipFile(file) as archive:
                if not all(_is_plain(member) for member in archive.infolist()):
                    return None
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
        except (ValueError, EOFError, zipfile.BadZipFile):
            return None
        table = cls(**arrays) if arrays.keys() == _KINDS.keys() else None
        return table if table is not None and _is_consistent(table) else None


def _is_consistent(table: Embeddings) -> bool:
    """Whether all arrays have the types and shapes that `Embeddings` states."""
    n = len(table.path)
    shapes = {
        "embedding": (n, *table.embedding.shape[1:2]),
        "silent": (n, 2),
        "calibration": table.calibration.shape,
    }
    return all(
        array.dtype.kind == _KINDS[name]
        and array.shape == shapes.get(name, (n,))
        and array.ndim == (2 if name in shapes else 1)
        for name, array in vars(table).items()
    )


def _is_plain(member: zipfile.ZipInfo) -> bool:
    return member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1


_KINDS = {field.name: "f" for field in dataclasses.fields(Embeddings)}
_KINDS |= dict.fromkeys(("path", "split", "section", "domain", "label"), "U") | {"silent": "b"}
