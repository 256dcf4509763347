"""The script that compiles for an absent TPU: its lines, its refusals, and the real compiler."""

import dataclasses
import importlib.util
import json
from types import SimpleNamespace

import jax
import pytest
from conftest import ROOT, TESTS

from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError

SCRIPT = ROOT / "scripts" / "check_tpu.py"
TINY = str(TESTS / "tiny.yaml")


@pytest.fixture
def script(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("check_tpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_cpus(monkeypatch, script):
    """Stand-ins for the absent devices."""
    found = SimpleNamespace(devices=jax.devices("cpu")[:4])
    monkeypatch.setattr(script.topologies, "get_topology_desc", lambda *_, **__: found)


@pytest.mark.usefixtures("compiled_fast_here")
@pytest.mark.parametrize("devices", [1, 4])
def test_a_line_for_each_recipe(devices, script, monkeypatch, capsys):
    on_cpus(monkeypatch, script)
    given = ["--recipes", TINY, "--seconds", "0.4", "--batch", "8", "--devices", str(devices)]
    assert script.main([*given, "--", "--model.compute-dtype", "float32"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["program"] for line in lines] == ["extract", "step"]
    for facts in lines:
        assert facts["fits"] and facts["devices"] == devices and facts["gib"] < 1
        assert facts["compute_dtype"] == "float32" and facts["tflop"] >= 0
    assert lines[0]["collectives"] == {} and lines[0]["batch"] >= 64
    assert ("all-reduce" in lines[1]["collectives"]) == (devices > 1)


@pytest.mark.usefixtures("compiled_fast_here")
def test_the_views_of_a_recipe_are_compiled(script, monkeypatch, capsys):
    on_cpus(monkeypatch, script)
    views = str(TESTS / "views.yaml")
    given = ["--recipes", views, "--programs", "extract", "--seconds", "0.5"]
    assert script.main(given) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["fits"] and facts["views"] == 7 and facts["batch"] == 16


@pytest.mark.usefixtures("compiled_fast_here")
def test_too_little_memory_is_reported(script, monkeypatch, capsys):
    on_cpus(monkeypatch, script)
    monkeypatch.setattr(script, "MEMORY", 1)
    config = configs.load(TINY)
    assert not script.training_step(config, jax.devices("cpu")[:1], 8, 0.4)["fits"]

    def refused():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 17 G of 15.75 G\nDetails")

    lowered = SimpleNamespace(compile=refused)
    step = SimpleNamespace(lower=lambda *_: lowered)
    monkeypatch.setattr(script.parallel, "training_step", lambda *_: step)
    given = ["--recipes", TINY, "--seconds", "0.4", "--batch", "8", "--programs", "step"]
    assert script.main(given) == 1
    *_, facts = map(json.loads, capsys.readouterr().out.splitlines())
    assert not facts["fits"] and facts["reason"] == "RESOURCE_EXHAUSTED: 17 G of 15.75 G"


def test_settings_that_save_memory_in_turn(script):
    config = configs.load(str(TESTS / "tiny_beats.yaml"))
    tried = [*script.in_less_memory(config, 8, 1)]
    assert [c.model.remat for c in tried] == ["none", "attention", *["full"] * 3]
    assert [c.train.accumulate for c in tried] == [1, 1, 1, 2, 4]
    fixed = dataclasses.replace(config.model, remat="attention")
    tried = [*script.in_less_memory(dataclasses.replace(config, model=fixed), 12, 2)]
    assert [(c.model.remat, c.train.accumulate) for c in tried] == [
        ("attention", 1),
        ("attention", 2),
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--recipes", "nope"], "nope"),
        (["--", "--model.compute-dtype", "float32", "--train.epochs", "0"], "train.epochs"),
        (
            ["--recipes", TINY, "--programs", "step", "--batch", "7", "--devices", "2"],
            "train.batch_size",
        ),
        ([], "comes with the extra tpu"),
    ],
)
def test_refused(given, words, script, monkeypatch):
    def absent(*_, **__):
        raise RuntimeError("JAX TPU support not installed")

    if words == "train.batch_size":
        on_cpus(monkeypatch, script)
    else:
        monkeypatch.setattr(script.topologies, "get_topology_desc", absent)
    with pytest.raises(AsdjaxError, match=words):
        script.main(given)


@pytest.mark.slow  # a minute of libtpu's compiler
def test_libtpus_compiler(script, monkeypatch, capsys):
    pytest.importorskip("libtpu", reason="needs the extra tpu (scripts/check_tpu installs it)")
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    given = ["--recipes", TINY, "--seconds", "0.4", "--batch", "8", "--devices", "8"]
    assert script.main(given) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["compute_dtype"] for line in lines} == {"tensorfloat32"}
