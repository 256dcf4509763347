"""Atomic writing of files and folders, and locks.

A file is written as `.asdjax-….partial` in its destination's folder, a folder as
`.NAME.asdjax-partial`, and renamed when complete. The writing process holds a lock on the temporary
file or folder: those of killed processes, which have no lock, are deleted by the next command.
Nothing is written through a symbolic link. Every OSError becomes an `AsdjaxError` with the path.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files.user_files import unreadable

_HIDDEN_FILE = re.compile(r"\.asdjax-[0-9a-f]{16}\.partial")
_HIDDEN_FOLDER = re.compile(r"\..+\.(asdjax-partial|discarded)")
_held: dict[Path, int] = {}
"""The locks of folders that this process holds (see `locked`), with their descriptors."""
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "free some disk space and run the same command again",
    errno.EDQUOT: "free some disk space and run the same command again",
    errno.EMFILE: "allow more open files (ulimit -n) and run the same command again",
    errno.ENFILE: "close other programs and run the same command again",
    errno.EFBIG: "allow larger files (ulimit -f) and run the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EEXIST: "a file stands where a folder is needed: move it away",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.ENOENT: "its folder was deleted, or is a broken link: run the same command again, or "
    "choose another path",
    errno.EACCES: "get write permission, or choose another path",
    errno.EPERM: "get write permission, or choose another path",
    errno.EROFS: "get write permission, or choose another path",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into an `AsdjaxError` with `path` and what to do.

    Raises:
        AsdjaxError: also if the path lies in a folder that this process has `locked` and that was
            moved, because the folder would be made again.
    """
    for lock, descriptor in _held.items():
        if Path(os.path.realpath(path)).is_relative_to(lock.parent):
            _require_at(descriptor, lock)
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "choose another path")
        why = error.strerror or str(error)
        raise ArtifactError(f"{path}: cannot be written ({why}): {remedy}") from error


def taken(path: Path) -> AsdjaxError:
    """The error for a path that exists and must not be replaced."""
    return ArtifactError(
        f"{path}: exists already: choose another path, or overwrite it (--overwrite)"
    )


# files


