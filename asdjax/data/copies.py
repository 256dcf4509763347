"""Detection of clips with the same sound under different names."""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from asdjax.data import sound_files
from asdjax.data.audio import CHANNELS
from asdjax.data.dcase import Clip, Dataset, Problem
from asdjax.data.editions import OWN
from asdjax.data.read_ahead import in_order
from asdjax.data.samples import to_float
from asdjax.data.sound_files import Header, Samples

_BLOCK = 1024  # samples per channel that are compared first
_AT_ONCE = 2**20  # samples per channel that are read at a time


def find(
    dataset: Dataset, headers: Mapping[str, Header], channel: Literal["near", "far"]
) -> list[Problem]:
    """The problems of clips that have the same sound as another clip.

    Samples are compared, not bytes: the file formats may differ. A training clip that equals a test
    clip of any machine is `shared`. Of other equal clips, all but the one with the shortest path
    are a `copy`, links included. Whole files are compared only if a short block of them is equal.

    Args:
        dataset: from `audio.check`.
        headers: headers of the readable files by path; other clips are ignored.
        channel: in use; only this channel is compared, unless it is silent.

    Raises:
        AsdjaxError: a file can no longer be read.
    """

    def key(clip: Clip, most: int) -> tuple[Hashable, ...]:
        """Equal for equal clips: length, rate, and a digest of the middle samples.

        If these are silent, a digest of all channels follows.
        """
        header, digest, everything = headers[clip.path], hashlib.blake2b(), hashlib.blake2b()
        column, silent = min(number, header.channels) - 1, True
        first = max(header.frames - most, 0) // 2
        for start in range(first, min(first + most, header.frames), _AT_ONCE):
            count = min(_AT_ONCE, first + most - start)
            samples = sound_files.read_wav(dataset.root / clip.path, start, count)
            digest.update(np.ascontiguousarray(_values(samples[:, column])).data)
            everything.update(np.ascontiguousarray(_values(samples)).data)
            silent &= not samples[:, column].any()
        found = header.frames, header.rate, digest.digest()
        return (*found, everything.digest()) if silent else found

    def block(clip: Clip) -> Hashable:
        if dataset.edition == OWN:
            return _of_any(dataset.root / clip.path, clip.channel or number, _BLOCK)
        return key(clip, _BLOCK)[:3]

    def whole(clip: Clip) -> Hashable:
        if dataset.edition == OWN:
            return _of_any(dataset.root / clip.path, clip.channel or number, None)
        return key(clip, headers[clip.path].frames)

    number = CHANNELS[channel]
    unusable = {problem.path for problem in dataset.problems if problem.kind == "wrong_channels"}
    readable = headers.keys() - unusable
    clips = [clip for clip in dataset.clips if clip.path in readable]
    with ThreadPoolExecutor() as pool:
        candidates = [clip for group in _groups(clips, pool.map(block, clips)) for clip in group]
    sizes = (sound_files.samples_in(dataset.root / clip.path) for clip in candidates)
    same = _groups(candidates, in_order(whole, candidates, sizes))
    return [problem for group in same for problem in _problems(group)]


def _of_any(path: Path, channel: int, most: int | None) -> Hashable:
    """The same for one channel of a file of any format, with a digest of its first samples."""
    header = sound_files.inspect_any(path)
    samples = sound_files.read_any(path, header.rate, most=most)
    digest = hashlib.blake2b(np.ascontiguousarray(_values(samples[:, channel - 1])).data)
    return header.frames, header.rate, digest.digest()


def _values(samples: Samples) -> np.ndarray:
    """The samples as float32, so that int16 samples equal the same sound stored as floats."""
    return to_float(samples) + np.float32(0)  # which turns -0 into 0


def _groups(clips: Sequence[Clip], keys: Iterable[Hashable]) -> list[list[Clip]]:
    """Groups of two or more clips with the same key."""
    groups = defaultdict(list)
    for clip, key in zip(clips, keys, strict=True):
        groups[key].append(clip)
    return [group for group in groups.values() if len(group) > 1]


def _problems(group: Sequence[Clip]) -> list[Problem]:
    """The problems of a group of clips with the same sound."""
    tests, trains = (
        sorted((c.path for c in group if c.split == split), key=lambda path: (len(path), path))
        for split in ("test", "train")
    )
    problems = []
    if tests:
        reason = f"same sound as {tests[0]}: a test clip must not be trained on: remove one of them"
        problems = [Problem(path, "shared", reason) for path in trains]
    first, *rest = tests or trains
    reason = f"same sound as {first}: remove it"
    return problems + [Problem(path, "copy", reason) for path in rest]
