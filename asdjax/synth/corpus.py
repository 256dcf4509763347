"""A synthetic two-channel machine-sound corpus in the layout and naming of DCASE 2026 Task 2.

The corpus is the same, byte for byte, whenever it is made from the same settings (across
processors at most one 16-bit step apart), and every clip draws from a stream of its own, which
hangs on the seed and on what the clip is: more clips or more machines leave the others as they
were. What it sounds like is in machinery.py.
"""

import dataclasses
import functools
import itertools
import json
import os
import wave
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float64

from asdjax.config import schema
from asdjax.config.recipe import SynthConfig
from asdjax.errors import AsdjaxError, UsageError
from asdjax.files import atomic
from asdjax.store import runs
from asdjax.synth.machine import (
    PROFILES,
    SAMPLE_RATE,
    Domain,
    Label,
    Machine,
    Split,
    stream,
)

_IDENTITY = "synth.json"  # in each machine's folder: the settings it was made with
_GROUND_TRUTH = "ground_truth_{}_section_00_test.csv"
_RECIPE = 1  # raised whenever the same settings give other sound


@dataclasses.dataclass(frozen=True)
class SynthClip:
    """One clip of the corpus: what it is, and the file that holds it."""

    machine: str
    split: Split
    domain: Domain
    label: Label
    index: int
    """Count within split, domain and label."""
    path: Path
    """<machine>/<split>/<name>.wav, relative to the root."""
    attributes: tuple[tuple[str, str], ...]
    """Key and value pairs in the order of the name; empty where they are hidden."""


@dataclasses.dataclass(frozen=True)
class SynthSummary:
    """What `write` did."""

    written: tuple[str, ...]
    """Machines whose folders were made or replaced."""
    kept: tuple[str, ...]
    """Machines whose folders held the same corpus already."""
    clips: int
    """Clips in the corpus, written and kept."""


def clips(config: SynthConfig) -> list[SynthClip]:
    """The clips that `config` describes, machine by machine.

    Raises:
        AsdjaxError: a machine is unknown or named twice, or a value is out of bounds.
    """
    _validate(config)
    return [clip for name in config.machines for clip in _machine_clips(name, config)]


def components(
    config: SynthConfig, clip: SynthClip
) -> tuple[Float64[np.ndarray, "2 T"], Float64[np.ndarray, "2 T"]]:
    """The machine's and the environment's part of a clip, near then far, full scale 1.

    Their sum is the clip before rounding to 16 bits: a measure of noise suppression can compare
    both parts before and after.
    """
    machine = _machine(clip.machine, config)
    own, environment = machine.spectra(clip.split, clip.domain, clip.label, clip.index)
    return machine.waveform(own), machine.waveform(environment)


def write(root: Path, config: SynthConfig) -> SynthSummary:
    """Write the corpus as <root>/<machine>/{train,test}/*.wav, PCM 16 bit, 16 kHz, near and far.

    A machine's folder is made whole under a hidden name and then renamed, so that no part of a
    corpus is ever taken for the whole; a folder that holds the same corpus already is kept.
    Labels of evaluation machines, where asked for, are <root>/supplemental/ground_truth_data and
    ground_truth_domain/ground_truth_<machine>_section_00_test.csv.

    Raises:
        AsdjaxError: a setting is wrong, a machine folder holds something else (and
            `config.overwrite` is false), or a file cannot be written.
    """
    _validate(config)
    kept = tuple(name for name in config.machines if _holds_same(root / name, config))
    for name in config.machines:
        if name not in kept:
            _write_machine(root, name, config)
        if config.ground_truth and PROFILES[name].evaluation:
            _write_ground_truth(root, name, config)
    written = tuple(name for name in config.machines if name not in kept)
    return SynthSummary(written, kept, len(clips(config)))


def _machine(name: str, config: SynthConfig) -> Machine:
    return Machine(
        name,
        seed=config.seed,
        seconds=config.seconds,
        noise_db=config.noise_db,
        leakage_db=config.leakage_db,
    )


def _validate(config: SynthConfig) -> None:
    try:
        schema.check(SynthConfig, config, "", "synth")
    except AsdjaxError as error:
        raise UsageError(str(error)) from error
    for name in config.machines:
        if name not in PROFILES:
            raise UsageError(f"synth: no machine {name!r}: choose from {', '.join(PROFILES)}")
    if not config.machines or len(set(config.machines)) < len(config.machines):
        raise UsageError("synth: machines: name at least one machine, and each of them once")


def _machine_clips(name: str, config: SynthConfig) -> Iterator[SynthClip]:
    profile = PROFILES[name]
    counts: dict[Domain, int] = {"source": config.train_source, "target": config.train_target}
    for domain, count in counts.items():
        for index in range(count):
            yield _clip(name, "train", domain, "normal", index, f"{index:04d}")
    cells = list(itertools.product(get_args(Domain), get_args(Label)))
    for index in range(config.test_per_cell):
        # Numbers across cells come in blocks of four, one of each cell, in an order of their own.
        place = stream(config.seed, name, "order", index).permutation(4)
        for cell, (domain, label) in enumerate(cells):
            across = profile.numbered_across or profile.evaluation
            number = 4 * index + place[cell] if across else index
            yield _clip(name, "test", domain, label, index, f"{number:04d}")


