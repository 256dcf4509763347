"""Points between target clips and their nearest source clips (MemMixup of GenRep)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from asdjax.scoring.distances import Pool, smallest

if TYPE_CHECKING:
    from asdjax.scoring.nearest_neighbours import MemoryMixupConfig


def mixed_points(
    config: MemoryMixupConfig,
    source: Pool,
    target: Float[np.ndarray, "T D"],
) -> tuple[Float[np.ndarray, "G D"], Int[np.ndarray, "G 2"]]:
    """a t + (1 - a) s for every target clip t and its nearest source clips s.

    Returns:
        The points, and of each the row of its source clip and that of its target clip.
    """
    _, order = smallest(target, source, config.neighbours)
    t = np.repeat(np.arange(len(target)), order.shape[1])
    s = order.ravel()
    share = np.asarray(config.target_share, target.dtype)
    return share * target[t] + (1 - share) * source.points[s], np.stack([s, t], axis=1)
