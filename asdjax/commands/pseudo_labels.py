"""Pseudo-labels: training clips in, their classes out (dataset.label pseudo)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asdjax.config.recipe import Config, to_tree
from asdjax.data import audio, dcase
from asdjax.data.corpus import Corpus, PseudoLabels
from asdjax.data.dcase import Clip
from asdjax.detector.features import SPECTRAL, Features, open_features
from asdjax.embedder import digests
from asdjax.errors import ConfigError
from asdjax.files.documents import fingerprint
from asdjax.runtime import console, parallel
from asdjax.scoring.distances import unit_length
from asdjax.store.runs import Run
from asdjax.training import pseudo_labels
from asdjax.training.plan import require_possible

_AT_ONCE = 64  # clips that are in memory together
_LEAST_DEVIATION = 1e-6


def labelled(corpus: Corpus, config: Config, run: Run | None = None) -> Corpus:
    """The data set with its pseudo-labels, if the recipe asks for them.

    Args:
        corpus: the checked data set.
        config: the recipe; unless `dataset.label` is `pseudo`, nothing is done.
        run: where pseudo-labels may be stored from an earlier start, to be used again.

    Raises:
        AsdjaxError: the embedder is missing, a clip is shorter than it needs, or training would
            be refused whatever the classes are.
    """
    if config.dataset.label != "pseudo":
        return corpus
    clips = dcase.training_clips(corpus.dataset, config.dataset)
    if config.model.trains_nothing:
        console.say("dataset.label pseudo: nothing is trained, so that it has no effect")
        names = {clip.path: dcase.class_name(clip, "pseudo") for clip in clips}
        return dataclasses.replace(corpus, pseudo=PseudoLabels(names, fingerprint(names)))
    embedder = _embedder(config)
    made_from = fingerprint(
        to_tree(config.dataset.pseudo),
        to_tree(config.audio),
        embedder if embedder == SPECTRAL else digests(Path(embedder)),
        corpus.digests(clips),
        [clip.attributes for clip in clips],
    )
    classes = None if run is None else run.pseudo_labels(made_from)
    if classes is None:
        require_possible(config, corpus)
        # on another host they may differ by rounding
        classes = _classes(corpus, config, clips, embedder) if parallel.is_first() else {}
    classes = parallel.share(classes)[0]
    return dataclasses.replace(corpus, pseudo=PseudoLabels(classes, made_from))


def _embedder(config: Config) -> str:
    """The embedder whose vectors are clustered."""
    chosen = config.dataset.pseudo.embedder
    return (config.model.weights_folder or SPECTRAL) if chosen == "auto" else chosen


def _classes(
    corpus: Corpus, config: Config, clips: Sequence[Clip], embedder: str
) -> dict[str, str]:
    """The class of each training clip by its path."""
    features = open_features(embedder, config.audio.sample_rate)
    classes = {clip.path: dcase.class_name(clip, "pseudo") for clip in clips}
    groups = pseudo_labels.without_attributes(clips)
    total = sum(map(len, groups.values()))
    with console.progress("pseudo-labels", total, "clips") as advance:
        for (machine, section), rows in groups.items():
            group = [clips[i] for i in rows]
            vectors = []
            for first in range(0, len(group), _AT_ONCE):
                part = group[first : first + _AT_ONCE]
                vectors.append(_vectors(corpus, config, part, features))
                advance(len(part), machine)
            points = np.concatenate(vectors)
            if features.metric == "euclidean":
                points = points / np.maximum(points.std(axis=0), _LEAST_DEVIATION)
            else:
                points = unit_length(points, features.metric)
            found = pseudo_labels.clusters(points, config.dataset.pseudo)
            for clip, number in zip(group, found, strict=True):
                classes[clip.path] = f"{machine}/{section}/pseudo_{number:02d}"
            console.say(
                f"{machine} section {section}: {len(group)} clips without attributes in "
                f"{found.max() + 1} pseudo-classes"
            )
    return classes


def _vectors(
    corpus: Corpus, config: Config, clips: Sequence[Clip], features: Features
) -> np.ndarray:
    """One vector of each clip [N, D]."""
    length = audio.clip_samples(config.audio, corpus.headers.values())
    waveforms = []
    for clip in clips:
        samples = audio.read_any(corpus.root / clip.path, features.sample_rate, most=length)
        channel = clip.channel or audio.CHANNELS[config.audio.channel]
        channel = channel if samples.shape[1] > 1 else 1
        if channel > samples.shape[1]:
            raise ConfigError(f"{clip.path}: has no channel {channel}: choose another")
        waveforms.append(samples[:, channel - 1])
    tables = features(waveforms, [clip.path for clip in clips], length)
    return next(iter(tables.values()))
