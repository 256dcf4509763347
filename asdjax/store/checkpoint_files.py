"""files.json: the digests of the files of a checkpoint, or of a folder of converted weights."""

import contextlib
from pathlib import Path

from asdjax.errors import AsdjaxError
from asdjax.files.documents import present, read_json

FILES = "files.json"


def checkpoint_files(folder: Path) -> set[Path]:
    """The files that a checkpoint consists of.

    None if the folder has no files.json: it is no checkpoint. All in it if files.json is damaged.
    """
    stated: object = None
    with contextlib.suppress(AsdjaxError):
        if not present(folder / FILES):
            return set()
        stated = read_json(folder / FILES)
    if not isinstance(stated, dict):
        return {*folder.rglob("*")}
    return {folder / FILES, *(folder / name for name in stated)}
