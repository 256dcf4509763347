"""Normal recordings of several machines or conditions, as classes to train a network on."""

import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from asdjax.config import recipe as configs
from asdjax.config.recipe import Config
from asdjax.data import audio, dcase, manifests, own_folders, sound_search
from asdjax.data.dcase import Clip, Dataset
from asdjax.data.editions import OWN
from asdjax.errors import DataError, UsageError

_LONGEST, _USUAL = 20.0, 10.0
"""Up to `_LONGEST` seconds, the median recording is one window; longer ones are cut into windows of
`_USUAL` seconds."""


def read(inputs: Sequence[Path]) -> Dataset:
    """The training clips of a manifest, or of a folder whose sub-folders are the conditions.

    A condition is an attribute of the clip. In a folder of machines (`own_folders`), the machines
    and the sub-folders of their normal recordings are told apart.

    Args:
        inputs: one manifest, or one folder.

    Raises:
        AsdjaxError: something else, or there is only one condition.
    """
    if len(inputs) != 1 or not (manifests.is_manifest(inputs[0]) or inputs[0].is_dir()):
        raise UsageError(
            "--train: name one folder whose sub-folders are the conditions or machines, or one "
            "table (CSV, Parquet) of recordings"
        )
    (source,) = inputs
    if manifests.is_manifest(source):
        dataset = manifests.read(source)
    elif own_folders.has_machines(source):
        dataset = own_folders.scan(source)
    else:
        clips = [_clip(source, path) for _, path in sound_search.find([source], "train on")]
        dataset = Dataset(source, OWN, tuple(sorted(clips, key=lambda clip: clip.path)), ())
    train = [clip for clip in dataset.clips if clip.split == "train"]
    classes = dcase.class_names(train, "machine_section_attributes")
    if len(classes) < 2:
        raise DataError(
            f"{source}: {len(train)} normal recordings of one condition: a network "
            "learns by telling conditions apart: put them into sub-folders, or omit --train"
        )
    return Dataset(dataset.root, OWN, tuple(train), dataset.problems, manifest=dataset.manifest)


def lengths(dataset: Dataset) -> list[float]:
    """The lengths of the clips in seconds; `AsdjaxError` if a file is faulty."""
    return [audio.inspect_any(dataset.root / clip.path).seconds for clip in dataset.clips]


def channel(dataset: Dataset, chosen: int | None) -> int:
    """The channel of all clips, counted from 1: the one that a table names, or the chosen one.

    Raises:
        AsdjaxError: the table names several, or another than the chosen one; or a network cannot
            use it.
    """
    named = {clip.channel for clip in dataset.clips}
    if named == {None}:
        if chosen not in (None, 1, 2):
            raise UsageError(f"--channel: a network uses channel 1 or 2, found {chosen}")
        return chosen or 1
    if len(named) > 1 or None in named:
        raise DataError(
            f"{dataset.source}: a detector has one channel, and the table names several: give one "
            "table for each channel"
        )
    (only,) = named
    assert only is not None
    if chosen not in (None, only):
        raise DataError(
            f"{dataset.source}: names channel {only}, --channel {chosen}: omit the option"
        )
    return only


def recipe(dataset: Dataset, clip_seconds: float | None, channel: int, seed: int) -> Config:
    """System 1's recipe for the clips of `read`, with the raw view alone.

    Args:
        dataset: the clips.
        clip_seconds: length of the clips; None: the median length, or 10 s if that is above 20 s,
            as for other detectors.
        channel: from `channel`.
        seed: of the training.

    Raises:
        AsdjaxError: a file is faulty, or an option is not possible.
    """
    if clip_seconds is None:
        clip_seconds = usual_clip(lengths(dataset))
    base = configs.load("system1")
    config = dataclasses.replace(
        base,
        seed=seed,
        dataset=dataclasses.replace(base.dataset, edition=OWN, label="machine_section_attributes"),
        audio=dataclasses.replace(
            base.audio, clip_seconds=clip_seconds, channel="far" if channel == 2 else "near"
        ),
        train=dataclasses.replace(
            base.train, batch_size=min(base.train.batch_size, len(dataset.clips))
        ),
        extract=Config().extract,
    )
    configs.validate(config, "fit --train")
    return config


def usual_clip(seconds: Sequence[float]) -> float:
    """The length of windows for recordings of these lengths: the median, if it is not too long."""
    median = statistics.median(seconds)
    return median if median <= _LONGEST else _USUAL


def _clip(root: Path, path: Path) -> Clip:
    """A normal recording in a folder; its condition is the first sub-folder."""
    sound_search.require_text(path)
    inside = path.relative_to(root)
    machine = Path(os.path.abspath(root)).name
    dcase.check_machine_name(machine, root)
    condition = inside.parts[0] if len(inside.parts) > 1 else ""
    return own_folders.clip(inside.as_posix(), machine, "train", "normal", condition)
