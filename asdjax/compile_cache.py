"""Compiled programs kept between processes, so that only the first start compiles."""

import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib
import platformdirs

from asdjax.errors import AsdjaxError

SHORTEST = 0.2
"""Seconds of compiling from which on a program is kept, unless the user has chosen others."""

_REMEDY = "choose a directory with JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache"


def use() -> Path | None:
    """Keep compiled programs in the user's own cache directory; call it before anything compiles.

    Whoever can write there can run code in this process: the directories are the user's own, with
    mode 0700. Programs of another version of JAX, kind of device or processor have other
    directories.

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
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    return folder


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
