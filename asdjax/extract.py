"""Extraction: a trained run and clips in, one embeddings file per view and machine out."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax import batches, channels, console, dcase, models, parallel, runs
from asdjax._version import __version__
from asdjax.checkpoint import Checkpoints, Tree, digest
from asdjax.config import Config, ViewConfig, settings, to_tree
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
AT_ONCE = {"cpu": 8}
"""Clips that a kind of device takes through the model at once, however large its batch: a CPU is
faster while a layer's activations stay in its cache."""


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
        batch = {"waveform": waveform[:, None], "length": np.full(clips, samples, np.int32)}
        result = self._dispatch(self._embed, ((_RAW,), samples), self._weights, batch)
        return self._fetch(result)["embedding"][:, 0]

    def calibrate(
        self, clips: ClipFiles, views: tuple[ViewConfig, ...]
    ) -> dict[str, Float32[np.ndarray, "2 F"]]:
        """What the calibrated ones among the views need to know of a machine, by view.

        Args:
            clips: the machine's normal training clips, of two channels.
            views: any views.

        Raises:
            AsdjaxError: no clip has two channels that sound.
        """
        views = tuple(view for view in views if view.method == "calibrated")
        if not views:
            return {}
        ratios: dict[str, list[np.ndarray]] = {view.name: [] for view in views}
        for batch in self._stream(self._ratios, (views,), self._weights, clips, clips.room, True):
            for name, (values, valid) in batch.items():
                ratios[name].append(values[valid])
        together = {name: np.concatenate(parts) for name, parts in ratios.items()}
        for name, values in together.items():
            if not len(values):
                raise AsdjaxError(
                    f"{clips.paths[0].parent}: no clip has two channels that sound, which the view "
                    f"{name} needs: leave it out of extract.views"
                )
        return {name: wiener.calibrate(values) for name, values in together.items()}

    def embed(
        self,
        clips: ClipFiles,
        views: tuple[ViewConfig, ...],
        calibration: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Iterator[dict[str, np.ndarray]]:
        """Embeddings of clips, in order, batch by batch; every clip is read once for all views.

        Args:
            clips: what to embed; of two channels unless all views are raw.
            views: how.
            calibration: from `calibrate`.

        Yields:
            "embedding" float32 [b, V, D]; of two channels also the facts of `signal.views.make`,
            "gain" [b, V], "level_db", "correlation" and "lag" [b].
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
        return jax.tree.map(lambda a: np.asarray(a).reshape(-1, *a.shape[2:]), result)

    def _embed(
        self, views: tuple[ViewConfig, ...], shortest: int, state: Tree, batch: Tree
    ) -> Tree:
        waveform, length = to_float(batch["waveform"], self._dtype), batch["length"]
        sounds, facts = [waveform[:, 0]] * len(views), {}
        if _use_channel_2(views):
            calibration = state.get("calibration", {})
            sounds, facts = signal.make(views, waveform, length, calibration)
            facts["gain"] = facts["gain"].T
        fitted = [signal.fit_length(s, length, self.n_samples, shortest) for s in sounds]

        def embed(waveform: jax.Array) -> jax.Array:
            params, stats = state["params"], state["stats"]
            return models.apply(self._graphdef, params, stats, waveform, train=False)[0]

        embedding = jax.lax.map(embed, jnp.stack(fitted))  # one program for all views
        return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}

    def _ratios(self, views: tuple[ViewConfig, ...], state: Tree, batch: Tree) -> Tree:
        waveform = to_float(batch["waveform"], self._dtype)
        return {view.name: signal.ratios(view, waveform, batch["length"]) for view in views}


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
    of mono files has the raw view alone: it stands for every view.
    """
    with run.lock():
        _extract(run, corpus)


def _extract(run: Run, corpus: Corpus) -> None:
    config, training = run.config(), run.finished_training()
    machines = dcase.scored_machines(corpus.dataset, config.dataset)
    mono = {m for m, s in machines.items() if corpus.headers[s.test[0].path].channels == 1}
    if mono and _use_channel_2(config.extract.views):
        console.say(f"mono files, so that every view is the raw one: {', '.join(sorted(mono))}")
    settled = settings(config, ("audio", "model"))
    due: list[tuple[str, list[dcase.Clip], dict[ViewConfig, str]]] = []
    for machine, scored in machines.items():
        clips = sorted([*scored.train, *scored.test], key=lambda clip: clip.path)
        files = [(corpus.root / clip.path).stat() for clip in clips]
        stamps = [
            [clip.path, file.st_size, file.st_mtime_ns]
            for clip, file in zip(clips, files, strict=True)
        ]
        stale = {}  # views to make, and what from
        for view in config.extract.views:
            made_from = runs.fingerprint(
                __version__, training["digest"], to_tree(view), settled, stamps
            )
            if not run.is_current(run.embeddings_path(view.name, machine), made_from):
                stale[view] = made_from
        if stale:
            due.append((machine, clips, stale))
    run.begin_extraction(machines.keys())
    if not due:
        console.say(f"{run.path}: embeddings are up to date")
        return
    embedder = Embedder.load(run)
    # of all machines, not only those due: an interrupted extraction goes on with the same shapes
    everything = [clip for scored in machines.values() for clip in (*scored.train, *scored.test)]
    lengths = [corpus.headers[clip.path].frames for clip in everything]
    most = max(len(scored.train) + len(scored.test) for scored in machines.values())
    unit = len(embedder.devices) * AT_ONCE.get(jax.default_backend(), 1)
    batch_size = -(-min(config.extract.batch_size, most) // unit) * unit

    def files(clips: Sequence[dcase.Clip]) -> ClipFiles:
        return ClipFiles(
            paths=[corpus.root / clip.path for clip in clips],
            frames=[corpus.headers[clip.path].frames for clip in clips],
            room=max(lengths),
            shortest=min(lengths),
            pcm16=corpus.pcm16,
            batch_size=batch_size,
        )

    with console.progress("extracting", sum(len(c) for _, c, _ in due), "clips") as advance:
        for machine, clips, stale in due:
            views = (_RAW,) if machine in mono else tuple(stale)
            calibration = embedder.calibrate(files(machines[machine].train), views)
            parts = []
            for part in embedder.embed(files(clips), views, calibration):
                parts.append(part)
                advance(len(part["embedding"]), machine)
            whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            tables = {}
            for i, (view, made_from) in enumerate(stale.items()):
                path = run.embeddings_path(view.name, machine)
                table = _table(clips, whole, 0 if machine in mono else i)
                _check_finite(table.embedding, clips, path)
                table = dataclasses.replace(table, calibration=calibration.get(view.name, _NONE))
                tables[path] = table, made_from
            run.write_embeddings(tables)
            if "lag" in whole:
                for sentence in channels.faults(
                    whole["level_db"], whole["correlation"], whole["lag"]
                ):
                    console.say(f"{machine}: {sentence}")
    for machine in machines:
        tables = [run.read_embeddings(name, machine) for name in config.extract.view_names]
        rows = channels.rows(tables, config.extract.view_names, config.audio.sample_rate)
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
        calibration=_NONE,
    )


def _check_finite(embedding: np.ndarray, clips: Sequence[dcase.Clip], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if bad.size:
        raise AsdjaxError(
            f"{path}: the embedding of {clips[bad[0]].path} is not finite "
            f"({bad.size} of {len(clips)} clips): the weights or the clip are faulty"
        )
