"""A synthetic two-channel corpus of machine sounds with the layout and names of DCASE 2026 Task 2.

The same settings give the same bytes (samples may differ by one 16-bit step between processors).
Each clip has its own random stream, seeded by the corpus seed and the clip's identity: adding clips
or machines does not change the others. The sounds are made in machine.py.
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
from asdjax.errors import ArtifactError, AsdjaxError, UsageError
from asdjax.files import atomic, documents, user_files
from asdjax.runtime import console
from asdjax.synth.machine import (
    PROFILES,
    SAMPLE_RATE,
    Domain,
    Label,
    Machine,
    Split,
    stream,
)

_IDENTITY = "synth.json"  # in each machine's folder: the settings of its corpus
_GROUND_TRUTH = "ground_truth_{}_section_00_test.csv"
_LARGEST_TRUTH = 2**24  # bytes
_ATTRIBUTES = "attributes_00.csv"
_RECIPE = 1  # version: incremented if the same settings give other sounds


@dataclasses.dataclass(frozen=True)
class SynthClip:
    """One clip of the corpus, and its file."""

    machine: str
    split: Split
    domain: Domain
    label: Label
    index: int
    """Number within split, domain and label, from 0."""
    path: Path
    """<machine>/<split>/<name>.wav, relative to the root."""
    attributes: tuple[tuple[str, str], ...]
    """Key and value pairs in the order of the file name; empty if the name hides them."""


@dataclasses.dataclass(frozen=True)
class SynthSummary:
    """The result of `write`."""

    written: tuple[str, ...]
    """Machines whose folders were created or replaced."""
    kept: tuple[str, ...]
    """Machines whose folders already contained the same corpus."""
    clips: int
    """Number of clips in the corpus, written and kept."""


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
    """The sounds of the machine and of the environment in a clip, near then far, full scale 1.

    The clip is their sum, rounded to 16 bits. With both parts, noise reduction can be evaluated.
    """
    machine = _machine(clip.machine, config)
    spectra = machine.spectra(clip.split, clip.domain, clip.label, clip.index)
    return machine.waveform(spectra[0]), machine.waveform(spectra[1])


def write(root: Path, config: SynthConfig) -> SynthSummary:
    """Write the corpus as <root>/<machine>/{train,test}/*.wav, PCM 16 bit, 16 kHz, near and far.

    Each machine's folder is written atomically; a folder that already has the same corpus is kept.
    With `config.ground_truth`, the labels of evaluation machines are written to
    <root>/supplemental/ground_truth_{data,domain}/ground_truth_<machine>_section_00_test.csv.

    Raises:
        AsdjaxError: a setting is invalid, a machine's folder has other content (without
            `config.overwrite`, or not from this command), or a file cannot be written.

    Example:
        >>> write(Path("data"), SynthConfig(machines=("fan",))).clips
        210
    """
    _validate(config)
    kept = tuple(name for name in config.machines if _holds_same(root / name, config))
    for name in config.machines:
        if config.ground_truth or (name not in kept and (root / name).is_dir()):
            _require_own_ground_truth(root, name, config)
    written = tuple(name for name in config.machines if name not in kept)
    total = sum(1 for name in written for _ in _machine_clips(name, config))
    with console.progress("writing", total, "clips", minor=True) as advance:
        for name in config.machines:
            if name in kept:
                atomic.clear_abandoned(root / name)
            else:
                _write_machine(root, name, config, advance)
            if config.ground_truth and PROFILES[name].evaluation:
                _write_ground_truth(root, name, config)
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
            raise UsageError(f"synth: unknown machine {name!r}: choose from {', '.join(PROFILES)}")
    if not config.machines or len(set(config.machines)) < len(config.machines):
        raise UsageError("synth: machines: give at least one machine, and each only once")


def _machine_clips(name: str, config: SynthConfig) -> Iterator[SynthClip]:
    profile = PROFILES[name]
    counts: dict[Domain, int] = {"source": config.train_source, "target": config.train_target}
    for domain, count in counts.items():
        for index in range(count):
            yield _clip(name, "train", domain, "normal", index, f"{index:04d}")
    cells = list(itertools.product(get_args(Domain), get_args(Label)))
    for index in range(config.test_per_cell):
        # consecutive numbers across cells: blocks of four, one per cell in random order
        order = stream(config.seed, name, "order", index).permutation(4)
        for cell, (domain, label) in enumerate(cells):
            across = profile.numbered_across or profile.evaluation
            number = 4 * index + order[cell] if across else index
            yield _clip(name, "test", domain, label, index, f"{number:04d}")


def _clip(
    name: str, split: Split, domain: Domain, label: Label, index: int, number: str
) -> SynthClip:
    profile = PROFILES[name]
    text = profile.attribute_text(domain, index)
    if (name, split, domain, label) == ("gearboxEmu", "test", "target", "normal"):
        text = text.replace("pro_Y", "pro_y")  # as in the real data set
    words = text.split("_") if text else []
    stem = f"section_00_{domain}_{split}_{label}_{number}_{text or 'noAttribute'}"
    if profile.evaluation and split == "test":
        stem, words = f"section_00_{number}", []
    path = Path(name, split, f"{stem}.wav")
    return SynthClip(
        name, split, domain, label, index, path, tuple(zip(words[::2], words[1::2], strict=True))
    )


def is_synthetic(machine: Path) -> bool:
    """Whether a machine's folder was written by `write`."""
    return (machine / _IDENTITY).is_file()


def _write_machine(root: Path, name: str, config: SynthConfig, advance: console.Advance) -> None:
    """Write a machine's folder atomically."""
    place = root / name
    machine, todo = _machine(name, config), list(_machine_clips(name, config))

    def check() -> None:
        if _holds_same(place, config):
            raise ArtifactError(f"{place}: another process just wrote it: run the command again")

    def write_clip(made: Path, clip: SynthClip) -> None:
        spectra = machine.spectra(clip.split, clip.domain, clip.label, clip.index)
        sound = machine.waveform(spectra[0] + spectra[1])
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
                advance(1, name)
        atomic.write_bytes(made / _ATTRIBUTES, _attributes_csv(todo).encode())
        atomic.write_bytes(made / _IDENTITY, json.dumps(_identity(config), indent=1).encode())
        if place.is_dir():
            for path in _ground_truth(root, name).values():  # labels of the replaced clips
                atomic.delete(path)


def _identity(config: SynthConfig) -> dict[str, Any]:
    """The settings that a machine's files depend on."""
    settings = dataclasses.asdict(config)
    for key in ("machines", "ground_truth", "overwrite"):
        del settings[key]
    return {"made_by": "asdjax synth", "recipe": _RECIPE, **settings}


def _holds_same(place: Path, config: SynthConfig) -> bool:
    """Whether a machine's folder has this corpus; `AsdjaxError` if it must not be replaced."""
    with atomic.writing(place):
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return False
    identity = None
    with suppress(AsdjaxError):  # none, or one of another program
        identity = documents.read_json(place / _IDENTITY)
    if not isinstance(identity, dict) or identity.get("made_by") != _identity(config)["made_by"]:
        raise ArtifactError(
            f"{place}: exists and was not made by asdjax synth: give another folder"
        )
    size = 44 + 4 * round(config.seconds * SAMPLE_RATE)
    expected = {place.parent / clip.path: size for clip in _machine_clips(place.name, config)}
    with atomic.writing(place):  # another process may be replacing it
        found = {path: path.stat().st_size for path in place.glob("*/*.wav")}
    if identity == _identity(config) and found == expected:
        return True
    if config.overwrite:
        atomic.refuse_foreign(atomic.foreign(place, _written(place, identity)), "--overwrite")
        return False
    raise ArtifactError(
        f"{place}: has a corpus with other settings, or with missing or added files: choose "
        "another folder, or use --overwrite to replace it"
    )


