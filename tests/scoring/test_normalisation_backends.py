"""Density, variance, domain, component, fusion and band-wise scores: against loops in float64.

Leave-one-out scores are compared with a fit to the other clips, by the same loops.
"""

import math
import re
import tracemalloc

import numpy as np
import pytest
from conftest import SCORE
from scipy.spatial.distance import cdist

from asdjax.challenge.meta_yaml import describe
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.errors import AsdjaxError
from asdjax.scoring import backends
from asdjax.scoring.distances import unit_length
from asdjax.scoring.fusion import Fusion
from asdjax.scoring.kmeans import KMeans
from asdjax.scoring.local_density import LocalDensity
from asdjax.scoring.mahalanobis import Mahalanobis
from asdjax.scoring.nearest_neighbours import MemoryMixupConfig, NearestNeighbours, SmoteConfig
from asdjax.scoring.principal_components import PrincipalComponents
from asdjax.scoring.rescaled import Rescaled
from asdjax.scoring.standardised_domains import StandardisedDomains
from asdjax.scoring.variance_minimised import VarianceMinimised

METRICS = ("cosine", "euclidean")
PLAIN = NearestNeighbours(smote=SmoteConfig(ratio=0))


def corpus(rng, n_source, n_target, size=5, copies=False):
    """Shuffled float32 embeddings of two domains of unequal density."""
    train = rng.normal(size=(n_source + n_target, size)) * rng.uniform(
        0.3, 2, (n_source + n_target, 1)
    )
    is_target = np.arange(len(train)) >= n_source
    train[is_target] = 2 + 2 * train[is_target]
    if copies:
        train[1] = train[2] = train[0]
        train[3] = train[-1]
    order = rng.permutation(len(train))
    return train[order].astype(np.float32), is_target[order]


def check(config, train, is_target, test, oracle, rel=SCORE):
    """`oracle(train, is_target, clips)` is a fit to `train`, and scores of `clips`."""
    fitted = backends.fit(config, train, is_target)
    wide = train.astype(np.float64)
    expected = oracle(wide, is_target, test.astype(np.float64))
    np.testing.assert_allclose(fitted.score(test), expected, rtol=rel, atol=SCORE)
    used = ~is_target if config.target_neighbours == 0 else np.ones(len(train), bool)
    if used.sum() < 2:
        with pytest.raises(AsdjaxError, match="found 1"):
            fitted.leave_one_out()
        return fitted
    rows = range(0, len(train), 1 if len(train) < 30 else 6)
    expected = [
        oracle(np.delete(wide, i, 0), np.delete(is_target, i), wide[i : i + 1])[0] for i in rows
    ]
    np.testing.assert_allclose(fitted.leave_one_out()[rows], expected, rtol=rel, atol=SCORE)
    return fitted


# The oracles.


def distance(a, b, config, halved=True):
    """The house's distance, or its square: for the cosine sqrt((1 - cosine) / 2)."""
    if config.metric == "cosine":
        a, b = (x / max(math.sqrt(sum(v * v for v in x)), 1e-12) for x in (a, b))
    found = math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))
    if halved and config.metric == "cosine":
        found /= 2
    return found * found if config.squared else found


def weighted(values, k, decay=1.0):
    """The weighted mean of the k smallest values; None if there are none."""
    nearest = sorted(values)[:k]
    weights = [decay**n for n in range(len(nearest))]
    if not nearest:
        return None
    return sum(w * v for w, v in zip(weights, nearest, strict=True)) / sum(weights)


def matrix(points, config, halved=True):
    return [[distance(a, b, config, halved) for b in points] for a in points]


def of_local_density(config):
    halved = config.form == "difference"

    def oracle(train, is_target, clips):
        pool = train[~is_target] if config.target_neighbours == 0 else train
        between = matrix(pool, config, halved)
        b = []
        for i in range(len(pool)):
            rest = [between[i][j] for j in range(len(pool)) if j != i]
            mean = weighted(rest, config.rescale_neighbours, config.decay)
            alone = 1.0 if config.form == "ratio" else 0.0
            b.append(alone if mean is None else max(mean, 1e-12))
        scores = []
        for x in clips:
            d = [distance(x, y, config, halved) for y in pool]
            if config.form == "ratio":
                values = [one / around for one, around in zip(d, b, strict=True)]
            else:
                values = [one - around for one, around in zip(d, b, strict=True)]
            scores.append(weighted(values, config.source_neighbours))
        return np.array(scores)

    return oracle


