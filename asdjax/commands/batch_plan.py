"""Planning of a job: weights and an archive in, a folder with a manifest of shards out."""

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.archive import inputs as archive_inputs
from asdjax.archive import job as jobs
from asdjax.archive import work as works
from asdjax.archive.inputs import Found, Unusable
from asdjax.archive.job import Description, Planned
from asdjax.archive.work import Embedding, Work
from asdjax.config.interfaces import ComputeDtype
from asdjax.data import audio
from asdjax.data.read_ahead import in_order
from asdjax.data.retries import Retries
from asdjax.data.sound_search import as_text
from asdjax.embedder import Pool, sound_clips
from asdjax.embedder.sound_clips import Channel
from asdjax.errors import AsdjaxError, DataError
from asdjax.files import atomic, documents
from asdjax.files.tar_members import Member
from asdjax.files.url_files import UrlFile, without_secrets
from asdjax.runtime import console
from asdjax.store import parquet_files

_AT_ONCE = 8192  # rows that are held as Python objects
_KINDS = 8  # lengths that are measured by a dry run


@dataclasses.dataclass(frozen=True)
class Plan:
    """Recordings of a job, by length."""

    table: Any
    """Of pyarrow, with the fields of `Planned` as columns."""
    errors: list[Unusable]
    repeated: int
    """Recordings that were named again, and count once."""


