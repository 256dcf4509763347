"""The encoder `dasheng` (Dinkel et al., Interspeech 2024)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.registry import register
from asdjax.config.transformer_architecture import DashengArchitecture
from asdjax.models.spectrogram_transformer import SpectrogramTransformer

if TYPE_CHECKING:
    from asdjax.models.spectrogram_embedder import Front


@register
@dataclasses.dataclass(frozen=True)
class DashengConfig(SpectrogramTransformer):
    """Dasheng (Dinkel et al., Interspeech 2024): a token for every 40 ms, without bands."""

    verb = "dasheng"
    features = "mel spectrogram in decibels, 64 bands, 32 ms frames every 10 ms"

    name: str = "dasheng"
    encoder: DashengArchitecture = DashengArchitecture()
    """Architecture; read from the weights, so that a recipe need not state it."""

    @classmethod
    def front(cls) -> Front:
        from asdjax.models.spectrogram_fronts import DASHENG

        return DASHENG
