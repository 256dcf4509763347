"""Compiled programs: kept in a place of the user's own, made once per process, found again."""

import dataclasses
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

import asdjax
from asdjax import cli, compile_cache, config, models, parallel
from asdjax.errors import AsdjaxError
from asdjax.extract import LIKE
from asdjax.inference import Embedder
from asdjax.learner import Learner

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(Path(__file__).parent / "tiny.yaml")
TINY_BEATS = str(Path(__file__).parent / "tiny_beats.yaml")


@pytest.fixture
def nothing_chosen(tmp_path, monkeypatch):
    """A user with an empty cache directory and no settings of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def test_the_directory_is_the_users_alone(nothing_chosen):
    folder = compile_cache.use()
    assert folder.parent == nothing_chosen / "asdjax" / "compiled"
    assert jax.__version__ in folder.name and jax.default_backend() in folder.name
    for path in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_each_processor_has_its_own(nothing_chosen, monkeypatch):
    one = compile_cache.use()
    jax.config.update("jax_compilation_cache_dir", None)
    assert compile_cache.use() == one
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    assert compile_cache.use() != one


@pytest.mark.parametrize("chosen", ["elsewhere", ""])
def test_a_choice_of_the_user_stands(nothing_chosen, chosen):
    jax.config.update("jax_compilation_cache_dir", chosen)
    assert compile_cache.use() is None
    assert jax.config.jax_compilation_cache_dir == chosen
    assert not nothing_chosen.exists()


def test_a_place_open_to_others_is_not_used(nothing_chosen):
    (nothing_chosen / "asdjax").mkdir(parents=True)
    (nothing_chosen / "asdjax").chmod(0o777)
    with pytest.raises(AsdjaxError, match="written by others"):
        compile_cache.use()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_file_in_the_way_is_named(nothing_chosen):
    nothing_chosen.mkdir()
    (nothing_chosen / "asdjax").touch()
    with pytest.raises(AsdjaxError, match="no place to keep compiled programs"):
        compile_cache.use()


def test_no_home_is_said(nothing_chosen, monkeypatch):
    def nowhere(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compile_cache.platformdirs, "user_cache_dir", nowhere)
    with pytest.raises(AsdjaxError, match="no place to keep .* home directory.*--no-compile-cache"):
        compile_cache.use()


def test_the_users_own_shortest_time_stands(nothing_chosen, monkeypatch):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    compile_cache.use()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 3.0


def test_the_switch_and_a_refused_place(corpus_root, nothing_chosen, capsys, monkeypatch):
    monkeypatch.setattr("asdjax.train.check", lambda config, corpus: {"compiled": "nothing"})
    check = ["check", TINY, "--data", str(corpus_root)]
    assert cli.main([*check, "--no-compile-cache"]) == 0
    assert not nothing_chosen.exists()
    nothing_chosen.mkdir()
    (nothing_chosen / "asdjax").touch()
    assert cli.main(check) == 0
    assert "asdjax: compiling anew: " in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [TINY, TINY_BEATS])
def test_another_seed_is_the_same_program(recipe):
    texts = []
    for seed in 0, 1:
        chosen = dataclasses.replace(config.load(recipe), seed=seed)
        learner = Learner(chosen, n_classes=3, n_samples=8000)
        batch = {"waveform": np.zeros((1, 4, 8000), np.int16), "label": np.zeros((1, 4), np.int32)}
        step = parallel.training_step(learner.step, jax.local_devices()[:1])
        texts.append(step.lower(learner.shapes(), batch).as_text())
    assert texts[0] == texts[1]


def test_the_second_process_compiles_nothing_anew(corpus_root, tmp_path):
    """Nor does it trace a training step or an extraction; its seed stays its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    cache = {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOG_COMPILES": "1"}
    environment = {**own, **cache, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    digests, compiled, kept = [], [], []
    for seed in "0", "1":
        run = tmp_path / seed
        chosen = ("--data", str(corpus_root), "--run", str(run), "--seed", seed)
        command = [sys.executable, "-m", "asdjax.cli", "run", TINY, *chosen, "--train.epochs", "1"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        digests.append(json.loads((run / "training.json").read_text())["digest"])
        compiled.append(result.stderr.count("Compiling jit(_fun)"))
        kept.append({path: path.stat().st_mtime_ns for path in tmp_path.glob("asdjax/**/*.*")})
    assert compiled == [2, 0] and kept[0] == kept[1]
    assert len([path for path in kept[0] if path.suffix == ".program"]) == 2
    assert digests[0] != digests[1]


def scaled(state, batch):
    return {"w": state["w"] * batch["x"].sum()}, batch["x"] * state["w"]


@pytest.fixture
def alone(nothing_chosen):
    """The directory of a process that runs asdjax alone."""
    yield compile_cache.use(alone=True)
    compile_cache._own = None


DEVICES = jax.local_devices()[:2]


def called(*about, width=3, function=scaled, keep=True):
    """Results of a step on two devices, after the state was given away."""
    step = parallel.training_step(function, DEVICES)
    if keep:
        step = compile_cache.kept(step, DEVICES, *about)
    state = parallel.replicate({"w": np.float32([2, 3, 5])[:width]}, DEVICES)
    batch = {"x": np.arange(2 * width, dtype=np.float32).reshape(2, width)}
    result = step(state, batch)
    assert state["w"].is_deleted()
    return jax.tree.map(np.asarray, result)


def restarted(*about):
    """The same in another process."""
    jax.config.update("jax_compilation_cache_dir", None)
    compile_cache.use(alone=True)
    return called(*about)


def never(state, batch):
    raise AssertionError("traced")


def test_a_program_is_found_by_what_it_is_made_from(alone, monkeypatch):
    plain, first = called(keep=False), called("one")
    again = called("one", function=never)
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, first))
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, again))

    def otherwise(_):
        with jax.default_matmul_precision("highest"):
            called("one")

    changes = [
        otherwise,
        lambda m: called("another"),
        lambda m: called("one", width=2),
        lambda m: (m.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"] + " "), called("one")),
        lambda m: (m.setattr(compile_cache, "_makers", lambda: ["another"]), restarted("one")),
        lambda m: (m.setattr(compile_cache.metadata, "version", lambda _: "9"), restarted("one")),
    ]
    for number, change in enumerate(changes, 2):
        with monkeypatch.context() as patch:
            change(patch)
        assert len(list(alone.glob("*.program"))) == number


def test_what_makes_programs_is_this_packages_text(tmp_path, monkeypatch):
    package = shutil.copytree(Path(compile_cache.__file__).parent, tmp_path / "asdjax")
    monkeypatch.setattr(compile_cache, "__file__", str(package / "compile_cache.py"))
    before = compile_cache._makers()
    with (package / "signal" / "fbank.py").open("a") as file:
        file.write("\n")
    after = compile_cache._makers()
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


def test_no_program_is_kept_that_an_older_text_made(alone, monkeypatch):
    """Whoever edits a file, or installs another version, does so under running processes."""
    monkeypatch.setattr(compile_cache, "_makers", lambda: ["edited"])
    called("one")
    assert not list(alone.glob("*.program"))
    restarted("one")
    assert len(list(alone.glob("*.program"))) == 1


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_program_is_made_again(alone, damage):
    good = called("one")
    (path,) = alone.glob("*.program")
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"elsewhere" if damage is None else damage)
    assert jax.tree.all(jax.tree.map(np.array_equal, called("one"), good))
    called("one", function=never)
    assert [p.name for p in alone.glob("*.program")] == [path.name]


