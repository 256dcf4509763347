"""Inference: clips in files, or waveforms, through a trained embedder on all local devices."""

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax.config.architectures import BEATsConfig, ComputeDtype
from asdjax.config.recipe import Config, ViewConfig
from asdjax.data import audio, batches
from asdjax.errors import AsdjaxError
from asdjax.models import beats_embedder, parameters, registry
from asdjax.runtime import compile_cache, parallel
from asdjax.signal import views as signal
from asdjax.signal import wiener
from asdjax.store import converted_weights
from asdjax.store.checkpoint import Tree
from asdjax.store.runs import Run
from asdjax.training import weights
from asdjax.training.learner import to_float

RAW = ViewConfig("raw", "raw")
IN_FLIGHT = 2
"""Batches dispatched before the oldest one's result is awaited."""
AT_ONCE = {"cpu": 4}
"""Clips that a kind of device takes through the model at once, however large its batch: a CPU is
faster while a layer's activations stay in its cache."""
LONG = 480_000
"""Samples beyond which clips of their own lengths share a batch with fewer others, and a CPU takes
fewer at once: attention needs memory by the square of the length."""


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


Pool = Literal["mean", "none", "head"]
"""How the tokens of a clip become its embedding: their mean; not at all; as the model was trained
to (a run's pooling and projection, or a fine-tuned checkpoint's class probabilities)."""


