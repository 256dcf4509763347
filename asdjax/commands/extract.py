"""Extraction: the embeddings of a run's clips, one file per view and machine."""

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asdjax.config import recipe as configs
from asdjax.config import schema
from asdjax.config.recipe import Config
from asdjax.data import channel_diagnostics, dcase
from asdjax.data.corpus import Corpus
from asdjax.embedder import extraction
from asdjax.embedder.extraction import ClipFiles
from asdjax.embedder.network import Network, rounded_up
from asdjax.errors import ConfigError, DataError
from asdjax.runtime import console, parallel
from asdjax.signal.view_raw import of_mono
from asdjax.store import runs
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.runs import Run
from asdjax.store.scores import CLIP_COLUMNS
from asdjax.training import weights

_LOG = logging.getLogger(__name__)
_NONE = np.empty((2, 0), np.float32)  # `calibration` of views that are not fitted

LIKE = 1.5
"""Clips whose lengths differ by less than this factor share a batch shape."""


def extract(run: Run, corpus: Corpus) -> None:
    """Write the embeddings of every scored machine's training and test clips, for every view.

    Files that were made from the same weights, clips, view and clip length are not made again. For
    machines with mono files the raw view replaces views that need channel 2. A comparison of the
    two channels is written to diagnostics/; likely faults are reported, and so is a data set whose
    training clips are not those that the run was trained on.

    Several processes share the work on each machine; process 0 alone reads and writes the run.

    Args:
        run: a finished run; only its path in the other processes.
        corpus: the checked data set.

    Raises:
        AsdjaxError: the run is not finished, or there is nothing to extract, or processes that work
            together have unlike clips or packages.
    """
    if not parallel.is_first():
        _extract(None, corpus)
        return
    with run.lock(existing=True):
        _extract(run, corpus)


def trained_with(run: Run) -> tuple[Config, Path]:
    """The configuration of a finished run and where its data set was, in every process."""
    config, data = None, ""
    if parallel.is_first():
        config, data = run.config(), str(run.finished_training()["data"])
    return _of_first(config), Path(parallel.share(data)[0])


def _extract(run: Run | None, corpus: Corpus) -> None:
    """Extract in this process; process 0 alone has a run."""
    config = _of_first(None if run is None else run.config())
    if run is not None:
        _check(run, corpus)
    machines = dcase.scored_machines(corpus.dataset, config.dataset)
    parallel.require_equal(_common(config, corpus, machines))
    mono = {
        machine
        for machine, scored in machines.items()
        if any(corpus.headers[clip.path].channels == 1 for clip in _clips(scored))
    }
    views = config.extract.views
    of_two = [view.name for view in views if view.uses_channel_2]
    if mono and of_two:
        every = all(of_mono(view).is_raw for view in views)
        which = "every view" if every else f"each of the views {', '.join(of_two)}"
        console.say(f"mono recordings, so that {which} is the raw one: {', '.join(sorted(mono))}")
    due = parallel.share(_due(run, corpus, machines) if run is not None else None)[0]
    if due:
        _embed(run, corpus, machines, mono, due)
    elif run is not None:
        console.say(f"{run.path}: embeddings are up to date")
    if run is not None:
        for machine in machines:
            _diagnose(run, machine)


def _of_first(config: Config | None) -> Config:
    """Process 0's configuration in every process; the others give None."""
    tree = parallel.share(None if config is None else configs.to_tree(config))[0]
    return config or schema.read(Config, tree, "", "process 0")


def _check(run: Run, corpus: Corpus) -> None:
    """Raise `AsdjaxError` if a run has nothing to extract, and say whether it knows the clips."""
    model = run.config().model
    if not model.embeds:
        raise ConfigError(
            f"{run.path}: model.name {model.name}: there is nothing to extract: run asdjax score"
        )
    if not _trained_on(run, corpus):
        console.say(
            f"{corpus.dataset.source}: its training clips are not those that {run.path} was "
            "trained on (other files, or other contents); they serve as references all the same"
        )


def _common(
    config: Config, corpus: Corpus, machines: Mapping[str, dcase.ScoredMachine]
) -> dict[str, Any]:
    """What all processes of an extraction must agree in, by names for the user."""
    devices = parallel.local_devices(config.train.devices, at_most=True)
    clips = {machine: corpus.digests(_clips(scored)) for machine, scored in machines.items()}
    return {
        "the clips": runs.fingerprint(clips, corpus.pcm16, corpus.any_sound),
        **parallel.host_facts(devices),
    }


