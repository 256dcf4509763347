"""Files of one content under two names, which would count as two clips."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from asdjax import audio, user_files
from asdjax.audio import Header
from asdjax.dcase import Clip, Dataset, Problem
from asdjax.errors import AsdjaxError

_BLOCK = 4096


def find(dataset: Dataset, headers: Mapping[str, Header]) -> list[Problem]:
    """The problems of clips whose samples are those of another clip, whatever their headers say.

    A training clip that is also a test clip, of whichever machine, is `shared`. Of other equal
    clips all but the one with the shortest path are a `copy`. Links are copies too.

    A short block of every file is compared first, and whole files only where these are equal.

    Args:
        dataset: as `audio.check` returns it.
        headers: the readable files' headers by path; the other clips are not looked at.

    Raises:
        AsdjaxError: a file can no longer be read.
    """

    def block(clip: Clip) -> tuple[Header, bytes]:
        return headers[clip.path], _block(dataset.root / clip.path, headers[clip.path])

    def digest(clip: Clip) -> tuple[Header, bytes]:
        samples = audio.read(dataset.root / clip.path, channel=None)
        return headers[clip.path], hashlib.blake2b(samples.tobytes()).digest()

    clips = [clip for clip in dataset.clips if clip.path in headers]
    with ThreadPoolExecutor() as pool:
        candidates = [clip for group in _groups(clips, pool.map(block, clips)) for clip in group]
        same = _groups(candidates, pool.map(digest, candidates))
    return [problem for group in same for problem in _problems(group)]


def _groups(clips: Sequence[Clip], keys: Iterable[Hashable]) -> list[list[Clip]]:
    """The clips that share a key with another, by key."""
    groups = defaultdict(list)
    for clip, key in zip(clips, keys, strict=True):
        groups[key].append(clip)
    return [group for group in groups.values() if len(group) > 1]


def _block(path: Path, header: Header) -> bytes:
    """A digest of a few bytes from within a file's samples."""
    samples = header.frames * header.channels  # no more than they have bytes
    with user_files.open_regular(path) as file:
        try:
            file.seek(_start_of_samples(file) + samples // 2)
            block = file.read(min(_BLOCK, samples - samples // 2))
        except OSError as error:
            raise AsdjaxError(f"{path}: cannot be read ({error.strerror})") from error
    return hashlib.blake2b(block, digest_size=16).digest()


def _start_of_samples(file: BinaryIO) -> int:
    """Where the samples of a WAV file start that `audio.inspect` has found good."""
    file.seek(12)
    while len(head := file.read(8)) == 8 and head[:4] != b"data":
        length = int.from_bytes(head[4:], "little")
        file.seek(length + length % 2, 1)  # chunks are padded to an even length
    return file.tell()


def _problems(group: Sequence[Clip]) -> list[Problem]:
    """The problems of clips that are all the same sound."""
    tests, trains = (
        sorted((c.path for c in group if c.split == split), key=lambda path: (len(path), path))
        for split in ("test", "train")
    )
    problems = []
    if tests:
        reason = f"the same sound as {tests[0]}: a test clip must not train: remove one of them"
        problems = [Problem(path, "shared", reason) for path in trains]
    first, *rest = tests or trains
    reason = f"the same sound as {first}: remove it"
    return problems + [Problem(path, "copy", reason) for path in rest]
