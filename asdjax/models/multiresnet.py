"""MultiResNet: a branch on the spectrum of the whole clip and a ResNet per STFT resolution.

The network of ASDKit (Fujimura et al., DCASE workshop 2025), after Wilkinghoff (2023): no biases,
batch normalisation without scale and offset; the embeddings of the branches are concatenated.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from asdjax.errors import ConfigError
from asdjax.models.layers import (
    BatchNorm,
    BatchStat,
    Conv,
    Linear,
    Rng,
    SqueezeExcitation,
)
from asdjax.models.multiresnet_encoder import (
    MultiResNetConfig,
    SpectrogramConfig,
    StridedConvConfig,
)
from asdjax.models.operations import max_pool
from asdjax.signal.stft import bins, hann, magnitude_spectrogram, magnitude_spectrum

SMALLEST_SIDE = 36  # fewest bins, and frames, of a spectrogram; as in the reference


def shortest(config: MultiResNetConfig, sample_rate: int) -> int:
    """Length of the shortest clip that every branch can process, samples.

    Raises:
        AsdjaxError: the band of an STFT has too few bins for clips of any length.
    """
    needed = [1]
    if config.fft_branch:
        positions = 1
        for conv in reversed(config.fft_convs):
            positions = (positions - 1) * conv.stride + conv.window
        needed.append(2 * (positions - 1))  # a spectrum has n // 2 + 1 bins
    for spectrogram in config.spectrograms:
        band = bins(spectrogram.n_fft, sample_rate, config.low_hz, config.high_hz)
        if band.stop - band.start < SMALLEST_SIDE:
            raise ConfigError(
                f"model.spectrograms: n_fft {spectrogram.n_fft} has {band.stop - band.start} bins "
                f"between {config.low_hz:g} and {config.high_hz:g} Hz at {sample_rate} Hz, but "
                f"MultiResNet needs {SMALLEST_SIDE}: raise n_fft or widen the band"
            )
        needed.append((SMALLEST_SIDE - 1) * spectrogram.hop)
    return max(needed)


class MultiResNet(nnx.Module):
    """Waveform to embedding; the size of the weights depends on the clips' length.

    Args:
        config: the architecture.
        n_samples: length of every clip, samples.
        sample_rate: hertz.
        rng: source of the initial weights.

    Raises:
        AsdjaxError: clips of `n_samples` are shorter than `shortest(config, sample_rate)`.
    """

    def __init__(
        self,
        config: MultiResNetConfig,
        n_samples: int,
        sample_rate: int,
        *,
        rng: Rng,
    ):
        least = shortest(config, sample_rate)
        if n_samples < least:
            raise ConfigError(
                f"audio.clip_seconds: clips of {n_samples} samples ({n_samples / sample_rate:g} s) "
                f"are too short for MultiResNet, which needs {least} samples "
                f"({least / sample_rate:g} s) with this configuration: increase clip_seconds"
            )
        self.n_samples = n_samples
        self.embedding_size = config.branch_size * (config.fft_branch + len(config.spectrograms))
        self.fft = FFTBranch(config, n_samples, rng=rng) if config.fft_branch else None
        self.stft = nnx.List(
            STFTBranch(config, spectrogram, sample_rate, rng=rng)
            for spectrogram in config.spectrograms
        )

    def __call__(
        self, waveform: Float[Array, "B T"], *, train: bool = False, axis_name: str | None = None
    ) -> Float[Array, "B D"]:
        """Embed a batch of clips: the concatenated embeddings of the FFT and the STFT branches.

        Args:
            waveform: clips of the length for which the network was built.
            train: whether BatchNorm uses the batch's statistics and updates the running ones.
            axis_name: the `jax.pmap` axis over which the batch is split, if any.

        Raises:
            AsdjaxError: the clips have another length.
        """
        if waveform.shape[1] != self.n_samples:
            raise ConfigError(
                f"this MultiResNet embeds clips of {self.n_samples} samples, not "
                f"{waveform.shape[1]}: use the audio.clip_seconds of its training"
            )
        branches = [*([] if self.fft is None else [self.fft]), *self.stft]
        embeddings = [branch(waveform, train=train, axis_name=axis_name) for branch in branches]
        return jnp.concatenate(embeddings, axis=-1)


class FFTBranch(nnx.Module):
    """Strided convolutions and a perceptron on the magnitude spectrum of the whole clip."""

    def __init__(self, config: MultiResNetConfig, n_samples: int, *, rng: Rng):
        channels = (1, *[config.fft_channels] * len(config.fft_convs))
        self.convs = nnx.List(
            SpectrumConv(n_in, n_out, conv, config, rng=rng)
            for (n_in, n_out), conv in zip(
                itertools.pairwise(channels), config.fft_convs, strict=True
            )
        )
        positions = n_samples // 2 + 1
        for conv in config.fft_convs:
            positions = (positions - conv.window) // conv.stride + 1
        sizes = (positions * config.fft_channels, *[config.branch_size] * config.fft_hidden_layers)
        self.hidden = nnx.List(
            HiddenLayer(n_in, n_out, config, rng=rng) for n_in, n_out in itertools.pairwise(sizes)
        )
        self.out = Linear(config.branch_size, config.branch_size, rng=rng)

    def __call__(
        self, waveform: Float[Array, "B T"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B D"]:
        """Embed the clips' spectra."""
        x = magnitude_spectrum(waveform)[..., None]  # [B, T // 2 + 1, 1]
        for conv in self.convs:
            x = conv(x)
        x = flatten(x)
        for layer in self.hidden:
            x = layer(x, train=train, axis_name=axis_name)
        return self.out(x)


