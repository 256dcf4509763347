"""The folders of a data set: those of its machines, and those with audio that is not read."""

import contextlib
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
)  # extensions of audio files, also of formats that asdjax cannot read
_SPLIT_LIKE = re.compile(r"(?:^|[^a-z])(train|test)")
_CLIP_LIKE = re.compile(r"section_[0-9]{2}")
_CLIP = re.compile(
    r"section_[0-9]{2}_((source|target)_(train|test)_(normal|anomaly)_)?[0-9]{4}(?![0-9])"
)  # the beginning of a clip's name
_ARCHIVE = re.compile(
    r"\.(zipx?|7z|rar|tar(\.(gz|bz2|xz|zst|lz|lzma))?|tgz|tbz2?|txz|tzst|tlz)"
    r"(?P<piece>\.(part|partial|crdownload|download|[0-9]+))?$",
    re.I,
)  # the end of an archive's name, also of one of its parts or an unfinished download
_DOWNLOADED = re.compile(r"^(dev|eval(_data)?)_")  # the beginning of names of challenge archives
_MOST_NAMES = 200_000  # files and folders examined outside `train` and `test`


@dataclass(frozen=True, order=True)
class Unused:
    """A folder with audio files that are not read."""

    folder: str
    """Path relative to the root, with forward slashes; "." is the root."""
    files: int
    """Number of its audio files that are not read, without those in subfolders."""
    why: str
    """The likely reason, and what to do."""
    lost: bool
    """Whether they look like a machine's clips, which would be missing from the data set."""

    def __str__(self) -> str:
        """Number of files and reason, without the folder."""
        count = {0: "", 1: "1 audio file is not read: "}
        return count.get(self.files, f"{self.files} audio files are not read: ") + self.why


def machine_folders(root: Path) -> list[Path]:
    """The folders that contain a folder `train` or `test`, sorted within each base folder.

    Base folders are the root, `dev_data`, `eval_data`, and `raw` in these two.

    Raises:
        AsdjaxError: data of 2021.
        OSError: a base folder cannot be listed.
    """
    found = []
    for base in _bases(root):
        for name in sorted(os.listdir(base)):
            folder = base / name
            if _is_ignored(name) or name == "supplemental" or not os.path.isdir(folder):
                continue
            if any(os.path.isdir(folder / f"{domain}_test") for domain in ("source", "target")):
                raise too_old(folder, 2021)
            if any(os.path.isdir(folder / split) for split in SPLITS):
                found.append(folder)
    return found


