"""The state of a job: shards that are finished, claimed, open; speed and time left."""

import time
from pathlib import Path
from typing import Any

from asdjax.archive import claims as all_claims
from asdjax.archive import job as jobs
from asdjax.archive.claims import Claims
from asdjax.archive.job import Job
from asdjax.runtime import console
from asdjax.store import parquet_files

SCHEMA = "asdjax.batch_status/1"
_LOOKS = 3  # heartbeats for which claims are watched


def status(folder: Path) -> dict[str, Any]:
    """What a job has done and does, as `asdjax batch status --json` prints it.

    Claims are watched for some seconds: the clocks of hosts and file systems are not compared.

    Raises:
        AsdjaxError: there is no job.
    """
    parquet_files.require_pyarrow(folder, "use asdjax embed or predict")
    job = Job.open(folder)
    claims = Claims(folder / jobs.CLAIMS)
    before = {shard: claims.sign(shard, number) for shard, number in claims.last().items()}
    if before:
        time.sleep(_LOOKS * all_claims.HEARTBEAT)
    found = [job.done(shard) for shard in range(job.description.shards)]
    done = {one.shard: one for one in found if one is not None}
    now = {
        shard: number
        for shard, number in claims.last().items()
        if shard not in done and shard < job.description.shards
    }
    silent = sorted(
        shard
        for shard, number in now.items()
        if (sign := claims.sign(shard, number)) is not None and sign == before.get(shard)
    )
    clips = sum(one.clips for one in done.values())
    errors = sum(one.errors for one in done.values())
    rate = _rate(job, list(done))
    left = job.description.clips - clips - errors
    working = len(now) - len(silent)
    return {
        "schema": SCHEMA,
        "shards": {
            "all": job.description.shards, "finished": len(done), "claimed": len(now),
            "open": job.description.shards - len(done) - len(now),
        },
        "recordings": {
            "all": job.description.clips, "finished": clips, "errors": errors, "left": left,
            "refused": job.description.refused,
        },
        "per_second_and_worker": rate,
        "workers": working,
        "seconds_left": left / (rate * working) if rate and working else None,
        "silent": [{"shard": shard, **_claim(claims.path(shard, now[shard]))} for shard in silent],
    }  # fmt: skip


def render(document: dict[str, Any]) -> str:
    """The state as text."""
    shards, recordings = document["shards"], document["recordings"]
    lines = [
        f"shards: {shards['finished']} of {shards['all']} finished, {shards['claimed']} claimed, "
        f"{shards['open']} open",
        f"recordings: {recordings['finished']} of {recordings['all']} finished, "
        f"{recordings['errors']} without result, {recordings['left']} left; "
        f"{recordings['refused']} were refused by the plan",
    ]
    if (rate := document["per_second_and_worker"]) is not None:
        lines.append(f"speed: {rate:.3g} recordings/s a worker; {document['workers']} at work")
    if (left := document["seconds_left"]) is not None:
        lines.append(f"time left: {console.duration(left)}")
    for claim in document["silent"]:
        lines.append(
            f"no sign of life: shard {claim['shard']}, worker {claim['worker']}, process "
            f"{claim['pid']} on {claim['host']}"
        )
    return "\n".join(lines)


def _rate(job: Job, done: list[int]) -> float | None:
    """Recordings a second of a worker, by the times of finished shards; None if unknown."""
    clips, seconds = 0, 0.0
    for shard in done:
        if (made := job.made(shard)) is not None:
            clips, seconds = clips + made.clips, seconds + made.seconds
    return clips / seconds if seconds > 0 else None


def _claim(path: Path) -> dict[str, Any]:
    found = jobs.document(path)
    kinds = {"host": str, "pid": int, "worker": str}
    right = {name: isinstance(found.get(name), kind) for name, kind in kinds.items()}
    shown = {name: found[name] if right[name] else None for name in kinds}
    return {k: console.printable(v) if isinstance(v, str) else v for k, v in shown.items()}