def of_variance_minimised(config, enough):
    """`enough`: whether alpha is fitted, which is decided once for all clips."""
    f = (lambda v: math.log(max(v, 1e-12))) if config.form == "log" else float

    def oracle(train, is_target, clips):
        pool = train[~is_target] if config.target_neighbours == 0 else train
        every = range(len(pool))
        between = matrix(pool, config)

        def density(i, gone):
            rest = [between[i][j] for j in every if j != i and j not in gone]
            mean = weighted(rest, config.density_neighbours)
            return 1.0 if mean is None else mean

        alpha = 0.0
        if enough:
            pairs = []
            for z in every:
                i = min((j for j in every if j != z), key=lambda j, z=z: between[z][j])
                pairs.append((f(between[z][i]), f(density(i, {z}))))
            d, b = map(np.array, zip(*pairs, strict=True))
            if np.var(b) > 1e-12:
                alpha = np.cov(d, b, ddof=0)[0, 1] / np.var(b)
        of_each = [f(density(i, ())) for i in every]
        return np.array(
            [
                min(
                    f(distance(x, y, config)) - alpha * b
                    for y, b in zip(pool, of_each, strict=True)
                )
                for x in clips
            ]
        )

    return oracle


def of_standardised_domains(config, own):
    """`own`: which domains have enough clips for their own mean and deviation."""

    def oracle(train, is_target, clips):
        domains = {}
        for target, k in ((False, config.source_neighbours), (True, config.target_neighbours)):
            points = train[is_target == target]
            if len(points) and k:
                between = matrix(points, config)
                spread = None
                if target in own:
                    left_out = [
                        weighted([v for j, v in enumerate(row) if j != i], k)
                        for i, row in enumerate(between)
                    ]
                    if np.std(left_out) > 1e-9 * max(left_out):
                        spread = np.mean(left_out), np.std(left_out)
                domains[target] = points, k, spread
        found = [spread for _, _, spread in domains.values() if spread]
        scores = []
        for x in clips:
            values = []
            for points, k, spread in domains.values():
                mean, deviation = spread or (found[0] if found else (0, 1))
                values.append(weighted([distance(x, y, config) for y in points], k) - mean)
                values[-1] /= deviation
            scores.append(min(values))
        return np.array(scores)

    return oracle


def of_principal_components(config):
    def oracle(train, is_target, clips):
        train = train[~is_target] if config.target_neighbours == 0 else train
        train, clips = unit_length(train, config.metric), unit_length(clips, config.metric)
        mean = train.mean(axis=0)
        values, vectors = np.linalg.eigh((train - mean).T @ (train - mean))
        left, kept, total = clips - mean, 0.0, values.sum()
        for n in reversed(range(1, len(values))):  # never all of them
            if total < 1e-20 or kept >= config.kept_variance * total * (1 - 1e-12):
                break
            left = left - np.outer(left @ vectors[:, n], vectors[:, n])
            kept += values[n]
        return np.sqrt(np.sum(left**2, axis=1))

    return oracle


def by_folds(oracle, config, train, is_target):
    scores = np.empty(len(train))
    dealt = [*np.flatnonzero(~is_target), *np.flatnonzero(is_target)]
    for fold in range(config.folds):
        out = np.isin(np.arange(len(train)), dealt[fold :: config.folds])
        if out.any():
            scores[out] = oracle(train[~out], is_target[~out], train[out])
    return scores


# Local density.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", ["ratio", "difference"])
@pytest.mark.parametrize("settings", [{}, {"squared": True, "source_neighbours": 2}])
@pytest.mark.parametrize(("k", "decay"), [(1, 1.0), (3, 0.9), (500, 0.5)])
@pytest.mark.parametrize("sizes", [(16, 4), (0, 6), (3, 0), (2, 0), (1, 1), (1, 0)])
def test_local_density(rng, metric, form, settings, k, decay, sizes):
    config = LocalDensity(metric=metric, form=form, rescale_neighbours=k, decay=decay, **settings)
    train, is_target = corpus(rng, *sizes, copies=sum(sizes) > 10)
    test = np.concatenate([rng.normal(size=(4, 5)), train[:1]]).astype(np.float32)
    check(config, train, is_target, test, of_local_density(config))


