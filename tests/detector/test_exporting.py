"""Exported programs: the detector's scores, in a process without asdjax."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from conftest import TESTS
from support.machines import folder, sound

import asdjax
from asdjax import Detector
from asdjax.cli import main
from asdjax.detector import exporting
from asdjax.errors import AsdjaxError
from asdjax.scoring.backends import References
from asdjax.scoring.distances import Pool, mean_distance, unit_length
from asdjax.scoring.nearest_neighbours import NearestNeighbours, SmoteConfig

ALONE = """
import sys
sys.modules["asdjax"] = None  # an import would fail
import jax, jax.export, numpy as np
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
sounds = np.load(sys.argv[2])
found = jax.jit(program.call)(sounds)
assert {name: str(found[name].dtype) for name in found} == {
    "alarm": "bool", "embedding": "float32", "score": "float64", "threshold": "float64",
}
np.savez(sys.argv[3], **found)
assert not {"flax", "sklearn", "soundfile"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return Detector().fit(folder(tmp_path_factory.mktemp("normal"), range(24)))


@pytest.fixture(scope="module")
def sounds():
    normal = [sound(seed) for seed in range(100, 112)]
    faulty = [sound(seed, fault=fault) for seed in (200, 201) for fault in ("tone", "knock")]
    return np.array([*normal, *faulty], np.float32)


def compared(detector, found, sounds, tolerance=1e-10):
    expected = detector.predict_details([*sounds])
    scores = np.array([one.score for one in expected])
    np.testing.assert_allclose(found["score"], scores, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(found["alarm"], [one.alarm for one in expected])
    assert (np.asarray(found["threshold"]) == detector.threshold_).all()
    assert found["embedding"].shape[0] == len(sounds)


def test_a_process_without_asdjax_has_the_same_scores(fitted, sounds, tmp_path, capsys):
    fitted.save(tmp_path / "d.asd")
    out = tmp_path / "d.jax"
    args = ["export", str(tmp_path / "d.asd"), str(out)]
    assert main(args) == 0
    assert "for CPU, CUDA and TPU: waveforms float32 [any number, 16000]" in capsys.readouterr().err
    assert main(args) == 1
    assert "exists already" in capsys.readouterr().err
    assert main([*args, "--overwrite"]) == 0
    np.save(tmp_path / "x.npy", sounds)
    command = [sys.executable, "-I", "-c", ALONE, out, tmp_path / "x.npy", tmp_path / "y.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compared(fitted, np.load(tmp_path / "y.npz"), sounds)
    content = out.read_bytes()
    assert b"exporting.py" not in content
    assert str(Path(asdjax.__file__).parent).encode() not in content


@pytest.mark.parametrize("x64", [False, True])
def test_any_number_of_waveforms_and_either_precision(fitted, sounds, tmp_path, x64):
    fitted.export(tmp_path / "d.jax")
    program = jax.export.deserialize(bytearray((tmp_path / "d.jax").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    assert program.fun_name == "detector_16000_hz"
    with jax.enable_x64(x64):
        for count in (1, 3, len(sounds)):
            compared(fitted, jax.jit(program.call)(sounds[:count]), sounds[:count])


@pytest.mark.parametrize(
    "options",
    [
        {"max_bank": 8},
        {"level": 0.8},
        {"backend": "nearest_neighbours"},
        {
            "backend": NearestNeighbours(
                metric="euclidean", source_neighbours=3, smote=SmoteConfig(ratio=0)
            )
        },
    ],
)
def test_other_settings(sounds, tmp_path, options):
    detector = Detector(**options).fit([sound(seed) for seed in range(24)])
    detector.export(tmp_path / "d.jax")
    program = jax.export.deserialize(bytearray((tmp_path / "d.jax").read_bytes()))
    compared(detector, jax.jit(program.call)(sounds), sounds)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100, 48_000])
def test_scores_far_above_the_threshold_are_exact_at_every_rate(rate):
    detector = Detector(sample_rate=rate).fit([sound(seed, rate=rate) for seed in range(24)])
    kinds = (None, "tone", "knock", "louder")
    given = [sound(seed, rate=rate, fault=kinds[seed % 4]) for seed in range(100, 120)]
    sounds = np.array(given, np.float32)
    program = exporting.exported(detector._features, detector._model, rate, ["cpu"])
    found = jax.jit(jax.export.deserialize(program.serialize()).call)(sounds)
    compared(detector, found, sounds)
    assert np.asarray(found["score"]).max() > 100  # float32 has these to 4e-6


def test_a_trained_embedder_s_weights_are_inside(corpus_root, tmp_path):
    run = tmp_path / "run"
    recipe = ["train", str(TESTS / "tiny.yaml"), "--data", str(corpus_root), "--run", str(run)]
    assert main([*recipe, "--train.epochs", "1"]) == 0
    detector = Detector(run).fit([sound(seed) for seed in range(16)])
    detector.export(tmp_path / "d.jax")
    program = jax.export.deserialize(bytearray((tmp_path / "d.jax").read_bytes()))
    (argument,) = program.in_avals
    length = argument.shape[1]
    sounds = np.array([sound(seed)[:length] for seed in range(100, 108)], np.float32)
    found = jax.jit(program.call)(sounds)
    embeddings = np.stack(asdjax.load(run).embed([*sounds], alike=True))
    np.testing.assert_array_equal(found["embedding"], embeddings)
    compared(detector, found, sounds)


@pytest.mark.parametrize("count", [4, 64])
def test_cosines_are_exact_for_any_number_of_waveforms(count):
    """XLA leaves out plain conversions to float32 and back, for some numbers of vectors."""
    points, pool = np.random.default_rng(0).standard_normal((2, count, 512)).astype(np.float32)
    pool = unit_length(points + 0.01 * pool, "cosine")
    references = References(pool, np.ones(count), 1, 1.0)
    with jax.enable_x64(True):
        score = jax.jit(lambda x: exporting._score(references, exporting._unit_length(x)))
        found = np.asarray(score(points))
    expected = mean_distance(unit_length(points, "cosine"), Pool(pool), 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_samples_that_are_not_finite_alarm(fitted, sounds, tmp_path):
    fitted.export(tmp_path / "d.jax")
    program = jax.export.deserialize(bytearray((tmp_path / "d.jax").read_bytes()))
    bad = sounds[:3].copy()
    bad[0, 7], bad[1, 7] = np.nan, np.inf
    assert np.asarray(jax.jit(program.call)(bad)["alarm"]).tolist()[:2] == [True, True]


def test_a_detector_is_not_replaced_by_its_program(fitted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fitted.save("d.asd")
    before = (tmp_path / "d.asd").read_bytes()
    for out in ("d.asd", "./d.asd", str(tmp_path / "d.asd")):
        assert main(["export", "d.asd", out, "--overwrite"]) == 2
        assert "is the detector itself" in capsys.readouterr().err
    assert (tmp_path / "d.asd").read_bytes() == before


def test_backends_that_cannot_be_exported_are_named(tmp_path):
    detector = Detector(backend="mahalanobis").fit([sound(seed) for seed in range(24)])
    with pytest.raises(AsdjaxError, match="bands/mahalanobis: only distances"):
        detector.export(tmp_path / "d.jax")
    assert not any(tmp_path.iterdir())


def test_without_flatbuffers_the_remedy_is_named(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AsdjaxError, match=r"pip install 'asdjax\[export\]'"):
        fitted.export(tmp_path / "d.jax")
    assert not any(tmp_path.iterdir())


def test_a_program_with_other_scores_is_not_written(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_score", lambda references, points: points[:, 0].astype(float))
    with pytest.raises(AsdjaxError, match="known sounds other scores"):
        fitted.export(tmp_path / "d.jax")
    assert not any(tmp_path.iterdir())
