"""Scores of the clips of one machine and section: under each view, and over all views."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64

from asdjax.config import embedding_parts
from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import Backend
from asdjax.errors import DataError
from asdjax.scoring import backends, standardisation
from asdjax.scoring.distances import unit_length

Views = Sequence[Float[np.ndarray, "N D"]]
"""Embeddings of the same clips under each view."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Anomaly scores, of one view or over all views."""

    left_out: Float64[np.ndarray, " N"]
    """Of the training clips, each scored against the others."""
    new: Float64[np.ndarray, " M"]
    """Of the other clips."""
    in_sample: Float64[np.ndarray, " N"]
    """Of the training clips against all of them; `left_out` unless they were asked for."""


@dataclasses.dataclass(frozen=True)
class Scored:
    """The scores of the clips of a machine and section."""

    views: tuple[Scores, ...]
    combined: Scores
    """Over all views, see `backend.combine_views`."""
    notes: tuple[str, ...]
    """What a user should know of how they were scored, each sentence once."""


def score(
    backend: Backend,
    parts: Sequence[Part],
    training: Views,
    is_target: Bool[np.ndarray, " N"],
    new: Views,
    *,
    in_sample: bool = False,
) -> Scored:
    """Score clips against normal training clips.

    Args:
        backend: how.
        parts: what the embeddings consist of (`Encoder.embedding_parts`).
        training: the training clips, sorted by path.
        is_target: which of them are of the target domain.
        new: the other clips.
        in_sample: whether scores of the training clips against all of them are needed.

    Raises:
        AsdjaxError: the backend cannot be fitted to these clips, or views cannot be standardised.
    """
    part = embedding_parts.chosen(parts, backend.part)
    bands = 1
    if part is not None:
        own, bands = slice(part.start, part.start + part.size), part.bands
        training, new = ([view[:, own] for view in views] for views in (training, new))
    notes: dict[str, None] = {}

    def of_view(known: Float[np.ndarray, "N D"], others: Float[np.ndarray, "M D"]) -> Scores:
        fitted = backends.fit(backend, known, is_target, bands=bands)
        notes.update(dict.fromkeys(fitted.notes))
        left_out = fitted.leave_one_out()
        return Scores(
            left_out, fitted.score(others), fitted.score(known) if in_sample else left_out
        )

    views = tuple(of_view(*pair) for pair in zip(training, new, strict=True))
    if backend.combine_views == "embeddings":
        alone = bands if backend.bands == "each" else 1
        means = (mean(some, backend.metric, alone) for some in (training, new))
        return Scored(views, of_view(*means), tuple(notes))
    return Scored(views, _combined(views, backend.combine_views), tuple(notes))


def mean(views: Views, metric: str, bands: int = 1) -> Float64[np.ndarray, "N D"]:
    """The mean embedding over views; for the cosine, each band is of unit length before."""
    shape = views[0].shape
    rows = [view.astype(np.float64).reshape(shape[0] * bands, -1) for view in views]
    return np.mean([unit_length(view, metric) for view in rows], axis=0).reshape(shape)


def _combined(views: Sequence[Scores], how: str) -> Scores:
    """The views' scores as one; standardised by `left_out` before if `how` begins with z."""
    left_out, new, in_sample = (
        np.stack([getattr(view, name) for view in views])
        for name in ("left_out", "new", "in_sample")
    )
    if how != "mean":
        if standardisation.alike(left_out).any():
            raise DataError(
                "all leave-one-out scores of a view are equal: set backend.combine_views to mean"
            )
        centre, spread = left_out.mean(axis=1, keepdims=True), left_out.std(axis=1, keepdims=True)
        left_out, new, in_sample = ((s - centre) / spread for s in (left_out, new, in_sample))
    one = {"z_minimum": np.min, "z_maximum": np.max}.get(how, np.mean)
    return Scores(one(left_out, axis=0), one(new, axis=0), one(in_sample, axis=0))
