"""What a detector compares: one or more vectors ("features") of a stretch of sound."""

import abc
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from asdjax.config import embedding_parts
from asdjax.config.interfaces import Backend
from asdjax.data.samples import to_float
from asdjax.data.sound_files import LOWEST_RATE
from asdjax.detector.recordings import Recording
from asdjax.embedder import Embedder, digests, load, pool_tree
from asdjax.errors import ArtifactError, ConfigError, DataError
from asdjax.runtime import compile_cache, parallel
from asdjax.scoring.nearest_neighbours import NearestNeighbours, SmoteConfig
from asdjax.scoring.rescaled import Rescaled
from asdjax.signal import spectral_statistics as statistics

SPECTRAL = "spectral"
"""Name of the embedder that needs neither weights nor training."""
DEFAULT_RATE = 16_000
"""Hertz, of spectral statistics."""
_DENSITY_NEIGHBOURS = 2  # of the local density; a bank may have only ten clips
_HIGHEST = 96_000  # hertz; above, a window of two minutes takes gigabytes
_AT_ONCE = 8  # stretches of sound in a batch of spectral statistics, per device


class Features(abc.ABC):
    """Maps stretches of sound to vectors.

    Attributes:
        embedder: `SPECTRAL`, or the absolute path of a run or of converted weights.
        sample_rate: of the waveforms, hertz.
        n_samples: the length of a stretch that the model requires; None: any.
        shortest: the shortest stretch, samples.
        frame: the shortest length of windows that may be chosen, samples.
        identity: what must be equal for vectors to be comparable, as a JSON document.
        metric: how vectors are compared.
        backends: the scoring backends that suit the vectors.
        bands: frequency bands of the vectors, one after the other; 1: none.
    """

    embedder: str
    sample_rate: int
    n_samples: int | None
    shortest: int
    frame: int
    identity: Mapping[str, Any]
    metric: Literal["cosine", "euclidean"]
    backends: tuple[Backend, ...]
    bands: int = 1

    @abc.abstractmethod
    def __call__(
        self, waveforms: Sequence[np.ndarray], names: Sequence[str], longest: int
    ) -> dict[str, Float32[np.ndarray, "N D"]]:
        """The vectors of each feature, by its name.

        Args:
            waveforms: [T] each, int16 or float in [-1, 1], at `sample_rate`.
            names: of the waveforms, for messages.
            longest: length of the longest stretch of the detector, samples; equal in all calls, as
                each length is compiled.

        Raises:
            AsdjaxError: a waveform is too short, or its vector is not finite.
        """

    @abc.abstractmethod
    def traced(self, waveform: Float[jax.Array, "B T"]) -> dict[str, Float[jax.Array, "B D"]]:
        """The vectors of each feature, as a JAX function of complete windows, to be exported."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as the embedder's name or path, and what it must be."""
        return _reopened, (self.embedder, self.sample_rate, dict(self.identity))

    @property
    @abc.abstractmethod
    def channel(self) -> int:
        """The channel to use unless another is chosen, counted from 1."""

    def too_short(self, recording: Recording) -> str | None:
        """Why a recording cannot be used, if it has too few samples."""
        samples = -(-len(recording.waveform) * self.sample_rate // recording.rate)
        if samples >= self.shortest:
            return None
        return (
            f"{recording.name}: {samples} samples at {self.sample_rate} Hz are too few for this "
            f"detector, which needs {self.shortest}: leave it out"
        )

    def places(self) -> Mapping[str, Sequence[tuple[str, float]]]:
        """The statistic over time and the frequency (hertz) of each value, by feature.

        Empty for features whose values have no frequency.
        """
        return {}


class SpectralFeatures(Features):
    """The features of `asdjax.signal.spectral_statistics`, computed on all local devices."""

    embedder = SPECTRAL
    n_samples = None
    shortest = 1
    channel = 1
    metric = "euclidean"
    backends = (
        NearestNeighbours(metric="euclidean", smote=SmoteConfig(ratio=0)),
        Rescaled(metric="euclidean", rescale_neighbours=_DENSITY_NEIGHBOURS),
    )

    def __init__(self, sample_rate: int):
        """Spectral statistics at a sample rate; `AsdjaxError` if it is no sensible one."""
        if not LOWEST_RATE <= sample_rate <= _HIGHEST:
            raise ConfigError(
                f"sample_rate {sample_rate}: give hertz, from {LOWEST_RATE} to {_HIGHEST}"
            )
        self.sample_rate = sample_rate
        self.frame = round(statistics.frame_seconds(sample_rate)[0] * sample_rate)
        self.identity = {"embedder": SPECTRAL, "version": 1, "sample_rate": sample_rate}
        self._devices = parallel.local_devices(0)
        self._step = mapped(_statistics, sample_rate, tuple(self._devices))

    def __call__(
        self, waveforms: Sequence[np.ndarray], names: Sequence[str], longest: int
    ) -> dict[str, Float32[np.ndarray, "N D"]]:
        """The spectral statistics, in batches of equal shape."""
        results = in_batches(self._step, self._devices, waveforms, longest)
        tables = {
            name: np.concatenate([result[name] for result in results])[: len(waveforms)]
            for name in statistics.FEATURES
        }
        for table in tables.values():
            _require_finite(table, names)
        return tables

    def traced(self, waveform: Float[jax.Array, "B T"]) -> dict[str, Float[jax.Array, "B D"]]:
        """The spectral statistics."""
        length = jnp.full(waveform.shape[:1], waveform.shape[1], jnp.int32)
        return statistics.spectral_statistics(waveform, length, sample_rate=self.sample_rate)

    def places(self) -> Mapping[str, Sequence[tuple[str, float]]]:
        """The statistics and the bands' frequencies."""
        return statistics.places(self.sample_rate)


@functools.lru_cache(maxsize=8)  # detectors of a process, one for each machine, share programs
def mapped(step: Callable, sample_rate: int, devices: tuple[jax.Device, ...]) -> jax.stages.Wrapped:
    """Compile `step(sample_rate, {}, batch)` for `in_batches`."""
    # pmap takes an argument without arrays, as this state is, for a mapped one
    return parallel.inference_step(functools.partial(step, sample_rate), list(devices), "shard_map")


def in_batches(
    step: jax.stages.Wrapped,
    devices: list[jax.Device],
    waveforms: Sequence[np.ndarray],
    longest: int,
) -> list[dict[str, np.ndarray]]:
    """The results of a `mapped` step for waveforms, in batches of equal shape.

    A batch has `waveform` float32 [B, longest], padded by zeros, and `length` int32 [B], samples.
    The last batch is filled up with silence.

    Args:
        step: from `mapped`.
        devices: the same.
        waveforms: [T] each, int16 or float.
        longest: length to which they are padded, samples.
    """
    size = _AT_ONCE * len(devices)
    results = []
    for first in range(0, len(waveforms), size):
        some = waveforms[first : first + size]
        batch = {
            "waveform": np.zeros((size, longest), np.float32),
            "length": np.full(size, longest, np.int32),
        }
        for row, wave in enumerate(some):
            batch["waveform"][row, : len(wave)] = to_float(wave)
            batch["length"][row] = len(wave)
        found = step({}, parallel.split_batch(batch, devices))
        compile_cache.seal()
        arrays = {name: np.asarray(found[name]) for name in found}
        results.append({name: a.reshape(size, *a.shape[2:]) for name, a in arrays.items()})
    return results


def _statistics(sample_rate: int, state: Any, batch: Mapping[str, jax.Array]) -> Any:
    return statistics.spectral_statistics(
        batch["waveform"], batch["length"].astype(jnp.int32), sample_rate=sample_rate
    )


class TrainedFeatures(Features):
    """The embedding of a trained run, its first part if it has several, or of converted weights."""

    metric = "cosine"
    backends = (
        NearestNeighbours(smote=SmoteConfig(ratio=0)),
        Rescaled(rescale_neighbours=_DENSITY_NEIGHBOURS),
    )

    def __init__(self, path: str):
        """Load the weights; `AsdjaxError` if they are missing or damaged."""
        self.embedder = path
        self._model: Embedder = load(path)
        config = self._model.config
        self.sample_rate = config.audio.sample_rate
        self.n_samples, self.shortest = self._model.n_samples, self._model.shortest
        self.frame = self.shortest
        pool = self._model.pooling()
        part = embedding_parts.chosen(self._model.parts(pool), None)
        self._own = slice(None) if part is None else slice(part.start, part.start + part.size)
        self.bands = 1 if part is None else part.bands
        self.identity = {
            "embedder": "trained",
            **digests(Path(path)),
            "pool": pool_tree(pool),
            "compute_dtype": self._model.network.model.compute_dtype,
            "sample_rate": self.sample_rate,
        }

    @property
    def channel(self) -> int:
        """The channel that the embedder was trained on."""
        return self._model.channel

    def __call__(
        self, waveforms: Sequence[np.ndarray], names: Sequence[str], longest: int
    ) -> dict[str, Float32[np.ndarray, "N D"]]:
        """The embeddings, as the one feature `embedding`."""
        # of one type and by one program: a score must not depend on what is scored with it
        floats = [to_float(wave) for wave in waveforms]
        found = self._model.embed(floats, names=names, loud=lambda peaks: None, alike=True)
        return {"embedding": np.stack(found)[:, self._own].astype(np.float32)}

    def traced(self, waveform: Float[jax.Array, "B T"]) -> dict[str, Float[jax.Array, "B D"]]:
        """The embedding, as the one feature `embedding`; the weights are constants."""
        return {"embedding": self._model.traced(waveform)[:, self._own]}


def _require_finite(table: Float32[np.ndarray, "N D"], names: Sequence[str]) -> None:
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if len(bad):
        raise DataError(f"{names[bad[0]]}: not finite, or far beyond full scale: record it again")


def open_features(embedder: str | Path, sample_rate: int | None = None) -> Features:
    """The features of an embedder: `SPECTRAL`, a run directory, or converted weights.

    Args:
        embedder: as in `Features`.
        sample_rate: of spectral statistics; None: 16 kHz. A trained embedder has its own.

    Raises:
        AsdjaxError: the weights are missing or damaged, or have another sample rate.
    """
    if embedder == SPECTRAL:  # and not a path of this name
        return SpectralFeatures(DEFAULT_RATE if sample_rate is None else sample_rate)
    features = TrainedFeatures(os.path.abspath(embedder))
    if sample_rate not in (None, features.sample_rate):
        raise ConfigError(
            f"{embedder}: works at {features.sample_rate} Hz, not {sample_rate} Hz: omit the "
            "sample rate; recordings are resampled"
        )
    return features


def require_identity(features: Features, identity: Mapping[str, Any], what: str) -> None:
    """Raise `AsdjaxError` unless features are comparable with those of a detector.

    Args:
        features: as they are now.
        identity: of the features that the detector was fitted with.
        what: names the detector in the message.
    """
    now = dict(features.identity)
    if now == identity:
        return
    changed = [key for key in sorted({*now, *identity}) if now.get(key) != identity.get(key)]
    raise ArtifactError(
        f"{what}: fitted with other weights or settings than those of {features.embedder} "
        f"({', '.join(changed)}): name the right ones with --embedder, or fit again"
    )


def _reopened(embedder: str, sample_rate: int, identity: Mapping[str, Any]) -> Features:
    features = open_features(embedder, sample_rate)
    require_identity(features, identity, "pickled detector")
    return features
