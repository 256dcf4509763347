"""Configurations: strict reading, overrides, round trip."""

import dataclasses
import os
import re
import socket
from pathlib import Path

import pytest
from conftest import TESTS

from asdjax.challenge import meta_yaml
from asdjax.config import recipe as configs
from asdjax.config import registry, schema
from asdjax.errors import AsdjaxError

INFO = TESTS / "submission.yaml"


@pytest.mark.parametrize("name", configs.names())
def test_recipes_load_and_round_trip(name):
    config = configs.load(name)
    assert configs.parse(configs.dump(config), "again") == config


def test_system1_is_the_report():
    config = configs.load("system1")
    assert (config.train.epochs, config.train.batch_size, config.train.drop_last) == (16, 64, False)
    assert (config.optim.learning_rate, config.optim.weight_decay) == (1e-3, 0.01)
    assert (config.optim.betas, config.optim.eps, config.optim.warmup_steps) == (
        (0.9, 0.999), 1e-8, 0,
    )  # fmt: skip
    assert (config.audio.clip_seconds, config.audio.channel) == (12.0, "near")
    assert (config.loss.name, config.loss.sub_clusters, config.loss.dynamic) == (
        "sub_cluster_adacos", 16, False,
    )  # fmt: skip
    assert config.augment.mixup.probability == 0.5
    assert (config.backend.smote.ratio, config.backend.smote.neighbours) == (0.1, 2)
    assert [(s.n_fft, s.hop) for s in config.model.spectrograms] == [
        (256, 128), (1024, 512), (4096, 2048),
    ]  # fmt: skip


def test_settings_of_other_backends_are_ignored():
    """The config.yaml of a run of an earlier version has the settings of all backends."""
    backend = configs.parse(
        "backend: {name: kmeans, smote: {ratio: 0.3}, rescale_neighbours: 3, kmeans_clusters: 4}",
        "x",
    ).backend
    assert schema.to_tree(backend) == {
        "name": "kmeans", "metric": "cosine", "target_neighbours": 1, "combine_views": "mean",
        "bands": "each", "part": None, "folds": 10, "kmeans_clusters": 4, "kmeans_seed": 0,
    }  # fmt: skip


