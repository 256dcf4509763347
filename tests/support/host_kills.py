"""Signals to a training of two processes at random moments, and the same command again.

    cd tests; python -m support.host_kills --count 100 --seed 0

Prints what went wrong, a line each, and ends with 1 if anything did.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from asdjax.config.recipe import SynthConfig
from asdjax.runtime import interruption
from asdjax.runtime.hosts import HEARTBEAT
from asdjax.store.runs import Run
from asdjax.synth import corpus as synth
from support.hosts import TINY, Together, command
from support.kills import leftovers

JOIN = 20  # seconds; on a busy machine a process needs some to start
LONGEST = JOIN + 10 + HEARTBEAT + interruption.HELD + interruption.PATIENCE


class HostKills:
    """A corpus, an undisturbed training, and signals to others."""

    def __init__(self, base: Path):
        """Make a corpus and train, in an empty folder."""
        self.base = base
        settings = SynthConfig(
            machines=("fan", "bearingEmu"),
            train_source=13,
            train_target=3,
            test_per_cell=2,
            seconds=0.5,
        )
        synth.write(base / "data", settings)
        self._train(base / "whole")
        self._expected = self._results(base / "whole")
        self.seconds = self._train(base / "again")  # with compiled programs
        if self._results(base / "again") != self._expected:
            raise RuntimeError("two trainings of the same processes and devices differ")

    def send(self, number: int, hit: tuple[int, ...], delay: float) -> list[str]:
        """Send a signal to some processes after a while; what is wrong afterwards, in words."""
        about = f"{signal.Signals(number).name} to {hit} after {delay:.1f} s"
        with tempfile.TemporaryDirectory(dir=self.base) as folder:
            run = Path(folder) / "run"
            with self._start(run) as together:
                time.sleep(delay)
                for process in hit:
                    together.processes[process].send_signal(number)
                began = time.monotonic()
                ends = together.ends()
            took = time.monotonic() - began
            faults = []
            if took > LONGEST:
                faults.append(f"took {took:.0f} s")
            for i, (code, words) in enumerate(ends):
                if not ended_well(code, words, number if i in hit else None):
                    faults.append(f"process {i}: {code}: {words[-500:]}")
            self._train(run)
            if self._results(run) != self._expected:
                faults.append("other weights or another log than without the signal")
            faults += [f"left behind: {path}" for path in leftovers(run)]
        print(f"{about}: ended after {took:.1f} s with {[code for code, _ in ends]}", flush=True)
        return [f"{about}: {fault}" for fault in faults]

    def _start(self, run: Path) -> Together:
        args = ["train", TINY, "--data", str(self.base / "data"), "--run", str(run)]
        args += ["--train.devices", "0", "--train.epochs", "4", "--train.validation", "0.1"]
        return Together(*(command(*args, number=i, timeout=JOIN) for i in (0, 1)))

    def _train(self, run: Path) -> float:
        began = time.monotonic()
        with self._start(run) as together:
            ends = together.ends()
        if [code for code, _ in ends] != [0, 0]:
            raise RuntimeError(f"{ends}")
        return time.monotonic() - began

    def _results(self, run: Path) -> tuple[str, list[dict[str, object]]]:
        """The weights' digest, and the log without times."""
        times = {"seconds": 0, "clips_per_second": 0}
        return Run(run).finished_training()["digest"], [{**r, **times} for r in Run(run).read_log()]


def ended_well(code: int, words: str, number: int | None) -> bool:
    """Whether a process that got this signal, or none, ended with one sentence or success."""
    said = words.count("asdjax: ")
    if "Traceback" in words:
        return False
    if number is not None and code == -number:  # killed, or told before it could say anything
        return said <= 1
    if code == -signal.SIGABRT:  # by JAX, when the coordinator is lost
        return said == 0 and "Terminating process because the JAX distributed service" in words
    return code in (0, 1, 128 + signal.SIGTERM) and said == (code != 0)


def main() -> int:
    """Send the signals that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chance, bad = random.Random(chosen.seed), 0
    with tempfile.TemporaryDirectory(prefix="asdjax-host-kills-") as base:
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(Path(base) / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        kills = HostKills(Path(base))
        for _ in range(chosen.count):
            number = chance.choice([signal.SIGKILL, signal.SIGTERM])
            hit = chance.choice([(0,), (1,), (0, 1)])
            faults = kills.send(number, hit, chance.random() * kills.seconds)
            bad += bool(faults)
            print(*faults, sep="\n", end="\n" * bool(faults), flush=True)
    print(f"{chosen.count} signals, {bad} with faults")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
