"""Labelled clips, and bootstrap intervals of every figure that follows from them.

Conventions
* Machines and sections are fixed. Within each, the clips of every stratum (domain x label) are
  drawn with replacement, as many as there are; thresholds, and so decisions, stay as they are.
* A resample is a whole number of times that each clip counts. Its figures are those that
  `metrics.figures` gives for the clips so repeated, for all resamples at once.
* Draws depend on a fixed seed, the names of machine and section and the sizes of the strata alone:
  another machine changes no interval, and two runs over the same clips share their resamples.
* Intervals are percentile intervals (Efron and Tibshirani, "An Introduction to the Bootstrap",
  1993, chapter 13). A stratum of one clip cannot vary: its share of the uncertainty is missing.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from asdjax.errors import AsdjaxError
from asdjax.scoring import metrics
from asdjax.scoring.metrics import Figures

LEVEL = 0.95
RESAMPLES = 1000
_FEWEST = 100  # fewer do not tell the tails of a 95 % interval
_SEED = 20260

Truth = Mapping[tuple[str, str], Mapping[str, tuple[bool, bool]]]
"""(machine, section) -> file name -> (is anomalous, is of the target domain)."""


@dataclasses.dataclass(frozen=True)
class Clips:
    """The labelled test clips of one machine and section."""

    name: tuple[str, ...]
    """Each clip's identity, sorted."""
    score: Float64[np.ndarray, " N"]
    is_anomaly: Bool[np.ndarray, " N"]
    is_target: Bool[np.ndarray, " N"]
    decision: Bool[np.ndarray, " N"] | None = None
    """Whether it was declared anomalous; None where nothing was decided."""

    def figures(self) -> Figures:
        """`metrics.figures` of these clips."""
        return metrics.figures(self.score, self.is_anomaly, self.is_target, self.decision)

    def false_alarm_rate(self) -> dict[str, float | None]:
        """Share of each domain's normal clips that were declared anomalous; None without any."""
        return {
            domain: None
            if self.decision is None or not normal.any()
            else float(self.decision[normal].mean())
            for domain, normal in (
                ("source", ~self.is_target & ~self.is_anomaly),
                ("target", self.is_target & ~self.is_anomaly),
            )
        }

    def strata(self) -> dict[str, Bool[np.ndarray, " N"]]:
        """Which clips are in each stratum, by its name."""
        return {
            f"{domain}_{label}": (self.is_target == t) & (self.is_anomaly == a)
            for domain, t in (("source", False), ("target", True))
            for label, a in (("normal", False), ("anomaly", True))
        }


Machines = dict[str, dict[str, Clips]]
"""machine -> section -> its labelled test clips."""


def labelled(
    rows: Mapping[str, Sequence[Mapping[str, str]]],
    truth: Truth | None = None,
    column: str = "score",
) -> tuple[Machines, list[str]]:
    """The labelled test clips among the rows of score files.

    Args:
        rows: of each machine, as `runs.Run.read_scores` gives them.
        truth: labels and domains of clips whose names do not tell them.
        column: of the scores; decisions belong to the column `score` alone.

    Returns:
        The machines that have labelled clips; and in sentences what is left out, or put together
        that the challenge keeps apart.

    Raises:
        AsdjaxError: a name and `truth` contradict each other, or `truth` lacks a clip of one of its
            sections or knows none of the sections.
    """
    machines: Machines = {}
    notes = []
    named: set[bool] = set()
    truth = truth or {}
    sections: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for machine, of_machine in rows.items():
        for row in sorted(of_machine, key=lambda row: row["path"]):
            if row["split"] == "test":
                sections.setdefault((machine, row["section"]), []).append(row)
    if truth and not sections.keys() & truth.keys():
        raise AsdjaxError(
            f"the ground truth is of {_listed(truth)}, the scores are of {_listed(sections)}: "
            "name the ground truth of the scored machines"
        )
    if unused := sorted(truth.keys() - sections.keys()):
        notes.append(f"the ground truth of {_listed(unused)} is of no scored machine")
    for (machine, section), tests in sorted(sections.items()):
        where, known = f"{machine} section {section}", truth.get((machine, section))
        labels = [_label(row, known or {}, where) for row in tests]
        unknown = [_name(row) for row, label in zip(tests, labels, strict=True) if label is None]
        if known is not None:
            if unknown:
                raise AsdjaxError(f"{where}: the ground truth lacks {first_of(unknown)}")
            unscored = len(known.keys() - {_name(row) for row in tests})
            if unscored:
                notes.append(f"{where}: {unscored} clips of the ground truth were not scored")
        elif unknown:
            notes.append(
                f"{where}: {len(unknown)} of {len(tests)} test clips have no label and are not "
                "evaluated"
            )
        kept = [(row, label) for row, label in zip(tests, labels, strict=True) if label is not None]
        if kept:
            named |= {bool(row["label"]) for row, _ in kept}
            decisions = [row["decision"] == "1" for row, _ in kept] if column == "score" else None
            machines.setdefault(machine, {})[section] = Clips(
                name=tuple(row["path"] for row, _ in kept),
                score=np.array([float(row[column]) for row, _ in kept]),
                is_anomaly=np.array([is_anomaly for _, (is_anomaly, _) in kept]),
                is_target=np.array([is_target for _, (_, is_target) in kept]),
                decision=None if decisions is None else np.array(decisions),
            )
    if len(named) > 1:
        notes.append(
            "means and official score are over development and evaluation machines together; the "
            "challenge keeps these apart"
        )
    return machines, notes


def first_of(names: Iterable[str]) -> str:
    """The first of some names in sorted order, and how many others there are."""
    first, *others = sorted(names)
    return f"{first} (and {len(others)} others)" if others else first


