"""DCASE Challenge Task 2 data sets: file names, clips, class labels, selection.

All of it is read from file names; `audio.check` opens the files. A clip is identified by its path
relative to the data set's root, because clip numbers repeat within a machine.
"""

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from asdjax.config.recipe import DatasetConfig, ProblemKind, Subset
from asdjax.data.editions import find_edition, too_old
from asdjax.data.folders import SPLITS, Unused, machine_folders, unused
from asdjax.errors import AsdjaxError, DataError

Split = Literal["train", "test"]
Domain = Literal["source", "target"]
Label = Literal["normal", "anomaly"]


@dataclasses.dataclass(frozen=True, slots=True)
class Clip:
    """One audio file, described by its path."""

    path: str
    """Path relative to the data set's root, with forward slashes; identifies the clip."""
    machine: str
    """Name of the machine's folder; Unicode in composed form (NFC), as in `attributes`."""
    section: str
    """Two digits."""
    split: Split
    domain: Domain | None
    """None for evaluation test clips."""
    label: Label | None
    """None for evaluation test clips."""
    attributes: str
    """Attribute text of the file name, empty if hidden; `attribute_pairs` splits it."""
    subset: Subset
    channel: int | None = None
    """The channel of the file that the clip is, counted from 1; None: by `audio.channel`."""

    @property
    def name(self) -> str:
        """The file name with its extension."""
        return self.path.rpartition("/")[2]


@dataclasses.dataclass(frozen=True, order=True)
class Problem:
    """A fault of a file or a folder."""

    path: str
    kind: ProblemKind
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}: {self.reason}"


class FaultyFile(AsdjaxError):
    """A file that cannot be used; `problem` has the reason."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The clips of a data set, sorted by path, and the faults found by its file names."""

    root: Path
    edition: str
    clips: tuple[Clip, ...]
    problems: tuple[Problem, ...]
    unused: tuple[Unused, ...] = ()
    """Folders with audio that is not read; those that look like clips are also in `problems`."""
    manifest: Path | None = None
    """The table that lists the clips, if there is one."""

    @property
    def source(self) -> Path:
        """What a user gives as --data: the root, or the manifest."""
        return self.manifest or self.root


_LABELLED = re.compile(
    r"section_(?P<section>[0-9]{2})_(?P<domain>source|target)_(?P<split>train|test)"
    r"_(?P<label>normal|anomaly)_[0-9]{4}(?:_(?P<attributes>.*))?"
)
_UNLABELLED = re.compile(r"section_(?P<section>[0-9]{2})_[0-9]{4}")
_EDITION_2020 = re.compile(r"(?:(?:normal|anomaly)_)?id_[0-9]{2}_[0-9]{8}")
_EDITION_2021 = re.compile(r"section_[0-9]{2}_(?:source|target)_test_[0-9]{4}")
_LONGEST_NAME = 180  # bytes of a machine's name; files of results have up to 60 more
_HIDDEN = "noAttribute"  # replaces attributes that the organisers withhold
_NOT_IN_NAMES = frozenset(("Zs", "Ps", "Pe"))  # Unicode categories of spaces and brackets


