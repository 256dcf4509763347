"""The poolings `attentive_statistics` and `mean`, and what those without weights share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import Pooling
from asdjax.config.registry import register

if TYPE_CHECKING:
    from asdjax.models.pooling import AttnStatPool
    from asdjax.models.token_pooling import TokenMean


@register
@dataclasses.dataclass(frozen=True)
class AttentiveStatistics(Pooling):
    """Weighted mean and standard deviation, mapped linearly to the size of a token."""

    trains = True
    name: str = "attentive_statistics"

    def build(self, features: int, hidden: int, rng: Any, bands: int) -> AttnStatPool:
        from asdjax.models.pooling import AttnStatPool

        return AttnStatPool(features, hidden, rng=rng)

    def sentence(self) -> str:
        return "attentive statistics pooling"


@dataclasses.dataclass(frozen=True)
class BandPooling(Pooling):
    """A pooling without weights that pools all tokens, or those of each frequency band."""

    keep_bands: bool = False
    """Pool the tokens of each frequency band by themselves; their vectors stand side by side."""

    @property
    def label(self) -> str:
        """The name of the part, without that of the bands."""
        return self.name

    def kept(self, bands: int) -> int:
        """The number of bands of the vector, for tokens with `bands`."""
        return bands if self.keep_bands else 1

    def parts(self, features: int, bands: int) -> tuple[Part, ...]:
        name = f"{self.label}_bands" if self.keep_bands else self.label
        kept = self.kept(bands)
        return (Part(name, 0, features * kept, kept),)

    def of_bands(self, sentence: str) -> str:
        """The text for meta.yaml, with what it says of bands."""
        return f"{sentence} of each frequency band" if self.keep_bands else sentence


@register
@dataclasses.dataclass(frozen=True)
class Mean(BandPooling):
    """The mean over tokens."""

    name: str = "mean"

    def build(self, features: int, hidden: int, rng: Any, bands: int) -> TokenMean:
        from asdjax.models.token_pooling import TokenMean

        return TokenMean(self.kept(bands))

    def sentence(self) -> str:
        return self.of_bands("mean")
