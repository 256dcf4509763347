"""artefacts.json: the digest of each result of a run, and what the result was made from."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files import atomic
from asdjax.files.documents import content_digest, digest, present, read_json, write_json

ARTEFACTS = "artefacts.json"
Record = Mapping[str, Any]
"""`made_from`, the fingerprint of the inputs; `content`, the file's digest; the run's marks."""


class Manifest:
    """The records of a run's results; read once, at first use, and written with every change."""

    def __init__(self, run: Path):
        self._run, self._file = run, run / ARTEFACTS

    @functools.cached_property
    def _records(self) -> dict[str, Record]:
        records = read_json(self._file, "delete it") if present(self._file) else {}
        if not (
            isinstance(records, dict)
            and all(map(_is_result, records))
            and all(map(_is_record, records.values()))
        ):
            raise ArtifactError(
                f"{self._file}: not a valid record of results: delete it, and the folders "
                "embeddings, scores and diagnostics"
            )
        return records

    def files(self) -> list[Path]:
        """The files that have a record."""
        return [self._run / name for name in self._records]

    def require(self, path: Path) -> Record:
        """The record of one of `files`."""
        return self._records[self._name(path)]

    def record(self, path: Path) -> Record | None:
        """The record of a file, if it has one."""
        return self._records.get(self._name(path))

    def is_current(self, path: Path, made_from: str) -> bool:
        """Whether a file is unchanged since it was written, and was made from these inputs."""
        record = self.record(path)
        return (
            record is not None
            and record["made_from"] == made_from
            and present(path)
            and record["content"] == digest(path)
        )

    def keep(self, wanted: Callable[[Path, Record], bool]) -> bool:
        """Delete the records that are not wanted, all at once; true if there were any."""
        kept = {n: r for n, r in self._records.items() if wanted(self._run / n, r)}
        if kept == self._records:
            return False
        self._write(kept)
        return True

    def write(self, results: Mapping[Path, tuple[bytes, str]], marks: Record) -> None:
        """Write results that were made together, and record the fingerprints of their inputs.

        Old records are deleted first and new ones are written at once: if the process is killed, no
        file has the record of another, and either all files are recorded as finished or none.

        Args:
            results: file -> its content and the fingerprint of its inputs.
            marks: flags that each record has besides.
        """
        for folder in {path.parent for path in results}:
            if folder.is_dir():
                atomic.require_writable(folder)
        self.keep(lambda path, _: path not in results)
        records = dict(self._records)
        for path, (content, made_from) in results.items():
            atomic.write_bytes(path, content)
            record = {"made_from": made_from, "content": content_digest(content)}
            records[self._name(path)] = {**record, **marks}
        self._write(dict(sorted(records.items())))

    def _write(self, records: dict[str, Record]) -> None:
        write_json(self._file, records)
        self._records = records

    def _name(self, path: Path) -> str:
        return path.relative_to(self._run).as_posix()


_LONGEST = 240  # bytes of a name, so that the file's is below 255
_RESULTS = re.compile(
    r"thresholds\.json|pseudo_labels\.csv|selection\.json|embeddings/machines\.json|embeddings/(?P<view>[^/]+)/(?P<m>[^/]+)\.npz"
    r"|scores/(?P<machine>[^/]+)\.csv"
)


def _is_result(name: str) -> bool:
    """Whether a name is that of a result of a run: files with a record are read and deleted."""
    match = _RESULTS.fullmatch(name)
    return match is not None and not any(
        part.startswith(".") or "\0" in part or not _is_text(part) or len(part.encode()) > _LONGEST
        for part in match.groups()
        if part is not None
    )


def _is_text(name: str) -> bool:
    """Whether a name can be encoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(
        type(record.get(key)) is str for key in ("made_from", "content")
    )
