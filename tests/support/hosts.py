"""Processes that train together on this machine, and what one of them computes for a test.

python -m support.hosts COORDINATOR PROCESSES PROCESS OUT runs ten steps in double precision.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

HERE = Path(__file__).parent.parent
TINY = str(HERE / "tiny.yaml")
CLIPS, STEPS = 8, 10


class Together:
    """Two processes, each of two simulated devices."""

    def __init__(self, *programs: Sequence[str]):
        """Start a Python program in each, with `COORDINATOR` in its arguments replaced."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        variables = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
        variables.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it in this process
        self.processes = [
            subprocess.Popen(
                [sys.executable, *(a.replace("COORDINATOR", self.coordinator) for a in program)],
                env=variables,
                cwd=HERE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for program in programs
        ]

    def __enter__(self) -> "Together":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def ends(self, seconds: float = 300) -> list[tuple[int, str]]:
        """Exit code and standard error of each, when all have ended."""
        found = [process.communicate(timeout=seconds)[1] for process in self.processes]
        return [(p.returncode, words) for p, words in zip(self.processes, found, strict=True)]


def command(*args: str, number: int = 0, of: int = 2, timeout: int = 120) -> list[str]:
    """The arguments of Python for one of the processes of a command."""
    job = ["--coordinator", "COORDINATOR", "--num-processes", str(of), "--process-id", str(number)]
    return ["-m", "asdjax", *args, *job, "--join-timeout", str(timeout)]


def ten_steps(rows: tuple[int, int], devices: int) -> dict[str, np.ndarray]:
    """Train on these rows (process, of how many) of ten batches of noise, in double precision."""
    from asdjax.config import recipe as configs
    from asdjax.training.learner import Learner
    from support.training_steps import SMALL_SAMPLES, embedded, in_float64, noise, run_steps

    batches = noise(np.random.default_rng(0), CLIPS, STEPS)
    process, count = rows
    share = slice(process * CLIPS // count, (process + 1) * CLIPS // count)
    mine = [{name: a[share] for name, a in batch.items()} for batch in batches]
    config = configs.load(TINY)
    model = dataclasses.replace(config.model, stage_channels=(4,), branch_size=8)
    config = dataclasses.replace(config, model=model)
    learner = Learner(config, n_classes=3, n_samples=SMALL_SAMPLES)
    after, losses = run_steps(learner, in_float64(learner.start()), mine, devices)
    wave = batches[0]["waveform"].astype(np.float64) / 32768
    return {
        "loss": np.array(losses),
        "embedding": np.asarray(embedded(learner, after.weights, after.frozen, wave)),
        "scale": after.stats["head"]["scale"],
    }


def main(coordinator: str, count: str, process: str, out: str) -> None:
    """What one process finds; an array file, and JSON."""
    from asdjax.errors import AsdjaxError
    from asdjax.runtime import parallel
    from asdjax.runtime.hosts import Hosts

    jax.config.update("jax_enable_x64", True)
    job = Hosts(coordinator=coordinator, num_processes=int(count), process_id=int(process))
    parallel.join(job)
    mine, of = parallel.process()
    signs = np.array([[-0.0, 0.0], [np.pi, mine]])
    sent = parallel.of_first({"a": signs, "b": np.array(-0.0, np.float32)})
    tree = {"a": {"b": signs}, "none": {}} if mine == 0 else None
    rows = parallel.share_arrays({"rows": signs[: 1 + mine], "flags": np.array([True, mine == 1])})
    any_process = parallel.AnyProcess(jax.local_devices())
    facts = {
        "shared": parallel.share({"process": mine, "text": "é" * (1 + 5 * mine)}),
        "sent": [sent["a"].tobytes().hex(), sent["b"].tobytes().hex()],
        "tree": jax.tree.map(lambda a: [a.dtype.name, a.tolist()], parallel.tree_of_first(tree)),
        "rows": [{name: array.tolist() for name, array in found.items()} for found in rows],
        "asked": [any_process(False), any_process(mine == 1), any_process(False)],
    }
    try:
        parallel.require_equal({"the settings": 1, "the clips": mine, "the weights": mine})
    except AsdjaxError as error:
        facts["differ"] = str(error)
    np.savez(f"{out}.npz", **ten_steps((mine, of), len(jax.local_devices())))
    Path(f"{out}.json").write_text(json.dumps(facts))
    parallel.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
