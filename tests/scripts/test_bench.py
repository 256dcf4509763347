"""The benchmark script: its lines, and the two sides' turns."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from support.converted_beats import SMALL

from asdjax.config import recipe as configs
from asdjax.data.corpus import open_corpus
from asdjax.errors import AsdjaxError
from asdjax.training.plan import plan

SCRIPTS = ROOT / "scripts"


@pytest.fixture
def bench(monkeypatch):
    """The script as a module, which keeps nothing in the user's cache directory."""
    spec = importlib.util.spec_from_file_location("bench", SCRIPTS / "bench.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench", module)
    monkeypatch.syspath_prepend(SCRIPTS)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LEAST", 0.01)
    monkeypatch.setattr(module, "GEMM", {"cpu": 64})
    return module


def test_every_stage_has_its_command(bench):
    names = {path.name for path in SCRIPTS.glob("bench_*") if path.suffix != ".py"}
    others = {"bench_all", "bench_archive", "bench_memory", "bench_scaling", "bench_serve"}
    assert names == {f"bench_{stage}" for stage in bench.STAGES} | others


def test_the_corpora_of_the_stages_can_be_trained_on(bench, tmp_path):
    """Two classes at least, which training needs."""
    stages = sys.modules["bench_stages"]
    for clips in 16, 64:
        root = stages.small_corpus(tmp_path / str(clips), clips, 0.5)
        config = configs.load("quickstart")
        audio = replace(config.audio, clip_seconds=4.5)
        train = replace(config.train, batch_size=4, devices=1)
        config = replace(config, audio=audio, train=train)
        corpus = open_corpus(root, config)
        assert len(plan(config, corpus).classes) == 2
        assert clips / 2 <= len(corpus.dataset.clips) <= 2 * clips


