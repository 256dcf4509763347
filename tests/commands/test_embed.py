"""Embedding any audio: what is read, what is embedded, what is written, what is refused."""

import dataclasses
import functools
import importlib.util
import json
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from conftest import TESTS, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from support.converted_beats import TWO_LAYERS as ENCODER
from support.converted_beats import convert
from support.permissions import open_folder as open_folder  # a fixture
from support.permissions import permissions

import asdjax
from asdjax.cli import main
from asdjax.commands import embed_files
from asdjax.config.recipe import load
from asdjax.config.schema import to_tree
from asdjax.data import audio, read_ahead, sound_files, sound_search
from asdjax.detector.features import open_features
from asdjax.embedder import Embedder, network, sound_clips
from asdjax.embedder.network import Network, in_groups, rounded_up
from asdjax.embedder.sound_clips import SoundClip
from asdjax.errors import AsdjaxError
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.pooling_generalised_mean import GeneralisedMean
from asdjax.models.pooling_relative_deviation import RelativeDeviation
from asdjax.models.pooling_several import Several
from asdjax.models.poolings import Mean
from asdjax.signal.view_raw import RAW
from asdjax.signal.view_wiener import Wiener
from asdjax.store import converted_weights
from asdjax.store.checkpoint import digest, save_weights
from asdjax.store.runs import Run

pytestmark = pytest.mark.usefixtures("compiled_fast")

# of one patch, and of nine and ten, which share rows of ten
SHORT, PADDED_LONG, LONG = 2800, 23280, 25840
LONG_CLIPS = network.LONG
PADDED = 2e-5  # a clip among others of other lengths, against the clip alone


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "converted"
    return path, convert(path)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "finetuned"
    return path, convert(path, finetuned_model=True, predictor_class=5)


@pytest.fixture(scope="module", params=["tiny", "tiny_beats"])
def run_path(request, corpus_root, tmp_path_factory):
    """Runs with embeddings: MultiResNet's and BEATs'."""
    path = tmp_path_factory.mktemp("runs") / request.param
    command = [str(TESTS / f"{request.param}.yaml"), "--data", str(corpus_root), "--run", str(path)]
    assert (
        main(["train", *command, "--train.epochs", "1"]) == 0 and main(["extract", str(path)]) == 0
    )
    return path


@functools.cache
def reference(layers, **changes):
    """A module's structure and weights, and a program for the tokens of one clip."""
    encoder = dataclasses.replace(ENCODER, **changes)
    model = BEATsConfig(
        encoder=encoder, random_init=True, layers=layers, pooling=Mean(), embedding_size=0
    )
    graphdef, params, _ = parameters.split(building.build(model, 16000, 16000, seed=0))

    def tokens(params, waveform):
        return parameters.merged(graphdef, params, {}).tokens(waveform)[0]

    return graphdef, params, jax.jit(tokens)


def alone(whole, waveform, layers=(), **changes):
    """The tokens [L, D] of one clip on one device, without rows, padding or masks."""
    graphdef, params, tokens = reference(layers, **changes)
    params = {**params, "encoder": whole}
    if waveform.dtype == np.int16:
        waveform = waveform / np.float32(32768)
    found = tokens(params, waveform.astype(np.float32)[None])
    return np.asarray(found[0]), parameters.merged(graphdef, params, {})


def noise(rng, n, dtype=np.float32):
    wave = rng.uniform(-0.5, 0.5, n)
    return (wave * 32767).astype(np.int16) if dtype == np.int16 else wave.astype(dtype)


def write(path, samples, rate=16000, **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **keys)
    return path


