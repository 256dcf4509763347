"""What a report says of a run, read at once so that it belongs together."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from asdjax.config import embedding_parts
from asdjax.config.recipe import Config
from asdjax.errors import DataError
from asdjax.scoring import bootstrap, evaluation
from asdjax.scoring.evaluation import Scored
from asdjax.scoring.labels import Machines, Truth
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.runs import Run

RESAMPLES = bootstrap.RESAMPLES
_NEIGHBOURS = 15  # of UMAP, which fails with very few points; its default


@dataclasses.dataclass(frozen=True)
class Section:
    """The clips of a machine and section, in the order of their paths; text arrays [N]."""

    machine: str
    section: str
    path: np.ndarray
    split: np.ndarray
    """train or test."""
    domain: np.ndarray
    """source, target, or empty if unknown."""
    label: np.ndarray
    """normal, anomaly, or empty if unknown."""
    score: Float64[np.ndarray, " N"]
    threshold: float
    views: Mapping[str, Float64[np.ndarray, " N"]]
    """The score of each view."""
    place: Float64[np.ndarray, "N 2"]
    """The embeddings of the first view in two dimensions."""
    place_words: str
    """How they were found."""
    nearest: Int[np.ndarray, " N"]
    """The training clip, other than itself, with the largest cosine in the first view."""
    gain: Mapping[str, np.ndarray]
    """The mean gain of each view, NaN without a second channel."""
    level_db: np.ndarray
    """The level of channel 2 relative to channel 1, NaN without one."""
    correlation: np.ndarray
    """Of the two channels, NaN without a second one."""
    silent: np.ndarray
    """bool [N, 2]."""

    @property
    def test(self) -> np.ndarray:
        """Whether a clip is a test clip."""
        return self.split == "test"

    def p_values(self) -> Float64[np.ndarray, " N"]:
        """Conformal p-values: how often a normal training clip would score at least as high.

        From the scores of the N training clips, each compared with others (all of them, or those of
        other folds for some backends): (1 + those as high) / (1 + N).
        """
        train = np.sort(self.score[~self.test])
        as_high = len(train) - np.searchsorted(train, self.score, side="left")
        return (1 + as_high) / (1 + len(train))


@dataclasses.dataclass(frozen=True)
class Facts:
    """A scored run."""

    run: Run
    config: Config
    training: Mapping[str, Any]
    """The training record."""
    log: Sequence[Mapping[str, Any]]
    sections: Sequence[Section]
    labelled: Machines
    by_view: Mapping[str, Machines]
    """The same with the scores of each view; empty for a single view."""
    made_from: Mapping[str, MadeFrom]
    """What each machine's embeddings were made from."""
    document: Mapping[str, Any] | None
    """The metrics; None if no test clip has a label."""
    notes: Sequence[str]

    def scored(self) -> Scored:
        """What is compared with other runs."""
        return Scored(self.run, self.labelled, self.made_from)

    def name(self, of: Section) -> str:
        """A section's name: the machine, and the section's number if there are several."""
        several = sum(other.machine == of.machine for other in self.sections) > 1
        return f"{of.machine} section {of.section}" if several else of.machine


def read(run: Run, truth: Truth | None = None, method: str = "pca") -> Facts:
    """Read a scored run.

    Args:
        run: a scored run.
        truth: labels of clips whose names state none.
        method: of the map of embeddings, `pca` or `umap`.

    Raises:
        AsdjaxError: the run has no current scores, or the ground truth contradicts them.
    """
    with run.snapshot():
        config, views = run.config(), run.config().extract.view_names
        labelled, notes = evaluation.labelled_with_notes(run, truth)
        by_view = {}
        if len(views) > 1:
            by_view = {view: evaluation.labelled(run, truth, view) for view in views}
        sections = [
            section
            for machine in run.scored_machines()
            for section in _sections(run, machine, views, truth or {}, method)
        ]
        training, log = run.finished_training(), run.read_log()
        made_from = run.made_from()
    document = evaluation.document(labelled, RESAMPLES, config.seed) if labelled else None
    return Facts(
        run=run,
        config=config,
        training=training,
        log=log,
        sections=sections,
        labelled=labelled,
        by_view=by_view if labelled else {},
        made_from=made_from,
        document=document,
        notes=notes,
    )


