"""JAX's persistent compilation cache, in a directory that belongs to the user alone.

Whoever can write to the directory can run code in every process that reads it. Therefore all that
leads to it is checked, and what is in it and not as a command left it is removed before JAX sees
it: a damaged program may crash or compute other numbers (zstandard's streams have no checksum).

    <program>-<key>-cache           JAX's entry
    <program>-<key>-cache.digest    of its name and content, written when it is complete
"""

import contextlib
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

from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import atomic, user_files
from asdjax.runtime import console

SHORTEST = 0.2
"""Seconds of compiling from which on a program is kept, unless the user has chosen others."""

_REMEDY = "choose a directory with JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache"
_WARNING = re.compile(
    r"Error (?P<act>reading|writing) persistent compilation cache entry for '(?P<program>[^']+)'"
)
_own: Path | None = None  # the directory, once `use` has chosen it
_DIGEST = ".digest"
_ENTRY = "-cache"  # how the names of JAX's entries end
_RETIRED = "*/*.program"  # of a store that asdjax kept beside JAX's cache, and that failed


def use() -> Path | None:
    """Keep compiled programs in the user's own cache directory; call it before anything compiles.

    Programs of another version of JAX, kind of device or processor have other directories. What is
    damaged there is said and removed, and the programs are compiled anew. `seal` then completes
    what was compiled.

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
    settings = jax.config.values
    chosen = settings["jax_compilation_cache_dir"]
    if not settings["jax_enable_compilation_cache"]:
        return None
    if chosen is not None:
        _explain_warnings(chosen, ours=False)
        return None
    try:
        cache = Path(platformdirs.user_cache_dir("asdjax", appauthor=False))
    except RuntimeError as error:  # neither HOME nor an entry in the list of users
        raise ArtifactError(f"no place to keep compiled programs ({error}): {_REMEDY}") from None
    folder = cache / "compiled" / _key()
    try:
        _make_private(folder, ours=3)
        _remove_strange(folder)
    except OSError as error:
        where, why = error.filename or folder, error.strerror
        raise ArtifactError(
            f"{where}: no place to keep compiled programs ({why}): {_REMEDY}"
        ) from None
    global _own
    _own = folder
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    _explain_warnings(str(folder), ours=True)
    return folder


def seal() -> None:
    """Write down the digests of new programs; one without a digest is made anew next time.

    Call it after compiling. It does nothing in a process that has not called `use`.
    """
    for path in _own.glob(f"*{_ENTRY}") if _own is not None else ():
        record = path.with_name(path.name + _DIGEST)
        if not os.path.lexists(record):
            # Without room, or where another process has removed it: it is made anew next time.
            with contextlib.suppress(AsdjaxError):
                atomic.write_bytes(record, _digest(path), overwrite=False)


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
            raise ArtifactError(f"{path}: is a link, which others may have placed: {_REMEDY}")
    resolved = folder.resolve()
    own = [resolved, *resolved.parents][:ours]
    for path in [resolved, *resolved.parents]:
        found = path.stat()
        # in a sticky directory (/tmp) nobody can replace what is another's
        shared = path not in own and found.st_mode & stat.S_ISVTX
        may_write = not shared and found.st_mode & 0o022
        if may_write or found.st_uid not in ({os.getuid()} if path in own else {os.getuid(), 0}):
            raise ArtifactError(
                f"{path}: belongs to or may be written by others, who could place programs there "
                f"that this process would run: {_REMEDY}"
            )


def _remove_strange(folder: Path) -> None:
    """Remove what is not as a command left it, or of a command that was killed or still compiles.

    That includes what is no file, such as a FIFO, for which JAX would wait.
    """
    for path in folder.parent.glob(_RETIRED):
        _delete(path)
    strange = [path for path in sorted(folder.glob(f"*{_ENTRY}")) if not _is_sealed(path)]
    for path in strange:
        _delete(path)
    if strange:
        console.say(
            f"{folder}: removed {len(strange)} of the compiled programs, which will be compiled "
            "anew: changed since they were written, or of a command that was killed or still runs"
        )


def _is_sealed(path: Path) -> bool:
    with contextlib.suppress(AsdjaxError):
        return user_files.read_bytes(path.with_name(path.name + _DIGEST), most=64) == _digest(path)
    return False


def _digest(path: Path) -> bytes:
    """Of an entry's name, without which one could stand in for another, and content."""
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link")
    digest = hashlib.blake2b(path.name.encode(), digest_size=16)
    with user_files.open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest().encode()


def _explain_warnings(place: str, ours: bool) -> None:
    """Say it once in a sentence when JAX warns that it cannot read or write an entry.

    JAX compiles anew, but never replaces an entry: what has no digest, and may be cut off, is
    removed from our own directory, or every later start would find the same damage. In a directory
    of the user's choice that is left to the user. The warning names the program, which may have
    several entries.
    """
    show, said = warnings.showwarning, set()
    # whatever the user has told Python to do with warnings: an error would end the command
    warnings.filterwarnings("always", _WARNING.pattern, UserWarning)

    def explain(message: Warning | str, *about: Any, **more: Any) -> None:
        found = _WARNING.match(str(message))
        if not found:
            show(message, *about, **more)
            return
        pattern = f"{glob.escape(found['program'])}-*{_ENTRY}"
        entries = list(Path(place).glob(pattern))
        for path in entries if ours else ():
            if not _is_sealed(path):
                with contextlib.suppress(OSError):  # a directory that may only be read
                    _delete(path)
        if found["act"] not in said:
            where = place if ours else f"JAX_COMPILATION_CACHE_DIR ({place})"
            what = "read: compiled anew" if found["act"] == "reading" else "kept"
            why = " ".join(str(message).split())[:300]
            remedy = ""
            if not ours and entries and found["act"] == "reading":
                damaged = entries[0].name if len(entries) == 1 else pattern
                remedy = f": delete {damaged} there, or all of it"
            console.say(f"{where}: a compiled program cannot be {what} ({why}){remedy}")
        said.add(found["act"])

    warnings.showwarning = explain


def _delete(entry: Path) -> None:
    for path in entry, entry.with_name(entry.name + _DIGEST):
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
