"""JAX's persistent compilation cache, in a directory that belongs to the user alone.

Whoever can write to the directory can run code in every process that reads it. Therefore all that
leads to it is checked, and what is in it and not the user's own file is removed before JAX sees it.
"""

import glob
import hashlib
import os
import platform
import re
import shutil
import stat
import warnings
from pathlib import Path
from typing import Any

import jax
import jaxlib
import platformdirs

from asdjax import console
from asdjax.errors import AsdjaxError

SHORTEST = 0.2
"""Seconds of compiling from which on a program is kept, unless the user has chosen others."""

_REMEDY = "choose a directory with JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache"
_UNREADABLE = re.compile(
    r"Error (?:reading|writing) persistent compilation cache entry for '(?P<program>[^']+)'"
)
_ENTRY = "-cache"  # how the names of JAX's entries end
_RETIRED = "*/*.program"  # of a store that asdjax kept beside JAX's cache, and that failed


def use() -> Path | None:
    """Keep compiled programs in the user's own cache directory; call it before anything compiles.

    Programs of another version of JAX, kind of device or processor have other directories. An
    entry that cannot be read is said and removed, and the program compiled anew.

    Returns:
        The directory; None where the user has chosen one (JAX_COMPILATION_CACHE_DIR or
        `jax_compilation_cache_dir`) or turned caching off, which then stands.

    Raises:
        AsdjaxError: the directory cannot be made, is a link, or belongs to or may be written by
            others.

    Example:
        >>> compile_cache.use()
        PosixPath('/home/me/.cache/asdjax/compiled/jax-0.12.0-cpu-0123456789ab')
    """
    chosen = jax.config.jax_compilation_cache_dir
    if chosen is not None or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        cache = Path(platformdirs.user_cache_dir("asdjax", appauthor=False))
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise AsdjaxError(f"no place to keep compiled programs ({error}): {_REMEDY}") from None
    folder = cache / "compiled" / _key()
    try:
        _make_private(folder, ours=3)
        _remove_strange(folder)
    except OSError as error:
        where, why = error.filename or folder, error.strerror
        raise AsdjaxError(
            f"{where}: no place to keep compiled programs ({why}): {_REMEDY}"
        ) from None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    _remove_unreadable(folder)
    return folder


def _make_private(folder: Path, ours: int) -> None:
    """Make `folder` with mode 0700, and refuse it where others could put files into it.

    Args:
        folder: an absolute path.
        ours: how many of its last names are asdjax's own, and may not be links.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
    if not hasattr(os, "getuid"):
        return  # Windows: the user's profile is the user's alone
    for path in [folder, *folder.parents][:ours]:
        if path.is_symlink():
            raise AsdjaxError(f"{path}: is a link, which others may have placed: {_REMEDY}")
    resolved = folder.resolve()
    own = [resolved, *resolved.parents][:ours]
    for path in [resolved, *resolved.parents]:
        found = path.stat()
        # in a sticky directory (/tmp) nobody can replace what is another's
        shared = path not in own and found.st_mode & stat.S_ISVTX
        may_write = not shared and found.st_mode & 0o022
        if may_write or found.st_uid not in ({os.getuid()} if path in own else {os.getuid(), 0}):
            raise AsdjaxError(
                f"{path}: belongs to or may be written by others, who could place programs there "
                f"that this process would run: {_REMEDY}"
            )


def _remove_strange(folder: Path) -> None:
    """Remove what cannot be an entry of JAX's, such as a FIFO, which it would wait for."""
    for path in folder.parent.glob(_RETIRED):
        path.unlink(missing_ok=True)
    for path in folder.glob(f"*{_ENTRY}"):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == folder.stat().st_uid:
            continue
        console.say(f"{path}: not a compiled program: deleted, the program is made anew")
        _delete(path)


def _remove_unreadable(folder: Path) -> None:
    """Remove entries when JAX warns that it cannot read one of them.

    JAX compiles anew, but never replaces an entry: without this every later start would find the
    same damage. The warning names the program, which may have several entries.
    """
    show, said = warnings.showwarning, False

    def show_or_remove(message: Warning | str, *about: Any, **more: Any) -> None:
        nonlocal said
        found = _UNREADABLE.match(str(message))
        if not found:
            show(message, *about, **more)
            return
        for path in folder.glob(f"{glob.escape(found['program'])}-*{_ENTRY}"):
            _delete(path)
        if not said:
            why = " ".join(str(message).split())[:300]
            console.say(f"{folder}: a compiled program is made anew ({why})")
        said = True

    warnings.showwarning = show_or_remove


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
