"""The encoder `eat`: EAT (Chen et al., IJCAI 2024) and SSLAM (Alex et al., ICLR 2025)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.registry import register
from asdjax.config.transformer_architecture import EATArchitecture
from asdjax.models.spectrogram_transformer import SpectrogramTransformer

if TYPE_CHECKING:
    from asdjax.models.spectrogram_embedder import Front


@register
@dataclasses.dataclass(frozen=True)
class EATConfig(SpectrogramTransformer):
    """EAT (Chen et al., IJCAI 2024) or SSLAM (Alex et al., ICLR 2025): the networks are equal."""

    verb = "eat"
    features = "log mel filterbank (Kaldi, Hann window), 128 bands, 25 ms frames every 10 ms"
    has_class_tokens = True

    name: str = "eat"
    encoder: EATArchitecture = EATArchitecture()
    """Architecture; read from the weights, so that a recipe need not state it."""

    @classmethod
    def front(cls) -> Front:
        from asdjax.models.spectrogram_fronts import EAT

        return EAT
