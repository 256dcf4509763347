"""What training will do: clips, classes, length, devices and batches."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import jax
import numpy as np

from asdjax.config.interfaces import Encoder, Weights
from asdjax.config.recipe import Config, DatasetConfig, settings, validate
from asdjax.data import audio, batches, dcase, held_out
from asdjax.data.corpus import Corpus
from asdjax.data.editions import OWN
from asdjax.errors import ConfigError
from asdjax.runtime import parallel
from asdjax.store import runs
from asdjax.store.run_documents import TRAINING_SECTIONS
from asdjax.training.learner import Learner


@dataclasses.dataclass(frozen=True)
class Plan:
    """What training will do, known from the configuration and the clips alone."""

    config: Config
    corpus: Corpus
    clips: tuple[dcase.Clip, ...]
    classes: tuple[str, ...]
    labels: np.ndarray
    """int32 [N]: each training clip's class."""
    n_samples: int
    devices: list[jax.Device]
    """Those of this process."""
    epoch: batches.EpochPlan
    pretrained: Weights | None
    """The weights to start from, if any."""
    notes: tuple[str, ...]
    """What a user should know before training."""
    fitted: Encoder | None = None
    """`model`, if it was chosen by the devices' memory (`memory.fitted`)."""
    held_out: tuple[int, ...] = ()
    """Indices of the clips that are held out from training, for validation; ascending."""

    @property
    def steps(self) -> int:
        """Updates in the whole training."""
        if self.config.model.trains_nothing:
            return 0
        return self.epoch.steps * self.config.train.epochs

    @property
    def device_count(self) -> int:
        """Devices of all processes."""
        return len(self.devices) * parallel.process()[1]

    @property
    def model(self) -> Encoder:
        """Section `model` of the configuration, as used on `devices`."""
        return self.fitted or self.config.model.on_platform(self.devices[0].platform)

    @property
    def trained_on(self) -> list[int]:
        """Indices of the clips that are not held out."""
        return sorted({*range(len(self.clips))} - {*self.held_out})

    def learner(self) -> Learner:
        """The learner that trains on `devices`."""
        config = dataclasses.replace(self.config, model=self.model)
        return Learner(config, n_classes=len(self.classes), n_samples=self.n_samples)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with before training goes on from it."""
        return {
            "classes": list(self.classes),
            "n_samples": self.n_samples,
            "clips": runs.fingerprint(self.corpus.digests(self.clips)),
            "tail": self.epoch.tail,
            "held_out": [self.clips[i].path for i in self.held_out],
            "settings": runs.fingerprint(settings(of_any_length(self.config), TRAINING_SECTIONS)),
            "pretrained": self.pretrained and self.pretrained.digest,
            "pseudo": self.corpus.pseudo and runs.fingerprint(self.corpus.pseudo.classes),
        }


def of_any_length(config: Config) -> Config:
    """The configuration with one epoch, to compare others with: a training may be made longer."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1))


def plan(config: Config, corpus: Corpus) -> Plan:
    """Choose clips, classes, length, devices and batches; raise what stands in the way."""
    config, pretrained = _resolve(config)
    clips = dcase.training_clips(corpus.dataset, config.dataset)
    names = corpus.classes(clips, config.dataset.label)
    classes = tuple(sorted({*names}))
    index = {name: i for i, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], np.int32)
    n_samples = audio.clip_samples(config.audio, corpus.headers.values())
    _require_length(config, n_samples)
    devices = parallel.local_devices(config.train.devices)
    everywhere = len(devices) * parallel.process()[1]
    parallel.check_batch(config.train.batch_size, everywhere, config.train.accumulate)
    share = 0 if config.model.trains_nothing else config.train.validation
    chosen = held_out.choose([clip.path for clip in clips], labels, share, config.seed)
    epoch = batches.plan_epoch(
        len(clips) - len(chosen),
        config.train.batch_size,
        everywhere,
        config.train.drop_last,
        config.train.accumulate,
    )
    notes = list(epoch.notes)
    if len(classes) == 1 and not config.model.trains_nothing:
        if not config.train.allow_one_class:
            raise ConfigError(_one_class(clips, classes[0], config.dataset.label))
        notes.append(f"all training clips are of one class ({classes[0]}): nothing is learned")
    notes += _lone_clips(labels, classes, config)
    notes += _far_lengths(clips, corpus, n_samples, config)
    if config.augment.spec_augment.probability and not config.model.augmentations(config.augment):
        notes.append(f"augment.spec_augment: {config.model.name} does not apply it")
    if share < config.train.validation:
        notes.append("train.validation: nothing is trained, and so nothing is held out")
    work = Plan(
        config=config,
        corpus=corpus,
        clips=clips,
        classes=classes,
        labels=labels,
        n_samples=n_samples,
        devices=devices,
        epoch=epoch,
        pretrained=pretrained,
        notes=(),
        held_out=tuple(chosen.tolist()),
    )
    warmup = config.optim.warmup_steps
    if 0 < work.steps <= warmup:
        notes.append(
            f"training ends after {work.steps} updates, before the warm-up of {warmup}: the "
            "learning rate never reaches optim.learning_rate"
        )
    if config.model.for_tests_only:
        notes.append(
            "model.random_init: the encoder starts from random weights, not from pretrained ones: "
            "for tests only"
        )
    return dataclasses.replace(work, notes=tuple(notes))


