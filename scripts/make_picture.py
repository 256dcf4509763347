"""The picture of the README: a pump that hums, and a recording in which something grinds."""

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from asdjax import Detector
from asdjax.files import atomic
from asdjax.report import figures
from asdjax.runtime import console

_RATE, _SECONDS = 16000, 8.0
_PICTURE = Path(__file__).parents[1] / "asdjax" / "docs" / "explanation.png"


def main(argv: Sequence[str]) -> None:
    """Write the picture."""
    rng = np.random.default_rng(0)
    detector = Detector().fit([_pump(rng) for _ in range(40)], sample_rate=_RATE)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        soundfile.write("today.wav", _pump(rng) + _grinding(rng), _RATE)
        (why,) = detector.explain("today.wav")
    atomic.write_bytes(_PICTURE, figures.explanation_png(why), overwrite=True)
    console.say(f"{_PICTURE}: {_PICTURE.stat().st_size / 1000:.0f} kB")


def _times() -> np.ndarray:
    return np.arange(round(_SECONDS * _RATE)) / _RATE


def _pump(rng: np.random.Generator) -> np.ndarray:
    """Harmonics of a shaft, and noise that falls with the frequency."""
    times, shaft = _times(), 48 + rng.normal() / 4
    hum = sum(np.sin(2 * np.pi * shaft * k * times + rng.uniform(0, 6)) / k for k in range(1, 30))
    spectrum = np.fft.rfft(rng.standard_normal(len(times)))
    hertz = np.fft.rfftfreq(len(times), 1 / _RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(1 + hertz / 300), len(times))
    return (0.05 * hum + 0.1 * noise) * np.exp(rng.normal() / 20)


def _grinding(rng: np.random.Generator) -> np.ndarray:
    """Noise around 2.5 kHz from second 3 to 5."""
    times = _times()
    spectrum = np.fft.rfft(rng.standard_normal(len(times)))
    hertz = np.fft.rfftfreq(len(times), 1 / _RATE)
    band = np.fft.irfft(spectrum * np.exp(-np.square((hertz - 2500) / 250)), len(times))
    return 0.15 * band * np.exp(-np.square((times - 4) / 0.6))
