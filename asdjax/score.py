"""Scoring: a run's embeddings in, one CSV of anomaly scores per machine out; needs no jax."""

import numpy as np
from jaxtyping import Float64

from asdjax import backends, console
from asdjax.config import BackendConfig, Config
from asdjax.errors import AsdjaxError
from asdjax.runs import Embeddings, Run


def score(run: Run) -> None:
    """Score every machine that has embeddings; machines whose scores are up to date are kept.

    A file lists the machine's clips sorted by path: path, split, section, domain, label, score
    (over all views, see backend.combine_views; larger is more anomalous) and each view's score.
    Training clips are scored leave-one-out. Scores keep all their digits.

    Raises:
        AsdjaxError: there are no embeddings, or they are not of one set of clips.
    """
    with run.lock():
        config = run.config()
        views = config.extract.views
        kept = 0
        for machine in run.machines():
            if run.has_scores(machine):
                kept += 1
                continue
            tables = [run.read_embeddings(view, machine) for view in views]
            if any(not np.array_equal(table.path, tables[0].path) for table in tables):
                raise AsdjaxError(
                    f"{run.path}: the views of {machine} hold different clips: "
                    f"run asdjax extract {run.path} again"
                )
            scores = [_score_machine(config.backend, table, machine) for table in tables]
            run.write_scores(machine, _rows(tables[0], np.stack(scores), config))
        if kept:
            console.say(f"{run.path}: scores of {kept} machines are up to date")


def _score_machine(config: BackendConfig, table: Embeddings, machine: str) -> np.ndarray:
    """Scores float64 [N] of one machine's clips under one view, section by section."""
    scores = np.empty(len(table.path))
    for section in np.unique(table.section):
        train = (table.section == section) & (table.split == "train")
        test = (table.section == section) & (table.split == "test")
        references = table.rows(train)
        try:
            backend = backends.fit(config, references.embedding, references.domain == "target")
            for note in backend.notes:
                console.say(f"{machine} section {section}: {note}")
            scores[train] = backend.leave_one_out()
            scores[test] = backend.score(table.embedding[test])
        except AsdjaxError as error:
            raise AsdjaxError(f"{machine} section {section}: {error}") from error
    return scores


def _combined(
    table: Embeddings, per_view: Float64[np.ndarray, "V N"], how: str
) -> Float64[np.ndarray, " N"]:
    """One score per clip: the mean over the views, standardised before if `how` is z_score."""
    if how == "z_score":
        per_view = per_view.copy()
        for section in np.unique(table.section):
            here = table.section == section
            train = per_view[:, here & (table.split == "train")]
            spread = train.std(axis=1, keepdims=True)
            if not spread.all():
                raise AsdjaxError(
                    f"section {section}: all leave-one-out scores of a view are equal: set "
                    "backend.combine_views to mean"
                )
            per_view[:, here] = (per_view[:, here] - train.mean(axis=1, keepdims=True)) / spread
    return per_view.mean(axis=0)


def _rows(
    table: Embeddings, per_view: Float64[np.ndarray, "V N"], config: Config
) -> list[dict[str, str]]:
    names = ("path", "split", "section", "domain", "label")
    combined = _combined(table, per_view, config.backend.combine_views)
    return [
        {
            **{name: str(getattr(table, name)[i]) for name in names},
            "score": repr(float(combined[i])),
            **{
                view: repr(float(value))
                for view, value in zip(config.extract.views, per_view[:, i], strict=True)
            },
        }
        for i in range(len(combined))
    ]
