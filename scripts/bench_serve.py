"""Measure asdjax serve: requests at a fixed rate, and how long their answers take.

Called by scripts/bench_serve. Requests come at their times whether or not earlier ones have been
answered, from a process of their own. The clips are those of a synthetic machine.
"""

import argparse
import concurrent.futures
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import driver
import numpy as np
import soundfile

from asdjax import Detector
from asdjax.config.recipe import SynthConfig
from asdjax.synth import corpus

RATE = 16_000
_THREADS = 64
_FIRST = 2.0  # seconds that are not counted


def main(argv: Sequence[str]) -> int:
    """Measure and print a JSON line; returns 0."""
    parser = argparse.ArgumentParser(prog="bench_serve", description="Measure asdjax serve.")
    parser.add_argument("--rates", type=float, nargs="+", default=[25, 50, 100], help="per second")
    parser.add_argument("--seconds", type=driver.seconds, default=20.0, help="of requests")
    parser.add_argument(
        "--clip", type=driver.seconds, default=2.0, help="length of a clip, seconds"
    )
    options = parser.parse_args(argv)
    train, test = _sounds(options.clip)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.asd"
        Detector().fit(train).save(path)
        command = [sys.executable, "-m", "asdjax", "serve", str(path), "--port", "0"]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "listening" in line)
            port = int(re.findall(r":([0-9]+) ", line)[0])
            bodies = [_wav(wave) for wave in test]
            for rate in options.rates:
                print(json.dumps(_measure(port, bodies, rate, options.seconds)), flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    return 0


def _sounds(seconds: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Training and test clips of a fan, near channel."""
    config = SynthConfig(
        machines=("fan",), train_source=40, train_target=0, test_per_cell=20, seconds=seconds
    )
    train, test = [], []
    for clip in corpus.clips(config):
        near = sum(part[0] for part in corpus.components(config, clip))
        (train if clip.split == "train" else test).append(near)
    return train, test


def _wav(wave: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _measure(port: int, bodies: Sequence[bytes], rate: float, seconds: float) -> dict:
    """Median and higher quantiles of the answers' times in milliseconds, and the statuses."""
    start = time.monotonic() + 0.5

    def one(i: int) -> tuple[float, float, int]:
        due = start + i / rate
        time.sleep(max(0.0, due - time.monotonic()))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/predict", bodies[i % len(bodies)])
        response = connection.getresponse()
        response.read()
        connection.close()
        return due - start, time.monotonic() - due, response.status

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(one, range(round(rate * seconds))))
    times = np.array([taken for due, taken, _ in found if due >= _FIRST])
    median, high, highest = np.quantile(times, [0.5, 0.95, 0.99]) * 1000
    return {
        "rate": rate,
        "median_ms": round(median, 1),
        "p95_ms": round(high, 1),
        "p99_ms": round(highest, 1),
        "statuses": dict(Counter(status for _, _, status in found)),
    }
