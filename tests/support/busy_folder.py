"""A busy folder for asdjax watch: recordings arrive, most in some awkward way, and it is killed.

    cd tests; python -m support.busy_folder --files 3600 --seconds 900 --seed 0

Prints what went wrong, a line each, then the memory of the last process, and ends with 1 if
anything did.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from asdjax import Detector
from asdjax.data.arrivals import digest_of
from support.machines import RATE, folder, sound

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGKILL]
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
WAYS = ["renamed into place"] * 4 + [
    "written in halves", "renamed later", "moved later", "linked later", "deleted later", "junk",
]  # fmt: skip


class BusyFolder:
    """A folder and the processes of asdjax watch that score what arrives there.

    Attributes:
        complete: digests of the recordings that must be scored.
        perhaps: of those that were deleted at some time, scored or not.
        junk: names of files that are no recordings.
        memory: of the present process, kB, a value about every second.
        faults: what went wrong, in words.
    """

    def __init__(self, base: Path, detector: Path, seed: int):
        """Use an empty folder."""
        self.place, self.log, self.errors = base / "in", base / "log.jsonl", base / "stderr"
        (self.place / "sub").mkdir(parents=True)
        self._command = [
            sys.executable, "-m", "asdjax", "watch", str(detector), str(self.place), "--log",
            str(self.log), "--settle", "0.2", "--interval", "0.1",
        ]  # fmt: skip
        self._chance, self._base, self._count = random.Random(seed), sound(seed), 0
        self._later: list[tuple[float, str, Path]] = []  # when, in what way, and which file
        self.complete, self.perhaps = set[str | None](), set[str | None]()
        self.junk, self.faults = set[str](), list[str]()
        self._start()

    def receive(self, files: int, seconds: float, signals: Sequence[signal.Signals]) -> None:
        """Let files arrive in bursts, and kill the process by these signals in the first half."""
        began = measured = time.monotonic()
        kills = [(0.5 * self._chance.random(), number) for number in signals]
        kills.sort(key=lambda one: one[0])
        while self._count < files or self._later:
            passed = (time.monotonic() - began) / seconds
            if kills and passed > kills[0][0]:
                self._kill(kills.pop(0)[1])
                self._start()
            due = min(files, int(passed * files)) - self._count
            if due > self._chance.choice([0, 0, 5, 20]) or passed > 1:
                for _ in range(due):
                    self._arrive()
            self._follow_up()
            if time.monotonic() - measured > 1:
                measured = time.monotonic()
                self._measure()
            time.sleep(0.02)

    def finish(self) -> None:
        """End the process, and have `--once` score what is left."""
        self._kill(signal.SIGTERM)
        with open(self.errors, "a") as errors:
            code = subprocess.run([*self._command, "--once"], stderr=errors).returncode
        if code not in (0, 1):  # 1: junk
            self.faults.append(f"--once: exit code {code}")
        if "Traceback" in self.errors.read_text():
            self.faults.append("a traceback")

    def compare(self, detector: Detector) -> None:
        """Compare the log with what has arrived, and its scores with the detector's."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        scored = Counter(line["digest"] for line in lines if line["error"] is None)
        failed = Counter(line["file"] for line in lines if line["error"] is not None)
        self.faults += [f"scored {n} times: {one}" for one, n in scored.items() if n > 1]
        self.faults += [f"never scored: {one}" for one in self.complete - scored.keys()]
        unknown = scored.keys() - self.complete - self.perhaps
        self.faults += [f"scored, but not complete: {one}" for one in unknown]
        if failed != Counter(self.junk):
            self.faults.append(f"failed: {failed}, and not once each: {self.junk}")
        here = {digest_of(path): path for path in self.place.rglob("*.wav")}
        expected = {line["digest"]: line["score"] for line in lines if line["digest"] in here}
        paths = [here[one] for one in expected]
        found = detector.iter_predictions(paths, faulty="row")
        for one, score in zip(found, expected.values(), strict=True):
            if one.score != score:
                self.faults.append(f"{one.file}: score {score} instead of {one.score}")

    def _arrive(self) -> None:
        name, way = f"take {self._count}", self._chance.choice(WAYS)
        self._count += 1
        path, part = self.place / f"{name}.wav", self.place / f"{name}.part"
        rng = np.random.default_rng([self._count, 11])
        wave = self._base + 0.01 * rng.standard_normal(len(self._base))
        soundfile.write(part, wave, RATE, subtype="PCM_16", format="WAV")
        if way == "junk" and len(self.junk) >= 20:
            way = "renamed into place"
        if way == "junk":
            self.junk.add(path.name)
            part.write_bytes(part.read_bytes()[:9000])
            os.utime(part, (time.time() - 70,) * 2)  # nobody is still writing it
        else:
            (self.perhaps if way == "deleted later" else self.complete).add(digest_of(part))
        if way == "written in halves":
            content = part.read_bytes()
            path.write_bytes(content[:20_000])
        else:
            os.rename(part, path)
        if way not in ("junk", "renamed into place"):
            pause = self._chance.choice([0.0, 0.1, 0.3, 1.0, 5.0])
            self._later.append((time.monotonic() + pause, way, path))
            self._later.sort()

    def _follow_up(self) -> None:
        """Do what is due; a file that is half written for a minute is taken for junk."""
        while self._later and self._later[0][0] <= time.monotonic():
            self._follow(*self._later.pop(0)[1:])

    def _follow(self, way: str, path: Path) -> None:
        if way == "written in halves":
            part = path.with_suffix(".part")
            with open(path, "ab") as file:
                file.write(part.read_bytes()[20_000:])
            part.unlink()
        elif way == "renamed later":
            path.rename(path.with_name(f"renamed {path.name}"))
        elif way == "moved later":
            path.rename(self.place / "sub" / path.name)
        elif way == "linked later":
            os.link(path, self.place / "sub" / f"link to {path.name}")
        else:
            path.unlink()

    def _start(self) -> None:
        self._written, self.memory = self._size(), []
        with open(self.errors, "a") as errors:
            self._process = subprocess.Popen(self._command, stderr=errors)

    def _kill(self, number: signal.Signals) -> None:
        """Send a signal, once the process has written to the log."""
        began = time.monotonic()
        while self._size() <= self._written and time.monotonic() - began < 60:
            self._follow_up()
            time.sleep(0.01)
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        if code != CODES[number]:
            self.faults.append(f"{number.name}: exit code {code}")

    def _size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _measure(self) -> None:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
        self.memory += [int(kilobytes) for kilobytes in found]


def main() -> int:
    """Fit a detector, and let recordings arrive as the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3600)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    # in the background, SIGINT may be ignored, which processes would inherit: it must stop them
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="asdjax-busy-") as base:
        detector = Detector().fit(folder(Path(base) / "normal", range(24)))
        detector.save(Path(base) / "d.asd")
        (Path(base) / "busy").mkdir()
        busy = BusyFolder(Path(base) / "busy", Path(base) / "d.asd", chosen.seed)
        busy.receive(chosen.files, chosen.seconds, SIGNALS)
        memory = [f"{kilobytes / 1024:.0f}" for kilobytes in busy.memory[::30]]
        busy.finish()
        busy.compare(detector)
        print(*busy.faults, sep="\n", end="\n" * bool(busy.faults))
        print(
            f"{len(busy.complete)} recordings, {len(busy.perhaps)} deleted, {len(busy.junk)} "
            f"junk; {len(busy.faults)} faults; MB every 30 s: {' '.join(memory)}"
        )
    return int(bool(busy.faults))


if __name__ == "__main__":
    sys.exit(main())
