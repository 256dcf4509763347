"""Peak memory and time of each verb on a synthetic corpus, one process and one JSON line each.

Called by scripts/bench_memory. `extract` is also measured with few and with many clips (shifted
copies of one): its memory must not grow with their number. With --beats PATH, conversion and
embeddings of that checkpoint are measured, too.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import driver

from asdjax.config import recipe as configs
from asdjax.config.recipe import SynthConfig
from asdjax.errors import UsageError
from asdjax.synth import corpus as synth

INFO = Path(__file__).parent.parent / "tests" / "submission.yaml"


def main(argv: list[str]) -> None:
    """Measure every verb, then extraction of few and of many clips."""
    parser = argparse.ArgumentParser(prog="bench_memory", description=__doc__)
    parser.add_argument(
        "--clips", type=driver.count, default=128, help="approximate number of clips in the corpus"
    )
    parser.add_argument("--seconds", type=driver.seconds, default=12.0, help="length of every clip")
    parser.add_argument(
        "--many", type=driver.count, default=10000, help="number of clips of the last extraction"
    )
    parser.add_argument(
        "--beats", type=driver.path, help="BEATs_iter3.pt, to convert and embed with"
    )
    options = parser.parse_args(argv)
    beats = options.beats and options.beats.absolute()
    if options.many < 20:
        parser.error("--many: must be at least 20, because a twentieth is extracted, too")
    if beats and not beats.is_file():
        raise UsageError(f"--beats {beats}: no such file")
    synth.clips(driver.checked("synth", "data", *corpus(options.clips, options.seconds)).corpus)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the commands below use relative paths
        verbs(options.clips, options.seconds)
        if beats:
            measure("convert", "beats", str(beats), "weights")
            measure("convert", "verify", "weights")
            measure("convert", "torch", "weights", "weights.npz")
            measure("embed", "weights", "data", "--out", "beats.npz")
        flat(options.many)


def verbs(clips: int, seconds: float) -> None:
    """Two runs of System 1 up to a package, verb by verb and by `run`; one epoch of training."""
    measure("synth", "data", *corpus(clips, seconds))
    measure("data", "data")
    few = "--train.epochs", "1", "--audio.clip-seconds", f"{seconds:g}"
    measure("check", "system1", "--data", "data", *few)
    measure("train", "system1", "--data", "data", "--run", "a", *few)
    measure("extract", "a")
    measure("score", "a")
    measure("evaluate", "a")
    measure("run", "system1", "--data", "data", "--run", "b", *few, "--seed", "1")
    measure("compare", "a", "b")
    measure("submit", "a", "--info", str(INFO), "--out", "package", "--subsets", "development")
    measure("embed", "a", "data", "--out", "embeddings.npz")


def corpus(clips: int, seconds: float) -> list[str]:
    """Options of `asdjax synth` for two machines with about `clips` training clips in all."""
    size = f"--train-source {clips // 2 - 2} --train-target 2 --test-per-cell 4"
    return f"--machines fan bearingEmu {size} --seconds {seconds:g}".split()


def flat(many: int) -> None:
    """Extraction of the raw view of a twentieth of `many` clips of 5 s, and of all."""
    few = SynthConfig(machines=("fan",), train_source=30, train_target=2, test_per_cell=4)
    synth.write(Path("flat"), dataclasses.replace(few, seconds=5.0))
    recipe = configs.load("system1")
    recipe = dataclasses.replace(
        recipe,
        audio=dataclasses.replace(recipe.audio, clip_seconds=5.0),
        train=dataclasses.replace(recipe.train, epochs=1, batch_size=8, allow_one_class=True),
        extract=configs.ExtractConfig(),
    )
    Path("flat.yaml").write_text(configs.dump(recipe), "utf-8")
    measure("train", "flat.yaml", "--data", "flat", "--run", "c")
    clip = next(Path("flat").glob("fan/test/section_00_source_test_normal_*.wav"))
    content = clip.read_bytes()
    header, sound = content[:44], content[44:]
    for i in range(many):
        cell = ("source_test_normal", "target_test_anomaly")[i % 2]
        path = clip.with_name(f"section_00_{cell}_{1000 + i // 2:04d}_noAttribute.wav")
        shift = 4 * (i + 1)  # bytes, two 16-bit channels; identical clips would be refused
        path.write_bytes(header + sound[shift:] + sound[:shift])
        if i + 1 in (many // 20, many):
            measure("extract", "c", clips=i + 1)


def measure(verb: str, *arguments: str, **about: Any) -> None:
    """Run a verb and print its figures together with those in `about`."""
    began = time.perf_counter()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with driver.started([verb, *arguments], **pipes) as process:
        errors = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"asdjax {verb} failed:\n{errors}")
    line = {
        "bench": "memory",
        "command": " ".join([verb, *arguments]),
        **about,
        "seconds": round(time.perf_counter() - began, 2),
        "peak_memory_mb": round(used.ru_maxrss / 1024),
        "threads": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("asdjax", "jax", "jaxlib")},
    }
    print(json.dumps(line), flush=True)
