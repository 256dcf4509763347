"""Views through all verbs: embeddings, diagnostics, warnings, decisions, submission, comparison."""

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil

import jax
import numpy as np
import pytest
import soundfile
import yaml
from conftest import LAYER, STFT, TESTS, relative
from support.plugins import forget
from support.view_oracle import inverse, spectrum

from asdjax.challenge import verification
from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.config.recipe import SynthConfig
from asdjax.embedder import Embedder, extraction
from asdjax.embedder.network import Network
from asdjax.scoring import backends
from asdjax.store.runs import Run
from asdjax.synth import corpus as synth
from asdjax.training import weights

pytestmark = pytest.mark.usefixtures("compiled_fast")

RECIPE = str(TESTS / "views.yaml")
INFO = str(TESTS / "submission.yaml")
METHODS = ("raw", "mild", "strong", "cancel", "calibrated", "far", "difference")
MACHINES = ("ToothBrush", "bearingEmu", "fan")


@pytest.fixture(scope="module")
def corpus(corpus_root, tmp_path_factory):
    """The session's corpus with labels of its evaluation machine."""
    root = tmp_path_factory.mktemp("views") / "data"
    shutil.copytree(corpus_root, root)
    config = SynthConfig(
        machines=("fan", "bearingEmu", "ToothBrush"), train_source=13, train_target=3,
        test_per_cell=4, seconds=0.5, ground_truth=True,
    )  # fmt: skip
    synth.write(root, config)
    return root


@pytest.fixture(scope="module")
def run_path(corpus, tmp_path_factory):
    path = tmp_path_factory.mktemp("views") / "run"
    assert main(["run", RECIPE, "--data", str(corpus), "--run", str(path)]) == 0
    return path


@pytest.fixture
def run_copy(run_path, tmp_path):
    shutil.copytree(run_path, tmp_path / "run")
    return tmp_path / "run"


