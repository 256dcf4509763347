"""The encoder `multiresnet`: its settings. The network is in `multiresnet`."""

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
    """Kernel size, bins."""
    stride: Count
    """Stride, bins."""


@register
@dataclasses.dataclass(frozen=True)
class MultiResNetConfig(Encoder):
    """MultiResNet: a branch on the spectrum of the whole clip, and one per STFT resolution."""

    name: str = "multiresnet"
    fft_branch: bool = True
    """Use the branch on the magnitude spectrum of the whole clip."""
    fft_convs: tuple[StridedConvConfig, ...] = (
        StridedConvConfig(256, 64),
        StridedConvConfig(64, 32),
        StridedConvConfig(16, 4),
    )
    """Convolutions of the FFT branch."""
    fft_channels: Count = 128
    """Channels of each convolution of the FFT branch."""
    fft_hidden_layers: Count = 5
    """Hidden layers of the FFT branch's perceptron, before its linear output layer."""
    spectrograms: tuple[SpectrogramConfig, ...] = (
        SpectrogramConfig(256, 128),
        SpectrogramConfig(1024, 512),
        SpectrogramConfig(4096, 2048),
    )
    """STFT resolutions, one branch each."""
    stage_channels: tuple[Count, ...] = (16, 32, 64, 128)
    """Channels of the stages of an STFT branch (two residual blocks each); all stages but the first
    halve the resolution."""
    low_hz: NonNegative = 200.0
    """Lowest frequency of the spectrograms, hertz."""
    high_hz: Positive = 8000.0
    """Highest frequency of the spectrograms, hertz."""
    branch_size: Count = 128
    """Size of each branch's embedding."""
    squeeze_ratio: Count = 16
    """Squeeze-and-excitation: channels divided by hidden units."""
    norm_momentum: Probability = 0.1
    """Weight of the new batch in BatchNorm's running statistics."""
    norm_eps: Positive = 1e-5
    """Added to BatchNorm's variance."""
    compute_dtype: ComputeDtype = "auto"
    """Precision of the convolutions; weights, spectrograms, norms and the loss remain float32.
    auto: float32 on CPUs, TensorFloat-32 on GPUs, three passes of bfloat16 on TPUs."""

    def shortest_input(self, sample_rate: int) -> int:
        from asdjax.models.multiresnet import shortest

        return shortest(self, sample_rate)

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> MultiResNet:
        from asdjax.models.multiresnet import MultiResNet

        assert n_samples is not None  # because has_tokens is False
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
