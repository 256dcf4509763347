import json
import re
import sys
import warnings

import numpy as np
import pytest
from conftest import EXACT_METRIC, GOLDEN, SCORE
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

from asdjax.challenge.meta_yaml import describe
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.errors import AsdjaxError
from asdjax.scoring import backends, smote
from asdjax.scoring.distances import Pool, mean_distance
from asdjax.scoring.mahalanobis import Mahalanobis
from asdjax.scoring.nearest_neighbours import NearestNeighbours, SmoteConfig
from asdjax.scoring.rescaled import Rescaled

CASES = {case["name"]: case for case in json.loads((GOLDEN / "knn_cases.json").read_text("utf-8"))}
KINDS = ("nearest_neighbours", "kmeans", "rescaled", "mahalanobis")
METRICS = ("cosine", "euclidean")


def backend_of(name="nearest_neighbours", **settings):
    return registry.find("backend", name)(**settings)


def config_of(case):
    return NearestNeighbours(
        metric={"cosine": "cosine", "euclid": "euclidean"}[case["metric"]],
        source_neighbours=case["n_neighbors_so"],
        target_neighbours=case["n_neighbors_ta"],
        smote=SmoteConfig(case.get("smote_ratio", 0.0), case.get("smote_neighbors", 2)),
    )


def case_data(arrays, case):
    """Training embeddings, domains and test embeddings of a golden case."""
    prefix = "so990/" if case["n_source"] == 990 else ""
    train, test = arrays[f"{prefix}train"], arrays[f"{prefix}test"]
    is_target = arrays[f"{prefix}is_target"].astype(bool)
    sizes = case["n_source"], case["n_target"]
    if sizes != (np.count_nonzero(~is_target), np.count_nonzero(is_target)):
        train = np.concatenate([train[~is_target][: sizes[0]], train[is_target][: sizes[1]]])
        is_target = np.repeat([False, True], sizes)
    return train, is_target, test


# The oracle: the reference's steps one clip and one training row at a time, without scikit-learn.


def unit(points):
    norms = [np.sqrt(sum(np.float64(v) ** 2 for v in row)) for row in points]
    return np.array(
        [row / max(n, 1e-12) for row, n in zip(points, norms, strict=True)], points.dtype
    )


def distance(a, b):
    return np.sqrt(np.sum((np.float64(a) - np.float64(b)) ** 2))


def mean_nearest(clip, references, k):
    found = sorted(distance(clip, r) for r in references)[:k]
    return sum(found) / len(found) if found else np.inf


