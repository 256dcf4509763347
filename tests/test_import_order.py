"""Imports go one way, folder by folder: parsed from every source file, not trusted."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import asdjax
from asdjax.config.registry import BUILT_IN

ROOT = Path(__file__).parent.parent
ORDER = [  # a file imports from its own row's folder and from the rows above
    {"errors", "_version"},
    {"files"},
    {"config"},
    {"runtime"},
    {"store"},
    {"data", "signal", "scoring"},
    {"challenge", "synth", "models", "arguments"},
    {"training"},
    {"embedder"},
    {"detector"},
    {"archive"},
    {"report", "server"},
    {"commands", "convert"},
    {"detector_verbs", "batch_verbs"},
    {"verbs"},
    {"cli"},
    {"__main__", "__init__"},
]
NO_JAX = {"errors", "files", "config", "data", "scoring", "challenge", "synth", "arguments"}
ONLY_IN = {
    "orbax": {"asdjax/store/checkpoint.py"},
    "grain": {"asdjax/data/batches.py"},
    "soundfile": {"asdjax/data/sound_files.py"},
    "tensorboardX": {"asdjax/store/event_files.py"},
    "fsspec": {"asdjax/files/url_files.py"},
    "ray": set(),  # it calls us
    "faiss": {"asdjax/scoring/inverted_lists.py"},
}
JAX = {"jax", "flax", "optax", "orbax"}
HEAVY = {*JAX, "numpy", "scipy", "sklearn", "imblearn", "soundfile", "grain"}
COMMANDS_WITHOUT_JAX = {"score", "evaluate", "compare", "submit", "data_report"}


def sources() -> dict[str, ast.Module]:
    files = [*ROOT.glob("asdjax/**/*.py"), *ROOT.glob("convert/*.py")]
    return {f.relative_to(ROOT).as_posix(): ast.parse(f.read_text("utf-8")) for f in files}


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of everything a tree imports when it runs, inside functions too."""
    names = set()
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folder(path: str) -> str:
    """The folder that a source file is in; of a file beside the folders, its own name."""
    if path.startswith("convert/"):
        return "convert"
    return path.removeprefix("asdjax/").split("/")[0].removesuffix(".py")


def project(tree: ast.AST) -> set[str]:
    """The folders of asdjax that a tree imports from."""
    parts = [name.split(".") for name in imported(tree)]
    return {part[1] for part in parts if part[0] == "asdjax" and len(part) > 1}


SOURCES = sources()
RANK = {name: i for i, row in enumerate(ORDER) for name in row}


def test_every_folder_has_its_place():
    assert {folder(path) for path in SOURCES} == RANK.keys()


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_imports(path):
    tree, here = SOURCES[path], folder(path)
    names = imported(tree)
    roots = {name.split(".")[0] for name in names}
    start = Path(path).name == "__main__.py"  # imports whatever it starts
    for other in project(tree) - {here} if not start else ():
        assert RANK[other] < RANK[here], f"{here} may not import {other}"
    assert not roots & {"torch", "tests", "scripts", "pickle"}
    without_jax = here in NO_JAX or Path(path).stem in COMMANDS_WITHOUT_JAX
    assert not (without_jax and roots & JAX), f"{path} runs without jax"
    if here == "commands":
        other = {name.split(".")[2] for name in names if name.startswith("asdjax.commands.")}
        assert not other - {Path(path).stem}, "commands do not import commands"
    for library, files in ONLY_IN.items():
        assert library not in roots or path in files, f"only {files} name {library}"


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_calls(path):
    for node in ast.walk(SOURCES[path]):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        parallel = path == "asdjax/runtime/parallel.py"
        assert owner != "jax" or node.attr not in ("pmap", "shard_map") or parallel
        assert not owner.startswith("jax.distributed") or parallel
        forbidden = {"jit", "grad", "value_and_grad", "pmap", "Optimizer"}
        assert not (owner == "nnx" and node.attr in forbidden), "functional training only"


def test_public_names_are_lazy_and_exist():
    assert not project(SOURCES["asdjax/__init__.py"]) - {"_version"}
    assert all(getattr(asdjax, name) is not None for name in asdjax.__all__)
    assert set(asdjax.__all__) == set(dir(asdjax))


def test_light_modules_stay_light():
    """The command's help must not wait for numerical libraries."""
    for name in (
        "cli",
        "verbs",
        "detector_verbs",
        "arguments",
        "config/recipe",
        "config/interfaces",
        "config/schema",
    ):
        top = [
            n
            for n in SOURCES[f"asdjax/{name}.py"].body
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        roots = {name.split(".")[0] for node in top for name in imported(node)}
        assert not roots & HEAVY


def test_what_a_recipe_names_is_light():
    """Reading a recipe loads the modules of what it names, and what these import."""
    modules = {module for names in BUILT_IN.values() for module in names.values()}
    program = f"import sys, {', '.join(sorted(modules))}; print(*{HEAVY} & {{*sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not loaded.stdout.split()


def test_training_and_detectors_start_without_what_few_of_them_need():
    program = """
import sys
from asdjax.commands import pseudo_labels, train
assert "sklearn" not in sys.modules
import numpy as np
from asdjax import Detector
Detector().fit(np.random.default_rng(0).standard_normal((12, 4000)) / 9)
assert "imblearn" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
