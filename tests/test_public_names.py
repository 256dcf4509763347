"""What `import asdjax` offers: every name has an example, and every example runs."""

import dataclasses
import doctest
import inspect
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TESTS
from support.converted_beats import SMALL
from support.machines import folder
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

import asdjax
from asdjax.cli import main
from asdjax.config.schema import to_tree
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.store import converted_weights
from asdjax.store.checkpoint import digest, save_weights

NAMES = [name for name in asdjax.__all__ if name != "__version__"]
PLUGIN = """
import dataclasses, asdjax

@asdjax.register
@dataclasses.dataclass(frozen=True)
class Half(asdjax.Threshold):
    method: str = "half"
    def fit(self, scores):
        return float(scores.max() / 2)
    def sentence(self, scores):
        return "half of the largest"
"""


def test_the_names_are_listed_first():
    listed = asdjax.__doc__.split("\n\n")[1]
    words = set(re.findall(r"\w+", listed))
    assert words & {*dir(asdjax)} == {*NAMES} and "__path__" not in dir(asdjax)


@pytest.fixture(scope="module")
def place(tmp_path_factory, corpus_root):
    """A folder with what the examples name: recordings, a run, weights, a detector, a plugin."""
    root = tmp_path_factory.mktemp("examples")
    folder(root / "normal", range(12))
    (folder(root, range(100, 101))[0]).rename(root / "today.wav")
    asdjax.Detector().fit([root / "normal"]).save(root / "pump.asd")
    (root / "mine.py").write_text(PLUGIN)
    recipe = ["train", str(TESTS / "tiny.yaml"), "--data", str(corpus_root)]
    assert main([*recipe, "--run", str(root / "runs" / "seed0"), "--train.epochs", "1"]) == 0
    model = BEATsConfig(encoder=SMALL, random_init=True)
    _, params, _ = parameters.split(building.build(model, 16000, 16000, seed=0))
    weights = jax.tree.map(np.asarray, {"encoder": params["encoder"]})
    folder_of_weights = root / "weights" / "beats"
    folder_of_weights.mkdir(parents=True)
    save_weights(folder_of_weights / converted_weights.WEIGHTS, weights)
    document = {
        "schema": converted_weights.SCHEMA,
        "digest": digest(weights),
        "encoder": to_tree(SMALL),
    }
    converted_weights.write_description(folder_of_weights / converted_weights.DOCUMENT, document)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_every_name_runs(name, place, monkeypatch, plugins_of_the_test):
    monkeypatch.chdir(place)
    thing = getattr(asdjax, name)
    names = {"asdjax": asdjax, "np": np, "Path": Path, "dataclasses": dataclasses}
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=options)
    example = parser.get_doctest(inspect.getdoc(thing), names, name, None, 0)
    assert example.examples, "no example"
    report: list[str] = []
    runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)


def test_help_lists_the_public_names_alone():
    assert sorted(asdjax.__all__) == dir(asdjax)
    assert all(inspect.getdoc(getattr(asdjax, name)) for name in NAMES)
    with pytest.raises(AttributeError):
        _ = asdjax.sources
