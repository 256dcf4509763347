"""Sizes of the vision transformers on spectrograms: AST, EAT, SSLAM and Dasheng."""

import dataclasses
from typing import Literal

from asdjax.config.schema import Check, Count, Positive


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A vision transformer; what else an encoder's network consists of is fixed."""

    depth: Count = 12
    """Transformer layers."""
    width: Count = 768
    """Values in each token."""
    hidden: Count = 3072
    """Hidden units of each layer's feed-forward part."""
    heads: Count = 12
    """Attention heads; each has width / heads values."""
    stride: Count = 16
    """Step from patch to patch, frames and bands."""
    columns: Count = 64
    """Steps in time of the table of positions, if there is one; longer clips are cut into parts."""
    norm_epsilon: Positive = 1e-6
    """Added to the variance in layer normalisation."""
    published_as: Literal["AST", "EAT", "SSLAM", "Dasheng"] = "AST"
    """Name of the weights, for meta.yaml."""

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return [
            (self.width % self.heads == 0, "model.encoder.heads", "must divide width"),
            (self.width % 4 == 0, "model.encoder.width", "must be a multiple of 4"),
        ]
