"""Dasheng's mel spectrogram in decibels, at 16 kHz, as torchaudio computes it.

Centred frames of 512 samples every 160, mirrored at both ends, periodic Hann window; the power is
summed with 64 triangular weights between points that are equally spaced on HTK's mel scale from 0
to 8000 Hz; then 10 log10, at least 1e-10, and not more than 120 dB below the clip's largest value.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from asdjax.signal.stft import stft

BANDS = 64
"""Mel bands."""
HOP, N_FFT = 160, 512
"""Step between frames and their length, samples."""

_RATE = 16000
_LEAST = 1e-10
_RANGE_DB = 120


def frames(samples: int | Int[Array, " B"]) -> int | Int[Array, " B"]:
    """Number of frames of `samples` samples."""
    return samples // HOP + 1


def samples(frames: int) -> int:
    """The least number of samples that has this many frames and can be mirrored."""
    return max(HOP * (frames - 1), N_FFT // 2 + 1)


def mel_decibels(
    waveform: Float[Array, "B T"], length: Int[Array, " B"] | None = None
) -> Float[Array, "B L 64"]:
    """The spectrogram in decibels, in the waveform's dtype.

    Args:
        waveform: clips in [-1, 1], more than 256 samples each.
        length: each clip's samples without padding, which then has no influence on the clip's own
            `frames(length)` frames; None: clips are not padded.
    """
    count = waveform.shape[1] // HOP + 1
    if length is not None:
        waveform = _mirrored(waveform, length)
    spectrum = stft(waveform, n_fft=N_FFT, hop=HOP, pad_mode="reflect")[:, :, :count]
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    weights = jnp.asarray(mel_bank(), power.dtype)
    energies = jnp.einsum("bfl,fm->blm", power, weights, precision="highest")
    decibels = 10 * jnp.log10(jnp.maximum(energies, _LEAST))
    own = None
    if length is not None:
        own = (jnp.arange(count, dtype=length.dtype)[None] < (length // HOP + 1)[:, None])[
            ..., None
        ]
    loudest = jnp.max(decibels, axis=(1, 2), keepdims=True, where=own, initial=-jnp.inf)
    return jnp.maximum(decibels, loudest - _RANGE_DB)


def mel_bank() -> Float[np.ndarray, "257 64"]:
    """Weights of the bins in each band, float64: triangles of height 1, linear in hertz."""
    top = 2595 * np.log10(1 + _RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, _RATE / 2, N_FFT // 2 + 1)[:, None]
    left, centre, right = hertz[:-2], hertz[1:-1], hertz[2:]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    return np.maximum(0, np.minimum(rising, falling))


def _mirrored(waveform: Float[Array, "B T"], length: Int[Array, " B"]) -> Float[Array, "B T+256"]:
    """Each clip followed by its mirror image, as far as its last frame reaches."""
    place = jnp.arange(waveform.shape[1] + N_FFT // 2, dtype=length.dtype)[None]
    last = length[:, None] - 1
    source = jnp.clip(jnp.where(place <= last, place, 2 * last - place), 0)
    return jnp.take_along_axis(waveform, source, axis=1)
