"""A data set's folders: those of its machines, and those with audio that nothing reads."""

import errno
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from asdjax.data.editions import too_old
from asdjax.errors import AsdjaxError
from asdjax.files import documents

SPLITS = ("train", "test")
_AUDIO = frozenset(
    ".aac .aif .aifc .aiff .amr .au .caf .flac .m4a .mp3 .oga .ogg .opus .rf64 .snd .w64 .wav "
    ".wave .wma".split()
)  # endings of audio files, whether or not asdjax could read them
_SPLIT_LIKE = re.compile(r"(?:^|[^a-z])(train|test)")
_CLIP_LIKE = re.compile(r"section_[0-9]{2}")
_CLIP = re.compile(
    r"section_[0-9]{2}_((source|target)_(train|test)_(normal|anomaly)_)?[0-9]{4}(?![0-9])"
)  # how a clip's name begins
_ARCHIVE = re.compile(
    r"\.(zipx?|7z|rar|tar(\.(gz|bz2|xz|zst|lz|lzma))?|tgz|tbz2?|txz|tzst|tlz)"
    r"(?P<piece>\.(part|partial|crdownload|download|[0-9]+))?$",
    re.I,
)  # how an archive's name ends, also of a part of it or of an unfinished download
_DOWNLOADED = re.compile(r"^(dev|eval(_data)?)_")  # how the challenge's archives' names begin
_MOST_NAMES = 200_000  # looked at outside the machines' own folders


@dataclass(frozen=True, order=True)
class Unused:
    """A folder with audio files that are not read."""

    folder: str
    """Path relative to the root, with forward slashes; "." is the root."""
    files: int
    """Its audio files that are not read, those in folders below it not counted."""
    why: str
    """The likely reason, and what to do."""
    lost: bool
    """Whether these look like clips of a machine, which would drop out."""

    def __str__(self) -> str:
        """Number of files and reason, without the folder."""
        count = {0: "", 1: "1 audio file is not read: "}
        return count.get(self.files, f"{self.files} audio files are not read: ") + self.why


def machine_folders(root: Path) -> list[Path]:
    """The folders below a root that hold a folder `train` or `test`, sorted in each base.

    Bases are the root itself, `dev_data`, `eval_data`, and `raw` in these two.

    Raises:
        AsdjaxError: data of 2021.
        OSError: a base cannot be listed.
    """
    found = []
    for base in _bases(root):
        for name in sorted(os.listdir(base)):
            folder = base / name
            if _passed_over(name) or name == "supplemental" or not os.path.isdir(folder):
                continue
            if any(os.path.isdir(folder / f"{domain}_test") for domain in ("source", "target")):
                raise too_old(folder, 2021)
            if any(os.path.isdir(folder / split) for split in SPLITS):
                found.append(folder)
    return found


