"""Plugins: what a user's file registers, what is refused, and what a run says of it."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from typing import ClassVar

import numpy as np
import pytest
import yaml
from conftest import TESTS
from support.plugins import forget
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

import asdjax
from asdjax import cli
from asdjax.config import recipe, registry
from asdjax.errors import AsdjaxError

PAGE = (resources.files("asdjax") / "docs" / "plugins.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"## (?:A|An) (\w+).*?```python\n(.*?)```", PAGE, re.DOTALL))
THRESHOLD = EXAMPLES["threshold"]
RECIPE = """extract: {views: [{name: mine, method: subtracted, share: 0.25}]}
model: {name: mean_spectrum, size: 8}
"""
TOGETHER = ("threshold", "backend", "view", "loss", "encoder", "edition")
OPTIONS = (
    "--decision", "largest", "--decision.factor", "0.5",
    "--backend=distance_to_mean", "--backend.power", "2",
    "--loss", "cross_entropy", "--loss.smoothing", "0.1",
    "--dataset.edition", "my_plant",
)  # fmt: skip
SENTENCES = {
    "threshold": "0.5 times the largest",
    "backend": "to the power of 2",
    "view": "channel 1 less 0.25 of channel 2",
    "loss": "cross-entropy",
    "encoder": "linear map, 8 values",
    "pooling": "maximum over the tokens",
}
"""What meta.yaml says."""


pytestmark = pytest.mark.usefixtures("compiled_fast", "plugins_of_the_test")


@pytest.fixture(scope="module")
def scored_run(corpus_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins") / "run"
    recipe = TESTS / "tiny.yaml"
    assert cli.main(["run", str(recipe), "--data", str(corpus_root), "--run", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def plant(corpus_root, tmp_path_factory):
    """The corpus with the machines of the page's edition."""
    root = tmp_path_factory.mktemp("plant")
    for machine, name in {"fan": "fan", "bearingEmu": "pump", "ToothBrush": "mixer"}.items():
        shutil.copytree(corpus_root / machine, root / name)
    return root


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "largest.py"
    path.write_text(THRESHOLD)
    return path


def run(capsys, *args):
    try:
        code = cli.main([str(a) for a in args])
    except SystemExit as end:  # of the parser
        code = end.code
    return code, capsys.readouterr()


def refused(capsys, *args):
    code, said = run(capsys, *args)
    assert code == 1 and said.err.count("\n") == 1
    return said.err


def train_and_submit(capsys, tmp_path, kinds, recipe, data, options):
    """A run and a submission with the page's examples of some kinds; the text of meta.yaml."""
    plugged = []
    for kind in kinds:
        (tmp_path / f"{kind}.py").write_text(EXAMPLES[kind])
        plugged += ["--plugin", tmp_path / f"{kind}.py"]
    path, out = tmp_path / "run", tmp_path / "out"
    args = ["run", recipe, "--data", data, "--run", path, *options]
    assert run(capsys, *args)[0] in (1, 2) and not path.exists()  # without the plugins
    assert run(capsys, *args, *plugged)[0] == 0
    code, said = run(capsys, *args, *plugged)  # a second time
    assert code == 0 and "training has finished" in said.err
    made = ["submit", path, "--info", TESTS / "submission.yaml", "--out", out, *plugged]
    assert run(capsys, *made)[0] == 0
    # each missing plugin is named, and all at once
    forget()
    said = refused(capsys, "score", path)
    assert all(f"{kind}.py" in said for kind in kinds) and "--plugin" in said
    for kind in kinds:
        forget()
        others = [option for k in kinds if k != kind for option in ("--plugin", f"{k}.py")]
        assert f"{kind}.py" in refused(capsys, "score", path, *others)
    return " ".join(next(out.glob("task2/*/*.meta.yaml")).read_text().split())