def require_possible(config: Config, corpus: Corpus) -> None:
    """Raise what stands in the way of training whatever the classes are, before they are made."""
    dataset = dataclasses.replace(config.dataset, label="machine_section")
    train = dataclasses.replace(config.train, allow_one_class=True, validation=0.0)
    plan(dataclasses.replace(config, dataset=dataset, train=train), corpus)


def _require_length(config: Config, n_samples: int) -> None:
    """Raise `AsdjaxError` if the network cannot process clips of this length."""
    rate, model = config.audio.sample_rate, config.model
    least = max(model.shortest, model.shortest_input(rate))
    if n_samples < least:
        raise ConfigError(
            f"audio.clip_seconds: clips of {n_samples} samples are too short for {model.name}, "
            f"which needs {least}: set it to {math.ceil(100 * least / rate) / 100:g} or more "
            "(shorter clips are repeated to that length)"
        )


def _one_class(clips: Sequence[dcase.Clip], name: str, chosen: str) -> str:
    """Why one class trains nothing, and the ways out."""
    labels = [
        label
        for label in get_args(get_type_hints(DatasetConfig)["label"])
        if label != chosen and (label == "pseudo" or len(dcase.class_names(clips, label)) > 1)
    ]
    other = f", set dataset.label to {' or '.join(labels)}" if labels else ""
    return (
        f"all {len(clips)} training clips are of one class ({name}), from which nothing is learned "
        f"(the loss is 0): use asdjax fit, which needs no training, add machines{other}, or take "
        "the recipe beats_frozen, which trains nothing (train.allow_one_class trains all the same)"
    )


def _lone_clips(labels: np.ndarray, classes: Sequence[str], config: Config) -> list[str]:
    """Which classes have a single training clip."""
    alone = np.flatnonzero(np.bincount(labels) == 1)
    if not len(alone) or config.model.trains_nothing:
        return []
    ways = {"machine_section": "add clips", "pseudo": "lower dataset.pseudo.clusters"}
    way = ways.get(config.dataset.label, "set dataset.label to a coarser one")
    return [
        f"{len(alone)} of {len(classes)} classes have a single training clip, which is learned by "
        f"heart (the first: {classes[alone[0]]}): {way}"
    ]


def _far_lengths(
    clips: Sequence[dcase.Clip], corpus: Corpus, n_samples: int, config: Config
) -> list[str]:
    """Where the length of the clips is far from that of their files."""
    if corpus.dataset.edition == OWN:
        return _shares_of_lengths(clips, corpus, n_samples, config)
    shortest = min(corpus.headers[clip.path].frames for clip in clips)
    longest = max(corpus.headers[clip.path].frames for clip in clips)
    rate = config.audio.sample_rate
    if n_samples > 1.25 * longest and longest < config.model.shortest_input(rate):
        return [
            f"audio.clip_seconds: the longest clip has {longest / rate:g} s, and every clip is "
            f"repeated to {n_samples / rate:g} s, as the network needs"
        ]
    if n_samples > 1.25 * longest:
        return [
            f"audio.clip_seconds: the longest clip has {longest / rate:g} s, and every clip is "
            f"repeated to {n_samples / rate:g} s: set audio.clip_seconds to auto for its own length"
        ]
    if n_samples > 0.75 * shortest:
        return []
    return [
        f"audio.clip_seconds: the shortest clip has {shortest / rate:g} s, and of every clip only "
        f"the first {n_samples / rate:g} s are scored: set audio.clip_seconds to auto for all of it"
    ]


def _shares_of_lengths(
    clips: Sequence[dcase.Clip], corpus: Corpus, n_samples: int, config: Config
) -> list[str]:
    """How many recordings of a user's own are much shorter or longer than the clips."""
    frames = np.array([corpus.headers[clip.path].frames for clip in clips])
    seconds = f"{n_samples / config.audio.sample_rate:g} s"
    shares = {
        f"shorter than three quarters of {seconds}, and repeated": frames < 0.75 * n_samples,
        f"longer than {seconds} by a quarter or more, and only {seconds} of each are used at a "
        "time": frames > 1.25 * n_samples,
    }
    return [
        f"audio.clip_seconds: {100 * share.mean():.0f} % of the training clips are {what}"
        for what, share in shares.items()
        if share.any()
    ]


def _resolve(config: Config) -> tuple[Config, Weights | None]:
    """A recipe with the architecture of its pretrained weights, and these."""
    model, weights = config.model.resolved()
    resolved = dataclasses.replace(config, model=model)
    validate(resolved, "model.weights")
    return resolved, weights