def read(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def run(*args):
    return main(["embed", *map(str, args)])


def refused(capsys, *args, code=1):
    """The one sentence with which a command is refused."""
    capsys.readouterr()
    assert run(*args) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("asdjax: "), lines
    return lines[0]


# from Python


def test_clips_of_mixed_lengths_are_embedded_as_each_alone(weights, rng):
    path, whole = weights
    lengths = [PADDED_LONG, SHORT, LONG, PADDED_LONG, SHORT]
    waves = [
        noise(rng, n, (np.float32, np.int16, np.float64)[i % 3]) for i, n in enumerate(lengths)
    ]
    embedder = asdjax.load(path)
    assert len(embedder.devices) == 8
    finished = []
    found = embedder.embed(waves, finished=finished.append)
    assert sum(finished) == len(waves)
    tokens = embedder.embed(waves, "none")
    for wave, embedding, own in zip(waves, found, tokens, strict=True):
        expected, _ = alone(whole, wave)
        assert own.shape == expected.shape and relative(own, expected) < PADDED
        assert relative(embedding, expected.mean(axis=0)) < PADDED
        assert relative(embedder.embed([wave])[0], embedding) < PADDED
    many = embedder.embed([waves[1]] * 70)  # more than a batch
    assert len(many) == 70 and all(relative(row, found[1]) < PADDED for row in many)


def test_layers_side_by_side(weights, rng):
    path, whole = weights
    wave = noise(rng, SHORT)
    both = asdjax.load(path, layers=(1, 2)).embed([wave], "none")[0]
    expected = np.concatenate([alone(whole, wave, (k,))[0] for k in (1, 2)], axis=1)
    assert both.shape[1] == 2 * ENCODER.encoder_embed_dim and relative(both, expected) < PADDED


def test_class_probabilities(finetuned, rng):
    path, whole = finetuned
    waves = [noise(rng, n) for n in (3000, 4000)]
    found = asdjax.load(path).embed(waves, "head")
    for wave, row in zip(waves, found, strict=True):
        tokens, module = alone(whole, wave, finetuned_model=True, predictor_class=5)
        expected = np.asarray(module.encoder.probabilities(tokens[None]))[0]
        assert row.shape == (5,) and relative(row, expected) < PADDED
    assert (np.abs(found[0] - found[1]) > 1e-6).any()
    assert relative(asdjax.load(path, layers=(2,)).embed(waves, "head")[0], found[0]) < PADDED
    with pytest.raises(AsdjaxError, match="finetuned: .*last layer.*layers"):
        asdjax.load(path, layers=(1,)).embed(waves, "head")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", [Mean, RelativeDeviation, GeneralisedMean])
def test_pooled_as_chosen(kind, keep, weights, rng):
    """The tokens of a clip alone, pooled in float64, in the order of time, then band."""
    path, whole = weights
    waves = [noise(rng, n) for n in (SHORT, PADDED_LONG, LONG)]
    found = asdjax.load(path).embed(waves, kind(keep_bands=keep))
    for wave, row in zip(waves, found, strict=True):
        tokens, _ = alone(whole, wave)
        tokens = tokens.astype(np.float64)
        bands = [tokens[band::8] for band in range(8)] if keep else [tokens]
        expected = np.concatenate([POOLED[kind](own) for own in bands])
        assert row.dtype == np.float32 and relative(row, expected) < PADDED


def _deviation_mean(tokens):
    distance = np.linalg.norm(tokens - tokens.mean(axis=0), axis=1)
    weights = (1 + distance / max(distance.max(), 1e-300)) ** 8
    return weights @ tokens / weights.sum()


POOLED = {
    Mean: lambda tokens: tokens.mean(axis=0),
    RelativeDeviation: _deviation_mean,
    GeneralisedMean: lambda tokens: np.cbrt((np.maximum(tokens, 0) ** 3).mean(axis=0)),
}


def test_a_pooling_on_the_command_line(weights, rng, tmp_path, capsys):
    path, _ = weights
    wave = noise(rng, LONG)
    file, out = write(tmp_path / "a.wav", wave, subtype="FLOAT"), tmp_path / "e.npz"
    text = "{name: several, members: [mean, {name: relative_deviation, gamma: 4, keep_bands: yes}]}"
    refused_text = text.replace("yes", "5")
    with pytest.raises(SystemExit) as end:
        run(path, file, "--out", out, "--pool", refused_text)
    assert end.value.code == 2 and "keep_bands" in capsys.readouterr().err and not out.exists()
    assert run(path, file, "--out", out, "--pool", text.replace("yes", "true")) == 0
    found = read(out)
    about = json.loads(str(found["about"]))
    size = ENCODER.encoder_embed_dim
    assert about["parts"] == [
        {"name": "mean", "start": 0, "size": size, "bands": 1},
        {"name": "relative_deviation_4_bands", "start": size, "size": 8 * size, "bands": 8},
    ]
    assert about["pool"]["members"][1] == {
        "name": "relative_deviation", "keep_bands": True, "gamma": 4.0,
    }  # fmt: skip
    (mean,) = asdjax.load(path).embed([wave], "mean")
    (deviation,) = asdjax.load(path).embed([wave], RelativeDeviation(keep_bands=True, gamma=4.0))
    assert relative(found["embedding"][0], np.concatenate([mean, deviation])) < PADDED
    assert run(path, file, "--out", out, "--pool", "relative_deviation", "--overwrite") == 0
    about = json.loads(str(read(out)["about"]))
    assert about["pool"] == "relative_deviation" and "parts" not in about


def test_waveforms_that_are_refused(weights):
    embedder = asdjax.load(weights[0])
    good = np.zeros(2800, np.float32)
    for bad, words in (
        (good[:2799], "waveform 1 has 2799 samples, .* 2800"),
        (good.astype(np.int32), "waveform 1 is of shape .* int32"),
        (good.reshape(2, -1), "waveform 1 is of shape"),
        (np.where(np.arange(2800) == 7, np.nan, good), "waveform 1 is not finite"),
    ):
        with pytest.raises(AsdjaxError, match=words):
            embedder.embed([good, bad])
    with pytest.raises(AsdjaxError, match="no classifier"):
        embedder.embed([good], "head")
    with pytest.raises(AsdjaxError, match="choose one of mean, .*, none, head"):
        embedder.embed([good], "median")
    with pytest.raises(AsdjaxError, match="attentive_statistics: name: has weights"):
        embedder.embed([good], "attentive_statistics")
    with pytest.raises(AsdjaxError, match="gamma: must be"):
        embedder.embed([good], RelativeDeviation(gamma=1e6))
    with pytest.raises(AsdjaxError, match="members: two of them are equal"):
        embedder.embed([good], Several(members=(Mean(), Mean())))
    assert embedder.embed([]) == []


# from a run


def test_a_file_embedded_from_a_run_equals_the_run_s_own(run_path, corpus_root, tmp_path):
    out = tmp_path / "deep" / "e.npz"
    assert run(run_path, corpus_root / "fan", "--out", out) == 0
    found, own = read(out), Run(run_path).read_embeddings("raw", "fan")
    names = [(corpus_root / path).as_posix() for path in own.path]
    assert found["path"].tolist() == names and (found["channel"] == 1).all()
    assert found["embedding"].dtype == np.float32
    assert relative(found["embedding"], own.embedding) < 1e-5
    about = json.loads(str(found["about"]))
    assert about["digest"] == Run(run_path).finished_training()["digest"]
    assert about["pool"] == "head" and about["sample_rate"] == 16000
    assert about.get("random_init", False) == ("beats" in run_path.name)


def test_pooling_of_a_run(run_path, corpus_root, tmp_path, capsys):
    out, file = tmp_path / "e.npz", next(corpus_root.glob("fan/test/*.wav"))
    if "beats" not in run_path.name:
        sentence = refused(capsys, run_path, file, "--out", out, "--pool", "mean")
        assert "multiresnet has none" in sentence and not out.exists()
        return
    assert run(run_path, file, "--out", out, "--pool", "none") == 0
    tokens = read(out)
    assert tokens["start"].tolist() == [0, len(tokens["embedding"])]
    assert run(run_path, file, "--out", out, "--pool", "mean", "--overwrite") == 0
    pooled = read(out)["embedding"][0]
    assert relative(tokens["embedding"].mean(axis=0), pooled) < PADDED
    assert "--layer" not in refused(capsys, run_path, file, "--out", out, "--layer", "1",
                                    "--overwrite")  # fmt: skip


@pytest.mark.parametrize("run_path", ["tiny"], indirect=True)
def test_what_a_run_leaves_out_is_said(run_path, rng, tmp_path, capsys):
    views = (Wiener("mild"), RAW)
    samples = np.stack([noise(rng, 9000), noise(rng, 9000)], axis=1)
    file = write(tmp_path / "long.wav", samples, subtype="FLOAT")
    expected = asdjax.load(run_path)(samples.T[:, :6400])
    for channel, section, change, words in (
        (1, "extract", {"views": views}, "(mild, raw) the raw one is embedded"),
        (2, "audio", {"channel": "far"}, "channel 2 is embedded"),
    ):
        changed, out = Run(tmp_path / section), tmp_path / f"{section}.npz"
        shutil.copytree(run_path, changed.path)
        config = changed.config()
        whole = dataclasses.replace(getattr(config, section), **change)
        config = dataclasses.replace(config, **{section: whole})
        changed.write_training({**changed.finished_training(), "config": to_tree(config)})
        changed.write_config(config)
        assert run(changed.path, file, "--out", out) == 0
        said = capsys.readouterr().err
        assert words in said and "1 of 1 files are longer" in said
        assert "their first 0.4 s are embedded" in said
        assert read(out)["channel"].tolist() == [channel]
        assert relative(read(out)["embedding"][0], expected[channel - 1]) < 1e-5


# what is written


def test_inputs_keep_their_order(weights, rng, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    waves = {name: noise(rng, 3000 + 500 * i) for i, name in enumerate("abcd")}
    write(Path("d/z/b.WAV"), waves["b"], subtype="FLOAT")
    write(Path("d/a.flac"), waves["a"], subtype="PCM_24")
    write(Path("d/z/c.aiff"), waves["c"], subtype="FLOAT")
    write(Path("d/.hidden.wav"), waves["c"])
    write(Path("d/.hidden/x.wav"), waves["c"])
    Path("d/notes.txt").write_text("no audio")
    write(Path("named.dat"), waves["d"], format="WAV", subtype="FLOAT")
    path = weights[0]
    assert run(path, "named.dat", "d", "d/a.flac", "--out", "e.npz") == 0
    found = read("e.npz")
    assert found["path"].tolist() == [
        "named.dat",
        "d/a.flac",
        "d/z/b.WAV",
        "d/z/c.aiff",
        "d/a.flac",
    ]
    assert set(found) == {"path", "channel", "embedding", "about"}
    expected = asdjax.load(path).embed([waves[name] for name in "dabca"])
    assert relative(found["embedding"], np.stack(expected)) < 1e-4  # of 24 bits
    assert "embedding 5/5" in capsys.readouterr().err
    about = json.loads(str(found["about"]))
    assert about == {
        "compute_dtype": "float32",
        "schema": "asdjax.embeddings/1",
        "asdjax": asdjax.__version__,
        "weights": str(path),
        "digest": converted_weights.read(path).digest,
        "pool": "mean",
        "layers": [],
        "sample_rate": 16000,
    }


def test_linked_folders_and_what_is_passed_over(weights, rng, tmp_path, capsys):
    wave = noise(rng, 3000)
    root, elsewhere = tmp_path / "d", tmp_path / "elsewhere"
    write(root / "own" / "a.wav", wave)
    write(elsewhere / "deep" / "b.wav", wave)
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "deep" / "up").symlink_to(root)  # round and round
    (root / "again").symlink_to(root / "own")
    (root / "c.wav").symlink_to(elsewhere / "deep" / "b.wav")
    for name in ("x.txt", "y.TXT", "z", ".hidden.wav", "own/esc\x1b[31m.e\x1b"):
        (root / name).write_text("no audio")
    (root / ".cache").mkdir()
    write(root / ".cache" / "c.wav", wave)
    (root / "dangling").symlink_to(tmp_path / "nowhere")
    (root / "itself").symlink_to(root / "itself")
    out = tmp_path / "e.npz"
    assert run(weights[0], root, "--out", out) == 0
    names = ("c.wav", "linked/deep/b.wav", "own/a.wav")
    assert read(out)["path"].tolist() == [f"{root}/{name}" for name in names]
    said = capsys.readouterr().err
    kinds = "3 without ending, 2 .txt, 1 .e\\x1b, 1 hidden, 1 hidden folder"
    assert f"{root}: 8 entries skipped: {kinds}\n" in said
    shutil.rmtree(root / "linked" / "deep")
    (root / ".cache" / "c.wav").unlink()
    for name in ("x.txt", "y.TXT", "z", ".hidden.wav", "own/esc\x1b[31m.e\x1b"):
        (root / name).unlink()
    for name in (".cache", "dangling", "itself", "c.wav"):
        (root / name).rmdir() if name == ".cache" else (root / name).unlink()
    assert run(weights[0], root, "--out", out, "--overwrite") == 0
    assert "skipped" not in capsys.readouterr().err


@pytest.mark.parametrize("mode", [0, 0o111, 0o444])  # neither, enter, list
@pytest.mark.parametrize("name", [".", "a"])
def test_folders_that_may_not_be_listed_or_entered_are_named(open_folder, mode, name):
    (open_folder / "a" / "b").mkdir(parents=True)
    for folder in (open_folder, open_folder / "a" / "b"):
        (folder / "x.wav").touch()
    (open_folder / "a" / "link").symlink_to("b")
    assert len(sound_search.find([open_folder], "embed")) == 2
    with permissions(open_folder / name, mode), pytest.raises(AsdjaxError) as refusal:
        sound_search.find([open_folder], "embed")
    assert str(refusal.value).startswith(f"{open_folder / name}")
    assert str(refusal.value).endswith(
        ": cannot be read (Permission denied): make it readable, or name another"
    )


def test_pipes_and_devices_among_the_inputs(weights, rng, tmp_path, capsys):
    write(tmp_path / "d" / "a.wav", noise(rng, 3000))
    os.mkfifo(tmp_path / "d" / "b.wav")
    (tmp_path / "null.wav").symlink_to("/dev/null")
    for place, words in (
        (tmp_path / "d", "d/b.wav: unreadable: is a FIFO: name a regular file"),
        (tmp_path / "d" / "b.wav", "b.wav: unreadable: is a FIFO: name a regular file"),
        (tmp_path / "null.wav", "null.wav: unreadable: is a device: name a regular file"),
        (tmp_path / ("x" * 300), "cannot be read (File name too long)"),
    ):
        assert words in refused(capsys, weights[0], place, "--out", tmp_path / "e.npz")


def test_files_that_state_no_length_are_read_to_their_ends(weights, rng, tmp_path, capsys):
    wave = noise(rng, 4000, np.int16)
    whole = write(tmp_path / "whole.wav", wave)
    endless = tmp_path / "endless.wav"
    head = whole.read_bytes()[:40]
    endless.write_bytes(head + b"\xff\xff\xff\xff" + wave.tobytes())
    out = tmp_path / "e.npz"
    assert run(weights[0], whole, endless, "--out", out) == 0
    assert "1 of 2 files state no length" in capsys.readouterr().err
    first, second = read(out)["embedding"]
    assert relative(second, first) < PADDED


def test_floats_far_beyond_1_are_warned_of(weights, rng, tmp_path, capsys):
    loud = noise(rng, 4000, np.int16).astype(np.float32)
    loud[7] = 20000
    files = [
        write(tmp_path / "fine.wav", noise(rng, 4000), subtype="FLOAT"),
        write(tmp_path / "loud.wav", loud, subtype="FLOAT"),
        write(tmp_path / "louder.wav", loud * 2, subtype="FLOAT"),
    ]
    assert run(weights[0], *files, "--out", tmp_path / "e.npz") == 0
    said = capsys.readouterr().err
    assert said.count("full scale is 1") == 1
    assert f"{files[2]} (the loudest of 2 such recordings): the peak is 40000" in said
    embedder = asdjax.load(weights[0])
    for call in (lambda: embedder.embed([loud]), lambda: embedder(loud[None])):
        with pytest.warns(UserWarning, match="waveform 0: the peak is 20000, where") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]
    embedder.embed([loud.astype(np.int16)])


