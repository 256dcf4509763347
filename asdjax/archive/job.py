"""The folder of a job: what is to be done, and what is done.

job.json          schema asdjax.batch/1: weights, settings, numbers; with a digest of all of it
manifest.parquet  a row per recording, sorted by length; a row group per shard
errors-plan.jsonl recordings that could not be planned
claims/           see `claims`
shards/           <shard>.parquet, complete or not there; <shard>.json says how it was made
errors-<shard>.jsonl  recordings of a shard that have no row, with the reason
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from asdjax._version import __version__
from asdjax.archive.inputs import Unusable
from asdjax.config import schema
from asdjax.config.interfaces import ComputeDtype
from asdjax.config.schema import Count, Range
from asdjax.data.audio import Header
from asdjax.data.sound_files import HIGHEST_RATE, LOWEST_RATE
from asdjax.errors import ArtifactError, AsdjaxError, DataError
from asdjax.files import atomic, documents, user_files
from asdjax.files.tar_members import Member
from asdjax.files.url_files import UrlFile, is_url

SCHEMA, SHARD = "asdjax.batch/1", "asdjax.batch_shard/1"
JOB, MANIFEST, SHARDS, CLAIMS, PLAN_ERRORS = (
    "job.json", "manifest.parquet", "shards", "claims", "errors-plan.jsonl",
)  # fmt: skip
AGAIN = "delete it, and run the job again"
"""The remedy for a shard's file."""
PLAN_AGAIN = "plan the job again with asdjax batch plan"
"""The remedy for the other files."""
METADATA = b"asdjax_shard"
"""Of the file of a shard: JSON of a `Done`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """With what the recordings are embedded or scored."""

    weights: str
    """Absolute path of a run, converted weights or a detector."""
    kind: Literal["embeddings", "predictions"]
    digest: str
    """Of the weights, or of the detector's file."""
    pool: str
    """As the option --pool has it; empty for a detector."""
    layers: tuple[int, ...]
    channel: int | Literal["each"]
    """Counted from 1."""
    compute_dtype: ComputeDtype | None


@dataclasses.dataclass(frozen=True)
class Description:
    """The content of job.json."""

    settings: Settings
    inputs: tuple[str, ...]
    shard_clips: Count
    """Most recordings of a shard."""
    shards: Count
    clips: Count
    """Recordings in the manifest."""
    refused: Annotated[int, Range(low=0)]
    """Recordings in errors-plan.jsonl."""
    manifest: str
    """Digest of manifest.parquet."""

    @property
    def digest(self) -> str:
        """Of all of this, and of the version of asdjax."""
        return documents.fingerprint(__version__, schema.to_tree(self))


_Number = Annotated[int, Range(low=0)]


@dataclasses.dataclass(frozen=True)
class Planned:
    """A row of the manifest."""

    path: str
    """Absolute, or a URL; of the archive, if it is in one."""
    member: str | None
    """Name in the archive."""
    offset: _Number
    """Of the first byte in the archive."""
    size: _Number
    """Bytes."""
    archive_size: _Number
    """Bytes of the archive; 0 if it is in none."""
    mtime_ns: int
    """See `state`."""
    frames: _Number
    rate: Annotated[int, Range(low=LOWEST_RATE, high=HIGHEST_RATE)]
    channels: Annotated[int, Range(low=1)]
    samples: _Number
    """Per channel that are used, at the model's rate: the manifest is sorted by this."""

    @property
    def source(self) -> Path | Member | UrlFile:
        """What is read."""
        if is_url(self.path):
            return UrlFile(self.path, self.size)
        if self.member is None:
            return Path(self.path)
        return Member(Path(self.path), self.member, self.offset, self.size)

    @property
    def name(self) -> str:
        """As in tables."""
        return str(self.source)

    @property
    def header(self) -> Header:
        """What was read when the job was planned."""
        return Header(self.frames, self.rate, self.channels, "")

    def require_unchanged(self) -> None:
        """Raise `AsdjaxError` if the file or the archive was changed since the job was planned."""
        if state(self.source) != (self.size, self.archive_size, self.mtime_ns):
            raise DataError(f"{self.name}: was changed since the job was planned: plan it again")