def test_a_program_that_cannot_be_loaded_or_kept_is_said(alone, capsys, monkeypatch):
    good = called("one")

    def refused(*_, **__):
        raise jax.errors.JaxRuntimeError("another driver")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compile_cache.serialize_executable, "deserialize_and_load", refused)
    monkeypatch.setattr(compile_cache.tempfile, "TemporaryDirectory", full)
    assert jax.tree.all(jax.tree.map(np.array_equal, called("one"), good))
    said = capsys.readouterr().err
    assert "cannot be loaded (another driver): compiling anew" in said
    assert f"{alone}: cannot keep a program there (No space left on device)" in said


def test_programs_of_others_are_traced(alone):
    """Where code that is not ours may decide what is computed, or a debugger looks on."""
    assert compile_cache.kept(never, DEVICES) is not never
    with jax.disable_jit():
        assert compile_cache.kept(never, DEVICES) is never
    jax.config.update("jax_compilation_cache_dir", str(alone.parent))
    assert compile_cache.kept(never, DEVICES) is never
    jax.config.update("jax_compilation_cache_dir", None)
    compile_cache.use()
    assert compile_cache.kept(never, DEVICES) is never


class Programs(logging.Handler):
    """Counts the programs that JAX compiles: all, and those for all devices (pmap's _fun)."""

    def __init__(self):
        super().__init__()
        self.all = self.count = 0

    def emit(self, record):
        self.all += record.getMessage().startswith("Compiling ")
        self.count += record.getMessage().startswith("Compiling jit(_fun)")


