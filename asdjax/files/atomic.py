"""Writing: files and folders that appear whole or not at all, and locks.

What is being made stands under a hidden name beside its place, `.asdjax-….partial` for a file and
`.NAME.asdjax-partial` for a folder, and its process holds a lock on it. So a command can tell what
a killed process left behind, which it clears, from what another process is making. Nothing is ever
written through a link, and every failure of the file system is a sentence that names the place.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from asdjax.errors import AsdjaxError

_HIDDEN_FILE = re.compile(r"\.asdjax-[0-9a-f]{16}\.partial")
_HIDDEN_FOLDER = re.compile(r"\..+\.(asdjax-partial|discarded)")
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: "make room, and give the same command again",
    errno.EDQUOT: "make room, and give the same command again",
    errno.EFBIG: "allow larger files (ulimit -f), and give the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "ask for the right to write there, or use a place of yours",
    errno.EPERM: "ask for the right to write there, or use a place of yours",
    errno.EROFS: "ask for the right to write there, or use a place of yours",
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say an OSError in the block as a sentence that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno, "name another place")
        why = error.strerror or str(error)
        raise AsdjaxError(f"{path}: cannot be written ({why}): {remedy}") from error


def taken(path: Path) -> AsdjaxError:
    """The error of a place that holds something that may not be replaced."""
    return AsdjaxError(f"{path}: exists already: name another place, or give --overwrite")


# files


def write_bytes(path: Path, content: bytes | memoryview, *, overwrite: bool = True) -> None:
    """Write a file whole or not at all, flushed to disk; folders above it are made.

    Args:
        path: the file; a link of this name is replaced, not followed.
        content: its bytes.
        overwrite: whether an earlier file may be replaced. Of two processes that may not, one wins.

    Raises:
        AsdjaxError: the place is taken, or cannot be written; it is then as it was.
    """
    with writing(path), _parents(path):
        require_free(path, overwrite)
        _sweep(path.parent)
        beside = path.with_name(f".asdjax-{secrets.token_hex(8)}.partial")
        try:
            with open(_open_hidden(beside), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if overwrite:
                    beside.replace(path)
                else:
                    _put_new(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Append to a file, which is made when absent; a link is refused."""
    with writing(path), open_to_append(path) as file:
        file.write(content)


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to append to it, which is made when absent; a link is refused."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with writing(path):
        return open(os.open(path, flags, 0o666), "wb")


def delete(path: Path) -> None:
    """Delete a file if it is there."""
    with writing(path):
        path.unlink(missing_ok=True)


def require_free(path: Path, overwrite: bool) -> None:
    """Refuse a place for a file that is taken.

    Raises:
        AsdjaxError: a file is there that may not be replaced, or something else than a file.
    """
    with writing(path):
        if not os.path.lexists(path):
            return
        if not overwrite:
            raise taken(path)
        if path.exists() and not path.is_file():
            raise AsdjaxError(f"{path}: is not a regular file: name another place")


