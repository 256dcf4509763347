"""The embeddings of one machine and view, as arrays and as an .npz file."""

import dataclasses
from typing import BinaryIO

import numpy as np

from asdjax.config.embedding_parts import Part
from asdjax.store import arrays
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

    def of_part(self, part: Part | None) -> "Embeddings":
        """The same clips with the values of a part of the embedding (a view); None: all values."""
        if part is None:
            return self
        own = self.embedding[:, part.start : part.start + part.size]
        return dataclasses.replace(self, embedding=own)

    def to_bytes(self) -> bytes:
        """The .npz file; equal arrays give equal bytes."""
        return arrays.to_bytes(vars(self))

    @classmethod
    def read(cls, file: BinaryIO) -> "Embeddings | None":
        """Read a file written by `to_bytes`; None if its content is invalid."""
        found = arrays.read(file, _KINDS)
        if found is None:
            return None
        table = cls(**found)
        return table if _is_consistent(table) else None


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
