"""Mahalanobis distance to the mean of a domain."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.errors import DataError
from asdjax.scoring.backends import Fitted, nearer_domain

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@register
@dataclasses.dataclass(frozen=True)
class Mahalanobis(Backend):
    """The Mahalanobis distance to the mean of the source or the target clips, the smaller one."""

    name: str = "mahalanobis"

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedMahalanobis:
        return FittedMahalanobis(self, points, is_target)

    def sentence(self) -> str:
        return f"Mahalanobis distance ({self.metric} embeddings) with Ledoit-Wolf covariance"

    def generalization(self) -> str | None:
        return nearer_domain(self)


class FittedMahalanobis(Fitted):
    """Each domain's mean and Ledoit-Wolf covariance (Ledoit and Wolf 2004).

    A domain whose covariance has no inverse (fewer than three different clips) uses the other
    domain's. The distance is not squared.
    """

    config: Mahalanobis
    refitted_part = "the covariances"

    def fit_points(self) -> None:
        import numpy as np

        domains = {
            name: self.points[rows].astype(np.float64)
            for name, rows in (("source", self.source), ("target", self.target))
            if len(rows)
        }
        whitenings = {name: _whitening(points) for name, points in domains.items()}
        found = [whitening for whitening in whitenings.values() if whitening is not None]
        if not found:
            raise DataError(
                "too few different training clips for a covariance: mahalanobis needs three in "
                "one domain; add clips or set backend.name to nearest_neighbours"
            )
        self._models = []
        for name, points in domains.items():
            whitening = whitenings[name]
            if whitening is None:
                self.note(f"too few {name} clips for a covariance: the other domain's is used")
                whitening = found[0]
            self._models.append((points.mean(axis=0), whitening))

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        return np.min(
            [np.linalg.norm((points - mean) @ white, axis=1) for mean, white in self._models],
            axis=0,
        )


def _whitening(points: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "D D"] | None:
    """W such that W W^T is the inverse of the Ledoit-Wolf covariance; None if not invertible."""
    import numpy as np
    from sklearn.covariance import ledoit_wolf

    if len(np.unique(points, axis=0)) < 3:  # the shrinkage of two points is 0
        return None
    values, vectors = np.linalg.eigh(ledoit_wolf(points)[0])
    if values[0] <= values[-1] * len(values) * np.finfo(np.float64).eps:
        return None
    return vectors / np.sqrt(values)
