"""Data sets of a user's own in folders: one folder per machine, with files of any name.

    pump7/normal/...            normal recordings (also train, good, ok, healthy)
    pump7/test/...              recordings to score
    pump7/test/normal/...       of known label: folders named as the normal ones, and all others
    pump7/test/leak/...
    pump7/anomaly/...           faulty recordings (also abnormal, faulty, defect, bad ...)

The names of further subfolders of normal recordings are their attributes. The root may be the
folder of a single machine.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from asdjax.data import audio, dcase, sound_search
from asdjax.data.dcase import Clip, Dataset, Label, Problem
from asdjax.data.editions import OWN
from asdjax.data.folders import Unused, is_folder
from asdjax.errors import DataError

NORMAL = frozenset("normal good ok healthy".split())
TRAIN = NORMAL | frozenset("train training".split())
TEST = frozenset("test tests testing".split())
ANOMALY = frozenset(
    "anomaly anomalies anomalous abnormal bad broken defect defective defects fault faults faulty "
    "ng".split()
)
"""Names of folders, in lower case."""

_DEEPEST = 3  # levels of folders below the root at which machines are looked for
_EXPECTED = (
    "expected a folder per machine with normal recordings in a folder normal (or train) and, to "
    "score them, others in a folder test"
)


def has_machines(root: Path) -> bool:
    """Whether there is a folder of a machine at or below a root."""
    return next(_machines(root), None) is not None


def scan(root: Path) -> Dataset:
    """The clips of a data set in folders, by their names; no file is opened.

    Raises:
        AsdjaxError: there are no machines, two machines have equal names, or a folder cannot be
            listed.
    """
    clips: list[Clip] = []
    problems: list[Problem] = []
    skipped: list[Unused] = []
    folders: dict[str, Path] = {}
    try:
        for folder in _machines(root):
            name = _name(root, folder)
            dcase.check_machine_name(name, folder)
            if (first := folders.setdefault(name.casefold(), folder)) != folder:
                raise DataError(
                    f"{root}: {folder} and {first} are both called {name}: rename one of them"
                )
            found, faults = _scan_machine(root, folder, name)
            clips += found
            problems += faults
            skipped += _skipped(root, folder)
        leftover = _unused(root, {clip.path for clip in clips} | {p.path for p in problems})
    except OSError as error:
        raise DataError(
            f"{error.filename}: cannot be listed ({error.strerror}): make it readable, or name "
            "another folder"
        ) from error
    if not clips and not problems:
        hint = "".join(f" ({u.folder}: {u})" for u in leftover[:1])
        raise DataError(f"{root}: no clips found{hint}: {_EXPECTED}")
    clips.sort(key=lambda clip: clip.path)
    return Dataset(root, OWN, tuple(clips), tuple(sorted(problems)), (*leftover, *skipped))


def _machines(root: Path) -> Iterator[Path]:
    """The folders that have a folder of normal recordings, sorted; none of them is in another.

    Links are followed, but no folder is visited twice.
    """
    level, seen = [root], {_identity(root)}
    for _ in range(_DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            inside = _folders(folder)
            if any(path.name.casefold() in TRAIN for path in inside):
                yield folder
                continue
            for path in inside:
                if (found := _identity(path)) not in seen:
                    seen.add(found)
                    below.append(path)
        level = below


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".") and is_folder(e)]
    return [folder / name for name in sorted(names)]


def _name(root: Path, folder: Path) -> str:
    """The name of a machine: of its folder, and of those between it and the root."""
    parts = folder.relative_to(root).parts or (Path(os.path.abspath(root)).name,)
    return unicodedata.normalize("NFC", "_".join(parts))


def _scan_machine(root: Path, folder: Path, machine: str) -> tuple[list[Clip], list[Problem]]:
    clips: list[Clip] = []
    problems: list[Problem] = []
    for part in _folders(folder):
        kind = part.name.casefold()
        if kind not in TRAIN | TEST | ANOMALY:
            continue
        files = list(_sounds(part))
        parents = {file.relative_to(part).parts[0] for file in files if file.parent != part}
        told_apart = any(name.casefold() in NORMAL | ANOMALY for name in parents)
        for file in files:
            path = file.relative_to(root).as_posix()
            if not path.isprintable() or path != path.encode(errors="replace").decode():
                reason = "the name has unprintable characters, or is not UTF-8: rename the file"
                problems.append(Problem(path, "misnamed", reason))
                continue
            inside = file.relative_to(part).parent.parts
            if kind in TRAIN:
                if any(name.casefold() in ANOMALY for name in inside):
                    reason = f"in a folder {part.name}, but training clips are normal: move it"
                    problems.append(Problem(path, "misnamed", reason))
                    continue
                plain = [name for name in inside if name.casefold() not in NORMAL]
                clips.append(clip(path, machine, "train", "normal", "-".join(plain)))
            else:
                label = "anomaly" if kind in ANOMALY else _label(inside, told_apart)
                if kind in ANOMALY and any(name.casefold() in NORMAL for name in inside):
                    reason = f"in a folder {part.name} and in one of normal recordings: move it"
                    problems.append(Problem(path, "misnamed", reason))
                    continue
                clips.append(clip(path, machine, "test", label, ""))
    return clips, problems


def clip(
    path: str,
    machine: str,
    split: dcase.Split,
    label: Label | None,
    attributes: str,
    *,
    section: str = "00",
    domain: dcase.Domain | None = None,
    channel: int | None = None,
) -> Clip:
    """A clip of a data set of a user's own; of the source domain if its label is known."""
    return Clip(
        path=path,
        machine=machine,
        section=section,
        split=split,
        domain=domain or (None if label is None else "source"),
        label=label,
        attributes=unicodedata.normalize("NFC", attributes),
        subset="development",
        channel=channel,
    )


def _label(inside: Sequence[str], told_apart: bool) -> Label | None:
    """The label of a test clip by its subfolder; None if the subfolders tell nothing."""
    if not (told_apart and inside):
        return None
    return "normal" if inside[0].casefold() in NORMAL else "anomaly"


def _sounds(folder: Path) -> Iterator[Path]:
    """The sound files in a folder and below, sorted; hidden ones and links to folders are not."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in audio.SUFFIXES:
                yield Path(parent, name)


def _skipped(root: Path, machine: Path) -> Iterator[Unused]:
    """What is no sound file in the folders of a machine's recordings, or is not looked into."""
    for part in _folders(machine):
        if part.name.casefold() not in TRAIN | TEST | ANOMALY:
            continue
        others: Counter[str] = Counter()
        for parent, folders, names in os.walk(part):
            hidden = [name for name in folders if name.startswith(".")]
            folders[:] = [name for name in folders if name not in hidden]
            others.update(sound_search.kind_of_skipped(name, folder=True) for name in hidden)
            others["link to a folder"] += sum(Path(parent, name).is_symlink() for name in folders)
            others.update(
                sound_search.kind_of_skipped(name, folder=False)
                for name in names
                if name.startswith(".") or Path(name).suffix.lower() not in audio.SUFFIXES
            )
        if +others:
            why = sound_search.skipped(+others)
            yield Unused(part.relative_to(root).as_posix(), 0, why, lost=False)


def _unused(root: Path, used: set[str]) -> list[Unused]:
    """The folders with sound files that belong to no machine."""
    others: Counter[str] = Counter()
    for file in _sounds(root):
        path = file.relative_to(root)
        if path.as_posix() not in used:
            others[path.parent.as_posix()] += 1
    why = "not in a folder normal, train, test or anomaly of a machine"
    return [Unused(folder, count, why, lost=False) for folder, count in sorted(others.items())]