def test_a_file_that_changes_while_it_is_embedded(weights, rng, tmp_path, capsys, monkeypatch):
    file, check = write(tmp_path / "a.wav", noise(rng, 4000)), embed_files._clips
    changes = {
        "the file was changed": lambda: write(file, noise(rng, 5000)),
        "the file was changed while": lambda: write(file, noise(rng, 8000).reshape(-1, 2)),
        "No such file": file.unlink,
    }
    for words, change in changes.items():
        write(file, noise(rng, 4000))

        def checked(*args, change=change):
            found = check(*args)
            change()
            return found

        monkeypatch.setattr(embed_files, "_clips", checked)
        sentence = refused(capsys, weights[0], file, "--out", tmp_path / "e.npz")
        assert f"{file}: " in sentence and words in sentence


@pytest.mark.parametrize("run_path", ["tiny"], indirect=True)
def test_of_long_files_a_run_reads_its_clips_length(run_path, rng, tmp_path, monkeypatch):
    wave, asked = noise(rng, 160_000, np.int16), []  # as FLAC stores it
    long = write(tmp_path / "long.flac", wave, 32000)
    short = write(tmp_path / "short.flac", wave[: 2 * 6400], 32000)
    decoded = sound_files._decoded

    def counted(file, path, layout, frames):
        asked.append(frames)
        return decoded(file, path, layout, frames)

    monkeypatch.setattr(sound_files, "_decoded", counted)
    assert run(run_path, long, short, "--out", tmp_path / "e.npz") == 0
    assert 2 * 6400 < max(asked) < 2 * 6400 + 200 and min(asked) == 2 * 6400
    cut = [audio.resample(part, 32000, 16000)[:6400] for part in (wave, wave[: 2 * 6400])]
    expected = asdjax.load(run_path).embed(cut)  # a batch of the same shape
    assert relative(read(tmp_path / "e.npz")["embedding"], expected) < 1e-5