def _written(place: Path, identity: dict[str, Any]) -> set[Path]:
    """The files that `write` wrote into a machine's folder, by the settings stored there."""
    config = _stored(place, identity)
    clips = {place.parent / clip.path for clip in _machine_clips(place.name, config)}
    return {place / _IDENTITY, place / _ATTRIBUTES, *clips}


def _stored(place: Path, identity: dict[str, Any]) -> SynthConfig:
    """The settings that a machine's folder was written with; `AsdjaxError` if they are invalid."""
    stored = {key: value for key, value in identity.items() if key not in ("made_by", "recipe")}
    file = place / _IDENTITY
    config = schema.read(SynthConfig, {**stored, "machines": [place.name]}, "", str(file))
    schema.check(SynthConfig, config, "", str(file))
    return config


def _attributes_csv(todo: list[SynthClip]) -> str:
    """The content of attributes_00.csv: the clips whose names state domain and label."""
    named = [clip for clip in todo if clip.path.stem.count("_") > 2]
    width = max(len(clip.attributes) for clip in named)
    header = ["file_name", *(f"d{i + 1}{kind}" for i in range(width) for kind in "pv")]
    rows = [[str(clip.path.as_posix()), *sum(clip.attributes, ())] for clip in named]
    return "".join(",".join(row) + "\n" for row in [header, *rows])


def _write_ground_truth(root: Path, name: str, config: SynthConfig) -> None:
    """Write the labels and domains of an evaluation machine's test clips: file name, 0 or 1."""
    for kind, path in _ground_truth(root, name).items():
        atomic.write_bytes(path, _ground_truth_csv(kind, name, config))


def _ground_truth_csv(kind: str, name: str, config: SynthConfig) -> bytes:
    one = {"data": "anomaly", "domain": "target"}[kind]
    tested = sorted(
        (clip for clip in _machine_clips(name, config) if clip.split == "test"),
        key=lambda clip: clip.path,
    )
    rows = [
        f"{clip.path.name},{int((clip.label if kind == 'data' else clip.domain) == one)}\n"
        for clip in tested
    ]
    return "".join(rows).encode()


def _require_own_ground_truth(root: Path, name: str, config: SynthConfig) -> None:
    """Refuse links, and labels that were not written for the machine's folder or this corpus."""
    place = root / name
    possible = [config]
    with suppress(AsdjaxError):  # no such folder
        possible.append(_stored(place, documents.read_json(place / _IDENTITY)))
    for kind, path in _ground_truth(root, name).items():
        for part in (path.parent.parent, path.parent, path):
            if part.is_symlink():
                raise ArtifactError(
                    f"{part}: is a link, through which synth does not write: name another folder"
                )
        if not os.path.lexists(path):
            continue
        content = user_files.read_bytes(path, most=_LARGEST_TRUTH)
        if content not in [_ground_truth_csv(kind, name, settings) for settings in possible]:
            raise ArtifactError(f"{path}: not written by asdjax synth: move it away")


def _ground_truth(root: Path, name: str) -> dict[str, Path]:
    """The files of an evaluation machine's labels (data) and domains (domain)."""
    return {
        kind: root / "supplemental" / f"ground_truth_{kind}" / _GROUND_TRUTH.format(name)
        for kind in ("data", "domain")
    }