def scores(path, machine="fan"):
    with (path / "scores" / f"{machine}.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def test_every_view_has_its_own_bank_and_the_mean_is_the_score(run_path):
    columns = scores(run_path)
    per_view = np.stack([columns[view].astype(float) for view in METHODS])
    assert len(np.unique(per_view, axis=0)) == len(METHODS)
    assert np.allclose(columns["score"].astype(float), per_view.mean(axis=0), rtol=1e-12)
    run = Run(run_path)
    for view in METHODS:
        table = run.read_embeddings(view, "fan")
        train, test = table.rows(table.split == "train"), table.rows(table.split == "test")
        bank = backends.fit(run.config().backend, train.embedding, train.domain == "target")
        assert np.allclose(
            columns[view][columns["split"] == "test"].astype(float), bank.score(test.embedding)
        )


def test_decisions_follow_from_the_leave_one_out_scores(run_path):
    document = json.loads((run_path / "thresholds.json").read_text())
    assert document["schema"] == "asdjax.thresholds/1" and set(document["machines"]) == {*MACHINES}
    for machine in MACHINES:
        columns = scores(run_path, machine)
        values, train = columns["score"].astype(float), columns["split"] == "train"
        threshold = np.quantile(values[train], 0.9)
        assert np.allclose(columns["threshold"].astype(float), threshold, rtol=1e-12)
        assert np.array_equal(columns["decision"] == "1", values > threshold)
        facts = document["machines"][machine]["00"]
        source = train & (columns["domain"] == "source")
        assert facts["false_alarm_rate"]["source"] == np.mean(columns["decision"][source] == "1")
        assert facts["clips"] == {"source": 13, "target": 3}


def test_false_alarms_among_normal_test_clips_are_counted(run_path, capsys):
    assert main(["evaluate", str(run_path), "--json"]) == 0
    printed = capsys.readouterr()
    rates = json.loads(printed.out)["false_alarm_rate"]
    for machine in ("fan", "bearingEmu"):
        columns = scores(run_path, machine)
        for domain in ("source", "target"):
            normal = (columns["split"] == "test") & (columns["label"] == "normal")
            expected = np.mean(columns["decision"][normal & (columns["domain"] == domain)] == "1")
            assert rates[machine]["00"][domain] == expected
        assert f"{machine} section 00: false alarms among normal test clips" in printed.err


@pytest.mark.parametrize("method", ["gamma", "conformal", "in_sample"])
def test_other_thresholds(run_copy, method, capsys):
    before = scores(run_copy)
    assert main(["score", str(run_copy), "--decision.method", method]) == 0
    after = scores(run_copy)
    assert np.array_equal(before["score"], after["score"])
    assert f"({method}, level 0.9)" in capsys.readouterr().err
    assert Run(run_copy).config().decision.method == method
    if method == "in_sample":  # a clip finds itself in the bank: the literal rule's zeros
        assert set(after["threshold"]) == {"0.0"} and set(after["decision"]) == {"1"}
    else:
        assert before["threshold"][0] != after["threshold"][0]


def test_averaged_embeddings_make_one_bank(run_copy):
    assert main(["score", str(run_copy), "--backend.combine-views", "embeddings"]) == 0
    run = Run(run_copy)
    tables = [run.read_embeddings(view, "fan") for view in METHODS]
    embeddings = [table.embedding.astype(np.float64) for table in tables]
    units = [e / np.linalg.norm(e, axis=1, keepdims=True) for e in embeddings]
    mean, clips = np.mean(units, axis=0), tables[0]
    train = clips.split == "train"
    bank = backends.fit(run.config().backend, mean[train], clips.domain[train] == "target")
    found = scores(run_copy)["score"].astype(float)
    assert np.allclose(found[~train], bank.score(mean[~train]), rtol=1e-6)
    assert np.allclose(found[train], bank.leave_one_out(), rtol=1e-6)


def test_z_scores_standardise_each_view_by_its_training_clips(run_copy):
    before = scores(run_copy)
    assert main(["score", str(run_copy), "--backend.combine-views", "z_score"]) == 0
    train = before["split"] == "train"
    per_view = np.stack([before[view].astype(float) for view in METHODS])
    mean, std = (f(per_view[:, train], axis=1, keepdims=True) for f in (np.mean, np.std))
    expected = ((per_view - mean) / std).mean(axis=0)
    assert np.allclose(scores(run_copy)["score"].astype(float), expected, rtol=1e-9, atol=1e-9)


def test_a_new_view_leaves_the_others_as_they_are(run_copy, corpus):
    path = Run(run_copy).embeddings_path
    before = {view: path(view, "fan").stat().st_mtime_ns for view in METHODS}
    recipe = yaml.safe_load((run_copy / "config.yaml").read_text())
    recipe["extract"]["views"][1]["alpha"] = 0.6
    recipe["extract"]["views"] = recipe["extract"]["views"][:3]
    (run_copy / "config.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["evaluate", str(run_copy)]) == 1
    assert main(["extract", str(run_copy)]) == 0
    after = {view: path(view, "fan").stat().st_mtime_ns for view in ("raw", "mild", "strong")}
    assert {view for view in after if after[view] != before[view]} == {"mild"}
    assert not path("cancel", "fan").exists()
    assert main(["score", str(run_copy)]) == 0


def test_views_do_not_depend_on_the_batch_or_on_other_clips(run_path, corpus):
    run = Run(run_path)
    embedder, table = Embedder.load(run), run.read_embeddings("raw", "fan")
    waveforms = []
    for path in table.path[:3]:
        samples, _ = soundfile.read(corpus / path, dtype="int16")
        waveforms.append(samples[: embedder.n_samples, 0])
    assert relative(embedder(np.stack(waveforms)), table.embedding[:3]) < LAYER


def test_diagnostics(run_path, corpus):
    with (run_path / "diagnostics" / "fan.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 32
    for row in rows:
        samples, _ = soundfile.read(corpus / row["path"])
        rms = np.sqrt(np.mean(samples**2, axis=0))
        assert float(row["level_db"]) == pytest.approx(20 * np.log10(rms[1] / rms[0]), abs=0.01)
        correlation = np.corrcoef(samples.T)[0, 1]
        assert float(row["correlation"]) == pytest.approx(correlation, abs=1e-3)
        gains = [float(row[f"gain_{view}"]) for view in ("strong", "mild")]
        assert 0.01 <= gains[0] < gains[1] < 1
        assert row["gain_raw"] == ""  # as in a run of the raw view alone
        assert 0 < float(row["lag_ms"]) < 10


def changed(root, to, change):
    """A copy of a corpus with every fan clip changed."""
    shutil.copytree(root, to)
    for path in (to / "fan").glob("*/*.wav"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, change(samples), rate, "PCM_16")
    return to


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[:, ::-1], "look swapped"),
        (lambda s: s[:, [0, 0]], "identical in 32 of 32 clips"),
        (lambda s: s * np.array([1, 0], np.int16), "channel 2 is silent in 32 of 32 clips"),
        (lambda s: s * np.array([0, 1], np.int16), "channel 1 is silent in 32 of 32 clips"),
    ],
)
def test_faulty_channels_are_warned_of_once_per_machine(
    run_copy, corpus, tmp_path, change, words, capsys
):
    recipe = yaml.safe_load((run_copy / "config.yaml").read_text())
    del recipe["extract"]["views"][4]  # a calibration needs two channels that sound
    (run_copy / "config.yaml").write_text(yaml.safe_dump(recipe))
    data = changed(corpus, tmp_path / "data", change)
    assert main(["extract", str(run_copy), "--data", str(data)]) == 0
    printed = capsys.readouterr().err
    assert [line for line in printed.splitlines() if words in line and line.startswith("fan: ")]
    assert printed.count(words) == 1 and "bearingEmu: " not in printed
    for view in ("raw", "mild", "far"):
        assert np.isfinite(Run(run_copy).read_embeddings(view, "fan").embedding).all()