def _open_hidden(beside: Path) -> int:
    """Make a hidden file and return its descriptor, which holds a lock on it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        descriptor = os.open(beside, flags, 0o666)
        with contextlib.suppress(OSError):  # without locks nobody clears what is left either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # cleared by another process before it was locked


def _put_new(beside: Path, path: Path) -> None:
    """Give a finished file its name, unless something has it."""
    try:
        os.link(beside, path)
        return
    except FileExistsError as error:
        raise taken(path) from error
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    try:  # an empty file holds the place until the whole one replaces it
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError as error:
        raise taken(path) from error
    try:
        beside.replace(path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sweep(folder: Path) -> None:
    """Delete the hidden files that killed processes left in a folder."""
    with contextlib.suppress(PermissionError):  # a folder may be written to and not be read
        for name in filter(_HIDDEN_FILE.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):  # gone, in use, or no file: not what was left
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
    """An empty folder that takes the place of `folder` unless an exception leaves the block.

    Args:
        folder: where the result is to be; of a link, what it names is replaced.
        check: raises `AsdjaxError` where what stands in the place may not be replaced; called
            before the block and again after it.

    Raises:
        AsdjaxError: of `check`; another process is making this folder; or it cannot be written. One
            that the block raises names `folder` in place of the hidden one.
    """
    place = Path(os.path.realpath(folder))
    if not place.name:
        raise AsdjaxError(f"{folder}: name a folder to make")
    work = place.with_name(f".{place.name}.asdjax-partial")
    made, earlier = work / "made", work / "earlier"

    def restore() -> None:
        if earlier.exists() and not place.exists():
            earlier.rename(place)

    with _parents(place), _claimed(work, folder):
        with writing(folder):
            restore()  # of a process that was killed between the two renames
            for leftover in work.iterdir():
                shutil.rmtree(leftover)
            made.mkdir()
        check()
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


def require_result(folder: Path, overwrite: bool, ours: Callable[[Path], bool]) -> None:
    """Refuse a place that is taken, unless by an earlier result that may be replaced.

    Args:
        folder: the place.
        overwrite: whether an earlier result may be replaced.
        ours: whether a folder is such a result: no other is ever replaced.
    """
    with writing(folder):
        if not folder.exists():
            return
    if not overwrite:
        raise taken(folder)
    if not ours(folder):
        raise AsdjaxError(
            f"{folder}: not a result of this command, and --overwrite replaces no other: name "
            "another place"
        )


def discarded(folder: Path) -> Path:
    """Where `discard` moves a folder before it deletes it."""
    return folder.with_name(f".{folder.name}.discarded")


def discard(folder: Path) -> None:
    """Delete a folder so that no part of it is ever taken for the whole."""
    gone = discarded(folder)
    with writing(folder):
        if gone.exists():  # of a deletion that was interrupted
            shutil.rmtree(gone)
        if folder.exists():
            folder.rename(gone)
            shutil.rmtree(gone)


def clear(folder: Path, names: Sequence[str] | None = None) -> None:
    """Delete the hidden folders that killed processes left; the caller holds a lock on it.

    Args:
        folder: where they are.
        names: of the folders that were being deleted; None: whatever was made or deleted there.
    """
    hidden = None if names is None else {discarded(folder / name).name for name in names}
    with writing(folder):
        for path in folder.iterdir() if folder.is_dir() else ():
            ours = _HIDDEN_FOLDER.fullmatch(path.name) if hidden is None else path.name in hidden
            if ours and path.is_dir():
                shutil.rmtree(path)


@contextlib.contextmanager
def _claimed(work: Path, place: Path) -> Iterator[None]:
    """Hold a hidden folder as the only process that does; afterwards it is gone."""
    busy = f"{place}: another process is making it: wait for it, or name another place"
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor, fresh, held = None, False, False
    try:
        while not held:
            if descriptor is not None:
                os.close(descriptor)  # of a folder that is no longer there
                descriptor = None
            with writing(place):
                fresh = True  # beforehand: a signal's exception comes right after the call
                try:
                    work.mkdir()
                except FileExistsError:
                    fresh = False
                try:
                    descriptor = os.open(work, flags)
                except FileNotFoundError:
                    continue  # another process has just finished with it
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    raise AsdjaxError(f"{work}: is in the way: delete it") from error
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise AsdjaxError(f"{work}: was left by another user: name another place")
            try:
                held = _lock(descriptor, place, busy, work)
            except _Busy:
                fresh = False  # it belongs to the process that holds it
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
    """Make the folders above a place; those still empty are removed if an exception is raised."""
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


# what may not be a link, and locks


class _Busy(AsdjaxError):
    """Another process holds the lock."""


def refuse_links(path: Path) -> None:
    """Refuse anything but regular files and folders at a path and below it.

    Raises:
        AsdjaxError: a link, a FIFO, a device or a socket is there.
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
            raise AsdjaxError(f"{place}: cannot be read ({error.strerror})") from error
        if stat.S_ISLNK(mode):
            raise AsdjaxError(
                f"{place}: is a link, and nothing is written through links here: delete it, or put "
                "what it names in its place"
            )
        if not stat.S_ISREG(mode):
            raise AsdjaxError(f"{place}: is neither a file nor a folder: delete it")


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock that a file stands for, until the block ends or the process does.

    Args:
        path: a regular file, made when absent; never followed, never changed.
        busy: the sentence when another process holds it.

    Raises:
        AsdjaxError: another process holds it, or it cannot be had here.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    refuse_links(path)
    with writing(path):
        descriptor = os.open(path, flags, 0o666)
    try:
        if not (stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor, path, busy, path)):
            raise AsdjaxError(f"{path}: was replaced at this moment: give the same command again")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, busy: str, name: Path) -> bool:
    """Lock an open file or folder; false where `name` no longer means it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _Busy(busy) from error
    except OSError as error:
        raise AsdjaxError(
            f"{path}: its file system cannot lock ({error.strerror}): choose a place on a local "
            "disk"
        ) from error
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(name))
    except FileNotFoundError:
        return False
