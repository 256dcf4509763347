"""Extraction: a trained run and clips in, one embeddings file per view and machine out."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax import audio, batches, channels, console, dcase, models, parallel, runs
from asdjax.checkpoint import Checkpoints, Tree, digest
from asdjax.config import Config, ViewConfig
from asdjax.corpus import Corpus
from asdjax.errors import AsdjaxError
from asdjax.learner import Learner, to_float
from asdjax.runs import Embeddings, Run
from asdjax.signal import views as signal
from asdjax.signal import wiener

_RAW = ViewConfig("raw", "raw")
_NONE = np.empty((2, 0), np.float32)  # the calibration of views that need none

IN_FLIGHT = 2
"""Batches dispatched before the oldest one's result is awaited."""
AT_ONCE = {"cpu": 4}
"""Clips that a kind of device takes through the model at once, however large its batch: a CPU is
faster while a layer's activations stay in its cache."""
LIKE = 1.5
"""Clips up to so many times as long as each other share the shape of a batch."""


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """Clips on disk, and the shapes they are read into: equal shapes share a compiled program."""

    paths: Sequence[Path]
    frames: Sequence[int]
    """Their lengths, samples, which the files must still have when they are read."""
    room: int
    """Samples of every row of a batch, at least the longest clip's."""
    shortest: int
    """At most the shortest clip's samples."""
    pcm16: bool
    """All of them are 16-bit: waveforms stay integers until they are on the device."""
    batch_size: int
    """Clips per compiled call, a multiple of the devices; the last is padded and un-padded."""


