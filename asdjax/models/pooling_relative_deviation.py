"""The pooling `relative_deviation`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from asdjax.config.registry import register
from asdjax.config.schema import Range, digits
from asdjax.models.poolings import BandPooling

if TYPE_CHECKING:
    from asdjax.models.token_pooling import RelativeDeviationMean

Gamma = Annotated[float, Range(low=0, high=100)]


@register
@dataclasses.dataclass(frozen=True)
class RelativeDeviation(BandPooling):
    """A weighted mean over tokens: those far from the clip's mean count more."""

    name: str = "relative_deviation"
    gamma: Gamma = 8.0
    """Weights are (1 + d)^gamma, where d is a token's distance from the mean, the largest being 1;
    0: the mean."""

    @property
    def label(self) -> str:
        return f"{self.name}_{digits(self.gamma)}"

    def build(self, features: int, hidden: int, rng: Any, bands: int) -> RelativeDeviationMean:
        from asdjax.models.token_pooling import RelativeDeviationMean

        return RelativeDeviationMean(self.gamma, self.kept(bands))

    def sentence(self) -> str:
        return self.of_bands(f"relative deviation pooling (gamma {digits(self.gamma)})")
