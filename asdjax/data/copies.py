"""Files of one sound under two names, which would count as two clips."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from asdjax.data import sound_files
from asdjax.data.dcase import Clip, Dataset, Problem
from asdjax.data.sound_files import Header, Samples

_BLOCK = 1024  # samples of a channel
_AT_ONCE = 2**20  # likewise: of a long recording


def find(dataset: Dataset, headers: Mapping[str, Header]) -> list[Problem]:
    """The problems of clips whose sound is that of another clip, in whatever format it is stored.

    A training clip that is also a test clip, of whichever machine, is `shared`. Of other equal
    clips all but the one with the shortest path are a `copy`. Links are copies too.

    A short block of every file is compared first, and whole files only where these are equal.

    Args:
        dataset: as `audio.check` returns it.
        headers: the readable files' headers by path; the other clips are not looked at.

    Raises:
        AsdjaxError: a file can no longer be read.
    """

    def key(clip: Clip, most: int) -> Hashable:
        """What clips of the same sound share: length, form, and so many samples of the middle."""
        header, digest = headers[clip.path], hashlib.blake2b()
        first = max(header.frames - most, 0) // 2
        for start in range(first, min(first + most, header.frames), _AT_ONCE):
            count = min(_AT_ONCE, first + most - start)
            digest.update(_values(sound_files.read_wav(dataset.root / clip.path, start, count)))
        return header.frames, header.rate, header.channels, digest.digest()

    def block(clip: Clip) -> Hashable:
        return key(clip, _BLOCK)

    def whole(clip: Clip) -> Hashable:
        return key(clip, headers[clip.path].frames)

    clips = [clip for clip in dataset.clips if clip.path in headers]
    with ThreadPoolExecutor() as pool:
        candidates = [clip for group in _groups(clips, pool.map(block, clips)) for clip in group]
        same = _groups(candidates, pool.map(whole, candidates))
    return [problem for group in same for problem in _problems(group)]


def _values(samples: Samples) -> np.ndarray:
    """The values as float32, so that 16-bit integers equal the floats that they become."""
    values = samples.astype(np.float32)
    if samples.dtype == np.int16:
        values /= 32768
    values += 0.0  # makes -0 the 0 that it equals
    return values


def _groups(clips: Sequence[Clip], keys: Iterable[Hashable]) -> list[list[Clip]]:
    """The clips that share a key with another, by key."""
    groups = defaultdict(list)
    for clip, key in zip(clips, keys, strict=True):
        groups[key].append(clip)
    return [group for group in groups.values() if len(group) > 1]


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
