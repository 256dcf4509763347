"""JAX's persistent compilation cache, in a directory that only the user may write to.

Anybody who can write to the directory can run code in every process that reads it. Therefore the
permissions of it and its parents are checked. Entries without a matching digest are deleted before
JAX reads them: a damaged program may crash or compute wrong numbers, and JAX has no checksum
(zstandard's streams have none). Compiled are the functions that parallel.py maps over devices: the
training step, and the embedding of a batch.

    <program>-<key>-cache           JAX's entry
    <program>-<key>-cache.digest    digest of its name and content, written when it is complete
"""

import contextlib
import glob
import hashlib
import logging
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

_LOG = logging.getLogger(__name__)
SHORTEST = 0.2
"""Programs that took at least so many seconds to compile are stored, unless the user sets JAX's
option."""

_REMEDY = "choose a directory with JAX_COMPILATION_CACHE_DIR, or give --no-compile-cache"
_WARNING = re.compile(
    r"Error (?P<act>reading|writing) persistent compilation cache entry for '(?P<program>[^']+)'"
)
_directory: Path | None = None  # set by `use`
_DIGEST = ".digest"
_ENTRY = "-cache"  # suffix of JAX's entries
_RETIRED = "*/*.program"  # files of earlier versions of asdjax, deleted


def use() -> Path | None:
    """Store compiled programs in the user's cache directory; call it before anything compiles.

    Each version of JAX, kind of device and processor has its own directory. Damaged entries are
    reported and deleted, and their programs compiled again. `seal` then records the new entries.

    Returns:
        The directory; None if the user has chosen one (JAX_COMPILATION_CACHE_DIR or
        `jax_compilation_cache_dir`) or disabled caching.

    Raises:
        AsdjaxError: the directory cannot be created, is a link, or other users own it or may write
            to it.

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
    except RuntimeError as error:  # neither HOME nor an entry in the user database
        raise ArtifactError(f"no directory for compiled programs ({error}): {_REMEDY}") from None
    folder = cache / "compiled" / _key()
    try:
        _make_private(folder, ours=3)
        _remove_invalid(folder)
    except OSError as error:
        inside = os.path.isabs(error.filename or "")  # shutil states names within a folder
        where, why = error.filename if inside else folder, error.strerror
        raise ArtifactError(
            f"{where}: cannot store compiled programs there ({why}): {_REMEDY}"
        ) from None
    global _directory
    _directory = folder
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)
    _explain_warnings(str(folder), ours=True)
    _LOG.info(f"compiled programs are kept in {folder}")
    return folder


def seal() -> None:
    """Write the digests of new entries; the next `use` deletes entries without one.

    Call it after compiling. It does nothing in a process that has not called `use`.
    """
    for path in _directory.glob(f"*{_ENTRY}") if _directory is not None else ():
        record = path.with_name(path.name + _DIGEST)
        if not os.path.lexists(record):
            # On a full disk, or if another process deleted the entry, it is compiled again.
            with contextlib.suppress(AsdjaxError):
                atomic.write_bytes(record, _digest(path), overwrite=False)


def _make_private(folder: Path, ours: int) -> None:
    """Create `folder` with mode 0700, and refuse it if other users could put files into it.

    Args:
        folder: an absolute path.
        ours: the number of last directories that belong to asdjax and must not be links.
    """
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
    if not hasattr(os, "getuid"):
        return  # Windows: the user's profile is the user's alone
    for path in [folder, *folder.parents][:ours]:
        if path.is_symlink():
            raise ArtifactError(f"{path}: is a link, maybe of another user: {_REMEDY}")
    resolved = folder.resolve()
    private = [resolved, *resolved.parents][:ours]
    for path in [resolved, *resolved.parents]:
        found = path.stat()
        # in a sticky directory (/tmp) nobody can replace files of other users
        sticky = path not in private and found.st_mode & stat.S_ISVTX
        may_write = not sticky and found.st_mode & 0o022
        owners = {os.getuid()} if path in private else {os.getuid(), 0}
        if may_write or found.st_uid not in owners:
            raise ArtifactError(
                f"{path}: owned or writable by other users, who could place programs there that "
                f"this process would run: {_REMEDY}"
            )


def _remove_invalid(folder: Path) -> None:
    """Delete entries without a matching digest, and files of earlier versions of asdjax.

    The digest is missing if the command was killed or still compiles. An entry that is not a
    regular file, such as a FIFO, is deleted too: JAX would wait for it.
    """
    for path in folder.parent.glob(_RETIRED):
        _delete(path)
    invalid = [path for path in sorted(folder.glob(f"*{_ENTRY}")) if not _is_sealed(path)]
    for path in invalid:
        _delete(path)
    if invalid:
        count = "a compiled program" if len(invalid) == 1 else f"{len(invalid)} compiled programs"
        console.say(
            f"{folder}: deleted {count} of a command that was killed or still runs, or damaged; "
            "what is needed is compiled again"
        )


def _is_sealed(path: Path) -> bool:
    with contextlib.suppress(AsdjaxError):
        return user_files.read_bytes(path.with_name(path.name + _DIGEST), most=64) == _digest(path)
    return False


def _digest(path: Path) -> bytes:
    """Digest of an entry's name and content; the name, so that entries cannot be exchanged."""
    if path.is_symlink():
        raise ArtifactError(f"{path}: is a link")
    digest = hashlib.blake2b(path.name.encode(), digest_size=16)
    with user_files.open_regular(path) as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest().encode()


def _explain_warnings(place: str, ours: bool) -> None:
    """Replace JAX's warnings that it cannot read or write an entry by one sentence of each kind.

    JAX compiles the program again, but never replaces an entry. Entries without a digest may be
    truncated and are deleted from asdjax's directory, so that the next start does not find them
    again. In a directory of the user, the message tells what to delete. JAX names the program,
    which may have several entries.
    """
    show, reported = warnings.showwarning, set()
    # also if the user's settings turn warnings into errors, which would end the command
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
                with contextlib.suppress(OSError):  # a read-only directory
                    _delete(path)
        if found["act"] not in reported:
            where = place if ours else f"JAX_COMPILATION_CACHE_DIR ({place})"
            what = "read, and is compiled again" if found["act"] == "reading" else "stored"
            why = " ".join(str(message).split())[:300]
            remedy = ""
            if not ours and entries and found["act"] == "reading":
                damaged = entries[0].name if len(entries) == 1 else pattern
                remedy = f": delete {damaged} there, or the directory"
            console.say(f"{where}: a compiled program cannot be {what} ({why}){remedy}")
        reported.add(found["act"])

    warnings.showwarning = explain


def _delete(entry: Path) -> None:
    for path in entry, entry.with_name(entry.name + _DIGEST):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _key() -> str:
    """Name of the directory for this version of JAX, kind of device and processor."""
    device = jax.local_devices()[0]
    about = [jax.__version__, jaxlib.__version__, device.platform, device.device_kind]
    if device.platform == "cpu":
        about.append(_processor())
    digest = hashlib.sha256("\n".join(about).encode()).hexdigest()[:12]
    return f"jax-{jax.__version__}-{device.platform}-{digest}"


def _processor() -> str:
    """The processor's model and instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