def test_the_pages_examples_from_training_to_submission(plant, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    tiny = (TESTS / "tiny.yaml").read_text()
    recipe.write_text(tiny[: tiny.index("model:")] + tiny[tiny.index("train:") :] + RECIPE)
    meta = train_and_submit(capsys, tmp_path, TOGETHER, recipe, plant, OPTIONS)
    for kind in set(TOGETHER) - {"edition"}:
        assert SENTENCES[kind] in meta
    edition = "--plugin", "edition.py", "--edition", "my_plant", "--data", plant
    assert run(capsys, "submit", "--verify", "out", *edition)[0] == 0


def test_the_pages_pooling_from_training_to_submission(corpus_root, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    option = "--model.pooling", "maximum"
    recipe = TESTS / "tiny_beats.yaml"
    meta = train_and_submit(capsys, tmp_path, ["pooling"], recipe, corpus_root, option)
    assert SENTENCES["pooling"] in meta


def test_the_pages_examples_are_short():
    assert EXAMPLES.keys() == {*TOGETHER, "pooling"}
    assert all(len(text.splitlines()) < 40 for text in EXAMPLES.values())


def test_score_to_submission_with_a_threshold_of_ones_own(plugin, scored_run, capsys, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(scored_run, path)
    option = "--plugin", plugin
    code, _ = run(capsys, "score", path, *option, "--decision", "largest", "--decision.factor", "2")
    assert code == 0
    facts = json.loads((path / "thresholds.json").read_text())["machines"]
    assert {f["method"] for m in facts.values() for f in m.values()} == {"largest"}
    saved = (path / "config.yaml").read_text()
    assert re.search(r"plugin: largest.py [0-9a-f]{16}\n", saved) and "factor: 2.0" in saved
    assert not (path / "metrics" / "metrics.json").exists()  # of other scores
    assert run(capsys, "evaluate", path, *option)[0] == 0
    # without the plugin the run says which is missing
    forget()
    for verb in "score", "evaluate", "extract":
        err = refused(capsys, verb, path)
        assert "decision.method" in err and "largest.py" in err and "--plugin" in err


def test_scores_of_a_changed_plugin_are_not_current(plugin, scored_run, capsys, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(scored_run, path)
    args = "score", path, "--plugin", plugin, "--decision", "largest"
    assert run(capsys, *args)[0] == 0
    before = (path / "thresholds.json").read_bytes()
    code, said = run(capsys, *args)
    assert code == 0 and "are up to date" in said.err
    plugin.write_text(THRESHOLD.replace("self.factor *", "3 * self.factor *"))
    assert "run asdjax score" in refused(capsys, "evaluate", path, "--plugin", plugin)
    code, said = run(capsys, *args)
    assert code == 0 and "are up to date" not in said.err
    assert (path / "thresholds.json").read_bytes() != before


def test_help_shows_the_settings(plugin, capsys):
    with pytest.raises(SystemExit):
        cli.main(
            ["check", "system1", "--plugin", str(plugin), "--decision.method=largest", "--help-all"]
        )
    shown = capsys.readouterr().out
    assert "--decision.factor" in shown and "Factor on the largest score." in shown
    assert "in_sample,largest}" in shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "registers nothing"),
        ("x = = 1\n", "line 1"),
        (THRESHOLD.replace("def sentence", "def _sentence"), "sentence"),
        (THRESHOLD.replace("factor: float = 1.0", "factor: float"), "default"),
        (THRESHOLD.replace('"largest"', '"quantile"'), "taken"),
        (THRESHOLD.replace('"largest"', '"my largest"'), "letters"),
        (THRESHOLD.replace("(frozen=True)", ""), "frozen"),
        (THRESHOLD.replace("factor: float = 1.0", "plugin: float = 1.0"), "plugin"),
        (EXAMPLES["view"].replace("    share:", "    learns = True\n    share:"), "observe"),
    ],
    ids=[
        "empty",
        "syntax",
        "method",
        "default",
        "taken",
        "name",
        "frozen",
        "reserved",
        "conditional",
    ],
)
def test_refused_plugins(text, words, capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(text)
    err = refused(capsys, "docs", "--plugin", plugin)
    assert str(plugin) in err and words in err
    assert refused(capsys, "docs", "--plugin", plugin) == err  # the second time too


def test_a_plugin_that_is_not_a_python_file(capsys, tmp_path):
    for name in "nothing.py", "plugin.txt", ".":
        assert name in refused(capsys, "docs", "--plugin", tmp_path / name)
    assert run(capsys, "docs", "--plugin")[0] == 2
    assert run(capsys, "docs", "--plugin=https://example.org/x.py")[0] == 2


def test_a_plugin_may_be_named_twice(plugin, capsys):
    assert run(capsys, "docs", "--plugin", plugin, f"--plugin={plugin}")[0] == 0


def test_register_in_a_program():
    @asdjax.register
    @dataclasses.dataclass(frozen=True)
    class Fixed(asdjax.Threshold):
        method: str = "fixed"
        at: float = 0.5

        def fit(self, scores):
            return self.at

        def sentence(self, scores):
            return "fixed"

    config = recipe.from_tree({"decision": {"method": "fixed", "at": 0.25}}, "test")
    assert config.decision == Fixed(at=0.25)
    assert recipe.parse(recipe.dump(config), "test") == config
    with pytest.raises(AsdjaxError, match="decision.at"):
        recipe.from_tree({"decision": {"method": "fixed", "at": "x"}}, "test")


def test_every_built_in_name_can_be_loaded():
    for kind in registry.BUILT_IN:
        for name in registry.BUILT_IN[kind]:
            assert registry.find(kind, name).kind == kind
            assert registry.plugin_of(kind, name) is None


@pytest.mark.parametrize(
    "first", ["from asdjax.scoring.kmeans import KMeans", "asdjax.Edition", "import asdjax.cli"]
)
def test_a_plugin_may_be_the_first_to_import_built_in_classes(first, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"import asdjax\n{first}\n{EXAMPLES['edition']}\n{THRESHOLD}")
    command = [sys.executable, "-m", "asdjax", "data", "--help", "--plugin", str(plugin)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "dcase2026,my_plant" in shown.replace("\n", "").replace(" ", "").replace("│", "")


def test_a_change_within_a_second_is_executed(tmp_path, monkeypatch):
    """Python's cache of compiled modules knows files by their size and second of change."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugin = tmp_path / "mine.py"
    for factor in "123":
        plugin.write_text(THRESHOLD.replace("self.factor *", f"{factor} *"))
        os.utime(plugin, (1e9, 1e9))
        registry.load_plugin(plugin)
        assert registry.find("threshold", "largest")().fit(np.ones(3)) == float(factor)
    assert list(tmp_path.iterdir()) == [plugin]


@pytest.mark.parametrize(
    "setting",
    [
        "x: list = dataclasses.field(default_factory=list)", "x: NoSuchType = 1", "x: object = 3",
        "x: float = float('nan')", "x: int = 'text'", "x: bytes = b'x'", "x: tuple[int] = (1.5,)",
        "x: set = frozenset()", "x: int = dataclasses.field(default=1, init=False)",
    ],
)  # fmt: skip
def test_settings_that_no_recipe_can_hold(setting, capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        THRESHOLD.replace("factor: float = 1.0", f"factor: float = 1.0\n    {setting}")
    )
    err = refused(capsys, "docs", "--plugin", plugin)
    assert str(plugin) in err and "x" in err


@pytest.mark.parametrize(
    "setting",
    ["x: int | None = None", "x: tuple[int, ...] = (1, 2)", "x: str = 'ä'", "x: bool = True"],
)
def test_settings_that_a_recipe_can_hold(setting, capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        THRESHOLD.replace("factor: float = 1.0", f"factor: float = 1.0\n    {setting}")
    )
    assert run(capsys, "docs", "--plugin", plugin)[0] == 0


def test_a_plugin_that_ends_the_process_is_refused(capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text("import sys\nsys.exit(0)\n")
    assert "line 2" in refused(capsys, "docs", "--plugin", plugin)


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("backend", ".astype(np.float64) **", ".sum() **", "distance_to_mean"),
        ("backend", ".astype(np.float64) **", ".astype(np.complex128) **", "distance_to_mean"),
        ("backend", ".astype(np.float64) **", "* np.nan **", "distance_to_mean"),
        ("threshold", "scores.max()", "scores[:1]", "largest"),
        ("threshold", "scores.max()", "float('nan')", "largest"),
    ],
)
def test_results_of_another_shape_or_type(kind, old, new, words, scored_run, capsys, tmp_path):
    path, plugin = tmp_path / "run", tmp_path / "mine.py"
    shutil.copytree(scored_run, path)
    before = (path / "config.yaml").read_bytes()
    assert old in EXAMPLES[kind]
    plugin.write_text(EXAMPLES[kind].replace(old, new))
    args = ["score", path, "--plugin", plugin, *OPTIONS[:2], OPTIONS[4]]
    chosen = args[:4] + (args[4:6] if kind == "threshold" else args[6:])
    assert words in refused(capsys, *chosen)
    assert (path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("defect", "words"),
    [("undefined", "NameError"), ("__import__('sys').exit(0)", "SystemExit"), ("1 // 0", "zero")],
)
def test_a_defect_of_a_plugin_is_one_sentence(defect, words, scored_run, capsys, tmp_path):
    path, plugin = tmp_path / "run", tmp_path / "mine.py"
    shutil.copytree(scored_run, path)
    before = (path / "config.yaml").read_bytes()
    plugin.write_text(THRESHOLD.replace("scores.max()", defect))
    line = 1 + next(i for i, text in enumerate(plugin.read_text().splitlines()) if defect in text)
    err = refused(capsys, "score", path, "--plugin", plugin, "--decision", "largest")
    assert str(plugin) in err and f"line {line}: " in err and words in err
    assert (path / "config.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("encoder", "self.embedding_size = size", "pass"),
        ("encoder", "self.embedding_size = size", "self.embedding_size = size + 1"),
        ("encoder", "return MeanSpectrumModule(self.size, rng)", "return None"),
        ("encoder", "return MeanSpectrumModule(self.size, rng)", "return Linear"),
        ("encoder", "+ 1e-6))", "+ 1e-6))[0]"),
        ("encoder", "+ 1e-6))", "+ 1e-6)).astype(jnp.bfloat16)"),
        ("loss", "log_probabilities, stats", "log_probabilities"),
        ("loss", "log_probabilities, stats", "log_probabilities, {'new': target}"),
        ("loss", "log_probabilities, stats", "target[0], stats"),
        ("loss", ".astype(float)}, {}", ".astype(float)}"),
    ],
)
def test_results_in_training_that_are_not_as_documented(
    kind, old, new, corpus_root, capsys, tmp_path
):
    plugin = tmp_path / "mine.py"
    assert old in EXAMPLES[kind]
    plugin.write_text(EXAMPLES[kind].replace(old, new))
    name = {"encoder": "mean_spectrum", "loss": "cross_entropy"}[kind]
    section = {"encoder": "model", "loss": "loss"}[kind]
    recipe = tmp_path / "recipe.yaml"
    tiny = (TESTS / "tiny.yaml").read_text()
    if kind == "encoder":
        tiny = tiny[: tiny.index("model:")] + tiny[tiny.index("train:") :]
    recipe.write_text(tiny)
    code, said = run(
        capsys, "check", recipe, "--data", corpus_root, "--plugin", plugin, f"--{section}", name
    )
    last = said.err.splitlines()[-1]
    assert code == 1 and "Traceback" not in said.err
    assert name in last or "MeanSpectrumModule" in last or str(plugin) in last


@pytest.mark.parametrize(
    "new", ["clips.near", "None", "clips.near, clips.near", "clips.near[:1], None"]
)
def test_results_of_a_view_that_are_not_as_documented(
    new, scored_run, corpus_root, capsys, tmp_path
):
    path, plugin = tmp_path / "run", tmp_path / "mine.py"
    shutil.copytree(scored_run, path)
    old = "clips.near - self.share * clips.far, None"
    assert old in EXAMPLES["view"]
    plugin.write_text(EXAMPLES["view"].replace(old, new))
    config = path / "config.yaml"
    saved = yaml.safe_load(config.read_text())
    saved["extract"]["views"] = [{"name": "mine", "method": "subtracted"}]
    config.write_text(yaml.safe_dump(saved))
    err = refused(capsys, "extract", path, "--plugin", plugin)
    assert "view mine (subtracted)" in err and "gain [B] or None" in err


@pytest.mark.parametrize("new", ["None", "FittedMean", "self"])
def test_a_backend_that_returns_no_fitted_one(new, scored_run, capsys, tmp_path):
    path, plugin = tmp_path / "run", tmp_path / "mine.py"
    shutil.copytree(scored_run, path)
    old = "return FittedMean(self, points, is_target)"
    assert old in EXAMPLES["backend"]
    plugin.write_text(EXAMPLES["backend"].replace(old, f"return {new}"))
    args = "--plugin", plugin, "--backend", "distance_to_mean"
    assert "extends asdjax.scoring.backends.Fitted" in refused(capsys, "score", path, *args)


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("threshold", "def fit(self, scores)", "def fit(self)"),
        ("threshold", "def sentence(self, scores)", "def sentence(self)"),
        ("backend", "def fitted(self, points, is_target)", "def fitted(self, points)"),
        ("view", "def make(self, clips, learned)", "def make(self, clips)"),
        ("view", "def sentence(self, channel)", "def sentence(self, channel, more)"),
        ("loss", "train, axis_name=None", "train"),
        ("encoder", "def build(self, n_samples, sample_rate, rng)", "def build(self, rng)"),
        ("encoder", "def sentences(self)", "def sentences()"),
        ("pooling", "def build(self, features, hidden, rng, bands)", "def build(self, features)"),
    ],
)
def test_methods_with_other_arguments_are_refused_when_loaded(kind, old, new, capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    assert old in EXAMPLES[kind]
    plugin.write_text(EXAMPLES[kind].replace(old, new))
    err = refused(capsys, "docs", "--plugin", plugin)
    assert str(plugin) in err and "it must take (" in err


def test_a_method_that_is_none_is_refused_when_loaded(capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    text = EXAMPLES["threshold"]
    start = text.index("    def fit(")
    plugin.write_text(text[:start] + "    fit = 3\n\n" + text[text.index("    def sentence(") :])
    assert "fit is not a method" in refused(capsys, "docs", "--plugin", plugin)


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("threshold", "return f", "return 1 or f", "sentence returns 1"),
        ("backend", "return f", "return '' or None and f", "sentence returns None"),
        ("loss", 'return "cross-entropy"', "return 3", "sentence returns 3"),
        ("encoder", 'return "log mean power spectrum",', "return", "return 3 texts"),
        ("backend", "def score_points(self, points)", "def score_points(self)", "score_points("),
        ("encoder", "*, train=False, axis_name=None", "*, train=False", "__call__("),
        (
            "encoder",
            "self.embedding_size = size",
            "self.embedding_size, self.norm = size, nnx.BatchNorm(size, rngs=nnx.Rngs(0))",
            "norm is an nnx.BatchNorm without axis_name",
        ),
    ],
)
def test_faults_that_are_found_before_training(
    kind, old, new, words, corpus_root, capsys, tmp_path
):
    plugin, chosen = tmp_path / "mine.py", {"threshold": "decision", "encoder": "model"}
    names = {
        "threshold": "largest", "backend": "distance_to_mean",
        "loss": "cross_entropy", "encoder": "mean_spectrum",
    }  # fmt: skip
    assert old in EXAMPLES[kind]
    plugin.write_text(EXAMPLES[kind].replace(old, new))
    recipe = tmp_path / "recipe.yaml"  # without settings of another encoder
    recipe.write_text("audio: {clip_seconds: 0.4}\ntrain: {epochs: 1, batch_size: 16}\n")
    run = tmp_path / "run"
    args = ["run", recipe, "--data", corpus_root, "--run", run, "--plugin", plugin]
    assert words in refused(capsys, *args, f"--{chosen.get(kind, kind)}", names[kind])
    assert not (run / "training.json").exists()


LEARNING = """    learns = True

    def observe(self, clips):
        rows = clips.near[..., None]
        return {}, clips.near > 0

    def learned(self, rows):
        return {}

    share:"""


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"),
    [
        ("encoder", "+ 1e-6))", "+ 1e-6))[: None if train else 1]", "MeanSpectrumModule"),
        (
            "encoder",
            "+ 1e-6))",
            "+ 1e-6)).astype(waveform.dtype if train else int)",
            "returns int32",
        ),
        (
            "loss",
            "log_probabilities, stats",
            "log_probabilities[: None if train else 1], stats",
            "apply",
        ),
        ("view", "clips.far, None", "clips.far", "view mine (subtracted)"),
        ("view", "clips.far, None", "clips.far[0].sum(), 1", "view mine (subtracted)"),
        (
            "view",
            "    share:",
            LEARNING.format("clips.near", "rows"),
            "(subtracted): observe returns",
        ),
        (
            "view",
            "    share:",
            LEARNING.format("rows", "1.0"),
            "(subtracted): learned returns float",
        ),
    ],
)
def test_results_after_training_are_checked_before(
    kind, old, new, words, corpus_root, capsys, tmp_path
):
    plugin, run = tmp_path / "mine.py", tmp_path / "run"
    assert old in EXAMPLES[kind]
    plugin.write_text(EXAMPLES[kind].replace(old, new))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "audio: {clip_seconds: 0.4}\ntrain: {epochs: 1, batch_size: 16, validation: 0.2}\n"
        + {
            "encoder": "model: {name: mean_spectrum}\n",
            "view": (TESTS / "tiny.yaml").read_text().split("train:")[0].split("0.4\n")[1]
            + "extract: {views: [{name: mine, method: subtracted}]}\n",
            "loss": (TESTS / "tiny.yaml").read_text().split("train:")[0].split("0.4\n")[1]
            + "loss: {name: cross_entropy}\n",
        }[kind]
    )
    args = [recipe, "--data", corpus_root, "--plugin", plugin]
    assert words in refused(capsys, "check", *args)
    assert words in refused(capsys, "train", *args, "--run", run)
    assert not list(run.glob("log.jsonl")) and not list(run.glob("checkpoints"))


def test_batch_normalisation_over_all_devices_is_accepted(corpus_root, capsys, tmp_path):
    old, plugin = "self.embedding_size = size", tmp_path / "mine.py"
    norm = "nnx.BatchNorm(size, axis_name='clips', rngs=nnx.Rngs(0))"
    text = EXAMPLES["encoder"].replace(old, f"{old}\n        self.norm = {norm}")
    old = "return self.linear(jnp.log(jnp.mean(power, axis=1) + 1e-6))"
    assert old in text
    new = f"y = {old.removeprefix('return ')}"
    new += "\n        return self.norm(y, use_running_average=not train)"
    plugin.write_text(text.replace(old, new))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("audio: {clip_seconds: 0.4}\ntrain: {epochs: 1, batch_size: 16}\n")
    args = ["--plugin", plugin, "--model", "mean_spectrum"]
    first = []
    for devices in "1", "8":
        run_path = tmp_path / devices
        code, said = run(
            capsys, "train", recipe, "--data", corpus_root, "--run", run_path,
            "--train.devices", devices, *args,
        )  # fmt: skip
        assert code == 0, said.err
        first.append(json.loads((run_path / "log.jsonl").read_text().splitlines()[0])["loss"])
    assert first[1] == pytest.approx(first[0], rel=1e-6)


def test_asdkit_has_no_loss_of_a_plugin(corpus_root, capsys, tmp_path):
    path, plugin = tmp_path / "run", tmp_path / "mine.py"
    plugin.write_text(EXAMPLES["loss"])
    option = "--plugin", plugin
    args = ["train", TESTS / "tiny.yaml", "--data", corpus_root, "--run", path, *option]
    assert run(capsys, *args, "--loss", "cross_entropy")[0] == 0
    assert "'kernel'" in refused(capsys, "convert", "torch", path, tmp_path / "out.npz", *option)


def test_a_plugin_with_nul_bytes(capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_bytes(b"import asdjax\0\n")
    assert "None" not in refused(capsys, "docs", "--plugin", plugin)


@pytest.mark.parametrize("thing", [42, None, "x", int, asdjax.Threshold, asdjax.DataError])
def test_what_cannot_be_registered(thing):
    with pytest.raises(AsdjaxError, match="give a class|Threshold"):
        asdjax.register(thing)


def test_an_instance_is_not_registered():
    quantile = registry.find("threshold", "quantile")
    with pytest.raises(AsdjaxError, match="give a class"):
        asdjax.register(quantile())


def test_a_class_without_the_setting_that_names_it():
    @dataclasses.dataclass(frozen=True)
    class Nameless(registry.find("threshold", "quantile")):
        method: ClassVar[str] = "nameless"

    with pytest.raises(AsdjaxError, match="no setting .method."):
        asdjax.register(Nameless)


def test_an_encoder_with_pretrained_weights_needs_their_methods(capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    feature = "    @property\n    def weights_folder(self):\n        return 'w'\n"
    text = EXAMPLES["encoder"].replace("    def build(", f"{feature}\n    def build(", 1)
    plugin.write_text(text)
    assert "pretrained" in refused(capsys, "docs", "--plugin", plugin)
    plugin.write_text(
        EXAMPLES["encoder"].replace("    name: str", "    has_tokens = True\n    name: str")
    )
    assert "row_length" in refused(capsys, "docs", "--plugin", plugin)


def test_a_plugin_under_two_paths(plugin, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.py").symlink_to(plugin)
    for other in plugin.name, f"../{tmp_path.name}/{plugin.name}", "link.py":
        assert run(capsys, "docs", "--plugin", plugin, "--plugin", other)[0] == 0


def test_a_run_whose_plugin_for_scoring_is_lost(plugin, corpus_root, capsys, tmp_path):
    path = tmp_path / "run"
    args = ["run", TESTS / "tiny.yaml", "--data", corpus_root, "--run", path]
    assert run(capsys, *args, "--plugin", plugin, "--decision", "largest")[0] == 0
    forget()
    assert "name another one" in refused(capsys, "score", path)
    before = (path / "config.yaml").read_bytes()
    assert run(capsys, *args)[0] == 0  # with the recipe's own threshold
    assert "quantile" in (path / "config.yaml").read_text()
    (path / "config.yaml").write_bytes(before)
    config = path / "config.yaml"
    saved = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**saved, "decision": "quantile"}))
    for verb in "score", "evaluate":
        assert run(capsys, verb, path)[0] == 0


def test_settings_of_another_version_of_a_plugin(plugin, scored_run, capsys, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(scored_run, path)
    assert run(capsys, "score", path, "--plugin", plugin, "--decision", "largest")[0] == 0
    plugin.write_text(THRESHOLD.replace("factor", "times"))
    err = refused(capsys, "score", path, "--plugin", plugin)
    assert "decision.factor" in err and err.count("largest.py") == 2


def test_the_digest_of_a_changed_plugin_is_stored(plugin, scored_run, capsys, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(scored_run, path)
    args = "score", path, "--plugin", plugin
    assert run(capsys, *args, "--decision", "largest")[0] == 0
    for text in THRESHOLD, f"{THRESHOLD}\n# changed\n":
        plugin.write_text(text)
        assert run(capsys, *args)[0] == 0
        digest = hashlib.sha256(plugin.read_bytes()).hexdigest()[:16]
        assert f"plugin: largest.py {digest}\n" in (path / "config.yaml").read_text()