def parse_clip(path: str, edition: str) -> Clip:
    """The clip at a path `.../<machine>/<train or test>/<file name>`.

    The subset follows from the first folder if it is `dev_data` or `eval_data`, else from the
    edition's list of machines. For a machine that is not listed, it is evaluation if the name has
    no label.

    Args:
        path: path relative to the data set's root, with forward slashes.
        edition: name of the edition.

    Raises:
        FaultyFile: the name does not follow the edition's pattern or contradicts its folder.

    Example:
        >>> parse_clip("fan/test/section_00_source_test_normal_0001_m-n_2.wav", "dcase2026").label
        'normal'
    """

    def misnamed(reason: str) -> FaultyFile:
        return FaultyFile(Problem(path, "misnamed", reason))

    *parents, machine, split, name = path.split("/")
    if not path.isprintable():
        raise misnamed("the name contains unprintable characters")
    stem, extension = os.path.splitext(unicodedata.normalize("NFC", name))
    machine = unicodedata.normalize("NFC", machine)
    if extension.lower() != ".wav":
        raise misnamed("the name does not end in .wav")
    match = _LABELLED.fullmatch(stem) or (split == "test" and _UNLABELLED.fullmatch(stem))
    if not match:
        number = " or section_NN_NNNN.wav" if split == "test" else ""
        raise misnamed(
            f"expected section_NN_<source or target>_{split}_<normal or anomaly>_NNNN"
            f"_<attributes>.wav{number}"
        )
    fields: dict[str, Any] = {"domain": None, "label": None, "attributes": None, "split": split}
    fields |= match.groupdict()
    if fields["split"] != split:
        raise misnamed(f"the name says {fields['split']}, the folder {split}")
    if split == "train" and fields["label"] == "anomaly":
        raise misnamed("the name says anomaly, but training clips are normal")
    attributes = fields["attributes"] or ""
    if any(c == "~" or unicodedata.category(c) in _NOT_IN_NAMES for c in attributes):
        raise misnamed("spaces, brackets or ~ in the name: remove the file if it is a copy")
    if attributes.startswith(_HIDDEN) and attributes != _HIDDEN:
        raise misnamed(f"text after {_HIDDEN}: remove the file if it is a copy")
    facts = find_edition(edition)
    sections = facts.sections
    if fields["section"] not in sections:
        raise misnamed(
            f"section {fields['section']} is not in {edition} (sections {', '.join(sections)})"
        )
    known = facts.is_evaluation(machine, fields["section"])
    if parents[:1] in (["dev_data"], ["eval_data"]):
        evaluation = parents[0] == "eval_data"
    elif known is not None:
        evaluation = known
    else:
        evaluation = fields["label"] is None
    return Clip(
        path=path,
        machine=machine,
        section=fields["section"],
        split=fields["split"],
        domain=fields["domain"],
        label=fields["label"],
        attributes="" if attributes == _HIDDEN else attributes,
        subset=_subset(split, evaluation),
    )


def attribute_pairs(attributes: str) -> tuple[tuple[str, str], ...]:
    """The (key, value) pairs of an attribute text, in order.

    A key may repeat (`mic_2_mic_1`). The value of a last key without one is empty.

    Example:
        >>> attribute_pairs("pro_A_vel_6")
        (('pro', 'A'), ('vel', '6'))
    """
    parts = attributes.split("_") if attributes else []
    return tuple(zip(parts[::2], [*parts[1::2], ""], strict=False))


def attributes_of(path: str) -> str:
    """The attributes in a clip's file name, empty if there are none.

    Example:
        >>> attributes_of("fan/train/section_00_source_train_normal_0001_m-n_2.wav")
        'm-n_2'
    """
    name = path.rpartition("/")[2].rpartition(".")[0]
    parts = name.split("_")
    is_clip = name.startswith("section_") and len(parts) > 6
    return "_".join(parts[6:]) if is_clip else ""