def _sections(
    run: Run, machine: str, views: Sequence[str], truth: Truth, method: str
) -> Iterator[Section]:
    rows = run.read_scores(machine)
    config = run.config()
    tables = {view: run.read_embeddings(view, machine) for view in views}
    first = tables[views[0]]
    # the raw view knows nothing of a second channel
    of_two = next((t for t in tables.values() if np.isfinite(t.level_db).any()), first)
    paths = [row["path"] for row in rows]
    if any(table.path.tolist() != paths for table in tables.values()):
        raise DataError(
            f"{run.path}: scores and embeddings of {machine} are of other clips: run asdjax score "
            f"{run.path} again"
        )
    for section in np.unique(first.section):
        here = np.flatnonzero(first.section == section)
        known = truth.get((machine, str(section)), {})
        chosen = [rows[i] for i in here]
        label, domain = zip(*(_labels(row, known) for row in chosen), strict=True)
        of_section = config.backend.of(machine, str(section))
        part = embedding_parts.chosen(config.model.embedding_parts, of_section.part)
        table = first.of_part(part).rows(here)
        if {*table.split} != {"train", "test"}:
            continue  # nothing was scored there
        place, words = _plane(table.embedding, method)
        yield Section(
            machine,
            str(section),
            path=table.path,
            split=table.split,
            domain=np.array(domain),
            label=np.array(label),
            score=np.array([float(row["score"]) for row in chosen]),
            threshold=float(chosen[0]["threshold"]),
            views={view: np.array([float(row[view]) for row in chosen]) for view in views},
            place=place,
            place_words=words,
            nearest=_nearest(table),
            gain={view: of.gain[here] for view, of in tables.items()},
            level_db=of_two.level_db[here],
            correlation=of_two.correlation[here],
            silent=of_two.silent[here],
        )


def _labels(row: Mapping[str, str], known: Mapping[str, tuple[bool, bool]]) -> tuple[str, str]:
    """Label and domain of a clip, from its name or the ground truth."""
    stated = known.get(row["path"].rpartition("/")[2])
    if row["label"] or stated is None:
        return row["label"], row["domain"]
    anomaly, target = stated
    return "anomaly" if anomaly else "normal", "target" if target else "source"


def _plane(embedding: np.ndarray, method: str) -> tuple[Float64[np.ndarray, "N 2"], str]:
    """Embeddings [N, D] in two dimensions, and how they were found."""
    points = embedding.astype(np.float64)
    few = len(points) <= _NEIGHBOURS
    if method == "umap" and not few:
        import umap

        made = umap.UMAP(_NEIGHBOURS, n_components=2, metric="cosine", random_state=0, n_jobs=1)
        return np.asarray(made.fit_transform(points), np.float64), "UMAP by the cosine"
    points = points - points.mean(axis=0)
    left, values, _ = np.linalg.svd(points, full_matrices=False)
    place = (left * values)[:, :2]
    place = np.pad(place, ((0, 0), (0, 2 - place.shape[1])))
    share = 100 * np.square(values[:2]).sum() / max(np.square(values).sum(), 1e-300)
    words = f"two principal components, {share:.0f} % of the variance"
    return place, f"{words} (too few clips for UMAP)" if method == "umap" else words


def _nearest(table: Embeddings) -> Int[np.ndarray, " N"]:
    vectors = table.embedding.astype(np.float64)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    train = np.flatnonzero(table.split == "train")
    result = np.empty(len(vectors), np.int64)
    for first in range(0, len(vectors), 1024):  # bounds the product's memory
        block = np.arange(first, min(first + 1024, len(vectors)))
        cosine = vectors[block] @ vectors[train].T
        cosine[block[:, None] == train] = -np.inf
        result[block] = train[np.argmax(cosine, axis=1)]
    return result
