"""Classes of training clips whose attributes are not known: clusters of their embeddings.

The embeddings are those of a model that is not trained on the clips. The clips of one machine and
section are divided by k-means.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from asdjax.config.recipe import PseudoLabelConfig
from asdjax.data.dcase import Clip

_PER_CLUSTER = 4  # clips, at least, on average: smaller classes teach clips by heart
_AT_MOST = 2000  # clips whose silhouettes are computed


def without_attributes(clips: Sequence[Clip]) -> dict[tuple[str, str], list[int]]:
    """The indices of the clips that need a pseudo-label, by machine and section."""
    found: dict[tuple[str, str], list[int]] = {}
    for i, clip in enumerate(clips):
        if not clip.attributes:
            found.setdefault((clip.machine, clip.section), []).append(i)
    return found


def clusters(
    embeddings: Float[np.ndarray, "N D"], config: PseudoLabelConfig
) -> Int[np.ndarray, " N"]:
    """The cluster of each clip, numbered from 0 in the order of first appearance.

    Args:
        embeddings: of the clips of one machine and section, in an order that does not change.
        config: number of clusters, at most a quarter of the clips; `silhouette`: the number from
            2 to 16 with the largest mean silhouette.

    Example:
        >>> config = PseudoLabelConfig(clusters=2)
        >>> clusters(np.array([[0.0], [0.1], [9.0], [9.1]] * 2), config).tolist()
        [0, 0, 1, 1, 0, 0, 1, 1]
    """
    from sklearn import metrics  # takes a second to import, and few trainings need it

    points = embeddings.astype(np.float64)
    most = min(len(np.unique(points, axis=0)), max(1, len(points) // _PER_CLUSTER))
    if config.clusters != "silhouette":
        return _in_order(_kmeans(points, min(config.clusters, most), config.seed))
    best, best_score = np.zeros(len(points), int), -np.inf
    for number in range(2, min(16, most) + 1):
        found = _kmeans(points, number, config.seed)
        size = min(_AT_MOST, len(points))
        score = metrics.silhouette_score(points, found, sample_size=size, random_state=config.seed)
        if score > best_score:
            best, best_score = found, score
    return _in_order(best)


def _kmeans(points: Float[np.ndarray, "N D"], number: int, seed: int) -> Int[np.ndarray, " N"]:
    from sklearn import cluster
    from sklearn.exceptions import ConvergenceWarning

    kmeans = cluster.KMeans(number, n_init=4, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # clips that differ by rounding only
        return kmeans.fit_predict(points)


def _in_order(found: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """The same clusters with other numbers: of two, the one that appears first has the smaller."""
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[number]