class Embedder:
    """A trained embedder on all local devices: clips in, embeddings of their views out.

    Attributes:
        config: the run's configuration.
        n_samples: length to which every view is tiled or cut; None: clips keep their own.
        devices: where it runs; batches are multiples of their number.
    """

    def __init__(self, config: Config, n_samples: int | None, weights: Tree):
        """Place {"params": {"model"}, "stats": {"model"}}, NumPy arrays, on the devices."""
        self.config = config
        self.n_samples = n_samples
        self.devices = parallel.local_devices(config.train.devices, at_most=True)
        model = registry.on_platform(config.model, self.devices[0].platform)
        module = registry.skeleton(model, n_samples, config.audio.sample_rate)
        mine = {"params": registry.folded(module, weights["params"]["model"])}
        mine["stats"] = weights["stats"]["model"]
        self._graphdef, _, _ = parameters.split(module)
        self._dtype = jax.tree.leaves(weights["params"]["model"])[0].dtype  # before any is rounded
        self._weights = parallel.replicate(mine, self.devices)
        self._compiled: dict[tuple[Any, ...], Callable] = {}

    @classmethod
    def load(cls, run: Run | Path | str) -> "Embedder":
        """The embedder of a finished run, from its last checkpoint, verified by digest.

        Raises:
            AsdjaxError: not a run directory, training has not finished, or other weights.
        """
        return cls(*weights.of_run(run if isinstance(run, Run) else Run(run)))

    def __call__(self, waveform: batches.Waveforms) -> Float32[np.ndarray, "B D"]:
        """Embeddings under the raw view of waveforms [B, T], int16 or float in [-1, 1].

        Those of converted weights are means over tokens.
        """
        if waveform.ndim != 2 or not waveform.size:
            raise AsdjaxError(f"waveforms of shape {waveform.shape}: give one row or more")
        return np.stack(self.embed(list(waveform), loud=partial(_warn, level=4)))

    def embed(
        self,
        waveforms: Sequence[batches.Waveforms],
        pool: Pool | None = None,
        *,
        names: Sequence[str] | None = None,
        finished: Callable[[int], object] = lambda clips: None,
        loud: Callable[[Mapping[str, float]], object] | None = None,
    ) -> list[Float32[np.ndarray, "*L D"]]:
        """Embeddings of waveforms [T] of any lengths, int16 or float in [-1, 1], in order.

        Clips that keep their own lengths share compiled programs by length classes, in which they
        are embedded as they would be alone.

        Args:
            waveforms: at the model's sample rate.
            pool: see `Pool`; None: as a run's model was trained to, or the mean of converted
                weights' tokens.
            names: what messages call the waveforms; None: by their numbers.
            finished: called with the number of clips after each batch.
            loud: called with names and peaks of the waveforms far beyond 1 (`audio.FAR_BEYOND_1`),
                if there are any; None: a warning names the loudest.

        Returns:
            An embedding [D] for each; without pooling the tokens [L, D].

        Raises:
            AsdjaxError: a waveform is too short, of another shape or type, or not finite, or its
                embedding is not; or the model does not pool so.
        """
        pool = self.pooling(pool)
        waveforms = [np.asarray(wave) for wave in waveforms]
        names = names or [f"waveform {i}" for i in range(len(waveforms))]
        peaks = [self._check(w, name) for name, w in zip(names, waveforms, strict=True)]
        beyond = {n: p for n, p in zip(names, peaks, strict=True) if p > audio.FAR_BEYOND_1}
        if beyond:
            (loud or _warn)(beyond)
        rooms = [self._room(len(wave)) for wave in waveforms]
        found: list[Any] = [None] * len(waveforms)
        in_flight: deque[tuple[list[int], Tree]] = deque()

        def oldest() -> None:
            some, result = in_flight.popleft()
            result = self._fetch(result)
            for place, row, own in zip(some, result["embedding"], result["own"], strict=False):
                if not np.isfinite(row).all():
                    raise AsdjaxError(
                        f"{names[place]}: the embedding is not finite: the weights or the "
                        "recording are faulty"
                    )
                found[place] = row[:own] if pool == "none" else row
            finished(len(some))

        for room in sorted(set(rooms)):
            places = [i for i, r in enumerate(rooms) if r == room]
            # one size for several clips, however many: each is a program to compile
            rows = rounded_up(self._most_rows(room) if len(places) > 1 else 1, self.devices)
            for start in range(0, len(places), rows):
                some = places[start : start + rows]
                batch = self._batch([waveforms[i] for i in some], room, rows)
                result = self._dispatch(self._pooled, (pool,), self._weights, batch, len(some))
                in_flight.append((some, result))
                if len(in_flight) > IN_FLIGHT:
                    oldest()
        while in_flight:
            oldest()
        return found

    def pooling(self, pool: Pool | None = None) -> Pool:
        """The pooling that `embed` uses when asked for `pool`; `AsdjaxError` if it has none such.

        A run's model has its own, "head"; that of converted weights has "head" if they come from a
        fine-tuned checkpoint.
        """
        if pool not in (None, *get_args(Pool)):
            raise AsdjaxError(f"pooling {pool!r}: choose one of {', '.join(get_args(Pool))}")
        model, of_run = self.config.model, self.n_samples is not None
        if not isinstance(model, BEATsConfig):
            if pool not in (None, "head"):
                raise AsdjaxError(
                    f"pooling {pool!r} is of the tokens of BEATs, and {model.name} has none: leave "
                    "the choice out"
                )
        elif pool == "head" and not of_run:
            if not model.encoder.finetuned_model:
                raise AsdjaxError(
                    f"{model.weights}: no classifier to pool with ('head'): convert a fine-tuned "
                    "checkpoint, or take the mean"
                )
            if model.layers not in ((), (model.encoder.encoder_layers,)):
                raise AsdjaxError(
                    f"{model.weights}: the classifier ('head') hears the last layer alone: leave "
                    "the choice of layers out"
                )
        return pool or ("head" if of_run else "mean")

    def _check(self, wave: np.ndarray, name: str) -> float:
        """The peak of a waveform of floats, 0 of integers; `AsdjaxError` if it cannot be used."""
        least = self.shortest
        good = wave.ndim == 1 and (wave.dtype == np.int16 or wave.dtype.kind == "f")
        if not good:
            raise AsdjaxError(
                f"{name} is of shape {wave.shape} and type {wave.dtype}: give one channel of "
                "int16, or of float in [-1, 1]"
            )
        if len(wave) < least:
            raise AsdjaxError(
                f"{name} has {len(wave)} samples, too few for this model, which needs {least}"
            )
        if wave.dtype == np.int16:
            return 0.0
        peak = float(max(np.max(wave), -np.min(wave)))  # both NaN if a sample is
        if not math.isfinite(peak):
            raise AsdjaxError(f"{name} is not finite: repair the recording")
        return peak

    @property
    def shortest(self) -> int:
        """Samples of the shortest clip that it embeds."""
        if self.n_samples is None:
            return beats_embedder.shortest(self.config.model.encoder)
        return 1

    def _room(self, samples: int) -> int:
        """The length of the rows in which a clip of so many samples is embedded."""
        if self.n_samples is not None:
            return self.n_samples
        return beats_embedder.length_class(self.config.model.encoder, samples)

    def _most_rows(self, room: int) -> int:
        """Rows of a batch at most."""
        if self.n_samples is not None:
            return self.config.extract.batch_size
        return max(1, self.config.extract.batch_size * LONG // max(room, LONG))

    def _at_once(self, room: int) -> int | None:
        """Of rows of so many samples, how many go through the model at once; None: all."""
        most = AT_ONCE.get(self.devices[0].platform)
        longer = max(1, (self.n_samples or room) / LONG)
        if most is None or not isinstance(self.config.model, BEATsConfig):
            return most
        return 1 << max(0, math.floor(math.log2(most / longer**2)))

    def _batch(self, waveforms: Sequence[np.ndarray], room: int, rows: int) -> Tree:
        """One batch of a fixed shape; rows beyond the clips are silence."""
        integers = all(wave.dtype == np.int16 for wave in waveforms)
        batch = {
            "waveform": np.zeros((rows, room), np.int16 if integers else self._dtype),
            "length": np.full(rows, room, np.int32),
        }
        for i, wave in enumerate(waveforms):
            if not integers and wave.dtype == np.int16:
                wave = wave / 32768
            if self.n_samples is not None:
                wave = audio.fit_length(wave, room)
            wave = wave[:room]
            batch["waveform"][i, : len(wave)] = wave
            batch["length"][i] = len(wave)
        return batch

    def _pooled(self, pool: Pool, state: Tree, batch: Tree) -> Tree:
        """Embeddings, and how many rows of each are the clip's own."""
        waveform = to_float(batch["waveform"], self._dtype)
        length = batch["length"] if self.n_samples is None else None
        module = parameters.merged(self._graphdef, state["params"], state["stats"])
        whole = jnp.ones(len(waveform), jnp.int32)
        if pool == "head" and length is None:
            return {"embedding": module(waveform, train=False), "own": whole}
        tokens, valid = module.tokens(waveform, length=length)
        if pool == "none":
            own = whole * tokens.shape[1] if valid is None else jnp.sum(valid, axis=1)
            return {"embedding": tokens, "own": own.astype(jnp.int32)}
        if pool == "head":
            return {"embedding": module.encoder.probabilities(tokens, valid), "own": whole}
        return {"embedding": beats_embedder.token_mean(tokens, valid), "own": whole}

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

    def stream(
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
        two_channels = use_channel_2(views)
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
            in_flight.append((self._dispatch(step, settled, state, batch, count), count))
            if len(in_flight) > IN_FLIGHT:
                yield oldest()
        while in_flight:
            yield oldest()

    def _dispatch(
        self, step: Callable, settled: tuple[Any, ...], state: Tree, batch: Tree, clips: int
    ) -> Tree:
        """Start a step on all devices.

        Args:
            step: what to compute of a device's share.
            settled: its arguments that shape the program.
            state: replicated.
            batch: "waveform", "length".
            clips: rows that are clips; the others are passed over where that saves anything.
        """
        key = step.__name__, settled
        batch = {**batch, "used": np.arange(len(batch["length"])) < clips}
        batch = parallel.split_batch(batch, self.devices)
        new = key not in self._compiled
        if new:
            grouped = partial(_in_groups, partial(step, *settled), self._at_once)
            self._compiled[key] = parallel.inference_step(grouped, self.devices)
        result = self._compiled[key](state, batch)
        if new:
            compile_cache.seal()
        return result

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
        if use_channel_2(views):
            calibration = state.get("calibration", {})
            sounds, facts = signal.make(views, waveform, length, calibration)
            facts["gain"] = facts["gain"].T
        fitted = signal.fit_length(sounds, length, self.n_samples, shortest)

        def embed(waveform: jax.Array) -> jax.Array:
            params, stats = state["params"], state["stats"]
            return parameters.apply(self._graphdef, params, stats, waveform, train=False)[0]

        embedding = jax.lax.map(embed, fitted)  # one program for all views
        return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}

    def _ratios(self, view: ViewConfig, state: Tree, batch: Tree) -> Tree:
        return signal.ratios(view, to_float(batch["waveform"], self._dtype), batch["length"])


def load(
    path: Path | str, *, layers: Sequence[int] = (), compute_dtype: ComputeDtype | None = None
) -> Embedder:
    """The embedder of a finished run, or of a folder of converted weights.

    Args:
        path: the run directory or the folder.
        layers: of converted weights: whose tokens, side by side, are pooled; none means the last.
        compute_dtype: what the operands of the large products are rounded to; None: the run's
            `model.compute_dtype`, or float32.

    Returns:
        An embedder; that of converted weights takes clips at their own lengths and gives the mean
        over tokens.

    Raises:
        AsdjaxError: neither of both, damaged, or without such a choice.
    """
    path = Path(path)
    if (path / converted_weights.DOCUMENT).is_file():
        config, n_samples, tree = weights.of_folder(converted_weights.read(path), tuple(layers))
        return Embedder(_computing_in(compute_dtype, config), n_samples, tree)
    if not (path / "config.yaml").is_file():
        raise AsdjaxError(
            f"{path}: neither a run directory nor a folder of converted weights: train one with "
            "asdjax train, or convert BEATs_iter3.pt with asdjax convert beats"
        )
    if layers:
        raise AsdjaxError(
            f"{path}: layers can be chosen of converted weights; a run's are in its recipe "
            "(model.layers)"
        )
    config, n_samples, tree = weights.of_run(Run(path))
    return Embedder(_computing_in(compute_dtype, config), n_samples, tree)


def _computing_in(compute_dtype: ComputeDtype | None, config: Config) -> Config:
    """The configuration with another type for the large products' operands."""
    if compute_dtype is None:
        return config
    if compute_dtype not in get_args(ComputeDtype):
        choices = ", ".join(get_args(ComputeDtype))
        raise AsdjaxError(f"compute_dtype {compute_dtype!r}: choose one of {choices}")
    model = dataclasses.replace(config.model, compute_dtype=compute_dtype)
    if isinstance(model, BEATsConfig) and compute_dtype == "float32":
        model = dataclasses.replace(model, fused_attention=False)  # which rounds to bfloat16
    return dataclasses.replace(config, model=model)


def rounded_up(clips: int, devices: Sequence[jax.Device]) -> int:
    """A number of rows that every device takes in whole groups (see `AT_ONCE`), or in one."""
    most, own = AT_ONCE.get(devices[0].platform, 1), -(-clips // len(devices))
    unit = most if own > most else 1 << (own - 1).bit_length()
    return -(-own // unit) * unit * len(devices)


def _in_groups(
    step: Callable, at_once: Callable[[int], int | None], state: Tree, batch: Tree
) -> Tree:
    """A step on one device's clips, so many at once as suits the device.

    Groups without "used" rows are passed over; what stands for them is zero.
    """
    step, clips = jax.jit(step), len(batch["length"])  # traced once, for shapes and values
    most = at_once(batch["waveform"].shape[-1])
    if most is None:
        return step(state, batch)
    size = math.gcd(clips, most)
    groups = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), batch)

    def group(some: Tree) -> Tree:
        shapes = jax.eval_shape(step, state, some)
        nothing = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.cond(jnp.any(some["used"]), lambda: step(state, some), lambda: nothing)

    results = jax.lax.map(group, groups)
    return jax.tree.map(lambda a: a.reshape(clips, *a.shape[2:]), results)


def _warn(peaks: Mapping[str, float], level: int = 3) -> None:
    """Warn of loud waveforms at the place that called `Embedder.embed`, `level` - 1 calls above."""
    warnings.warn(audio.words_on_loudness(peaks), stacklevel=level)


def use_channel_2(views: Sequence[ViewConfig]) -> bool:
    """Whether any view needs more than channel 1."""
    return any(view.method != "raw" for view in views)
