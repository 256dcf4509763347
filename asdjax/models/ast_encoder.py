"""The encoder `ast`: the Audio Spectrogram Transformer (Gong et al., Interspeech 2021)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.registry import register
from asdjax.config.transformer_architecture import ASTArchitecture
from asdjax.models.spectrogram_transformer import SpectrogramTransformer

if TYPE_CHECKING:
    from asdjax.models.spectrogram_embedder import Front


@register
@dataclasses.dataclass(frozen=True)
class ASTConfig(SpectrogramTransformer):
    """AST (Gong et al., Interspeech 2021): a vision transformer on overlapping patches."""

    verb = "ast"
    features = "log mel filterbank (Kaldi, Hann window), 128 bands, 25 ms frames every 10 ms"
    has_class_tokens = True

    name: str = "ast"
    encoder: ASTArchitecture = ASTArchitecture()
    """Architecture; read from the weights, so that a recipe need not state it."""

    @classmethod
    def front(cls) -> Front:
        from asdjax.models.spectrogram_fronts import AST

        return AST
