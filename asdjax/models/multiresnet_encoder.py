"""MultiResNet as an encoder that recipes name; its network is in `multiresnet`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asdjax.config.interfaces import ComputeDtype, Encoder
from asdjax.config.registry import register
from asdjax.config.schema import Check, Count, NonNegative, Positive, Probability, digits

if TYPE_CHECKING:
    from asdjax.models.multiresnet import MultiResNet


@dataclasses.dataclass(frozen=True)
class SpectrogramConfig:
    """One STFT branch of MultiResNet."""

    n_fft: Count
    """Window and transform length, samples."""
    hop: Count
    """Step between frames, samples."""


@dataclasses.dataclass(frozen=True)
class StridedConvConfig:
    """One convolution over the spectrum of the whole clip."""

    window: Count
    """Positions under the kernel."""
    stride: Count
    """Positions between outputs."""


@register
@dataclasses.dataclass(frozen=True)
class MultiResNetConfig(Encoder):
    """MultiResNet: one branch on the whole clip's spectrum, one per STFT resolution."""

    name: str = "multiresnet"
    fft_branch: bool = True
    """Use the branch that reads the magnitude spectrum of the whole clip."""
    fft_convs: tuple[StridedConvConfig, ...] = (
        StridedConvConfig(256, 64),
        StridedConvConfig(64, 32),
        StridedConvConfig(16, 4),
    )
    """The FFT branch's convolutions."""
    fft_channels: Count = 128
    """Channels of each of them."""
    fft_hidden_layers: Count = 5
    """Normalised layers of the FFT branch's perceptron, before its last, linear one."""
    spectrograms: tuple[SpectrogramConfig, ...] = (
        SpectrogramConfig(256, 128),
        SpectrogramConfig(1024, 512),
        SpectrogramConfig(4096, 2048),
    )
    """STFT branches, in the order of their embeddings."""
    stage_channels: tuple[Count, ...] = (16, 32, 64, 128)
    """Channels of an STFT branch's stages, two residual blocks each; all but the first halve."""
    low_hz: NonNegative = 200.0
    """Lowest frequency kept in the spectrograms, hertz."""
    high_hz: Positive = 8000.0
    """Highest frequency kept in the spectrograms, hertz."""
    branch_size: Count = 128
    """Values in each branch's embedding."""
    squeeze_ratio: Count = 16
    """Channels per hidden unit in squeeze-and-excitation."""
    norm_momentum: Probability = 0.1
    """Share of the new batch in BatchNorm's running statistics."""
    norm_eps: Positive = 1e-5
    """Added to BatchNorm's variance."""
    compute_dtype: ComputeDtype = "float32"
    """What the convolutions' operands and results are rounded to; weights stay float32."""

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> MultiResNet:
        from asdjax.models.multiresnet import MultiResNet

        assert n_samples is not None  # it does not take clips of any length
        return MultiResNet(self, n_samples, sample_rate, rng=rng)

    def sentences(self) -> tuple[str, str, str]:
        features = ["magnitude spectrum of the whole clip"] if self.fft_branch else []
        if self.spectrograms:
            sizes = ", ".join(f"{s.n_fft}/{s.hop}" for s in self.spectrograms)
            features.append(
                f"magnitude spectrograms, {digits(self.low_hz)} to {digits(self.high_hz)} Hz "
                f"(window/hop in samples: {sizes})"
            )
        size = (self.fft_branch + len(self.spectrograms)) * self.branch_size
        embedding = f"MultiResNet, {size} values, trained from scratch"
        return "; ".join(features), embedding, "MultiResNet"

    def checks(self, sample_rate: int) -> list[Check]:
        return [
            (
                self.low_hz < self.high_hz <= sample_rate / 2,
                "model.low_hz and model.high_hz",
                "low_hz must be below high_hz, and high_hz at most half of audio.sample_rate",
            ),
            (
                self.fft_branch or self.spectrograms,
                "model.spectrograms",
                "name at least one STFT resolution, or set model.fft_branch to true",
            ),
            (self.stage_channels, "model.stage_channels", "name at least one stage"),
            (self.fft_convs, "model.fft_convs", "name at least one convolution"),
        ]