def plan(
    weights: Path,
    inputs: Sequence[Path | str],
    out: Path | None,
    *,
    shard_clips: int,
    pool: Pool | None = None,
    layers: Sequence[int] = (),
    channel: Channel | None = None,
    compute_dtype: ComputeDtype | None = None,
    overwrite: bool = False,
) -> None:
    """Write the folder of a job, see `asdjax.archive.job`; or say what it would take.

    Args:
        weights: a run, converted weights, or a detector.
        inputs: see `asdjax.archive.inputs.find`.
        out: the folder to make; None: nothing is written, and one recording of each length is
            embedded to predict the time.
        shard_clips: recordings of a shard, at most.
        pool: as for `asdjax embed`, and so the further options.
        layers: likewise.
        channel: likewise.
        compute_dtype: likewise.
        overwrite: whether an earlier job, with what it has done, is replaced.

    Raises:
        AsdjaxError: an input is missing, no recording can be used, or the folder cannot be written.
    """
    parquet_files.require_pyarrow(out or Path("asdjax batch"), "use asdjax embed or predict")

    def check() -> None:
        if out is not None:
            atomic.require_result(out, overwrite, lambda path: (path / jobs.JOB).is_file())
            atomic.refuse_foreign(jobs.foreign(out), "--overwrite")

    check()
    work = works.choose(
        weights, pool=pool, layers=layers, channel=channel, compute_dtype=compute_dtype
    )
    found = _planned(inputs, work)
    clips = len(found.table)
    words = f"{clips} recordings in {-(-clips // shard_clips)} shards"
    if found.repeated:
        words += f"; {found.repeated} were named more than once"
    _say_conversions(work, found.table, channel)
    if out is None:
        _say_errors(found.errors, "would be left out")
        print(words)
        for line in _prediction(found.table, work):
            print(line)
        return
    with atomic.whole_folder(out, check) as folder:
        for name in (jobs.SHARDS, jobs.CLAIMS):
            (folder / name).mkdir()
        if found.errors:
            jobs.write_errors(folder / jobs.PLAN_ERRORS, found.errors)
        _write_manifest(folder / jobs.MANIFEST, found.table, shard_clips)
        description = Description(
            settings=work.settings,
            inputs=tuple(as_text(str(given)) for given in inputs),
            shard_clips=shard_clips,
            shards=-(-clips // shard_clips),
            clips=clips,
            refused=len(found.errors),
            manifest=documents.digest(folder / jobs.MANIFEST),
        )
        jobs.write_description(folder, description)
    _say_errors(found.errors, f"are left out, see {out / jobs.PLAN_ERRORS}")
    console.say(f"{out}: {words}; next: asdjax batch run {out}")


def _say_errors(errors: Sequence[Unusable], what: str) -> None:
    if errors:
        first = f"{errors[0].path}: {errors[0].reason}" + ", ..." * (len(errors) > 1)
        console.say(f"{len(errors)} recordings cannot be used and {what}: {first}")


def _say_conversions(work: Work, table: Any, channel: Channel | None) -> None:
    """Print how recordings are resampled and cut, and which channel and view is embedded."""
    if not isinstance(work, Embedding):
        return
    rates, channels, frames = (table[name].to_numpy() for name in ("rate", "channels", "frames"))
    rate, most = work.embedder.config.audio.sample_rate, work.embedder.n_samples
    for line in sound_clips.conversions(
        work.embedder,
        Path(work.settings.weights),
        len(table),
        Counter(rates.tolist()),
        several=int(np.count_nonzero(channels > 1)) if channel is None else 0,
        channel=work.embedder.channel if channel is None else 0,
        longer=0 if most is None else int(np.count_nonzero(frames / rates > most / rate)),
    ):
        console.say(line)


def _planned(inputs: Sequence[Path | str], work: Work) -> Plan:
    """The recordings of the inputs, each once, sorted by length and name."""
    import pyarrow

    types: dict[str, Any] = {
        "path": pyarrow.large_string(), "member": pyarrow.large_string(), "rate": pyarrow.int32(),
        "channels": pyarrow.int32(),
    }  # fmt: skip
    names = [field.name for field in dataclasses.fields(Planned)]
    columns = pyarrow.schema([(name, types.get(name, pyarrow.int64())) for name in names])
    errors: list[Unusable] = []
    batches: list[Any] = []
    rows: list[list[Any]] = []
    retries = Retries()

    def compact() -> None:
        if rows:
            batches.append(
                pyarrow.record_batch([list(c) for c in zip(*rows, strict=True)], columns)
            )
            rows.clear()

    for found in _inspected(inputs, work, retries):
        if isinstance(found, Unusable):
            errors.append(found)
            continue
        rows.append([getattr(found, name) for name in names])
        if len(rows) == _AT_ONCE:
            compact()
    compact()
    if retries.count:
        console.say(retries.words())
    if not batches:
        _say_errors(errors, "are left out")
        raise DataError("no recording can be used: give others")
    table = pyarrow.Table.from_batches(batches, columns)
    order = [(name, "ascending") for name in ("samples", "path", "member")]
    table = table.sort_by(order).combine_chunks()
    kept = _first_of_equal(table)
    repeated = len(table) - int(np.count_nonzero(kept))
    if repeated:
        table = table.filter(pyarrow.array(kept))
    errors.sort(key=lambda error: error.path)
    return Plan(table, errors, repeated)


def _first_of_equal(table: Any) -> np.ndarray:
    """Whether each row of a sorted table is another recording than the row before."""
    import pyarrow.compute as compute

    kept = np.ones(len(table), bool)
    if len(table) > 1:
        one, other = table.slice(1), table.slice(0, len(table) - 1)
        same = compute.and_(
            compute.equal(one["path"], other["path"]),
            compute.equal(
                compute.fill_null(one["member"], ""), compute.fill_null(other["member"], "")
            ),
        )
        kept[1:] = ~same.to_numpy()
    return kept


def _inspected(
    inputs: Sequence[Path | str], work: Work, retries: Retries
) -> Iterator[Planned | Unusable]:
    """Each recording with its header, read by threads."""

    def inspect(found: Found) -> Planned | Unusable:
        if isinstance(found, Unusable):
            return Unusable(as_text(found.path), as_text(found.reason))
        name = as_text(without_secrets(found.url) if isinstance(found, UrlFile) else str(found))
        try:
            return _inspect(found, work, retries)
        except AsdjaxError as error:
            return Unusable(name, works.reason(error, name))

    with console.progress("reading headers", None, "recordings", minor=True) as advance:
        given, again = itertools.tee(archive_inputs.find(inputs, work.settings.channel, retries))
        for found in in_order(inspect, given, (0 for _ in again)):
            advance(1, "")
            yield found


def _inspect(found: Path | Member | UrlFile, work: Work, retries: Retries) -> Planned:
    if as_text(str(found)) != str(found):
        raise DataError(f"{as_text(str(found))}: the name is not UTF-8 text: rename the file")
    size, archive_size, mtime_ns = retries(lambda: jobs.state(found))
    header = retries(lambda: audio.inspect_any(found))
    path, member, offset = (
        (found.tar, found.name, found.offset) if isinstance(found, Member) else (found, None, 0)
    )
    return Planned(
        path=str(path),
        member=member,
        offset=offset,
        size=size,
        archive_size=archive_size,
        mtime_ns=mtime_ns,
        frames=header.frames,
        rate=header.rate,
        channels=header.channels,
        samples=work.samples(found, header),
    )


def _write_manifest(path: Path, table: Any, shard_clips: int) -> None:
    """The manifest, with a row group and a number for each shard."""
    import pyarrow
    from pyarrow import parquet

    columns = table.schema.append(pyarrow.field("shard", pyarrow.int32()))
    with atomic.whole_file(path) as file, parquet.ParquetWriter(file, columns) as writer:
        for shard, first in enumerate(range(0, len(table), shard_clips)):
            part = table.slice(first, shard_clips)
            number = pyarrow.array(np.full(len(part), shard, np.int32))
            writer.write_table(part.append_column(columns.field("shard"), number), shard_clips)


# prediction of time and size


def _prediction(table: Any, work: Work) -> Iterator[str]:
    """Lines on the time and the size of a job; one recording of each length is worked on."""
    clips, samples = len(table), table["samples"].to_numpy()
    lengths, first = np.unique(samples, return_index=True)
    chosen = np.unique(np.linspace(0, len(lengths) - 1, _KINDS).round().astype(int))
    measured, costs, size = [], [], 0.0
    for i in chosen:
        row = table.slice(int(first[i]), 1).to_pylist()[0]
        clip = Planned(**row)
        several = [clip] * work.together(clip.samples)
        for _ in range(2):  # the first compiles
            began = time.monotonic()
            found, errors = work.rows(several, Retries(), lambda clips: None)
        if errors:
            console.say(f"{errors[0].path}: {errors[0].reason}")
            continue
        cost, size = (time.monotonic() - began) / len(several), found.nbytes / len(several)
        measured.append(clip.samples)
        costs.append(cost)
        yield f"{clip.frames / clip.rate:.3g} s of {clip.rate} Hz: {cost:.3g} s for a recording"
    if not measured:
        raise DataError("none of the recordings that were tried can be used: give others")
    seconds = float(np.interp(samples, measured, costs).sum())
    read = int(table["size"].to_numpy().sum())
    yield f"one worker like this: {console.duration(seconds)}, if reading is not slower"
    yield f"to read: {read:,} bytes; to write: about {int(size * clips):,} bytes"
