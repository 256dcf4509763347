"""Recipes that extend others: what is inherited, what is replaced, and what is refused."""

import subprocess
import sys

import pytest

from asdjax.config import recipe as configs
from asdjax.config import recipe_files, schema
from asdjax.errors import AsdjaxError
from asdjax.store.runs import Run

WRITTEN_OUT = {  # the installed recipes that extend another one, without `extends`
    "quickstart": """
audio: {clip_seconds: 4.48}
train: {epochs: 4}
extract:
  views:
    - {name: raw, method: raw}
    - {name: mild, method: wiener, alpha: 0.5, beta: 0.05}
    - {name: strong, method: wiener, alpha: 1.0, beta: 0.01}
""",
    "system3": """
audio: {clip_seconds: 12.0}
model: {name: beats, adaptation: full, pooling: attentive_statistics, embedding_size: 256}
loss: {name: sub_cluster_adacos, sub_clusters: 16}
optim: {learning_rate: 1e-4, weight_decay: 0.01, warmup_steps: 5000}
train: {epochs: 25, batch_size: 8}
extract: {batch_size: 16}
backend: {name: nearest_neighbours, smote: {ratio: 0.1, neighbours: 2}}
decision: {method: quantile, level: 0.9}
""",
    "system4": """
audio: {clip_seconds: 12.0}
model:
  name: beats
  adaptation: lora
  lora: {rank: 128, alpha: 8.0, targets: [q_proj, v_proj]}
  pooling: attentive_statistics
  embedding_size: 256
loss: {name: sub_cluster_adacos, sub_clusters: 16}
optim: {learning_rate: 1e-4, weight_decay: 0.01, warmup_steps: 5000}
train: {epochs: 40, batch_size: 8}
extract: {batch_size: 16}
backend: {name: nearest_neighbours, smote: {ratio: 0.1, neighbours: 2}}
decision: {method: quantile, level: 0.9}
""",
    "frozen_best": """
audio: {clip_seconds: 12.0}
model:
  name: beats
  adaptation: frozen
  pooling: {name: relative_deviation, gamma: 8, keep_bands: true}
  embedding_size: 0
extract: {batch_size: 16}
backend: {name: variance_minimised, squared: true, bands: each}
decision: {method: quantile, level: 0.9}
""",
    "lora_best": """
audio: {clip_seconds: 12.0}
model:
  name: beats
  adaptation: lora
  lora: {rank: 128, alpha: 8.0, targets: [q_proj, v_proj]}
  pooling: {name: relative_deviation, gamma: 8, keep_bands: true}
  embedding_size: 0
loss: {name: sub_cluster_adacos, sub_clusters: 16}
optim: {learning_rate: 1e-4, weight_decay: 0.01, warmup_steps: 5000}
train: {epochs: 40, batch_size: 8}
extract:
  batch_size: 16
  views: [{name: raw, method: raw}, {name: cancel, method: cancel}]
backend: {name: variance_minimised, squared: true, bands: each}
decision: {method: quantile, level: 0.9}
""",
    "asdkit_lora": """
audio: {clip_seconds: 12.0}
model:
  name: beats
  adaptation: lora
  lora: {rank: 64, alpha: 8.0, targets: [q_proj, v_proj]}
  pooling: attentive_statistics
  embedding_size: 256
loss: {name: sub_cluster_adacos, sub_clusters: 16}
optim: {learning_rate: 1e-4, weight_decay: 0.01, warmup_steps: 5000}
train: {epochs: 25, batch_size: 8}
extract: {batch_size: 16}
backend: {name: nearest_neighbours, smote: {ratio: 0.2, neighbours: 2}}
decision: {method: quantile, level: 0.9}
""",
}