def test_local_density_without_targets_still_scores_them(rng):
    config = LocalDensity(target_neighbours=0, form="difference", rescale_neighbours=2)
    train, is_target = corpus(rng, 9, 4)
    check(config, train, is_target, train + 1, of_local_density(config))


def former(config, points, clips):
    """What `rescaled` computed before it was an alias: all distances at once."""
    points, clips = unit_length(points, config.metric), unit_length(clips, config.metric)
    others = len(points) - 1
    k = min(config.rescale_neighbours, others)
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1, kind="stable")[:, : min(k + 1, others)]
    near = np.take_along_axis(distances, order, axis=1)

    def density(of):
        return np.maximum(of.mean(axis=1), 1e-12) if of.shape[1] else np.ones(len(of))

    def nearest(quotients):
        smallest = np.sort(quotients, axis=1)[:, : config.source_neighbours]
        finite = np.isfinite(smallest)
        return np.where(finite, smallest, 0).sum(axis=1) / finite.sum(axis=1)

    left_out = np.tile(density(near[:, :k]), (len(points), 1))
    for rank in range(k):
        rest = np.delete(near, rank, axis=1)[:, :k]
        left_out[order[:, rank], np.arange(len(points))] = density(rest)
    quotients = cdist(points, points) / left_out
    np.fill_diagonal(quotients, np.inf)
    return nearest(cdist(clips, points) / density(near[:, :k])), nearest(quotients)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("neighbours", [(1, 4), (3, 1), (9, 20), (1, 5000)])
@pytest.mark.parametrize("sizes", [(200, 9), (3, 0), (1, 1)])
def test_rescaled_is_an_alias_that_scores_as_before_to_the_bit(
    rng, metric, dtype, neighbours, sizes
):
    config = Rescaled(
        metric=metric, source_neighbours=neighbours[0], rescale_neighbours=neighbours[1]
    )
    train, is_target = corpus(rng, *sizes, size=70, copies=sum(sizes) > 10)
    train = train.astype(dtype)
    test = np.concatenate([rng.normal(size=(90, 70)).astype(dtype), train])
    fitted = backends.fit(config, train, is_target)
    scores, left_out = former(config, train, test)
    np.testing.assert_array_equal(fitted.score(test), scores)
    np.testing.assert_array_equal(fitted.leave_one_out(), left_out)


def test_a_recipe_with_the_old_name_is_read():
    text = "backend: {name: rescaled, metric: cosine, target_neighbours: 1, combine_views: mean, "
    text += "folds: 10, source_neighbours: 2, rescale_neighbours: 3}"
    config = configs.parse(text, "recipe").backend
    assert config == Rescaled(source_neighbours=2, rescale_neighbours=3)
    assert Rescaled().rescale_neighbours == 4
    assert isinstance(config, LocalDensity)
    assert config.sentence() == LocalDensity().sentence()


def test_exported_references_give_the_same_scores(rng):
    train, is_target = corpus(rng, 20, 3)
    test = rng.normal(size=(6, 5))
    for config in (LocalDensity(source_neighbours=2, decay=0.7, rescale_neighbours=3), Rescaled()):
        fitted = backends.fit(config, train, is_target)
        of = fitted.references()
        quotients = cdist(unit_length(test, "cosine"), of.points) / of.divisors
        expected = of.factor * np.sort(quotients, axis=1)[:, : of.neighbours].mean(axis=1)
        np.testing.assert_allclose(fitted.score(test), expected, rtol=1e-12)
    no_targets = np.zeros(len(train), bool)
    for config in (
        LocalDensity(form="difference"),
        LocalDensity(squared=True),
        NearestNeighbours(squared=True),
        VarianceMinimised(),
        StandardisedDomains(),
        PrincipalComponents(),
        Fusion(members=(PLAIN, Rescaled())),
    ):
        assert backends.fit(config, train, no_targets).references() is None


# Variance minimisation.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("form", ["plain", "log"])
@pytest.mark.parametrize(("k", "squared"), [(1, False), (4, True), (500, False)])
@pytest.mark.parametrize("sizes", [(47, 5), (0, 50), (48, 1), (3, 0), (2, 0), (1, 1), (1, 0)])
def test_variance_minimised(rng, metric, form, k, squared, sizes):
    config = VarianceMinimised(metric=metric, form=form, squared=squared, density_neighbours=k)
    train, is_target = corpus(rng, *sizes, copies=sum(sizes) > 10)
    test = np.concatenate([rng.normal(size=(3, 5)), train[:1]]).astype(np.float32)
    oracle = of_variance_minimised(config, enough=sum(sizes) >= 50)
    fitted = check(config, train, is_target, test, oracle)
    few = f"{sum(sizes)} reference clips are fewer than 50: distances are not normalised by the "
    assert (f"{few}density" in fitted.notes) == (sum(sizes) < 50)


