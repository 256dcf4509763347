"""Compiled programs: a private directory, one compilation per process, reuse by later ones."""

import dataclasses
import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from conftest import ROOT, TESTS

import asdjax
from asdjax import cli
from asdjax.commands.extract import LIKE
from asdjax.config import recipe as configs
from asdjax.embedder import Embedder
from asdjax.errors import ArtifactError
from asdjax.models import building, parameters
from asdjax.models.poolings import Mean
from asdjax.runtime import compile_cache, parallel
from asdjax.training.learner import Learner

pytestmark = pytest.mark.usefixtures("compiled_fast")

TINY = str(TESTS / "tiny.yaml")
TINY_BEATS = str(TESTS / "tiny_beats.yaml")


@pytest.fixture
def nothing_chosen(tmp_path, monkeypatch):
    """A user with an empty cache directory and without settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():  # `use` changes how they are shown
        yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def test_only_the_user_has_access_to_the_directory(nothing_chosen):
    folder = compile_cache.use()
    assert folder.parent == nothing_chosen / "asdjax" / "compiled"
    assert jax.__version__ in folder.name and jax.default_backend() in folder.name
    for path in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_each_processor_has_its_own_directory(nothing_chosen, monkeypatch):
    one = compile_cache.use()
    jax.config.update("jax_compilation_cache_dir", None)
    assert compile_cache.use() == one
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    assert compile_cache.use() != one


@pytest.mark.parametrize("chosen", ["elsewhere", ""])
def test_the_users_directory_is_not_changed(nothing_chosen, chosen):
    jax.config.update("jax_compilation_cache_dir", chosen)
    assert compile_cache.use() is None
    assert jax.config.jax_compilation_cache_dir == chosen
    assert not nothing_chosen.exists()


def test_a_directory_writable_by_others_is_not_used(nothing_chosen):
    (nothing_chosen / "asdjax").mkdir(parents=True)
    (nothing_chosen / "asdjax").chmod(0o777)
    with pytest.raises(ArtifactError, match="asdjax: .*writable by other"):
        compile_cache.use()
    assert jax.config.jax_compilation_cache_dir is None


def test_a_file_in_place_of_the_directory_is_named(nothing_chosen):
    nothing_chosen.mkdir()
    (nothing_chosen / "asdjax").touch()
    with pytest.raises(ArtifactError, match="asdjax/compiled: .*JAX_COMPILATION_CACHE_DIR"):
        compile_cache.use()


def test_a_missing_home_directory_is_an_error(nothing_chosen, monkeypatch):
    def nowhere(*_, **__):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compile_cache.platformdirs, "user_cache_dir", nowhere)
    with pytest.raises(ArtifactError, match="home directory.*--no-compile-cache"):
        compile_cache.use()


def test_the_users_shortest_time_is_not_changed(nothing_chosen, monkeypatch):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    compile_cache.use()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 3.0


def test_the_option_and_a_refused_directory(corpus_root, nothing_chosen, capsys, monkeypatch):
    monkeypatch.setattr("asdjax.commands.check.check", lambda config, corpus: {"fits": True})
    check = ["check", TINY, "--data", str(corpus_root), "--json"]
    assert cli.main([*check, "--no-compile-cache"]) == 0
    assert not nothing_chosen.exists()
    nothing_chosen.mkdir()
    (nothing_chosen / "asdjax").touch()
    assert cli.main(check) == 0
    assert "asdjax: compiled programs are not kept: " in capsys.readouterr().err


@pytest.mark.parametrize("recipe", [TINY, TINY_BEATS])
def test_another_seed_is_the_same_program(recipe):
    texts = []
    for seed in 0, 1:
        chosen = dataclasses.replace(configs.load(recipe), seed=seed)
        learner = Learner(chosen, n_classes=3, n_samples=8000)
        batch = {"waveform": np.zeros((1, 4, 8000), np.int16), "label": np.zeros((1, 4), np.int32)}
        step = parallel.training_step(learner.step, jax.local_devices()[:1])
        texts.append(step.lower(learner.shapes(), batch).as_text())
    assert texts[0] == texts[1]


@pytest.fixture
def command(corpus_root, tmp_path):
    """Runs `asdjax` in processes of a user with an empty cache, from a copy of the package."""
    package = tmp_path / "edited"
    shutil.copytree(Path(asdjax.__file__).parent, package / "asdjax")
    for name in "configs", "convert":
        shutil.copytree(ROOT / name, package / "asdjax" / name)
    own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment = {
        **own,
        "PYTHONPATH": str(package),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }

    def start(*arguments, cache=tmp_path / "cache"):
        where = {**environment, "XDG_CACHE_HOME": str(cache)}
        words = [sys.executable, "-m", "asdjax", *map(str, arguments)]
        return subprocess.Popen(words, env=where, stderr=subprocess.PIPE, text=True)

    def finish(process):
        _, printed = process.communicate()
        assert process.returncode == 0, printed
        return printed

    start.package, start.cache, start.finish = package, tmp_path / "cache", finish
    start.here = lambda *arguments, **more: finish(start(*arguments, **more))
    start.corpus = "--data", str(corpus_root)
    return start


def digest(run):
    return json.loads((run / "training.json").read_text())["digest"]


@pytest.mark.parametrize(
    "recipe", [TINY, pytest.param(TINY_BEATS, marks=pytest.mark.slow)], ids=["resnet", "beats"]
)
def test_every_start_works_whatever_came_before(recipe, command, tmp_path, rng):
    """After a check; another seed; an edit, and two starts at once with a moved cache."""
    once = recipe, *command.corpus, "--train.epochs", "1"
    command.here("check", *once)
    runs = [tmp_path / f"run{i}" for i in range(4)]
    command.here("train", *once, "--run", runs[0])
    command.here("train", *once, "--run", runs[1], "--seed", "1", "--train.keep-checkpoints", "3")
    source = command.package / "asdjax" / "training" / "learner.py"
    source.write_text(f"# a comment, which moves every line\n{source.read_text()}")
    moved = tmp_path / "moved"
    command.cache.rename(moved)
    both = [command("train", *once, "--run", run, cache=moved) for run in runs[2:]]
    for process in both:
        command.finish(process)
    equal = {digest(run) for run in runs if run is not runs[1]}
    assert len(equal) == 1 and digest(runs[1]) not in equal
    soundfile.write(tmp_path / "clip.wav", rng.uniform(-0.1, 0.1, 16000), 16000)
    command.here("extract", runs[0], cache=moved)
    for run in runs[::2]:
        command.here("embed", run, tmp_path / "clip.wav", "--out", run / "clip.npz", cache=moved)
    first, second = ((run / "clip.npz").read_bytes() for run in runs[::2])
    assert len(first) == len(second)
    with np.load(runs[0] / "clip.npz") as one, np.load(runs[2] / "clip.npz") as two:
        assert np.array_equal(one["embedding"], two["embedding"])


def entries(cache):
    return sorted(cache.glob("asdjax/compiled/*/*-cache"))


def test_damaged_entries_are_reported_once_and_compiled_again(command, tmp_path):
    """Damaged and foreign entries, other things than files, and files of earlier versions."""
    once = TINY, *command.corpus, "--train.epochs", "1"
    command.here("train", *once, "--run", tmp_path / "good")
    found = entries(command.cache)
    assert len(found) >= 4  # so that two rounds do each kind of damage

    def damage(path, number):
        kind = number % 6
        if kind == 0:
            path.write_bytes(path.read_bytes()[:-100])
        elif kind == 1:
            path.write_bytes(b"")
        elif kind == 2:
            path.write_bytes(zlib.compress(b"\0\0\0\1foreign"))
        else:
            path.unlink()
            (path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"))[kind - 3]()
        if kind == 3:
            (path / "inside").touch()

    retired = found[0].parent / "0123.program"
    for first in 0, 2:
        retired.write_bytes(b"a pickle")
        for number, path in enumerate(found, first):
            damage(path, number)
        run = tmp_path / f"run{first}"
        printed = command.here("train", *once, "--run", run).splitlines()
        about = [line for line in printed if "compiled again" in line]
        assert 1 <= len(about) <= len(found), printed
        assert not [line for line in printed if "Warning" in line], printed
        assert digest(run) == digest(tmp_path / "good") and not retired.exists()
        assert entries(command.cache) == found
    printed = command.here("train", *once, "--run", tmp_path / "again")
    assert "compiled again" not in printed and all(path.is_file() for path in found)


def test_an_unreadable_entry_is_reported_once_and_deleted_without_a_digest(
    nothing_chosen, capsys, monkeypatch
):
    others = []
    monkeypatch.setattr(warnings, "showwarning", lambda text, *_, **__: others.append(str(text)))
    folder = compile_cache.use()
    for name in "one-0-cache", "two-2-cache", "xla":  # xla: a file of XLA
        (folder / name).touch()
    compile_cache.seal()
    (folder / "one-1-cache").touch()
    (folder / "two-3-cache").touch()
    full = "Error writing persistent compilation cache entry for 'two': no room"
    warnings.warn(full, stacklevel=1)
    for name in "one", "another":
        text = f"Error reading persistent compilation cache entry for {name!r}: why"
        warnings.warn(text, stacklevel=1)
    warnings.warn("of another kind", stacklevel=1)
    printed = capsys.readouterr().err
    assert printed.count("cannot be read") == 1 and "'one'" in printed
    assert printed.count("cannot be stored") == 1 and others == ["of another kind"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "one-0-cache", "one-0-cache.digest", "two-2-cache", "two-2-cache.digest", "xla",
    ]  # fmt: skip


def test_warnings_about_a_directory_of_the_users_choice(nothing_chosen, tmp_path, capsys):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
    assert compile_cache.use() is None
    for _ in range(2):
        text = "Error reading persistent compilation cache entry for 'one': no directory"
        warnings.warn(text, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    where = f"JAX_COMPILATION_CACHE_DIR ({tmp_path / 'file'})"
    assert line.startswith(f"{where}: a compiled program cannot be read")


@pytest.mark.parametrize("policy", ["default", "error"])
def test_a_damaged_entry_of_the_users_directory_is_named(policy, nothing_chosen, tmp_path, capsys):
    """It is not deleted, and the message tells what to delete, whatever Python's warning policy."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    names = ["one-0-cache", "two-1-cache", "two-2-cache"]
    for name in names:
        (tmp_path / name).touch()
    for program, damaged in ("one", names[0]), ("two", "two-*-cache"):
        warnings.simplefilter(policy)
        compile_cache.use()
        text = f"Error reading persistent compilation cache entry for {program!r}: cut off"
        warnings.warn(text, stacklevel=1)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"cut off): delete {damaged} there, or the directory")
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("act", ["reading", "writing"])
def test_a_read_only_cache_is_not_an_error(act, nothing_chosen, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", lambda *_, **__: None)
    folder = compile_cache.use()
    (folder / "one-0-cache").touch()

    def read_only(self, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", read_only)
    text = f"Error {act} persistent compilation cache entry for 'one': why"
    warnings.warn(text, stacklevel=1)
    assert "a compiled program cannot be" in capsys.readouterr().err


def test_a_directory_named_as_files_of_earlier_versions_is_deleted(nothing_chosen):
    folder = compile_cache.use()
    (folder / "a.program").mkdir()
    jax.config.update("jax_compilation_cache_dir", None)
    assert compile_cache.use() == folder and not list(folder.iterdir())


def test_only_entries_with_a_matching_digest_remain(nothing_chosen, capsys):
    """A flipped bit, another program's content, a program whose command was killed."""
    folder = compile_cache.use()
    names = ["good-0-cache", "flipped-0-cache", "one-0-cache", "two-0-cache"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    compile_cache.seal()
    (folder / "flipped-0-cache").write_bytes(b"flipped-1-cache")
    for ending in "", ".digest":
        (folder / f"two-0-cache{ending}").write_bytes(
            (folder / f"one-0-cache{ending}").read_bytes()
        )
    (folder / "killed-0-cache").touch()
    jax.config.update("jax_compilation_cache_dir", None)
    compile_cache.use()
    assert f"{folder}: deleted 3 compiled programs" in capsys.readouterr().err
    expected = [
        f"{name}{ending}" for name in ("good-0-cache", "one-0-cache") for ending in ("", ".digest")
    ]
    assert sorted(path.name for path in folder.iterdir()) == expected


@pytest.mark.parametrize("owner", ["link", "open", "ancestor", "sticky"])
def test_a_path_that_others_could_change_is_not_used(owner, tmp_path, monkeypatch, nothing_chosen):
    """Only the user may write to the directory and its parents, but a parent may be sticky."""
    cache = tmp_path / "shared" / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    own = cache / "asdjax" / "compiled"
    own.mkdir(parents=True)
    if owner == "link":
        own.rmdir()
        own.symlink_to(tmp_path)
    else:
        place, mode = {
            "open": (own, 0o770),
            "ancestor": (cache.parent, 0o777),
            "sticky": (cache.parent, 0o1777),
        }[owner]
        place.chmod(mode)
    if owner == "sticky":
        assert compile_cache.use().parent == own
        return
    with pytest.raises(
        ArtifactError, match="is a link" if owner == "link" else "writable by other"
    ):
        compile_cache.use()
    assert jax.config.jax_compilation_cache_dir is None


def test_missing_parents_are_created_for_the_user_alone(tmp_path, monkeypatch, nothing_chosen):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one" / "two"))
    before = os.umask(0)
    try:
        compile_cache.use()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700


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
    for epochs in "1", "2":
        jax.clear_caches()
        programs.all = programs.count = 0
        run = tmp_path / epochs
        assert cli.main([*args, "--run", str(run), "--train.epochs", epochs]) == 0
        assert programs.count == 1
        found.append(programs.all)
    assert len((run / "log.jsonl").read_text().splitlines()) > 3
    assert found[0] == found[1] > 1  # nor is any small operation compiled at every step


def test_detectors_of_a_process_share_their_programs(programs, rng):
    waves = [rng.standard_normal(8000).astype(np.float32) / 9 for _ in range(12)]
    asdjax.Detector().fit(waves)
    before = programs.all
    asdjax.Detector().fit(waves[::-1])
    assert programs.all == before > 0


def test_clips_of_many_lengths_share_a_program(run, programs, rng):
    embedder = asdjax.load(run)
    waves = [rng.standard_normal(n).astype(np.float32) / 9 for n in rng.integers(4000, 20000, 40)]
    embedder.embed(waves)
    before = programs.all
    embedder.embed(waves[::-1])
    assert programs.count == 1 and programs.all == before


def test_clips_that_keep_their_lengths_need_two_programs_a_class(programs, rng):
    """One for several clips and one for a single one, for any number and order of clips."""
    recipe = configs.load(TINY_BEATS)
    model = dataclasses.replace(recipe.model, adaptation="frozen", pooling=Mean(), embedding_size=0)
    extract = dataclasses.replace(recipe.extract, batch_size=8)
    _, params, stats = parameters.split(building.build(model, None, 16000, seed=0))
    weights = {"params": {"model": params}, "stats": {"model": stats}}
    weights = jax.tree.map(np.asarray, weights)
    embedder = Embedder(dataclasses.replace(recipe, model=model, extract=extract), None, weights)
    waves = [rng.standard_normal(n).astype(np.float32) / 9 for n in rng.integers(8000, 12_000, 40)]
    classes = {embedder.batching.row_length(len(wave)) for wave in waves}
    assert len(classes) > 1
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
    """Clips of similar lengths share a program, also of different machines."""
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