def test_blocks_and_reading_ahead_change_nothing(weights, rng, tmp_path, monkeypatch):
    for i in range(9):
        write(tmp_path / "d" / f"{i}.wav", noise(rng, (3000, 6000)[i % 2]))
    lock, reads, taken, ahead_of = threading.Lock(), [0], [0], []
    whole_read, whole_embed = SoundClip.read, asdjax.Embedder.embed

    def counted_read(file, embedder):
        with lock:
            reads[0] += 1
            ahead_of.append(reads[0] - taken[0])
        return whole_read(file, embedder)

    def counted_embed(embedder, waveforms, *args, **keys):
        found = whole_embed(embedder, waveforms, *args, **keys)
        with lock:
            taken[0] += len(waveforms)
        return found

    for name, rows, samples in (("one", 256, 2**25), ("many", 2, 2**25), ("long", 256, 8000)):
        if name == "many":
            monkeypatch.setattr(SoundClip, "read", counted_read)
            monkeypatch.setattr(asdjax.Embedder, "embed", counted_embed)
        reads[0] = taken[0] = 0
        monkeypatch.setattr(sound_clips, "_BLOCK_ROWS", rows)
        monkeypatch.setattr(sound_clips, "_BLOCK_SAMPLES", samples)
        monkeypatch.setattr(read_ahead, "MOST_FILES", rows)
        monkeypatch.setattr(read_ahead, "MOST_SAMPLES", samples)
        assert run(weights[0], tmp_path / "d", "--out", tmp_path / f"{name}.npz") == 0
    assert 2 < max(ahead_of) <= 5  # a block of two, the next, and one to know that it is whole
    one, *others = (read(tmp_path / f"{name}.npz") for name in ("one", "many", "long"))
    for other in others:
        assert one["path"].tolist() == other["path"].tolist()
        assert relative(other["embedding"], one["embedding"]) < PADDED
    assert len(np.unique(one["embedding"][:, 0])) == 9


