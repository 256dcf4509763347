"""The training clips that are held out from training, to see how the loss is on other clips."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from asdjax.errors import DataError


def choose(
    paths: Sequence[str], labels: Int[np.ndarray, " N"], share: float, seed: int
) -> Int[np.ndarray, " K"]:
    """The indices of the clips to hold out, ascending.

    Every class gives its share, rounded down; the classes with the largest remainders give one more
    until the share of all clips, rounded, is reached. One clip of each class always stays. Within
    a class the clips with the smallest digests of seed and path are chosen, whatever their order.

    Args:
        paths: of the training clips, each a different one.
        labels: their classes.
        share: of the clips to hold out, 0 to 0.5. Above 0, at least one is held out.
        seed: another seed chooses other clips.

    Raises:
        AsdjaxError: there is a share, and every class has only one clip.

    Example:
        >>> len(choose([f"{i}.wav" for i in range(20)], np.repeat([0, 1], 10), 0.1, seed=0))
        2
    """
    if share == 0:
        return np.zeros(0, np.int64)
    classes, sizes = np.unique(labels, return_counts=True)
    most, exact = sizes - 1, share * sizes
    if not most.any():
        raise DataError(
            f"train.validation: each of the {len(classes)} classes has a single training clip, "
            "which cannot be held out: set it to 0, or choose a coarser dataset.label"
        )
    wanted = min(max(math.floor(share * len(labels) + 0.5), 1), most.sum())
    counts = np.minimum(np.floor(exact).astype(int), most)
    by_remainder = np.argsort(counts - exact, kind="stable")
    while counts.sum() < wanted:
        for i in by_remainder:
            if counts[i] < most[i] and counts.sum() < wanted:
                counts[i] += 1
    chosen: list[int] = []
    for label, count in zip(classes, counts, strict=True):
        members = sorted(
            np.flatnonzero(labels == label).tolist(), key=lambda i: _rank(seed, paths[i])
        )
        chosen += members[:count]
    return np.array(sorted(chosen), np.int64)


def _rank(seed: int, path: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{path}".encode(errors="surrogateescape")).digest()
