"""The public embedder: waveforms in, embeddings out."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from asdjax.config import registry, schema
from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import Pooling
from asdjax.config.recipe import Config
from asdjax.data import audio
from asdjax.data.batches import Waveforms
from asdjax.data.samples import to_float
from asdjax.data.sound_files import checked_rate
from asdjax.embedder.batching import Batching
from asdjax.embedder.network import Network
from asdjax.errors import ConfigError, DataError
from asdjax.models.parameters import Tree
from asdjax.store.runs import Run
from asdjax.training import weights

NO_POOLING, AS_TRAINED = "none", "head"
Pool = str | Pooling
"""How the tokens of a clip become its embedding: a pooling without weights or its name, as "mean";
none: they are returned; head: as trained (a run's pooling and projection, or a fine-tuned
checkpoint's classifier)."""


class Embedder:
    """A trained model on all local devices that maps waveforms to embeddings.

    Attributes:
        config: the run's configuration.
        n_samples: length to which every clip is repeated or cut; None: clips keep their lengths.
        devices: the local devices; batch sizes are multiples of their number.
        shortest: length of the shortest clip that can be embedded, samples.
        network: the model and its compiled programs.
        batching: makes the batches.

    Example:
        >>> embedder = asdjax.Embedder.load("runs/seed0")
        >>> embedder(np.zeros((2, 160_000), np.float32)).shape[0]
        2
        >>> embedder.embed(["today.wav"])[0].ndim
        1
    """

    def __init__(
        self, config: Config, n_samples: int | None, weights: Tree, channels: Sequence[int] = ()
    ):
        """Copy weights to the devices.

        Args:
            config: see the class.
            n_samples: see the class.
            weights: NumPy arrays {"params": {"model"}, "stats": {"model"}}.
            channels: that a table of recordings chose for the training, counted from 1; empty: that
                of `config`.
        """
        self.config, self.n_samples, self._channels = config, n_samples, tuple(channels)
        self.network = Network(config, n_samples, weights)
        self.devices = self.network.devices
        self.batching = Batching(self.network)
        self.shortest = self.batching.shortest

    @classmethod
    def load(cls, run: Run | Path | str) -> "Embedder":
        """The embedder of a finished run; its last checkpoint is verified by digests.

        Raises:
            AsdjaxError: not a run directory, training has not finished, or the checkpoint changed.
        """
        run = run if isinstance(run, Run) else Run(run)
        return cls(*weights.of_run(run), run.finished_training().get("channels", ()))

    @property
    def channel(self) -> int:
        """The channel of a file that is embedded unless another is chosen, counted from 1.

        Raises:
            AsdjaxError: a table of recordings chose several.
        """
        if len(self._channels) > 1:
            names = ", ".join(map(str, self._channels))
            raise ConfigError(f"the model was trained on the channels {names}: choose one")
        return self._channels[0] if self._channels else audio.CHANNELS[self.config.audio.channel]

    def __call__(self, waveform: Waveforms) -> Float32[np.ndarray, "B D"]:
        """Embeddings of waveforms [B, T], int16 or float in [-1, 1] (the raw view).

        Converted weights give the mean over tokens.
        """
        if waveform.ndim != 2 or not waveform.size:
            raise DataError(f"waveforms of shape {waveform.shape}: give one row or more")
        return np.stack(self.embed(list(waveform), loud=partial(_warn, level=4)))

    def embed(
        self,
        waveforms: Sequence[Waveforms | Path | str],
        pool: Pool | None = None,
        *,
        sample_rate: int | None = None,
        names: Sequence[str] | None = None,
        finished: Callable[[int], object] = lambda clips: None,
        loud: Callable[[Mapping[str, float]], object] | None = None,
        alike: bool = False,
    ) -> list[Float32[np.ndarray, "*L D"]]:
        """Embeddings of waveforms [T] or sound files of any lengths, in order.

        If the model embeds clips of any length, waveforms of similar lengths are padded to share a
        batch. The padding does not change their embeddings.

        Args:
            waveforms: int16 or float in [-1, 1]; or paths of sound files, which are read in the
                model's channel and resampled.
            sample_rate: of arrays, hertz; None: the model's.
            pool: see `Pool`; None: "head" for a run, "mean" for converted weights.
            names: names of the waveforms in messages; None: their paths or numbers.
            finished: called after each batch with its number of clips.
            loud: called with the peaks, by name, of waveforms above `audio.FAR_BEYOND_1`, if there
                are any; None: issue a warning.
            alike: compute every waveform of a length by one program, however many are given: else
                embeddings depend, by rounding, on how many there are.

        Returns:
            For each waveform an embedding [D], or for pool "none" its tokens [L, D].

        Raises:
            AsdjaxError: the sample rate is no sensible one; a waveform has the wrong shape or type,
                is too short or not finite; an embedding is not finite; or the model does not
                support `pool`.
        """
        pool = self.pooling(pool)
        rate = None if sample_rate is None else checked_rate(sample_rate)
        names = names or [
            str(wave) if isinstance(wave, str | Path) else f"waveform {i}"
            for i, wave in enumerate(waveforms)
        ]
        arrays = [self._waveform(wave, rate) for wave in waveforms]
        peaks = [self.batching.check(w, name) for name, w in zip(names, arrays, strict=True)]
        beyond = {n: p for n, p in zip(names, peaks, strict=True) if p > audio.FAR_BEYOND_1}
        if beyond:
            (loud or _warn)(beyond)
        groups = self.batching.groups([len(wave) for wave in arrays], alike=alike)
        batches = ((self.batching.batch(arrays, g), len(g.clips)) for g in groups)
        results = self.network.run(
            _pooled, (pool,), self.network.weights, batches, one_by_one=alike
        )
        found: list[Any] = [None] * len(arrays)
        for group, result in zip(groups, results, strict=True):
            rows = zip(group.clips, result["embedding"], result["tokens"], strict=True)
            for clip, embedding, tokens in rows:
                if not np.isfinite(embedding).all():
                    raise DataError(
                        f"{names[clip]}: the embedding is not finite: the weights or the "
                        "recording are faulty"
                    )
                found[clip] = embedding[:tokens] if pool == NO_POOLING else embedding
            finished(len(group.clips))
        return found

    def traced(self, waveform: Float[jax.Array, "B T"]) -> Float[jax.Array, "B D"]:
        """Embeddings of clips of one length, as a JAX function; the weights are constants.

        On CPUs they equal those of `embed` with `alike`, which has all checks.
        """
        samples, pool = waveform.shape[1], self.pooling()
        padding = self.batching.row_length(samples) - samples
        # XLA would compute with constants in advance, and round otherwise than with arguments
        constants = jax.lax.optimization_barrier(jax.tree.map(np.asarray, self.network.weights))

        def embeddings(clips: Float[jax.Array, "B T"]) -> Float[jax.Array, "B D"]:
            length = jnp.full(clips.shape[:1], samples, jnp.int32)
            batch = {"waveform": jnp.pad(clips, ((0, 0), (0, padding))), "length": length}
            return _pooled(self.network, pool, constants, batch)["embedding"]

        return jax.lax.platform_dependent(
            waveform,
            cpu=lambda clips: jax.lax.map(lambda clip: embeddings(clip[None])[0], clips),
            default=embeddings,
        )

    def _waveform(self, given: Waveforms | Path | str, sample_rate: int | None) -> np.ndarray:
        """The samples [T] of an array or a sound file at the model's sample rate."""
        sound = self.config.audio
        if isinstance(given, str | Path):
            samples = audio.read_any(Path(given), sound.sample_rate, most=self.n_samples)
            if self.channel > samples.shape[1]:
                raise DataError(
                    f"{given}: has no channel {self.channel}, which this model uses: choose another"
                )
            return samples[:, self.channel - 1]
        wave = np.asarray(given)
        if sample_rate in (None, sound.sample_rate) or wave.ndim != 1:
            return wave  # of another shape: refused later
        try:
            return audio.resample(wave, sample_rate, sound.sample_rate)
        except ValueError as error:
            raise ConfigError(f"sample_rate: {error}") from error

    def pooling(self, pool: Pool | None = None) -> Pool:
        """The pooling that `embed` uses for the argument `pool`: "none", "head" or a `Pooling`.

        Raises:
            AsdjaxError: it is not supported. Converted weights have "head" only if they come from a
                fine-tuned checkpoint; models without tokens have nothing else.
        """
        model, of_run = self.config.model, self.n_samples is not None
        if pool is None:
            pool = AS_TRAINED if of_run else "mean"
        name: str = pool.name if isinstance(pool, Pooling) else pool
        if name not in (NO_POOLING, AS_TRAINED, *registry.names("pooling")):
            raise ConfigError(f"pooling {name!r}: choose one of {', '.join(pools())}")
        if not model.has_tokens and name != AS_TRAINED:
            raise ConfigError(
                f"pooling {name!r} needs tokens, and {model.name} has none: omit this option"
            )
        if name == AS_TRAINED and not of_run:
            model.require_classifier()
        if name in (NO_POOLING, AS_TRAINED):
            return name
        if not isinstance(pool, Pooling):
            pool = registry.find("pooling", name)()
        return _without_weights(pool)

    def parts(self, pool: Pool) -> tuple[Part, ...]:
        """What the embeddings of a pooling consist of; empty: a single vector."""
        if isinstance(pool, Pooling):
            return pool.parts(self.config.model.token_size, self.config.model.bands)
        of_run = pool == AS_TRAINED and self.n_samples is not None
        return self.config.model.embedding_parts if of_run else ()


def pools() -> list[str]:
    """The names that `embed` takes for `pool`."""
    found = {name: registry.find("pooling", name) for name in registry.names("pooling")}
    return [*(name for name, of in found.items() if not of.trains), NO_POOLING, AS_TRAINED]


def pool_tree(pool: Pool) -> Any:
    """A pooling for JSON documents: its name, or name and settings if these are not the default."""
    if isinstance(pool, str) or pool == registry.find("pooling", pool.name)():
        return pool if isinstance(pool, str) else pool.name
    return schema.to_tree(pool)


def _without_weights(pooling: Any) -> Pooling:
    """The pooling, if it needs no training and its settings are valid; else `AsdjaxError`."""
    schema.check(Pooling, pooling, "", "pooling")
    trained = (not pooling.trains, "name", f"has weights: choose one of {', '.join(pools())}")
    for good, key, what in (trained, *pooling.checks()):
        if not good:
            raise ConfigError(f"pooling {pooling.name}: {key}: {what}")
    return pooling


def _pooled(network: Network, pool: Pool, state: Tree, batch: Tree) -> Tree:
    """The step of `embed`: the embeddings, and the number of valid "tokens" (1 if pooled)."""
    waveform = to_float(batch["waveform"], network.dtype)
    length = batch["length"] if network.n_samples is None else None
    module = network.module(state)
    one = jnp.ones(waveform.shape[:1], jnp.int32)
    if pool == AS_TRAINED and length is None:
        return {"embedding": module(waveform, train=False), "tokens": one}
    tokens, valid = module.tokens(waveform, length=length)
    if pool == NO_POOLING:
        count = one * tokens.shape[1] if valid is None else jnp.sum(valid, axis=1)
        return {"embedding": tokens, "tokens": count.astype(jnp.int32)}
    if not isinstance(pool, Pooling):
        return {"embedding": module.probabilities(tokens, valid), "tokens": one}
    reduce: Any = pool.build(tokens.shape[2], 1, None, network.model.bands)
    return {"embedding": reduce(tokens, train=False, valid=valid), "tokens": one}


def _warn(peaks: Mapping[str, float], level: int = 3) -> None:
    """Warn of loud waveforms; `level` as `stacklevel`, so that the user's line is shown."""
    warnings.warn(audio.words_on_loudness(peaks), stacklevel=level)
