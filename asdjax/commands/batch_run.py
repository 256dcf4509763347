"""A worker of a job: takes shards that nobody has, and writes a file of rows for each."""

import dataclasses
import os
import platform
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.archive import job as jobs
from asdjax.archive import work as works
from asdjax.archive.claims import Claims
from asdjax.archive.job import Done, Job
from asdjax.archive.work import Work
from asdjax.data.retries import Retries
from asdjax.errors import DataError, UsageError
from asdjax.files import atomic
from asdjax.runtime import console
from asdjax.runtime.console import Advance
from asdjax.store import parquet_files

_LOOK = 0.5  # seconds between two looks at the claims of others


@dataclasses.dataclass(frozen=True)
class Worker:
    """Which shards a worker does first."""

    index: int
    """Counted from 0."""
    count: int

    def order(self, shards: int) -> list[int]:
        """All shards: its own, then those of the workers after it.

        Example:
            >>> Worker(1, 3).order(7)
            [1, 4, 2, 5, 0, 3, 6]
        """
        return sorted(range(shards), key=lambda shard: (shard - self.index) % self.count)


def worker(given: str | None, environment: Mapping[str, str] = os.environ) -> Worker:
    """The worker that an option states, or else the scheduler's variables; one alone without them.

    SLURM's array: SLURM_ARRAY_TASK_ID, _MIN, _STEP and _COUNT. Kubernetes' indexed job:
    JOB_COMPLETION_INDEX, and JOB_COMPLETIONS, which the job's description must set.

    Args:
        given: INDEX/COUNT, counted from 0.
        environment: variables.

    Raises:
        UsageError: it is no such text, or a variable is missing.

    Example:
        >>> worker("3/64").count
        64
    """
    if given is not None:
        number, _, of = given.partition("/")
        if not (_is_number(number) and _is_number(of) and int(number) < int(of)):
            raise UsageError(f"--worker {given}: expected INDEX/COUNT as 3/64, counted from 0")
        return Worker(int(number), int(of))
    if "SLURM_ARRAY_TASK_ID" in environment:
        name = "SLURM_ARRAY_TASK_"
        step = _number(environment, f"{name}STEP") if f"{name}STEP" in environment else 1
        first = _number(environment, f"{name}MIN")
        index = (_number(environment, f"{name}ID") - first) // max(step, 1)
        count = _number(environment, f"{name}COUNT")
        return Worker(index % max(count, 1), max(count, 1))  # arrays may leave out numbers
    if "JOB_COMPLETION_INDEX" in environment:
        index = _number(environment, "JOB_COMPLETION_INDEX")
        count = _number(environment, "JOB_COMPLETIONS")
        if index >= count:
            raise UsageError(f"JOB_COMPLETION_INDEX {index}: not below JOB_COMPLETIONS {count}")
        return Worker(index, count)
    return Worker(0, 1)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name)
    if text is None or not _is_number(text):
        found = "is not set" if text is None else f"is {text!r}"
        raise UsageError(f"{name} {found}: set it to a number, or give --worker INDEX/COUNT")
    return int(text)


def run(
    folder: Path, chosen: Worker, *, patience: float, max_errors: int, retry_errors: bool
) -> int:
    """Do shards until all of the job are finished, by this worker or by others.

    Args:
        folder: of the job.
        chosen: which shards are done first.
        patience: seconds without a sign of life after which the shard of another is taken over.
        max_errors: recordings of the job that may have no row.
        retry_errors: whether shards with errors are done again.

    Returns:
        The exit code: 1 if more recordings have no row.

    Raises:
        AsdjaxError: there is no job, its weights were changed, or a file cannot be written.
    """
    parquet_files.require_pyarrow(folder, "use asdjax embed or predict")
    job = Job.open(folder)
    for name in (jobs.SHARDS, jobs.CLAIMS):  # tools that copy folders may leave out empty ones
        with atomic.writing(folder / name):
            (folder / name).mkdir(exist_ok=True)
    done = {shard: found for shard in range(job.description.shards) if (found := job.done(shard))}
    again = {n: _stamp(job.table(n)) for n, one in done.items() if retry_errors and one.errors}
    for shard in again:
        del done[shard]
    if len(done) == job.description.shards:
        console.say(f"{folder}: all {len(done)} shards are finished")
    else:
        work = works.of_job(job.description.settings)
        finished = sum(found.clips + found.errors for found in done.values())
        with console.progress(
            work.settings.kind, job.description.clips, "recordings", finished
        ) as advance:
            left = [shard for shard in chosen.order(job.description.shards) if shard not in done]
            done |= _Shards(job, work, chosen, again, patience, max_errors, advance).finish(left)
    return _end(job, done, max_errors)