def write_bytes(path: Path, content: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write a file atomically and flush it to disk; missing parent folders are created.

    Args:
        path: the file; a symbolic link of this name is replaced, not followed.
        content: its bytes.
        overwrite: whether an existing file may be replaced; if not, one of two processes fails.

    Raises:
        AsdjaxError: the path exists or cannot be written; nothing has changed then.

    Example:
        >>> write_bytes(Path("out/scores.csv"), b"path,score\\n", overwrite=False)
    """
    with whole_file(path, overwrite=overwrite) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: Path, *, overwrite: bool = True, shared: bool = False) -> Iterator[BinaryIO]:
    """A temporary file, which becomes `path` unless the block raises an exception.

    Args:
        path: as in `write_bytes`.
        overwrite: as in `write_bytes`.
        shared: whether other hosts write to the same folder: their temporary files are then left
            alone, as locks may not reach from host to host. See `delete_leftovers`.

    Raises:
        AsdjaxError: as in `write_bytes`; also for an `OSError` of the block.
    """
    with writing(path), _parents(path):
        require_free(path, overwrite)
        if not shared:
            delete_leftovers(path.parent)
        temporary = path.with_name(f".asdjax-{secrets.token_hex(8)}.partial")
        try:
            with open(_open_temporary(temporary), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if overwrite:
                    temporary.replace(path)
                else:
                    _rename_to_new(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Append to a file, which is created if missing; a link is an `AsdjaxError`."""
    with writing(path), open_to_append(path) as file:
        file.write(content)


def open_to_append(path: Path) -> BinaryIO:
    """Open a file for appending; otherwise like `append`."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with writing(path):
        return open(os.open(path, flags, 0o666), "wb")


def delete(path: Path) -> None:
    """Delete a file if it exists."""
    with writing(path):
        path.unlink(missing_ok=True)


def require_free(path: Path, overwrite: bool) -> None:
    """Check that a file may be written to `path`.

    Raises:
        AsdjaxError: it exists and is not a regular file, or must not be replaced.
    """
    with writing(path):
        if not os.path.lexists(path):
            return
        if not overwrite:
            raise taken(path)
        if path.exists() and not path.is_file():
            raise ArtifactError(f"{path}: is not a regular file: choose another path")


def _open_temporary(path: Path) -> int:
    """Create and lock a temporary file, and return its descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(path, flags, 0o666)
        with contextlib.suppress(OSError):  # without locks, leftovers are not deleted either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process deleted it before it was locked


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename a finished file; `AsdjaxError` if the new name exists."""
    try:
        os.link(temporary, path)
        return
    except FileExistsError as error:
        raise taken(path) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    try:  # an empty file reserves the name
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError as error:
        raise taken(path) from error
    try:
        temporary.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def delete_leftovers(folder: Path) -> None:
    """Delete the temporary files of killed processes in a folder."""
    with contextlib.suppress(PermissionError):  # a folder may be writable but not readable
        for name in filter(_HIDDEN_FILE.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):  # deleted meanwhile, locked, or not a file
                _delete_abandoned(folder / name)


def _delete_abandoned(hidden: Path) -> None:
    found = os.lstat(hidden)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        return
    descriptor = os.open(hidden, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.unlink()
    finally:
        os.close(descriptor)


# folders


@contextlib.contextmanager
def whole_folder(folder: Path, check: Callable[[], None]) -> Iterator[Path]:
    """A temporary empty folder, which replaces `folder` unless the block raises an exception.

    Args:
        folder: destination; if it is a symbolic link, its target is replaced.
        check: raises `AsdjaxError` if the existing folder must not be replaced; called before and
            after the block.

    Raises:
        AsdjaxError: from `check`; another process is writing this folder; or it cannot be written.
            In errors that the block raises, `folder` replaces the temporary folder's name.
    """
    place = Path(os.path.realpath(folder))
    if not place.name:
        raise ArtifactError(f"{folder}: cannot be replaced: name a folder to create")
    work = place.with_name(f".{place.name}.asdjax-partial")
    made, earlier = work / "made", work / "earlier"

    def restore() -> None:
        if earlier.exists() and not place.exists():
            earlier.rename(place)

    with _parents(place), _claimed(work, folder):
        with writing(folder):
            restore()  # after a process was killed between the two renames
            for leftover in work.iterdir():
                with writing(leftover):
                    shutil.rmtree(leftover)
            made.mkdir()
        check()
        _require_deletable(place)
        try:
            yield made
        except AsdjaxError as error:
            raise type(error)(str(error).replace(str(made), str(folder))) from error
        check()
        with writing(folder):
            try:
                if place.exists():
                    place.rename(earlier)
                made.rename(place)
            except BaseException:
                restore()
                raise
            if earlier.exists():
                shutil.rmtree(earlier)


def _require_deletable(folder: Path) -> None:
    """Refuse to replace a folder with a read-only one in it, before half of it is deleted."""
    for parent, folders, _ in os.walk(folder):
        for path in (Path(parent, name) for name in folders):
            if not (path.is_symlink() or is_writable(path)):
                raise ArtifactError(f"{path}: is read-only, and would be deleted: make it writable")


def clear_abandoned(folder: Path) -> None:
    """Delete what a process left that was killed after it had replaced `folder`."""
    place = Path(os.path.realpath(folder))
    work = place.with_name(f".{place.name}.asdjax-partial")
    if work.exists():
        with contextlib.suppress(_Busy), _claimed(work, folder):
            pass  # it is deleted at the end


def require_result(folder: Path, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """Check that a result may be written to `folder`; `AsdjaxError` if not.

    Args:
        folder: destination.
        overwrite: whether an earlier result may be replaced.
        ours: tells whether a folder is an earlier result; other folders are never replaced.
    """
    with writing(folder):
        if not folder.exists():
            return
    if not overwrite:
        raise taken(folder)
    if not ours(folder):
        raise ArtifactError(
            f"{folder}: not a result of this command, so that --overwrite does not replace it: "
            "choose another path"
        )


def foreign(folder: Path, written: Collection[Path]) -> list[Path]:
    """The files in a folder and below that a command has not written, sorted.

    Args:
        folder: to search; it need not exist.
        written: the files that the command writes.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.is_symlink() or not path.is_dir())
        and path not in written
        and not _HIDDEN_FILE.fullmatch(path.name)  # what is left of one that was killed
        and not any(_HIDDEN_FOLDER.fullmatch(part) for part in path.relative_to(folder).parts)
    )


def refuse_foreign(files: Sequence[Path], option: str) -> None:
    """Raise `AsdjaxError` if there are files of other origin, which an option would delete."""
    if files:
        raise ArtifactError(
            f"{files[0]}: not written by asdjax, and {option} would delete it: move it away"
        )


def is_writable(folder: Path) -> bool:
    """Whether this process may create and delete files in a folder."""
    return os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def require_writable(folder: Path) -> None:
    """Raise `AsdjaxError` if this process may not create and delete files in a folder."""
    if not is_writable(folder):
        raise ArtifactError(f"{folder}: is read-only: make it writable")


def discarded(folder: Path) -> Path:
    """The name that `discard` gives a folder before it deletes it."""
    return folder.with_name(f".{folder.name}.discarded")


def discard(folder: Path) -> None:
    """Rename a folder, then delete it, so that no part of it remains under its name."""
    gone = discarded(folder)
    with writing(folder):
        if gone.exists():  # after an interrupted deletion
            shutil.rmtree(gone)
        if folder.exists():
            folder.rename(gone)
            shutil.rmtree(gone)