def test_variance_minimised_without_targets_still_scores_them(rng):
    config = VarianceMinimised(target_neighbours=0, density_neighbours=2)
    train, is_target = corpus(rng, 51, 2)
    check(config, train, is_target, train[:5] + 1, of_variance_minimised(config, enough=True))


def test_the_share_reduces_the_variance_of_normal_scores(rng):
    train = rng.normal(size=(300, 4)) * np.repeat([0.1, 1.0], 150)[:, None]
    train += np.repeat([[0.0], [9.0]], 150, axis=0)
    none = np.zeros(300, bool)
    config = VarianceMinimised(metric="euclidean")
    plain = backends.fit(
        NearestNeighbours(metric="euclidean", smote=SmoteConfig(ratio=0)), train, none
    )
    normalised = backends.fit(config, train, none)
    assert normalised.leave_one_out().std() < 0.8 * plain.leave_one_out().std()


@pytest.mark.parametrize("form", ["plain", "log"])
def test_equal_densities_are_said_and_not_divided_by(form):
    ring = np.exp(2j * np.pi * np.arange(60) / 60)
    points = np.stack([ring.real, ring.imag], axis=1)
    config = VarianceMinimised(metric="euclidean", form=form, density_neighbours=2)
    fitted = backends.fit(config, points, np.zeros(60, bool))
    said = "the densities are all alike: distances are not normalised by them"
    assert fitted.notes[-1] == said
    nearest = 1 if form == "plain" else 0  # a unit from the point of the ring at angle 0
    assert fitted.score(np.array([[2.0, 0]])) == pytest.approx([nearest], abs=SCORE)


# Squares, and points between the domains.


@pytest.mark.parametrize("metric", METRICS)
def test_squares_of_nearest_distances(rng, metric):
    train, is_target = corpus(rng, 12, 4)
    test = rng.normal(size=(5, 5))
    config = NearestNeighbours(
        metric=metric, source_neighbours=3, target_neighbours=2, squared=True,
        smote=SmoteConfig(ratio=0),
    )  # fmt: skip

    def oracle(train, is_target, clips):
        return np.array(
            [
                min(
                    weighted([distance(x, y, config) for y in train[is_target == t]], k)
                    for t, k in ((False, 3), (True, 2))
                )
                for x in clips
            ]
        )

    check(config, train, is_target, test, oracle)


def mixed_scores(config, train, is_target, clips, left_out=None):
    """Scores with generated points, less all that is made of the row `left_out`."""
    train, clips = (unit_length(a.astype(np.float64), config.metric) for a in (train, clips))
    source, target = np.flatnonzero(~is_target), np.flatnonzero(is_target)
    bank = [(train[t], {t}) for t in target]
    for t in target:
        nearest = sorted(source, key=lambda s, t=t: distance(train[s], train[t], config))
        for s in nearest[: config.memory_mixup.neighbours]:
            a = config.memory_mixup.target_share
            point = unit_length((a * train[t] + (1 - a) * train[s])[None], config.metric)[0]
            bank.append((point, {s, t}))
    bank = [point for point, parents in bank if left_out not in parents]
    scores = []
    for x in clips:
        of_source = [distance(x, train[s], config) for s in source if s != left_out]
        of_target = [distance(x, y, config) for y in bank]
        found = [weighted(of_source, config.source_neighbours)]
        found.append(weighted(of_target, config.target_neighbours))
        scores.append(min(value for value in found if value is not None))
    return np.array(scores)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("neighbours", [1, 3, 50])