@dataclasses.dataclass(frozen=True)
class _Shards:
    """The shards that a worker does."""

    job: Job
    work: Work
    worker: Worker
    again: Mapping[int, tuple[int, int] | None]
    """Shards to be done although they are finished, with the `_stamp` that they have now."""
    patience: float
    max_errors: int
    advance: Advance

    def finish(self, left: list[int]) -> dict[int, Done]:
        """Do shards, in order, until all are finished by this worker or by others."""
        claims, about = Claims(self.job.folder / jobs.CLAIMS), self._about()
        done: dict[int, Done] = {}
        mine, waited = 0, False
        while left:
            before = len(done)
            for shard in left:
                found, by_others = self._found(shard), True
                if found is None:
                    with claims.taken(shard, self.patience, about) as taken:
                        if taken and (found := self._found(shard)) is None:
                            found, by_others = self._do(shard), False
                            mine += 1
                if found is not None:
                    done[shard] = found
                    if by_others:
                        self.advance(found.clips + found.errors, "")
            left = [shard for shard in left if shard not in done]
            if left and len(done) == before:
                if not waited:
                    console.say(f"waiting for {len(left)} shards in the work of others")
                waited = True
                time.sleep(_LOOK)
        console.say(f"{self.job.folder}: {mine} shards by this worker")
        return done

    def _about(self) -> dict[str, Any]:
        worker = f"{self.worker.index}/{self.worker.count}"
        return {"host": socket.gethostname(), "pid": os.getpid(), "worker": worker}

    def _found(self, shard: int) -> Done | None:
        """What a finished shard says of itself; None if it is to be done."""
        if shard in self.again and self.again[shard] == _stamp(self.job.table(shard)):
            return None
        return self.job.done(shard)

    def _do(self, shard: int) -> Done:
        """Compute and write a shard.

        Raises:
            AsdjaxError: it has no result at all, and more errors than are allowed. A host that has
                lost a disk would else be done with all shards in no time.
        """
        import jax

        began, retries = time.monotonic(), Retries()
        clips = self.job.clips(shard)
        table, errors = self.work.rows(
            clips, retries, lambda clips: self.advance(clips, f"shard {shard}")
        )
        if len(errors) == len(clips) > max(1, self.max_errors):
            raise DataError(
                f"shard {shard}: none of its {len(clips)} recordings can be used, as "
                f"{errors[0].path}: {errors[0].reason}: see whether their disk is mounted here, "
                "and run the job again"
            )
        done = Done(jobs.SHARD, self.job.digest, shard, len(clips) - len(errors), len(errors))
        metadata = {**(table.schema.metadata or {}), **jobs.done_metadata(done)}
        content = parquet_files.to_bytes(table.replace_schema_metadata(metadata))
        about = {
            **self._about(), "clips": len(clips),
            "seconds": round(time.monotonic() - began, 3), "ended": round(time.time(), 3),
            "retries": retries.count, "device": jax.local_devices()[0].device_kind,
            "devices": jax.local_device_count(), "jax": jax.__version__,
            "python": platform.python_version(),
        }  # fmt: skip
        self.job.write(shard, content, errors, about)
        if retries.count:
            console.say(f"shard {shard}: {retries.words()}")
        if errors:
            file = self.job.errors(shard)
            console.say(f"shard {shard}: {len(errors)} recordings have no result, see {file}")
        return done


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written again; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _end(job: Job, done: Mapping[int, Done], max_errors: int) -> int:
    """Say what the finished job has, and return the exit code."""
    for place in (job.folder, job.folder / jobs.SHARDS):
        atomic.delete_leftovers(place)
    errors = sum(found.errors for found in done.values()) + job.description.refused
    clips = sum(found.clips for found in done.values())
    words = f"{job.folder}: {clips} recordings have results"
    if not errors:
        console.say(f"{words}; next: asdjax batch merge {job.folder} --out FILE.parquet")
        return 0
    words += f", {errors} do not (errors-*.jsonl)"
    if errors > max_errors:
        console.say_always(
            f"asdjax: {words}, more than --max-errors {max_errors}: repair them and add "
            "--retry-errors, or allow them"
        )
        return 1
    console.say(words)
    return 0