def _trained_on(run: Run, corpus: Corpus) -> bool:
    """Whether the data set's training clips are those of the run; true if it trained nothing."""
    trained_on = run.finished_training().get("clips")  # None in converted checkpoints
    if trained_on is None or run.config().model.trains_nothing:
        return True
    try:
        clips = dcase.training_clips(corpus.dataset, run.config().dataset)
    except DataError:  # a data set without any
        return False
    return bool(runs.fingerprint(corpus.digests(clips)) == trained_on)


def _due(
    run: Run, corpus: Corpus, machines: Mapping[str, dcase.ScoredMachine]
) -> dict[str, dict[str, str]]:
    """The views of each machine whose embeddings are missing or stale, with their fingerprints."""
    expected: dict[Path, str] = {}
    due: dict[str, dict[str, str]] = {}
    recipes = run.embedding_recipes()
    config = run.config()
    devices = parallel.local_devices(config.train.devices, at_most=True)
    # embeddings of different precisions are never compared
    precision = config.model.on_platform(devices[0].platform).compute_dtype
    for machine, scored in machines.items():
        clips = runs.fingerprint(corpus.digests(_clips(scored)))
        train = _named(corpus, scored.train)
        test = ";".join(
            f"{section}:{_named(corpus, [c for c in scored.test if c.section == section])}"
            for section in sorted({clip.section for clip in scored.test})
        )
        for view, recipe in recipes.items():
            made_from = str(MadeFrom(recipe, precision, clips, train, test))
            path = run.embeddings_path(view.name, machine)
            expected[path] = made_from
            if not run.is_current(path, made_from):
                due.setdefault(machine, {})[view.name] = made_from
    run.begin_extraction(expected)
    return due


def _named(corpus: Corpus, clips: Sequence[dcase.Clip]) -> str:
    """A fingerprint of the names and contents of clips of a machine, wherever they are."""
    digests = corpus.digests(clips)
    return runs.fingerprint(sorted([path.rpartition("/")[2], of] for path, of in digests))


def _clips(scored: dcase.ScoredMachine) -> list[dcase.Clip]:
    return sorted([*scored.train, *scored.test], key=lambda clip: clip.path)


def _embed(
    run: Run | None,
    corpus: Corpus,
    machines: Mapping[str, dcase.ScoredMachine],
    mono: Collection[str],
    due: Mapping[str, Mapping[str, str]],
) -> None:
    network = _network(run)
    extract = network.config.extract
    named = dict(zip(extract.view_names, extract.views, strict=True))
    # from all machines, so that an interrupted extraction continues with the same shapes
    shapes = _Shapes(corpus, machines, extract.batch_size, network.devices)
    total = sum(len(_clips(machines[machine])) for machine in due)
    with console.progress("extracting", total, "clips") as advance:
        for machine, stale in due.items():
            stated = {named[name]: made_from for name, made_from in stale.items()}
            made = {view: of_mono(view) if machine in mono else view for view in stated}
            views = tuple(dict.fromkeys(made.values()))
            train = [group for _, group in shapes.groups(machines[machine].train)]
            learned = extraction.learn(network, train, views)
            clips = _clips(machines[machine])
            arrays: dict[str, np.ndarray] = {}
            for places, group in shapes.groups(clips):
                done = 0
                for part in extraction.stream(network, group, views, learned):
                    size = len(part["embedding"])
                    for name, values in part.items():
                        if name not in arrays:
                            arrays[name] = np.empty((len(clips), *values.shape[1:]), values.dtype)
                        arrays[name][places[done : done + size]] = values
                    done += size
                    advance(size, machine)
            if run is None:
                continue
            tables = {}
            for view, made_from in stated.items():
                path = run.embeddings_path(view.name, machine)
                table = _table(clips, arrays, views.index(made[view]), made[view].uses_channel_2)
                _check_finite(table.embedding, clips, path)
                table = dataclasses.replace(table, calibration=learned.get(view.name, _NONE))
                tables[path] = table, made_from
            run.write_embeddings(tables)
            _LOG.info(f"{machine}: embeddings of {len(clips)} clips written")


