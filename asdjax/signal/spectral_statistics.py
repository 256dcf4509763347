"""Statistics over time of log-mel spectra: a description of a clip that needs no training.

Three spectrograms (Hann windows of 1024, 4096 and 256 samples, half overlapping, power in mel
bands, logarithm) give four features of a clip:

    bands      mean and deviation of each band over time, medium window
    fine       the same, long window: tones that move
    fast       the same, short window: short events
    events     relative deviation pooling of the medium window: unusual frames count more

Relative deviation pooling is from arXiv 2603.04605. For frames X_t, less the mean of all bands and
frames (the clip's level), m = mean_t X_t and d_t = |X_t - m| / max_t |X_t - m|, it is

    sum_t w_t X_t,   w_t proportional to (1 + d_t)^8
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asdjax.signal import stft

FEATURES = ("bands", "events", "fine", "fast")
"""Names of the features."""

_MEDIUM, _FINE, _FAST = (1024, 128), (4096, 128), (256, 32)  # window in samples, mel bands
_HIGHEST = 0.45  # of the sample rate; bands end below
_FLOOR = 1e-12  # of a band's power; quantisation noise of 16 bits has 8e-11
_GAMMA = 8  # exponent of relative deviation pooling
_NO_DEVIATION = 1e-8  # largest deviation at which all frames count as equal


def spectral_statistics(
    waveform: Float[Array, "B T"], length: Int[Array, " B"], *, sample_rate: int
) -> dict[str, Float[Array, "B D"]]:
    """The features of clips by name, in the waveform's dtype.

    A clip's features depend on its samples alone, not on the padding that follows.

    Args:
        waveform: clips in [-1, 1], padded by zeros.
        length: samples of each clip; a clip shorter than a window has one frame.
        sample_rate: hertz.

    Example:
        >>> noise = jax.random.normal(jax.random.key(0), (2, 16000))
        >>> found = spectral_statistics(noise, jnp.array([16000, 8000]), sample_rate=16000)
        >>> found["fast"].shape
        (2, 54)
    """
    return each(functools.partial(_of_clip, sample_rate), waveform, length)


def each(
    of_clip: Callable[..., Any], waveform: Float[Array, "B T"], length: Int[Array, " B"]
) -> Any:
    """The results of `of_clip(waveform, length)` for all clips."""
    return jax.lax.platform_dependent(
        waveform,
        length,
        cpu=lambda *clips: jax.lax.map(lambda clip: of_clip(*clip), clips),  # stays in the cache
        default=jax.vmap(of_clip),
    )


def mel_bank(n_fft: int, sample_rate: int, bands: int) -> Float[np.ndarray, "F bands"]:
    """Triangular weights of a transform's bins in mel bands from 0 Hz to half the sample rate.

    The mel scale is 2595 log10(1 + hz / 700). Bands that are so narrow that they have no bin are
    left out, and those that reach above 0.45 of the sample rate: there the level depends on the
    filter of the device or program that recorded or resampled the sound. float64.
    """
    hz = np.arange(n_fft // 2 + 1) * sample_rate / n_fft
    mel = _mel(hz)[:, None]
    edges = np.linspace(0, _mel(np.array(sample_rate / 2)), bands + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    weights = np.minimum((mel - left) / (centre - left), (right - mel) / (right - centre))
    weights = np.maximum(weights, 0)
    return weights[:, weights.any(axis=0) & (right <= _mel(np.array(_HIGHEST * sample_rate)))]


def edges(sample_rate: int) -> list[tuple[float, float]]:
    """Lowest and highest frequency in the bands of the feature `bands`, hertz."""
    n_fft, bands = _MEDIUM
    weights = mel_bank(n_fft, sample_rate, bands) > 0
    width = sample_rate / n_fft
    found = [np.flatnonzero(weights[:, band]) for band in range(weights.shape[1])]
    return [
        (float(max(b[0] - 0.5, 0) * width), float(min(b[-1] + 0.5, n_fft / 2) * width))
        for b in found
    ]


def log_mel(
    waveform: Float[Array, "T"], length: Int[Array, ""], sample_rate: int
) -> tuple[Float[Array, "L M"], Float[Array, "L"]]:
    """The frames of which the feature `bands` is made, and which belong to the clip (1 or 0).

    Args:
        waveform: a clip in [-1, 1], padded by zeros.
        length: samples of the clip.
        sample_rate: hertz.
    """
    n_fft, bands = _MEDIUM
    return _log_mel(waveform, length, n_fft, mel_bank(n_fft, sample_rate, bands))


def frame_seconds(sample_rate: int) -> tuple[float, float]:
    """The length of a frame of `log_mel` and the step between frames, seconds."""
    return _MEDIUM[0] / sample_rate, _MEDIUM[0] / 2 / sample_rate


def places(sample_rate: int) -> dict[str, list[tuple[str, float]]]:
    """The statistic over time (mean, deviation, events) and hertz of each feature's values."""
    found = {}
    for name, (n_fft, bands) in zip(FEATURES, (_MEDIUM, _MEDIUM, _FINE, _FAST), strict=True):
        peaks = np.argmax(mel_bank(n_fft, sample_rate, bands), axis=0) * sample_rate / n_fft
        kinds = ("events",) if name == "events" else ("mean", "deviation")
        found[name] = [(kind, float(hertz)) for kind in kinds for hertz in peaks]
    return found


