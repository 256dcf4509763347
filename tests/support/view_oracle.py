"""The views of one clip in float64, with SciPy's STFT: for tests/signal/test_views.py."""

import dataclasses

import numpy as np
import scipy.signal

from asdjax.config.interfaces import View


def mirrored(signal: np.ndarray, before: int, after: int) -> np.ndarray:
    """Extend by reflection without repeating the edge, to and fro where the signal is shorter."""
    period = max(2 * (len(signal) - 1), 1)
    index = np.arange(-before, len(signal) + after) % period
    return signal[np.minimum(index, period - index)]


def spectrum(signal: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Centred STFT [F, L], unscaled, of the signal extended to a multiple of the hop."""
    extended = mirrored(signal, 0, -len(signal) % hop)
    framed = mirrored(extended, n_fft // 2, n_fft - n_fft // 2)
    scaled = scipy.signal.stft(
        framed, nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False
    )[2]
    return scaled * scipy.signal.get_window("hann", n_fft).sum()


def inverse(values: np.ndarray, n_fft: int, hop: int, length: int) -> np.ndarray:
    """Least-squares inverse of `spectrum`, cut to `length`."""
    scaled = values / scipy.signal.get_window("hann", n_fft).sum()
    return scipy.signal.istft(scaled, nperseg=n_fft, noverlap=n_fft - hop)[1][:length]


def rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))


@dataclasses.dataclass
class Clip:
    """One clip's two channels and what its views come from."""

    near: np.ndarray
    far: np.ndarray

    def __init__(self, near, far):
        self.near, self.far = np.asarray(near, np.float64), np.asarray(far, np.float64)

    @property
    def matched(self) -> np.ndarray:
        """Channel 2 with the RMS of channel 1."""
        return self.far * (rms(self.near) / rms(self.far) if np.any(self.far) else 1.0)

    @property
    def level_db(self) -> float:
        return 20 * np.log10(rms(self.far) / rms(self.near))

    @property
    def correlation(self) -> float:
        return float(np.corrcoef(self.near, self.far)[0, 1])

    def spectra(self, config: View) -> tuple[np.ndarray, np.ndarray, float]:
        """STFTs of channel 1 and of the matched channel 2, and what keeps divisors from zero."""
        first = spectrum(self.near, config.n_fft, config.hop)
        second = spectrum(self.matched, config.n_fft, config.hop)
        return first, second, max(1e-8 * np.mean(np.abs(first) ** 2), 1e-20)

    def gain(self, config: View) -> np.ndarray:
        """Wiener gain [F, L]."""
        first, second, eps = self.spectra(config)
        ratio = np.abs(second) ** 2 / (np.abs(first) ** 2 + eps)
        return np.clip(1 - config.alpha * ratio, config.beta, 1)

    def view(self, config: View) -> np.ndarray:
        """The view's sound, as long as the clip."""
        if config.method == "raw":
            return self.near
        if config.method == "far":
            return self.matched
        if config.method == "difference":
            return self.near - self.matched
        first, second, eps = self.spectra(config)
        if config.method == "wiener":
            cleaned = self.gain(config) * first
        else:  # cancel
            power = np.sum(np.abs(second) ** 2, axis=1, keepdims=True) + eps
            cleaned = first - np.sum(first * second.conj(), axis=1, keepdims=True) / power * second
        return inverse(cleaned, config.n_fft, config.hop, len(self.near))