class Embedder:
    """A trained embedder on all local devices: clips in, embeddings of their views out.

    Attributes:
        config: the run's configuration.
        n_samples: length to which every view is tiled or cut.
        devices: where it runs; batches are multiples of their number.
    """

    def __init__(self, config: Config, n_samples: int, weights: Tree):
        """Place {"params": {"model"}, "stats": {"model"}}, NumPy arrays, on the devices."""
        self.config = config
        self.n_samples = n_samples
        self.devices = parallel.local_devices(config.train.devices, at_most=True)
        self._graphdef, _, _ = models.shapes(config.model, n_samples, config.audio.sample_rate)
        mine = {kind: weights[kind]["model"] for kind in ("params", "stats")}
        self._dtype = jax.tree.leaves(mine["params"])[0].dtype
        self._weights = parallel.replicate(mine, self.devices)
        self._compiled: dict[tuple[Any, ...], Callable] = {}

    @classmethod
    def load(cls, run: Run | Path | str) -> "Embedder":
        """The embedder of a finished run, from its last checkpoint, verified by digest.

        Raises:
            AsdjaxError: not a run directory, training has not finished, or other weights.
        """
        run = run if isinstance(run, Run) else Run(run)
        config, training = run.config(), run.finished_training()
        n_samples = training["n_samples"]
        learner = Learner(config, n_classes=len(training["classes"]), n_samples=n_samples)
        like = {"weights": learner.start()["weights"]}
        if not run.checkpoints.is_dir():
            raise AsdjaxError(
                f"{run.checkpoints}: the weights are gone: restore them, or train again with "
                "--no-resume"
            )
        with Checkpoints(run.checkpoints) as checkpoints:
            weights = checkpoints.restore(training["step"], like)["weights"]
        if digest(weights) != training["digest"]:
            raise AsdjaxError(
                f"{run.checkpoints / str(training['step'])}: the weights are not those that "
                "training.json states: restore them, or train again with --no-resume"
            )
        return cls(config, n_samples, weights)

    def __call__(self, waveform: batches.Waveforms) -> Float32[np.ndarray, "B D"]:
        """Embeddings under the raw view of waveforms [B, T], int16 or float in [-1, 1]."""
        clips, samples = waveform.shape
        if waveform.dtype != np.int16 and waveform.dtype.kind != "f" or not waveform.size:
            raise AsdjaxError(
                f"waveforms of shape {waveform.shape} and type {waveform.dtype}: give one row or "
                "more of int16, or of float in [-1, 1]"
            )
        batch = {
            "waveform": np.zeros((_rounded_up(clips, self.devices), 1, samples), waveform.dtype),
            "length": np.full(_rounded_up(clips, self.devices), samples, np.int32),
        }
        batch["waveform"][:clips, 0] = waveform
        result = self._dispatch(self._embed, ((_RAW,), samples), self._weights, batch)
        return self._fetch(result)["embedding"][:clips, 0]

    def calibrate(
        self, groups: Sequence[ClipFiles], views: tuple[ViewConfig, ...]
    ) -> dict[str, Float32[np.ndarray, "2 F"]]:
        """What the calibrated ones among the views need to know of a machine, by view.

        Args:
            groups: the machine's normal training clips, of two channels; they are read once more.
            views: any views.

        Raises:
            AsdjaxError: no clip is long enough, with two channels that sound.
        """
        calibration = {}
        for view in views:
            if view.method != "calibrated":
                continue
            ratios = [
                values[valid]
                for clips in groups
                for values, valid in self._stream(
                    self._ratios, (view,), self._weights, clips, clips.room, True
                )
            ]
            together = np.concatenate(ratios)
            if not len(together):
                raise AsdjaxError(
                    f"{groups[0].paths[0].parent}: no clip has two channels that sound for longer "
                    f"than {view.context // 2 * view.hop} samples, which the view {view.name} "
                    "needs: leave it out of extract.views"
                )
            calibration[view.name] = wiener.calibrate(together)
        return calibration

    def embed(
        self,
        clips: ClipFiles,
        views: tuple[ViewConfig, ...],
        calibration: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Iterator[dict[str, np.ndarray]]:
        """Embeddings of clips, in order, batch by batch; a clip is read once for all its views.

        Args:
            clips: what to embed; of two channels unless all views are raw.
            views: how.
            calibration: from `calibrate`.

        Yields:
            "embedding" float32 [b, V, D]; of two channels also the facts of `signal.views.make`,
            "gain" [b, V], "level_db", "correlation" and "lag" [b], "silent" [b, 2].
        """
        two_channels = _use_channel_2(views)
        room, shortest = clips.room, clips.shortest
        if not two_channels:
            room, shortest = min(room, self.n_samples), min(shortest, self.n_samples)
        state = self._weights
        if calibration:
            state = {**state, "calibration": parallel.replicate(dict(calibration), self.devices)}
        yield from self._stream(self._embed, (views, shortest), state, clips, room, two_channels)

    def _stream(
        self,
        step: Callable,
        settled: tuple[Any, ...],
        state: Tree,
        clips: ClipFiles,
        room: int,
        two_channels: bool,
    ) -> Iterator[Tree]:
        """Results of a step on batches of clips, as NumPy arrays without the padding."""
        in_flight: deque[tuple[Tree, int]] = deque()  # on the device, and how many are clips

        def oldest() -> Tree:
            result, count = in_flight.popleft()
            return jax.tree.map(lambda a: a[:count], self._fetch(result))

        for batch, count in batches.inference_batches(
            clips.paths,
            clips.frames,
            self.config.audio,
            batch_size=clips.batch_size,
            room=room,
            two_channels=two_channels,
            pcm16=clips.pcm16,
        ):
            in_flight.append((self._dispatch(step, settled, state, batch), count))
            if len(in_flight) > IN_FLIGHT:
                yield oldest()
        while in_flight:
            yield oldest()

    def _dispatch(self, step: Callable, settled: tuple[Any, ...], state: Tree, batch: Tree) -> Tree:
        """Start a step on all devices; `settled` are its arguments that shape the program."""
        key = step.__name__, settled
        if key not in self._compiled:
            grouped = partial(_in_groups, partial(step, *settled))
            self._compiled[key] = parallel.inference_step(grouped, self.devices)
        return self._compiled[key](state, parallel.split_batch(batch, self.devices))

    def _fetch(self, result: Tree) -> Tree:
        """Results [devices, b, ...] as NumPy arrays [devices * b, ...]."""
        return jax.tree.map(
            lambda a: np.asarray(a).reshape(a.shape[0] * a.shape[1], *a.shape[2:]), result
        )

    def _embed(
        self, views: tuple[ViewConfig, ...], shortest: int, state: Tree, batch: Tree
    ) -> Tree:
        waveform, length = to_float(batch["waveform"], self._dtype), batch["length"]
        sounds, facts = jnp.stack([waveform[:, 0]] * len(views)), {}
        if _use_channel_2(views):
            calibration = state.get("calibration", {})
            sounds, facts = signal.make(views, waveform, length, calibration)
            facts["gain"] = facts["gain"].T
        fitted = signal.fit_length(sounds, length, self.n_samples, shortest)

        def embed(waveform: jax.Array) -> jax.Array:
            params, stats = state["params"], state["stats"]
            return models.apply(self._graphdef, params, stats, waveform, train=False)[0]

        embedding = jax.lax.map(embed, fitted)  # one program for all views
        return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}

    def _ratios(self, view: ViewConfig, state: Tree, batch: Tree) -> Tree:
        return signal.ratios(view, to_float(batch["waveform"], self._dtype), batch["length"])


