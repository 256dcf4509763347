"""Distance to the principal components of the training clips."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Range, digits
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64


@register
@dataclasses.dataclass(frozen=True)
class PrincipalComponents(Backend):
    """The distance between an embedding and its reconstruction from principal components."""

    name: str = "principal_components"
    kept_variance: Annotated[float, Range(low=0, high=0.9999)] = 0.95
    """Share of the training clips' variance that the components explain at least; 0: none is used,
    the score is the distance to the mean."""

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedPrincipalComponents:
        return FittedPrincipalComponents(self, points, is_target)

    def sentence(self) -> str:
        share = digits(round(100 * self.kept_variance, 9))
        return (
            f"residual of the {self.metric} embedding outside of the principal components that "
            f"explain {share} % of the training clips' variance"
        )


class FittedPrincipalComponents(Fitted):
    """The mean of the clips of both domains, and their first principal components.

    The score is the length of what is left of a clip, less the mean, without its projection onto
    the components.
    """

    config: PrincipalComponents
    refitted_part = "the principal components"

    def fit_points(self) -> None:
        import numpy as np

        pool = self.points[self.used].astype(np.float64)
        self._mean = pool.mean(axis=0)
        centred = pool - self._mean
        if len(centred) > centred.shape[1]:  # the same components, of a smaller matrix
            centred = np.linalg.qr(centred, mode="r")
        _, lengths, components = np.linalg.svd(centred, full_matrices=False)
        explained = np.cumsum(lengths**2)
        # the smallest number that explains the share; rounding must not make it one more
        enough = self.config.kept_variance * explained[-1] * (1 - 1e-12)
        count = int(np.searchsorted(explained, enough)) + 1 if enough > 0 else 0
        if count == pool.shape[1]:
            count -= 1
            self.note("all principal components but one are used: with all there is no residual")
        self._components = components[:count].T

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        centred = points - self._mean
        residual = centred - (centred @ self._components) @ self._components.T
        return np.linalg.norm(residual, axis=1)
