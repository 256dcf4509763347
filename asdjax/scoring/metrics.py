"""Figures of one machine and section: AUC, partial AUC, precision, recall and F1.

Conventions
* A larger score is more anomalous; ties count half. All figures are fractions, 0..1.
* `official` figures are the challenge's: `auc_source` and `auc_target` compare the domain's normal
  clips with the anomalous clips of both domains; `pauc` compares all normal with all anomalous
  clips up to a false-alarm rate of 0.1, standardised after McClish (chance 0.5, worst 0.4737).
* `within` figures are the technical report's: `auc_source` and `auc_target` compare the domain's
  normal clips with the same domain's anomalous clips; `pauc` is the official one, because the
  report's harmonic mean takes three figures.
* `decisions` figures: precision, recall and F1 of the 0/1 decisions inside one domain; 0 without
  true positives.
* A figure without clips is None.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from sklearn.metrics import roc_auc_score

from asdjax.errors import DataError

MAX_FPR = 0.1
FIGURES = ("auc_source", "auc_target", "pauc")
"""The three figures of the official and of the within-domain family."""

Flags = Bool[np.ndarray, " N"] | Int[np.ndarray, " N"]
Figures = dict[str, dict[str, Any]]


def pauc(
    normal_scores: Num[np.ndarray, " N"],
    anomaly_scores: Num[np.ndarray, " M"],
    max_fpr: float = MAX_FPR,
) -> float:
    """Standardised area under the ROC curve up to the false-positive rate `max_fpr`.

    McClish (1989), "Analyzing a portion of the ROC curve": 0.5 + (area - chance) / (2 (best -
    chance)), as scikit-learn computes it. With `max_fpr` 1 it is the plain AUC.

    Raises:
        AsdjaxError: If either set is empty or holds a score that is not finite.
    """
    normal, anomaly = _scores(normal_scores), _scores(anomaly_scores)
    if not (len(normal) and len(anomaly)):
        raise DataError(
            f"an AUC needs normal and anomalous clips, found {len(normal)} and {len(anomaly)}: "
            "add the missing ones"
        )
    is_anomaly = np.repeat([0, 1], [len(normal), len(anomaly)])
    return float(roc_auc_score(is_anomaly, np.concatenate([normal, anomaly]), max_fpr=max_fpr))


def figures(
    scores: Num[np.ndarray, " N"],
    is_anomaly: Flags,
    is_target: Flags,
    decisions: Flags | None = None,
) -> Figures:
    """All figures of one machine and section.

    Args:
        scores: Anomaly scores of the test clips.
        is_anomaly: True or 1 for anomalous clips.
        is_target: True or 1 for clips of the target domain.
        decisions: True or 1 for clips that were declared anomalous.

    Returns:
        Families `official`, `within` and, given decisions, `decisions`, each a dictionary from a
        figure's name to its value; and `clips`, the number of clips per domain and label.

    Raises:
        AsdjaxError: If the arrays differ in length, a score is not finite or a flag is not 0 or 1.
    """
    scores = _scores(scores)
    anomaly = _flags(is_anomaly, len(scores), "anomaly labels")
    target = _flags(is_target, len(scores), "domains")
    result: Figures = {
        "official": {
            "auc_source": _auc(scores, ~anomaly & ~target, anomaly),
            "auc_target": _auc(scores, ~anomaly & target, anomaly),
            "pauc": _auc(scores, ~anomaly, anomaly, MAX_FPR),
        },
        "within": {
            "auc_source": _auc(scores, ~anomaly & ~target, anomaly & ~target),
            "auc_target": _auc(scores, ~anomaly & target, anomaly & target),
            "pauc": _auc(scores, ~anomaly, anomaly, MAX_FPR),
        },
    }
    if decisions is not None:
        decided = _flags(decisions, len(scores), "decisions")
        result["decisions"] = {
            f"{figure}_{name}": value
            for name, domain in (("source", ~target), ("target", target))
            for figure, value in _found(anomaly[domain], decided[domain]).items()
        }
    cells = strata(anomaly, target)
    result["clips"] = {name: int(np.count_nonzero(cell)) for name, cell in cells.items()}
    return result


def strata(is_anomaly: Flags, is_target: Flags) -> dict[str, Bool[np.ndarray, " N"]]:
    """Masks of the clips of each domain and label, by name: source_normal and so on."""
    return {
        f"{domain}_{label}": (is_target == t) & (is_anomaly == a)
        for domain, t in (("source", False), ("target", True))
        for label, a in (("normal", False), ("anomaly", True))
    }


def detection(hits: Any, declared: Any, present: Any) -> dict[str, Any]:
    """Precision, recall and F1 from the numbers of true positives, alarms and anomalous clips.

    Numbers, or arrays of one shape. There is at least one anomalous clip; without alarms the
    precision is 0.
    """
    return {
        "precision": hits / (declared + (declared == 0)),
        "recall": hits / present,
        "f1": 2 * hits / (declared + present),
    }


def _auc(
    scores: Float[np.ndarray, " N"], normal: Flags, anomaly: Flags, max_fpr: float = 1.0
) -> float | None:
    if not (normal.any() and anomaly.any()):
        return None
    return pauc(scores[normal], scores[anomaly], max_fpr)


def _found(anomaly: Flags, decided: Flags) -> dict[str, float | None]:
    """Precision, recall and F1 of one domain; None unless it has normal and anomalous clips."""
    if not anomaly.any() or anomaly.all():
        return dict.fromkeys(("precision", "recall", "f1"))
    return detection(*map(np.count_nonzero, (anomaly & decided, decided, anomaly)))


def _scores(scores: Num[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.dtype.kind not in "iuf":
        raise DataError(
            f"scores are of shape {scores.shape} and type {scores.dtype}: give one number per clip"
        )
    bad = np.count_nonzero(~np.isfinite(scores))
    if bad:
        raise DataError(f"{bad} of {len(scores)} scores are not finite: score the clips again")
    return scores.astype(np.float64)


def _flags(flags: Flags, count: int, what: str) -> Bool[np.ndarray, " N"]:
    flags = np.asarray(flags)
    if flags.shape != (count,):
        raise DataError(f"{count} scores and {what} of shape {flags.shape}: give one per clip")
    if flags.dtype.kind not in "biu" or np.any((flags != 0) & (flags != 1)):
        raise DataError(f"{what}: must all be 0 or 1: correct the others")
    return flags.astype(bool)