@pytest.mark.parametrize("sizes", [(20, 4), (20, 1), (2, 3), (1, 1), (6, 0), (0, 6)])
def test_points_between_target_and_source_clips(rng, metric, neighbours, sizes):
    config = NearestNeighbours(
        metric=metric,
        target_neighbours=2,
        smote=SmoteConfig(ratio=0),
        memory_mixup=MemoryMixupConfig(neighbours, 0.8),
    )
    train, is_target = corpus(rng, *sizes)
    test = rng.normal(size=(5, 5)).astype(np.float32)
    fitted = backends.fit(config, train, is_target)
    expected = mixed_scores(config, train, is_target, test)
    np.testing.assert_allclose(fitted.score(test), expected, rtol=0, atol=SCORE)
    left_out = [
        mixed_scores(config, train, is_target, train[i : i + 1], left_out=i)[0]
        for i in range(len(train))
    ]
    np.testing.assert_allclose(fitted.leave_one_out(), left_out, rtol=0, atol=SCORE)
    said = f"backend.memory_mixup.neighbours is {neighbours}, there are {sizes[0]} clips: all of "
    few = min(sizes) > 0 and sizes[0] < neighbours
    assert (f"{said}them are used" in fitted.notes) == few


def test_generated_points_change_scores_only_if_asked_for(rng):
    train, is_target = corpus(rng, 200, 6)
    test = rng.normal(size=(50, 5)).astype(np.float32)
    with_smote = backends.fit(NearestNeighbours(), train, is_target).score(test)
    both = NearestNeighbours(memory_mixup=MemoryMixupConfig(5))
    assert (backends.fit(both, train, is_target).score(test) <= with_smote).all()
    assert (backends.fit(both, train, is_target).score(test) < with_smote).any()
    assert "MemMixup of the target embeddings with 5 source" in both.generalization()
    assert "MemMixup" not in NearestNeighbours().generalization()


# Standardised domains.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("settings", [{}, {"source_neighbours": 3, "squared": True}])
@pytest.mark.parametrize(
    ("sizes", "target_neighbours"),
    [
        *((s, k) for s in [(14, 6), (14, 3), (4, 4)] for k in (1, 2, 0)),
        *((s, 1) for s in [(3, 9), (3, 3), (0, 6), (6, 0), (1, 1), (2, 0), (3, 0)]),
    ],
)
@pytest.mark.parametrize("copies", [False, True])
def test_standardised_domains(rng, metric, settings, target_neighbours, sizes, copies):
    config = StandardisedDomains(metric=metric, target_neighbours=target_neighbours, **settings)
    train, is_target = corpus(rng, *sizes)
    train = train.astype(np.float64)  # a small deviation makes rounding errors large
    if copies:  # the target's own scores are all 0, or they are without one clip
        train[np.flatnonzero(is_target)[:-1]] = train[0]
    test = rng.normal(size=(5, 5)).astype(np.float32)
    own = [target for target in (False, True) if sizes[target] >= 4]
    check(config, train, is_target, test, of_standardised_domains(config, own))


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((9, 3), "too few different target clips for a mean and a deviation of their scores: the "
                 "other domain's are used"),
        ((3, 0), "too few different source clips for a mean and a deviation of their scores: "
                 "nothing is standardised"),
    ],
)  # fmt: skip
def test_domains_that_cannot_be_standardised_are_said(rng, sizes, said):
    assert said in backends.fit(StandardisedDomains(), *corpus(rng, *sizes)).notes
    assert backends.fit(StandardisedDomains(), *corpus(rng, 9, 5)).notes == ()


