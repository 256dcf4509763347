"""The shards of a finished job become one file."""

import json
from pathlib import Path
from typing import Any

from asdjax.archive import job as jobs
from asdjax.archive.job import Done, Job
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic, user_files
from asdjax.runtime import console
from asdjax.store import parquet_files


def merge(folder: Path, out: Path, *, max_errors: int, overwrite: bool) -> None:
    """Write the rows of all shards, in the order of the manifest, to one Parquet file.

    One shard is in memory at a time. Its pages are checked by their checksums, and its recordings
    against the manifest.

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
    again = f"asdjax batch run {folder}"
    missing = [n for n in range(job.description.shards) if job.done(n) is None]
    if missing:
        raise ArtifactError(
            f"{job.table(missing[0])}: missing, or of another job, and {len(missing) - 1} other "
            f"shards: {again}"
        )
    done = [job.done(shard) for shard in range(job.description.shards)]
    errors = sum(one.errors for one in done if one) + job.description.refused
    if errors > max_errors:
        raise ArtifactError(
            f"{folder}: {errors} recordings have no result (errors-*.jsonl): repair them and run "
            f"{again} --retry-errors, or allow them with --max-errors {errors}"
        )
    rows, writer = 0, None
    with (
        console.progress("merging", job.description.shards, "shards", minor=True) as advance,
        atomic.whole_file(out, overwrite=overwrite) as file,
    ):
        try:
            for shard in range(job.description.shards):
                table = _checked(job, shard)
                if writer is None and len(table):
                    writer = parquet.ParquetWriter(
                        file, _schema(job, table), write_page_checksum=True
                    )
                if writer is not None and len(table):
                    writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
                rows += len(table)
                advance(1, "")
            if writer is None:
                raise ArtifactError(f"{folder}: none of its recordings has a result: repair them")
        finally:
            if writer is not None:
                writer.close()
    hows = [job.how(shard) for shard in range(job.description.shards)]
    kinds = {tuple(how[key] for key in jobs.ALIKE if key in how) for how in hows}
    if len(kinds) > 1:
        words = "; ".join(sorted(" ".join(map(str, kind)) for kind in kinds))
        console.say(
            f"the shards were made in different ways ({words}), so that rounding may differ"
        )
    console.say(f"{out}: {rows} rows of {job.description.clips - errors} recordings")


def _schema(job: Job, table: Any) -> Any:
    kept = {k: v for k, v in table.schema.metadata.items() if k != jobs.METADATA}
    return table.schema.with_metadata({**kept, b"asdjax_job": job.digest.encode()})


def _checked(job: Job, shard: int) -> Any:
    """The rows of a shard, which are those of its recordings in the manifest."""
    path, again = job.table(shard), "delete it, and run the job again"
    with jobs.parquet_at(path) as file:
        table = file.read()
    done = jobs.read_done(table.schema.metadata, path)
    without = _errors(job, shard, done)
    scored = job.description.settings.kind == "predictions"
    expected = [clip.name for clip in job.clips(shard) if scored or clip.name not in without]
    names = table["file" if scored else "path"].to_pylist()
    if list(dict.fromkeys(names)) != expected or len(without) != done.errors:
        raise ArtifactError(f"{path}: its recordings are not those of the manifest: {again}")
    return table


def _errors(job: Job, shard: int, done: Done) -> set[str]:
    """The recordings of a shard that have no row."""
    if not done.errors:
        return set()
    text = user_files.read_text(job.errors(shard), most=2**30)
    return {json.loads(line)["path"] for line in text.splitlines()}
