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
    """Periodic Hann window, float64: one period of (1 - cos) / 2 without its end point."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)


def bins(n_fft: int, sample_rate: int, low_hz: float, high_hz: float) -> slice:
    """The bins of a transform of `n_fft` samples whose frequencies lie in [low_hz, high_hz].

    Bin k stands for k * sample_rate / n_fft hertz, k = 0 .. n_fft // 2.

    Raises:
        AsdjaxError: no bin lies in the band.
    """
    # k * sample_rate is a whole number: a bin exactly on an edge is never lost to rounding.
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
        window: factors on each frame's samples, of the waveform's dtype; None: `hann(n_fft)`.
        pad_mode: what the frames see beyond either end: zeros or a mirror image.
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

    Windowed frames are overlapped and added, and divided by the sum of the squared windows
    (Griffin and Lim 1984): exact for the spectrum of a signal whose length is a multiple of `hop`,
    whatever lies beyond its ends.

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
    """`jnp.fft.irfft` over the last axis of a real signal's spectrum, F = n // 2 + 1.

    Bin 0 and, for even n, bin n / 2 of such a spectrum are real. For even n by a complex transform
    of half the length, whose real and imaginary parts are the even and the odd samples (Cooley,
    Lewis and Welch 1970): on a CPU XLA's own takes twice as long as the forward transform.
    """
    if n % 2:
        return jnp.fft.irfft(spectrum, n, axis=-1)
    half = n // 2
    low, high = spectrum[..., :half], jnp.conj(spectrum[..., :0:-1])
    turn = jnp.asarray(1j * np.exp(2j * np.pi * np.arange(half) / n), spectrum.dtype)
    packed = jnp.fft.ifft(low + high + turn[None, None, :] * (low - high), axis=-1)
    pairs = jnp.stack([packed.real, packed.imag], axis=-1) / 2
    return pairs.reshape(*spectrum.shape[:-1], n)


def frames(
    padded: Float[Array, "B P"], window: Float[Array, "n_fft"], *, hop: int, count: int
) -> Float[Array, "B L n_fft"]:
    """The first `count` windowed frames of a signal, frame l from sample l * hop on.

    Past the signal's end are zeros.
    """
    # Frames as runs of whole hops: slices are faster than a gather, and need no index array.
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
    """The sum of windowed frames, frame l from sample l * hop on: the transpose of `frames`.

    Each of the steps is a run of `hop` samples. A frame of one value has it everywhere.
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
    """A window cut into runs of `hop` factors; the last may be shorter."""
    return [window[i : i + hop] for i in range(0, len(window), hop)]


def magnitude_spectrogram(
    waveform: Float[Array, "B T"],
    *,
    n_fft: int,
    hop: int,
    window: Float[Array, "n_fft"] | None = None,
) -> Float[Array, "B F L"]:
    """Magnitude of the zero-padded STFT over the window's L2 norm.

    The scaling gives white noise the same level at every resolution (torchaudio's
    `normalized="window"`). Arguments as in `stft`.
    """
    if window is None:
        window = jnp.asarray(hann(n_fft), waveform.dtype)
    norm = jnp.sqrt(jnp.sum(jnp.square(window)))
    # frame by frame, as the transform leaves them: XLA would take magnitudes of a transposed copy
    spectrum = jnp.swapaxes(stft(waveform, n_fft=n_fft, hop=hop, window=window / norm), 1, 2)
    return jnp.swapaxes(jnp.abs(spectrum), 1, 2)


def magnitude_spectrum(waveform: Float[Array, "B T"]) -> Float[Array, "B T//2+1"]:
    """Magnitude of the whole signal's spectrum: no window, no scaling."""
    return jnp.abs(jnp.fft.rfft(waveform, axis=-1))
