"""Sizes of the vision transformers on spectrograms: AST, EAT, SSLAM and Dasheng."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from asdjax.config.schema import Check, Count, Positive, Range


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A vision transformer; what else an encoder's network consists of is fixed."""

    spectrogram_bands: ClassVar[int] = 128
    patch: ClassVar[tuple[int, int]] = (16, 16)
    """Frames and bands of a patch."""

    depth: Annotated[int, Range(low=1, high=256)] = 12
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
    published_as: str = ""
    """Name of the weights, for meta.yaml."""

    @property
    def bands(self) -> int:
        """Patches in each column of the grid; 1: the tokens have no bands."""
        return (self.spectrogram_bands - self.patch[1]) // self.stride + 1

    def checks(self) -> list[Check]:
        """Conditions on combinations of settings; types and bounds are checked already."""
        return [
            (self.width % self.heads == 0, "model.encoder.heads", "must divide width"),
            (self.width % 4 == 0, "model.encoder.width", "must be a multiple of 4"),
        ]


@dataclasses.dataclass(frozen=True)
class ASTArchitecture(TransformerConfig):
    """The sizes of AST."""

    stride: Count = 10
    """Step from patch to patch, frames and bands; patches of 16 overlap."""
    columns: Count = 101
    """Steps in time of the table of positions; longer clips are cut into parts."""
    published_as: Literal["AST"] = "AST"
    """Name of the weights, for meta.yaml."""


@dataclasses.dataclass(frozen=True)
class EATArchitecture(TransformerConfig):
    """The sizes of EAT and SSLAM."""

    published_as: Literal["EAT", "SSLAM"] = "EAT"
    """Name of the weights, for meta.yaml."""


@dataclasses.dataclass(frozen=True)
class DashengArchitecture(TransformerConfig):
    """The sizes of Dasheng."""

    spectrogram_bands = 64
    patch = (4, 64)

    stride: Count = 4
    """Step from patch to patch, frames; a patch has all bands."""
    columns: Count = 252
    """Steps in time of the table of positions; longer clips are cut into parts."""
    published_as: Literal["Dasheng"] = "Dasheng"
    """Name of the weights, for meta.yaml."""
