"""Configurations: strict reading, overrides, round trip."""

import dataclasses

import pytest

from asdjax import config as configs
from asdjax.errors import AsdjaxError


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
        ("a: [", ["not valid YAML"]),
    ],
)
def test_refusals_name_file_key_and_choices(text, words):
    with pytest.raises(AsdjaxError) as refusal:
        configs.parse(text, "recipe.yaml")
    message = str(refusal.value)
    assert "\n" not in message
    for word in ["recipe.yaml", *words]:
        assert word in message


def test_numbers_in_yaml_shorthand():
    assert configs.parse("optim: {learning_rate: 1e-4}", "x").optim.learning_rate == 1e-4
    assert configs.parse("audio: {clip_seconds: 6}", "x").audio.clip_seconds == 6.0
    assert configs.parse("", "x") == configs.Config()


def test_unknown_recipe_and_unreadable_file(tmp_path):
    with pytest.raises(AsdjaxError, match="system1"):
        configs.load("system9")
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AsdjaxError, match="x.yaml"):
        configs.load(str(binary))


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
