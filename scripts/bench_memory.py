"""Most memory and time of each verb, one process each, on a synthetic corpus; a JSON line for each.

Called by scripts/bench_memory. `extract` is measured with few and with many clips as well (one
sound, shifted): what is streamed must not grow with their number. With --beats PATH that
checkpoint's conversion and embedding are measured, too.
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
    parser.add_argument("--clips", type=driver.count, default=128, help="of the corpus, about")
    parser.add_argument("--seconds", type=driver.seconds, default=12.0, help="length of every clip")
    parser.add_argument(
        "--many", type=driver.count, default=10000, help="clips of the last extraction"
    )
    parser.add_argument(
        "--beats", type=driver.path, help="BEATs_iter3.pt, to convert and embed with"
    )
    options = parser.parse_args(argv)
    beats = options.beats and options.beats.absolute()
    if options.many < 20:
        parser.error("--many: at least 20, of which a twentieth is extracted as well")
    if beats and not beats.is_file():
        raise UsageError(f"--beats {beats}: there is no such file")
    synth.clips(driver.checked("synth", "data", *corpus(options.clips, options.seconds)).corpus)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the commands below name what lies here
        verbs(options.clips, options.seconds)
        if beats:
            measure("convert", "beats", str(beats), "weights")
            measure("convert", "verify", "weights")
            measure("convert", "torch", "weights", "weights.npz")
            measure("embed", "weights", "data", "--out", "beats.npz")
        flat(options.many)


def verbs(clips: int, seconds: float) -> None:
    """Two runs of System 1, verb by verb and by `run`, to a package; training cut to an epoch."""
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
    """Options of `asdjax synth`: two machines, about as many clips of training."""
    size = f"--train-source {clips // 2 - 2} --train-target 2 --test-per-cell 4"
    return f"--machines fan bearingEmu {size} --seconds {seconds:g}".split()


def flat(many: int) -> None:
    """Extraction of a twentieth of `many` clips of 5 s, and of all; the raw view alone."""
    few = SynthConfig(machines=("fan",), train_source=30, train_target=2, test_per_cell=4)
    synth.write(Path("flat"), dataclasses.replace(few, seconds=5.0))
    recipe = configs.load("system1")
    recipe = dataclasses.replace(
        recipe,
        audio=dataclasses.replace(recipe.audio, clip_seconds=5.0),
        train=dataclasses.replace(recipe.train, epochs=1, batch_size=8),
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
        shift = 4 * (i + 1)  # two channels of 16 bits: copies of one clip would be refused
        path.write_bytes(header + sound[shift:] + sound[:shift])
        if i + 1 in (many // 20, many):
            measure("extract", "c", clips=i + 1)


def measure(verb: str, *arguments: str, **about: Any) -> None:
    """Run a verb and print its figures, and what is said `about` it."""
    began = time.perf_counter()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with driver.started([verb, *arguments], **pipes) as process:
        said = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if status:
        sys.exit(f"asdjax {verb} failed:\n{said}")
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
