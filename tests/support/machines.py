"""A small machine for tests of detectors: seconds of hum and noise, normal or with a fault."""

from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def sound(seed: int, *, fault: str | None = None, seconds: float = 1.0, rate: int = RATE):
    """A recording [T], float64 in [-1, 1]: partials of a hum that varies a little, and noise.

    Faults: "tone" (a whine at 3.1 kHz), "knock" (clicks), "louder".
    """
    rng = np.random.default_rng([seed, 7])
    time = np.arange(round(seconds * rate)) / rate
    hum = 50 * np.exp(0.01 * rng.standard_normal())
    partials = [np.sin(2 * np.pi * (k * hum * time + rng.random())) / k for k in range(1, 12)]
    wave = 0.02 * np.sum(partials, axis=0) + 0.01 * rng.standard_normal(len(time))
    if fault == "tone":
        wave += 0.01 * np.sin(2 * np.pi * 3100 * time)
    if fault == "knock":
        wave[:: rate // 4] += 0.6
    if fault == "louder":
        wave *= 30
    return wave * np.exp(0.05 * rng.standard_normal())


def folder(path: Path, seeds: range, **options) -> list[Path]:
    """WAV files of recordings in a folder; `rate` is theirs, too."""
    path.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in seeds:
        files.append(path / f"take {seed}.wav")
        rate = options.get("rate", RATE)
        soundfile.write(files[-1], sound(seed, **options), rate, subtype="PCM_16")
    return files
