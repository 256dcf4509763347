"""Measure asdjax batch run: wall time for numbers of workers and of clips, as figures and a plot.

Called by scripts/bench_archive. A detector with the default embedder scores synthetic clips of 2 s.
Each worker has one processor; more workers than processors share them. Workers are started
together, and the time is until the last one has ended, start-up included.
"""

import argparse
import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import driver
import matplotlib.pyplot as plt

from asdjax.config.recipe import SynthConfig
from asdjax.files import atomic
from asdjax.synth import corpus


def main(argv: Sequence[str]) -> int:
    """Measure, print JSON lines, and plot; returns 0."""
    parser = argparse.ArgumentParser(prog="bench_archive", description="Measure asdjax batch run.")
    parser.add_argument("out", type=Path, help="OUT.jsonl and OUT.png are written")
    parser.add_argument("--workers", type=driver.count, nargs="+", default=[1, 2, 4])
    parser.add_argument("--clips", type=driver.count, nargs="+", default=[400, 1600])
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        points = list(_measured(Path(name), options.clips, options.workers))
    lines = "".join(json.dumps(point) + "\n" for point in points)
    atomic.write_bytes(options.out.with_suffix(".jsonl"), lines.encode(), overwrite=True)
    _plot(points, options.out.with_suffix(".png"))
    return 0


def _measured(folder: Path, counts: Sequence[int], workers: Sequence[int]) -> Iterator[dict]:
    """A point for each number of clips and of workers; `AssertionError` if results differ."""
    for clips in counts:
        place = folder / str(clips)
        few = max(1, clips // 4)
        config = SynthConfig(
            ("fan",), train_source=20, train_target=0, test_per_cell=few, seconds=2
        )
        corpus.write(place / "data", config)
        train, test = (place / "data" / "fan" / split for split in ("train", "test"))
        detector = place / "d.asd"
        driver.asdjax("fit", train, "--out", detector, "--quiet")
        results = set()
        for number in workers:
            job = place / f"job{number}"
            shard = str(max(1, clips // (4 * max(workers))))
            plan = "batch", "plan", detector, test, "--out", job, "--shard-clips", shard, "--quiet"
            driver.asdjax(*plan)
            seconds = _run(job, number)
            files = sorted((job / "shards").glob("*.parquet"))
            results.add(hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest())
            assert len(results) == 1, "the results depend on the number of workers"
            point = {"bench": "archive", "clips": 4 * few, "workers": number, "seconds": seconds}
            point |= {"processors": len(os.sched_getaffinity(0)), "jax": metadata.version("jax")}
            print(json.dumps(point), flush=True)
            yield point


def _run(job: Path, workers: int) -> float:
    """Seconds until all workers have ended."""
    processors = sorted(os.sched_getaffinity(0))
    command = ["batch", "run", str(job), "--quiet"]
    with contextlib.ExitStack() as running:
        began = time.perf_counter()
        started = []
        for i in range(workers):
            own = driver.started([*command, "--worker", f"{i}/{workers}"])
            started.append(running.enter_context(own))
            os.sched_setaffinity(started[-1].pid, {processors[i % len(processors)]})
        codes = [process.wait() for process in started]
    assert codes == [0] * workers, codes
    return round(time.perf_counter() - began, 2)


def _plot(points: Sequence[dict], out: Path) -> None:
    """Wall time over clips, a curve for each number of workers."""
    figure, axes = plt.subplots(figsize=(4.2, 3.4))
    for workers in sorted({point["workers"] for point in points}):
        curve = [point for point in points if point["workers"] == workers]
        x, y = [p["clips"] for p in curve], [p["seconds"] for p in curve]
        axes.plot(x, y, "o-", label=f"{workers} worker{'s' * (workers > 1)}")
    axes.set(xlabel="clips of 2 s", ylabel="seconds, start-up included", ylim=(0, None))
    axes.set_title(f"{points[0]['processors']} processors", fontsize=9)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    with atomic.writing(out):
        figure.savefig(out, dpi=120)
