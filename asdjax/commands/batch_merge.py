"""The shards of a finished job become one file."""

from pathlib import Path
from typing import Any

from asdjax.archive import job as jobs
from asdjax.archive.inputs import Unusable
from asdjax.archive.job import AGAIN, Done, Job
from asdjax.config import schema
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic, documents, user_files
from asdjax.runtime import console
from asdjax.store import parquet_files


def merge(folder: Path, out: Path, *, max_errors: int, overwrite: bool) -> None:
    """Write the rows of all shards, in the order of the manifest, to one Parquet file.

    One shard is in memory at a time. It is checked against the digest that its worker has noted,
    and its recordings against the manifest.

    Args:
        folder: of the job.
        out: the file, .parquet.
        max_errors: recordings of the job that may have no row.
        overwrite: whether to replace an existing file.

    Raises:
        AsdjaxError: a shard is missing, of another job, damaged or incomplete; there are more
            errors; or the file cannot be written.
    """
    from pyarrow import parquet

    if out.suffix.lower() != ".parquet":
        raise UsageError(f"{out}: the file name must end in .parquet")
    atomic.require_free(out, overwrite)
    parquet_files.require_pyarrow(out, "use asdjax embed or predict")
    job = Job.open(folder)
    if folder.resolve() in out.resolve().parents:
        raise UsageError(f"{out}: in the folder of the job: choose a path outside")
    again = f"asdjax batch run {folder}"
    missing = [n for n in range(job.description.shards) if job.done(n) is None]
    if missing:
        raise ArtifactError(
            f"{job.table(missing[0])}: missing, damaged or of another job; shards to be done: "
            f"{len(missing)}: {again}"
        )
    done = [job.done(shard) for shard in range(job.description.shards)]
    errors = sum(one.errors for one in done if one) + job.description.refused
    if errors > max_errors:
        raise ArtifactError(
            f"{folder}: {errors} recordings have no result (errors-*.jsonl): repair them and run "
            f"{again} --retry-errors, or allow them with --max-errors {errors}"
        )
    rows, clips, writer = 0, 0, None
    with (
        console.progress("merging", job.description.shards, "shards", minor=True) as advance,
        atomic.whole_file(out, overwrite=overwrite) as file,
    ):
        try:
            for shard in range(job.description.shards):
                table, found = _checked(job, shard)
                if writer is None and len(table):
                    writer = parquet.ParquetWriter(
                        file, _schema(job, table), write_page_checksum=True
                    )
                if writer is not None and len(table):
                    writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
                rows, clips = rows + len(table), clips + found.clips
                advance(1, "")
            if writer is None:
                raise ArtifactError(f"{folder}: none of its recordings has a result: repair them")
        finally:
            if writer is not None:
                writer.close()
    hows = [job.made(shard) for shard in range(job.description.shards)]
    kinds = {made.kind for made in hows if made is not None}
    if len(kinds) > 1:
        words = "; ".join(sorted(" ".join(map(str, kind)) for kind in kinds))
        console.say(
            f"the shards were made in different ways ({words}), so that rounding may differ"
        )
    console.say(f"{out}: {rows} rows of {clips} recordings")


def _schema(job: Job, table: Any) -> Any:
    kept = {k: v for k, v in table.schema.metadata.items() if k != jobs.METADATA}
    return table.schema.with_metadata({**kept, b"asdjax_job": job.digest.encode()})


def _checked(job: Job, shard: int) -> tuple[Any, Done]:
    """The rows of a shard, which are those of its recordings in the manifest."""
    path, made = job.table(shard), job.made(shard)
    if made is None or documents.digest(path) != made.digest:
        raise ArtifactError(f"{path}: was changed: {AGAIN}")
    settings = job.description.settings
    scored, every = settings.kind == "predictions", settings.channel == "each"
    with jobs.parquet_at(path) as file:
        metadata, count = file.schema_arrow.metadata, file.metadata.num_rows
    done = jobs.read_done(metadata, path)
    without = _errors(job, shard, done)
    expected = [
        clip.name
        for clip in job.clips(shard)
        if scored or clip.name not in without
        for _ in range(clip.channels if every else 1)
    ]
    wrong = f"{path}: its recordings are not those of the manifest: {AGAIN}"
    if len(without) != done.errors or count != len(expected):
        raise ArtifactError(wrong)
    with jobs.parquet_at(path) as file:
        table = file.read()
        names = table["file" if scored else "path"].to_pylist()
    if names != expected:
        raise ArtifactError(wrong)
    return table, done


def _errors(job: Job, shard: int, done: Done) -> set[str]:
    """The recordings of a shard that have no row."""
    if not done.errors:
        return set()
    path, again = job.errors(shard), f"run asdjax batch run {job.folder} --retry-errors"
    if not documents.present(path):
        raise ArtifactError(f"{path}: is missing: {again}")
    lines = user_files.read_text(path, most=2**30).splitlines()
    found = (documents.parse_json(line, path, again) for line in lines)
    return {schema.read(Unusable, one, "", str(path)).path for one in found}
