"""Explanations point at what was added to a normal recording, or taken from it."""

import collections
import json

import numpy as np
import pytest
from scipy import signal
from support.machines import RATE, folder, sound

from asdjax import Detector
from asdjax.config.recipe import SynthConfig
from asdjax.synth import corpus

NEAR = 1.15  # factor of frequency within which a band counts as found
SOON = 0.1  # seconds, likewise


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return Detector().fit(folder(tmp_path_factory.mktemp("normal"), range(24), seconds=3.0))


def band(wave, low, high):
    sos = signal.butter(4, [low, high], "bandpass", fs=RATE, output="sos")
    return signal.sosfiltfilt(sos, wave)


def anomalies(rng, wave):
    """Kind, the changed recording, and its time and frequencies if only some are concerned."""
    time, rms = np.arange(len(wave)) / RATE, wave.std()
    hertz = np.exp(rng.uniform(np.log(400), np.log(6000)))
    tone = np.sin(2 * np.pi * hertz * time)
    start = rng.uniform(0.2, time[-1] - 1)
    end = start + 0.6
    during = (time > start) & (time < end)
    yield "whine", wave + 0.3 * rms * tone, None, (hertz, hertz)
    yield "beep", wave + 0.5 * rms * tone * during, (start, end), (hertz, hertz)
    knock, first = wave.copy(), int(start * RATE)
    knock[first : first + 400] += 12 * rms * np.exp(-np.arange(400) / 80) * rng.standard_normal(400)
    yield "knock", knock, (start, start + 0.03), None
    low = np.exp(rng.uniform(np.log(400), np.log(4000)))
    hiss = band(rng.standard_normal(len(wave)), low, 1.5 * low)
    hiss *= rms / hiss.std()
    yield "hiss", wave + 0.5 * hiss, None, (low, 1.5 * low)
    yield "burst", wave + hiss * during, (start, end), (low, 1.5 * low)
    yield "dropout", wave * np.where(during, 0.1, 1), (start, end), None
    yield "missing band", wave - 0.9 * band(wave, low, 1.5 * low), None, (low, 1.5 * low)


def points_at(area, seconds, hertz, length):
    """Whether the area's centre lies in the time, or in the band, of the anomaly."""
    in_time = (
        area.end - area.start < 0.9 * length
        and seconds is not None
        and (seconds[0] - SOON <= (area.start + area.end) / 2 <= seconds[1] + SOON)
    )
    narrow = area.high < 3 * area.low + 300
    centre = np.sqrt(max(area.low, 1) * area.high)
    in_band = narrow and hertz is not None and hertz[0] / NEAR <= centre <= hertz[1] * NEAR
    return in_time or in_band


@pytest.mark.slow
@pytest.mark.parametrize("noise_db", [-40.0, -8.0])
@pytest.mark.parametrize("machine", ["fan", "bearingEmu", "gearboxEmu", "sliderEmu", "valveEmu"])
def test_the_first_area_is_the_right_one(machine, noise_db):
    hits = collections.defaultdict(list)
    for seed in range(3):
        config = SynthConfig(
            machines=(machine,), seed=seed, noise_db=noise_db, train_source=40, train_target=1,
            test_per_cell=4, seconds=4.0,
        )  # fmt: skip
        train, test = [], []
        for clip in corpus.clips(config):
            if clip.domain == "source" and clip.label == "normal":
                near = sum(part[0] for part in corpus.components(config, clip))
                (train if clip.split == "train" else test).append(near)
        detector = Detector().fit(train)
        rng = np.random.default_rng(seed)
        for wave in test:
            for kind, changed, seconds, hertz in anomalies(rng, wave):
                (why,) = detector.explain([changed])
                hits[kind].append(points_at(why.areas[0], seconds, hertz, 4.0))
    shares = {kind: np.mean(found) for kind, found in hits.items()}
    print(machine, noise_db, {kind: f"{100 * share:.0f}" for kind, share in shares.items()})
    assert np.mean(list(shares.values())) >= 0.8
    assert min(shares.values()) >= 0.5  # least: knocks on a machine that knocks itself


def test_a_tone_a_knock_and_their_places(fitted):
    rng = np.random.default_rng(0)
    hits = []
    for seed in range(500, 504):
        wave = sound(seed, seconds=3.0)
        for kind, changed, seconds, hertz in anomalies(rng, wave):
            (why,) = fitted.explain([changed])
            hits.append((kind, points_at(why.areas[0], seconds, hertz, 3.0)))
    assert np.mean([hit for _, hit in hits]) >= 0.9, [kind for kind, hit in hits if not hit]


@pytest.mark.parametrize("times", [1, 3])
def test_times_count_from_the_beginning_of_the_recording(times):
    def recorded(wave):
        return signal.resample_poly(wave, times, 1)

    wave = np.concatenate([sound(600 + i, seconds=3.0) for i in range(4)])
    time = np.arange(len(wave)) / RATE
    wave += 0.05 * np.sin(2 * np.pi * 2000 * time) * ((time > 7.0) & (time < 8.0))
    normal = [recorded(sound(seed, seconds=3.0)) for seed in range(24)]
    detector = Detector().fit(normal, sample_rate=times * RATE)
    (why,) = detector.explain([recorded(wave)], sample_rate=times * RATE)
    assert why.prediction.start == 6.0
    area = why.areas[0]
    assert 6.9 <= area.start < area.end <= 8.1
    assert area.low <= 2100 and area.high >= 1900
    loud = why.map.deviations > 0.5 * why.map.deviations.max()
    rows, columns = np.nonzero(loud)
    assert np.all((why.map.seconds[rows] > 6.8) & (why.map.seconds[rows] < 8.2))
    assert np.all((why.map.hertz[columns] > 1700) & (why.map.hertz[columns] < 2300))


def test_areas_do_not_overlap_and_maps_fit_their_axes(fitted):
    (why,) = fitted.explain([sound(700, seconds=3.0, fault="tone")])
    shape = len(why.map.seconds), len(why.map.hertz)
    assert why.map.deviations.shape == why.map.level_db.shape == shape
    assert np.all(np.diff(why.map.hertz) > 0) and np.all(np.diff(why.map.seconds) > 0)
    for i, one in enumerate(why.areas):
        assert abs(one.deviations) >= 5 or i == 0
        for other in why.areas[:i]:
            assert abs(other.deviations) >= abs(one.deviations)
            apart_in_time = one.start >= other.end or other.start >= one.end
            assert apart_in_time or one.low >= other.high or other.low >= one.high


@pytest.mark.parametrize("seconds", [0.01, 0.08, 0.2, 0.5])
def test_recordings_shorter_than_an_area(fitted, seconds):
    (why,) = fitted.explain([sound(1, seconds=seconds)])
    assert why.areas and all(0 <= area.start < area.end <= seconds for area in why.areas)
    assert len(why.map.seconds) == len(why.map.deviations) > 0


def test_a_document_is_plain_json(fitted):
    (why,) = fitted.explain([sound(1, seconds=3.0)])
    document = json.loads(json.dumps(why.document(), allow_nan=False))
    assert document["schema"] == "asdjax.explanation/1"
    assert document["areas"][0]["deviations"] == why.areas[0].deviations
    np.testing.assert_array_equal(document["map"]["deviations"], why.map.deviations)
    assert document["prediction"]["score"] == why.prediction.score
