"""Claims of workers on shards: files in a folder that all hosts share, and their heartbeats.

A claim is `claims/<shard>-<number>.json`, created with O_EXCL, so that one worker gets it. Its
time of modification is set every `HEARTBEAT` seconds. If a watcher sees it unchanged for long, by
its own monotonic clock, the worker is taken for dead, and who creates the claim with the next
number has the shard. No claim of another is renamed or deleted for that: between two looks it may
have become a new one. If a worker was only asleep, two compute the same shard, and write the same.
"""

import contextlib
import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files import atomic
from asdjax.files.user_files import unreadable
from asdjax.runtime import interruption

HEARTBEAT = 1.0
"""Seconds between two signs of life."""
_NAME = re.compile(r"([0-9]{5,9})-([0-9]{1,6})\.json")
_MOST = 999_999  # highest number


@dataclasses.dataclass(frozen=True)
class Sign:
    """The last claim on a shard, and when its worker last gave a sign of life."""

    number: int
    touched: int
    """Time of modification, nanoseconds by the clock of the file system: compared, not trusted."""


class Claims:
    """The claims in a folder.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._seen: dict[int, tuple[Sign, float]] = {}

    def last(self) -> dict[int, int]:
        """The number of the last claim on each claimed shard."""
        found: dict[int, int] = {}
        for shard, number in self._all():
            found[shard] = max(number, found.get(shard, -1))
        return found

    def _all(self) -> Iterator[tuple[int, int]]:
        """Shard and number of all claims."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:  # a copy of the job may lack empty folders
            return
        except OSError as error:
            raise ArtifactError(unreadable(self.folder, error)) from error
        for match in filter(None, map(_NAME.fullmatch, names)):
            shard, number = map(int, match.groups())
            if self.path(shard, number).name == match[0]:  # without further zeros
                yield shard, number

    def path(self, shard: int, number: int) -> Path:
        """The file of a claim."""
        return self.folder / f"{shard:05d}-{number}.json"

    def sign(self, shard: int, number: int) -> Sign | None:
        """The sign of life of a claim; None if it was given up meanwhile."""
        path = self.path(shard, number)
        # opened, because network file systems then ask for the present time of modification
        with contextlib.suppress(OSError):  # another user's, or no file
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
        try:
            return Sign(number, os.lstat(path).st_mtime_ns)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArtifactError(unreadable(path, error)) from error

    def silent_for(self, shard: int, number: int) -> float:
        """Seconds for which this object has seen a claim without a new sign of life."""
        sign, now = self.sign(shard, number), time.monotonic()
        if sign is None:
            return 0.0
        before, since = self._seen.get(shard, (None, now))
        if sign != before:
            since = now
        self._seen[shard] = sign, since
        return now - since

    @contextlib.contextmanager
    def taken(self, shard: int, patience: float, about: Mapping[str, Any]) -> Iterator[bool]:
        """Claim a shard for the block; yields whether that was possible.

        Args:
            shard: its number.
            patience: seconds without a sign of life after which another's claim is passed over.
            about: what the file says, for people.

        Raises:
            AsdjaxError: the folder cannot be read or written, or there are too many claims.
        """
        last = self.last().get(shard)
        if last is not None and self.silent_for(shard, last) < patience:
            yield False
            return
        number = 0 if last is None else last + 1
        if number > _MOST:
            raise ArtifactError(
                f"{self.path(shard, number - 1)}: no higher number is possible: stop all workers, "
                "and delete the claims"
            )
        held: list[int] = []
        try:
            self._create(shard, number, about, held)
            if held:
                with _heartbeat(self.path(shard, number)):
                    yield True
            else:
                yield False
        finally:
            if held:
                self._give_up(shard, number)

    @interruption.uninterrupted  # or nobody would know whose claim it is
    def _create(self, shard: int, number: int, about: Mapping[str, Any], held: list[int]) -> None:
        path = self.path(shard, number)
        with atomic.writing(path):
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(path, flags, 0o666)
            except FileExistsError:
                return
            held.append(number)
            with open(descriptor, "wb") as file:
                file.write(json.dumps(about).encode() + b"\n")

    @interruption.uninterrupted
    def _give_up(self, shard: int, number: int) -> None:
        """Delete a claim and those of the dead before it."""
        for one, earlier in self._all():
            if one == shard and earlier <= number:
                with contextlib.suppress(OSError):
                    self.path(shard, earlier).unlink()


@contextlib.contextmanager
def _heartbeat(path: Path) -> Iterator[None]:
    """Give signs of life from a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with contextlib.suppress(OSError):  # a disk that comes back, or a claim that is passed
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