def grown_targets(config, train, is_target):
    """Target bank and, per row, the training rows that it descends from."""
    points = unit(train) if config.metric == "cosine" else train
    rows = np.flatnonzero(is_target)
    bank, ancestors = [points[r] for r in rows], [{r} for r in rows]
    new = int(config.smote.ratio * np.sum(~is_target) - len(rows))
    k = min(config.smote.neighbours, len(rows) - 1)
    if new > 0 and k > 0:
        draws = np.random.RandomState(config.smote.seed)
        flat, step = draws.randint(0, len(rows) * k, new), draws.uniform(size=new)
        for f, s in zip(flat, step, strict=True):
            row = rows[f // k]
            nearest = sorted(
                (r for r in rows if r != row), key=lambda r: distance(points[r], points[row])
            )
            other = nearest[f % k]
            point = (points[row] + s * (points[other] - points[row])).astype(points.dtype)
            bank.append(unit(point[None])[0] if config.metric == "cosine" else point)
            ancestors.append({row, other})
    return bank, ancestors


def nearest_scores(config, train, is_target, clips, leave=False, keep_children=False):
    """Oracle scores; with `leave` the clips are the training rows, each left out."""
    points, clips = (unit(train), unit(clips)) if config.metric == "cosine" else (train, clips)
    bank, ancestors = grown_targets(config, train, is_target)
    if config.target_neighbours == 0:
        bank, ancestors = [], []
    scores = []
    for i, clip in enumerate(clips):
        gone = {i} if leave else set()
        source = [points[r] for r in np.flatnonzero(~is_target) if r not in gone]
        target = [
            b
            for b, a in zip(bank, ancestors, strict=True)
            if not (a == gone if keep_children else a & gone)
        ]
        scores.append(
            min(
                mean_nearest(clip, source, config.source_neighbours),
                mean_nearest(clip, target, config.target_neighbours),
            )
        )
    return np.array(scores) / (2 if config.metric == "cosine" else 1)


def rescaled_scores(config, train, clips, leave=False):
    points, clips = (unit(train), unit(clips)) if config.metric == "cosine" else (train, clips)
    scores = []
    for i, clip in enumerate(clips):
        pool = np.delete(points, i, axis=0) if leave else points
        quotients = []
        for r, reference in enumerate(pool):
            others = np.delete(pool, r, axis=0)
            density = mean_nearest(reference, others, config.rescale_neighbours)
            density = max(density, 1e-12) if len(others) else 1.0
            quotients.append(distance(clip, reference) / density)
        quotients = sorted(quotients)[: config.source_neighbours]
        scores.append(sum(quotients) / len(quotients))
    return np.array(scores)


def kmeans_scores(config, train, is_target, clips):
    points, clips = (unit(train), unit(clips)) if config.metric == "cosine" else (train, clips)
    source, target = points[~is_target].astype(float), points[is_target]
    kmeans = KMeans(config.kmeans_clusters, random_state=config.kmeans_seed, n_init=1)
    centres = kmeans.fit(source).cluster_centers_
    if config.metric == "cosine":
        centres = unit(centres)
    scores = [
        min(mean_nearest(c, centres, 1), mean_nearest(c, target, config.target_neighbours))
        for c in clips
    ]
    return np.array(scores) / (2 if config.metric == "cosine" else 1)


def mahalanobis_scores(config, train, is_target, clips):
    points, clips = (unit(train), unit(clips)) if config.metric == "cosine" else (train, clips)
    covariances = {}
    for t in (False, True):
        domain = points[is_target == t].astype(float)
        covariances[t] = ledoit_wolf(domain)[0] if len(domain) > 2 else covariances[False]
    distances = []
    for t, covariance in covariances.items():
        if np.any(is_target == t):
            centred = clips.astype(float) - points[is_target == t].astype(float).mean(axis=0)
            squares = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
            distances.append(np.sqrt(squares))
    return np.min(distances, axis=0)


def by_folds(oracle, config, train, is_target):
    """Training scores by refit: the clips of each domain dealt in turn, source first."""
    scores = np.empty(len(train))
    dealt = [*np.flatnonzero(~is_target), *np.flatnonzero(is_target)]
    for fold in range(config.folds):
        out = np.isin(np.arange(len(train)), dealt[fold :: config.folds])
        if out.any():
            scores[out] = oracle(config, train[~out], is_target[~out], train[out])
    return scores


def corpus(rng, n_source=60, n_target=4, size=6, copies=True):
    """Shuffled embeddings with, unless said, exact copies inside and between the domains."""
    train = rng.normal(size=(n_source + n_target, size)).astype(np.float32)
    is_target = np.arange(len(train)) >= n_source
    train[is_target] += 1
    if copies:
        train[1] = train[0]
        train[3] = train[-1]
    order = rng.permutation(len(train))
    return train[order], is_target[order]


def close(value, reference):
    # Metrics' 1e-12, relative where scores are large (rescaled by a density near 0).
    return value == pytest.approx(reference, rel=EXACT_METRIC, abs=EXACT_METRIC)


# Golden arrays of the reference.


@pytest.mark.parametrize("name", CASES)
def test_golden_case(golden, name):
    arrays, case = golden("knn"), CASES[name]
    config = config_of(case)
    train, is_target, test = case_data(arrays, case)
    scores = backends.fit(config, train, is_target).score(test)
    if case["result"] == "ok":
        reference = arrays[f"score/{name}"]
    else:  # the reference raises; here the special case is scored, as the oracle says
        reference = nearest_scores(config, train, is_target, test)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, reference, rtol=0, atol=SCORE)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c["result"] == "ok"])