def _rounded_up(clips: int, devices: Sequence[jax.Device]) -> int:
    """A number of rows that every device takes in whole groups (see `AT_ONCE`)."""
    unit = len(devices) * AT_ONCE.get(devices[0].platform, 1)
    return -(-clips // unit) * unit


def _in_groups(step: Callable, state: Tree, batch: Tree) -> Tree:
    """A step on one device's clips, so many at once as suits the device."""
    clips = len(batch["length"])
    at_once = math.gcd(clips, AT_ONCE.get(jax.default_backend(), clips))
    groups = jax.tree.map(lambda a: a.reshape(-1, at_once, *a.shape[1:]), batch)
    results = jax.lax.map(partial(step, state), groups)
    return jax.tree.map(lambda a: a.reshape(clips, *a.shape[2:]), results)


def extract(run: Run, corpus: Corpus) -> None:
    """Write the embeddings of every scored machine's training and test clips under every view.

    A file is kept when weights, clips, view and clip length are those it was made from. A machine
    of mono files has the raw view alone: it stands for every view. What a machine's two channels
    tell is written under diagnostics/, and said where it looks wrong.
    """
    with run.lock():
        machines = dcase.scored_machines(corpus.dataset, run.config().dataset)
        mono = {m for m, s in machines.items() if corpus.headers[s.test[0].path].channels == 1}
        if mono and _use_channel_2(run.config().extract.views):
            console.say(f"mono files, so that every view is the raw one: {', '.join(sorted(mono))}")
        due = _due(run, corpus, machines)
        if due:
            _embed(run, corpus, machines, mono, due)
        else:
            console.say(f"{run.path}: embeddings are up to date")
        for machine in machines:
            _diagnose(run, machine)


def _due(
    run: Run, corpus: Corpus, machines: Mapping[str, dcase.ScoredMachine]
) -> dict[str, dict[ViewConfig, str]]:
    """The views of each machine that have to be made, and what from; all others are current."""
    expected, due = {}, {}
    recipes = run.embedding_recipes()
    for machine, scored in machines.items():
        paths = [corpus.root / clip.path for clip in _clips(scored)]
        stamps = [
            [clip.path, path.stat().st_mtime_ns, audio.fingerprint(path)]
            for clip, path in zip(_clips(scored), paths, strict=True)
        ]
        for view, recipe in recipes.items():
            made_from = f"{recipe}/{runs.fingerprint(stamps)}"
            path = run.embeddings_path(view.name, machine)
            expected[path] = made_from
            if not run.is_current(path, made_from):
                due.setdefault(machine, {})[view] = made_from
    run.begin_extraction(expected)
    return due


def _clips(scored: dcase.ScoredMachine) -> list[dcase.Clip]:
    return sorted([*scored.train, *scored.test], key=lambda clip: clip.path)


def _embed(
    run: Run,
    corpus: Corpus,
    machines: Mapping[str, dcase.ScoredMachine],
    mono: Collection[str],
    due: Mapping[str, Mapping[ViewConfig, str]],
) -> None:
    embedder = Embedder.load(run)
    # of all machines, not only those due: an interrupted extraction goes on with the same shapes
    shapes = _Shapes(corpus, machines, run.config().extract.batch_size, embedder.devices)
    total = sum(len(_clips(machines[machine])) for machine in due)
    with console.progress("extracting", total, "clips") as advance:
        for machine, stale in due.items():
            views = (_RAW,) if machine in mono else tuple(stale)
            train = [group for _, group in shapes.groups(machines[machine].train)]
            calibration = embedder.calibrate(train, views)
            clips = _clips(machines[machine])
            whole: dict[str, np.ndarray] = {}
            for places, group in shapes.groups(clips):
                done = 0
                for part in embedder.embed(group, views, calibration):
                    size = len(part["embedding"])
                    for name, values in part.items():
                        if name not in whole:
                            whole[name] = np.empty((len(clips), *values.shape[1:]), values.dtype)
                        whole[name][places[done : done + size]] = values
                    done += size
                    advance(size, machine)
            tables = {}
            for i, (view, made_from) in enumerate(stale.items()):
                path = run.embeddings_path(view.name, machine)
                table = _table(clips, whole, 0 if machine in mono else i)
                _check_finite(table.embedding, clips, path)
                table = dataclasses.replace(table, calibration=calibration.get(view.name, _NONE))
                tables[path] = table, made_from
            run.write_embeddings(tables)


class _Shapes:
    """The shapes of batches: clips of like lengths share one, so that none is mostly padding."""

    def __init__(
        self,
        corpus: Corpus,
        machines: Mapping[str, dcase.ScoredMachine],
        batch_size: int,
        devices: Sequence[jax.Device],
    ):
        self._corpus = corpus
        scored = list(machines.values())
        self._rooms: dict[int, tuple[int, int, int]] = {}  # by length: room, shortest, batch size
        lengths = sorted({self._frames(clip) for s in scored for clip in _clips(s)}, reverse=True)
        while lengths:
            like = [length for length in lengths if LIKE * length > lengths[0]]
            alike = set(like)
            most = max(sum(self._frames(clip) in alike for clip in _clips(s)) for s in scored)
            rows = _rounded_up(min(batch_size, most), devices)
            self._rooms |= dict.fromkeys(like, (like[0], like[-1], rows))
            lengths = lengths[len(like) :]

    def groups(self, clips: Sequence[dcase.Clip]) -> list[tuple[np.ndarray, ClipFiles]]:
        """The clips by their shape: their places among those given, and the files."""
        rooms = [self._rooms[self._frames(clip)] for clip in clips]
        found = []
        for room, shortest, rows in sorted(set(rooms)):
            places = np.array([i for i, r in enumerate(rooms) if r[0] == room])
            files = ClipFiles(
                paths=[self._corpus.root / clips[i].path for i in places],
                frames=[self._frames(clips[i]) for i in places],
                room=room,
                shortest=shortest,
                pcm16=self._corpus.pcm16,
                batch_size=rows,
            )
            found.append((places, files))
        return found

    def _frames(self, clip: dcase.Clip) -> int:
        return self._corpus.headers[clip.path].frames


def _diagnose(run: Run, machine: str) -> None:
    config = run.config()
    tables = {name: run.read_embeddings(name, machine) for name in config.extract.view_names}
    of_two = [table for table in tables.values() if not np.isnan(table.level_db).any()]
    rows = []
    if of_two:
        for sentence in channels.faults(of_two[0]):
            console.say(f"{machine}: {sentence}")
        rows = channels.rows(of_two[0], tables, config.audio.sample_rate)
    run.write_diagnostics(machine, rows)


def _use_channel_2(views: Sequence[ViewConfig]) -> bool:
    return any(view.method != "raw" for view in views)


def _table(clips: Sequence[dcase.Clip], whole: dict[str, np.ndarray], view: int) -> Embeddings:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(clip, name) or "" for clip in clips])

    unknown = np.full(len(clips), np.nan, np.float32)
    return Embeddings(
        **{name: column(name) for name in runs.CLIP_COLUMNS},
        embedding=whole["embedding"][:, view],
        gain=whole["gain"][:, view] if "gain" in whole else unknown,
        **{name: whole.get(name, unknown) for name in ("level_db", "correlation", "lag")},
        silent=whole.get("silent", np.zeros((len(clips), 2), bool)),
        calibration=_NONE,
    )


def _check_finite(embedding: np.ndarray, clips: Sequence[dcase.Clip], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if bad.size:
        raise AsdjaxError(
            f"{path}: the embedding of {clips[bad[0]].path} is not finite "
            f"({bad.size} of {len(clips)} clips): the weights or the clip are faulty"
        )
