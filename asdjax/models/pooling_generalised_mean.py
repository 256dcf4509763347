"""The pooling `generalised_mean`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from asdjax.config.registry import register
from asdjax.config.schema import Range, digits
from asdjax.models.pooling_relative_deviation import Gamma
from asdjax.models.poolings import BandPooling

if TYPE_CHECKING:
    from asdjax.models.token_pooling import GeneralisedMean as GeneralisedMeanModule


@register
@dataclasses.dataclass(frozen=True)
class GeneralisedMean(BandPooling):
    """A power mean over tokens, also with the weights of relative deviation pooling."""

    name: str = "generalised_mean"
    power: Annotated[float, Range(low=1, high=100)] = 3.0
    """Exponent of the values; negative values are taken as 0."""
    gamma: Gamma = 0.0
    """Exponent of the weights, as in relative_deviation; 0: equal weights."""

    @property
    def label(self) -> str:
        power = f"{self.name}_{digits(self.power)}"
        return f"{power}_gamma_{digits(self.gamma)}" if self.gamma else power

    def build(self, features: int, hidden: int, rng: Any, bands: int) -> GeneralisedMeanModule:
        from asdjax.models.token_pooling import GeneralisedMean

        return GeneralisedMean(self.power, self.gamma, self.kept(bands))

    def sentence(self) -> str:
        weights = f", relative deviation weights of gamma {digits(self.gamma)}"
        own = weights if self.gamma else ""
        return self.of_bands(f"generalised mean (power {digits(self.power)}{own})")
