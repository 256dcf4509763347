"""Imports go one way: parsed from every source file, not trusted."""

import ast
from pathlib import Path

import pytest

import asdjax

ROOT = Path(__file__).parent.parent
VERBS = {"train", "extract", "embed", "score", "evaluate", "compare", "submit"}
HOST = {
    "config", "architectures", "schema", "errors", "editions", "folders", "dcase", "audio",
    "sound_layout", "sound_chunks", "sound_streams", "sound_files", "resampling",
    "copies", "corpus", "inventory", "synth", "machinery",
    "atomic", "documents", "embeddings", "training_record",
    "runs", "batches", "backends", "thresholds", "channels", "metrics", "bootstrap", "submission",
    "tables",
    "verification", "description", "pretrained",
    "strict_yaml", "package_files", "meta_faults",
    "console", "interruption", "arguments", "host_memory", "user_files", "_version",
}  # fmt: skip
JOINT = {
    "inference",
    "weights",
    "compile_cache",
    "devices",
}  # files and devices, for the verbs that embed
DEVICE = {"signal", "models", "mixup", "losses", "optim", "parallel", "learner", "checkpoint"}
ONLY_IN = {
    "orbax": {"asdjax/checkpoint.py"},
    "grain": {"asdjax/batches.py"},
    "soundfile": {"asdjax/sound_files.py"},
}
JAX = {"jax", "flax", "optax", "orbax"}


def sources() -> dict[str, ast.Module]:
    files = [*ROOT.glob("asdjax/**/*.py"), *ROOT.glob("convert/*.py")]
    return {f.relative_to(ROOT).as_posix(): ast.parse(f.read_text("utf-8")) for f in files}


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of everything a tree imports, inside functions too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module(path: str) -> str:
    """The part of asdjax a file belongs to."""
    if path.startswith("convert/"):
        return "convert"
    return path.removeprefix("asdjax/").split("/")[0].removesuffix(".py")


def project(tree: ast.AST) -> set[str]:
    """The parts of asdjax a file imports."""
    parts = [name.split(".") for name in imported(tree)]
    return {part[1] for part in parts if part[0] == "asdjax" and len(part) > 1}


SOURCES = sources()


def test_every_file_has_its_place():
    known = VERBS | HOST | DEVICE | JOINT | {"__init__", "__main__", "cli", "convert"}
    assert {module(path) for path in SOURCES} <= known


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_imports(path):
    tree, here = SOURCES[path], module(path)
    names = imported(tree)
    roots = {name.split(".")[0] for name in names}
    assert "cli" not in project(tree) or here == "__main__", "only the start imports the commands"
    assert not roots & {"torch", "tests", "scripts", "pickle"}
    if here != "cli":
        assert not project(tree) & VERBS - {here}, "verbs never import verbs"
    if here in HOST:
        assert not roots & JAX, "host nouns run without jax"
        assert not project(tree) & (DEVICE | JOINT | VERBS)
    if here in DEVICE | JOINT:
        assert not project(tree) & VERBS
    if here in DEVICE:
        assert not project(tree) & JOINT
        if here != "checkpoint":
            assert "pathlib" not in roots, "device nouns never take a path"
    if here in {"score", "evaluate", "compare", "submit"}:
        assert not roots & JAX and not project(tree) & (DEVICE | JOINT), "runs without jax"
    for library, files in ONLY_IN.items():
        assert library not in roots or path in files, f"only {files} name {library}"


@pytest.mark.parametrize("path", sorted(SOURCES))
def test_calls(path):
    for node in ast.walk(SOURCES[path]):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        assert (owner, node.attr) != ("jax", "pmap") or path == "asdjax/parallel.py"
        assert not owner.startswith("jax.distributed") or path == "asdjax/parallel.py"
        forbidden = {"jit", "grad", "value_and_grad", "pmap", "Optimizer"}
        assert not (owner == "nnx" and node.attr in forbidden), "functional training only"


def test_public_names_are_lazy_and_exist():
    assert not project(SOURCES["asdjax/__init__.py"]) - {"_version"}
    assert all(getattr(asdjax, name) is not None for name in asdjax.__all__)
    assert set(asdjax.__all__) == set(dir(asdjax))


def test_light_modules_stay_light():
    """The command's help must not wait for numerical libraries."""
    for name in ("cli", "config", "architectures", "schema"):
        top = [
            n
            for n in SOURCES[f"asdjax/{name}.py"].body
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        roots = {name.split(".")[0] for node in top for name in imported(node)}
        assert not roots & {*JAX, "numpy", "scipy", "sklearn", "imblearn", "soundfile", "grain"}