def unused(root: Path, machines: Sequence[Path]) -> list[Unused]:
    """The folders below a root with audio files that no machine's `train` or `test` holds.

    Links are followed, but none to a folder that holds the root; each folder is entered once, and
    the search ends after 200,000 names. Hidden files and folders are passed over.

    Args:
        root: the data set's root.
        machines: what `machine_folders` found.

    Raises:
        OSError: a folder above the root vanished or may not be entered.
    """
    splits = [folder / split for folder in machines for split in SPLITS]
    queue = deque([*filter(os.path.isdir, splits), root])
    seen = {_identity(folder) for folder in root.resolve().parents}
    places = _Places(root, frozenset(splits), frozenset(machines))
    bases, found, names_left = _bases(root), list(_archives(places)), _MOST_NAMES
    while queue:
        folder = queue.popleft()
        in_split = folder in places.splits
        elsewhere = not in_split and folder not in bases
        names: list[str] = []
        clips = set()
        try:
            identity = _identity(folder)
            if identity in seen:
                continue
            seen.add(identity)
            for name, below in _entries(folder):
                names_left -= not in_split
                if names_left < 0:
                    break
                if below:
                    queue.append(folder / name)
                elif elsewhere and (packed := _packed_split(folder, name)):
                    lost = folder in places.machines
                    found.append(Unused(places.name(folder), 0, packed, lost))
                elif in_split and name.lower().endswith(".wav"):
                    clips.add(name[:-4])
                elif _is_audio(name) or (in_split and _CLIP.match(name)):
                    names.append(name)
        except OSError as error:
            why = f"it cannot be listed ({error.strerror}), so that its clips would be missing"
            found.append(Unused(places.name(folder), 0, why, lost=True))
            continue
        names = [name for name in names if _is_audio(name) or not _belongs_to_one(name, clips)]
        if names:
            why, lost = places.guess(folder, names)
            found.append(Unused(places.name(folder), len(names), why, lost))
        if names_left < 0:
            why = f"the search for unread audio ended after {_MOST_NAMES:,} names, in this folder"
            return sorted([*found, Unused(places.name(folder), 0, why, lost=False)])
    return sorted(found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a link to what cannot be looked at counts."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


@dataclass(frozen=True)
class _Places:
    """What of a root is read."""

    root: Path
    splits: frozenset[Path]
    machines: frozenset[Path]

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def guess(self, folder: Path, names: Sequence[str]) -> tuple[str, bool]:
        """Why a folder's audio files are not read and what to do; whether they look like clips."""
        parts = folder.relative_to(self.root).parts
        clips = any(_CLIP_LIKE.match(name) for name in names)
        if any(part.casefold() == "supplemental" for part in parts):
            return "supplemental recordings have no use here", False
        if folder in self.splits:
            endings = {os.path.splitext(name)[1] for name in names}
            said = ", ".join(sorted(ending or "nothing" for ending in endings))
            todo = "convert them" if endings <= _AUDIO else "rename them or download them again"
            return f"clips end in .wav, not in {said}: {todo}", True
        for split in self.splits & set(folder.parents):
            return f"clips lie in {self.name(split)} itself: move them there", True
        if parts and parts[-1] in ("source_test", "target_test"):
            return "this looks like DCASE 2021 data, which asdjax does not read", True
        looks_like = _SPLIT_LIKE.search(parts[-1].casefold()) if parts else None
        if looks_like and looks_like[1] != parts[-1].casefold():
            beside = folder.parent / looks_like[1]
            if beside in self.splits and os.path.isdir(beside):
                where = self.name(beside)
                if _repeats(folder, names, beside):  # test_rename of the baselines' scripts
                    return f"copies of {where}, which is read instead", False
                return f"they are no copies of {where}: move them there, or out of the data", True
        if looks_like and parts[-1] not in SPLITS:
            why = f"if these are clips, call the folder {looks_like[1]}"
            return why, clips or len(parts) > 1
        if looks_like and len(parts) == 1:
            return "put this folder into one with the machine's name", clips
        if looks_like:
            machine = folder.parent
            return (
                f"{self.name(machine)} lies too deep for a machine: move it up, or give "
                f"{machine.parent} as the root"
            ), True
        if folder in self.machines or clips:
            return "clips lie in <machine>/train and <machine>/test: move them there", clips
        return "no folder of a machine: clips lie in <machine>/train and <machine>/test", False


def _archives(places: _Places) -> Iterator[Unused]:
    """Archives that may hold a machine that was not unpacked."""
    folders = {machine.name: machine for machine in places.machines}

    def unpacked(base: Path, stem: str) -> bool:
        machine, split = _DOWNLOADED.sub("", stem), None
        for name in SPLITS:
            if machine.endswith(f"_{name}"):
                machine, split = machine.removesuffix(f"_{name}"), name
        there = machine in folders and (split is None or os.path.isdir(folders[machine] / split))
        return there or os.path.isdir(base / stem)

    for base in _bases(places.root):
        names = [name for name in sorted(os.listdir(base)) if _ARCHIVE.search(name)]
        packed = [name for name in names if not unpacked(base, _ARCHIVE.sub("", name))]
        if packed:
            why = f"archives such as {packed[0]}: if they hold machines, {_unpack(packed[0])} them"
            yield Unused(places.name(base), 0, why, lost=False)


def _packed_split(folder: Path, name: str) -> str | None:
    """What to do with an archive that a folder has in place of `train` or `test`; None: no such."""
    split = _ARCHIVE.sub("", name)
    if split == name or split not in SPLITS or os.path.isdir(folder / split):
        return None
    return f"{name}: {_unpack(name)} it"


def _unpack(name: str) -> str:
    """What to do with an archive of that name."""
    found = _ARCHIVE.search(name)
    return "get all parts of and unpack" if found and found["piece"] else "unpack"


def _repeats(folder: Path, names: Sequence[str], split: Path) -> bool:
    """Whether each of these files has the content of a clip in the split, whatever its name."""
    try:
        clips = [split / name for name, below in _entries(split) if not below]
        sizes = {clip: os.path.getsize(clip) for clip in clips if clip.suffix.lower() == ".wav"}
        wanted = {os.path.getsize(folder / name) for name in names}
        if not wanted <= {*sizes.values()}:
            return False
        known = {documents.digest(clip) for clip, size in sizes.items() if size in wanted}
        return all(documents.digest(folder / name) in known for name in names)
    except (OSError, AsdjaxError):  # what cannot be read is not known to be a copy
        return False


def _bases(root: Path) -> list[Path]:
    """The folders that may hold machine folders."""
    halves = [root / "dev_data", root / "eval_data"]
    inside = [base for half in halves for base in (half, half / "raw")]
    return [root, *filter(os.path.isdir, inside)]


def _identity(folder: Path) -> tuple[int, int]:
    """The same for all paths that lead to a folder."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name of each visible entry, and whether it is a folder; not sorted, one at a time."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _passed_over(entry.name):
                yield entry.name, is_folder(entry)


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name == "lost+found"


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _AUDIO


def _belongs_to_one(name: str, clips: Set[str]) -> bool:
    """Whether a file stands beside a clip, such as its features or checksum."""
    return any(name[:i] in clips for i in range(len(name)))
