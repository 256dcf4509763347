"""Choosing among backends without anomalies, by pseudo-anomalies (Wilkinghoff and Tan 2026).

For each machine, every candidate is fitted to normal training clips and scores them (leave-one-out)
and clips that are anomalous for this bank but cost nothing:

    machines      normal training clips of the other machines
    draws         vectors whose values are drawn independently from random clips of the bank
    domains       the target clips, against a bank of the source clips
    attributes    the clips of one attribute value, against a bank of all others

The evidence is the AUC of each kind, pseudo-anomalies against the bank's own clips, and the mean of
the kinds. The candidate with the largest mean is chosen; of equal ones the first. Test clips are
never used.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64
from sklearn.metrics import roc_auc_score

from asdjax.scoring.of_views import Views

KINDS = ("machines", "draws", "domains", "attributes")
_MOST = 200  # pseudo-anomalies of a kind, or of an attribute value
_MOST_VALUES = 5  # attribute values that are left out in turn
_FEWEST = 5  # clips in a bank

Scores = tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " M"]]
"""Leave-one-out scores of a bank, and scores of other clips."""
Scorer = Callable[[Views, Bool[np.ndarray, " N"], Views], Scores]
"""A candidate: called with a bank, its target clips, and the clips to score."""


@dataclasses.dataclass(frozen=True)
class Bank:
    """Normal training clips of a machine and section."""

    views: Views
    is_target: Bool[np.ndarray, " N"]
    attributes: tuple[str, ...]
    """Of each clip; empty if they are not known."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A bank and clips that are anomalous for it."""

    kind: str
    views: Views
    is_target: Bool[np.ndarray, " N"]
    anomalies: Views


def trials(bank: Bank, others: Sequence[Views], kinds: Sequence[str], seed: int) -> Iterator[Trial]:
    """The trials that are possible with these clips.

    Args:
        bank: of the machine and section.
        others: the training clips of each other machine.
        kinds: of `KINDS`.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    if "machines" in kinds and others:
        strangers = [np.concatenate(views) for views in zip(*others, strict=True)]
        chosen = _some(rng, len(strangers[0]))
        yield Trial("machines", bank.views, bank.is_target, [view[chosen] for view in strangers])
    if "draws" in kinds:
        size = min(_MOST, 4 * len(bank.is_target))
        yield Trial("draws", bank.views, bank.is_target, [_drawn(rng, v, size) for v in bank.views])
    if "domains" in kinds:
        yield from _divided("domains", bank, bank.is_target, rng)
    if "attributes" in kinds:
        known = np.array(bank.attributes)
        values = sorted({*bank.attributes} - {""})
        for value in values[:_MOST_VALUES] if len(values) > 1 else ():
            yield from _divided("attributes", bank, known == value, rng)


def evidence(candidate: Scorer, of: Sequence[Trial]) -> dict[str, float]:
    """The AUC of a candidate by kind: the mean over its trials.

    Raises:
        AsdjaxError: the candidate cannot be fitted to a bank.
    """
    found: dict[str, list[float]] = {}
    for trial in of:
        normal, anomalous = candidate(trial.views, trial.is_target, trial.anomalies)
        truth = np.repeat([0, 1], [len(normal), len(anomalous)])
        auc = roc_auc_score(truth, np.concatenate([normal, anomalous]))
        found.setdefault(trial.kind, []).append(float(auc))
    return {kind: float(np.mean(aucs)) for kind, aucs in found.items()}


def best(found: Sequence[Mapping[str, float]]) -> int:
    """The index of the candidate with the largest mean over kinds; of equal ones the first.

    Example:
        >>> best([{"draws": 0.9, "machines": 0.7}, {"draws": 0.9, "machines": 0.8}])
        1
    """
    return int(np.argmax([np.mean(list(of.values())) for of in found]))


def _divided(
    kind: str, bank: Bank, out: Bool[np.ndarray, " N"], rng: np.random.Generator
) -> Iterator[Trial]:
    """The clips of `out` against the others, if there are enough of these."""
    rest = ~out
    if out.any() and rest.sum() >= _FEWEST:
        chosen = np.flatnonzero(out)[_some(rng, int(out.sum()))]
        views, anomalies = ([v[rows] for v in bank.views] for rows in (rest, chosen))
        yield Trial(kind, views, bank.is_target[rest], anomalies)


def _drawn(
    rng: np.random.Generator, view: Float[np.ndarray, "N D"], size: int
) -> Float[np.ndarray, "M D"]:
    rows = rng.integers(len(view), size=(size, view.shape[1]))
    return np.take_along_axis(view, rows, axis=0)


def _some(rng: np.random.Generator, count: int) -> np.ndarray:
    """The indices of all clips, or of as many as are used, in order."""
    if count <= _MOST:
        return np.arange(count)
    return np.sort(rng.choice(count, _MOST, replace=False))
