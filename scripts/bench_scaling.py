"""How cost grows: with clip length, batch, number of clips, reference bank and simulated devices.

Called by scripts/bench_scaling. Every point is measured in a new process (scripts/bench.py). The
figures are written to OUT.jsonl, one line per point, and the curves to OUT.png. The slopes between
neighbouring points on logarithmic axes are printed: 1 is linear.
"""

import argparse
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import driver
import matplotlib

from asdjax.errors import AsdjaxError
from asdjax.files import atomic, user_files

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BENCH = Path(__file__).with_name("bench.py")
LENGTHS = 4.5, 10, 20, 40, 60


class Curve(NamedTuple):
    """Points of one stage, for each value of one option."""

    axis: str
    """Label of the x axis; curves of the same axis share a panel."""
    name: str
    stage: str
    option: str
    values: tuple[float, ...]
    rest: str = ""
    """Further options."""

    def command(self, value: float) -> list[str]:
        return [self.stage, self.option, f"{value:g}", *self.rest.split()]


CURVES = [
    Curve("clip length, s", "filterbank, 4 clips", "filterbank", "--seconds", LENGTHS, "--batch 4"),
    Curve(
        "clip length, s", "MultiResNet, 4 clips", "multiresnet_embed", "--seconds", LENGTHS,
        "--batch 4 --dtype float32",
    ),
    Curve(
        "clip length, s", "BEATs, 1 clip", "beats_embed", "--seconds", LENGTHS,
        "--batch 1 --dtype float32",
    ),
    Curve("batch, clips", "MultiResNet", "multiresnet_embed", "--batch", (1, 2, 4, 16, 64),
          "--dtype float32"),
    Curve("batch, clips", "BEATs", "beats_embed", "--batch", (1, 2, 4, 16), "--dtype float32"),
    Curve(
        "batch, clips", "MultiResNet, training", "multiresnet_train", "--batch", (2, 8, 32),
        "--seconds 10 --dtype float32",
    ),
    Curve(
        "files, clips", "extraction, MultiResNet", "streaming", "--clips", (64, 256, 1024),
        "--recipe system1 --rounds 2",
    ),
    Curve(
        "reference bank, clips", "200 new clips", "scoring", "--batch", (250, 1000, 4000, 16000)
    ),
    Curve("reference bank, clips", "leave-one-out", "leave_one_out", "--batch", (250, 1000, 4000)),
    Curve(
        "simulated devices", "MultiResNet, 8 clips", "multiresnet_embed", "--devices", (1, 2, 4, 8),
        "--batch 8 --device cpu",
    ),
]  # fmt: skip


def main(argv: list[str]) -> None:
    """Measure and plot."""
    parser = argparse.ArgumentParser(prog="bench_scaling", description=__doc__)
    parser.add_argument(
        "out", type=driver.path, metavar="OUT", help="path of the results without suffix"
    )
    parser.add_argument("--rounds", type=driver.count, default=3)
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"])
    parser.add_argument("--plot-only", action="store_true", help="plot the figures in OUT.jsonl")
    options = parser.parse_args(argv)
    figures = options.out.with_suffix(".jsonl")
    atomic.require_free(options.out.with_suffix(".png"), overwrite=True)
    if not options.plot_only:
        measured = b""  # figures of an earlier start stay until there is a new one
        for curve in CURVES:
            for value in curve.values:
                line = measure(curve, value, options)
                measured += f"{json.dumps(line)}\n".encode()
                atomic.write_bytes(figures, measured)
                print(f"{curve.name}, {curve.axis} {value:g}: {line['seconds']:.4g} s", flush=True)
    points = user_files.read_text(figures, most=2**24).splitlines()
    if not points:
        raise AsdjaxError(f"{figures}: contains no figures: measure without --plot-only")
    plot([json.loads(line) for line in points], options.out)


def measure(curve: Curve, value: float, options: argparse.Namespace) -> dict:
    """Seconds of one call at one point."""
    command = ["--rounds", str(options.rounds), *curve.command(value)]
    if options.device and curve.option != "--devices":
        command += ["--device", options.device]
    program = [sys.executable, str(BENCH), *command]
    with driver.running(program, stdout=subprocess.PIPE, text=True) as process:
        lines = process.stdout.read().splitlines()
        code = process.wait()
    if code:
        raise AsdjaxError(f"bench {' '.join(command)}: ended with {code}, see above")
    (line,) = lines
    found = json.loads(line)
    counts = {"scoring": 200, "leave_one_out": found.get("reference_bank")}
    clips = counts.get(curve.stage) or found.get("clips") or found["batch"]
    return {
        "axis": curve.axis,
        "name": curve.name,
        "value": value,
        "seconds": clips / found["clips_per_s"],
        "device": found["device"],
        "jax": found["jax"],
    }


def plot(points: list[dict], out: Path) -> None:
    """Plot one panel per axis, and print the slopes."""
    axes = list(dict.fromkeys(point["axis"] for point in points))
    figure, panels = plt.subplots(1, len(axes), figsize=(3.6 * len(axes), 3.4), squeeze=False)
    for panel, axis in zip(panels[0], axes, strict=True):
        for name in dict.fromkeys(p["name"] for p in points if p["axis"] == axis):
            curve = [p for p in points if (p["axis"], p["name"]) == (axis, name)]
            x, y = [p["value"] for p in curve], [p["seconds"] for p in curve]
            panel.loglog(x, y, "o-", label=name, markersize=4)
            steps = zip(pairwise(x), pairwise(y), strict=True)
            slopes = [math.log(b / a) / math.log(v / u) for (u, v), (a, b) in steps]
            print(f"{axis}: {name}: slopes {', '.join(f'{slope:.2f}' for slope in slopes)}")
        values = sorted({p["value"] for p in points if p["axis"] == axis})
        if axis != "simulated devices":  # they share the processors
            panel.loglog(x, [y[0] * value / x[0] for value in x], ":", color="grey", label="linear")
        panel.set(xlabel=axis, ylabel="seconds")
        panel.set_xticks(values, [f"{value:g}" for value in values])
        panel.xaxis.minorticks_off()
        panel.legend(fontsize=7)
        panel.grid(alpha=0.3)
    about = points[0]
    figure.suptitle(f"{about['device']}, jax {about['jax']}", fontsize=9)
    figure.tight_layout()
    with atomic.writing(out.with_suffix(".png")):
        figure.savefig(out.with_suffix(".png"), dpi=120)