# Principal components.


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("share", [0, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("target_neighbours", [1, 0])
@pytest.mark.parametrize("sizes", [(40, 9), (5, 2), (2, 0), (1, 0)])
def test_principal_components(rng, metric, share, target_neighbours, sizes):
    config = PrincipalComponents(
        metric=metric, kept_variance=share, target_neighbours=target_neighbours, folds=7
    )
    train, is_target = corpus(rng, *sizes, size=8)
    test, oracle = rng.normal(size=(6, 8)), of_principal_components(config)
    fitted = backends.fit(config, train.astype(np.float64), is_target)
    wide = train.astype(np.float64)
    np.testing.assert_allclose(fitted.score(test), oracle(wide, is_target, test), atol=SCORE)
    if sum(sizes) > 1:
        expected = by_folds(oracle, config, wide, is_target)
        np.testing.assert_allclose(fitted.leave_one_out(), expected, rtol=0, atol=SCORE)


def test_some_direction_is_always_left(rng):
    """With all components, scores would be rounding errors."""
    train = rng.normal(size=(50, 3))
    fitted = backends.fit(
        PrincipalComponents(kept_variance=0.9999, metric="euclidean"), train, np.zeros(50, bool)
    )
    assert (fitted.score(train) > 1e-6).all()
    assert "all principal components but one are used: with all there is no residual" in (
        fitted.notes
    )


def test_equal_clips_have_no_components():
    fitted = backends.fit(
        PrincipalComponents(metric="euclidean"), np.ones((5, 3)), np.zeros(5, bool)
    )
    assert fitted.score(np.array([[1.0, 1, 3]])) == pytest.approx([2])
    assert np.all(fitted.leave_one_out() == 0)


# Fusion.

MEMBERS = (
    PLAIN,
    LocalDensity(rescale_neighbours=2, target_neighbours=0),
    VarianceMinimised(metric="euclidean"),
    KMeans(kmeans_clusters=3, folds=4),
)


def fused(config, train, is_target, clips, bands=1):
    """Loops over members: each is refitted and standardised by its leave-one-out scores."""
    members = []
    for member in config.members:
        fitted = backends.fit(member, train, is_target, bands)
        left_out = fitted.leave_one_out()
        members.append([(s - left_out.mean()) / left_out.std() for s in fitted.score(clips)])
    of = {"mean": lambda v: sum(v) / len(v), "minimum": min, "maximum": max}[config.combine]
    return np.array([of(values) for values in zip(*members, strict=True)])


@pytest.mark.parametrize("combine", ["mean", "minimum", "maximum"])
@pytest.mark.parametrize("bands", [1, 3])
def test_fusion(rng, combine, bands):
    config = Fusion(members=MEMBERS, combine=combine, metric="euclidean", folds=6)
    train, is_target = corpus(rng, 20, 5, size=9)
    train, test = train.astype(np.float64), rng.normal(size=(6, 9))
    fitted = backends.fit(config, train, is_target, bands)
    expected = fused(config, train, is_target, test, bands)
    np.testing.assert_allclose(fitted.score(test), expected, rtol=0, atol=SCORE)

    def oracle(*about):
        return fused(config, *about, bands)

    expected = by_folds(oracle, config, train, is_target)
    np.testing.assert_allclose(fitted.leave_one_out(), expected, rtol=0, atol=SCORE)


def test_a_fusion_with_a_fold_for_each_clip_leaves_out_one(rng):
    config = Fusion(members=(PLAIN, Rescaled()), folds=1000)
    train, is_target = corpus(rng, 12, 4)
    expected = [
        backends.fit(config, np.delete(train, i, 0), np.delete(is_target, i)).score(
            train[i : i + 1]
        )[0]
        for i in range(16)
    ]
    np.testing.assert_array_equal(backends.fit(config, train, is_target).leave_one_out(), expected)


def test_each_note_of_members_is_said_once(rng):
    config = Fusion(members=(PLAIN, Rescaled(), KMeans(kmeans_clusters=2)))
    notes = backends.fit(config, *corpus(rng, 20, 0, size=15), 5).notes
    assert len(set(notes)) == len(notes)
    assert "no target clips: scored against the source clips only" in notes
    folds = "leave-one-out by 10-fold refit of the fusion"
    assert [note for note in notes if "leave-one-out" in note] == [folds]
    banded = backends.fit(config, *corpus(rng, 20, 0, size=15), 5).notes
    assert [note for note in banded if "leave-one-out" in note] == [folds]


def test_what_a_fusion_cannot_do_is_refused(rng):
    train, is_target = corpus(rng, 8, 0)
    config = Fusion(members=(PLAIN,))
    for few in (1, 2):
        with pytest.raises(AsdjaxError, match=f"needs 3 training clips.* found {few}: add"):
            backends.fit(config, train[:few], is_target[:few])
    assert np.isfinite(backends.fit(config, train[:4], is_target[:4]).leave_one_out()).all()
    with pytest.raises(AsdjaxError, match="found 2: add"):
        backends.fit(config, train[:3], is_target[:3]).leave_one_out()
    with pytest.raises(AsdjaxError, match=re.escape("backend.members[0] (nearest_neighbours) are")):
        backends.fit(config, np.ones((6, 3)), np.zeros(6, bool))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("members: [{name: fusion}]", "backend.members[0].name: a member cannot be a fusion"),
        ("members: []", "backend.members: name at least one backend"),
        ("members: [{part: x}]", "backend.members[0].part: set the part of the fusion instead"),
        ("members: [rescaled, {combine_views: z_score}]", "backend.members[1].combine_views: set"),
        ("members: [{}], target_neighbours: 0", "backend.members[0].target_neighbours: must be 0"),
        ("members: [{name: nothing}]", "backend.members[0].name: expected one of"),
        ("members: [{squared: 3}]", "backend.members[0].squared: expected true or false"),
        ("members: [{source_neighbours: 0}]", "backend.members[0].source_neighbours: must be at"),
    ],
)
def test_settings_of_members_are_checked(recipe, message):
    with pytest.raises(AsdjaxError, match=re.escape(message)):
        configs.parse(f"backend: {{name: fusion, {recipe}}}", "recipe")


