"""Sends signals to every verb at random moments: what is said, what is left, and the same again.

    cd tests; python -m support.kills --count 300 --seed 0 [--verbs train embed ...]

Prints what went wrong, a line each, and ends with 1 if anything did.
"""

import argparse
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np

from asdjax.runtime import interruption
from support.torch_writer import write

HERE = Path(__file__).parent.parent
TINY = str(HERE / "tiny.yaml")
CORPUS = [
    "--machines", "fan", "bearingEmu", "--train-source", "13", "--train-target", "3",
    "--test-per-cell", "4", "--seconds", "0.5",
]  # fmt: skip
LONGEST = 12  # seconds from a signal to the end, on a machine that others use too
COMMAND = [sys.executable, "-m", "asdjax"]


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command line, in a folder of its own."""

    args: list[str]
    """With {} for the folder and {base} for what all share."""
    copied: str = ""
    """What of the base stands in the folder before."""


VERBS = {
    "check": Verb(["check", TINY, "--data", "{base}/data"]),
    "data": Verb(["data", "{base}/data", "--json"]),
    "train": Verb(["train", TINY, "--data", "{base}/data", "--run", "{}/run"]),
    "train beats": Verb(
        ["train", str(HERE / "tiny_beats.yaml"), "--data", "{base}/data", "--run", "{}/run"]
    ),
    "train more": Verb(
        ["train", TINY, "--data", "{base}/data", "--run", "{}/trained", "--train.epochs", "4"],
        "trained",
    ),
    "run": Verb(["run", TINY, "--data", "{base}/data", "--run", "{}/run"]),
    "extract": Verb(["extract", "{}/trained"], "trained"),
    "score": Verb(["score", "{}/extracted"], "extracted"),
    "evaluate": Verb(["evaluate", "{}/done"], "done"),
    "compare": Verb(["compare", "{base}/done", "{base}/other"]),
    "submit": Verb(
        ["submit", "{base}/done", "--info", str(HERE / "submission.yaml"), "--out", "{}/package",
         "--subsets", "development"]
    ),
    "embed": Verb(["embed", "{base}/trained", "{base}/data", "--out", "{}/e.npz", "--overwrite"]),
    "batch plan": Verb(
        ["batch", "plan", "{base}/trained", "{base}/data", "--out", "{}/job", "--overwrite"]
    ),
    "batch run": Verb(["batch", "run", "{}/job", "--patience", "3"], "job"),
    "batch merge": Verb(
        ["batch", "merge", "{base}/done_job", "--out", "{}/m.parquet", "--overwrite"]
    ),
    "fit": Verb(["fit", "{base}/data/fan/train", "--out", "{}/d.asd", "--overwrite"]),
    "predict": Verb(
        ["predict", "{base}/detector/d.asd", "{base}/data/fan/test", "--csv", "{}/t.csv",
         "--overwrite"]
    ),
    "update": Verb(["update", "{}/detector/d.asd", "{base}/data/bearingEmu/train"], "detector"),
    "explain": Verb(
        ["explain", "{base}/detector/d.asd", "{base}/data/fan/test", "--png", "{}/pictures",
         "--overwrite"]
    ),
    "export": Verb(["export", "{base}/detector/d.asd", "{}/d.jax", "--overwrite"]),
    "watch": Verb(
        ["watch", "{base}/detector/d.asd", "{base}/data/fan/test", "--log", "{}/log.jsonl",
         "--settle", "0", "--interval", "0.05", "--once"]
    ),
    "synth": Verb(["synth", "{}/data", *CORPUS]),
    "convert beats": Verb(["convert", "beats", "{base}/beats.pt", "{}/beats", "--overwrite"]),
    "convert verify": Verb(["convert", "verify", "{base}/beats"]),
    "convert asdkit": Verb(
        ["convert", "asdkit", "{base}/asdkit.pt", "{}/run", "--config", TINY, "--overwrite"]
    ),
    "convert torch": Verb(["convert", "torch", "{base}/trained", "{}/run.npz", "--overwrite"]),
}  # fmt: skip

MAKING = {
    "data": [["synth", "{}", *CORPUS]],
    "trained": [["train", TINY, "--data", "{base}/data", "--run", "{}"]],
    "extracted": ["trained", ["extract", "{}"]],
    "done": ["extracted", ["score", "{}"], ["evaluate", "{}"]],
    "job": [
        ["batch", "plan", "{base}/trained", "{base}/data", "--out", "{}", "--shard-clips", "8"]
    ],
    "done_job": ["job", ["batch", "run", "{}"]],
    "other": [["run", TINY, "--data", "{base}/data", "--seed", "1", "--run", "{}"]],
    "detector": [["fit", "{base}/data/fan/train", "--out", "{}/d.asd"]],
    "beats": [["convert", "beats", "{base}/beats.pt", "{}"]],
    "run.npz": [["convert", "torch", "{base}/trained", "{}"]],
}  # fmt: skip
"""What of the base is made, when a verb first needs it: of which copy, and by which commands."""


class Kills:
    """What all verbs share, how long each takes, and the signals."""

    def __init__(self, base: Path, variants: Path):
        """Use an empty folder."""
        self.base, self._variants = base, variants
        self._seconds: dict[str, float] = {}
        self._environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(base / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }

    def _require(self, name: str) -> None:
        """Make what of the base is not there yet."""
        place = self.base / name
        if place.exists():
            return
        if name == "beats.pt":
            shutil.copy(self._variants / "nano_zip.pt", place)
        elif name == "asdkit.pt":
            self._require("run.npz")
            with np.load(self.base / "run.npz") as arrays:
                state = OrderedDict((name, arrays[name]) for name in arrays.files)
            write(place, {"state_dict": state, "epoch": 1})
        for step in MAKING.get(name, []):
            if isinstance(step, str):
                self._require(step)
                shutil.copytree(self.base / step, place)
            else:
                self._run(self._filled(step, place))

    def send(self, name: str, chance: random.Random) -> list[str]:
        """Send a random signal at a random moment; what is wrong afterwards, in words."""
        verb, number = VERBS[name], chance.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
        if name not in self._seconds:
            with tempfile.TemporaryDirectory(dir=self.base) as folder:
                args = self._prepared(verb, Path(folder))
                began = time.monotonic()
                self._run(args)
                self._seconds[name] = time.monotonic() - began
        delay = chance.random() * self._seconds[name]
        again = chance.choice([None, None, 0.001, 0.1, 0.4])  # a second signal
        with tempfile.TemporaryDirectory(dir=self.base) as folder:
            args = self._prepared(verb, Path(folder))
            began = time.monotonic()
            faults = self._interrupted(args, number, delay, again)
            took = time.monotonic() - began
            if number != signal.SIGKILL:
                faults += [f"left behind: {path}" for path in leftovers(Path(folder))]
            answer = self._start(args)
            words = answer.communicate()[1]
            if answer.returncode:
                faults.append(f"the same command again: {answer.returncode} {words[-500:]}")
            faults += [f"left after the same again: {path}" for path in leftovers(Path(folder))]
        about = (
            f"{name} {signal.Signals(number).name} at {delay:.3f} s, again {again}, "
            f"in all {took:.1f} s"
        )
        return [f"{about}: {fault}" for fault in faults]

    def _interrupted(
        self, args: list[str], number: int, delay: float, again: float | None
    ) -> list[str]:
        process = self._start(args)
        while process.poll() is None and not _listens(process.pid):
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
        sent = time.monotonic()
        if again is not None:
            time.sleep(again)
            process.send_signal(number)
        words = process.communicate()[1]
        took, code = time.monotonic() - sent, process.returncode
        if number == signal.SIGKILL:
            return [] if code in (0, -number) else [f"exit code {code}: {words[-500:]}"]
        faults = []
        sentences = [line for line in words.splitlines() if line.startswith("asdjax:")]
        expected = [] if code == 0 else ["asdjax: interrupted: "]
        if code not in (0, 128 + number):
            faults.append(f"exit code {code}")
        if [sentence[: len("asdjax: interrupted: ")] for sentence in sentences] != expected:
            faults.append(f"{len(sentences)} sentences")
        if "Traceback" in words or "ignored" in words:
            faults.append("a traceback")
        saves = interruption.HELD if args[0] in ("train", "run") else 0
        if took > LONGEST + saves:
            faults.append(f"took {took:.1f} s")
        return [f"{fault}: {words[-2000:]}" for fault in faults]

    def _prepared(self, verb: Verb, folder: Path) -> list[str]:
        if verb.copied:
            self._require(verb.copied)
            shutil.copytree(self.base / verb.copied, folder / verb.copied)
        return self._filled(verb.args, folder)

    def _filled(self, args: list[str], folder: Path) -> list[str]:
        for arg in args:
            if arg.startswith("{base}/"):
                self._require(arg.split("/")[1])
        return [arg.replace("{base}", str(self.base)).replace("{}", str(folder)) for arg in args]

    def _start(self, args: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, *args],
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _run(self, args: list[str]) -> None:
        process = self._start(args)
        words = process.communicate()[1]
        if process.returncode:
            raise RuntimeError(f"{args}: {words}")


def leftovers(folder: Path) -> list[str]:
    """What no finished command leaves: hidden names and half-written checkpoints."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(
        path
        for path in found
        if path.rpartition("/")[2] != ".lock"
        and (path.rpartition("/")[2].startswith(".") or "orbax-checkpoint-tmp" in path)
    )


def _listens(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    caught = next((line.split()[1] for line in status.splitlines() if line[:6] == "SigCgt"), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def main(variants: Path) -> int:
    """Send the signals that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=list(VERBS))
    chosen = parser.parse_args()
    # in the background, SIGINT may be ignored, which processes would inherit: it must stop them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chance, bad = random.Random(chosen.seed), 0
    with tempfile.TemporaryDirectory(prefix="asdjax-kills-") as base:
        kills = Kills(Path(base), variants)
        for i in range(chosen.count):
            faults = kills.send(chosen.verbs[i % len(chosen.verbs)], chance)
            bad += bool(faults)
            print(*faults, sep="\n", end="\n" * bool(faults), flush=True)
    print(f"{chosen.count} signals, {bad} with faults")
    return int(bool(bad))


if __name__ == "__main__":
    from conftest import VARIANTS

    sys.exit(main(VARIANTS))