def test_tokens(weights, rng, tmp_path):
    waves = [noise(rng, n, np.int16) for n in (6000, 3000, 6000)]
    files = [write(tmp_path / f"{i}.wav", wave) for i, wave in enumerate(waves)]
    out = tmp_path / "e.npz"
    assert run(weights[0], *files, "--out", out, "--pool", "none", "--layer", "1", "2") == 0
    found = read(out)
    assert found["start"].dtype == np.int64 and found["start"][-1] == len(found["embedding"])
    for i, wave in enumerate(waves):
        expected, _ = alone(weights[1], wave, (1, 2))
        own = found["embedding"][found["start"][i] : found["start"][i + 1]]
        assert relative(own, expected) < PADDED


def test_channels(weights, rng, tmp_path, capsys):
    samples = np.stack([noise(rng, 4000, np.int16) for _ in range(3)], axis=1)
    three = write(tmp_path / "three.wav", samples)
    one = write(tmp_path / "one.wav", samples[:, 0])
    out = tmp_path / "e.npz"
    assert run(weights[0], three, one, "--out", out, "--channel", "each") == 0
    each = read(out)
    assert each["channel"].tolist() == [1, 2, 3, 1] and each["channel"].dtype == np.int32
    assert each["path"].tolist() == [three.as_posix()] * 3 + [one.as_posix()]
    assert "more than one channel" not in capsys.readouterr().err
    assert relative(each["embedding"][3], each["embedding"][0]) < PADDED
    assert run(weights[0], three, one, "--out", out, "--overwrite") == 0
    said = capsys.readouterr().err
    assert said.count("1 of 2 files have more than one channel: channel 1 is embedded") == 1
    assert relative(read(out)["embedding"][0], each["embedding"][0]) < PADDED
    assert run(weights[0], three, "--out", out, "--overwrite", "--channel", "3") == 0
    assert relative(read(out)["embedding"][0], each["embedding"][2]) < PADDED
    again = (weights[0], three, one, "--out", out, "--overwrite", "--channel")
    assert "one.wav: no channel 2, the file has 1" in refused(capsys, *again, "2")
    assert "channels count from 1, found 0" in refused(capsys, *again, "0", code=2)


def test_other_rates_are_resampled_and_that_is_said_once(weights, rng, tmp_path, capsys):
    wave = noise(rng, 14700)
    for i, rate in enumerate((44100, 48000, 44100, 16000)):
        write(tmp_path / "d" / f"{i}.wav", wave, rate, subtype="FLOAT")
    out = tmp_path / "e.npz"
    assert run(weights[0], tmp_path / "d", "--out", out) == 0
    said = capsys.readouterr().err
    assert said.count("are resampled") == 1
    assert "3 of 4 files are resampled to 16000 Hz: 2 of 44100 Hz, 1 of 48000 Hz" in said
    expected = asdjax.load(weights[0]).embed(
        [audio.resample(wave, rate, 16000) for rate in (44100, 48000, 44100)] + [wave]
    )
    assert relative(read(out)["embedding"], np.stack(expected)) < PADDED


