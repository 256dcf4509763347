"""The public detector: what it learns, what it says, and that every way to it agrees."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import scipy.signal
import soundfile
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from support.machines import RATE, folder, sound

import asdjax
from asdjax import Detector
from asdjax.detector.recordings import Recording
from asdjax.errors import AsdjaxError
from asdjax.scoring.kmeans import KMeans

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def normal(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("normal"), range(24))


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    root = tmp_path_factory.mktemp("new")
    return {
        "normal": folder(root / "normal", range(100, 120)),
        **{
            fault: folder(root / fault, range(200, 206), fault=fault)
            for fault in ("tone", "knock", "louder")
        },
    }


@pytest.fixture(scope="module")
def fitted(normal):
    return Detector().fit(normal)


def test_faults_alarm_and_few_normal_recordings_do(fitted, new):
    assert (fitted.predict(new["normal"]) == -1).mean() <= 0.3
    for fault in ("tone", "knock", "louder"):
        assert (fitted.predict(new[fault]) == -1).all(), fault


def test_what_a_prediction_says(fitted, new, normal):
    (found,) = fitted.predict_details(new["tone"][0])
    assert found.file == str(new["tone"][0]) and found.error is None
    assert found.windows == 1 and found.start == 0 and found.seconds == 1
    assert found.alarm and found.score > found.threshold == fitted.threshold_
    assert found.ratio == pytest.approx(found.score / found.threshold)
    assert found.p_value == pytest.approx(1 / 25)
    assert len(found.nearest) == 3 and {near.name for near in found.nearest} <= set(
        map(str, normal)
    )
    assert [near.distance for near in found.nearest] == sorted(n.distance for n in found.nearest)
    assert not found.warnings


def test_known_recordings_are_their_own_neighbours(fitted, normal):
    for path, found in zip(normal, fitted.predict_details(normal), strict=True):
        assert found.nearest[0].name == str(path) and found.nearest[0].distance < 1e-6
        assert not found.alarm


def test_the_methods_of_scikit_learn_agree(fitted, new):
    files = new["normal"] + new["tone"]
    details = fitted.predict_details(files)
    scores = np.array([found.score for found in details])
    np.testing.assert_array_equal(fitted.score_samples(files), -scores)
    np.testing.assert_array_equal(fitted.decision_function(files), fitted.threshold_ - scores)
    np.testing.assert_array_equal(fitted.predict(files) == -1, scores > fitted.threshold_)
    assert fitted.offset_ == -fitted.threshold_


def test_scores_of_normal_recordings_are_held_out(fitted, normal):
    """Each is the score by the other recordings, on the scale of all of them."""
    assert fitted.scores_.shape == (24,) and np.median(fitted.scores_) == pytest.approx(0)
    names = [recording.name for recording in fitted.recordings_]
    assert sorted(names) == sorted(map(str, normal))
    model = fitted._model
    one = names.index(str(normal[3]))
    rest = np.arange(24) != one
    others = asdjax.detector.ensemble.Ensemble(
        {name: table[rest] for name, table in model.windows.tables.items()},
        fitted._settings.backends,
    )
    left_out = {name: table[[one]] for name, table in model.windows.tables.items()}
    np.testing.assert_allclose(others.distances(left_out)[:, 0], model.held_out[:, one], rtol=1e-9)


def test_arrays_and_files_are_the_same(fitted, normal, new):
    waves = [soundfile.read(path, dtype="int16")[0] for path in normal]
    of_arrays = Detector().fit(waves)
    np.testing.assert_array_equal(of_arrays.scores_, fitted.scores_)
    tones = [soundfile.read(path, dtype="int16")[0] for path in new["tone"]]
    expected = fitted.score_samples(new["tone"])
    np.testing.assert_array_equal(fitted.score_samples(tones), expected)
    np.testing.assert_array_equal(fitted.score_samples(np.stack(tones)), expected)
    floats = np.stack(tones) / 32768
    np.testing.assert_allclose(fitted.score_samples(floats), expected, rtol=1e-4)
    np.testing.assert_array_equal(fitted.score_samples(list(map(str, new["tone"]))), expected)
    np.testing.assert_array_equal(fitted.score_samples(new["tone"][0].parent), expected)


def test_order_and_batches_do_not_matter(fitted, normal, new):
    backwards = Detector().fit(normal[::-1])
    np.testing.assert_array_equal(backwards.scores_, fitted.scores_)
    files = new["normal"] + new["tone"]
    together = fitted.score_samples(files)
    np.testing.assert_array_equal([fitted.score_samples(f)[0] for f in files], together)


def test_other_rates_channels_and_formats_are_read(tmp_path, new):
    """48 kHz, two channels, MP3 and FLAC: one machine, seen by one detector."""
    normal = []
    for seed in range(24):
        wave = sound(seed, rate=48_000, seconds=1.2)
        both = np.stack([wave, 0.1 * wave], axis=1)
        normal.append(tmp_path / f"n {seed}.{('wav', 'flac', 'mp3')[seed % 3]}")
        soundfile.write(normal[-1], both if seed % 2 else wave, 48_000)
    detector = Detector().fit(normal)
    fresh = []
    for seed in range(300, 312):
        fresh.append(tmp_path / f"{seed}.{('wav', 'flac', 'mp3')[seed % 3]}")
        soundfile.write(fresh[-1], sound(seed, rate=48_000, seconds=1.2), 48_000)
    assert (detector.predict(fresh) == -1).mean() <= 0.35
    faulty = tmp_path / "tone.mp3"
    soundfile.write(faulty, sound(1, fault="tone", rate=48_000, seconds=1.2), 48_000)
    assert detector.predict(faulty) == [-1]


def test_long_recordings_are_cut_and_the_worst_window_is_named(normal, fitted):
    wave = np.concatenate([sound(500 + i) for i in range(6)])
    wave[3 * RATE : 4 * RATE] = sound(503, fault="tone")
    (found,) = fitted.predict_details([wave])
    assert (found.windows, found.start, found.seconds, found.alarm) == (6, 3.0, 6.0, True)
    assert found.threshold > fitted.threshold_
    parts = fitted.score_samples([wave[i * RATE : (i + 1) * RATE] for i in range(6)])
    assert found.score == -parts.min()
    (warned,) = fitted.predict_details([np.tile(wave, 20)])
    assert any("windows" in note for note in warned.warnings)


def test_few_long_recordings_are_many_windows():
    takes = [np.concatenate([sound(40 * t + i) for i in range(40)]) for t in range(3)]
    detector = Detector().fit(takes)
    assert detector.description()["clip_seconds"] == 10 and len(detector.scores_) == 12
    short = Detector(clip_seconds=1.0).fit(takes)
    assert len(short.scores_) == 120 and len(short.recordings_) == 3
    assert (short.predict([sound(900 + i) for i in range(20)]) == -1).mean() <= 0.25
    assert short.predict([sound(1, fault="knock")]) == [-1]


def test_a_stream_is_scored_window_by_window(fitted):
    wave = np.concatenate([sound(600), sound(601, fault="knock"), sound(602), sound(603)[:999]])
    wave = wave.astype(np.float32)
    chunks = (wave[i : i + 3001] for i in range(0, len(wave), 3001))
    found = list(fitted.stream(chunks))
    assert [prediction.start for prediction in found] == [0, 1, 2]
    whole = [wave[i * RATE : (i + 1) * RATE] for i in range(3)]
    np.testing.assert_array_equal([-p.score for p in found], fitted.score_samples(whole))
    assert found[1].alarm


def test_streams_of_another_rate_are_resampled(fitted):
    wave = sound(1, fault="tone", rate=48_000).astype(np.float32)
    (streamed,) = fitted.stream([wave[:7], wave[7:]], sample_rate=48_000)
    (whole,) = fitted.predict_details([wave], sample_rate=48_000)
    assert streamed.score == whole.score and streamed.alarm


def test_an_update_is_a_fit_to_all(normal, fitted, new):
    detector = Detector(clip_seconds=1.0).fit(normal[:15])
    change = detector.update(normal[10:])
    assert (change.added, change.copies, change.windows) == (9, 5, (15, 24))
    assert change.threshold[1] == detector.threshold_ == fitted.threshold_
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)
    assert detector.predict_details(new["tone"]) == fitted.predict_details(new["tone"])
    again = detector.update(normal[3])
    assert (again.added, again.copies, again.windows) == (0, 1, (24, 24))
    assert again.threshold == (fitted.threshold_, fitted.threshold_)


def test_an_update_names_new_recordings_that_would_have_alarmed(fitted, new):
    detector = copy.deepcopy(fitted)
    change = detector.update(new["tone"])
    assert change.alarms and set(change.alarms) <= set(map(str, new["tone"]))
    assert detector.predict(new["tone"]).tolist() == [1] * 6


def test_a_failed_update_or_fit_changes_nothing(fitted, new, tmp_path):
    detector = copy.deepcopy(fitted)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    for bad in ([*new["tone"], tmp_path / "bad.wav"], [np.zeros(RATE)]):
        with pytest.raises(AsdjaxError):
            detector.update(bad)
        with pytest.raises(AsdjaxError):
            detector.fit(bad)
        np.testing.assert_array_equal(detector.scores_, fitted.scores_)
        assert detector.predict_details(new["tone"]) == fitted.predict_details(new["tone"])


def test_copies_count_once(normal, fitted, tmp_path, caplog):
    copies = [tmp_path / "copy.wav", tmp_path / "again.wav"]
    for path in copies:
        path.write_bytes(normal[0].read_bytes())
    detector = Detector().fit([*normal, *copies])
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)
    assert "2 of 26 recordings are copies" in caplog.text


@pytest.mark.parametrize(
    ("clip", "hop"), [(None, 1.0), (None, 0.01), (0.5, 0.5), (0.08, 0.07), (3.0, 1.5), (2.0, 2.0)]
)
def test_hops_up_to_the_window_s_length(normal, clip, hop):
    detector = Detector(clip_seconds=clip, hop_seconds=hop).fit(normal[:12])
    facts = detector.description()
    assert (facts["clip_seconds"], facts["hop_seconds"]) == (clip or 1.0, hop)


@pytest.mark.parametrize(("clip", "hop"), [(None, 1.1), (0.5, 0.6), (3.0, 0.02)])
def test_other_hops_are_refused(normal, clip, hop):
    with pytest.raises(AsdjaxError, match="hop_seconds"):
        Detector(clip_seconds=clip, hop_seconds=hop).fit(normal)


def test_recordings_with_the_label_of_faulty_ones_are_left_out(normal, fitted):
    faulty = [sound(500 + i, fault="tone") for i in range(3)]
    labels = [*[1] * len(normal), *[-1] * len(faulty)]
    detector = Detector().fit([*normal, *faulty], labels)
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)
    with pytest.raises(AsdjaxError, match=r"y has shape \(2,\): give a label for each of 24"):
        Detector().fit([*normal], [1, -1])
    with pytest.raises(AsdjaxError, match="no normal one"):
        Detector().fit([*normal], [-1] * len(normal))


@pytest.mark.parametrize("how", ["resample_poly", "resample", "decimate"])
def test_other_filters_of_resampling_change_little(how):
    """What is close to half the sample rate depends on them; it once made every score an alarm."""
    rng = np.random.default_rng(0)

    def pump():
        times = np.arange(2 * 48_000) / 48_000
        tones = sum(np.sin(2 * np.pi * (48 + rng.normal() / 4) * k * times) for k in range(1, 9))
        return 0.02 * tones + 0.02 * rng.standard_normal(len(times))

    detector = Detector().fit([pump() for _ in range(20)], sample_rate=48_000)
    new = [pump() for _ in range(3)]
    filters = {
        "resample_poly": lambda wave: scipy.signal.resample_poly(wave, 1, 3),
        "resample": lambda wave: scipy.signal.resample(wave, len(wave) // 3),
        "decimate": lambda wave: scipy.signal.decimate(wave, 3, ftype="fir"),
    }
    right = [found.score for found in detector.predict_details(new, sample_rate=48_000)]
    other = [found.score for found in detector.predict_details([filters[how](w) for w in new])]
    np.testing.assert_allclose(other, right, atol=0.5)


def test_recordings_with_an_offset_alone_are_silent(normal, fitted, tmp_path):
    offset = np.full(RATE, 0.2)
    with pytest.raises(AsdjaxError, match="is silent"):
        Detector().fit([*normal, offset])
    soundfile.write(tmp_path / "dc.wav", offset, RATE)
    (found,) = fitted.iter_predictions(tmp_path / "dc.wav", faulty="row")
    assert "is silent" in found.error
    wave = soundfile.read(normal[0])[0]
    assert fitted.predict_details([wave + 0.2])[0].score is not None


def test_a_stream_goes_on_after_silence_and_faulty_samples(fitted):
    wave = sound(100)
    bad = wave.copy()
    bad[5] = np.nan
    found = list(fitted.stream([wave, 0 * wave, wave, bad, 1e300 * wave, wave]))
    assert [one.error is None for one in found] == [True, False, True, False, False, True]
    assert "silent" in found[1].error and "NaN" in found[3].error
    assert [one.start for one in found] == [0, 1, 2, 3, 4, 5]
    assert found[0].score == found[2].score == found[5].score


def test_the_length_of_windows_is_that_of_the_recordings_in_use(normal, tmp_path):
    """Neither copies nor recordings that are left out count."""
    long = [sound(1000 + i, seconds=3) for i in range(4)]
    silent = [np.zeros(10 * RATE)] * 30
    detector = Detector().fit([*normal[:10], *long, *long * 5, *silent], faulty="skip")
    plain = Detector().fit([*normal[:10], *long])
    assert detector.description() == plain.description()
    assert detector.description()["clip_seconds"] == 1
    np.testing.assert_array_equal(detector.scores_, plain.scores_)


def test_a_recording_that_changes_while_it_is_read_is_an_error(normal, monkeypatch):
    calls = iter(range(100))
    digest = Recording.digest
    monkeypatch.setattr(
        Recording, "digest", lambda self: digest(self) if next(calls) != 30 else "another"
    )
    with pytest.raises(AsdjaxError, match="take 6.wav: was changed while it was read"):
        Detector().fit(normal)


def test_names_that_are_not_utf8(normal, new, tmp_path):
    odd = tmp_path / "caf\udce9.wav"
    odd.write_bytes(new["tone"][0].read_bytes())
    for given in ([odd], tmp_path):
        (found,) = Detector().fit([*normal, odd]).predict_details(given)
        assert found.file == f"{tmp_path}/caf\\udce9.wav" and "learned it" in found.warnings[0]
    assert Detector().fit([*normal, odd]).recordings_


@pytest.mark.parametrize(
    "given", [(x for x in "ab"), {1}, b"a.wav"], ids=lambda x: type(x).__name__
)
def test_what_is_no_list_is_refused(fitted, given):
    for method in (fitted.predict, Detector().fit):
        with pytest.raises(AsdjaxError, match="give a list"):
            method(given)


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_24")]
)
def test_copies_of_another_sample_type_count_once(normal, fitted, tmp_path, suffix, subtype):
    for i, path in enumerate(normal):
        samples = soundfile.read(path)[0]
        soundfile.write(tmp_path / f"{i}.{suffix}", samples, RATE, subtype=subtype)
    detector = Detector().fit([*normal, tmp_path])
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)


def test_recordings_that_are_almost_equal_are_named(normal, fitted):
    assert fitted.near_copies() == []
    waves = [soundfile.read(path)[0] for path in normal]
    detector = Detector().fit([*waves, 1.001 * waves[3]])
    assert detector.near_copies() == ["recording 24", "recording 3"]
    for odd in (np.eye(1, RATE)[0], sound(1, fault="knock"), sound(1, fault="louder")):
        assert Detector().fit([*waves, odd]).near_copies() == []


def test_recordings_far_beyond_full_scale_are_faulty(normal, fitted):
    huge = [1e30 * sound(1), 1e300 * sound(1)]
    detector = Detector().fit([*(soundfile.read(p)[0] for p in normal), *huge[:1]], faulty="skip")
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)
    for one in huge:
        with pytest.raises(AsdjaxError, match="far beyond full scale|NaN or infinite"):
            fitted.predict([one])


def test_empty_recordings_are_named(normal):
    with pytest.raises(AsdjaxError, match="recording 0: no samples"):
        Detector().fit([np.array([])])


@pytest.mark.parametrize("rate", [8000.0, 22050.5, "8000", 0, -5, 10**9, True])
def test_sample_rates_are_whole_hertz(fitted, normal, rate):
    for method in (fitted.predict, fitted.update, Detector().fit):
        with pytest.raises(AsdjaxError, match="sample_rate"):
            method([sound(1)], sample_rate=rate)
    with pytest.raises(AsdjaxError, match="sample_rate"):
        list(fitted.stream([sound(1)], sample_rate=rate))
    with pytest.raises(AsdjaxError, match="sample_rate"):
        Detector(sample_rate=rate).fit(normal)
    assert Detector(sample_rate=np.int64(8000)).fit(normal).threshold_ > 0


def test_too_many_windows_are_refused(monkeypatch, normal):
    monkeypatch.setattr(asdjax.detector.normal, "_MOST", 20)
    with pytest.raises(AsdjaxError, match="24 normal windows are too many.*max_bank"):
        Detector().fit(normal)
    assert Detector(max_bank=10).fit(normal).description()["bank"] == 10


def test_a_bank_of_few_windows_is_chosen_and_its_cost_known(normal, new):
    detector = Detector(max_bank=8, seed=3).fit(normal)
    facts = detector.description()
    assert (facts["bank"], facts["windows"]) == (8, 24) and 0 < facts["bank_cost"] < 1
    assert len(detector.scores_) == 24
    assert (detector.predict(new["tone"]) == -1).all()
    assert Detector(max_bank=24).fit(normal).description()["bank_cost"] == 0
    names = {near.name for p in detector.predict_details(new["normal"]) for near in p.nearest}
    assert len(names) <= 8


@pytest.mark.parametrize("backend", ["kmeans", "mahalanobis", ("nearest_neighbours", "kmeans")])
def test_backends_are_chosen_by_name(backend, normal, new):
    detector = Detector(backend=backend).fit(normal)
    assert len(detector.members_) == 4 * (1 if isinstance(backend, str) else len(backend))
    assert (detector.predict(new["knock"]) == -1).all()


def test_backends_with_settings(normal):
    detector = Detector(backend=KMeans(metric="euclidean", kmeans_clusters=3)).fit(normal)
    assert detector._settings.backends[0].kmeans_clusters == 3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"level": 0.3}, "level"),
        ({"level": "high"}, "level"),
        ({"level": 0.99}, "level 0.99 needs 99"),
        ({"clip_seconds": 0}, "clip_seconds"),
        ({"clip_seconds": 1e9}, "clip_seconds"),
        ({"clip_seconds": 1e-300}, "clip_seconds 1e-300: windows of 0 samples at 16000 Hz are too"),
        ({"clip_seconds": 1e-4}, "clip_seconds 0.0001: windows of 2 samples at 16000 Hz are too"),
        ({"clip_seconds": 0.06}, "960 samples at 16000 Hz are too short.*: give at least 0.064 s"),
        ({"clip_seconds": 0.06, "sample_rate": 1000}, "too short to compare: give at least"),
        ({"clip_seconds": float("nan")}, "clip_seconds"),
        ({"hop_seconds": 2.0}, "hop_seconds"),
        ({"hop_seconds": 1e-7}, "hop_seconds"),
        ({"channel": 0}, "channel"),
        ({"channel": 2}, "no channel 2"),
        ({"sample_rate": 10}, "sample_rate"),
        ({"max_bank": 1}, "max_bank"),
        ({"seed": -1}, "seed"),
        ({"backend": "knn"}, "backend 'knn'"),
        ({"backend": ()}, "backend"),
        ({"backend": ("kmeans", "kmeans")}, "backend"),
        ({"embedder": "/nowhere"}, "/nowhere"),
    ],
)
def test_invalid_settings_are_named(settings, named, normal):
    with pytest.raises(AsdjaxError, match=named):
        Detector(**settings).fit(normal)


def test_recordings_that_cannot_be_used(fitted, normal, tmp_path, new):
    silent, short = tmp_path / "silent.wav", tmp_path / "short.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    soundfile.write(short, sound(1)[:40], RATE)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(normal[0].read_bytes()[:5000])
    with pytest.raises(AsdjaxError, match="silent.wav: is silent"):
        Detector().fit([*normal, silent])
    with pytest.raises(AsdjaxError, match="broken.wav"):
        fitted.predict([*normal, broken])
    rows = list(fitted.iter_predictions([broken, normal[0], silent, short], faulty="row"))
    assert [row.error is None for row in rows] == [False, True, False, True]
    assert "broken.wav" in rows[0].error and rows[0].score is None and rows[0].alarm is None
    assert "silent.wav: is silent: check the microphone" in rows[2].error
    assert any("less than half of the detector's 1 s" in note for note in rows[3].warnings)
    assert any("has learned it as normal" in note for note in rows[1].warnings)
    with pytest.raises(AsdjaxError, match="channel 1 is silent"):
        fitted.predict([np.stack([np.zeros(RATE), sound(1)], axis=1)])


def test_all_faulty_recordings_are_named_or_left_out(normal, fitted, tmp_path, caplog):
    faulty = [tmp_path / f"{i}.wav" for i in range(3)]
    faulty[0].write_bytes(b"RIFF")
    faulty[1].write_bytes(b"")
    soundfile.write(faulty[2], np.zeros(RATE), RATE)
    with pytest.raises(AsdjaxError, match="3 of 27 recordings") as refusal:
        Detector().fit([*normal, *faulty])
    assert all(str(path) in str(refusal.value) for path in faulty)
    detector = Detector().fit([*normal, *faulty], faulty="skip")
    np.testing.assert_array_equal(detector.scores_, fitted.scores_)
    assert "3 of 27 recordings cannot be used" in caplog.text
    with pytest.raises(AsdjaxError, match="no recording can be used"):
        Detector().fit(faulty, faulty="skip")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((50_000, 2)), "give a list with this array"),
        (np.ones((5, 100), np.int32), "int32"),
        ([np.zeros((2, 50_000))], "transpose it"),
        ([], "nothing to"),
    ],
)
def test_arrays_that_are_easily_mistaken_are_refused(fitted, given, words):
    for method in (fitted.predict, fitted.score_samples, Detector().fit):
        with pytest.raises(AsdjaxError, match=words):
            method(given)


def test_one_array_and_mixed_lists(fitted, new):
    wave, rate = soundfile.read(new["tone"][0], dtype="int16")
    assert fitted.predict(wave).tolist() == [-1]
    found = fitted.predict_details([new["tone"][0], wave, str(new["tone"][0])])
    assert len({prediction.score for prediction in found}) == 1


def test_recordings_that_are_unlike_normal_ones_are_said_to_be(fitted, tmp_path):
    (found,) = fitted.predict_details(folder(tmp_path, range(1), fault="louder"))
    assert any("level" in note for note in found.warnings)
    assert any("clipped" in note for note in found.warnings)
    other = sound(1, rate=8000)
    (found,) = fitted.predict_details([np.stack([other, other], axis=1)], sample_rate=8000)
    assert "it has 8000 Hz, normal recordings have 16000" in found.warnings
    assert "it has 2 channels, normal recordings have 1" in found.warnings


def test_explanations_point_at_the_fault(fitted, new):
    for path in new["tone"]:
        (why,) = fitted.explain(path)
        assert why.prediction == fitted.predict_details(path)[0]
        assert set(why.members) == set(fitted.members_)
        mean = np.mean(list(why.members.values()))
        assert mean - fitted._model.median == pytest.approx(why.prediction.score)
        largest = why.frequencies[0]
        assert abs(largest.hertz - 3100) < 200 and abs(largest.deviations) > 3


def test_saved_and_loaded_detectors_are_equal(fitted, new, tmp_path):
    fitted.save(tmp_path / "d.asd")
    loaded = Detector.load(tmp_path / "d.asd")
    assert loaded.predict_details(new["knock"]) == fitted.predict_details(new["knock"])
    assert loaded.threshold_ == fitted.threshold_
    loaded.save(tmp_path / "again.asd")
    assert (tmp_path / "again.asd").read_bytes() == (tmp_path / "d.asd").read_bytes()
    stricter = Detector.load(tmp_path / "d.asd", level=0.95)
    assert stricter.threshold_ == sorted(fitted.scores_)[23]
    with pytest.raises(AsdjaxError, match="level"):
        Detector.load(tmp_path / "d.asd", level=2)
    with pytest.raises(AsdjaxError, match="exists already"):
        fitted.save(tmp_path / "d.asd")


def test_a_loaded_detector_can_be_updated(normal, fitted, tmp_path):
    Detector(clip_seconds=1.0).fit(normal[:12]).save(tmp_path / "d.asd")
    loaded = Detector.load(tmp_path / "d.asd")
    loaded.update(normal[12:])
    np.testing.assert_array_equal(loaded.scores_, fitted.scores_)


def test_copies_pickles_and_clones(fitted, new):
    expected = fitted.predict_details(new["tone"])
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert other.predict_details(new["tone"]) == expected
    fresh = clone(fitted.set_params(level=0.9))
    assert fresh.get_params() == fitted.get_params() and not hasattr(fresh, "threshold_")
    with pytest.raises(NotFittedError):
        fresh.predict(new["tone"])


def test_pipelines_and_grid_search(normal, new):
    waves = np.stack([soundfile.read(p, dtype="float32")[0] for p in normal])
    pipeline = make_pipeline(FunctionTransformer(lambda x: x / 2), Detector())
    fresh = np.stack([soundfile.read(p, dtype="float32")[0] for p in new["knock"]])
    assert (pipeline.fit(waves).predict(fresh) == -1).all()
    files = np.array([*map(str, normal), *map(str, new["tone"])])
    labels = np.array([1] * len(normal) + [-1] * len(new["tone"]))
    splits = [(np.arange(0, 12), np.arange(12, 30)), (np.arange(12, 24), np.r_[0:12, 24:30])]
    search = GridSearchCV(
        Detector(level=0.8),
        {"backend": ["nearest_neighbours", "rescaled"], "clip_seconds": [0.5, 1.0]},
        scoring=make_scorer(roc_auc_score, response_method="decision_function"),
        cv=splits,
    )
    search.fit(files, labels)
    assert search.best_score_ > 0.9 and search.best_params_["backend"]


def test_nothing_is_computed_twice_or_warned_of_in_ordinary_use(normal, new):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Detector().fit(normal).predict(new["normal"])
