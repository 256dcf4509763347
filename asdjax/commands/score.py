"""Scoring: a run's embeddings in, one CSV of scores and decisions per machine out; no jax."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from asdjax.challenge import meta_yaml
from asdjax.config import embedding_parts, recipe
from asdjax.config.embedding_parts import Part
from asdjax.config.recipe import Config
from asdjax.data.dcase import ScoredMachine
from asdjax.errors import AsdjaxError, DataError
from asdjax.runtime import console
from asdjax.scoring import false_alarms, of_views, thresholds
from asdjax.store.embeddings import Embeddings
from asdjax.store.runs import Run
from asdjax.store.scores import CLIP_COLUMNS


def score(run: Run, config: Config | None = None) -> None:
    """Score every machine that has embeddings; machines whose scores are up to date are kept.

    A file lists the machine's clips sorted by path: path, split, section, domain, label, score
    (over all views, see backend.combine_views; larger is more anomalous), threshold, decision (1:
    anomalous) and each view's score. Training clips are scored leave-one-out. Scores keep all their
    digits. thresholds.json and a line per machine tell what the thresholds imply.

    Args:
        run: with embeddings.
        config: the run's configuration with another backend or decision, to be stored with the
            scores; if scoring fails, the old one stays.

    Raises:
        AsdjaxError: there are no embeddings, or they are not of one set of clips; or the backend or
            the threshold cannot be fitted.
    """
    with run.lock(existing=True):
        before = run.config()
        config = config or before
        run.write_config(config)  # also if only the digest of a plugin has changed
        try:
            _score(run, config)
        except (Exception, SystemExit):  # of a plugin, for example
            run.write_config(before)
            raise


def _score(run: Run, config: Config) -> None:
    recipe.require_suited(config, str(run.path))
    views = config.extract.view_names
    kept = 0
    machines = run.machines()
    if config.backend.selected and not run.is_current(run.selection, run.embeddings_version()):
        console.say(
            f"{run.path}: its backends were chosen with other embeddings, or the evidence for them "
            f"is gone: asdjax select {run.path} chooses anew"
        )
    with console.progress("scoring", len(machines), "machines", minor=True) as advance:
        for machine in machines:
            if run.has_scores(machine):
                kept += 1
                advance(1, machine)
                continue
            tables = [run.read_embeddings(view, machine) for view in views]
            if any(not np.array_equal(table.path, tables[0].path) for table in tables):
                raise DataError(
                    f"{run.path}: the views of {machine} hold different clips: "
                    f"run asdjax extract {run.path} again"
                )
            notes: dict[str, None] = {}  # the views' common ones once
            rows = _rows(machine, tables, config, config.model.embedding_parts, notes)
            for note in notes:
                console.say(note)
            run.write_scores(machine, rows)
            advance(1, machine)
    if kept:
        console.say(f"{run.path}: scores of {kept} machines are up to date")
    _decide(run, machines, config)


def _decide(run: Run, machines: Sequence[str], config: Config) -> None:
    """Write thresholds.json and print a line for each threshold."""
    document = {}
    for machine in machines:
        document[machine] = false_alarms.summary(run.read_scores(machine), config.decision)
        for section, facts in document[machine].items():
            name = machine if len(document[machine]) == 1 else f"{machine} section {section}"
            console.say(f"{name}: {false_alarms.sentence(facts, config.decision)}")
    about = {"schema": false_alarms.SCHEMA, **run.marks(), "compute_dtype": run.precision()}
    run.write_thresholds({**about, "machines": document})


def rehearse(config: Config, machines: Mapping[str, ScoredMachine]) -> None:
    """Find before training what cannot be scored or described in a submission.

    Random embeddings of as many clips are scored, and the classes that are chosen by name are asked
    for their descriptions, because those of plugins may be faulty.

    Args:
        config: backend, views and decision are used.
        machines: from `dcase.scored_machines`.

    Raises:
        AsdjaxError: some machine has too few training clips for the backend or the threshold, or a
            plugin is faulty.
    """
    recipe.require_suited(config, "recipe")
    meta_yaml.describe(config, classes=())
    rng, rehearsed = np.random.default_rng(0), set()
    for machine, scored in machines.items():
        counts = Counter((clip.section, clip.domain) for clip in scored.train)
        if (seen := frozenset(counts.items())) in rehearsed:
            continue
        rehearsed.add(seen)
        clips = [*scored.train, *scored.test]
        facts = {name: np.array([getattr(c, name) or "" for c in clips]) for name in CLIP_COLUMNS}
        unused = ("gain", "level_db", "correlation", "lag", "silent", "calibration")
        others = dict.fromkeys(unused, np.full(len(clips), np.nan))  # of which no score follows
        parts = embedding_parts.small(config.model.embedding_parts)
        size = sum(part.size for part in parts) or 8
        tables = [
            Embeddings(**facts, **others, embedding=rng.standard_normal((len(clips), size)))
            for _ in config.extract.views
        ]
        _rows(machine, tables, config, parts, {})


def _rows(
    machine: str,
    tables: Sequence[Embeddings],
    config: Config,
    parts: Sequence[Part],
    notes: dict[str, None],
) -> list[dict[str, str]]:
    """A machine's rows: every clip scored under each view and over all, and decided.

    Args:
        machine: its name.
        tables: of each view, with equal clips.
        config: backend, views and decision are used.
        parts: what the embeddings consist of.
        notes: is added to: what a user should know of how the clips were scored.
    """
    clips, views = tables[0], config.extract.view_names
    scores = np.empty((len(views) + 1, len(clips.path)))  # of each view, then combined
    threshold = np.empty(len(clips.path))
    for section in np.unique(clips.section):
        here = clips.section == section
        train, test = here & (clips.split == "train"), here & (clips.split == "test")
        try:
            found = of_views.score(
                config.backend.of(machine, str(section)),
                parts,
                [table.embedding[train] for table in tables],
                clips.domain[train] == "target",
                [table.embedding[test] for table in tables],
                in_sample=config.decision.in_sample,
            )
            threshold[here] = thresholds.fit(config.decision, found.combined.in_sample)
        except AsdjaxError as error:
            raise type(error)(f"{machine} section {section}: {error}") from error
        notes |= {f"{machine} section {section}: {note}": None for note in found.notes}
        for row, of in zip(scores, (*found.views, found.combined), strict=True):
            row[train], row[test] = of.left_out, of.new
    return [
        {
            **{name: str(getattr(clips, name)[i]) for name in CLIP_COLUMNS},
            "score": repr(float(scores[-1, i])),
            "threshold": repr(float(threshold[i])),
            "decision": str(int(scores[-1, i] > threshold[i])),
            **{view: repr(float(scores[v, i])) for v, view in enumerate(views)},
        }
        for i in range(len(clips.path))
    ]