def test_a_calibration_without_sound_is_refused(run_copy, corpus, tmp_path, capsys):
    data = changed(corpus, tmp_path / "data", lambda s: s * np.array([1, 0], np.int16))
    assert main(["extract", str(run_copy), "--data", str(data)]) == 1
    assert re.search(r"fan/train: .*extract\.views", capsys.readouterr().err)


def test_mono_machines_use_the_raw_view_and_one_message_says_so(run_copy, corpus, tmp_path, capsys):
    data = changed(corpus, tmp_path / "data", lambda s: s[:, 0])
    assert main(["extract", str(run_copy), "--data", str(data)]) == 0
    assert capsys.readouterr().err.count("every view is the raw one: fan") == 1
    run = Run(run_copy)
    raw = run.read_embeddings("raw", "fan").embedding
    assert all(np.array_equal(run.read_embeddings(v, "fan").embedding, raw) for v in METHODS)
    assert not (run_copy / "diagnostics" / "fan.csv").exists()
    assert main(["score", str(run_copy)]) == 0
    columns = scores(run_copy)
    assert np.allclose(columns["score"].astype(float), columns["raw"].astype(float), rtol=1e-12)


def test_the_raw_view_holds_the_same_alone_and_with_other_views(run_copy):
    together = Run(run_copy).read_embeddings("raw", "fan")
    run = with_views(run_copy, {"name": "mild", "method": "wiener"})
    assert main(["extract", str(run_copy)]) == 0
    run = with_views(run_copy, {"name": "raw", "method": "raw"})
    assert main(["extract", str(run_copy)]) == 0
    alone = run.read_embeddings("raw", "fan")
    assert relative(alone.embedding, together.embedding) < LAYER  # programs of other shapes
    for name in "gain", "level_db", "correlation", "lag", "silent", "calibration":
        assert np.array_equal(*(getattr(t, name) for t in (alone, together)), equal_nan=True), name


def with_views(run_path, *views):
    """The run's configuration, with other views."""
    recipe = yaml.safe_load((run_path / "config.yaml").read_text())
    recipe["extract"]["views"] = list(views)
    (run_path / "config.yaml").write_text(yaml.safe_dump(recipe))
    return Run(run_path)


