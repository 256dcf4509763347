"""The poolings that a recipe can name; their modules are in `pooling`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asdjax.config.interfaces import Pooling
from asdjax.config.registry import register

if TYPE_CHECKING:
    from asdjax.models.pooling import AttnStatPool, TokenMean


@register
@dataclasses.dataclass(frozen=True)
class AttentiveStatistics(Pooling):
    """Weighted mean and standard deviation, mapped linearly to the size of a token."""

    trains = True
    name: str = "attentive_statistics"

    def build(self, features: int, hidden: int, rng: Any) -> AttnStatPool:
        from asdjax.models.pooling import AttnStatPool

        return AttnStatPool(features, hidden, rng=rng)

    def sentence(self) -> str:
        return "attentive statistics pooling"


@register
@dataclasses.dataclass(frozen=True)
class Mean(Pooling):
    """The mean over tokens."""

    name: str = "mean"

    def build(self, features: int, hidden: int, rng: Any) -> TokenMean:
        from asdjax.models.pooling import TokenMean

        return TokenMean()

    def sentence(self) -> str:
        return "mean"