class SpectrumConv(nnx.Module):
    """Convolution along frequency, ReLU, squeeze-and-excitation."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        conv: StridedConvConfig,
        config: MultiResNetConfig,
        *,
        rng: Rng,
    ):
        self.conv = _conv(n_in, n_out, config, conv.window, stride=conv.stride, rng=rng)
        self.se = SqueezeExcitation(n_out, config.squeeze_ratio, rng=rng)

    def __call__(self, x: Float[Array, "B F n_in"]) -> Float[Array, "B F_out n_out"]:
        """Apply the layer."""
        return self.se(jax.nn.relu(self.conv(x)))


class HiddenLayer(nnx.Module):
    """Linear, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, config: MultiResNetConfig, *, rng: Rng):
        self.linear = Linear(n_in, n_out, rng=rng)
        self.norm = _norm(n_out, config)

    def __call__(
        self, x: Float[Array, "B n_in"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B n_out"]:
        """Apply the layer."""
        return jax.nn.relu(self.norm(self.linear(x), train=train, axis_name=axis_name))


class STFTBranch(nnx.Module):
    """A residual network on a magnitude spectrogram."""

    def __init__(
        self,
        config: MultiResNetConfig,
        spectrogram: SpectrogramConfig,
        sample_rate: int,
        *,
        rng: Rng,
    ):
        self.n_fft, self.hop = spectrogram.n_fft, spectrogram.hop
        band = bins(self.n_fft, sample_rate, config.low_hz, config.high_hz)
        self.first_bin, self.stop_bin = band.start, band.stop
        # saved with the weights: the reference does so, and its window differs in the last bits
        self.window = BatchStat(hann(self.n_fft).astype(np.float32))
        n_bins = band.stop - band.start
        self.norm_freq = _norm(n_bins, config)
        stages = config.stage_channels
        self.stem = Stem(stages[0], config, rng=rng)
        blocks = [
            ResidualBlock(stages[0], stages[0], config, rng=rng),
            ResidualBlock(stages[0], stages[0], config, rng=rng),
        ]
        for n_in, n_out in itertools.pairwise(stages):
            blocks.append(ResidualBlock(n_in, n_out, config, stride=2, rng=rng))
            blocks.append(ResidualBlock(n_out, n_out, config, rng=rng))
        self.blocks = nnx.List(blocks)
        height = ((n_bins - 7) // 2 + 1 - 3) // 2 + 1  # size of the frequency axis after the stem
        for _ in stages[1:]:
            height = (height + 1) // 2
        self.norm_out = _norm(height * stages[-1], config)
        self.out = Linear(height * stages[-1], config.branch_size, rng=rng)

    def __call__(
        self, waveform: Float[Array, "B T"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B D"]:
        """Embed the clips' spectrograms."""
        x = self.image(self.spectrogram(waveform), train=train, axis_name=axis_name)
        x = self.stem(x, train=train, axis_name=axis_name)
        for block in self.blocks:
            x = block(x, train=train, axis_name=axis_name)
        x = flatten(jnp.max(x, axis=2))
        return self.out(self.norm_out(x, train=train, axis_name=axis_name))

    def spectrogram(self, waveform: Float[Array, "B T"]) -> Float[Array, "B F L"]:
        """The magnitude spectrogram in the band."""
        full = magnitude_spectrogram(
            waveform, n_fft=self.n_fft, hop=self.hop, window=self.window[...]
        )
        return full[:, self.first_bin : self.stop_bin]

    def image(
        self, spectrogram: Float[Array, "B F L"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B F L 1"]:
        """The spectrogram with every frequency normalised over batch and time."""
        x = jnp.swapaxes(spectrogram, 1, 2)
        x = self.norm_freq(x, train=train, axis_name=axis_name)
        return jnp.swapaxes(x, 1, 2)[..., None]


class Stem(nnx.Module):
    """Convolution 7x7 and max-pooling 3x3, both of stride 2, with batch norm and ReLU between."""

    def __init__(self, channels: int, config: MultiResNetConfig, *, rng: Rng):
        self.conv = _conv(1, channels, config, 7, 7, stride=2, rng=rng)
        self.norm = _norm(channels, config)

    def __call__(
        self, x: Float[Array, "B F L 1"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B F_out L_out C"]:
        """Apply the stem; both axes shrink by about four."""
        x = jax.nn.relu(self.norm(self.conv(x), train=train, axis_name=axis_name))
        return max_pool(x, 3, 2)


class ResidualBlock(nnx.Module):
    """Pre-activation block (He et al., 2016) with squeeze-and-excitation (Hu et al., 2018).

    Both branches start from the normalised input. A block of stride 2 halves both axes (rounding
    up); its shortcut is a max-pooling, then a 1x1 convolution.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        config: MultiResNetConfig,
        *,
        stride: int = 1,
        rng: Rng,
    ):
        self.norm1 = _norm(n_in, config)
        self.conv1 = _conv(n_in, n_out, config, 3, 3, stride=stride, padding=1, rng=rng)
        self.norm2 = _norm(n_out, config)
        self.conv2 = _conv(n_out, n_out, config, 3, 3, padding=1, rng=rng)
        self.se = SqueezeExcitation(n_out, config.squeeze_ratio, rng=rng)
        self.projection = _conv(n_in, n_out, config, 1, 1, rng=rng) if stride > 1 else None
        self.stride = stride

    def __call__(
        self, x: Float[Array, "B F L n_in"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B F_out L_out n_out"]:
        """Apply the block; no activation follows the sum."""
        x = self.norm1(x, train=train, axis_name=axis_name)
        return self.shortcut(x) + self.residual(x, train=train, axis_name=axis_name)

    def residual(
        self, x: Float[Array, "B F L n_in"], *, train: bool, axis_name: str | None = None
    ) -> Float[Array, "B F_out L_out n_out"]:
        """The branch with weights, from the normalised input."""
        x = self.conv1(jax.nn.relu(x))
        x = self.norm2(x, train=train, axis_name=axis_name)
        return self.se(self.conv2(jax.nn.relu(x)))

    def shortcut(self, x: Float[Array, "B F L n_in"]) -> Float[Array, "B F_out L_out n_out"]:
        """The branch without residual weights: identity, or pooling and projection."""
        if self.projection is None:
            return x
        return self.projection(max_pool(x, 3, self.stride, padding=1))


def flatten(x: Float[Array, "B N C"]) -> Float[Array, "B C*N"]:
    """Flatten as PyTorch flattens [B, C, N]: value (c, n) becomes value c * N + n."""
    return jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)


def _conv(n_in: int, n_out: int, config: MultiResNetConfig, *window: int, **more: Any) -> Conv:
    return Conv(n_in, n_out, window, compute_dtype=config.compute_dtype, **more)


def _norm(features: int, config: MultiResNetConfig) -> BatchNorm:
    return BatchNorm(features, momentum=config.norm_momentum, eps=config.norm_eps)