WHITENED = """
import dataclasses

import jax.numpy as jnp

import asdjax
from asdjax.config.interfaces import SpectralView


@asdjax.register
@dataclasses.dataclass(frozen=True)
class Whitened(SpectralView):
    uses_channel_2 = False
    learns = True
    method: str = "whitened"

    def make(self, clips, learned):
        spectra = clips.spectra(self.n_fft, self.hop)
        gain = 0.01 / jnp.sqrt(learned[0])
        return spectra.with_gain(jnp.broadcast_to(gain, spectra.near_power.shape))

    def observe(self, clips):
        spectra = clips.spectra(self.n_fft, self.hop)
        return spectra.near_power, spectra.valid

    def learned(self, rows):
        if not rows.any():
            raise asdjax.AsdjaxError(f"no clip sounds, which the view {self.name} needs")
        return rows.mean(axis=0, keepdims=True)

    def sentence(self, channel):
        return f"{channel}, whitened"
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "whitened.py"
    path.write_text(WHITENED)
    yield path
    forget()


def test_a_view_that_needs_channel_1_alone_and_learns(run_copy, corpus, plugin, tmp_path, capsys):
    extract = ["extract", str(run_copy), "--plugin", str(plugin)]
    white = {"name": "white", "method": "whitened", "n_fft": 256, "hop": 64}
    mild = {"name": "mild", "method": "wiener"}
    mono = changed(corpus, tmp_path / "mono", lambda s: s[:, 0])
    tables = []
    for data, views in ((corpus, [mild, white]), (mono, [mild, white]), (mono, [white])):
        run = with_views(run_copy, *views)
        assert main([*extract, "--data", str(data)]) == 0
        said = capsys.readouterr().err
        replaced = data is mono and mild in views
        assert ("each of the views mild is the raw one: fan" in said) == replaced
        tables.append(run.read_embeddings("white", "fan"))
    paths, near = tables[0].path[tables[0].split == "train"], []
    for path in paths:
        near.append(spectrum(soundfile.read(corpus / path)[0][:, 0], 256, 64))
    power = np.mean(np.abs(np.concatenate(near, axis=1)) ** 2, axis=1)
    for table in tables:
        assert relative(table.calibration, power[None]) < STFT
        assert relative(table.embedding, tables[0].embedding) < LAYER
    embedder = Embedder.load(run)
    gain = 0.01 / np.sqrt(power)
    sound = soundfile.read(corpus / paths[0])[0][:, 0]
    made = inverse(gain[:, None] * near[0], 256, 64, len(sound))[: embedder.n_samples]
    (place,) = np.flatnonzero(tables[0].path == paths[0])
    found = tables[0].embedding[[place]]
    assert relative(found, embedder(made[None].astype(np.float32))) < 10 * LAYER
    assert relative(found, embedder(sound[None, : embedder.n_samples])) > 100 * LAYER
    assert main(["score", str(run_copy), "--plugin", str(plugin)]) == 0
    plugin.write_text(WHITENED.replace("0.01 /", "0.02 /"))
    capsys.readouterr()
    assert main(["score", str(run_copy), "--plugin", str(plugin)]) == 1
    assert "run asdjax extract" in capsys.readouterr().err
    cut = itertools.count(1)  # silent clips of one length would be copies
    silent = changed(mono, tmp_path / "silent", lambda s: 0 * s[: -next(cut)])
    assert main([*extract, "--data", str(silent)]) == 1
    assert "fan/train: no clip sounds" in capsys.readouterr().err


def test_clips_of_mixed_lengths_share_a_program(run_copy, corpus, tmp_path):
    """A machine whose clips have other lengths is embedded as if it were alone."""
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    for i, path in enumerate(sorted((data / "ToothBrush").glob("*/*.wav"))):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, np.resize(samples, (3000 + 777 * (i % 9), 2)), rate, "PCM_16")
    before = {view: Run(run_copy).read_embeddings(view, "fan").embedding for view in METHODS}
    shutil.rmtree(run_copy / "embeddings")
    assert main(["extract", str(run_copy), "--data", str(data)]) == 0
    for view in METHODS:
        after = Run(run_copy).read_embeddings(view, "fan").embedding
        assert relative(after, before[view]) < 10 * LAYER, view


def test_other_sample_formats_give_the_same_embeddings(run_copy, corpus, tmp_path):
    """A file that is not 16-bit makes all batches float32: the same sound, to the last bit."""
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    for machine, subtype in ("fan", "FLOAT"), ("bearingEmu", "PCM_24"):
        path = sorted((data / machine / "train").glob("*.wav"))[0]
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples, rate, subtype)
    both = [(view, machine) for view in METHODS for machine in ("fan", "bearingEmu")]
    before = {which: Run(run_copy).read_embeddings(*which).embedding for which in both}
    assert main(["extract", str(run_copy), "--data", str(data)]) == 0
    for which in both:
        after = Run(run_copy).read_embeddings(*which).embedding
        assert np.array_equal(after, before[which]), which


def test_views_on_eight_devices_are_those_on_one(run_copy):
    before = {view: Run(run_copy).read_embeddings(view, "fan") for view in METHODS}
    recipe = yaml.safe_load((run_copy / "config.yaml").read_text())
    recipe["train"]["devices"] = 0
    (run_copy / "config.yaml").write_text(yaml.safe_dump(recipe))
    shutil.rmtree(run_copy / "embeddings")
    assert len(Embedder.load(run_copy).devices) == 8
    assert main(["extract", str(run_copy)]) == 0
    for view in METHODS:
        after = Run(run_copy).read_embeddings(view, "fan")
        assert relative(after.embedding, before[view].embedding) < LAYER, view
        assert np.allclose(after.gain, before[view].gain, rtol=1e-5, equal_nan=True)
        assert np.array_equal(after.lag, before[view].lag, equal_nan=True)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_pmap_and_shard_map_embed_with_equal_bits(run_copy, devices):
    found = []
    for how in "pmap", "shard_map":
        embedder = Embedder.load(run_copy)
        train = dataclasses.replace(embedder.config.train, parallel=how, devices=devices)
        network = Network(
            dataclasses.replace(embedder.config, train=train),
            embedder.n_samples,
            weights.of_run(Run(run_copy))[2],
        )
        rng = np.random.default_rng(3)
        rows = {
            "waveform": rng.integers(-9000, 9000, (16, 2, 8000)).astype(np.int16),
            "length": np.full(16, 8000, np.int32),
        }
        views = tuple(v for v in embedder.config.extract.views if not v.learns)
        static = views, embedder.n_samples, 8000
        found.append(list(network.run(extraction.embed, static, network.weights, [(rows, 13)])))
    assert len(views) == 6
    assert len(found[0][0]["embedding"]) == 13
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_an_extraction_stopped_between_machines_ends_in_the_same_bytes(run_copy, monkeypatch):
    files = [*(run_copy / "embeddings").glob("*/*.npz"), *(run_copy / "diagnostics").glob("*.csv")]
    before = {path: path.read_bytes() for path in files}
    for folder in ("embeddings", "diagnostics"):
        shutil.rmtree(run_copy / folder)
    write, written = Run.write_embeddings, []

    def write_once(run, tables):
        if written:
            raise KeyboardInterrupt
        written.append(tables)
        write(run, tables)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "write_embeddings", write_once)
        assert main(["extract", str(run_copy)]) == 130
    assert main(["score", str(run_copy)]) == 1
    assert main(["extract", str(run_copy)]) == 0
    assert {path: path.read_bytes() for path in files} == before


def test_sections_of_mono_files_have_their_own_banks_and_thresholds(corpus, tmp_path):
    for path in sorted((corpus / "fan").glob("*/*.wav")):
        samples, rate = soundfile.read(path, dtype="int16")
        for channel, section in enumerate(("00", "02")):
            to = tmp_path / "data" / "fan" / path.parent.name
            to.mkdir(parents=True, exist_ok=True)
            name = path.name.replace("section_00", f"section_{section}")
            soundfile.write(to / name, samples[:, channel], rate, "PCM_16")
    args = ["--data", str(tmp_path / "data"), "--run", str(tmp_path / "run")]
    assert main(["run", RECIPE, *args, "--dataset.edition", "dcase2022"]) == 0
    run, columns = Run(tmp_path / "run"), scores(tmp_path / "run")
    table = run.read_embeddings("mild", "fan")
    for section in ("00", "02"):
        here = columns["section"] == section
        train, test = (here & (columns["split"] == split) for split in ("train", "test"))
        bank = backends.fit(
            run.config().backend, table.embedding[train], columns["domain"][train] == "target"
        )
        values = columns["score"].astype(float)
        assert np.allclose(values[test], bank.score(table.embedding[test]))
        assert np.allclose(values[train], bank.leave_one_out())
        threshold = np.quantile(values[train], 0.9)
        assert np.allclose(columns["threshold"][here].astype(float), threshold, rtol=1e-12)
    assert len(set(columns["threshold"])) == 2


def test_by_view(run_path, capsys):
    assert main(["evaluate", str(run_path), "--by-view", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert all(f"| {view} |" in table for view in METHODS) and "mean" in table
    assert main(["evaluate", str(run_path), "--by-view", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["views"]) == {*METHODS}


def test_submission_of_a_run_is_verified_and_evaluated(run_path, corpus, tmp_path, capsys):
    out = tmp_path / "package"
    assert main(["submit", str(run_path), "--info", INFO, "--out", str(out)]) == 0
    capsys.readouterr()
    (system,) = (out / "task2").iterdir()
    (archive,) = out.glob("*.zip")
    for place in (out, out / "task2", system, archive):
        assert main(["submit", "--verify", str(place)]) == 0
        assert main(["submit", "--verify", str(place), "--data", str(corpus)]) == 0
        assert "no faults" in capsys.readouterr().out
    meta = yaml.safe_load((system / f"{system.name}.meta.yaml").read_text())
    training = json.loads((run_path / "training.json").read_text())
    assert meta["system"]["complexity"]["total_parameters"] == training["parameters"] > 1000
    metrics = json.loads((run_path / "metrics" / "metrics.json").read_text())
    for machine, figures in meta["results"]["development_dataset"].items():
        official = metrics["machines"][machine]["official"]
        assert figures == {name: round(100 * value, 2) for name, value in official.items()}

    truth = ["--truth", str(corpus / "supplemental")]
    assert main(["evaluate", "--scores", str(system), *truth, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["machines"]) == {"ToothBrush"}
    assert set(document["machines"]["ToothBrush"]["decisions"]) >= {"precision_source", "f1_target"}
    assert main(["evaluate", str(run_path), *truth, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)["machines"]["ToothBrush"]
    for family in ("official", "within", "decisions"):
        theirs = document["machines"]["ToothBrush"][family]
        assert theirs == pytest.approx(own[family], abs=1e-12)

    table = next(system.glob("anomaly_score_fan_*.csv"))
    rows = table.read_text().splitlines()
    table.write_text("\n".join([*rows[:3], *rows[4:]]) + "\n")
    assert main(["submit", "--verify", str(system)]) == 1
    said = capsys.readouterr().out
    assert table.name in said and rows[3].partition(",")[0] in said


def test_comparison(run_path, run_copy, capsys):
    assert main(["score", str(run_copy), "--backend.name", "rescaled"]) == 0
    assert main(["compare", str(run_path), str(run_copy), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "asdjax.compare/1"
    facts = document["official_score"]
    assert facts["difference"] == pytest.approx(facts["a"] - facts["b"], abs=1e-12)
    assert facts["interval"][0] <= facts["difference"] <= facts["interval"][1]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["evaluate", "--scores", "x"], 2, "--truth"),
        (["evaluate", "a", "--scores", "x", "--truth", "y"], 2, "name run directories"),
        (["evaluate", "a", "--resamples", "3"], 2, "resamples"),
        (["submit"], 2, "--verify"),
        (["submit", "nowhere"], 2, "--info"),
        (["submit", "nowhere", "--data", "x"], 2, "--data"),
        (["submit", "--verify", "x", "--out", "y"], 2, "--out"),
        (["submit", "--verify", "nowhere"], 1, "nowhere"),
        (["compare", "nowhere", "nowhere"], 1, "nowhere"),
    ],
)
def test_wrong_use(args, code, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args) == code
    assert words in capsys.readouterr().err


def test_the_report_recipe_has_the_three_views():
    for name in ("system1", "quickstart"):
        recipe = configs.load(name)
        raw, *others = recipe.extract.views
        assert [(v.name, v.method, v.alpha, v.beta) for v in others] == [
            ("mild", "wiener", 0.5, 0.05),
            ("strong", "wiener", 1.0, 0.01),
        ]
        assert raw.method == "raw"
        assert all((v.n_fft, v.hop) == (1024, 512) for v in others)


def test_expected_clips_are_written_next_to_a_package(run_path, tmp_path):
    assert main(["submit", str(run_path), "--info", INFO, "--out", str(tmp_path / "p")]) == 0
    shutil.move(tmp_path / "p" / "task2", tmp_path / "elsewhere")
    _, faults = verification.verify(tmp_path / "elsewhere")
    assert faults  # by the challenge's rules alone, a small corpus has too few clips


def rewrite(run_copy, change):
    recipe = yaml.safe_load((run_copy / "config.yaml").read_text())
    change(recipe["extract"]["views"])
    return recipe


def test_scoring_refuses_embeddings_of_another_recipe(run_copy, corpus, tmp_path):
    recipe = rewrite(run_copy, lambda v: v[1].update(alpha=0.0))
    (tmp_path / "v.yaml").write_text(yaml.safe_dump(recipe))
    assert (
        main(["train", str(tmp_path / "v.yaml"), "--data", str(corpus), "--run", str(run_copy)])
        == 0
    )
    assert main(["score", str(run_copy)]) == 1


def test_a_failed_extraction_leaves_nothing_of_other_data_to_score(run_copy, corpus, tmp_path):
    data = changed(corpus, tmp_path / "data", lambda s: s * np.array([1, 0], np.int16))
    for path in (data / "bearingEmu").glob("*/*.wav"):
        os.utime(path)
    assert main(["extract", str(run_copy), "--data", str(data)]) == 1  # fan cannot be calibrated
    assert main(["score", str(run_copy)]) == 1


def test_other_sound_under_the_same_name_size_and_time(run_copy, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    for path in (tmp_path / "data" / "fan").glob("*/*.wav"):
        stat = path.stat()
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[:, ::-1], rate, "PCM_16")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    before = Run(run_copy).read_embeddings("raw", "fan").embedding
    assert main(["extract", str(run_copy), "--data", str(tmp_path / "data")]) == 0
    assert not np.array_equal(before, Run(run_copy).read_embeddings("raw", "fan").embedding)


def test_missing_diagnostics_are_made_again(run_copy):
    before = (run_copy / "diagnostics" / "fan.csv").read_bytes()
    (run_copy / "diagnostics" / "fan.csv").unlink()
    assert main(["extract", str(run_copy)]) == 0
    assert (run_copy / "diagnostics" / "fan.csv").read_bytes() == before


def test_views_named_as_diagnostics_hide_nothing(run_copy):
    before = (run_copy / "diagnostics" / "fan.csv").read_text().splitlines()[1].split(",")[5:8]

    def rename(views):
        for place, name in (2, "level_db"), (5, "correlation"), (6, "lag_ms"):
            views[place].update(name=name)

    recipe = rewrite(run_copy, rename)
    (run_copy / "config.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["extract", str(run_copy)]) == 0
    after = (run_copy / "diagnostics" / "fan.csv").read_text().splitlines()[1].split(",")[5:8]
    assert after == before


def test_clips_shorter_than_a_window_are_embedded(run_copy, corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "data")
    for path in (tmp_path / "data").glob("*/*/*.wav"):
        samples, rate = soundfile.read(path, dtype="int16")
        soundfile.write(path, samples[:700], rate, "PCM_16")
    assert main(["extract", str(run_copy), "--data", str(tmp_path / "data")]) == 0
    for path in (run_copy / "embeddings").glob("*/fan.npz"):
        with np.load(path) as arrays:
            assert np.isfinite(arrays["embedding"]).all() and len(arrays["embedding"]) > 0


def test_silence_of_both_channels_is_reported(run_copy, corpus, tmp_path, capsys):
    recipe = rewrite(run_copy, lambda v: v.pop(4))
    (run_copy / "config.yaml").write_text(yaml.safe_dump(recipe))
    cut = itertools.count(1)  # silent clips of one length would be copies
    data = changed(corpus, tmp_path / "data", lambda s: 0 * s[: -next(cut)])
    assert main(["extract", str(run_copy), "--data", str(data)]) == 0
    assert "channel 2 is silent in 32 of 32 clips" in capsys.readouterr().err