def clear(folder: Path, names: Sequence[str] | None = None) -> None:
    """Delete the temporary folders of killed processes in `folder`, which the caller has locked.

    Args:
        folder: the folder to clear.
        names: folders whose interrupted deletion is completed; None: all temporary folders of
            asdjax are deleted.
    """
    hidden = None if names is None else {discarded(folder / name).name for name in names}
    with writing(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            ours = _HIDDEN_FOLDER.fullmatch(path.name) if hidden is None else path.name in hidden
            if ours and path.is_dir():
                with writing(path):
                    shutil.rmtree(path)


@contextlib.contextmanager
def _claimed(work: Path, place: Path) -> Iterator[None]:
    """Create or take over a temporary folder and lock it; it is deleted afterwards."""
    busy = f"{place}: another process is writing it: wait for it, or choose another path"
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor, fresh, held = None, False, False
    try:
        while not held:
            if descriptor is not None:
                os.close(descriptor)  # the folder was deleted meanwhile
                descriptor = None
            with writing(place):
                fresh = True  # set first: a signal may raise right after mkdir
                try:
                    work.mkdir()
                except FileExistsError:
                    fresh = False
                try:
                    descriptor = os.open(work, flags)
                except FileNotFoundError:
                    continue  # another process has just deleted it
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    raise ArtifactError(f"{work}: not a folder of asdjax: delete it") from error
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise ArtifactError(f"{work}: belongs to another user: choose another path")
            try:
                held = _lock(descriptor, place, busy, work)
            except _Busy:
                fresh = False  # another process uses it
                raise
        yield
    finally:
        if held:
            shutil.rmtree(work, ignore_errors=True)
        elif fresh:
            with contextlib.suppress(OSError):
                work.rmdir()
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Create missing parent folders; after an exception, those still empty are deleted."""
    made = []
    try:
        with writing(path):
            for folder in reversed([p for p in path.parents if not p.exists()]):
                folder.mkdir(exist_ok=True)
                made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


# links and locks


class _Busy(AsdjaxError):
    """Another process holds the lock."""


def refuse_links(path: Path) -> None:
    """Check that a path and everything in it are regular files and folders.

    Raises:
        AsdjaxError: it is or contains a symbolic link, a FIFO, a device or a socket.
    """
    waiting = [path]
    while waiting:
        place = waiting.pop()
        try:
            mode = os.lstat(place).st_mode
            if stat.S_ISDIR(mode):
                waiting += sorted(place.iterdir())
                continue
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ArtifactError(unreadable(place, error)) from error
        if stat.S_ISLNK(mode):
            raise ArtifactError(
                f"{place}: is a link, which asdjax does not follow here: delete it, or replace it "
                "by its target"
            )
        if not stat.S_ISREG(mode):
            raise ArtifactError(f"{place}: is neither a file nor a folder: delete it")


@contextlib.contextmanager
def locked(
    path: Path, busy: str, *, replaced: bool = False, of_folder: bool = False
) -> Iterator[None]:
    """Lock a file until the block or the process ends.

    Args:
        path: a regular file, created if missing; its content is not changed.
        busy: error message if another process holds the lock.
        replaced: whether the block replaces the file, as `write_bytes` does.
        of_folder: whether the lock is that of its folder: if the folder is moved meanwhile, nothing
            is written to its former place any more.

    Raises:
        AsdjaxError: another process holds the lock; the path is not a regular file; or its file
            system has no locks.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    refuse_links(path)
    real = Path(os.path.realpath(path))
    with writing(path):
        descriptor = os.open(path, flags, 0o666)
    try:
        if not (stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor, path, busy, path)):
            raise ArtifactError(f"{path}: was replaced meanwhile: run the same command again")
        if of_folder:
            _held[real] = descriptor
        try:
            yield
        except AsdjaxError:
            if of_folder:
                _require_at(descriptor, path)  # else a file that is missing is named
            raise
        if not replaced:
            _require_at(descriptor, path)
    finally:
        _held.pop(real, None)
        os.close(descriptor)


def _require_at(descriptor: int, lock: Path) -> None:
    """Raise `AsdjaxError` unless the file of a lock is where it was locked."""
    if not is_at(descriptor, lock):
        raise ArtifactError(
            f"{lock.parent}: was moved or replaced while this command wrote to it: run the same "
            "command again"
        )


def _lock(descriptor: int, path: Path, busy: str, name: Path) -> bool:
    """Lock an open file or folder; False if `name` is now another one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _Busy(busy) from error
    except OSError as error:
        raise ArtifactError(
            f"{path}: its file system does not support locks ({error.strerror}): choose a path on "
            "a local disk"
        ) from error
    return is_at(descriptor, name)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file or folder is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