def test_a_fusion_is_written_and_read(rng):
    text = "backend: {name: fusion, combine: mean, members: [rescaled, {name: kmeans, folds: 3}]}"
    config = configs.parse(text, "recipe")
    assert config.backend == Fusion(combine="mean", members=(Rescaled(), KMeans(folds=3)))
    assert configs.parse(configs.dump(config), "again") == config
    assert configs.differences(config, configs.parse("backend: fusion", "b"), ("backend",))
    other = config.backend.with_metric("euclidean")
    assert {other.metric, *(member.metric for member in other.members)} == {"euclidean"}


# Bands.

BACKENDS = [
    NearestNeighbours(smote=SmoteConfig(ratio=0.5), memory_mixup=MemoryMixupConfig(2)),
    LocalDensity(rescale_neighbours=2),
    VarianceMinimised(),
    StandardisedDomains(),
    KMeans(kmeans_clusters=4, folds=3),
    Mahalanobis(folds=3),
    PrincipalComponents(kept_variance=0.6, folds=3),
]


@pytest.mark.parametrize("config", BACKENDS, ids=lambda config: config.name)
@pytest.mark.parametrize("metric", METRICS)
def test_each_band_is_scored_by_itself(rng, config, metric):
    config = config.with_metric(metric)
    train, is_target = corpus(rng, 55, 8, size=12)
    test = rng.normal(size=(7, 12)).astype(np.float32)
    fitted = backends.fit(config, train, is_target, bands=3)
    of_bands = [
        backends.fit(config, np.ascontiguousarray(train[:, i : i + 4]), is_target)
        for i in (0, 4, 8)
    ]
    scores = sum(f.score(test[:, 4 * i : 4 * i + 4]) for i, f in enumerate(of_bands)) / 3
    np.testing.assert_allclose(fitted.score(test), scores, rtol=1e-14)
    left_out = sum(f.leave_one_out() for f in of_bands) / 3
    np.testing.assert_allclose(fitted.leave_one_out(), left_out, rtol=1e-14)
    joined = type(config)(**{**vars(config), "bands": "joined"})
    whole = backends.fit(config, train, is_target).score(test)
    np.testing.assert_array_equal(backends.fit(joined, train, is_target, 3).score(test), whole)
    np.testing.assert_array_equal(backends.fit(config, train, is_target, 1).score(test), whole)
    assert not np.allclose(scores, whole)


def test_leave_one_out_of_bands_is_a_fit_to_the_others(rng):
    config = VarianceMinimised(squared=True)
    train, is_target = corpus(rng, 51, 0, size=8)
    oracle = of_variance_minimised(config, enough=True)

    def of_bands(train, is_target, clips):
        return np.mean(
            [oracle(train[:, i : i + 2], is_target, clips[:, i : i + 2]) for i in (0, 2, 4, 6)], 0
        )

    wide = train.astype(np.float64)
    left_out = backends.fit(config, train, is_target, 4).leave_one_out()
    for i in range(0, 51, 10):
        rest = np.arange(51) != i
        expected = of_bands(wide[rest], is_target[rest], wide[i : i + 1])
        np.testing.assert_allclose(left_out[i], expected[0], rtol=0, atol=SCORE)


def test_notes_of_bands_are_said_once(rng):
    train, is_target = corpus(rng, 8, 0, size=6)
    train[:, 3:] = train[0, 3:]  # the second band's clips are all equal
    notes = backends.fit(KMeans(kmeans_clusters=4), train, is_target, bands=2).notes
    assert notes == (
        "no target clips: scored against the source clips only",
        "leave-one-out by 10-fold refit of k-means",
        "band 1: backend.kmeans_clusters is 4, there are 1 clips: all of them are used",
    )