@pytest.fixture
def programs(monkeypatch):
    handler, logger = Programs(), logging.getLogger("jax")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    with jax.log_compiles(True):
        yield handler


@pytest.fixture(scope="module")
def run(corpus_root, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(["train", TINY, "--data", str(corpus_root), "--run", str(path)]) == 0
    return path


def test_training_compiles_its_step_once(corpus_root, tmp_path, programs):
    args = ["train", TINY, "--data", str(corpus_root)]
    found = []
    for epochs in "1", "4":
        jax.clear_caches()
        programs.all = programs.count = 0
        run = tmp_path / epochs
        assert cli.main([*args, "--run", str(run), "--train.epochs", epochs]) == 0
        assert programs.count == 1
        found.append(programs.all)
    assert len((run / "log.jsonl").read_text().splitlines()) > 3
    assert found[0] == found[1] > 1  # nor is any small operation compiled at every step


def test_clips_of_many_lengths_share_a_program(run, programs, rng):
    embedder = asdjax.load(run)
    waves = [rng.standard_normal(n).astype(np.float32) / 9 for n in rng.integers(4000, 20000, 40)]
    embedder.embed(waves)
    before = programs.all
    embedder.embed(waves[::-1])
    assert programs.count == 1 and programs.all == before


def test_clips_that_keep_their_lengths_need_two_programs_a_class(programs, rng):
    """However many there are of each, and in whatever order: one for several, one for one alone."""
    recipe = config.load(TINY_BEATS)
    frozen = {"adaptation": "frozen", "pooling": "mean", "embedding_size": 0}
    model = dataclasses.replace(recipe.model, **frozen)
    extract = dataclasses.replace(recipe.extract, batch_size=8)
    _, params, stats = models.split(models.build(model, None, 16000, seed=0))
    weights = {"params": {"model": params}, "stats": {"model": stats}}
    weights = jax.tree.map(np.asarray, weights)
    embedder = Embedder(dataclasses.replace(recipe, model=model, extract=extract), None, weights)
    waves = [rng.standard_normal(n).astype(np.float32) / 9 for n in rng.integers(8000, 20_000, 40)]
    classes = {embedder._room(len(wave)) for wave in waves}
    assert len(classes) > 3
    for some in (waves, waves[::-1], waves[:15], waves[15:], *([wave] for wave in waves)):
        embedder.embed(some)
    assert programs.count == 2 * len(classes)
    before = programs.all
    embedder.embed(waves)
    assert programs.all == before


def test_extraction_compiles_once_for_all_machines(run, programs):
    assert cli.main(["extract", str(run)]) == 0
    assert len(list(run.glob("embeddings/*/*.npz"))) == 3  # of three machines
    assert programs.count == 1


def test_extraction_of_clips_of_many_lengths(run, corpus_root, tmp_path, programs, rng):
    """Clips share programs by like lengths, whatever their machine."""
    corpus, lengths = tmp_path / "corpus", set()
    shutil.copytree(corpus_root, corpus)
    for path in sorted(corpus.rglob("*.wav")):
        wave, rate = soundfile.read(path, dtype="int16")
        wave = wave[: rng.integers(len(wave) // 3, len(wave) + 1)]
        soundfile.write(path, wave, rate, "PCM_16")
        lengths.add(len(wave))
    own = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("embeddings"))
    assert cli.main(["extract", str(own), "--data", str(corpus)]) == 0
    assert len(list(own.glob("embeddings/*/*.npz"))) == 3
    assert len(lengths) > 20
    assert programs.count <= 1 + np.log(max(lengths) / min(lengths)) / np.log(LIKE)