def scan(root: Path, edition: str) -> Dataset:
    """Find the clips under a root by their names; no file is opened.

    Clips are in `<machine>/train/*.wav` and `<machine>/test/*.wav`, below the root or below
    `dev_data/raw` and `eval_data/raw` (also without `raw`). Hidden files are ignored. Other audio
    is listed in `unused`, and also in `problems` if it looks like a machine's clips.

    Raises:
        AsdjaxError: no clips, an edition before 2022, one machine in two folders, a machine's name
            that results cannot have, or a folder that cannot be listed.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    try:
        if not root.is_dir():
            state = "not a folder" if root.exists() else "no such folder"
            raise DataError(f"{root}: {state}: give the root of a data set")
        machines = machine_folders(root)
        leftover = unused(root, machines)
        for folder in machines:
            check_machine_name(folder.name, folder)
            found, faults = _scan_machine(root, folder, edition)
            clips += found
            problems += faults
            name = folder.relative_to(root).as_posix()
            listed = any(u.lost and f"{u.folder}/".startswith(f"{name}/") for u in leftover)
            if not (found or faults or listed):
                why = "its folders train and test contain no audio: unpack it again, or remove it"
                leftover.append(Unused(name, 0, why, lost=True))
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}): make it readable, or name "
            "another folder"
        ) from error
    lost = [u for u in leftover if u.lost]
    if not clips and not problems:
        hint = "".join(f" ({u.folder}: {u})" for u in (lost or leftover)[:1])
        if any(os.path.isdir(root / split) for split in SPLITS):
            hint = " (this looks like one machine's folder: give its parent)"
        raise DataError(
            f"{root}: no clips found{hint}: expected <machine>/train/*.wav and "
            f"<machine>/test/*.wav there, in dev_data/raw or in eval_data/raw"
        )
    _refuse_duplicates(root, clips)
    clips.sort(key=lambda clip: clip.path)
    problems += [Problem(u.folder, "unused", str(u)) for u in lost]
    return Dataset(root, edition, tuple(clips), tuple(sorted(problems)), tuple(sorted(leftover)))


def check_machine_name(name: str, where: object) -> None:
    """Refuse names of machines that results cannot have; `DataError`, which begins with `where`."""
    if name == "all":
        raise DataError(
            f"{where}: a machine cannot be called all, which is the name of the mean over all "
            "machines in metrics.csv: rename it"
        )
    if name.startswith(".") or "/" in name or "\0" in name:
        raise DataError(f"{where}: {name!r} cannot be a machine's name: rename it, without . or /")
    normal = unicodedata.normalize("NFC", name)  # as results spell it
    if max(len(os.fsencode(text)) for text in (name, normal)) > _LONGEST_NAME:
        raise DataError(
            f"{where}: the machine's name is too long for files of results (more than "
            f"{_LONGEST_NAME} bytes): rename it"
        )


def class_name(clip: Clip, label: str) -> str:
    """The class of a training clip: machine/section, with attributes and domain by `label`.

    Args:
        clip: a training clip; scores must not depend on a test clip's attributes or domain.
        label: a value of `DatasetConfig.label`.

    Raises:
        ValueError: a test clip.
    """
    if clip.split != "train":
        raise ValueError(f"{clip.path}: only training clips have a class")
    parts = [clip.machine, clip.section]
    if label != "machine_section":
        parts.append(clip.attributes or _HIDDEN)
    if label == "machine_section_attributes_domain":
        parts.append(clip.domain or "")
    return "/".join(parts)


def class_names(clips: Iterable[Clip], label: str) -> tuple[str, ...]:
    """All classes of the training clips, sorted; a class's id is its index."""
    return tuple(sorted({class_name(clip, label) for clip in clips}))


def training_clips(dataset: Dataset, config: DatasetConfig) -> tuple[Clip, ...]:
    """The clips that train the embedder, sorted by path.

    Raises:
        AsdjaxError: there are no such clips, or none of a machine in `train_machines`.
    """
    clips = [c for c in dataset.clips if c.split == "train" and c.subset in config.train_subsets]
    return _of_machines(dataset, clips, "train", config.train_subsets, config.train_machines)


@dataclasses.dataclass(frozen=True)
class ScoredMachine:
    """A machine to score."""

    train: tuple[Clip, ...]
    """The machine's training clips of the scored sections: the backend's references."""
    test: tuple[Clip, ...]


def scored_machines(dataset: Dataset, config: DatasetConfig) -> dict[str, ScoredMachine]:
    """The machines whose test clips are scored, by name in sorted order.

    References are the machine's training clips, also if the embedder is trained on others.

    Raises:
        AsdjaxError: there are no such clips, none of a machine in `score_machines`, or no training
            clips of a section that has test clips.
    """
    tested = [c for c in dataset.clips if c.split == "test" and c.subset in config.score_subsets]
    clips = _of_machines(dataset, tested, "score", config.score_subsets, config.score_machines)
    scored = {}
    for machine in sorted({c.machine for c in clips}):
        test = tuple(c for c in clips if c.machine == machine)
        sections = {c.section for c in test}
        train = tuple(
            c
            for c in dataset.clips
            if c.machine == machine and c.split == "train" and c.section in sections
        )
        for section in sorted(sections - {c.section for c in train}):
            raise DataError(
                f"{dataset.root}: {machine} section {section} has test clips but no training "
                f"clips to compare them with: add its train folder, or leave the machine out of "
                f"dataset.score_machines"
            )
        scored[machine] = ScoredMachine(train, test)
    return scored


def require_clean(
    dataset: Dataset, skip: Collection[ProblemKind]
) -> tuple[Dataset, dict[ProblemKind, int]]:
    """The data set without the files whose problems may be skipped.

    Args:
        dataset: the result of `scan`, perhaps with further problems.
        skip: the kinds of problems whose files are left out.

    Returns:
        The data set without these files, and the number of files left out by kind.

    Raises:
        AsdjaxError: problems of other kinds; the message has the first three.
    """
    refused = [p for p in dataset.problems if p.kind not in skip]
    if refused:
        kinds = Counter(p.kind for p in refused)
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))
        first = "; ".join(map(str, refused[:3])) + ("; ..." if len(refused) > 3 else "")
        raise DataError(
            f"{dataset.root}: faulty files ({counts}): {first}: repair them, or leave them out "
            f"with --dataset.skip {' '.join(sorted({*kinds, *skip}))}"
        )
    faulty = {p.path for p in dataset.problems}
    clips = tuple(c for c in dataset.clips if c.path not in faulty)
    skipped = Counter(p.kind for p in dataset.problems)
    return dataclasses.replace(dataset, clips=clips, problems=()), dict(sorted(skipped.items()))


