"""Scoring: a run's embeddings in, one CSV of scores and decisions per machine out; no jax."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from asdjax.challenge import meta_yaml
from asdjax.config import embedding_parts
from asdjax.config.recipe import Config
from asdjax.data.dcase import ScoredMachine
from asdjax.errors import AsdjaxError, DataError
from asdjax.runtime import console
from asdjax.scoring import backends, false_alarms, standardisation, thresholds
from asdjax.scoring.distances import unit_length
from asdjax.store.embeddings import Embeddings
from asdjax.store.runs import Run
from asdjax.store.scores import CLIP_COLUMNS

Scores = Float64[np.ndarray, " N"]


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
    views = config.extract.view_names
    part = embedding_parts.chosen(config.model.embedding_parts, config.backend.part)
    kept = 0
    machines = run.machines()
    with console.progress("scoring", len(machines), "machines", minor=True) as advance:
        for machine in machines:
            if run.has_scores(machine):
                kept += 1
                advance(1, machine)
                continue
            tables = [run.read_embeddings(view, machine).of_part(part) for view in views]
            if any(not np.array_equal(table.path, tables[0].path) for table in tables):
                raise DataError(
                    f"{run.path}: the views of {machine} hold different clips: "
                    f"run asdjax extract {run.path} again"
                )
            notes: dict[str, None] = {}  # the views' common ones once
            rows = _rows(machine, tables, config, notes)
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
        size = 8 * _bands(config)
        tables = [
            Embeddings(**facts, **others, embedding=rng.standard_normal((len(clips), size)))
            for _ in config.extract.views
        ]
        _rows(machine, tables, config, {})


def _rows(
    machine: str, tables: Sequence[Embeddings], config: Config, notes: dict[str, None]
) -> list[dict[str, str]]:
    """A machine's rows: every clip scored under each view and over all, and decided.

    `tables` hold the part of the embeddings that is scored. What a user should know of how they
    were scored is added to `notes`.
    """
    views, clips = config.extract.view_names, tables[0]
    per_view, in_sample = zip(*(_scores(config, t, machine, notes) for t in tables), strict=True)
    if config.backend.combine_views == "embeddings":
        combined, training = _scores(config, _mean(tables, config), machine, notes)
    else:
        combined = _combined(clips, per_view, per_view, config.backend.combine_views)
        training = _combined(clips, in_sample, per_view, config.backend.combine_views)
    threshold = np.empty(len(combined))
    for section in np.unique(clips.section):
        here = clips.section == section
        try:
            chosen = thresholds.fit(config.decision, training[here & (clips.split == "train")])
        except AsdjaxError as error:
            raise type(error)(f"{machine} section {section}: {error}") from error
        threshold[here] = chosen
    return [
        {
            **{name: str(getattr(clips, name)[i]) for name in CLIP_COLUMNS},
            "score": repr(float(combined[i])),
            "threshold": repr(float(threshold[i])),
            "decision": str(int(combined[i] > threshold[i])),
            **{view: repr(float(values[i])) for view, values in zip(views, per_view, strict=True)},
        }
        for i in range(len(combined))
    ]


def _scores(
    config: Config, table: Embeddings, machine: str, notes: dict[str, None]
) -> tuple[Scores, Scores]:
    """A machine's scores under one view, section by section; training clips are left out.

    The second array differs for the training clips where thresholds are `in_sample`: their scores
    against a bank that holds them.
    """
    scores = np.empty(len(table.path))
    thresholding = np.empty(len(table.path))
    for section in np.unique(table.section):
        train = (table.section == section) & (table.split == "train")
        test = (table.section == section) & (table.split == "test")
        references = table.rows(train)
        try:
            backend = backends.fit(
                config.backend,
                references.embedding,
                references.domain == "target",
                bands=_bands(config),
            )
            notes |= {f"{machine} section {section}: {note}": None for note in backend.notes}
            scores[train] = thresholding[train] = backend.leave_one_out()
            scores[test] = thresholding[test] = backend.score(table.embedding[test])
            if config.decision.in_sample:
                thresholding[train] = backend.score(references.embedding)
        except AsdjaxError as error:
            raise type(error)(f"{machine} section {section}: {error}") from error
    return scores, thresholding


def _bands(config: Config) -> int:
    """The number of frequency bands of what is scored."""
    part = embedding_parts.chosen(config.model.embedding_parts, config.backend.part)
    return 1 if part is None else part.bands


def _mean(tables: Sequence[Embeddings], config: Config) -> Embeddings:
    """The mean embedding of the views; for the cosine each is of unit length before.

    So is each band by itself, if each of them is scored.
    """
    bands = _bands(config) if config.backend.bands == "each" else 1
    shape = tables[0].embedding.shape
    rows = [t.embedding.astype(np.float64).reshape(shape[0] * bands, -1) for t in tables]
    mean = np.mean([unit_length(of_view, config.backend.metric) for of_view in rows], axis=0)
    return dataclasses.replace(tables[0], embedding=mean.reshape(shape))


def _combined(
    clips: Embeddings, per_view: Sequence[Scores], left_out: Sequence[Scores], how: str
) -> Scores:
    """One score per clip: the views', which are standardised before if `how` begins with z.

    `left_out` holds the leave-one-out scores that standardise.
    """
    scores, standard = np.stack(per_view), np.stack(left_out)
    if how != "mean":
        for section in np.unique(clips.section):
            here = clips.section == section
            train = standard[:, here & (clips.split == "train")]
            spread = train.std(axis=1, keepdims=True)
            if standardisation.alike(train).any():
                raise DataError(
                    f"section {section}: all leave-one-out scores of a view are equal: set "
                    "backend.combine_views to mean"
                )
            scores[:, here] = (scores[:, here] - train.mean(axis=1, keepdims=True)) / spread
    return {"z_minimum": np.min, "z_maximum": np.max}.get(how, np.mean)(scores, axis=0)
