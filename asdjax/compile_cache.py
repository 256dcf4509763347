"""Compiled programs kept between processes, so that only the first start traces and compiles."""

import hashlib
import os
import platform
import tempfile
import zlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jaxlib
import platformdirs
from flax import serialization
from jax.experimental import serialize_executable
from jax.tree_util import PyTreeDef, default_registry

from asdjax import console
from asdjax.errors import AsdjaxError

SHORTEST = 0.2
"""Seconds of compiling from which on a program is kept, unless the user has chosen others."""

_own: tuple[Path, list[str]] | None = None  # where `kept` looks for programs, and of which makers
# whose code makes programs, with ours
_TRACING = "jax", "jaxlib", "flax", "optax", "numpy", "scipy"
_FLAGS = "JAX_", "FLAX_", "XLA_", "LIBTPU_", "TF_", "NVIDIA_"  # how settings' names begin

_REMEDY = "choose a directory with JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache"


def use(*, alone: bool = False) -> Path | None:
    """Keep compiled programs in the user's own cache directory; call it before anything compiles.

    Whoever can write there can run code in this process: the directories are the user's own, with
    mode 0700. Programs of another version of JAX, kind of device or processor have other
    directories.

    Args:
        alone: no other code than this package's decides here what is computed, as in the command:
            then programs are also found without being traced (see `kept`).

    Returns:
        The directory; None where the user has chosen one (JAX_COMPILATION_CACHE_DIR or
        `jax_compilation_cache_dir`) or turned caching off, which then stands.

    Raises:
        AsdjaxError: the directory cannot be made, or belongs to or may be written by others.
    """
    chosen = jax.config.jax_compilation_cache_dir
    if chosen is not None or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        cache = Path(platformdirs.user_cache_dir("asdjax", appauthor=False))
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise AsdjaxError(f"no place to keep compiled programs ({error}): {_REMEDY}") from None
    folder = cache / "compiled" / _key()
    for path in (folder.parent.parent, folder.parent, folder):
        _make_private(path)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    global _own
    _own = (folder, _makers()) if alone else None
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return folder


def kept(function: Callable, devices: Sequence[jax.Device], *about: object) -> Callable:
    """A function of `parallel` whose programs are found again without tracing it.

    JAX's own cache finds a program by what it says, for which Python traces and lowers it at every
    start: longer than fetching it. Here a program is found by what it is made from: the text of
    this package, the versions of those that trace, all settings of JAX and of its compilers, the
    devices, the arguments' shapes, and `about`.

    Args:
        function: from `parallel`.
        devices: that it runs on.
        about: whatever else it depends on, which `repr` tells apart.

    Returns:
        The same function, programs and results. Itself, unless `use` was told that this process is
        alone; and where it is one of several, or does not compile.
    """
    settings = jax.config
    if _own is None or settings.jax_compilation_cache_dir != str(_own[0]):
        return function
    wanted = settings.jax_enable_compilation_cache and not settings.jax_disable_jit
    if not wanted or jax.process_count() > 1:
        return function
    return _Kept(function, devices, *_own, repr(about))


class _Kept:
    """A function and its programs, in memory and in files."""

    def __init__(
        self,
        function: Callable,
        devices: Sequence[jax.Device],
        folder: Path,
        makers: list[str],
        about: str,
    ):
        self._function, self._devices, self._folder = function, devices, folder
        self._makers, self._about = makers, about
        self._programs: dict[Any, Callable] = {}

    def __call__(self, *arguments: Any) -> Any:
        leaves, tree = jax.tree.flatten((arguments, {}))  # as a compiled program names them
        shapes = tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if shapes not in self._programs:
            self._programs[shapes] = self._program(arguments, tree)
        return self._programs[shapes](*arguments)

    def _program(self, arguments: tuple[Any, ...], tree: PyTreeDef) -> Callable:
        said = [str(jax.typeof(leaf)) for leaf in jax.tree.leaves(arguments)]
        parts = self._makers, _settings(), self._devices, self._about, str(tree), said
        name = hashlib.sha256(repr(parts).encode()).hexdigest()
        path = self._folder / f"{name}.program"
        program = _read(path, tree, self._devices)
        if program is None:
            program = self._function.lower(*arguments).compile()
            if _makers() == self._makers:  # else files changed under this process
                _write(path, program)
        return program


def _read(path: Path, arguments: PyTreeDef, devices: Sequence[jax.Device]) -> Callable | None:
    """The program in a file; None where there is none or it was damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, packed = content[:32], content[32:]
    if hashlib.sha256(packed).digest() != digest:
        return None
    parts = serialization.msgpack_restore(zlib.decompress(packed))
    results = PyTreeDef.deserialize_using_proto(default_registry, parts["results"])
    try:
        return serialize_executable.deserialize_and_load(
            parts["program"], arguments, results, execution_devices=devices
        )
    except jax.errors.JaxRuntimeError as error:
        console.say(f"{path}: this program cannot be loaded ({error}): compiling anew")
        return None


def _write(path: Path, program: Any) -> None:
    """Keep a program, whole or not at all; where that cannot be, say so."""
    executable, _, results = serialize_executable.serialize(program)
    parts = {"program": executable, "results": results.serialize_using_proto()}
    packed = zlib.compress(serialization.msgpack_serialize(parts), 1)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            beside = Path(folder) / path.name
            beside.write_bytes(hashlib.sha256(packed).digest() + packed)
            beside.replace(path)
    except OSError as error:
        console.say(f"{path.parent}: cannot keep a program there ({error.strerror}): {_REMEDY}")


def _makers() -> list[str]:
    """What makes programs: this package's files by their content, others by their versions."""
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    texts = [f"{f.relative_to(root)} {hashlib.sha256(f.read_bytes()).hexdigest()}" for f in files]
    return [*texts, platform.python_version(), *(metadata.version(name) for name in _TRACING)]


def _settings() -> list[str]:
    """All that JAX and its compilers were told, and what they run on."""
    known = jax.config.values
    told = [f"{name} {getattr(jax.config, name, known[name])}" for name in sorted(known)]
    flags = [f"{k} {v}" for k, v in sorted(os.environ.items()) if k.startswith(_FLAGS)]
    client = jax.local_devices()[0].client
    return [*told, *flags, client.platform_version, str(jax.devices())]


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        why = error.strerror
        raise AsdjaxError(
            f"{path}: no place to keep compiled programs ({why}): {_REMEDY}"
        ) from None
    if not hasattr(os, "getuid"):
        return  # Windows: the user's profile is the user's alone
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise AsdjaxError(
            f"{path}: belongs to or may be written by others, who could place programs there that "
            f"this process would run: {_REMEDY}"
        )


def _key() -> str:
    """What a compiled program depends on beside itself."""
    device = jax.local_devices()[0]
    about = [jax.__version__, jaxlib.__version__, device.platform, device.device_kind]
    if device.platform == "cpu":
        about.append(_processor())
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{device.platform}-{digest}"


def _processor() -> str:
    """The processor's model and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
