"""Short-time Fourier transforms: centred frames under a periodic Hann window.

Conventions, everywhere in asdjax: frame l is centred on sample l * hop, a signal of T samples has
1 + T // hop frames, spectra are one-sided and arrays are [batch, frequency, frame].
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from asdjax.errors import DataError


def hann(length: int) -> Float[np.ndarray, "length"]:
    """Periodic Hann window, float64: (1 - cos(2 pi n / length)) / 2 for n = 0 .. length - 1."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def bins(n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> slice:
    """The bins of a transform of `n_fft` samples whose frequencies lie in [low_hz, high_hz].

    Bin k has the frequency k * sample_rate / n_fft, k = 0 .. n_fft // 2.

    Raises:
        AsdjaxError: no bin lies in the band.

    Example:
        >>> bins(1024, 16000, 200, 8000)
        slice(13, 513, None)
    """
    # compare k * sample_rate, an integer, so that a bin exactly on an edge is not lost by rounding
    scaled = np.arange(n_fft // 2 + 1) * sample_rate
    first = int(np.searchsorted(scaled, low_hz * n_fft, side="left"))
    stop = int(np.searchsorted(scaled, high_hz * n_fft, side="right"))
    if first >= stop:
        raise DataError(
            f"no bin of an STFT with n_fft {n_fft} at {sample_rate} Hz lies between "
            f"{low_hz:g} and {high_hz:g} Hz: widen model.low_hz .. model.high_hz or raise n_fft"
        )
    return slice(first, stop)


def stft(
    waveform: Float[Array, "B T"],
    *,
    n_fft: int,
    hop: int,
    window: Float[Array, "n_fft"] | None = None,
    pad_mode: Literal["constant", "reflect"] = "constant",
) -> Complex[Array, "B F L"]:
    """Short-time Fourier transform, F = n_fft // 2 + 1 and L = 1 + T // hop, without scaling.

    Args:
        waveform: real signal, float32 or float64.
        n_fft: window and transform length, samples.
        hop: step between frames, samples; need not divide `n_fft`.
        window: of the waveform's dtype; None: `hann(n_fft)`.
        pad_mode: extension of the signal at both ends: zeros or its mirror image.
    """
    if window is None:
        window = jnp.asarray(hann(n_fft), waveform.dtype)
    count = 1 + waveform.shape[1] // hop
    before, after = n_fft // 2, n_fft - n_fft // 2
    padded = jnp.pad(waveform, ((0, 0), (before, after)), mode=pad_mode)
    windowed = frames(padded, window, hop=hop, count=count)
    return jnp.swapaxes(jnp.fft.rfft(windowed, axis=-1), 1, 2)


def istft(
    spectrum: Complex[Array, "B F L"],
    *,
    n_fft: int,
    hop: int,
    window: Float[Array, "n_fft"] | None = None,
) -> Float[Array, "B T"]:
    """Least-squares inverse of `stft`, T = hop * (L - 1).

    x[n] = sum_l w[n - l hop] frame_l[n - l hop] / sum_l w[n - l hop]^2 (Griffin and Lim, 1984).
    Exact for the spectrum of a signal whose length is a multiple of `hop`, for every `pad_mode`.

    Args:
        spectrum: one-sided, F = n_fft // 2 + 1.
        n_fft: window and transform length, samples.
        hop: step between frames, samples; at most n_fft // 2.
        window: as in `stft`.
    """
    frame = jnp.fft.irfft(jnp.swapaxes(spectrum, 1, 2), n_fft, axis=-1)
    if window is None:
        window = jnp.asarray(hann(n_fft), frame.dtype)
    one = jnp.ones((1, spectrum.shape[2], 1), frame.dtype)
    weight = overlap_add(one, jnp.square(window), hop=hop).reshape(1, -1)
    added = overlap_add(frame, window, hop=hop).reshape(len(frame), -1)
    inside = slice(n_fft // 2, n_fft // 2 + hop * (spectrum.shape[2] - 1))
    return added[:, inside] / weight[:, inside]


def inverse_rfft(spectrum: Complex[Array, "B L F"], n: int) -> Float[Array, "B L n"]:
    """`jnp.fft.irfft` over the last axis, F = n // 2 + 1; for even n faster than XLA's on CPUs.

    Bins 0 and n / 2 must be real, as they are in the spectrum X of a real signal x. For even n, one
    complex inverse transform of length h = n / 2 gives the even samples e and the odd samples o as
    real and imaginary part (Cooley, Lewis and Welch, 1970). Their spectra are, for k < h and with
    conj(X[h - k]) = X[k + h],

        E[k] = (X[k] + conj(X[h - k])) / 2
        O[k] = (X[k] - conj(X[h - k])) / 2 * exp(2 pi i k / n)

    so that e + i o = ifft(E + i O).
    """
    if n % 2:
        return jnp.fft.irfft(spectrum, n, axis=-1)
    half = n // 2
    low, high = spectrum[..., :half], jnp.conj(spectrum[..., :0:-1])
    twiddle = jnp.asarray(1j * np.exp(2j * np.pi * np.arange(half) / n), spectrum.dtype)
    packed = jnp.fft.ifft(low + high + twiddle[None, None, :] * (low - high), axis=-1)
    pairs = jnp.stack([packed.real, packed.imag], axis=-1) / 2
    return pairs.reshape(*spectrum.shape[:-1], n)


def frames(
    padded: Float[Array, "B P"], window: Float[Array, "n_fft"], *, hop: int, count: int
) -> Float[Array, "B L n_fft"]:
    """The first `count` windowed frames of a signal; frame l starts at sample l * hop.

    The signal is extended by zeros as needed.
    """
    # Frames are assembled from slices of [hops, hop], which is faster than a gather.
    parts = _by_hop(window, hop)
    hops = count + len(parts) - 1
    padded = padded[:, : hops * hop]
    padded = jnp.pad(padded, ((0, 0), (0, hops * hop - padded.shape[1])))
    steps = padded.reshape(-1, hops, hop)
    windowed = [steps[:, i : i + count, : len(w)] * w[None, None, :] for i, w in enumerate(parts)]
    return jnp.concatenate(windowed, axis=-1)


def overlap_add(
    framed: Float[Array, "B L n_fft"] | Float[Array, "B L 1"],
    window: Float[Array, "n_fft"],
    *,
    hop: int,
) -> Float[Array, "B steps hop"]:
    """The sum of windowed frames, frame l starting at sample l * hop: the transpose of `frames`.

    The result is divided into steps of `hop` samples. A frame of one value is constant.
    """
    parts = _by_hop(window, hop)
    last = len(parts) - 1
    shifted = []
    for i, w in enumerate(parts):
        run = framed[:, :, i * hop : (i + 1) * hop] if framed.shape[2] > 1 else framed
        run = run * w[None, None, :]
        shifted.append(jnp.pad(run, ((0, 0), (i, last - i), (0, hop - len(w)))))
    return sum(shifted[1:], shifted[0])


def _by_hop(window: Float[Array, "n_fft"], hop: int) -> list[Float[Array, "hop"]]:
    """The window in parts of length `hop`; the last may be shorter."""
    return [window[i : i + hop] for i in range(0, len(window), hop)]


def magnitude_spectrogram(
    waveform: Float[Array, "B T"],
    *,
    n_fft: int,
    hop: int,
    window: Float[Array, "n_fft"] | None = None,
) -> Float[Array, "B F L"]:
    """Magnitude of `stft` (zero-padded) divided by the window's L2 norm.

    With this scaling, white noise has the same level at every resolution (torchaudio's
    `normalized="window"`). Arguments as in `stft`.
    """
    if window is None:
        window = jnp.asarray(hann(n_fft), waveform.dtype)
    norm = jnp.sqrt(jnp.sum(jnp.square(window)))
    # magnitudes before the transposition: XLA would else transpose the complex spectrum
    spectrum = jnp.swapaxes(stft(waveform, n_fft=n_fft, hop=hop, window=window / norm), 1, 2)
    return jnp.swapaxes(jnp.abs(spectrum), 1, 2)


def magnitude_spectrum(waveform: Float[Array, "B T"]) -> Float[Array, "B T//2+1"]:
    """Magnitude of the spectrum of the complete signal, without window and scaling."""
    return jnp.abs(jnp.fft.rfft(waveform, axis=-1))
