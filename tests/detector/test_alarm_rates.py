"""The level is kept and faults are found, on synthetic machines and over seeds."""

import numpy as np
import pytest

from asdjax import Detector
from asdjax.config.recipe import SynthConfig
from asdjax.detector.features import SpectralFeatures
from asdjax.detector.normal import Model, NormalWindows
from asdjax.store.detector_file import NormalRecording
from asdjax.synth import corpus

SEEDS = range(8)


def recordings(seed: int, machine: str, noise_db: float):
    """Normal recordings to learn from, fresh normal ones and faulty ones [N, T], near channel."""
    config = SynthConfig(
        machines=(machine,), seed=seed, noise_db=noise_db, train_source=40, train_target=1,
        test_per_cell=80, seconds=4.0,  # 640 in all: chance moves their share by 1 %
    )  # fmt: skip
    found = {"train": [], "normal": [], "anomaly": []}
    for clip in corpus.clips(config):
        if clip.domain == "source":
            near = sum(part[0] for part in corpus.components(config, clip))
            found["train" if clip.split == "train" else clip.label].append(near)
    return [np.array(waves) for waves in found.values()]


@pytest.mark.slow
@pytest.mark.parametrize("noise_db", [-40.0, -8.0])
@pytest.mark.parametrize("machine", ["fan", "bearingEmu", "valveEmu"])
def test_one_in_ten_normal_recordings_alarms_and_most_faulty_ones_do(machine, noise_db):
    alarms, detected = [], []
    for seed in SEEDS:
        train, normal, faulty = recordings(seed, machine, noise_db)
        detector = Detector(level=0.9).fit(train)
        alarms += (detector.predict(normal) == -1).tolist()
        detected += (detector.predict(faulty) == -1).tolist()
    print(
        f"{machine}, noise {noise_db:g} dB: {sum(alarms)} false alarms in {len(alarms)}, "
        f"{sum(detected)} detected of {len(detected)}"
    )
    assert 0.05 * len(alarms) <= sum(alarms) <= 0.15 * len(alarms)
    assert sum(detected) >= 0.8 * len(detected)


@pytest.mark.parametrize(("windows", "bank"), [(100, 30), (200, 100), (400, 50)])
def test_the_level_is_kept_with_a_bank_of_few_windows(windows, bank):
    """By simulation: the windows of the bank are unusual, which must not raise the threshold."""
    rates = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        known = drawn(rng, windows)
        recordings = tuple(
            NormalRecording(str(i), f"{rng.integers(2**60):x}", 16000, 1, 1.0, -20.0, 0.0)
            for i in range(windows)
        )
        places = np.arange(windows, dtype=np.int32), np.zeros(windows)
        spectra = np.zeros((windows, 4, 1), np.float32)
        normal = NormalWindows(recordings, *places, known, spectra)
        model = Model(normal, SpectralFeatures.backends, 0.9, 1.0, max_bank=bank)
        rates.append((model.score(drawn(rng, 1000)) > model.threshold).mean())
    assert 0.08 <= np.mean(rates) <= 0.12


def drawn(rng, count):
    """Features of windows, one in ten of which is farther out."""
    scale = np.where(rng.random((count, 1)) < 0.1, 3, 1)
    return {f: (rng.standard_normal((count, 10)) * scale).astype(np.float32) for f in "ab"}