def test_parquet(weights, rng, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [write(tmp_path / f"{i}.wav", noise(rng, n)) for i, n in enumerate((3000, 6000, 3000))]
    for pool in ("mean", "none"):
        for name in ("e.npz", "e.parquet"):
            out = tmp_path / name
            assert run(weights[0], *files, "--out", out, "--pool", pool, "--overwrite") == 0
        arrays, table = read(tmp_path / "e.npz"), parquet.read_table(tmp_path / "e.parquet")
        assert table.column_names == ["path", "channel", "embedding"]
        assert table.schema.metadata[b"asdjax"].decode() == str(arrays["about"])
        for name in ("path", "channel"):
            assert table[name].to_pylist() == arrays[name].tolist()
        rows = [np.array(row, np.float32) for row in table["embedding"].to_pylist()]
        if pool == "none":
            assert [len(row) for row in rows] == np.diff(arrays["start"]).tolist()
        values = np.stack(rows) if pool == "mean" else np.concatenate(rows)
        np.testing.assert_array_equal(values, arrays["embedding"])


# what is refused


def test_where_nothing_can_be_written(weights, rng, tmp_path, capsys, monkeypatch):
    path, file = weights[0], write(tmp_path / "a.wav", noise(rng, 4000))
    there = tmp_path / "there.npz"
    there.write_text("kept")
    assert "--overwrite" in refused(capsys, path, file, "--out", there)
    wrong = refused(capsys, path, file, "--out", tmp_path / "e", code=2)
    assert "must end in .npz or .parquet" in wrong
    npz = (path, file, "--out", tmp_path / "e.npz")
    assert "must end in .parquet" in refused(capsys, *npz, "--format", "parquet", code=2)
    assert f"{file} is not a" in refused(capsys, path, file, "--out", file / "e.npz")
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    said = refused(capsys, path, file, "--out", folder, "--overwrite")
    assert "folder.npz: is not a regular file" in said
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    sentence = refused(capsys, path, file, "--out", tmp_path / "e.parquet")
    assert "pip install 'asdjax[parquet]'" in sentence
    assert there.read_text() == "kept" and not list(tmp_path.glob("*.partial"))


def test_inputs_that_are_refused(weights, rng, tmp_path, capsys):
    good = write(tmp_path / "good.wav", noise(rng, 4000))
    out = tmp_path / "e.npz"
    wave = noise(rng, 4000)
    wave[5] = np.inf
    cases = {
        "not_finite": write(tmp_path / "inf.wav", wave, subtype="FLOAT"),
        "2799 samples at 16000 Hz are too short": write(tmp_path / "s.wav", noise(rng, 2799)),
        "2799 samples at": write(tmp_path / "slow.wav", noise(rng, 5597), 32000),
        "0 samples": write(tmp_path / "none.wav", noise(rng, 0)),
        "unreadable": tmp_path / "text.wav",
        "without a header": tmp_path / "samples.raw",
        "no such file": tmp_path / "absent.wav",
        "no audio file": tmp_path / "empty",
        "truncated": write(tmp_path / "cut.flac", noise(rng, 4000)),
    }
    (tmp_path / "text.wav").write_text("only text")
    (tmp_path / "samples.raw").write_bytes(bytes(8000))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no audio")
    cut = tmp_path / "cut.flac"
    cut.write_bytes(cut.read_bytes()[:-100])
    for words, path in cases.items():
        sentence = refused(capsys, weights[0], good, path, "--out", out)
        assert words in sentence and path.as_posix() in sentence and not out.exists()
    assert "neither a run directory nor" in refused(capsys, tmp_path, good, "--out", out)
    assert "the encoder has layers 1 to 2" in refused(
        capsys, weights[0], good, "--out", out, "--layer", "3"
    )
    assert "no classifier" in refused(capsys, weights[0], good, "--out", out, "--pool", "head")
    assert main(["embed", str(weights[0]), "--out", str(out)]) == 2
    assert "nothing to embed" in capsys.readouterr().err


def test_a_name_that_is_no_text(weights, rng, tmp_path, capsys):
    file = tmp_path / "caf\udce9.wav"
    write(tmp_path / "a.wav", noise(rng, 4000)).rename(file)
    assert "not UTF-8" in refused(capsys, weights[0], file, "--out", tmp_path / "e.npz")
    file.rename(tmp_path / "café ü.wav")
    assert run(weights[0], tmp_path / "café ü.wav", "--out", tmp_path / "e.npz") == 0
    assert read(tmp_path / "e.npz")["path"][0].endswith("café ü.wav")


def test_embeddings_that_are_not_finite(tmp_path, rng, capsys):
    path = tmp_path / "broken"
    weights = {"encoder": convert(path)}
    weights["encoder"]["layer_norm"]["scale"] = np.full(ENCODER.embed_dim, np.nan, np.float32)
    shutil.rmtree(path / converted_weights.WEIGHTS)
    save_weights(path / converted_weights.WEIGHTS, weights)
    document = json.loads((path / converted_weights.DOCUMENT).read_text())
    converted_weights.write_description(
        path / converted_weights.DOCUMENT, document | {"digest": digest(weights)}
    )
    file = write(tmp_path / "a.wav", noise(rng, 4000))
    assert run(path, file, "--out", tmp_path / "e.npz") == 1
    assert f"{file}: the embedding is not finite" in capsys.readouterr().err
    assert not (tmp_path / "e.npz").exists()


def test_converted_weights_are_called_like_a_run(weights, rng):
    embedder = asdjax.load(weights[0])
    waves = np.stack([noise(rng, 6000) for _ in range(3)])
    assert np.array_equal(embedder(waves), np.stack(embedder.embed(list(waves))))
    assert np.array_equal(embedder.embed([waves[0].tolist()])[0], embedder.embed(waves[:1])[0])
    loud = waves[1] * np.float32(1e38)
    with (
        pytest.warns(UserWarning, match="full scale"),
        pytest.raises(AsdjaxError, match="waveform 1: the embedding is not finite"),
    ):
        embedder.embed([waves[0], loud])


@pytest.mark.parametrize(
    "model", [BEATsConfig(encoder=ENCODER, random_init=True), load(TESTS / "tiny.yaml").model]
)
def test_bfloat16_differs_by_rounding_alone(model, rng):
    """What is computed once for inference, and weights that are held rounded, change nothing."""
    waves = np.stack([noise(rng, 16000) for _ in range(5)])
    found = {}
    for dtype in "float32", "bfloat16":
        model = dataclasses.replace(model, compute_dtype=dtype)
        graphdef, params, stats = parameters.split(building.build(model, 16000, 16000, seed=0))
        state = {"params": {"model": params}, "stats": {"model": stats}}
        config = dataclasses.replace(load(TESTS / "tiny_beats.yaml"), model=model)
        found[dtype] = Embedder(config, 16000, jax.tree.map(np.asarray, state))(waves)
        apply = partial(parameters.apply, graphdef, train=False)
        plain = np.asarray(jax.jit(apply)(params, stats, waves)[0])
        assert found[dtype].dtype == plain.dtype == np.float32
        limit = PADDED if dtype == "float32" else 2**-8
        assert relative(found[dtype], plain) < limit
    exact, rounded = found.values()
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1)
    assert (np.sum(exact * rounded, axis=1) > 0.999 * lengths).all()
    assert np.abs(exact - rounded).max() > 1e-5  # else nothing was rounded


