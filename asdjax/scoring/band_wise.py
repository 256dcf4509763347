"""A backend fitted to each frequency band of the embeddings; the score is the mean over bands.

Each band chooses its own neighbours. Embeddings hold one band after the other in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asdjax.scoring import backends
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from jaxtyping import Bool, Float, Float64

    from asdjax.config.interfaces import Backend


class BandWise(Fitted):
    """One fitted backend per band; for the cosine each band is scaled to unit length."""

    def __init__(
        self,
        config: Backend,
        points: Float[np.ndarray, "N FD"],
        is_target: Bool[np.ndarray, " N"],
        bands: int = 1,
    ):
        """Fit the backend to each band of embeddings that are not scaled to unit length."""
        self._count = bands
        super().__init__(config, points, is_target)

    def fit_points(self) -> None:
        self._fitted = [
            backends.fit(self.config, band, self.is_target) for band in self._split(self.points)
        ]
        for i, fitted in enumerate(self._fitted):
            for note in fitted.notes:
                if all(note in other.notes for other in self._fitted):
                    if note not in self.notes:
                        self.note(note)
                else:
                    self.note(f"band {i}: {note}")

    @property
    def fold_note(self) -> str | None:
        return self._fitted[0].fold_note  # all bands have the same backend

    def prepared(self, embeddings: Float[np.ndarray, "M FD"]) -> Float[np.ndarray, "M FD"]:
        return embeddings

    def score_points(self, points: Float[np.ndarray, "M FD"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        bands = zip(self._fitted, self._split(points), strict=True)
        return np.mean([fitted.score(band) for fitted, band in bands], axis=0)

    def left_out_scores(self) -> Float64[np.ndarray, " N"]:
        import numpy as np

        return np.mean([fitted.leave_one_out() for fitted in self._fitted], axis=0)

    def _split(self, points: Float[np.ndarray, "M FD"]) -> Iterator[Float[np.ndarray, "M D"]]:
        """The bands, one at a time."""
        split = points.reshape(len(points), self._count, -1)
        return (split[:, band] for band in range(self._count))
