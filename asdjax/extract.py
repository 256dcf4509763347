"""Extraction: a trained run and clips in, one embeddings file per view and machine out."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float32

from asdjax import batches, console, dcase, models, parallel, runs
from asdjax._version import __version__
from asdjax.checkpoint import Checkpoints, Tree, digest
from asdjax.config import Config, settings
from asdjax.corpus import Corpus
from asdjax.errors import AsdjaxError
from asdjax.learner import Learner, to_float
from asdjax.runs import Embeddings, Run

IN_FLIGHT = 2
"""Batches dispatched before the oldest one's result is awaited."""


class Embedder:
    """A trained embedder on all local devices: waveforms in, embeddings out.

    Attributes:
        config: the run's configuration.
        n_samples: length of every waveform.
        devices: where it runs; batches are multiples of their number.
    """

    def __init__(self, config: Config, n_samples: int, weights: Tree):
        """Place {"params": {"model"}, "stats": {"model"}}, NumPy arrays, on the devices."""
        self.config = config
        self.n_samples = n_samples
        self.devices = parallel.local_devices(config.train.devices, at_most=True)
        graphdef, _, _ = models.shapes(config.model, n_samples, config.audio.sample_rate)
        mine = {kind: weights[kind]["model"] for kind in ("params", "stats")}
        dtype = jax.tree.leaves(mine["params"])[0].dtype

        def embed(weights: Tree, waveform: jax.Array) -> jax.Array:
            waveform = to_float(waveform, dtype)
            params, stats = weights["params"], weights["stats"]
            return models.apply(graphdef, params, stats, waveform, train=False)[0]

        self._weights = parallel.replicate(mine, self.devices)
        self._embed = parallel.inference_step(embed, self.devices)

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
        """Embeddings of waveforms [B, n_samples], int16 or float in [-1, 1]."""
        return self._fetch(self._dispatch(waveform))

    def embed(
        self, paths: Sequence[Path], frames: Sequence[int], *, pcm16: bool, batch_size: int
    ) -> Iterator[Float32[np.ndarray, "b D"]]:
        """Embeddings of clips, in order, batch by batch.

        Args:
            paths: the clips.
            frames: their lengths in samples.
            pcm16: whether all of them are 16-bit.
            batch_size: clips per compiled call; the last batch is padded and un-padded.
        """
        audio = self.config.audio
        in_flight: deque[tuple[jax.Array, int]] = deque()  # on the device, and how many are clips
        waveforms = batches.inference_batches(
            paths, frames, audio, batch_size=batch_size, n_samples=self.n_samples, pcm16=pcm16
        )

        def oldest() -> np.ndarray:
            embedding, clips = in_flight.popleft()
            return self._fetch(embedding)[:clips]

        for waveform, clips in waveforms:
            in_flight.append((self._dispatch(waveform), clips))
            if len(in_flight) > IN_FLIGHT:
                yield oldest()
        while in_flight:
            yield oldest()

    def _dispatch(self, waveform: batches.Waveforms) -> jax.Array:
        return self._embed(self._weights, parallel.split_batch(waveform, self.devices))

    def _fetch(self, embedding: jax.Array) -> Float32[np.ndarray, "B D"]:
        return np.asarray(embedding).reshape(-1, embedding.shape[-1])


def extract(run: Run, corpus: Corpus) -> None:
    """Write the embeddings of every scored machine's training and test clips.

    A file is kept when weights, clips, view and clip length are those it was made from.
    """
    with run.lock():
        _extract(run, corpus)


def _extract(run: Run, corpus: Corpus) -> None:
    config, training = run.config(), run.finished_training()
    machines = dcase.scored_machines(corpus.dataset, config.dataset)
    settled = settings(config, ("audio", "model"))
    due = []
    for machine, scored in machines.items():
        clips = sorted([*scored.train, *scored.test], key=lambda clip: clip.path)
        files = [(corpus.root / clip.path).stat() for clip in clips]
        stamps = [
            [clip.path, file.st_size, file.st_mtime_ns]
            for clip, file in zip(clips, files, strict=True)
        ]
        for view in config.extract.views:
            path = run.embeddings_path(view, machine)
            made_from = runs.fingerprint(__version__, training["digest"], view, settled, stamps)
            if not run.is_current(path, made_from):
                due.append((clips, path, made_from))
    run.begin_extraction(machines.keys())
    if not due:
        console.say(f"{run.path}: embeddings are up to date")
        return
    embedder = Embedder.load(run)
    # of all machines, not only those due: an interrupted extraction goes on with the same shape
    most = max(len(scored.train) + len(scored.test) for scored in machines.values())
    n = len(embedder.devices)
    batch_size = -(-min(config.extract.batch_size, most) // n) * n
    with console.progress("extracting", sum(len(c) for c, _, _ in due), "clips") as advance:
        for clips, path, made_from in due:
            parts = []
            paths = [corpus.root / clip.path for clip in clips]
            frames = [corpus.headers[clip.path].frames for clip in clips]
            for part in embedder.embed(paths, frames, pcm16=corpus.pcm16, batch_size=batch_size):
                parts.append(part)
                advance(len(part), path.stem)
            embedding = np.concatenate(parts)
            _check_finite(embedding, clips, path)
            run.write_embeddings(path, _table(clips, embedding), made_from)


def _table(clips: Sequence[dcase.Clip], embedding: Float32[np.ndarray, "N D"]) -> Embeddings:
    def column(name: str) -> np.ndarray:
        return np.array([getattr(clip, name) or "" for clip in clips])

    columns = {name: column(name) for name in ("path", "split", "section", "domain", "label")}
    return Embeddings(**columns, embedding=embedding)


def _check_finite(embedding: np.ndarray, clips: Sequence[dcase.Clip], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(embedding).all(axis=1))
    if bad.size:
        raise AsdjaxError(
            f"{path}: the embedding of {clips[bad[0]].path} is not finite "
            f"({bad.size} of {len(clips)} clips): the weights or the clip are faulty"
        )