def test_the_oracle_agrees_with_golden(golden, name):
    arrays, case = golden("knn"), CASES[name]
    train, is_target, test = case_data(arrays, case)
    config = config_of(case)
    if case["n_source"] < 990:
        scores = nearest_scores(config, train, is_target, test)
        np.testing.assert_allclose(scores, arrays[f"score/{name}"], rtol=0, atol=SCORE)
    if f"target_set/{name}" in arrays:
        bank, _ = grown_targets(config, train, is_target)
        np.testing.assert_allclose(bank, arrays[f"target_set/{name}"], rtol=0, atol=SCORE)


def test_golden_sections_are_fitted_apart(golden):
    arrays = golden("knn")
    scores = np.empty(len(arrays["test"]))
    for section in np.unique(arrays["section"]):
        of, of_test = arrays["section"] == section, arrays["test_section"] == section
        backend = backends.fit(
            NearestNeighbours(smote=SmoteConfig(ratio=0)),
            arrays["train"][of],
            arrays["is_target"][of].astype(bool),
        )
        scores[of_test] = backend.score(arrays["test"][of_test])
    np.testing.assert_allclose(scores, arrays["score/sep_section"], rtol=0, atol=SCORE)


def test_golden_rescaled(golden):
    arrays = golden("knn")
    backend = backends.fit(Rescaled(), arrays["train"], arrays["is_target"].astype(bool))
    scores = backend.score(arrays["test"])
    np.testing.assert_allclose(scores, arrays["score/knn_rescale"], rtol=0, atol=SCORE)


@pytest.mark.parametrize("ratio", [0.1, 0.2])
def test_leave_one_out_on_the_golden_draws(golden, ratio):
    arrays = golden("knn")
    train, is_target = unit(arrays["train"]), arrays["is_target"].astype(bool)
    targets = np.flatnonzero(is_target)
    draws = arrays[f"smote/{ratio}/flat_index"]
    base, column = draws // 2, draws % 2
    parents = targets[np.stack([base, arrays["smote/neighbours"][base, column]])]
    new = arrays[f"smote/{ratio}/new_normalised"]
    expected = []
    for i, clip in enumerate(train):
        rest = np.arange(len(train)) != i
        bank = np.concatenate([train[rest], new[(parents != i).all(axis=0)]])
        expected.append(mean_nearest(clip, bank, 1) / 2)
    config = NearestNeighbours(smote=SmoteConfig(ratio))
    scores = backends.fit(config, arrays["train"], is_target).leave_one_out()
    np.testing.assert_allclose(scores, expected, rtol=0, atol=SCORE)


# Scores and leave-one-out against the oracles.

NEAREST = [
    NearestNeighbours(smote=SmoteConfig(ratio=0.5)),
    NearestNeighbours(source_neighbours=3, target_neighbours=2, smote=SmoteConfig(0.9, 3, seed=7)),
    NearestNeighbours(smote=SmoteConfig(ratio=0)),
    NearestNeighbours(target_neighbours=0),
    NearestNeighbours(metric="euclidean", target_neighbours=4, smote=SmoteConfig(0.3, 1, seed=1)),
    NearestNeighbours(metric="euclidean", source_neighbours=1000, target_neighbours=1000),
]


SIZES = [(60, 4), (30, 2), (30, 1), (20, 0), (0, 5), (4, 9), (1, 1)]


