"""Scoring backends: anomaly scores of clips, given the embeddings of normal training clips.

One backend is fitted per machine, section and view:

    backend = fit(config, embeddings, is_target)
    backend.score(test_embeddings)   # larger = more anomalous
    backend.leave_one_out()          # each training clip scored against the others

Conventions
* `metric: cosine` scales embeddings to unit length (norm floored at 1e-12) and uses the Euclidean
  distance. nearest_neighbours and kmeans halve it, so that scores lie in 0..1. `metric: euclidean`
  leaves embeddings and distances unchanged.
* SMOTE runs in the embeddings' own precision, as in the reference. Distances are computed in
  float64 from differences, so that a copy of a training clip has distance 0. Candidates are
  preselected with a matrix product.
* The order of the training rows affects SMOTE and the folds: callers sort them by path.
* `target_neighbours: 0` excludes the target clips from every backend's reference set; they still
  get leave-one-out scores. Only nearest_neighbours uses SMOTE.
"""

import abc

import numpy as np
from imblearn.over_sampling import SMOTE
from jaxtyping import Bool, Float, Float64
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors as NeighbourSearch

from asdjax.config.recipe import BackendConfig, SmoteConfig
from asdjax.errors import AsdjaxError

_FLOOR = 1e-12  # smallest divisor: of a norm or a local density
_AT_ONCE = 64  # points per block of the distance computation