def _clip(
    name: str, split: Split, domain: Domain, label: Label, index: int, number: str
) -> SynthClip:
    profile = PROFILES[name]
    text = profile.attribute_text(domain, index)
    if (name, split, domain, label) == ("gearboxEmu", "test", "target", "normal"):
        text = text.replace("pro_Y", "pro_y")  # as in the real list
    words = text.split("_") if text else []
    stem = f"section_00_{domain}_{split}_{label}_{number}_{text or 'noAttribute'}"
    if profile.evaluation and split == "test":
        stem, words = f"section_00_{number}", []
    path = Path(name, split, f"{stem}.wav")
    return SynthClip(
        name, split, domain, label, index, path, tuple(zip(words[::2], words[1::2], strict=True))
    )


def _write_machine(root: Path, name: str, config: SynthConfig) -> None:
    """Make a machine's folder beside its place and move it there."""
    place = root / name
    machine, todo = _machine(name, config), list(_machine_clips(name, config))

    def check() -> None:
        if _holds_same(place, config):
            raise AsdjaxError(f"{place}: another process has just made it: give the command again")

    def write_clip(made: Path, clip: SynthClip) -> None:
        own, environment = machine.spectra(clip.split, clip.domain, clip.label, clip.index)
        sound = machine.waveform(own + environment)
        pcm = np.clip(np.rint(32768 * sound), -32768, 32767).astype("<i2")
        path = made / clip.path.relative_to(name)
        with atomic.writing(place), wave.open(str(path), "wb") as file:
            file.setparams((2, 2, SAMPLE_RATE, machine.samples, "NONE", ""))
            file.writeframes(np.ascontiguousarray(pcm.T).tobytes())

    with atomic.whole_folder(place, check) as made:
        with atomic.writing(place):
            for split in ("train", "test"):
                (made / split).mkdir()
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(functools.partial(write_clip, made), todo):
                pass
        atomic.write_bytes(made / "attributes_00.csv", _attributes_csv(todo).encode())
        atomic.write_bytes(made / _IDENTITY, json.dumps(_identity(config), indent=1).encode())
        if place.is_dir():
            for path in _ground_truth(root, name).values():  # it would not fit the new clips
                atomic.delete(path)


def _identity(config: SynthConfig) -> dict[str, Any]:
    """What decides a machine's files: of the settings, all but those about other files."""
    settings = dataclasses.asdict(config)
    for key in ("machines", "ground_truth", "overwrite"):
        del settings[key]
    return {"made_by": "asdjax synth", "recipe": _RECIPE, **settings}


def _holds_same(place: Path, config: SynthConfig) -> bool:
    """Whether the machine's folder holds this very corpus; false where it may be written."""
    with atomic.writing(place):
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return False
    identity = None
    with suppress(AsdjaxError):  # none, or one of another program
        identity = runs.read_json(place / _IDENTITY)
    if not isinstance(identity, dict) or identity.get("made_by") != _identity(config)["made_by"]:
        raise AsdjaxError(f"{place}: exists and was not made by asdjax synth: give another folder")
    size = 44 + 4 * round(config.seconds * SAMPLE_RATE)
    expected = {place.parent / clip.path: size for clip in _machine_clips(place.name, config)}
    with atomic.writing(place):  # another process may replace it meanwhile
        found = {path: path.stat().st_size for path in place.glob("*/*.wav")}
    if identity == _identity(config) and found == expected:
        return True
    if config.overwrite:
        return False
    raise AsdjaxError(
        f"{place}: holds a corpus of other settings, or with files missing or added: give another "
        "folder, or --overwrite to replace it"
    )


def _attributes_csv(todo: list[SynthClip]) -> str:
    """Attributes of the clips that tell their domain and label, as the organisers list them."""
    named = [clip for clip in todo if clip.path.stem.count("_") > 2]
    width = max(len(clip.attributes) for clip in named)
    header = ["file_name", *(f"d{i + 1}{kind}" for i in range(width) for kind in "pv")]
    rows = [[str(clip.path.as_posix()), *sum(clip.attributes, ())] for clip in named]
    return "".join(",".join(row) + "\n" for row in [header, *rows])


def _write_ground_truth(root: Path, name: str, config: SynthConfig) -> None:
    """Labels and domains of an evaluation machine's test clips: file name, 0 or 1."""
    tested = sorted(
        (clip for clip in _machine_clips(name, config) if clip.split == "test"),
        key=lambda clip: clip.path,
    )
    for kind, path in _ground_truth(root, name).items():
        one = {"data": "anomaly", "domain": "target"}[kind]
        rows = [
            f"{clip.path.name},{int((clip.label if kind == 'data' else clip.domain) == one)}\n"
            for clip in tested
        ]
        atomic.write_bytes(path, "".join(rows).encode())


def _ground_truth(root: Path, name: str) -> dict[str, Path]:
    """Where the labels (data) and the domains (domain) of an evaluation machine are written."""
    return {
        kind: root / "supplemental" / f"ground_truth_{kind}" / _GROUND_TRUTH.format(name)
        for kind in ("data", "domain")
    }
