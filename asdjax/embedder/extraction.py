"""Embeddings of the views of clips in files, batch by batch."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax.config.interfaces import View
from asdjax.data import batches
from asdjax.embedder.network import Network
from asdjax.errors import AsdjaxError, DataError
from asdjax.models.parameters import Tree
from asdjax.runtime import parallel
from asdjax.signal import views as signal
from asdjax.signal.channels import Channels
from asdjax.training.learner import to_float


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


def learn(
    network: Network, groups: Sequence[ClipFiles], views: tuple[View, ...]
) -> dict[str, Float32[np.ndarray, "K F"]]:
    """What those of the views that learn need to know of a machine, by view.

    Args:
        network: of `Embedder`.
        groups: the machine's normal training clips, with the channels that the views use; they are
            read once more for each view that learns.
        views: any views.

    Raises:
        AsdjaxError: there is nothing to learn from in the clips.
    """
    learned = {}
    for view in views:
        if not view.learns:
            continue
        rows = [
            values[counts]
            for clips in groups
            for values, counts in network.run(
                _observe,
                (view,),
                network.weights,
                _read(network, clips, clips.row_length, view.uses_channel_2),
            )
        ]
        try:
            learned[view.name] = view.learned(np.concatenate(rows))
        except AsdjaxError as error:
            raise DataError(f"{groups[0].paths[0].parent}: {error}") from error
    return learned


def stream(
    network: Network,
    clips: ClipFiles,
    views: tuple[View, ...],
    learned: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[dict[str, np.ndarray]]:
    """Embeddings of clips, in order, batch by batch; a clip is read once for all its views.

    Args:
        network: of `Embedder`, for clips of one length.
        clips: what to embed; of two channels if any view uses channel 2.
        views: how.
        learned: from `learn`.

    Returns:
        Of each batch "embedding" float32 [b, V, D]; of two channels also the facts of
        `signal.views.make`, "gain" [b, V], "level_db", "correlation" and "lag" [b], "silent"
        [b, 2].
    """
    two_channels = any(view.uses_channel_2 for view in views)
    row_length, shortest = clips.row_length, clips.shortest
    if all(view.is_raw for view in views):
        row_length = min(row_length, network.n_samples)
        shortest = min(shortest, network.n_samples)
    state = network.weights
    if learned:
        state = {**state, "learned": parallel.replicate(dict(learned), network.devices)}
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
    network: Network, views: tuple[View, ...], shortest: int, state: Tree, batch: Tree
) -> Tree:
    """The step of `stream`."""
    waveform, length = to_float(batch["waveform"], network.dtype), batch["length"]
    sounds, facts = signal.make(views, waveform, length, state.get("learned", {}))
    if facts:
        facts["gain"] = facts["gain"].T
    fitted = signal.fit_length(sounds, length, network.n_samples, shortest)

    def embed(waveform: jax.Array) -> jax.Array:
        return network.module(state)(waveform, train=False)

    embedding = jax.lax.map(embed, fitted)  # one program for all views
    return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}


def _observe(network: Network, view: View, state: Tree, batch: Tree) -> Tree:
    """The step of `learn`."""
    return view.observe(Channels(to_float(batch["waveform"], network.dtype), batch["length"]))