def state(source: Path | Member | UrlFile) -> tuple[int, int, int]:
    """Bytes of a recording, of its archive (or 0), and when file or archive was modified (ns).

    For URLs without a time see `UrlFile.state`.

    Raises:
        AsdjaxError: the file or the archive cannot be reached.
    """
    if isinstance(source, UrlFile):
        size, mtime_ns = source.state()
        return size, 0, mtime_ns
    try:
        found = os.stat(source.tar if isinstance(source, Member) else source)
    except OSError as error:
        raise DataError(user_files.unreadable(source, error)) from error
    sizes = (source.size, found.st_size) if isinstance(source, Member) else (found.st_size, 0)
    return *sizes, found.st_mtime_ns


@dataclasses.dataclass(frozen=True)
class Done:
    """What the file of a finished shard says of itself."""

    schema: str
    job: str
    """Digest of the job."""
    shard: int
    clips: int
    """Recordings of the shard that have rows without error."""
    errors: int
    """Recordings without; they are in errors-<shard>.jsonl."""


@dataclasses.dataclass(frozen=True)
class Made:
    """Where and how a shard was made."""

    schema: str
    job: str
    """Digest of the job."""
    shard: int
    size: int
    """Bytes of the shard's file."""
    digest: str
    """Of the shard's file."""
    host: str
    pid: int
    worker: str
    clips: int
    """Recordings of the shard."""
    errors: int
    retries: int
    seconds: float
    ended: float
    """Unix time."""
    device: str
    """Its kind."""
    devices: int
    jax: str
    python: str

    @property
    def kind(self) -> tuple[str, int, str]:
        """What workers must share for results that are equal to the last bit."""
        return self.device, self.devices, self.jax


class Job:
    """A job in a folder.

    Attributes:
        folder: its path.
        description: the content of job.json.
        digest: of the description.
    """

    def __init__(self, folder: Path, description: Description):
        self.folder, self.description, self.digest = folder, description, description.digest

    @classmethod
    def open(cls, folder: Path) -> "Job":
        """The job in a folder.

        Raises:
            AsdjaxError: there is none, it was changed, is of another version of asdjax, or has
                links in place of its folders.
        """
        file, again = folder / JOB, PLAN_AGAIN
        for name in (SHARDS, CLAIMS):
            atomic.refuse_links(folder / name)
        if not documents.present(file):
            raise ArtifactError(f"{folder}: no job ({JOB}): plan one with asdjax batch plan")
        tree = documents.read_json(file, again)
        if not isinstance(tree, dict) or tree.pop("schema", None) != SCHEMA:
            raise ArtifactError(f"{file}: not a job of schema {SCHEMA}: {again}")
        version, digest = tree.pop("asdjax", None), tree.pop("job", None)
        if version != __version__:
            raise ArtifactError(
                f"{file}: planned by asdjax {version}, this is {__version__}: {again}"
            )
        description = schema.read(Description, tree, "", str(file))
        schema.check(Description, description, "", str(file))
        if description.digest != digest:
            raise ArtifactError(f"{file}: was changed: {again}")
        manifest = folder / MANIFEST
        if documents.digest(manifest) != description.manifest:
            raise ArtifactError(f"{manifest}: was changed, or is of another job: {again}")
        with parquet_at(manifest, again) as rows:
            found, groups = rows.metadata, range(rows.metadata.num_row_groups)
            sizes = [found.row_group(i).num_rows for i in groups]
        whole = len(sizes) == description.shards and sum(sizes) == description.clips
        if not whole or max(sizes) > description.shard_clips:
            raise ArtifactError(f"{manifest}: is of another job: {again}")
        return cls(folder, description)

    def require_current(self) -> None:
        """Raise `AsdjaxError` if the folder has another job meanwhile."""
        tree = document(self.folder / JOB)
        if tree.get("job") != self.digest:
            raise ArtifactError(
                f"{self.folder}: the job was deleted or planned again while this worker ran: run "
                "asdjax batch run again"
            )

    def clips(self, shard: int) -> list[Planned]:
        """The recordings of a shard, in order."""
        names = [field.name for field in dataclasses.fields(Planned)]
        path = self.folder / MANIFEST
        self.require_current()
        with parquet_at(path, PLAN_AGAIN) as file:
            rows = file.read_row_group(shard, columns=names).to_pylist()
        found = [schema.read(Planned, row, "", str(path)) for row in rows]
        for clip in found:
            schema.check(Planned, clip, "", str(path))
        return found

    def table(self, shard: int) -> Path:
        """The file of a shard's rows."""
        return self.folder / SHARDS / f"{shard:05d}.parquet"

    def made(self, shard: int) -> Made | None:
        """Where and how a shard was made; None if that cannot be read."""
        path = self.folder / SHARDS / f"{shard:05d}.json"
        try:
            return schema.read(Made, documents.read_json(path), "", str(path))
        except AsdjaxError:
            return None

    def errors(self, shard: int) -> Path:
        """The file of a shard's recordings without rows."""
        return self.folder / f"errors-{shard:05d}.jsonl"

    def done(self, shard: int) -> Done | None:
        """What a finished shard says of itself; None if it is not finished, or of another job."""
        path, made = self.table(shard), self.made(shard)
        if made is None or not documents.present(path):
            return None
        try:
            with parquet_at(path) as file:
                metadata = file.schema_arrow.metadata
            found = read_done(metadata, path)
        except AsdjaxError:
            return None  # it is not whole, or not of ours: it is made again
        ours = (found.job, found.shard) == (made.job, made.shard) == (self.digest, shard)
        return found if ours and made.size == os.path.getsize(path) else None

    def write(
        self, shard: int, content: bytes, errors: Sequence[Unusable], about: Mapping[str, Any]
    ) -> None:
        """Write the files of a finished shard; the rows last, as they say that it is finished.

        Args:
            shard: its number.
            content: of the file of its rows.
            errors: its recordings without rows.
            about: the fields of `Made` that are not known here.

        Raises:
            AsdjaxError: a file cannot be written, or the folder has another job meanwhile.
        """
        made = Made(
            SHARD, self.digest, shard, len(content), documents.content_digest(content),
            errors=len(errors), **about,
        )  # fmt: skip
        self.require_current()
        if errors:
            write_errors(self.errors(shard), errors)
        else:
            atomic.delete(self.errors(shard))
        path = self.folder / SHARDS / f"{shard:05d}.json"
        with atomic.whole_file(path, shared=True) as file:
            file.write(documents.json_bytes(dataclasses.asdict(made)))
        with atomic.whole_file(self.table(shard), shared=True) as file:
            file.write(content)


