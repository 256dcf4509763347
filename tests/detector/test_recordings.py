"""Recordings: windows, facts, digests, streams."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import RATE, sound

from asdjax.detector.features import SpectralFeatures
from asdjax.detector.recordings import (
    HALF,
    IGNORED,
    Recording,
    Windowing,
    of_array,
    starts,
    windows_of_stream,
)
from asdjax.errors import AsdjaxError


@given(
    samples=st.integers(1, 400), length=st.integers(1, 60), hop=st.integers(1, 60),
    ignored=st.sampled_from([IGNORED, HALF]),
)  # fmt: skip
def test_windows_lie_in_the_recording_and_leave_little_out(samples, length, hop, ignored):
    hop = min(hop, length)
    found = starts(samples, length, hop, ignored)
    assert found[0] == 0 and found == sorted(set(found))
    assert all(start + length <= samples for start in found) or found == [0]
    assert samples - (found[-1] + length) <= ignored * length
    assert all(b - a == hop for a, b in zip(found[:-2], found[1:-1], strict=True))


def test_examples_of_windows():
    assert starts(10, 10, 10, IGNORED) == [0]
    assert starts(7, 10, 10, IGNORED) == [0]
    assert starts(11, 10, 10, IGNORED) == [0]
    assert starts(12, 10, 10, IGNORED) == [0, 2]
    assert starts(12, 10, 10, HALF) == [0]
    assert starts(30, 10, 5, IGNORED) == [0, 5, 10, 15, 20]


def test_facts(rng):
    wave = (0.1 * rng.standard_normal(3 * 2**20)).astype(np.float32)
    wave[:100] = 1
    facts = Recording("x", wave, 48_000, 2).facts()
    assert facts.level_db == pytest.approx(10 * np.log10(np.mean(wave.astype(float) ** 2)))
    assert facts.clipped == pytest.approx(100 / len(wave))
    assert (facts.rate, facts.channels, facts.seconds) == (48_000, 2, 3 * 2**20 / 48_000)
    silent = Recording("x", np.zeros(10, np.int16), RATE, 1).facts()
    assert silent.level_db == pytest.approx(-200)


def test_digests_tell_samples_and_rates_apart_and_not_names():
    wave = sound(0).astype(np.float32)
    digest = Recording("x", wave, RATE, 1).facts().digest
    assert digest == Recording("y", wave.copy(), RATE, 2).facts().digest
    other = wave.copy()
    other[5] += 1e-6
    assert digest != Recording("x", other, RATE, 1).facts().digest
    assert digest != Recording("x", wave, RATE + 1, 1).facts().digest


def test_channels_are_chosen_and_missing_ones_refused(rng):
    both = rng.standard_normal((50, 2)).astype(np.float32)
    assert np.array_equal(of_array(both, RATE, "x", 2).waveform, both[:, 1])
    assert np.array_equal(of_array(both[:, 0], RATE, "x", 1).waveform, both[:, 0])
    with pytest.raises(AsdjaxError, match="x: no channel 3, the recording has 2 channels"):
        of_array(both, RATE, "x", 3)


@pytest.mark.parametrize(
    ("samples", "what"),
    [
        (np.zeros((2, 2, 2), np.float32), "shape"),
        (np.zeros(5, np.int32), "int32"),
        (np.array([0.0, np.nan]), "NaN"),
        (np.array([]), "no samples"),
        (np.array(["a"]), "type"),
        (np.zeros(3, complex), "complex128"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(samples, what):
    with pytest.raises(AsdjaxError, match=f"x: .*{what}"):
        of_array(samples, RATE, "x", 1)


def test_windows_are_resampled_one_by_one():
    wave = sound(1, seconds=3, rate=48_000).astype(np.float32)
    windowing = Windowing(1.0, 1.0, RATE)
    cut = list(windowing.cut(Recording("x", wave, 48_000, 1), IGNORED))
    assert [start for start, _ in cut] == [0, 1, 2]
    assert all(len(window) == RATE == windowing.longest for _, window in cut)


def test_recordings_with_too_few_samples_are_named():
    found = Recording("x", np.zeros(3 * 48_000, np.float32), 48_000, 1)
    features = SpectralFeatures(RATE)
    assert features.too_short(found) is None
    features.shortest = 50_000
    assert "x: 48000 samples at 16000 Hz are too few" in features.too_short(found)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 10))
def test_streams_have_the_windows_of_the_whole(sizes, hop):
    whole = np.arange(sum(sizes), dtype=np.int16)
    edges = np.cumsum([0, *sizes])
    chunks = [whole[a:b] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    found = list(windows_of_stream(chunks, 1, 10, hop, 10))
    begins = range(0, len(whole) - 10 + 1, hop)
    assert [start for _, start in found] == [b / 10 for b in begins]
    for (window, _), begin in zip(found, begins, strict=True):
        assert np.array_equal(window().waveform, whole[begin : begin + 10])
        assert (window().rate, window().channels) == (10, 1)


def test_chunks_of_a_stream_must_be_alike(rng):
    a, b = np.zeros(5, np.float32), np.zeros((5, 2), np.float32)
    for chunks in ([a, b], [a, np.zeros(5, np.int16)]):
        with pytest.raises(AsdjaxError, match="differ"):
            list(windows_of_stream(chunks, 1, 4, 4, 10))
