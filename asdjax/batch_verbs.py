"""The commands of `asdjax batch`, see `asdjax.verbs`."""

import dataclasses
import json
from typing import Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, arg

from asdjax.arguments import ALL_OR_NOTHING, PathOrUrl, PoolName, UserPath
from asdjax.config.interfaces import ComputeDtype
from asdjax.config.schema import Range
from asdjax.errors import ArtifactError, UsageError

JobFolder = Annotated[UserPath, arg(metavar="DIR", help="The job's folder.")]
MaxErrors = Annotated[int, Range(low=0), arg(metavar="N")]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Divide an archive into shards to embed or score; writes the folder of a job."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    weights: Positional[
        Annotated[
            UserPath, arg(metavar="WEIGHTS", help="Run directory, converted weights, or detector.")
        ]
    ]
    inputs: Positional[
        Annotated[
            tuple[PathOrUrl, ...],
            arg(
                metavar="INPUT...",
                help_behavior_hint="(one or more)",
                help="Sound files, folders, quoted patterns, lists (.txt or @LIST), tables of "
                "files (.csv, .parquet), tar archives (.tar), URLs (s3://BUCKET/FOLDER).",
            ),
        ]
    ]
    out: Annotated[UserPath | None, arg(metavar="DIR")] = None
    """The job's folder, which all workers must reach."""
    shard_clips: Annotated[int, Range(low=1, high=2**20), arg(metavar="N")] = 4096
    """Recordings of a shard, the part of the work that is repeated if a worker dies."""
    dry_run: bool = False
    """Write nothing: work on a recording of each length, and predict time and size."""
    layer: Annotated[tuple[int, ...], arg(metavar="K [K ...]")] = ()
    """As for asdjax embed."""
    pool: PoolName | None = None
    """As for asdjax embed; not none."""
    compute_dtype: ComputeDtype | None = None
    """As for asdjax embed."""
    channel: int | Literal["each"] | None = None
    """As for asdjax embed."""
    overwrite: bool = False
    """Replace an earlier job, with all that it has done."""

    def __call__(self) -> None:
        from asdjax.commands import batch_plan

        if (self.out is None) != self.dry_run:
            raise UsageError("batch plan: give either --out DIR or --dry-run")
        if not self.weights.exists():
            raise ArtifactError(
                f"{self.weights}: there is no such run directory, folder of converted weights or "
                "detector: name one that asdjax train, convert or fit has written"
            )
        batch_plan.plan(
            self.weights,
            self.inputs,
            self.out,
            shard_clips=self.shard_clips,
            pool=self.pool,
            layers=self.layer,
            channel=self.channel,
            compute_dtype=self.compute_dtype,
            overwrite=self.overwrite,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """Do shards of a job until all are finished; any number of these may run at once."""

    lost: ClassVar[str] = "finished shards are kept, and the same command continues"
    job: Positional[JobFolder]
    worker: Annotated[str | None, arg(metavar="INDEX/COUNT")] = None
    """Which shards are done first, as 3/64, counted from 0; default: from the array of SLURM or
    the indexed job of Kubernetes (with JOB_COMPLETIONS), else 0/1."""
    patience: Annotated[float, Range(low=3, high=86_400), arg(metavar="SECONDS")] = 60.0
    """The shard of a worker that gives no sign of life for so long is taken over."""
    max_errors: MaxErrors = 0
    """Recordings of the job that may be without result; with more the exit code is 1."""
    retry_errors: bool = False
    """Do shards with errors again."""

    def __call__(self) -> int:
        from asdjax.commands import batch_run

        return batch_run.run(
            self.job,
            batch_run.worker(self.worker),
            patience=self.patience,
            max_errors=self.max_errors,
            retry_errors=self.retry_errors,
        )


@dataclasses.dataclass(frozen=True)
class Status:
    """Say what of a job is finished, how fast it is, and which workers give no sign of life."""

    lost: ClassVar[str] = "this command writes nothing"
    job: Positional[JobFolder]
    json: bool = False
    """Print JSON (schema asdjax.batch_status/1) instead of text."""

    def __call__(self) -> None:
        from asdjax.commands import batch_status

        document = batch_status.status(self.job)
        print(json.dumps(document, indent=1) if self.json else batch_status.render(document))


@dataclasses.dataclass(frozen=True)
class Merge:
    """Check the shards of a finished job, and write their rows to one Parquet file."""

    lost: ClassVar[str] = ALL_OR_NOTHING
    writes: ClassVar[tuple[str, ...]] = ("out",)
    job: Positional[JobFolder]
    out: Annotated[UserPath, arg(metavar="FILE.parquet")]
    """The file to write."""
    max_errors: MaxErrors = 0
    """Recordings of the job that may be without result."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __call__(self) -> None:
        from asdjax.commands import batch_merge

        batch_merge.merge(self.job, self.out, max_errors=self.max_errors, overwrite=self.overwrite)


COMMANDS: dict[str, type[Any]] = {"plan": Plan, "run": Run, "status": Status, "merge": Merge}
"""The commands by their names."""
