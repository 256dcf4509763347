"""Bootstrap intervals of the figures of labelled clips.

Conventions
* Machines and sections are fixed. In each section the clips of every stratum (domain x label) are
  drawn with replacement, as many as there are; thresholds and decisions do not change.
* A resample is an array of weights: how often each clip was drawn. Its figures are those of
  `metrics.figures` for clips repeated by their weights, computed for all resamples at once.
* Draws depend only on a fixed seed, the names of machine and section and the sizes of the strata:
  intervals of a machine do not depend on others, and two runs over the same clips share resamples.
* Intervals are percentile intervals (Efron and Tibshirani, "An Introduction to the Bootstrap",
  1993, chapter 13). A stratum with one clip does not vary, so that the interval is too narrow.
* If no resample differs (single clips, a figure of 0 or 1), there is no interval, instead of one of
  width 0.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from asdjax.errors import DataError
from asdjax.scoring import averages, metrics
from asdjax.scoring.labels import Clips, Machines
from asdjax.scoring.metrics import Figures

LEVEL = 0.95
RESAMPLES = 1000
_FEWEST = 100  # resamples; fewer do not determine the ends of a 95 % interval
_SEED = 20260
_SAME = 1e-12  # equal figures may differ in their last bits


def draw(
    clips: Clips, machine: str, section: str, resamples: int = RESAMPLES
) -> Int[np.ndarray, "R N"]:
    """Weights of the clips in each resample: how often each clip was drawn."""
    names = hashlib.blake2b(f"{machine}/{section}".encode(), digest_size=16).digest()
    rng = np.random.default_rng([_SEED, int.from_bytes(names)])
    weights = np.zeros((resamples, len(clips.name)), np.int64)
    for stratum in clips.strata().values():
        size = np.count_nonzero(stratum)
        if size:
            weights[:, stratum] = rng.multinomial(size, np.full(size, 1 / size), resamples)
    return weights


def replicate(clips: Clips, weights: Int[np.ndarray, "R N"]) -> Figures:
    """The figures of all resamples, float64 [R] each, with the keys of `metrics.figures`.

    None if a stratum that the figure needs has no clips.
    """
    # Equal scores are one step of the ROC curve: sum the weights of each step, highest score first.
    order = np.argsort(-clips.score, kind="stable")
    ordered = clips.score[order]
    steps = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = {
        name: np.add.reduceat(weights[:, order] * stratum[order], steps, axis=1)
        for name, stratum in clips.strata().items()
    }
    normal = {domain: counts[f"{domain}_normal"] for domain in ("source", "target")}
    anomaly = {domain: counts[f"{domain}_anomaly"] for domain in ("source", "target")}
    every_normal = normal["source"] + normal["target"]
    every_anomaly = anomaly["source"] + anomaly["target"]
    pauc = _area(every_normal, every_anomaly, metrics.MAX_FPR)
    result: Figures = {"official": {}, "within": {}}
    for domain in ("source", "target"):
        result["official"][f"auc_{domain}"] = _area(normal[domain], every_anomaly)
        result["within"][f"auc_{domain}"] = _area(normal[domain], anomaly[domain])
    for family in result.values():
        family["pauc"] = pauc
    if clips.decision is not None:
        result["decisions"] = {
            f"{name}_{domain}": values
            for domain, inside in (("source", ~clips.is_target), ("target", clips.is_target))
            for name, values in _found(clips, inside, weights).items()
        }
    return result


def resample(machines: Machines, resamples: int = RESAMPLES) -> dict[str, Any]:
    """`averages.means` of all resamples; each figure is a float64 array [R]."""
    return averages.means(
        {
            machine: {
                section: replicate(clips, draw(clips, machine, section, resamples))
                for section, clips in sections.items()
            }
            for machine, sections in machines.items()
        }
    )


def interval(values: Float64[np.ndarray, " R"]) -> list[float] | None:
    """The percentile interval of a figure's resampled values; None where it has no width."""
    low, high = ends(values)
    return [low, high] if high - low > _SAME else None