@pytest.fixture
def written(tmp_path):
    """Write recipes by name, and read the first one."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return configs.load(str(tmp_path / f"{next(iter(texts))}.yaml"))

    return write


def test_installed_recipes_that_extend_others_are_what_they_were():
    extending = {name for name in configs.names() if len(recipe_files.chain(name)) > 1}
    assert extending == WRITTEN_OUT.keys()
    for name, text in WRITTEN_OUT.items():
        assert configs.load(name) == configs.parse(text, name), name


def test_sections_are_merged_and_everything_else_is_replaced(written):
    config = written(
        mine="extends: theirs.yaml\nseed: 3\nmodel: {stage_channels: [8]}\noptim: {eps: 1e-6}",
        theirs="seed: 2\nmodel: {stage_channels: [4, 5], branch_size: 7}\n"
        "optim: {eps: 1e-5, betas: [0.5, 0.6]}\ntrain: {epochs: 9}",
    )
    assert (config.seed, config.train.epochs, config.train.batch_size) == (3, 9, 64)
    assert (config.model.stage_channels, config.model.branch_size) == ((8,), 7)
    assert (config.optim.eps, config.optim.betas) == (1e-6, (0.5, 0.6))


def test_a_section_that_names_another_class_inherits_nothing(written):
    base = (
        "backend: {name: nearest_neighbours, target_neighbours: 3, smote: {ratio: 0.3}}\n"
        "loss: {name: sub_cluster_adacos, sub_clusters: 5, scale: 7}"
    )
    config = written(mine="extends: base.yaml\nbackend: {name: kmeans}\nloss: arcface", base=base)
    plain = configs.parse("backend: {name: kmeans}\nloss: arcface", "plain")
    assert (config.backend, config.loss) == (plain.backend, plain.loss)
    assert plain.loss.scale == "auto"
    same = written(
        mine="extends: base.yaml\nbackend: {name: nearest_neighbours, smote: {neighbours: 4}}\n"
        "loss: sub_cluster_adacos"
    )
    assert (same.backend.target_neighbours, same.loss.sub_clusters, same.loss.scale) == (3, 5, 7)
    assert (same.backend.smote.ratio, same.backend.smote.neighbours) == (0.3, 4)
    # the default's name need not stand in either file
    short = written(mine="extends: base.yaml\nmodel: {name: beats}", base="model: {branch_size: 7}")
    assert short.model.name == "beats"


def test_a_nested_class_and_settings_that_were_ignored(written):
    base = "model: {name: beats, pooling: mean}\nbackend: {name: kmeans, smote: {ratio: 0.3}}"
    config = written(
        mine="extends: base.yaml\nmodel: {pooling: attentive_statistics, pooling_ratio: 3}\n"
        "backend: {smote: {ratio: 0.2}, folds: 4}",
        base=base,
    )
    assert (config.model.pooling.name, config.model.name) == ("attentive_statistics", "beats")
    assert (config.backend.name, config.backend.folds) == ("kmeans", 4)


def test_chains_and_paths(tmp_path, written):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b.yaml").write_text("extends: ../c.yaml\ntrain: {epochs: 5}")
    config = written(a="extends: below/b.yaml\nseed: 1", c="extends: system1\nseed: 2")
    expected = configs.load("system1")
    assert (config.seed, config.train.epochs) == (1, 5)
    assert config.extract == expected.extract and config.loss == expected.loss


def test_a_chain_has_a_longest_length(written):
    most = recipe_files.MOST_FILES
    texts = {f"r{i}": f"extends: r{i + 1}.yaml" for i in range(most - 1)}
    assert written(**texts, **{f"r{most - 1}": "seed: 9"}).seed == 9
    with pytest.raises(AsdjaxError, match=f"r{most - 1}.yaml: extends: more than {most} recipes"):
        written(**texts, **{f"r{most - 1}": "extends: system1"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: sistem1", ["mine.yaml: extends", "sistem1'", "did you mean system1"]),
        ("extends: no/such.yaml", ["mine.yaml: extends", "no recipe or file", "relative"]),
        ("extends: mine.yaml", ["mine.yaml: extends", "extends itself", "remove"]),
        ("extends: ./link.yaml", ["mine.yaml: extends", "extends itself"]),
        ("extends: [system1]", ["mine.yaml: extends", "the name of a recipe", "['system1']"]),
        ("extends: 1", ["mine.yaml: extends", "found 1"]),
        ("extends: no", ["mine.yaml: extends", "found False", "quotes"]),
        ("extends:", ["mine.yaml: extends", "is empty"]),
        ("extends: .", ["a directory"]),
        ("extends: system1\nextends: system2", ["extends", "twice"]),
        ("extends: system1\ntrain: {epochs: 0}", ["mine.yaml: train.epochs", "at least 1"]),
        ("extends: system1\ntrain:", ["mine.yaml: train", "keys and values"]),
        ("extends: system1\nloss: {name: [a]}", ["mine.yaml: loss.name"]),
        ("train: {extends: system1}", ["train.extends", "unknown key"]),
        ("extends: wrong.yaml", ["wrong.yaml: seed", "whole number"]),
        ("extends: list.yaml", ["list.yaml: the file", "keys and values"]),
    ],
)  # fmt: skip
def test_what_cannot_be_extended_is_one_sentence(tmp_path, written, text, words):
    (tmp_path / "link.yaml").symlink_to("mine.yaml")
    with pytest.raises(AsdjaxError) as error:
        written(mine=text, wrong="seed: x", list="[1, 2]")
    assert "\n" not in str(error.value) and all(word in str(error.value) for word in words)


def test_a_circle_of_two_is_named(written):
    with pytest.raises(AsdjaxError, match=r"b.yaml: extends: .*a.yaml -> .*b.yaml -> .*a.yaml"):
        written(a="extends: b.yaml", b="extends: a.yaml")


def test_help_shows_the_inherited_defaults(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: system2\ntrain: {epochs: 77}")
    command = [sys.executable, "-m", "asdjax", "train", str(tmp_path / "mine.yaml"), "--help-all"]
    said = " ".join(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    )
    assert "(default: 77)" in said and "(default: 5000)" in said  # its own, and system2's warm-up


def test_the_configuration_of_a_run_extends_nothing(tmp_path):
    """A run may come from a stranger."""
    config = configs.load("quickstart")
    run = Run(tmp_path / "run")
    with run.lock():
        run.write_config(config)
    stored = (tmp_path / "run" / "config.yaml").read_text()
    assert "extends" not in schema.to_tree(config) and run.config() == config
    (tmp_path / "run" / "config.yaml").write_text(f"extends: system1\n{stored}")
    with pytest.raises(AsdjaxError, match="unknown key 'extends'"):
        run.config()