@pytest.mark.slow  # a minute: System 1 on a small corpus
@pytest.mark.parametrize("stage", ["end_to_end", "start"])
def test_stages_of_whole_commands(stage, bench, capsys):
    bench.main(["--no-compile-cache", stage, "--seconds", "4.48", "--rounds", "1"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) >= 2 and all(line["seconds"] > 0 for line in lines if "seconds" in line)


def test_a_line_of_figures(bench, capsys):
    more = ["--no-compile-cache"]  # so that nothing is read or kept
    bench.main([*more, "filterbank", "--batch", "2", "--seconds", "0.5", "--rounds", "2"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert (found["bench"], found["batch"], found["seconds"]) == ("filterbank", 2, 0.5)
    low, high = found["clips_per_s_range"]
    assert 0 < low <= found["clips_per_s"] <= high
    assert found["first_call_s"] > found["compile_s"] > 0
    assert found["gemm_gflop_per_s"] > 0 and found["peak_memory_mb"] > 50


@pytest.mark.parametrize(
    ("flags", "chosen", "dtypes"),
    [
        ("flags : avx2 fma avx512_bf16", None, ["float32", "bfloat16"]),
        ("flags : avx512f amx_bf16 amx_tile", None, ["float32", "bfloat16"]),
        ("Features : asimd i8mm bf16", None, ["float32", "bfloat16"]),
        ("flags : avx2 fma avx512f", None, ["float32"]),
        ("flags : avx2 fma", ["bfloat16"], ["bfloat16"]),
    ],
)
def test_bfloat16_where_the_processor_has_it(bench, monkeypatch, tmp_path, flags, chosen, dtypes):
    stages, cpuinfo = importlib.import_module("bench_stages"), tmp_path / "cpuinfo"
    cpuinfo.write_text(flags)
    monkeypatch.setattr(stages, "CPUINFO", cpuinfo)
    assert stages.embedding_dtypes(SimpleNamespace(dtype=chosen)) == dtypes


class Peer:
    """Answers as the other process does: two clips in 20 ms."""

    def __init__(self):
        self.asked = []

    def ask(self, stage, options, repeat=1):
        self.asked.append(stage)
        return {"seconds": [0.02] * repeat, "clips": 2, "torch": "2", "threads": 1}


def test_the_ratio_is_of_clips_per_second(bench):
    case = bench.Case({}, 1, lambda: time.sleep(0.005), ("some", {}), flop=1e6)
    peer = Peer()
    found = bench.measure(case, 3, peer)
    assert peer.asked == ["some", "gemm", *["gemm", "some"] * 3]
    assert found["torch_clips_per_s"] == pytest.approx(100)
    assert found["clips_per_s"] <= 200
    assert found["ratio"] == pytest.approx(found["clips_per_s"] / 100, rel=1e-3)
    assert found["gflop_per_s"] == pytest.approx(found["clips_per_s"] * 1e6 / 1e9, rel=1e-3)
    assert 0 < found["share_of_gemm"] < 1
    assert (found["torch"], found["torch_threads"]) == ("2", 1)


def test_an_error_of_pytorch_is_reported_with_our_figures(bench):
    class Without:
        def ask(self, stage, options, repeat=1):
            raise bench.TorchError(f"{stage}: no CUDA")

    case = bench.Case({}, 1, lambda: None, ("some", {}), flop=1e6)
    found = bench.measure(case, 2, Without())
    assert found["torch_error"] == "some: no CUDA"
    assert found["clips_per_s"] > 0 and found["share_of_gemm"] > 0
    assert "ratio" not in found


@pytest.mark.parametrize(
    "statuses, code, begun", [((0, 0), 0, 2), ((0, -9), 1, 2), ((-9, 0), 1, 2), ((2, 0), 2, 1)]
)
def test_how_several_stages_end(bench, monkeypatch, statuses, code, begun):
    """A killed stage gives exit code 1, after the others; wrong usage ends all at once."""
    ends = list(statuses)

    def running(_):
        ended = SimpleNamespace(wait=lambda limit: ends.pop(0))
        return contextlib.nullcontext(ended)

    monkeypatch.setattr(bench.driver, "running", running)
    with pytest.raises(SystemExit) as end:
        bench.main(["reading", "scoring"])
    assert end.value.code == code
    assert len(statuses) - len(ends) == begun


def test_a_stage_over_its_limit_is_stopped_and_the_others_are_measured():
    command = [sys.executable, SCRIPTS / "bench.py", "reading", "scoring", "--batch", "100"]
    found = subprocess.run([*command, "--limit", "0.5"], capture_output=True, text=True)
    assert found.returncode == 1 and not found.stdout
    said = [line for line in found.stderr.splitlines() if line.startswith("bench: ")]
    assert said == [f"bench: {s}: stopped after 0.5 s (--limit)" for s in ("reading", "scoring")]


def test_a_case_and_its_alternative_alternate(bench, monkeypatch):
    turns, now = [], [0.0]

    def call(name, duration):
        turns.append(name)
        now[0] += duration

    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    other = "other", lambda: call("b", 0.02)
    case = bench.Case({}, 1, lambda: call("a", 0.04), alternative=other, here=False)
    found = bench.measure(case, 3, None)
    assert "".join(turns) == "aab" + "ab" * 3
    assert found["seconds_over_other"] == pytest.approx(2)
    assert "peak_memory_mb" not in found  # another process did the work


def test_an_accelerator_that_is_missing():
    command = [sys.executable, SCRIPTS / "bench.py", "filterbank", "--device", "gpu"]
    result = subprocess.run(command, capture_output=True, text=True)
    if not result.returncode:
        pytest.skip("this machine has a GPU")
    assert result.stderr.splitlines()[-1].startswith("bench: error: --device gpu: ")


def test_the_flops_of_a_product(bench):
    a = np.ones((32, 64), np.float32)
    stages = importlib.import_module("bench_stages")
    assert stages.flop(lambda a, b: a @ b, a, a.T) == pytest.approx(2 * 32 * 64 * 32)


def test_stages_of_the_host(bench, capsys):
    """Some are compared with an alternative."""
    common = ["--rounds", "1", "--no-compile-cache"]
    bench.main(["scoring", "--batch", "60", *common])
    bench.main(["leave_one_out", "--batch", "60", *common])
    bench.main(["reading", "--seconds", "0.5", *common])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [line["bench"] for line in lines]
    assert names == ["scoring", "leave_one_out", "reading", "reading"]
    compared = [
        {k for k in line if k.startswith("seconds_over_") and k[-5:] != "range"} for line in lines
    ]
    other = {"seconds_over_scikit_learn"}
    assert compared == [other, other, set(), {"seconds_over_loop"}]


def test_options_that_a_stage_refuses(bench):
    with pytest.raises(SystemExit, match="^bench: multiresnet_embed: .* too short"):
        bench.main(["multiresnet_embed", "--seconds", "2", "--no-compile-cache"])


def test_how_far_rounding_moves_an_embedding(bench, monkeypatch):
    """float32 has no such figure; embeddings of other types are compared with it."""
    stages = importlib.import_module("bench_stages")
    recipe = stages.configs.load("beats_frozen")
    recipe = replace(recipe, model=replace(recipe.model, encoder=SMALL))
    monkeypatch.setattr(stages.configs, "load", lambda name: recipe)
    kinds = ["float32", "bfloat16"]
    options = SimpleNamespace(dtype=kinds, batch=(2,), seconds=0.5)
    found = [
        (case.dtype, bench.measure(case, 1, None))
        for case in stages.beats_embed(options, np.random.default_rng(0))
    ]
    assert [dtype for dtype, _ in found] == ["float32", "bfloat16", "bfloat16"]
    assert "least_cosine_to_float32" not in found[0][1]
    for _, figures in found[1:]:
        assert 0.999 < figures["least_cosine_to_float32"] < 1


def test_no_such_stage(bench, capsys):
    with pytest.raises(SystemExit):
        bench.main(["nothing"])
    assert "no stage nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--rounds", "0"], ["--batch", "4", "-1"], ["--seconds", "nan"], ["--devices", "0"]],
)
def test_impossible_numbers(bench, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["filterbank", *arguments])
    assert end.value.code == 2 and f"argument {arguments[0]}: must be" in capsys.readouterr().err


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/true"])
def test_a_python_without_torch(bench, python):
    with pytest.raises(AsdjaxError, match=f"^--torch-python {python}: .*PyTorch"):
        bench.main(["filterbank", "--no-compile-cache", "--torch-python", python])


@pytest.mark.slow  # two starts of the benchmark, one of which compiles
def test_programs_are_cached_for_the_next_start(tmp_path):
    command = [sys.executable, SCRIPTS / "bench.py", "filterbank", "--batch", "1"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    kept |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for i in range(2):
        done = subprocess.run(
            [*command, "--seconds", "0.5", "--rounds", "1"],
            capture_output=True, text=True, env=kept,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert (json.loads(done.stdout)["programs_kept"] > 0) == bool(i)