@pytest.mark.parametrize("bands", [0, -1, 4])
def test_embeddings_that_are_not_of_bands_are_refused(rng, bands):
    with pytest.raises(AsdjaxError, match=f"hold 5 values, which {bands} bands cannot share"):
        backends.fit(PLAIN, *corpus(rng, 5, 0), bands)


def test_bad_clips_of_bands_are_refused(rng):
    train, is_target = corpus(rng, 9, 2, size=6)
    fitted = backends.fit(PLAIN, train, is_target, bands=2)
    with pytest.raises(AsdjaxError, match="hold 5 values, the training clips' hold 6"):
        fitted.score(np.zeros((3, 5)))
    with pytest.raises(AsdjaxError, match="3 of 3 embeddings"):
        fitted.score(np.full((3, 6), np.nan))
    silent = fitted.score(np.zeros((2, 6)))
    np.testing.assert_allclose(silent, 0.5, rtol=0, atol=SCORE)


# All of them.

ALL = [
    *BACKENDS,
    Rescaled(),
    LocalDensity(form="difference", squared=True),
    VarianceMinimised(form="log", squared=True),
    Fusion(members=(PLAIN, Rescaled())),
]
NAMES = [f"{config.name}-{getattr(config, 'form', '')}" for config in ALL]


@pytest.mark.parametrize("config", ALL, ids=NAMES)
@pytest.mark.parametrize("bands", [1, 2])
def test_scores_follow_neither_the_length_nor_the_order_of_clips(rng, config, bands):
    train, is_target = corpus(rng, 55, 8, size=6)
    train, test = train.astype(np.float64), rng.normal(size=(7, 6))
    fitted = backends.fit(config, train, is_target, bands)
    scores = fitted.score(test)
    longer = backends.fit(config, 3 * train, is_target, bands)
    np.testing.assert_allclose(longer.score(7 * test), scores, rtol=1e-7)
    np.testing.assert_allclose(longer.leave_one_out(), fitted.leave_one_out(), rtol=1e-7)
    if config.name in ("kmeans", "nearest_neighbours"):
        return  # the draws of k-means and SMOTE follow the order
    order = rng.permutation(len(train))
    other = backends.fit(config, train[order], is_target[order], bands)
    np.testing.assert_allclose(other.score(test), scores, rtol=1e-9, atol=1e-9)
    if "fold" not in config.training_scores():
        expected = fitted.leave_one_out()[order]
        np.testing.assert_allclose(other.leave_one_out(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("config", ALL, ids=NAMES)
def test_clips_of_which_most_are_copies(rng, config):
    train, is_target = corpus(rng, 60, 10)
    train[::2] = train[0]
    fitted = backends.fit(config, train, is_target)
    assert np.isfinite(fitted.score(train)).all()
    assert np.isfinite(fitted.leave_one_out()).all()


@pytest.mark.parametrize("name", registry.names("backend"))
def test_meta_yaml_describes_every_backend(name):
    settings = "combine_views: z_minimum"
    if name == "chosen":
        settings += ", sections: [fan/00], members: [{name: kmeans, combine_views: z_minimum}]"
    config = configs.parse(f"backend: {{name: {name}, {settings}}}\n"
                           "dataset: {edition: dcase2026}\n"
                           "extract: {views: [{name: a, method: raw}, {name: b, method: far}]}",
                           "recipe")  # fmt: skip
    said = describe(config, ["fan/00"])
    assert said["aggregation_method"].startswith("smallest of the views' scores")
    assert said["ensemble_method_subsystem_count"] == 2
    assert config.backend.sentence() in said["machine_learning_method"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        NearestNeighbours(smote=SmoteConfig(ratio=0), memory_mixup=MemoryMixupConfig(2)),
        LocalDensity(rescale_neighbours=2),
        VarianceMinimised(),
        StandardisedDomains(),
    ],
    ids=lambda config: config.name,
)
def test_ten_thousand_references_and_queries_need_no_matrix_of_distances(rng, config):
    """One such matrix has 800 MB."""
    train = rng.normal(size=(10_000, 8 * 16)).astype(np.float32)
    test = rng.normal(size=(10_000, 8 * 16)).astype(np.float32)
    is_target = np.arange(10_000) >= 9_000
    tracemalloc.start()
    try:
        fitted = backends.fit(config, train, is_target, bands=8)
        fitted.leave_one_out()
        fitted.score(test)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6
