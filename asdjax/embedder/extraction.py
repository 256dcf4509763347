"""Embeddings of the views of clips on disk, batch by batch.

Several processes take the batches in turn, and hand each other the results. A batch has the same
rows, and runs in the same program on equally many devices, as in one process: embeddings then are
equal, bit for bit.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax.config.interfaces import View
from asdjax.data import batches
from asdjax.data.samples import to_float
from asdjax.embedder.network import Network
from asdjax.errors import AsdjaxError, DataError
from asdjax.models import parameters
from asdjax.models.parameters import Tree
from asdjax.runtime import parallel
from asdjax.signal import views as signal
from asdjax.signal.channels import Channels


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """Clips on disk that are read into batches of one shape, for one compiled program."""

    paths: Sequence[Path]
    frames: Sequence[int]
    """Length of each clip, samples; reading fails if a file has another length."""
    row_length: int
    """Length of the rows of a batch, samples; at least the longest clip."""
    shortest: int
    """Lower bound of the clips' lengths, samples."""
    pcm16: bool
    """Whether all files are 16-bit; waveforms are then copied to the device as integers."""
    batch_size: int
    """Clips per batch, a multiple of the number of devices; the last batch is padded."""
    own: batches.OwnSound | None = None
    """For clips of a user's own data."""


def learn(
    network: Network, groups: Sequence[ClipFiles], views: tuple[View, ...]
) -> dict[str, Float32[np.ndarray, "K F"]]:
    """Fit views to a machine's normal clips (`View.learns`); their parameters by view name.

    All processes get the same, bit for bit.

    Args:
        network: of `Embedder`.
        groups: the machine's normal training clips, with the channels that the views use; they are
            read again for each such view.
        views: any views; the others are ignored.

    Raises:
        AsdjaxError: a view cannot be fitted to these clips.
    """
    learned = {}
    for view in views:
        if not view.learns:
            continue
        rows = [
            seen["rows"][seen["counts"]]
            for clips in groups
            for seen in _run(
                network,
                _observe,
                (view,),
                network.weights,
                clips,
                clips.row_length,
                view.uses_channel_2,
            )
        ]
        try:
            learned[view.name] = signal.learned(view, np.concatenate(rows))
        except AsdjaxError as error:
            raise DataError(f"{groups[0].paths[0].parent}: {error}") from error
    return parallel.of_first(learned)


def stream(
    network: Network,
    clips: ClipFiles,
    views: tuple[View, ...],
    learned: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[dict[str, np.ndarray]]:
    """Embeddings of clips, in order, batch by batch; each clip is read once for all views.

    Args:
        network: of `Embedder`, for clips of one length (`n_samples`).
        clips: clips to embed; with two channels if any view uses channel 2.
        views: views to embed.
        learned: from `learn`.

    Returns:
        For each batch of all processes "embedding", float32 [b, V, D], and for two channels the
        results of `signal.views.make`: "gain" [b, V], "level_db", "correlation" and "lag" [b],
        "silent" [b, 2].
    """
    two_channels = any(view.uses_channel_2 for view in views)
    row_length, shortest, n_samples = clips.row_length, clips.shortest, network.n_samples
    assert n_samples is not None, "the network is for clips of any length"
    if all(view.is_raw for view in views):
        row_length = min(row_length, n_samples)
        shortest = min(shortest, n_samples)
    state = network.weights
    if learned:
        state = {**state, "learned": parallel.replicate(dict(learned), network.devices)}
    static = views, n_samples, shortest
    return _run(network, embed, static, state, clips, row_length, two_channels)


def _run(
    network: Network,
    step: Callable,
    static: tuple[Any, ...],
    state: Tree,
    clips: ClipFiles,
    row_length: int,
    two_channels: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """The results of `Network.run` for all batches of clips, in order, in every process.

    After each batch all wait for the slowest, which has run as many batches of the same shape.
    """
    mine = batches.inference_batches(
        clips.paths,
        clips.frames,
        network.config.audio,
        batch_size=clips.batch_size,
        room=row_length,
        two_channels=two_channels,
        pcm16=clips.pcm16,
        process=parallel.process(),
        own=clips.own,
    )
    left = batches.batch_count(clips.paths, clips.batch_size)
    for result in network.run(step, static, state, mine):
        found = parallel.share_arrays(result)[:left]  # after them the last batch once more
        left -= len(found)
        yield from found


def embed(
    network: Network,
    views: tuple[View, ...],
    n_samples: int,
    shortest: int,
    state: Tree,
    batch: Tree,
) -> Tree:
    """The step of `stream`, see `Network.run`: the views of a batch and their embeddings."""
    waveform, length = to_float(batch["waveform"], network.dtype), batch["length"]
    sounds, facts = signal.make(views, waveform, length, state.get("learned", {}))
    if facts:
        facts["gain"] = facts["gain"].T
    fitted = signal.fit_length(sounds, length, n_samples, shortest)

    def of_view(waveform: jax.Array) -> jax.Array:
        module = network.module(state)
        return parameters.checked(module(waveform, train=False), module, waveform)

    embedding = jax.lax.map(of_view, fitted)  # compiles the network once for all views
    return {"embedding": jnp.swapaxes(embedding, 0, 1), **facts}


def _observe(network: Network, view: View, state: Tree, batch: Tree) -> Tree:
    """The step of `learn`."""
    clips = Channels(to_float(batch["waveform"], network.dtype), batch["length"])
    rows, counts = signal.observed(view, clips)
    return {"rows": rows, "counts": counts}