def _mel(hz: Float[np.ndarray, "*F"]) -> Float[np.ndarray, "*F"]:
    return 2595 * np.log10(1 + hz / 700)


def _of_clip(
    sample_rate: int, waveform: Float[Array, "T"], length: Int[Array, ""]
) -> dict[str, Float[Array, "D"]]:
    result = {}
    for name, (n_fft, bands) in (("bands", _MEDIUM), ("fine", _FINE), ("fast", _FAST)):
        frames, used = _log_mel(waveform, length, n_fft, mel_bank(n_fft, sample_rate, bands))
        mean = _mean(frames, used)
        deviation = jnp.sqrt(_mean(jnp.square(frames - mean[None, :]), used))
        result[name] = jnp.concatenate([mean, deviation])
        if name == "bands":
            result["events"] = _relative_deviation(frames - jnp.mean(mean), used)
    return {name: result[name] for name in FEATURES}


def _log_mel(
    waveform: Float[Array, "T"],
    length: Int[Array, ""],
    n_fft: int,
    bank: Float[np.ndarray, "F M"],
) -> tuple[Float[Array, "L M"], Float[Array, "L"]]:
    """Log power in bands of complete frames, and which frames belong to the clip (1 or 0)."""
    hop, dtype = n_fft // 2, waveform.dtype
    count = 1 + max(len(waveform) - n_fft, 0) // hop
    window = stft.hann(n_fft)
    window /= np.sqrt(np.sum(np.square(window)))  # white noise has its variance in every bin
    windowed = stft.frames(waveform[None], jnp.asarray(window, dtype), hop=hop, count=count)[0]
    spectrum = jnp.fft.rfft(windowed, axis=-1)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    energy = jnp.matmul(power, jnp.asarray(bank, dtype), precision="highest")
    ends = jnp.arange(count, dtype=jnp.int32) * hop + n_fft
    used = (ends <= length) | (ends == n_fft)
    return jnp.log(jnp.maximum(energy, _FLOOR)), used.astype(dtype)


def _mean(frames: Float[Array, "L M"], weight: Float[Array, "L"]) -> Float[Array, "M"]:
    """The weighted mean over frames."""
    return jnp.sum(frames * (weight / jnp.sum(weight))[:, None], axis=0)


def _relative_deviation(frames: Float[Array, "L M"], used: Float[Array, "L"]) -> Float[Array, "M"]:
    """Relative deviation pooling of frames without the clip's level."""
    deviation = frames - _mean(frames, used)[None, :]
    distance = jnp.sqrt(jnp.sum(jnp.square(deviation), axis=1)) * used
    largest = jnp.max(distance)
    relative = jnp.where(largest > _NO_DEVIATION, distance / jnp.maximum(largest, _NO_DEVIATION), 0)
    return _mean(frames, used * (1 + relative) ** _GAMMA)