@pytest.mark.parametrize(("clips", "rows"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (9, 12)])
def test_a_lone_clip_costs_one(clips, rows):
    assert rounded_up(clips, jax.devices()[:1]) == rows
    assert rounded_up(2 * clips, jax.devices()[:2]) == 2 * rows


@pytest.mark.parametrize(
    "clips, at_once, computed",
    [(0, 4, 0), (1, 4, 4), (4, 4, 4), (5, 4, 8), (12, 4, 12), (5, 2, 6), (5, 1, 5), (5, None, 12)],
)
def test_groups_without_clips_are_passed_over(clips, at_once, computed):
    batch = {"length": np.arange(1, 13, dtype=np.int32), "used": np.arange(12) < clips}
    batch["waveform"] = np.zeros((12, 9), np.int8)
    step = partial(in_groups, lambda state, batch: state * batch["length"], lambda room: at_once)
    found = jax.jit(step)(3, batch)
    np.testing.assert_array_equal(found, np.where(np.arange(12) < computed, 3 * batch["length"], 0))


def test_a_detector_computes_each_window_by_one_program(run_path, rng, monkeypatch):
    """Programs of other batch shapes or types differ by rounding, and so would scores."""
    seen, run = set(), Network.run

    def spy(network, step, static, state, batches, **options):
        for batch, clips in batches:
            seen.add(
                (step, static, *((a.dtype, a.shape) for a in batch.values()), *options.items())
            )
            yield from run(network, step, static, state, [(batch, clips)], **options)

    monkeypatch.setattr(Network, "run", spy)
    features = open_features(run_path)
    waves = [noise(rng, features.n_samples) for _ in range(5)]
    waves[3] = (32767 * waves[3]).astype(np.int16)
    together = features(waves, list("abcde"), features.n_samples)["embedding"]
    for i, wave in enumerate(waves):
        alone = features([wave], ["a"], features.n_samples)["embedding"]
        np.testing.assert_array_equal(alone, together[[i]])
    assert len(seen) == 1


def test_a_cpu_takes_few_long_clips_at_once(weights, run_path):
    """Attention's memory grows with the square of the length that the model hears."""
    own, a_minute = asdjax.load(weights[0]), 2 * LONG_CLIPS
    lengths = {9: 4, LONG_CLIPS: 4, LONG_CLIPS + 1: 2, 2 * LONG_CLIPS: 1, 9 * LONG_CLIPS: 1}
    assert {n: own.network.at_once(n) for n in lengths} == lengths
    of_run = asdjax.load(run_path)  # whose clips are short, wherever they were cut from
    assert of_run.network.at_once(a_minute) == 4
    of_run.network.n_samples = a_minute
    assert of_run.network.at_once(9) == (1 if "beats" in run_path.name else 4)


def test_products_in_bfloat16(weights, rng, tmp_path):
    files = [write(tmp_path / f"{i}.wav", noise(rng, 6000)) for i in range(3)]
    found = {}
    for dtype in "float32", "bfloat16":
        out = tmp_path / f"{dtype}.npz"
        assert run(weights[0], *files, "--out", out, "--compute-dtype", dtype) == 0
        assert json.loads(str(read(out)["about"]))["compute_dtype"] == dtype
        found[dtype] = read(out)["embedding"]
    plain = asdjax.load(weights[0]).embed([audio.read(f, channel="near") for f in files])
    np.testing.assert_array_equal(found["float32"], np.stack(plain))
    assert 1e-5 < relative(found["bfloat16"], found["float32"]) < 2**-5
    with pytest.raises(AsdjaxError, match="'float16': choose one of auto, float32, tensor"):
        asdjax.load(weights[0], compute_dtype="float16")


def test_a_run_s_products_in_bfloat16(run_path, rng):
    waves = np.stack([noise(rng, 6000) for _ in range(3)])
    plain, same, rounded = (
        asdjax.load(run_path, compute_dtype=dtype)(waves) for dtype in (None, "float32", "bfloat16")
    )
    np.testing.assert_array_equal(same, plain)
    assert 1e-5 < relative(rounded, plain) < 2**-4