def _network(run: Run | None) -> Network:
    """The network with process 0's weights, in every process; process 0 alone has a run."""
    config, n_samples, tree = weights.of_run(run) if run is not None else (None, None, None)
    n_samples = parallel.share(n_samples)[0]
    return Network(_of_first(config), n_samples, parallel.tree_of_first(tree))


class _Shapes:
    """Batch shapes: clips of similar lengths share one, which bounds both padding and compiling.

    From the longest length down, all lengths above 1 / `LIKE` of it share its row length. The batch
    has `batch_size` rows, or fewer if no machine has as many clips of these lengths.
    """

    def __init__(
        self,
        corpus: Corpus,
        machines: Mapping[str, dcase.ScoredMachine],
        batch_size: int,
        devices: Sequence[jax.Device],
    ):
        self._corpus = corpus
        scored = list(machines.values())
        self._shapes: dict[int, tuple[int, int, int]] = {}  # by length: row length, shortest, rows
        lengths = sorted({self._frames(clip) for s in scored for clip in _clips(s)}, reverse=True)
        while lengths:
            similar = [length for length in lengths if LIKE * length > lengths[0]]
            longest, shortest = similar[0], similar[-1]
            most = max(
                sum(shortest <= self._frames(clip) <= longest for clip in _clips(s)) for s in scored
            )
            rows = rounded_up(min(batch_size, most), devices)
            self._shapes |= dict.fromkeys(similar, (longest, shortest, rows))
            lengths = lengths[len(similar) :]

    def groups(self, clips: Sequence[dcase.Clip]) -> list[tuple[np.ndarray, ClipFiles]]:
        """The clips grouped by batch shape: their indices in `clips`, and their files."""
        shapes = [self._shapes[self._frames(clip)] for clip in clips]
        found = []
        for row_length, shortest, rows in sorted(set(shapes)):
            places = np.array([i for i, shape in enumerate(shapes) if shape[0] == row_length])
            files = ClipFiles(
                paths=[self._corpus.root / clips[i].path for i in places],
                frames=[self._frames(clips[i]) for i in places],
                row_length=row_length,
                shortest=shortest,
                pcm16=self._corpus.pcm16,
                batch_size=rows,
                own=self._corpus.own_sound([clips[i] for i in places]),
            )
            found.append((places, files))
        return found

    def _frames(self, clip: dcase.Clip) -> int:
        return self._corpus.headers[clip.path].frames


def _diagnose(run: Run, machine: str) -> None:
    """Write the comparison of a machine's channels, and report likely faults."""
    config = run.config()
    tables = {name: run.read_embeddings(name, machine) for name in config.extract.view_names}
    of_two = [table for table in tables.values() if not np.isnan(table.level_db).any()]
    rows = []
    if of_two:
        for sentence in channel_diagnostics.faults(of_two[0]):
            console.say(f"{machine}: {sentence}")
        rows = channel_diagnostics.rows(of_two[0], tables, config.audio.sample_rate)
    run.write_diagnostics(machine, rows)


def _table(
    clips: Sequence[dcase.Clip], arrays: dict[str, np.ndarray], view: int, uses_channel_2: bool
) -> Embeddings:
    """The embeddings of one of the views in `arrays`.

    The comparison of the channels stands with the views that use both: the file of another view is
    the same, but for rounding, whether or not it was made together with them.
    """

    def column(name: str) -> np.ndarray:
        return np.array([getattr(clip, name) or "" for clip in clips])

    unknown = np.full(len(clips), np.nan, np.float32)
    facts = arrays if uses_channel_2 else {}
    return Embeddings(
        **{name: column(name) for name in CLIP_COLUMNS},
        embedding=arrays["embedding"][:, view],
        gain=facts["gain"][:, view] if facts else unknown,
        **{name: facts.get(name, unknown) for name in ("level_db", "correlation", "lag")},
        silent=facts.get("silent", np.zeros((len(clips), 2), bool)),
        calibration=_NONE,
    )


def _check_finite(embedding: np.ndarray, clips: Sequence[dcase.Clip], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if bad.size:
        raise DataError(
            f"{path}: the embedding of {clips[bad[0]].path} is not finite "
            f"({bad.size} of {len(clips)} clips): the weights or the clip are faulty"
        )
