"""Scoring: a run's embeddings in, one CSV of anomaly scores per machine out; needs no jax."""

import numpy as np

from asdjax import backends, console, runs
from asdjax._version import __version__
from asdjax.config import BackendConfig, settings
from asdjax.errors import AsdjaxError
from asdjax.runs import Embeddings, Run


def score(run: Run) -> None:
    """Score every machine that has embeddings; machines whose scores are up to date are kept.

    A file lists the machine's clips sorted by path: path, split, section, domain, label, score
    (the mean over the views; larger is more anomalous) and each view's score. Training clips are
    scored leave-one-out. Scores keep all their digits.

    Raises:
        AsdjaxError: there are no embeddings, or they are not of one set of clips.
    """
    config = run.config()
    views = config.extract.views
    chosen = settings(config, ("backend", "extract"))
    kept = 0
    for machine in run.machines():
        sources = [run.made_from(run.embeddings_path(view, machine)) for view in views]
        path = run.scores_path(machine)
        made_from = runs.fingerprint(__version__, chosen, sources)
        if run.is_current(path, made_from):
            kept += 1
            continue
        tables = [run.read_embeddings(view, machine) for view in views]
        if any(not np.array_equal(table.path, tables[0].path) for table in tables):
            raise AsdjaxError(
                f"{run.path}: the views of {machine} hold different clips: "
                f"run asdjax extract {run.path} again"
            )
        per_view = np.stack([_score_machine(config.backend, table, machine) for table in tables])
        runs.write_csv(path, _rows(tables[0], per_view, views))
        run.finish(path, made_from)
    if kept:
        console.say(f"{run.path}: scores of {kept} machines are up to date")


def _score_machine(config: BackendConfig, table: Embeddings, machine: str) -> np.ndarray:
    """Scores float64 [N] of one machine's clips under one view, section by section."""
    scores = np.empty(len(table.path))
    for section in np.unique(table.section):
        train = (table.section == section) & (table.split == "train")
        test = (table.section == section) & (table.split == "test")
        references = table.rows(train)
        backend = backends.fit(config, references.embedding, references.domain == "target")
        for note in backend.notes:
            console.say(f"{machine} section {section}: {note}")
        scores[train] = backend.leave_one_out()
        scores[test] = backend.score(table.embedding[test])
    return scores


def _rows(table: Embeddings, per_view: np.ndarray, views: tuple[str, ...]) -> list[dict[str, str]]:
    names = ("path", "split", "section", "domain", "label")
    return [
        {
            **{name: str(getattr(table, name)[i]) for name in names},
            "score": repr(float(column.mean())),
            **{view: repr(float(value)) for view, value in zip(views, column, strict=True)},
        }
        for i, column in enumerate(per_view.T)
    ]