def test_a_device_without_room_is_named(tmp_path, weights, rng, capsys, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")

    monkeypatch.setattr(Embedder, "embed", full)
    file = write(tmp_path / "a.wav", noise(rng, 4000))
    said = refused(capsys, weights[0], file, "--out", tmp_path / "e.npz")
    assert "out of memory on the device" in said and "shorter clips" in said


# any audio file


FORMATS = [(name, "PCM_16") for name in ("wav", "flac", "aiff", "au", "caf", "w64")]
FORMATS += [("wav", "ULAW"), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("name", "subtype"), FORMATS)
def test_formats(tmp_path, name, subtype):
    tone = 0.5 * np.sin(2 * np.pi * 440 / 16000 * np.arange(20000))
    samples = np.round(np.stack([tone, tone / 2], axis=1) * 32767).astype(np.int16)
    lossless = subtype == "PCM_16"
    # libsndfile 1.2 spoils integers that it writes to two-channel MP3 files
    stored = samples if lossless else samples / 32768
    path = write(tmp_path / f"a.{name}", stored, subtype=subtype)
    header, found = audio.inspect_any(path), audio.read_any(path, 16000)
    assert (header.rate, header.channels) == (16000, 2)
    assert found.shape == (20000, 2) and header.frames == 20000
    if lossless:
        np.testing.assert_array_equal(found, samples)
    else:  # lossy: the tone is there, at its level
        assert found.dtype == np.float32
        levels = np.sqrt(2 * np.mean(np.square(found[4000:16000]), axis=0))
        np.testing.assert_allclose(levels, [0.5, 0.25], rtol=0.05)
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(AsdjaxError, match=rf"a\.{name}: "):
            audio.read_any(path, 16000)


@given(
    rate=st.sampled_from([6000, 8000, 11025, 12000, 22050, 32000, 44100, 48000, 51200, 96000]),
    share=st.floats(0.01, 0.9),
    phase=st.floats(0, 6.28),
)
@settings(max_examples=40)
def test_a_tone_keeps_its_frequency_phase_and_level(rate, share, phase):
    frequency = share * min(rate, 16000) / 2
    wave = np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate + phase).astype(np.float32)
    found = audio.resample(wave, rate, 16000)
    assert found.dtype == np.float32 and len(found) == -(-len(wave) * 16000 // rate)
    expected = np.sin(2 * np.pi * frequency * np.arange(len(found)) / 16000 + phase)
    middle = slice(len(found) // 4, len(found) * 3 // 4)
    np.testing.assert_allclose(found[middle], expected[middle], rtol=0, atol=1e-5)


@given(
    rate=st.sampled_from([22050, 32000, 44100, 48000, 51200, 96000]), share=st.floats(0.001, 0.99)
)
@settings(max_examples=40)
def test_nothing_aliases(rate, share):
    frequency = 8000 + share * (rate / 2 - 8000)
    wave = np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate + 1).astype(np.float32)
    middle = audio.resample(wave, rate, 16000)[2000:6000]
    assert np.abs(middle).max() < 1e-5  # -100 dB


def test_integers_are_scaled_and_channels_kept_apart(rng):
    samples = rng.integers(-3000, 3000, (4410, 2), dtype=np.int16)
    found = audio.resample(samples, 44100, 16000)
    assert found.shape == (1600, 2)
    scaled = samples.astype(np.float32) / 32768
    for column in range(2):
        np.testing.assert_allclose(
            found[:, column], audio.resample(scaled[:, column], 44100, 16000), rtol=0, atol=1e-7
        )


def test_rates_without_a_simple_ratio(tmp_path, rng):
    path = write(tmp_path / "a.wav", noise(rng, 4000), 384001)
    with pytest.raises(AsdjaxError, match=r"a\.wav: .*384001 Hz cannot be resampled to 16000 Hz"):
        audio.read_any(path, 16000)


@pytest.mark.parametrize("rate", [0, -16000, 1e4, 16000.0, float("nan"), 10**7, "16000", True])
def test_sample_rates_that_are_none(rate, weights, rng):
    with pytest.raises(AsdjaxError, match=f"sample_rate {rate!r}: give hertz, a whole number"):
        asdjax.load(weights[0]).embed([noise(rng, 9600)], sample_rate=rate)


def test_paths_and_arrays_of_another_rate_are_embedded(weights, rng, tmp_path):
    """As by asdjax embed: files of any rate, and arrays whose rate is stated."""
    embedder = asdjax.load(weights[0])
    wave = noise(rng, 9600)
    rate = 3 * embedder.config.audio.sample_rate
    soundfile.write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1), rate, subtype="FLOAT")
    of_file, of_text = embedder.embed([tmp_path / "a.wav", str(tmp_path / "a.wav")])
    (of_array,) = embedder.embed([wave], sample_rate=rate)
    assert np.array_equal(of_file, of_text)
    np.testing.assert_allclose(of_array, of_file, atol=1e-5)  # SciPy rounds columns otherwise
    (resampled,) = embedder.embed([audio.resample(wave, rate, rate // 3)])
    assert np.array_equal(of_array, resampled)
    with pytest.raises(AsdjaxError, match=str(tmp_path / "none.wav")):
        embedder.embed([tmp_path / "none.wav"])
    with pytest.raises(AsdjaxError, match="sample_rate"):
        embedder.embed([wave], sample_rate=999_983)