def test_quickstart_is_system1_but_for_epochs_and_length():
    sections = tuple(configs.to_tree(configs.Config()))
    changed = configs.differences(configs.load("system1"), configs.load("quickstart"), sections)
    assert [line.split(":")[0] for line in changed] == ["audio.clip_seconds", "train.epochs"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim: {learning_rat: 1}", ["optim.learning_rat", "did you mean 'learning_rate'"]),
        ("optim: {learning_rate: fast}", ["optim.learning_rate", "a number", "'fast'"]),
        ("optim: {learning_rate: 0}", ["optim.learning_rate", "above 0"]),
        ("optim: {learning_rate: .nan}", ["optim.learning_rate", "a number"]),
        ("optim: {betas: [0.9]}", ["optim.betas", "2 values"]),
        ("optim: {betas: [0.9, 1]}", ["optim.betas", "below 1"]),
        ("train: {epochs: 1.5}", ["train.epochs", "a whole number", "1.5"]),
        ("train: {epochs: true}", ["train.epochs", "a whole number"]),
        ("train: {epochs: 0}", ["train.epochs", "at least 1"]),
        ("train: {log_every: 9}", ["train.log_every", "at most 8"]),
        ("train: 3", ["train", "keys and values"]),
        ("loss: {name: cosface}", ["loss.name", "adacos", "arcface"]),
        ("loss: {name: arcface, dynamic: true}", ["loss.dynamic"]),
        ("audio: {clip_seconds: longest}", ["audio.clip_seconds", "auto"]),
        ("audio: {clip_seconds: -1}", ["audio.clip_seconds", "above 0"]),
        ("dataset: {skip: [broken]}", ["dataset.skip[0]", "truncated"]),
        ("dataset: {skip: truncated}", ["dataset.skip", "a list"]),
        ("model: {spectrograms: [{n_fft: 256}]}", ["model.spectrograms[0]", "hop"]),
        ("model: {spectrograms: [{n_fft: 256, hop: 0}]}", ["model.spectrograms[0].hop"]),
        ("model: {fft_branch: false, spectrograms: []}", ["model.spectrograms"]),
        ("model: {high_hz: 9000}", ["high_hz"]),
        ("extract: {views: []}", ["extract.views"]),
        ("extract: {views: [raw]}", ["extract.views[0]", "keys and values"]),
        ("extract: {views: [{name: a, method: raw}, {name: a, method: far}]}", ["twice"]),
        ("extract: {views: [{name: a, method: weiner}]}", ["extract.views[0].method", "wiener"]),
        ("extract: {views: [{method: far}]}", ["extract.views[0].name", "missing"]),
        ("extract: {views: [{name: a}]}", ["extract.views[0].method", "missing"]),
        ("extract: {views: [{name: a, method: far, beat: 1}]}", ["extract.views[0].beat"]),
        ("extract: {views: [{name: a, method: cancel, hop: 0}]}", ["extract.views[0].hop"]),
        ("extract: {views: [{name: a, method: calibrated, hop: 513}]}", ["views[0].hop", "half"]),
        ("extract: {views: [{name: a, method: wiener, beta: 1.5}]}", ["extract.views[0].beta"]),
        ("extract: {views: [{name: a, method: wiener, hop: 600}]}", ["extract.views[0].hop"]),
        ("extract: {views: [{name: ../a, method: far}]}", ["extract.views[0].name", "letters"]),
        ("extract: {views: [{name: score, method: far}]}", ["extract.views[0].name", "path"]),
        (
            "audio: {channel: far}\nextract: {views: [{name: a, method: cancel}]}",
            ["extract.views[0].method", "audio.channel"],
        ),
        ("decision: {method: otsu}", ["decision.method", "conformal"]),
        ("decision: {level: 1.0}", ["decision.level"]),
        ("seed: 1\nseed: 2", ["seed", "twice"]),
        ("[1, 2]", ["keys and values"]),
        ("a: [", ["not valid YAML", "line 1, column 5"]),
        ("seed: 010", ["line 1, column 7", "8 or 10"]),
        ("seed: 1_0", ["line 1, column 7", "'1_0'"]),
        ("seed: 08", ["seed", "a whole number", "'08'"]),
        ("seed: 2001-99-99", ["seed", "a whole number", "'2001-99-99'"]),
        ("seed: !!int abc", ["line 1", "!!int"]),
        ("seed: -1", ["seed", "at least 0", "at most 2147483647"]),
        ("train: {epochs: 2000000}", ["train.epochs", "at most 1048576"]),
        ("audio: {read_threads: " + "9" * 99 + "}", ["audio.read_threads", "more than 80 digits"]),
        ("optim: {eps: .inf}", ["optim.eps", "a number", "inf"]),
        ("optim: {eps: '1_0'}", ["optim.eps", "a number", "'1_0'"]),
        ("optim: {eps: ' 1'}", ["optim.eps", "a number", "' 1'"]),
        ("optim: {betas: [0.9, " + "0.1, " * 9000 + "]}", ["optim.betas", "2 values, found 9001"]),
        ("loss: {scale: 1e999}", ["loss.scale", "'1e999'"]),
        ("dataset: {label: no}", ["dataset.label", "found False", "in quotes"]),
        ("model: {name: beats, weights: off}", ["model.weights", "found False", "in quotes"]),
        ("model: {name: beats, encoder: {layer_norm_first: 0}}", ["layer_norm_first", "found 0"]),
        ("model: {name: [a]}", ["model.name", "multiresnet, beats", "['a']"]),
        ("model: {name: no}", ["model.name", "found False"]),
        ("model: {weights: folder}", ["unknown key 'model.weights'"]),
        ("model: {name: beats, high_hz: 4000}", ["unknown key 'model.high_hz'"]),
        ("model: {name: beats, pooling: mien}", ["model.pooling", "mean", "'mien'"]),
        ("no: 1", ["unknown key 'False'"]),
        ("~: 1", ["unknown key 'None'"]),
        ("train: {1.5: 1}", ["unknown key 'train.1.5'"]),
        ("? " + "k" * 50000 + "\n: 1", ["unknown key 'kkk", "(50,000 characters)"]),
        ("seed: " + "x" * 50000, ["seed", "'xxx", "characters)"]),
        ("train: [" + "x, " * 20000 + "]", ["train", "found ['x', 'x'", "...]"]),
        ("extract: {views: [{name: " + "v" * 50000 + ", method: far}]}", ["views[0].name", "vvv"]),
    ],
)
def test_refusals_name_file_key_and_choices(text, words):
    with pytest.raises(AsdjaxError) as refusal:
        configs.parse(text, "recipe.yaml")
    message = str(refusal.value)
    assert "\n" not in message and len(message) < 500
    for word in ["recipe.yaml", *words]:
        assert word in message


def test_settings_of_other_views_are_ignored():
    every = "alpha: 0.5, beta: 0.05, n_fft: 512, hop: 256, context: 5"
    for method in registry.names("view"):
        config = configs.parse(f"extract: {{views: [{{name: a, method: {method}, {every}}}]}}", "x")
        (view,) = config.extract.views
        assert type(view) is registry.find("view", method) and view.name == "a"
        values = {"alpha": 0.5, "beta": 0.05, "n_fft": 512, "hop": 256, "context": 5}
        for field in dataclasses.fields(view)[2:]:
            assert getattr(view, field.name) == values[field.name]
        assert configs.parse(configs.dump(config), "x") == config


