"""Settings of the encoders with a pretrained vision transformer: AST, EAT and Dasheng.

Each has a file with its defaults and its `Front`. The network is in `spectrogram_embedder` and
`vision_transformer`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from asdjax.config.embedding_parts import Part
from asdjax.config.schema import Check
from asdjax.config.transformer_architecture import TransformerConfig
from asdjax.models.pretrained_encoder import PretrainedEncoder

if TYPE_CHECKING:
    from asdjax.models.spectrogram_embedder import Front, SpectrogramEmbedder


@dataclasses.dataclass(frozen=True)
class SpectrogramTransformer(PretrainedEncoder):
    """A pretrained vision transformer on patches of a spectrogram."""

    memory_ways = ("none", "full")
    has_class_tokens: ClassVar[bool] = False

    encoder: TransformerConfig = TransformerConfig()
    """Architecture; read from the weights, so that a recipe need not state it."""
    remat: Literal["auto", "none", "full"] = "auto"
    """Save memory: recompute whole layers (full) in the backward pass. auto: the first of none and
    full that fits the device's memory; on CPUs none."""
    class_tokens: bool = False
    """The vector that the embedding is made from is the mean of the class tokens, as published,
    instead of the pooled tokens of the patches."""

    @classmethod
    @abc.abstractmethod
    def front(cls) -> Front:
        """The spectrogram and the kind of network."""

    def network(self, rng: Any) -> SpectrogramEmbedder:
        from asdjax.models.spectrogram_embedder import SpectrogramEmbedder

        return SpectrogramEmbedder(self, rng=rng)

    def steps_for(self, samples: int) -> int:
        from asdjax.models.vision_transformer import columns

        front = self.front()
        return columns(front.frames(samples), self.encoder) + front.whole

    def samples_of(self, steps: int) -> int:
        return self.front().samples_of((steps - 1) * self.encoder.stride + self.encoder.patch[0])

    def pooled(self) -> str:
        return "mean of the class tokens" if self.class_tokens else super().pooled()

    def checks(self, sample_rate: int) -> list[Check]:
        return [
            *super().checks(sample_rate),
            (
                self.has_class_tokens or not self.class_tokens,
                "model.class_tokens",
                f"{self.name} has no class tokens: set it to false",
            ),
            (
                not (self.layers and self.class_tokens),
                "model.layers",
                "are not used with model.class_tokens: omit one of them",
            ),
        ]

    @property
    def pooled_parts(self) -> tuple[Part, ...]:
        if self.class_tokens:
            return (Part("class_tokens", 0, self.encoder.width),)
        return super().pooled_parts

    def trains(self, path: tuple[str, ...]) -> bool:
        return super().trains(path) and path[:2] != ("encoder", "band_norm")