def _subset(split: str, evaluation: bool) -> Subset:
    if not evaluation:
        return "development"
    return "additional" if split == "train" else "evaluation"


def _scan_machine(root: Path, folder: Path, edition: str) -> tuple[list[Clip], list[Problem]]:
    clips, problems = [], []
    inside = folder.relative_to(root).as_posix()
    if not inside.isprintable():
        reason = "the folder's name contains unprintable characters: rename it"
        return [], [Problem(inside, "misnamed", reason)]
    for split in SPLITS:
        if not (folder / split).is_dir():
            continue
        seen: dict[str, str] = {}
        with os.scandir(folder / split) as entries:
            regular = {entry.name: _is_regular(entry) for entry in entries}
        for name in sorted(regular):
            stem, extension = os.path.splitext(unicodedata.normalize("NFC", name))
            if name.startswith(".") or extension.lower() != ".wav":
                continue
            if _EDITION_2020.fullmatch(stem):
                raise too_old(folder / split / name, 2020)
            if _EDITION_2021.fullmatch(stem):
                raise too_old(folder / split / name, 2021)
            path = f"{inside}/{split}/{name}"
            try:
                if not regular[name]:
                    reason = "not a regular file or a link to one: restore or remove it"
                    raise FaultyFile(Problem(path, "unreadable", reason))
                clip = parse_clip(path, edition)
                if stem in seen:
                    reason = f"the same name as {seen[stem]}, encoded differently: keep one"
                    raise FaultyFile(Problem(path, "misnamed", reason))
            except FaultyFile as fault:
                problems.append(fault.problem)
                continue
            seen[stem] = name
            clips.append(clip)
    name = unicodedata.normalize("NFC", folder.name)
    if folder.parent == root and name not in find_edition(edition).machines:
        # Subset of an unknown machine: evaluation if none of its test clips has a label.
        labels = [c.label for c in clips if c.split == "test"]
        evaluation = bool(labels) and not any(labels)
        clips = [dataclasses.replace(c, subset=_subset(c.split, evaluation)) for c in clips]
    return clips, problems


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a regular file or a link to one; nothing is opened."""
    try:
        return entry.is_file()
    except OSError:  # a link to itself, or into a folder without permission
        return False


def _refuse_duplicates(root: Path, clips: list[Clip]) -> None:
    """Refuse a section of a machine that has clips in two machine folders."""
    folders: dict[tuple[str, str], str] = {}
    for clip in clips:
        folder = clip.path.rsplit("/", 2)[0]
        first = folders.setdefault((clip.machine.casefold(), clip.section), folder)
        if first != folder:
            raise DataError(
                f"{root}: {clip.machine} section {clip.section} is in both {first} and {folder}: "
                f"move all its clips to one of them"
            )


def _of_machines(
    dataset: Dataset,
    clips: list[Clip],
    verb: Literal["train", "score"],
    subsets: tuple[str, ...],
    machines: tuple[str, ...],
) -> tuple[Clip, ...]:
    """The clips of the named machines, or of all machines if none is named."""
    split = {"train": "training", "score": "test"}[verb]
    choices = sorted({c.machine for c in clips})
    if not choices:
        raise DataError(
            f"{dataset.root}: no {split} clips in the subsets of dataset.{verb}_subsets "
            f"({', '.join(subsets) or 'none'}): the data set has "
            f"{', '.join(sorted({c.subset for c in dataset.clips})) or 'no usable clips'}"
        )
    machines = tuple(unicodedata.normalize("NFC", machine) for machine in machines)
    for machine in machines:
        if machine not in choices:
            raise DataError(
                f"dataset.{verb}_machines: {machine!r} has no {split} clips in the subsets "
                f"{', '.join(subsets)} of {dataset.root}: choose among {', '.join(choices)}"
            )
    return tuple(c for c in clips if not machines or c.machine in machines)