def unused(root: Path, machines: Sequence[Path]) -> list[Unused]:
    """The folders below a root with audio files that are not read, sorted.

    Links are followed, except to parents of the root. Each folder is searched once, and the search
    ends after 200,000 names. Hidden files and folders are ignored.

    Args:
        root: the data set's root.
        machines: the result of `machine_folders`.

    Raises:
        OSError: a parent of the root was deleted or has no permission to enter.
    """
    splits = [folder / split for folder in machines for split in SPLITS]
    queue = deque([*filter(os.path.isdir, splits), root])
    seen = {_identity(folder) for folder in root.resolve().parents}
    read = _ReadFolders(root, frozenset(splits), frozenset(machines))
    bases, found, names_left = _bases(root), [*_archives(read), *_hidden(read)], _MOST_NAMES
    while queue:
        folder = queue.popleft()
        in_split = folder in read.splits
        may_be_machine = not in_split and folder not in bases
        names: list[str] = []
        clips = set()
        try:
            identity = _identity(folder)
            if identity in seen:
                continue
            seen.add(identity)
            for name, is_dir in _entries(folder):
                names_left -= not in_split
                if names_left < 0:
                    break
                if is_dir:
                    queue.append(folder / name)
                elif may_be_machine and (todo := _packed_split(folder, name)):
                    lost = folder in read.machines
                    found.append(Unused(read.name(folder), 0, todo, lost))
                elif in_split and name.lower().endswith(".wav"):
                    clips.add(name[:-4])
                elif _is_audio(name) or (in_split and _CLIP.match(name)):
                    names.append(name)
        except OSError as error:
            why = f"it cannot be listed ({error.strerror}), and its clips would be missing"
            found.append(Unused(read.name(folder), 0, why, lost=True))
            continue
        names = [name for name in names if _is_audio(name) or not _extends_a_clip(name, clips)]
        if names:
            why, lost = read.why_not(folder, names)
            found.append(Unused(read.name(folder), len(names), why, lost))
        if names_left < 0:
            why = f"the search for unread audio ended after {_MOST_NAMES:,} names, in this folder"
            return sorted([*found, Unused(read.name(folder), 0, why, lost=False)])
    return sorted(found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, a link to one, or a link whose target cannot be examined."""
    try:
        return entry.is_dir()
    except OSError as error:
        return error.errno != errno.ELOOP


@dataclass(frozen=True)
class _ReadFolders:
    """The folders of a data set that are read."""

    root: Path
    splits: frozenset[Path]
    machines: frozenset[Path]

    def name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def why_not(self, folder: Path, names: Sequence[str]) -> tuple[str, bool]:
        """Why a folder's audio files are not read and what to do; whether they look like clips."""
        parts = folder.relative_to(self.root).parts
        clips = any(_CLIP_LIKE.match(name) for name in names)
        if any(part.casefold() == "supplemental" for part in parts):
            return "supplemental recordings are not used", False
        if folder in self.splits:
            endings = {os.path.splitext(name)[1] for name in names}
            listed = ", ".join(sorted(ending or "nothing" for ending in endings))
            todo = "convert them" if endings <= _AUDIO else "rename them or download them again"
            return f"clips end in .wav, not in {listed}: {todo}", True
        for split in self.splits & set(folder.parents):
            return f"clips must be in {self.name(split)}, not below it: move them there", True
        if parts and parts[-1] in ("source_test", "target_test"):
            return "this looks like DCASE 2021 data, which is not supported", True
        looks_like = _SPLIT_LIKE.search(parts[-1].casefold()) if parts else None
        if looks_like and looks_like[1] != parts[-1].casefold():
            split = folder.parent / looks_like[1]
            if split in self.splits and os.path.isdir(split):
                where = self.name(split)
                if _is_copy(folder, names, split):  # test_rename of the baseline's scripts
                    return f"copies of {where}, which is read", False
                return f"not copies of {where}: move them there, or out of the data set", True
        if looks_like and parts[-1] not in SPLITS:
            why = f"if these are clips, rename the folder to {looks_like[1]}"
            return why, clips or len(parts) > 1
        if looks_like and len(parts) == 1:
            return "move this folder into one with the machine's name", clips
        if looks_like:
            machine = folder.parent
            return (
                f"{self.name(machine)} is too deep for a machine's folder: move it up, or give "
                f"{machine.parent} as the root"
            ), True
        if folder in self.machines or clips:
            return "clips must be in <machine>/train or <machine>/test: move them there", clips
        return "not a machine's folder: clips must be in <machine>/train or <machine>/test", False


def _archives(read: _ReadFolders) -> Iterator[Unused]:
    """Archives that may contain a machine that was not unpacked."""
    folders = {machine.name: machine for machine in read.machines}

    def is_unpacked(base: Path, stem: str) -> bool:
        machine, split = _DOWNLOADED.sub("", stem), None
        for name in SPLITS:
            if machine.endswith(f"_{name}"):
                machine, split = machine.removesuffix(f"_{name}"), name
        exists = machine in folders and (split is None or os.path.isdir(folders[machine] / split))
        return exists or os.path.isdir(base / stem)

    for base in _bases(read.root):
        names = [name for name in sorted(os.listdir(base)) if _ARCHIVE.search(name)]
        packed = [name for name in names if not is_unpacked(base, _ARCHIVE.sub("", name))]
        if packed:
            todo = f"{_unpack(packed[0])} them"
            why = f"archives such as {packed[0]}: if they contain machines, {todo}"
            yield Unused(read.name(base), 0, why, lost=False)


def _hidden(read: _ReadFolders) -> Iterator[Unused]:
    """Folders and clips whose names begin with a dot; macOS has files ._NAME beside NAME."""
    why = "the name begins with a dot: rename it if it is one of the data set"
    for folder in [*_bases(read.root), *sorted(read.machines), *sorted(read.splits)]:
        with contextlib.suppress(OSError):  # said of the folder itself
            names = [name for name in sorted(os.listdir(folder)) if name.startswith(".")]
            for name in filter(lambda name: _holds_clips(folder / name), names):
                yield Unused(read.name(folder / name), 0, why, lost=False)
            clips = [name for name in names if _is_audio(name) and _CLIP.match(name[1:])]
            if clips and folder in read.splits:
                yield Unused(read.name(folder), len(clips), why, lost=False)


def _holds_clips(folder: Path) -> bool:
    """Whether a folder has clips by their names, or `train` or `test`."""
    try:
        names = os.listdir(folder)
    except OSError:  # no folder, or not to be read
        return False
    return any(name in SPLITS or _CLIP.match(name) for name in names)


def _packed_split(folder: Path, name: str) -> str | None:
    """What to do with a file that is the archive of a missing `train` or `test`, else None."""
    split = _ARCHIVE.sub("", name)
    if split == name or split not in SPLITS or os.path.isdir(folder / split):
        return None
    return f"{name}: {_unpack(name)} it"


def _unpack(name: str) -> str:
    """What to do with an archive of this name."""
    found = _ARCHIVE.search(name)
    return "get all parts of and unpack" if found and found["piece"] else "unpack"


def _is_copy(folder: Path, names: Sequence[str], split: Path) -> bool:
    """Whether each of these files has the content of a clip in the split, under any name."""
    try:
        clips = [split / name for name, is_dir in _entries(split) if not is_dir]
        sizes = {clip: os.path.getsize(clip) for clip in clips if clip.suffix.lower() == ".wav"}
        wanted = {os.path.getsize(folder / name) for name in names}
        if not wanted <= {*sizes.values()}:
            return False
        known = {documents.digest(clip) for clip, size in sizes.items() if size in wanted}
        return all(documents.digest(folder / name) in known for name in names)
    except (OSError, AsdjaxError):  # unreadable: treated as not a copy
        return False


def _bases(root: Path) -> list[Path]:
    """The folders that may contain machine folders."""
    halves = [root / "dev_data", root / "eval_data"]
    inside = [base for half in halves for base in (half, half / "raw")]
    return [root, *filter(os.path.isdir, inside)]


def _identity(folder: Path) -> tuple[int, int]:
    """Device and inode number, the same for all paths to a folder."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name of each entry that is not ignored, and whether it is a folder; unsorted."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not _is_ignored(entry.name):
                yield entry.name, is_folder(entry)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name == "lost+found"


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in _AUDIO


def _extends_a_clip(name: str, clips: Set[str]) -> bool:
    """Whether a name begins with that of a clip, such as the name of its features or checksum."""
    return any(name[:i] in clips for i in range(len(name)))
