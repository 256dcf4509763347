"""Plugins: what a user's file registers, what is refused, and what a run says of it."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

import asdjax
from asdjax import cli
from asdjax.config import recipe, registry
from asdjax.errors import AsdjaxError

THRESHOLD = '''
import dataclasses
import asdjax

@asdjax.register
@dataclasses.dataclass(frozen=True)
class Largest(asdjax.Threshold):
    """Some factor on the largest training score."""

    method: str = "largest"
    factor: float = 1.0
    """Factor on the largest score."""

    def fit(self, scores):
        return self.factor * float(scores.max())

    def sentence(self, scores):
        return f"{self.factor:g} times the largest of the normal training clips' {scores}"
'''


@pytest.fixture(autouse=True)
def restored_registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


@pytest.fixture(scope="module")
def scored_run(corpus_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("plugins") / "run"
    tiny = Path(__file__).with_name("tiny.yaml")
    assert cli.main(["run", str(tiny), "--data", str(corpus_root), "--run", str(path)]) == 0
    return path


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "largest.py"
    path.write_text(THRESHOLD)
    return path


def run(capsys, *args):
    code = cli.main([str(a) for a in args])
    return code, capsys.readouterr()


def refused(capsys, *args):
    code, said = run(capsys, *args)
    assert code == 1 and said.err.count("\n") == 1
    return said.err


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
    assert run(capsys, "evaluate", path, *option)[0] == 0
    # without the plugin the run says which is missing
    registry._ENTRIES.pop(("threshold", "largest"))
    registry.changes += 1
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
            ["check", "system1", "--plugin", str(plugin), "--decision.method=largest", "--help"]
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
    ],
    ids=["empty", "syntax", "method", "default", "taken", "name", "frozen"],
)
def test_refused_plugins(text, words, capsys, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(text)
    err = refused(capsys, "docs", "--plugin", plugin)
    assert str(plugin) in err and words in err
    assert refused(capsys, "docs", "--plugin", plugin) == err  # the second time too


def test_a_plugin_that_is_no_file_of_python(capsys, tmp_path):
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


def test_every_built_in_is_listed_and_there():
    for kind in registry.BUILT_IN:
        for name in registry.BUILT_IN[kind]:
            assert registry.find(kind, name).kind == kind
            assert registry.plugin_of(kind, name) is None