@pytest.mark.parametrize(
    ("config", "sizes"),
    [(c, s) for c in NEAREST for s in SIZES if s[0] > 0 or c.target_neighbours > 0],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_neighbours(rng, config, sizes, dtype):
    train, is_target = corpus(rng, *sizes, copies=sizes == (60, 4))
    train = train.astype(dtype)
    test = rng.normal(size=(7, train.shape[1])).astype(dtype)
    backend = backends.fit(config, train, is_target)
    assert close(backend.score(test), nearest_scores(config, train, is_target, test))
    if sizes == (1, 1) and config.target_neighbours == 0:
        with pytest.raises(AsdjaxError, match="found 1"):
            backend.leave_one_out()
        return
    left_out = nearest_scores(config, train, is_target, train, leave=True)
    assert np.isfinite(left_out).all()
    assert close(backend.leave_one_out(), left_out)


def clustered(rng, n, size):
    """Points far from the origin and near each other, where products of matrices cancel."""
    return 1e6 + 1e-7 * rng.normal(size=(n, size))


def repeated(rng, n, size):
    return np.repeat(rng.normal(size=(-(-n // 3), size)), 3, axis=0)[:n]


def huge(rng, n, size):
    """Beyond the root of the largest number: squares are infinite."""
    return 1e200 * rng.normal(size=(n, size))


def faint(rng, n, size):
    """Squares, or the points themselves, are too small for float32."""
    return rng.normal(size=(n, size)) * 10.0 ** rng.integers(-24, -19)


def mixed(rng, n, size):
    """Some a million times as long as others."""
    return rng.normal(size=(n, size)) * 10.0 ** rng.integers(-3, 4, (n, 1))


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("k", [0, 1, 3, 500])
@pytest.mark.parametrize("kind", [clustered, repeated, huge, faint, mixed])
def test_no_nearest_is_missed(rng, kind, k, size):
    """To the bit what all distances together give, however products of matrices are rounded."""
    both = kind(rng, 400, size)
    points, pool = both[:150], both[100:]
    for dtype in (np.float64,) if kind in (huge, faint) else (np.float32, np.float64):
        a, b = points.astype(dtype), pool.astype(dtype)
        for left_out in (None, rng.random((len(a), len(b))) < 0.3, np.ones((len(a), len(b)), bool)):
            distances = cdist(a, b)
            if left_out is not None:
                distances[left_out] = np.inf
            nearest = np.sort(distances, axis=1)[:, :k]
            count = np.isfinite(nearest).sum(axis=1)
            total = np.where(np.isfinite(nearest), nearest, 0).sum(axis=1)
            expected = np.where(count > 0, total / np.maximum(count, 1), np.inf)
            with warnings.catch_warnings(action="error"):
                mask = left_out is not None and (lambda rows, of, out=left_out: out[rows][:, of])
                found = mean_distance(a, Pool(b), k, mask or None)
            np.testing.assert_array_equal(found, expected)


def test_children_of_smote_are_left_out_too(rng):
    config = NearestNeighbours(smote=SmoteConfig(ratio=0.9))
    train, is_target = corpus(rng, copies=False)
    scores = backends.fit(config, train, is_target).leave_one_out()
    with_children = nearest_scores(config, train, is_target, train, leave=True, keep_children=True)
    assert np.all(with_children[is_target] < scores[is_target])
    assert close(with_children[~is_target], scores[~is_target])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("neighbours", [(1, 4), (3, 2), (1, 1), (2, 500)])
@pytest.mark.parametrize("sizes", [(25, 4), (3, 0), (0, 4), (1, 1)])
def test_rescaled(rng, metric, neighbours, sizes):
    config = Rescaled(
        metric=metric,
        source_neighbours=neighbours[0],
        rescale_neighbours=neighbours[1],
    )
    train, is_target = corpus(rng, *sizes, copies=sizes == (25, 4))
    test = rng.normal(size=(5, train.shape[1])).astype(np.float32)
    backend = backends.fit(config, train, is_target)
    assert close(backend.score(test), rescaled_scores(config, train, test))
    assert close(backend.leave_one_out(), rescaled_scores(config, train, train, leave=True))


def test_rescaled_without_targets_still_scores_them(rng):
    train, is_target = corpus(rng, 25, 4)
    config = Rescaled(target_neighbours=0)
    scores = backends.fit(config, train, is_target).leave_one_out()
    source = train[~is_target]
    assert close(scores[is_target], rescaled_scores(config, source, train[is_target]))
    assert close(scores[~is_target], rescaled_scores(config, source, source, leave=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(60, 4), (45, 1)])
def test_kmeans(rng, metric, sizes):
    config = backend_of(
        "kmeans", metric=metric, kmeans_clusters=5, kmeans_seed=3, target_neighbours=2, folds=7
    )
    train, is_target = corpus(rng, *sizes)
    test = rng.normal(size=(5, train.shape[1])).astype(np.float32)
    backend = backends.fit(config, train, is_target)
    assert close(backend.score(test), kmeans_scores(config, train, is_target, test))
    assert close(backend.leave_one_out(), by_folds(kmeans_scores, config, train, is_target))
    assert "leave-one-out by 7-fold refit of k-means" in backend.notes


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(60, 8), (60, 1), (12, 0)])
def test_mahalanobis(rng, metric, sizes):
    config = Mahalanobis(metric=metric, folds=5)
    train, is_target = corpus(rng, *sizes, size=4)
    test = rng.normal(size=(5, 4)).astype(np.float32)
    backend = backends.fit(config, train, is_target)
    scores, left_out = backend.score(test), backend.leave_one_out()
    # Another way to invert the covariance: its condition number times rounding.
    np.testing.assert_allclose(scores, mahalanobis_scores(config, train, is_target, test), 1e-9)
    np.testing.assert_allclose(
        left_out, by_folds(mahalanobis_scores, config, train, is_target), 1e-9
    )


PLUGIN = '''
"""A backend that knows one point: the mean of the training clips."""

import dataclasses

import numpy as np

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.scoring.backends import Fitted


@register
@dataclasses.dataclass(frozen=True)
class Middle(Backend):
    """Distance to the mean of the clips."""

    name: str = "middle"
    power: float = 1.0
    """Of the distance."""

    def fitted(self, points, is_target):
        return FittedMiddle(self, points, is_target)

    def sentence(self):
        return f"{self.metric} distance to the mean clip"


class FittedMiddle(Fitted):
    def fit_points(self):
        self.middle = self.points[self.used].mean(axis=0)

    def score_points(self, points):
        return np.linalg.norm(points - self.middle, axis=1) ** self.config.power
'''


@pytest.fixture
def plugin(tmp_path, plugins_of_the_test):
    """The backend of a file of a user's."""
    (tmp_path / "middle.py").write_text(PLUGIN, "utf-8")
    registry.load_plugin(tmp_path / "middle.py")
    found = registry.find("backend", "middle")
    yield found
    del sys.modules[found.__module__]


def test_a_backend_of_a_plugin(rng, plugin):
    recipe = "backend: {name: middle, metric: euclidean, power: 2.0, folds: 5}\n"
    recipe += "dataset: {edition: dcase2026}"
    config = configs.parse(recipe, "recipe")
    assert config.backend == plugin(metric="euclidean", power=2.0, folds=5)
    assert configs.parse(configs.dump(config), "again") == config
    train, is_target = corpus(rng)
    test = rng.normal(size=(5, train.shape[1])).astype(np.float32)
    backend = backends.fit(config.backend, train, is_target)

    def scores(config, train, is_target, clips):
        return np.linalg.norm(clips - train.mean(axis=0), axis=1) ** 2

    assert close(backend.score(test), scores(config, train, is_target, test))
    assert close(backend.leave_one_out(), by_folds(scores, config.backend, train, is_target))
    said = describe(config, ["fan/00"])
    assert said["machine_learning_method"].endswith("; euclidean distance to the mean clip")
    assert said["domain_generalization_method"] is None
    assert said["decision_making"].endswith("of the normal training clips' 5-fold scores")


def test_fewer_clips_than_folds(rng):
    train, is_target = corpus(rng, 5, 2, copies=False)
    for name in ("kmeans", "mahalanobis"):
        scores = backends.fit(backend_of(name), train, is_target).leave_one_out()
        one_each = [
            backends.fit(backend_of(name), np.delete(train, i, 0), np.delete(is_target, i)).score(
                train[i : i + 1]
            )[0]
            for i in range(len(train))
        ]
        assert close(scores, one_each)


# Properties.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["nearest_neighbours", "rescaled"])
@pytest.mark.parametrize("size", [3, 512])
def test_training_clips_in_their_own_bank_score_zero(rng, name, metric, size):
    train, is_target = corpus(rng, size=size)
    backend = backends.fit(backend_of(name, metric=metric), 300 * train, is_target)
    assert np.all(backend.score(300 * train) == 0)


def test_copies_are_left_out_by_identity(rng):
    train, is_target = corpus(rng, copies=False)
    train[1] = train[0]
    for name in ("nearest_neighbours", "rescaled"):
        scores = backends.fit(backend_of(name), train, is_target).leave_one_out()
        assert np.all(scores[:2] == 0)
        assert np.all(scores[2:] > 0)


def test_many_copies_divide_by_the_floor(rng):
    train = np.concatenate([np.repeat(rng.normal(size=(1, 4)), 6, axis=0), rng.normal(size=(6, 4))])
    backend = backends.fit(Rescaled(), train, np.zeros(12, bool))
    assert np.all(backend.leave_one_out()[:6] == 0)
    scores = backend.score(rng.normal(size=(9, 4)))
    assert np.all((scores > 0) & (scores < 1e3))  # another reference is nearest then


@pytest.mark.parametrize("name", KINDS)
def test_cosine_scores_ignore_length_and_lie_in_range(rng, name):
    train, is_target = corpus(rng)
    test = rng.normal(size=(9, train.shape[1])).astype(np.float32)
    backend = backends.fit(backend_of(name), train, is_target)
    scores = backend.score(test)
    assert np.array_equal(scores, backend.score(4 * test))
    assert np.all(scores >= 0)
    if name in ("nearest_neighbours", "kmeans"):
        assert np.all(scores <= 1)
        silent = backend.score(np.zeros_like(test))
        np.testing.assert_allclose(silent, 0.5, rtol=0, atol=SCORE)


@pytest.mark.parametrize("name", KINDS)
def test_no_warning_escapes(rng, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sizes in ((60, 4), (40, 1), (9, 0)):
            train, is_target = corpus(rng, *sizes)
            backend = backends.fit(backend_of(name), train, is_target)
            assert np.isfinite(backend.leave_one_out()).all()


# Special cases, said once each.


def notes(rng, sizes, **settings):
    train, is_target = corpus(rng, *sizes, copies=False)
    backend = backends.fit(backend_of(**settings), train, is_target)
    backend.leave_one_out()
    return backend.notes


def test_the_ordinary_case_needs_no_note(rng):
    assert notes(rng, (990, 10)) == ()
    assert notes(rng, (990, 10), name="rescaled") == ()


@pytest.mark.parametrize(
    ("sizes", "settings", "said"),
    [
        ((50, 0), {}, "no target clips: scored against the source clips only"),
        ((0, 5), {}, "no source clips: scored against the target clips only"),
        ((50, 1), {}, "SMOTE skipped: it needs two target clips, found 1"),
        (
            (109, 10),
            {},
            "SMOTE skipped: backend.smote.ratio 0.1 asks for 10 target points, and there are 10 "
            "target clips",
        ),
        (
            (10, 10),
            {"smote": SmoteConfig(ratio=1)},
            "SMOTE skipped: backend.smote.ratio 1 asks for 10 target points, and there are 10 "
            "target clips",
        ),
        (
            (50, 2),
            {},
            "SMOTE draws between 1 instead of 2 neighbours: there are 2 target clips",
        ),
        (
            (50, 2),
            {"smote": SmoteConfig(ratio=0), "target_neighbours": 3},
            "backend.target_neighbours is 3, there are 2 clips: all of them are used",
        ),
        (
            (4, 0),
            {"source_neighbours": 5},
            "backend.source_neighbours is 5, there are 4 clips: all of them are used",
        ),
        (
            (8, 2),
            {"name": "kmeans"},
            "backend.kmeans_clusters is 16, there are 8 clips: all of them are used",
        ),
        (
            (2, 1),
            {"name": "rescaled"},
            "backend.rescale_neighbours is 4, there are 2 clips: all of them are used",
        ),
        (
            (30, 2),
            {"name": "mahalanobis"},
            "too few target clips for a covariance: the other domain's is used",
        ),
    ],
)
def test_special_cases_are_said_once(rng, sizes, settings, said):
    assert notes(rng, sizes, **settings).count(said) == 1


def test_smote_off_is_not_a_special_case(rng):
    assert notes(rng, (50, 1), smote=SmoteConfig(ratio=0)) == ()
    assert notes(rng, (50, 1), target_neighbours=0) == ()


# Refusals.


@pytest.mark.parametrize(
    ("embeddings", "is_target", "message"),
    [
        (np.zeros((0, 4)), np.zeros(0, bool), "at least one"),
        (np.zeros((4, 0)), np.zeros(4, bool), "at least one"),
        (np.zeros(4), np.zeros(4, bool), "one row per clip"),
        (np.zeros((4, 4), int), np.zeros(4, bool), "float32 or float64"),
        (np.zeros((4, 4)), np.zeros(3, bool), "4 embeddings and domains of shape (3,)"),
        (np.zeros((4, 4)), np.zeros(4), "give booleans"),
        (np.diag([1, np.nan, np.inf, 1]), np.zeros(4, bool), "2 of 4 embeddings"),
    ],
)
def test_bad_training_clips_are_refused(embeddings, is_target, message):
    with pytest.raises(AsdjaxError, match=re.escape(message)):
        backends.fit(NearestNeighbours(), embeddings, is_target)


@pytest.mark.parametrize("name", KINDS)
def test_bad_test_clips_are_refused(rng, name):
    train, is_target = corpus(rng)
    backend = backends.fit(backend_of(name), train, is_target)
    for bad, message in (
        (np.zeros((3, 5)), "embeddings hold 5 values, the training clips' hold 6"),
        (np.zeros((0, 6)), "at least one"),
        (np.full((3, 6), np.nan), "3 of 3 embeddings"),
    ):
        with pytest.raises(AsdjaxError, match=message):
            backend.score(bad)


def test_too_few_clips_are_refused():
    one, two = np.ones((1, 3)), np.eye(3)[:2]
    with pytest.raises(AsdjaxError, match="target_neighbours is 0"):
        backends.fit(NearestNeighbours(target_neighbours=0), one, np.ones(1, bool))
    for name in ("nearest_neighbours", "kmeans", "rescaled"):
        backend = backends.fit(backend_of(name), one, np.zeros(1, bool))
        assert np.all(backend.score(one) == 0)
        with pytest.raises(AsdjaxError, match="found 1"):
            backend.leave_one_out()
    copies = np.repeat(two / 3, 4, axis=0)
    unequal = np.concatenate([copies, two[:1] / 3])
    nearly = copies + 1e-13 * np.arange(8)[:, None]
    config = Mahalanobis(metric="euclidean")
    for few in (one, two, copies, unequal, nearly):
        with pytest.raises(AsdjaxError, match="mahalanobis needs three"):
            backends.fit(config, few, np.zeros(len(few), bool))


def test_synthetic_points_lie_between_their_parents(rng):
    """Breaks when imbalanced-learn mixes some columns of a point unlike the others."""
    train, is_target = corpus(rng, 60, 8, copies=False)
    targets = np.flatnonzero(is_target)
    train[targets[0]] = train[targets[1]]
    new, parents, _ = smote.synthetic_points(SmoteConfig(1.0, 3), train, is_target)
    assert len(new) == 52 and np.isin(parents.sum(axis=1), [1, 2]).all()
    for point, of in zip(new, parents, strict=True):
        one, other = train[targets[of]][[0, -1]]
        detour = distance(one, point) + distance(point, other)
        np.testing.assert_allclose(detour, distance(one, other), rtol=0, atol=SCORE)


@pytest.mark.parametrize("value", [1e101, 1e160, 1e300])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_values_whose_squares_overflow_are_refused(rng, value, metric):
    points = rng.standard_normal((8, 3))
    points[0] *= value
    with pytest.raises(AsdjaxError, match="scale them down"):
        backends.fit(NearestNeighbours(metric=metric), points, np.arange(8) < 2)


def test_nearly_equal_clips_give_no_warning_of_scikit_learn(rng, recwarn):
    points = 1 + 1e-15 * rng.standard_normal((40, 3))
    backends.fit(
        registry.find("backend", "kmeans")(kmeans_clusters=16, metric="euclidean"),
        points,
        np.zeros(40, bool),
    )
    assert not recwarn.list