def foreign(folder: Path) -> list[Path]:
    """The files in a folder that are not those of a job, sorted."""
    names = "|".join(map(re.escape, (JOB, MANIFEST, PLAN_ERRORS)))
    ours = re.compile(
        rf"{names}|errors-[0-9]+\.jsonl|{SHARDS}/[0-9]+\.(parquet|json)|{CLAIMS}/[0-9]+-[0-9]+\.json"
    )
    found = atomic.foreign(folder, ())
    return [path for path in found if not ours.fullmatch(path.relative_to(folder).as_posix())]


def write_description(folder: Path, description: Description) -> None:
    """Write job.json."""
    tree = schema.to_tree(description)
    document = {"schema": SCHEMA, "asdjax": __version__, "job": description.digest, **tree}
    documents.write_json(folder / JOB, document)


def write_errors(path: Path, errors: Sequence[Unusable]) -> None:
    """Write recordings that have no rows, a line of JSON each."""
    lines = (json.dumps(dataclasses.asdict(error)) + "\n" for error in errors)
    with atomic.whole_file(path, shared=True) as file:
        file.writelines(line.encode() for line in lines)


def done_metadata(done: Done) -> dict[str, str]:
    """The metadata of a shard's file."""
    return {METADATA.decode(): json.dumps(dataclasses.asdict(done))}


def read_done(metadata: Mapping[bytes, bytes] | None, path: Path) -> Done:
    """What the metadata of a shard's file say; `AsdjaxError` if it is no such file."""
    text = (metadata or {}).get(METADATA, b"null").decode(errors="replace")
    found = schema.read(Done, documents.parse_json(text, path, AGAIN), "", str(path))
    if found.schema != SHARD:
        raise ArtifactError(f"{path}: not a shard of schema {SHARD}: {AGAIN}")
    return found


def document(path: Path) -> dict[str, Any]:
    """A JSON document that is for people alone: empty if it cannot be read."""
    try:
        found = documents.read_json(path)
    except AsdjaxError:
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def parquet_at(path: Path, remedy: str = AGAIN) -> Iterator[Any]:
    """A Parquet file of a job, whose pages are checked when they are read in the block.

    The block must do nothing but read: pyarrow raises many kinds of errors for damaged files.

    Raises:
        AsdjaxError: it is none, not whole, or damaged.
    """
    import pyarrow
    from pyarrow import parquet

    with user_files.open_regular(path) as file:
        try:
            yield parquet.ParquetFile(file, page_checksum_verification=True)
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            why = str(error).partition("\n")[0][:200]
            raise ArtifactError(f"{path}: cannot be read as Parquet ({why}): {remedy}") from error
