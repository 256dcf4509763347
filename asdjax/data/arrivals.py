"""Sound files that arrive in a folder: which are complete, and which were seen before."""

import dataclasses
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from asdjax.data import audio
from asdjax.data.folders import is_folder
from asdjax.data.sound_search import kind_of_skipped
from asdjax.errors import AsdjaxError, DataError
from asdjax.files.user_files import unreadable

_REMEMBERED = 24 * 3600.0  # seconds for which a file that is gone is remembered (a share unmounted)


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What tells a file from others of the same name."""

    inode: int
    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A file whose size and time have not changed for a while."""

    name: str
    """Path relative to the folder."""
    path: Path
    identity: Identity
    unchanged: float
    """Seconds for which it has been seen unchanged."""

    @property
    def age(self) -> float:
        """Seconds for which it has not changed, by its time or as it was seen."""
        return max(self.unchanged, time.time() - self.identity.mtime_ns / 1e9)


class Arrivals:
    """The files of a folder and its subfolders that are complete and new.

    A file is done if one of the same name, size and time is (whatever its inode, which may change
    when a file system is mounted again), or one of the same inode, size, time and content under any
    name: it was renamed, or is linked to. All others are new: copies, and what was written again or
    put in another's place. Hidden files and folders are passed over, as are files without a suffix
    of sound, and links to folders.

    Attributes:
        unreadable: subfolders that could not be read at the last look, and why.
        passed_over: how many entries of each kind were passed over at the last look: the ending of
            their names, or hidden.
    """

    def __init__(self, folder: Path, settle: float, clock: Callable[[], float]):
        """Watch a folder.

        Args:
            folder: the folder.
            settle: seconds for which a complete file has not changed.
            clock: the present in seconds, which never goes back.
        """
        self.folder, self._settle, self._clock = folder, settle, clock
        self._waiting: dict[str, tuple[Identity, float]] = {}  # and since when it is unchanged
        self._done: dict[str, tuple[Identity, float]] = {}  # by name, and when it was last seen
        self._digests: dict[Identity, tuple[str | None, float]] = {}  # of what is done; likewise
        self.unreadable: dict[str, str] = {}
        self.passed_over = Counter[str]()

    def look(self) -> list[Arrival]:
        """The files that are complete and new, oldest first.

        Of several names of one file, the first is returned; once it is done, so are the others.

        Raises:
            AsdjaxError: the folder cannot be read.
        """
        now = self._clock()
        waiting: dict[str, tuple[Identity, float]] = {}
        found: dict[Identity, Arrival] = {}
        for name, identity in sorted(self._list().items()):
            path = os.path.join(self.folder, name)
            if self._is_done(name, path, identity):
                digest, _ = self._digests.get(identity) or self._digests[self._done[name][0]]
                self.finish(name, identity, digest)
                continue
            known, since = self._waiting.get(name, (None, now))
            waiting[name] = identity, since if known == identity else now
            unchanged = now - waiting[name][1]
            if unchanged >= self._settle:
                found.setdefault(identity, Arrival(name, Path(path), identity, unchanged))
        self._waiting = waiting
        recently = now - _REMEMBERED
        self._done = {k: v for k, v in self._done.items() if v[1] >= recently}
        self._digests = {k: v for k, v in self._digests.items() if v[1] >= recently}
        return sorted(found.values(), key=lambda one: (one.identity.mtime_ns, one.name))

    @property
    def waiting(self) -> int:
        """The number of files that were not complete or not finished at the last look."""
        return len(self._waiting)

    @property
    def done(self) -> Iterator[tuple[str, Identity, str | None]]:
        """Name, identity and digest of the files that are done, as given to `finish`."""
        return ((name, one, self._digests[one][0]) for name, (one, _) in self._done.items())

    def finish(self, name: str, identity: Identity, digest: str | None) -> None:
        """Never return this file again; `digest` is that of its content, if it could be read."""
        self._done[name] = identity, self._clock()
        self._digests[identity] = digest, self._clock()

    def is_unchanged(self, arrival: Arrival) -> bool:
        """Whether the file is still there and the same."""
        return _identity(arrival.path) == arrival.identity

    def _is_done(self, name: str, path: str, identity: Identity) -> bool:
        known, _ = self._done.get(name, (None, 0.0))
        if known and (known.size, known.mtime_ns) == (identity.size, identity.mtime_ns):
            return True
        digest, _ = self._digests.get(identity, (None, 0.0))
        # otherwise the system has given the inode of a file that is gone to another one
        return digest is not None and digest_of(Path(path)) == digest

    def _list(self) -> dict[str, Identity]:
        found = {}
        self.unreadable, self.passed_over = {}, Counter()
        folders = [self.folder]
        while folders:
            folder = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    inside = list(entries)
            except OSError as error:
                if folder == self.folder:
                    raise DataError(unreadable(folder, error)) from error
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self.unreadable[str(folder)] = error.strerror or str(error)
                continue  # it was deleted or renamed meanwhile, or is said to be unreadable
            for entry in inside:
                if entry.name.startswith("."):
                    self.passed_over[kind_of_skipped(entry.name, is_folder(entry))] += 1
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif is_folder(entry):
                    self.passed_over["link to a folder"] += 1
                elif os.path.splitext(entry.name)[1].lower() in audio.SUFFIXES:
                    identity = _identity(entry.path)
                    if identity is not None:
                        found[os.path.relpath(entry.path, self.folder)] = identity
                elif entry.is_file():
                    self.passed_over[kind_of_skipped(entry.name, False)] += 1
        return found


def digest_of(path: Path) -> str | None:
    """A digest of a file's content; None if it cannot be read."""
    try:
        return audio.fingerprint(path)
    except AsdjaxError:
        return None


def _identity(path: str | Path) -> Identity | None:
    """The identity of a regular file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns)
