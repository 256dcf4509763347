"""Embeddings of the views of clips in files, batch by batch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax.config.recipe import ViewConfig
from asdjax.data import batches
from asdjax.embedder.network import Network
from asdjax.errors import AsdjaxError
from asdjax.models.parameters import Tree
from asdjax.runtime import parallel
from asdjax.signal import views as signal
from asdjax.signal import wiener
from asdjax.training.learner import to_float

RAW = ViewConfig("raw", "raw")


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """Clips on disk, and the shapes they are read into: equal shapes share a compiled program."""

    paths: Sequence[Path]
    frames: Sequence[int]
    """Their lengths, samples, which the files must still have when they are read."""
    row_length: int
    """Samples of every row of a batch, at least the longest clip's."""
    shortest: int
    """At most the shortest clip's samples."""
    pcm16: bool
    """All of them are 16-bit: waveforms stay integers until they are on the device."""
    batch_size: int
    """Clips per compiled call, a multiple of the devices; the last is padded and un-padded."""


def use_channel_2(views: Sequence[ViewConfig]) -> bool:
    """Whether any view needs more than channel 1."""
    return any(view.method != "raw" for view in views)


def calibrate(
    network: Network, groups: Sequence[ClipFiles], views: tuple[ViewConfig, ...]
) -> dict[str, Float32[np.ndarray, "2 F"]]:
    """What the calibrated ones among the views need to know of a machine, by view.

    Args:
        network: of `Embedder`.
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
            for values, valid in network.run(
                _ratios, (view,), network.weights, _read(network, clips, clips.row_length, True)
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
    network: Network,
    clips: ClipFiles,
    views: tuple[ViewConfig, ...],
    calibration: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[dict[str, np.ndarray]]:
    """Embeddings of clips, in order, batch by batch; a clip is read once for all its views.

    Args:
        network: of `Embedder`, for clips of one length.
        clips: what to embed; of two channels unless all views are raw.
        views: how.
        calibration: from `calibrate`.

    Returns:
        Of each batch "embedding" float32 [b, V, D]; of two channels also the facts of
        `signal.views.make`, "gain" [b, V], "level_db", "correlation" and "lag" [b], "silent"
        [b, 2].
    """
    two_channels = use_channel_2(views)
    row_length, shortest = clips.row_length, clips.shortest
    if not two_channels:
        row_length = min(row_length, network.n_samples)
        shortest = min(shortest, network.n_samples)
    state = network.weights
    if calibration:
        state = {**state, "calibration": parallel.replicate(dict(calibration), network.devices)}
    read = _read(network, clips, row_length, two_channels)
    return network.run(_embed, (views, shortest), state, read)


def _read(
    network: Network, clips: ClipFiles, row_length: int, two_channels: bool
) -> Iterator[tuple[Tree, int]]:
    """Batches of clips for `Network.run`."""
    return batches.inference_batches(
        clips.paths,
        clips.frames,
        network.config.audio,
        batch_size=clips.batch_size,
        room=row_length,
        two_channels=two_channels,
        pcm16=clips.pcm16,
    )


def _embed(
    network: Network, views: tuple[ViewConfig, ...], shortest: int, state: Tree, batch: Tree
) -> Tree:
    """The step of `stream`."""
    waveform, length = to_float(batch["waveform"], network.dtype), batch["length"]
    sounds, facts = jnp.stack([waveform[:, 0]] * len(views)), {}
    if use_channel_2(views):
        calibration = state.get("calibration", {})
        sounds, facts = signal.make(views, waveform, length, calibration)
        facts["gain"] = facts["gain"].T
    fitted = signal.fit_length(sounds, length, network.n_samples, shortest)

    def embed(waveform: jax.Array) -> jax.Array:
        return network.module(state)(waveform, train=False)

    embedding = jax.lax.map(embed, fitted)  # one program for all views
    return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}


def _ratios(network: Network, view: ViewConfig, state: Tree, batch: Tree) -> Tree:
    """The step of `calibrate`."""
    return signal.ratios(view, to_float(batch["waveform"], network.dtype), batch["length"])