def test_numbers_in_yaml_shorthand():
    assert configs.parse("optim: {learning_rate: 1e-4}", "x").optim.learning_rate == 1e-4
    assert configs.parse("audio: {clip_seconds: 6}", "x").audio.clip_seconds == 6.0
    assert configs.parse("", "x") == configs.Config()


def test_numbers_in_messages_have_all_their_digits():
    assert str(schema.Range(low=1, high=2**20)) == "at least 1 and at most 1048576"
    assert str(schema.Range(low=0, high=2**31 - 1)) == "at least 0 and at most 2147483647"
    assert str(schema.Range(low=1e-5, high=0.9999, above=True)) == "above 1e-05 and at most 0.9999"
    assert str(schema.Range(low=-60.0, high=1234567.5)) == "at least -60 and at most 1234567.5"


def test_whole_numbers_that_no_float_holds():
    huge = 10**400
    with pytest.raises(AsdjaxError, match="x: seed: must be .* found a number of more than 80 dig"):
        configs.validate(dataclasses.replace(configs.Config(), seed=huge), "x")
    with pytest.raises(AsdjaxError, match=r"x: optim\.eps: expected a number"):
        configs.from_tree({"optim": {"eps": huge}}, "x")


def test_a_value_of_many_levels():
    tree = []
    for _ in range(100000):
        tree = [tree]
    for key in ("seed", "train"):
        with pytest.raises(AsdjaxError, match=rf"^x: {key}: expected .* found \[\[\[") as refusal:
            configs.from_tree({key: tree}, "x")
        assert len(str(refusal.value)) < 200
    while tree:  # freed level by level
        tree = tree.pop()


def test_unknown_recipe():
    for name in ("system9", "absent/system1.yaml"):
        with pytest.raises(
            AsdjaxError, match=f"^no recipe or file '{name}': .*quickstart, system1"
        ):
            configs.load(name)


def unreadable(folder):
    """Paths that cannot be read as YAML files, with the message of each."""
    (folder / "directory").mkdir()
    (folder / "text").write_text("a: 1")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return {
        "directory": "is a directory: name a regular file",
        "binary": "not UTF-8 text",
        "loop": "cannot be read (Too many levels of symbolic links)",
        "fifo": "is a FIFO: name a regular file",
        "socket": "is a socket: name a regular file",
        "text/below": "cannot be read (Not a directory)",
        "x" * 300: "cannot be read (File name too long)",
        "nul\0": "cannot be read (",
    }


def test_unreadable_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    for name, words in unreadable(tmp_path.relative_to(tmp_path)).items():
        for read in (configs.load, lambda path: meta_yaml.read_info(Path(path), 1)):
            with pytest.raises(AsdjaxError, match=re.escape(f"{name}: {words}")):
                read(name)
    with pytest.raises(AsdjaxError, match=r"^absent\.yaml: cannot be read \(No such file or dir"):
        meta_yaml.read_info(Path("absent.yaml"), 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("institute: ", "institute: no #", "institute: expected text, found False (put a text"),
        ("institute: ", "institute: 010 #", "write 8 or 10"),
        ("institute: ", "institute: " + "a" * 65 + " #", "at most 64"),
        ("authors:", "x: &a [*a]\nauthors:", "*a "),
        ("authors:", "[a]: 1\nauthors:", "as a key"),
        ("authors:", "a: b: c\nauthors:", "not valid YAML: a colon"),
    ],
)
def test_faults_of_info(tmp_path, old, new, words):
    text = INFO.read_text()
    assert text.count(old) == 1
    file = tmp_path / "info.yaml"
    file.write_text(text.replace(old, new))
    with pytest.raises(AsdjaxError, match=re.escape(words)) as error:
        meta_yaml.read_info(file, 1)
    assert str(error.value).startswith(f"{file}: ")


def test_meta_yaml_rounds_no_number():
    config = configs.parse(
        "dataset: {edition: dcase2026}\n"
        "augment: {mixup: {probability: 0.12345678}}\n"
        "audio: {sample_rate: 1048575}\n"
        "model: {high_hz: 123456.75}",
        "x",
    )
    said = meta_yaml.describe(config, ["fan/00"])
    assert "0.12345678" in said["data_augmentation"]
    assert said["input_sampling_rate"] == "1048.575 kHz"
    assert "200 to 123456.75 Hz" in said["acoustic_features"]


def test_differences_ignore_how_a_run_is_carried_out():
    old = configs.Config()
    new = dataclasses.replace(
        old,
        seed=1,
        train=dataclasses.replace(old.train, devices=2, epochs=3),
        model=dataclasses.replace(old.model, spectrograms=old.model.spectrograms[:1]),
    )
    lines = configs.differences(old, new, ("seed", "train", "model"))
    assert len(lines) == 3 and lines[:2] == ["seed: 0 -> 1", "train.epochs: 16 -> 3"]
    assert configs.differences(old, new, ("audio",)) == []