class Backend(abc.ABC):
    """A fitted backend, as returned by `fit`.

    Attributes:
        config: Section `backend` of the configuration.
        notes: One sentence per special case found while fitting; usually empty.
    """

    notes: tuple[str, ...]

    def __init__(
        self,
        config: BackendConfig,
        points: Float[np.ndarray, "N D"],
        is_target: Bool[np.ndarray, " N"],
    ):
        self.config = config
        self._points = points
        self._is_target = is_target
        self._used = ~is_target | (config.target_neighbours > 0)
        self._source = np.flatnonzero(~is_target)
        self._target = np.flatnonzero(is_target & self._used)
        if not self._used.any():
            raise AsdjaxError(
                "no source clips to score against and backend.target_neighbours is 0: "
                "set it to 1 or more, or add source clips"
            )
        self.notes = ()
        if not is_target.any():
            self._note("no target clips: scored against the source clips only")
        if not len(self._source):
            self._note("no source clips: scored against the target clips only")
        self._fit()

    def score(self, embeddings: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Anomaly scores of new clips; larger is more anomalous.

        Raises:
            AsdjaxError: If the embeddings are empty, not finite, or differ in size from the
                training clips' embeddings.
        """
        points = _read(embeddings, self.config.metric)
        size = self._points.shape[1]
        if points.shape[1] != size:
            raise AsdjaxError(
                f"embeddings hold {points.shape[1]} values, the training clips' hold {size}: "
                "extract both with the same model"
            )
        return self.score_points(points)

    def leave_one_out(self) -> Float64[np.ndarray, " N"]:
        """Scores of the training clips, in the order given to `fit`, each against the others.

        Raises:
            AsdjaxError: If there is only one clip to score against, or if a refit has too few
                clips for a covariance.
        """
        if np.count_nonzero(self._used) < 2:
            raise AsdjaxError(
                "leave-one-out scores need two training clips to score against, found 1: "
                "add normal clips of this machine and section"
            )
        return self._leave_one_out()

    def _note(self, sentence: str) -> None:
        self.notes += (sentence,)

    def _note_few(self, asked: int, found: int, key: str) -> None:
        if 0 < found < asked:
            self._note(f"backend.{key} is {asked}, there are {found}: all of them are used")

    @abc.abstractmethod
    def _fit(self) -> None: ...

    @abc.abstractmethod
    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Anomaly scores of embeddings that are checked and, for the cosine, of unit length."""

    def _leave_one_out(self) -> Float64[np.ndarray, " N"]:
        """Scores by cross-validation: each fold is scored by a backend fitted to the other folds.

        Clips are assigned to the folds in turn, source clips first, so that each fold holds about
        the same share of both domains.
        """
        fold = np.empty(len(self._points), int)
        order = np.argsort(self._is_target, kind="stable")
        fold[order] = np.arange(len(order)) % self.config.folds
        scores = np.empty(len(fold))
        for out in (fold == f for f in np.unique(fold)):
            refit = type(self)(self.config, self._points[~out], self._is_target[~out])
            scores[out] = refit.score_points(self._points[out])
        return scores


def fit(
    config: BackendConfig,
    embeddings: Float[np.ndarray, "N D"],
    is_target: Bool[np.ndarray, " N"],
) -> Backend:
    """Fit the backend named by `config.name`.

    Args:
        config: Section `backend` of the configuration.
        embeddings: The normal training clips of one machine and section, rows sorted by path.
        is_target: True for clips of the target domain.

    Raises:
        AsdjaxError: If the embeddings are empty or not finite, if the shapes do not match, or if
            the backend cannot be fitted to these clips.
    """
    points = _read(embeddings, config.metric)
    flags = np.asarray(is_target)
    if flags.shape != points.shape[:1]:
        raise AsdjaxError(
            f"{len(points)} embeddings and domains of shape {flags.shape}: give one per clip"
        )
    if flags.dtype != bool:
        raise AsdjaxError(f"domains are of type {flags.dtype}: give booleans, true for target")
    kinds: dict[str, type[Backend]] = {
        "nearest_neighbours": NearestNeighbours,
        "kmeans": KMeansCentres,
        "rescaled": Rescaled,
        "mahalanobis": Mahalanobis,
    }
    return kinds[config.name](config, points, flags)


class NearestNeighbours(Backend):
    """Mean distance to the nearest source clips or to the nearest target clips, the smaller one.

    SMOTE (Chawla et al. 2002) adds synthetic points to the target clips. The leave-one-out score of
    a clip ignores the clip and all synthetic points computed from it; SMOTE is not repeated. If no
    clip of its domain remains, only the other domain is used.
    """

    def _fit(self) -> None:
        config = self.config
        new = self._points[:0]
        self._parents = np.empty((0, len(self._target)), bool)
        if config.smote.ratio > 0 and len(self._source) and len(self._target):
            new, self._parents, sentences = _smote(config.smote, self._points, self._is_target)
            new = _scale(new, config.metric)
            for sentence in sentences:
                self._note(sentence)
        self._source_pool = self._points[self._source]
        self._target_pool = np.concatenate([self._points[self._target], new])
        self._note_few(config.source_neighbours, len(self._source_pool), "source_neighbours")
        self._note_few(config.target_neighbours, len(self._target_pool), "target_neighbours")

    def _leave_one_out(self) -> Float64[np.ndarray, " N"]:
        source = np.zeros((len(self._points), len(self._source_pool)), bool)
        target = np.zeros((len(self._points), len(self._target_pool)), bool)
        source[self._source, np.arange(len(self._source))] = True
        target[self._target, np.arange(len(self._target))] = True
        target[self._target, len(self._target) :] = self._parents.T
        return self.score_points(self._points, source, target)

    def score_points(
        self,
        points: Float[np.ndarray, "M D"],
        source_out: Bool[np.ndarray, "M P"] | None = None,
        target_out: Bool[np.ndarray, "M Q"] | None = None,
    ) -> Float64[np.ndarray, " M"]:
        """Scores of embeddings; `source_out` and `target_out` mark reference points to ignore."""
        k, k_target = self.config.source_neighbours, self.config.target_neighbours
        nearest = np.minimum(
            _mean_distance(points, self._source_pool, k, source_out),
            _mean_distance(points, self._target_pool, k_target, target_out),
        )
        return nearest / 2 if self.config.metric == "cosine" else nearest


class KMeansCentres(Backend):
    """Nearest neighbours with the source clips replaced by their k-means centres.

    The score is the distance to the nearest centre or the mean distance to the nearest target
    clips, the smaller one. For the cosine the centres are scaled to unit length. If there are no
    more different source clips than centres, every clip is a centre.
    """

    def _fit(self) -> None:
        clusters = self.config.kmeans_clusters
        centres = np.unique(self._points[self._source].astype(np.float64), axis=0)
        self._note_few(clusters, len(centres), "kmeans_clusters")
        if len(centres) > clusters:
            kmeans = KMeans(clusters, n_init=1, random_state=self.config.kmeans_seed)
            kmeans.fit(self._points[self._source].astype(np.float64))
            centres = _scale(kmeans.cluster_centers_, self.config.metric)
        self._centres = centres
        self._target_pool = self._points[self._target]
        self._note_few(self.config.target_neighbours, len(self._target), "target_neighbours")
        self._note(f"leave-one-out by {self.config.folds}-fold refit of k-means")

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """The distance to the nearest centre or target clips, the smaller one."""
        nearest = np.minimum(
            _mean_distance(points, self._centres, 1),
            _mean_distance(points, self._target_pool, self.config.target_neighbours),
        )
        return nearest / 2 if self.config.metric == "cosine" else nearest


class Rescaled(Backend):
    """Distances divided by the local density of each reference (Wilkinghoff et al. 2025).

    "Local density-based anomaly score normalization for domain generalization". The references are
    the clips of both domains. The distance to a reference is divided by the mean distance of that
    reference to its `rescale_neighbours` nearest neighbours, floored at 1e-12, or by 1 for a single
    reference. The score is the mean of the `source_neighbours` smallest quotients. Leave-one-out
    scores also leave the clip out of the other references' densities.
    """

    def _fit(self) -> None:
        self._pool = self._points[self._used]
        self._note_few(self.config.source_neighbours, len(self._pool), "source_neighbours")
        others = len(self._pool) - 1
        self._neighbours = min(self.config.rescale_neighbours, others)
        if others == 0:
            self._note("a single reference: its distance is not rescaled")
        self._note_few(self.config.rescale_neighbours, others, "rescale_neighbours")
        distances = cdist(self._pool, self._pool)
        np.fill_diagonal(distances, np.inf)
        # One more than the density needs: it moves up when a neighbour is left out.
        kept = min(self._neighbours + 1, others)
        self._order = np.argsort(distances, axis=1, kind="stable")[:, :kept]
        self._distances = np.take_along_axis(distances, self._order, axis=1)
        self._density = _density(self._distances[:, : self._neighbours])

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Mean of the smallest quotients of distance and density."""
        quotients = cdist(points, self._pool) / self._density
        return _mean_nearest(quotients, self.config.source_neighbours)

    def _leave_one_out(self) -> Float64[np.ndarray, " N"]:
        references = np.arange(len(self._pool))
        density = np.tile(self._density, (len(self._pool), 1))  # [left out, reference]
        for rank in range(self._neighbours):
            rest = np.delete(self._distances, rank, axis=1)[:, : self._neighbours]
            density[self._order[:, rank], references] = _density(rest)
        quotients = cdist(self._pool, self._pool) / density
        np.fill_diagonal(quotients, np.inf)
        scores = self.score_points(self._points)  # of clips that are no reference
        scores[self._used] = _mean_nearest(quotients, self.config.source_neighbours)
        return scores


class Mahalanobis(Backend):
    """The Mahalanobis distance to the mean of the source or the target clips, the smaller one.

    Each domain has a mean and a Ledoit-Wolf covariance (Ledoit and Wolf 2004). A domain whose
    covariance has no inverse (fewer than three different clips) uses the other domain's. The
    distance is not squared.
    """

    def _fit(self) -> None:
        domains = {
            name: self._points[rows].astype(np.float64)
            for name, rows in (("source", self._source), ("target", self._target))
            if len(rows)
        }
        whitenings = {name: _whitening(points) for name, points in domains.items()}
        found = [whitening for whitening in whitenings.values() if whitening is not None]
        if not found:
            raise AsdjaxError(
                "too few different training clips for a covariance: mahalanobis needs three in "
                "one domain; add clips or set backend.name to nearest_neighbours"
            )
        self._models = []
        for name, points in domains.items():
            if whitenings[name] is None:
                self._note(f"too few {name} clips for a covariance: the other domain's is used")
                whitenings[name] = found[0]
            self._models.append((points.mean(axis=0), whitenings[name]))
        self._note(f"leave-one-out by {self.config.folds}-fold refit of the covariances")

    def score_points(self, points: Float[np.ndarray, "M D"]) -> Float64[np.ndarray, " M"]:
        """Mahalanobis distance to the nearer mean."""
        return np.min(
            [np.linalg.norm((points - mean) @ white, axis=1) for mean, white in self._models],
            axis=0,
        )


def _read(embeddings: Float[np.ndarray, "M D"], metric: str) -> Float[np.ndarray, "M D"]:
    """The embeddings, checked and, for the cosine, scaled to unit length."""
    points = np.ascontiguousarray(embeddings)
    if points.dtype not in (np.float32, np.float64):
        raise AsdjaxError(f"embeddings are of type {points.dtype}: give float32 or float64")
    if points.ndim != 2 or 0 in points.shape:
        raise AsdjaxError(
            f"embeddings are of shape {points.shape}: give one row per clip, and at least one"
        )
    bad = np.count_nonzero(~np.isfinite(points).all(axis=1))
    if bad:
        raise AsdjaxError(
            f"{bad} of {len(points)} embeddings hold values that are not finite: "
            "check the training's loss and the audio of these clips"
        )
    return _scale(points, metric)


def _scale(points: Float[np.ndarray, "M D"], metric: str) -> Float[np.ndarray, "M D"]:
    """Rows scaled to unit length for the cosine, else unchanged; same dtype."""
    if metric == "euclidean":
        return points
    norms = np.linalg.norm(points.astype(np.float64), axis=1, keepdims=True)
    return (points / np.maximum(norms, _FLOOR)).astype(points.dtype)


def _smote(
    config: SmoteConfig, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
) -> tuple[Float[np.ndarray, "S D"], Bool[np.ndarray, "S T"], list[str]]:
    """Synthetic target points, the target clips that each was computed from, and notes.

    A synthetic point is (1 - t) a + t b of two target clips a and b, 0 <= t < 1. SMOTE returns
    neither a, b nor t. It computes all columns of a point in the same way: with an identity matrix
    appended to the target clips, column i holds the share of clip i in each synthetic point.
    """
    size, n_target = points.shape[1], int(is_target.sum())
    n_source = len(points) - n_target
    none = points[:0], np.empty((0, n_target), bool)
    if n_target == 1:
        return *none, ["SMOTE skipped: it needs two target clips, found 1"]
    if int(config.ratio * n_source - n_target) <= 0:
        return *none, [
            f"SMOTE skipped: backend.smote.ratio {config.ratio:g} asks for "
            f"{int(config.ratio * n_source)} target points, and there are {n_target} target clips"
        ]
    k = min(config.neighbours, n_target - 1)
    sentences = []
    if k < config.neighbours:
        sentences.append(
            f"SMOTE draws between {k} instead of {config.neighbours} neighbours: "
            f"there are {n_target} target clips"
        )
    shares = np.zeros((len(points), n_target), points.dtype)
    shares[is_target] = np.eye(n_target)
    sampler = SMOTE(
        sampling_strategy=config.ratio,
        k_neighbors=_FirstColumns(k + 1, size),  # a clip is the nearest to itself
        random_state=config.seed,
    )
    grown, _ = sampler.fit_resample(np.hstack([points, shares]), is_target.astype(int))
    new = grown[len(points) :]
    return new[:, :size], new[:, size:] > 0, sentences


class _FirstColumns(NeighbourSearch):
    """Nearest neighbours by the first `columns` columns, for SMOTE's `k_neighbors`."""

    def __init__(self, n_neighbors: int, columns: int):
        super().__init__(n_neighbors=n_neighbors)
        self.columns = columns

    def fit(self, X: Float[np.ndarray, "N E"], y: None = None) -> "_FirstColumns":
        return super().fit(X[:, : self.columns])

    def kneighbors(self, X: Float[np.ndarray, "M E"], **options: bool) -> np.ndarray:
        return super().kneighbors(X[:, : self.columns], **options)


@np.errstate(over="ignore", invalid="ignore")  # a NaN counts as a candidate
def _mean_distance(
    points: Float[np.ndarray, "M D"],
    pool: Float[np.ndarray, "P D"],
    k: int,
    left_out: Bool[np.ndarray, "M P"] | None = None,
) -> Float64[np.ndarray, " M"]:
    """Mean distance of each point to its `k` nearest points of a pool, as by `_mean_nearest`.

    Candidates are preselected with a matrix product, |a - b|^2 = |a|^2 + |b|^2 - 2 a.b: all points
    whose squared distance is at most the k-th smallest plus the largest possible rounding error.
    Their distances are then computed from differences.
    """
    found = np.full(len(points), np.inf)
    if k == 0 or len(pool) == 0:
        return found
    points, pool = points.astype(np.float64), pool.astype(np.float64)
    squares, pool_squares = (np.sum(np.square(a), axis=1) for a in (points, pool))
    # rounding error of |a - b|^2: some D eps (|a| + |b|)^2, at most 2 D eps (|a|^2 + |b|^2)
    rounding = 8 * (pool.shape[1] + 2) * np.finfo(np.float64).eps * (squares + pool_squares.max())
    for start in range(0, len(points), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        squared = squares[rows, None] + pool_squares - 2 * points[rows] @ pool.T
        if left_out is not None:
            squared[left_out[rows]] = np.inf
        last = min(k, len(pool)) - 1
        limit = np.partition(squared, last, axis=1)[:, last] + 2 * rounding[rows]
        near = np.flatnonzero(~(squared > limit[:, None]).all(axis=0))
        distances = cdist(points[rows], pool[near])
        if left_out is not None:
            distances[left_out[rows][:, near]] = np.inf
        found[rows] = _mean_nearest(distances, k)
    return found


def _mean_nearest(distances: Float64[np.ndarray, "M P"], k: int) -> Float64[np.ndarray, " M"]:
    """Mean of each row's k smallest finite distances, or of all if fewer; infinite if none."""
    if k < distances.shape[1]:
        distances = np.partition(distances, k, axis=1)
    nearest = np.sort(distances[:, :k], axis=1)
    finite = np.isfinite(nearest)
    count = finite.sum(axis=1)
    total = np.where(finite, nearest, 0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def _density(distances: Float64[np.ndarray, "P K"]) -> Float64[np.ndarray, " P"]:
    """Mean distance of each reference to its neighbours; 1 if there are none."""
    if distances.shape[1] == 0:
        return np.ones(len(distances))
    return np.maximum(distances.mean(axis=1), _FLOOR)


def _whitening(points: Float64[np.ndarray, "N D"]) -> Float64[np.ndarray, "D D"] | None:
    """W such that W W^T is the inverse of the Ledoit-Wolf covariance; None if not invertible."""
    if len(np.unique(points, axis=0)) < 3:  # the shrinkage of two points is 0
        return None
    values, vectors = np.linalg.eigh(ledoit_wolf(points)[0])
    if values[0] <= values[-1] * len(values) * np.finfo(np.float64).eps:
        return None
    return vectors / np.sqrt(values)