def ends(values: Float64[np.ndarray, " R"]) -> list[float]:
    """The percentiles of resampled values between which an interval lies: [low, high]."""
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def describe(machines: Machines, resamples: int) -> dict[str, Any]:
    """How intervals were computed: `resamples`, `level` and `single_clip_strata`.

    Raises:
        AsdjaxError: too few resamples.
    """
    if resamples < _FEWEST:
        raise DataError(f"resamples: a 95 % interval needs at least {_FEWEST}, not {resamples}")
    return {
        "resamples": resamples,
        "level": LEVEL,
        "single_clip_strata": [
            f"{machine} section {section}: {name}"
            for machine, sections in machines.items()
            for section, clips in sections.items()
            for name, stratum in clips.strata().items()
            if np.count_nonzero(stratum) == 1
        ],
    }


def words(document: Mapping[str, Any]) -> str:
    """A phrase for captions: the level and method of a document's intervals."""
    return (
        f"{100 * document['level']:g} % bootstrap interval over {document['resamples']} resamples "
        "of the clips ([-] where these do not differ)"
    )


def intervals(machines: Machines, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The intervals of a metrics document.

    Returns:
        `intervals`: the result of `averages.means` with `[low, high]` for each figure, or None
        without clips, or where the resamples do not differ; and the result of `describe`.

    Raises:
        AsdjaxError: too few resamples.
    """
    description = describe(machines, resamples)
    return {"intervals": _ends(resample(machines, resamples)), **description}


def false_alarms(machines: Machines, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Shares of normal clips that were declared anomalous, with their intervals.

    Returns:
        `false_alarm_rate` by machine, section and domain, and `false_alarm_interval` likewise with
        `[low, high]` or None as in `intervals`; None without decisions or normal clips.
    """
    rates: dict[str, dict[str, dict[str, float | None]]] = {}
    bounds: dict[str, dict[str, dict[str, list[float] | None]]] = {}
    for machine, sections in machines.items():
        rates[machine] = {s: clips.false_alarm_rate() for s, clips in sections.items()}
        bounds[machine] = {}
        for section, clips in sections.items():
            weights = draw(clips, machine, section, resamples)
            strata = clips.strata()
            bounds[machine][section] = {
                domain: None
                if clips.decision is None or rate is None
                else interval(weights[:, normal] @ clips.decision[normal] / normal.sum())
                for domain, rate in rates[machine][section].items()
                for normal in [strata[f"{domain}_normal"]]
            }
    return {"false_alarm_rate": rates, "false_alarm_interval": bounds}


def _ends(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _ends(value) for key, value in values.items()}
    return None if values is None else interval(values)


def _area(
    normal: Int[np.ndarray, "R S"], anomaly: Int[np.ndarray, "R S"], max_fpr: float = 1.0
) -> Float64[np.ndarray, " R"] | None:
    """`metrics.pauc` of R resamples, from the number of clips in each of S steps of the ROC curve.

    Counts are integers, so that equal AUCs are equal to the last bit.
    """
    negatives, positives = normal.sum(axis=1), anomaly.sum(axis=1)
    if not (negatives.all() and positives.all()):
        return None
    before = np.cumsum(normal, axis=1) - normal
    width = np.clip(max_fpr * negatives[:, None] - before, 0, normal)
    # Trapezoids: half of the rise of a step within its width; a vertical step has no width.
    rise = anomaly * width / (2 * np.maximum(normal, 1))
    height = np.cumsum(anomaly, axis=1) - anomaly + rise
    area = (width * height).sum(axis=1) / (negatives * positives)
    if max_fpr == 1:
        return area
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))


def _found(
    clips: Clips, inside: Bool[np.ndarray, " N"], weights: Int[np.ndarray, "R N"]
) -> dict[str, Float64[np.ndarray, " R"] | None]:
    """Precision, recall and F1 of one domain, as `metrics.figures` has them."""
    positive, decided = inside & clips.is_anomaly, inside & clips.decision
    if not positive.any() or np.array_equal(positive, inside):
        return dict.fromkeys(("precision", "recall", "f1"))
    masks = positive & decided, decided, positive
    return metrics.detection(*(weights[:, mask].sum(axis=1) for mask in masks))