def draw(
    clips: Clips, machine: str, section: str, resamples: int = RESAMPLES
) -> Int[np.ndarray, "R N"]:
    """How often each clip counts in each resample."""
    names = hashlib.blake2b(f"{machine}/{section}".encode(), digest_size=16).digest()
    rng = np.random.default_rng([_SEED, int.from_bytes(names)])
    weights = np.zeros((resamples, len(clips.name)), np.int64)
    for stratum in clips.strata().values():
        size = np.count_nonzero(stratum)
        if size:
            weights[:, stratum] = rng.multinomial(size, np.full(size, 1 / size), resamples)
    return weights


def replicate(clips: Clips, weights: Int[np.ndarray, "R N"]) -> Figures:
    """The figures of resampled clips, float64 [R] each, nested as by `metrics.figures`.

    None where a stratum that the figure needs has no clips.
    """
    # Ties are one step of the ROC curve: sum the weights of the clips with equal scores, the
    # highest score first.
    order = np.argsort(-clips.score, kind="stable")
    ordered = clips.score[order]
    steps = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = {
        name: np.add.reduceat(weights[:, order] * stratum[order], steps, axis=1)
        for name, stratum in clips.strata().items()
    }
    normal = {domain: counts[f"{domain}_normal"] for domain in ("source", "target")}
    anomaly = {domain: counts[f"{domain}_anomaly"] for domain in ("source", "target")}
    every_normal, every_anomaly = sum(normal.values()), sum(anomaly.values())
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
    """`metrics.means` of resampled clips: float64 [R] in the place of each figure."""
    return metrics.means(
        {
            machine: {
                section: replicate(clips, draw(clips, machine, section, resamples))
                for section, clips in sections.items()
            }
            for machine, sections in machines.items()
        }
    )


def interval(values: Float64[np.ndarray, " R"]) -> list[float]:
    """The percentile interval of a figure's resampled values: its lower and its upper end."""
    return [float(end) for end in np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def describe(machines: Machines, resamples: int) -> dict[str, Any]:
    """What a document says about its intervals: `resamples`, `level`, `single_clip_strata`.

    Raises:
        AsdjaxError: too few resamples.
    """
    if resamples < _FEWEST:
        raise AsdjaxError(f"resamples: a 95 % interval needs at least {_FEWEST}, not {resamples}")
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
    """What a document's intervals are."""
    return (
        f"{100 * document['level']:g} % bootstrap interval over {document['resamples']} resamples "
        "of the clips"
    )


def intervals(machines: Machines, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The part of a metrics document that tells how sure its figures are.

    Returns:
        `intervals`: the nesting of `metrics.means` with `[low, high]` in the place of each figure,
        None where it is None; and what `describe` gives.

    Raises:
        AsdjaxError: too few resamples.
    """

    description = describe(machines, resamples)
    return {"intervals": _ends(resample(machines, resamples)), **description}


def false_alarms(machines: Machines, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Shares of normal clips that were declared anomalous, and how sure they are.

    Returns:
        `false_alarm_rate`: by machine, section and domain; `false_alarm_interval`: `[low, high]`
        in the place of each. None where there are no decisions or no normal clips.
    """
    rates, bounds = {}, {}
    for machine, sections in machines.items():
        rates[machine] = {s: clips.false_alarm_rate() for s, clips in sections.items()}
        bounds[machine] = {}
        for section, clips in sections.items():
            weights = draw(clips, machine, section, resamples)
            strata = clips.strata()
            bounds[machine][section] = {
                domain: None
                if rate is None
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
    """`metrics.pauc` of R resamples from the clips in each step of their ROC curves.

    Counts are whole numbers, so that equal AUCs are equal to the last bit.
    """
    negatives, positives = normal.sum(axis=1), anomaly.sum(axis=1)
    if not (negatives.all() and positives.all()):
        return None
    before = np.cumsum(normal, axis=1) - normal
    width = np.clip(max_fpr * negatives[:, None] - before, 0, normal)
    # Half of what a step rises within its width; a vertical step has no width.
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
    """Precision, recall and F1 of the clips inside one domain."""
    positive, decided = inside & clips.is_anomaly, inside & clips.decision
    if not positive.any() or np.array_equal(positive, inside):
        return {"precision": None, "recall": None, "f1": None}
    hits = weights[:, positive & decided].sum(axis=1)
    declared, present = weights[:, decided].sum(axis=1), weights[:, positive].sum(axis=1)
    return {
        "precision": hits / np.maximum(declared, 1),
        "recall": hits / present,
        "f1": 2 * hits / (declared + present),
    }


def _label(
    row: Mapping[str, str], known: Mapping[str, tuple[bool, bool]], where: str
) -> tuple[bool, bool] | None:
    """Whether a clip is anomalous and of the target domain; None where nothing tells."""
    named = (row["label"] == "anomaly", row["domain"] == "target") if row["label"] else None
    told = known.get(_name(row))
    if named and told and named != told:
        raise AsdjaxError(
            f"{where}: {_name(row)}: its name says {_words(named)}, the ground truth "
            f"{_words(told)}: correct the ground truth, or leave it out"
        )
    return told or named


def _words(label: tuple[bool, bool]) -> str:
    is_anomaly, is_target = label
    return f"{'target' if is_target else 'source'} {'anomaly' if is_anomaly else 'normal'}"


def _name(row: Mapping[str, str]) -> str:
    return row["path"].rpartition("/")[2]


def _listed(sections: Iterable[tuple[str, str]]) -> str:
    return ", ".join(f"{machine} section {section}" for machine, section in sorted(sections))
