"""Speed of every stage that a user waits for: one JSON line per case, on standard output.

Each round measures a plain matrix product, then asdjax, then (with --torch-python) PyTorch on the
same layer shapes in a process of its own, so that a machine whose speed drifts cannot decide; the
ratio is the median over the rounds. Peak memory is the most that the process has had until then: to
know that of a later case, ask for it alone. `compile_s` is the time of compiling, or of fetching
what was kept of an earlier start; `programs_kept` counts the latter.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from asdjax.__main__ import start
from asdjax.runtime import host_memory

if __name__ == "__main__":
    host_memory.keep()  # as the command does, before JAX starts threads
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs room, too

# ruff: noqa: E402 (what follows starts those threads)
import driver
import jax
import jax.numpy as jnp
import numpy as np
from bench_commands import COMMANDS
from bench_stages import ON_DEVICE, ON_HOST, Case

from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.runtime import compile_cache, interruption

HERE = Path(__file__).parent
STAGES = ON_DEVICE | ON_HOST | COMMANDS
LEAST = 0.4  # seconds that one measurement takes at least
GEMM = {"cpu": 2048}  # rows and columns of the matrix product, by kind of device
BIG_GEMM = 8192  # of others


class TorchError(Exception):
    """The other side could not do what was asked for."""


class Torch:
    """The other side: a Python with PyTorch, which answers requests one by one."""

    def __init__(self, python: str):
        try:
            self._process = subprocess.Popen(
                [python, str(HERE / "bench_torch.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise AsdjaxError(
                f"--torch-python {python}: cannot be run ({error.strerror}): name a Python that "
                "has PyTorch"
            ) from error
        try:
            self.ask("drop", {})
        except TorchError as error:
            raise AsdjaxError(
                f"--torch-python {python}: answers nothing, see above: name a Python that has "
                "PyTorch and NumPy"
            ) from error

    def ask(self, stage: str, options: dict[str, Any], repeat: int = 1) -> dict[str, Any]:
        """The answer to one request; `TorchError` where there is none."""
        request = {"stage": stage, "options": options, "repeat": repeat}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            raise TorchError(f"{stage}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def gemm_size() -> int:
    """Rows and columns of a matrix product that occupies the device."""
    return GEMM.get(jax.default_backend(), BIG_GEMM)


def gemm(dtype: str) -> Callable[[int], Any]:
    """A square matrix product, dispatched as often as is asked for and awaited once."""
    size = gemm_size()
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    how = {"preferred_element_type": jnp.float32, "precision": "highest"}  # no TF32
    product = jax.jit(lambda a: jnp.matmul(a, a, **how))
    return lambda times: jax.block_until_ready([product(a) for _ in range(times)][-1])


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """Seconds of one call, as the mean of several."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def measure(case: Case, rounds: int, torch: Torch | None) -> dict[str, Any]:
    """Time a case turn by turn with what it is compared with."""
    peer = torch if case.torch else None
    with _compiling() as (compiled, kept):
        first = seconds(case.ours)
    steady = seconds(case.ours)
    if case.beside:
        case.beside[1]()
    times = max(1, round(LEAST / steady))
    result = dict(case.about)
    options = {"size": gemm_size(), "dtype": case.dtype}
    if peer and "device" in case.torch[1]:
        options["device"] = case.torch[1]["device"]
    try:
        if peer:
            answer = peer.ask(*case.torch)
            their_times = max(1, round(LEAST / answer["seconds"][0]))
            theirs_once = np.mean(peer.ask("gemm", options, 2)["seconds"])
    except TorchError as error:
        peer, result["torch_error"] = None, str(error)
    ours, theirs, product, their_product, beside = [], [], [], [], []
    if case.flop:
        ask_gemm = gemm(case.dtype)
        ask_gemm(1)
        products = max(5, round(LEAST / seconds(lambda: ask_gemm(1))))
    for _ in range(rounds):
        if case.flop:
            product.append(seconds(lambda: ask_gemm(products)) / products)
        ours.append(seconds(case.ours, times))
        if case.beside:
            beside.append(seconds(case.beside[1], times))
        if peer:
            time.sleep(0.3)  # its threads may spin for a while
            if case.flop:
                many = max(5, round(LEAST / theirs_once))
                their_product.append(np.mean(peer.ask("gemm", options, many)["seconds"]))
            theirs.append(np.mean(peer.ask(*case.torch, repeat=their_times)["seconds"]))
            time.sleep(0.3)
    result |= {
        "clips_per_s": _rounded(case.clips / np.median(ours)),
        "clips_per_s_range": [_rounded(case.clips / f(ours)) for f in (np.max, np.min)],
        "first_call_s": _rounded(first),
    }
    if compiled:
        result |= {"compile_s": _rounded(sum(compiled)), "programs_kept": len(kept)}
    if case.here:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["peak_memory_mb"] = round(most / 1024)
    if (held := jax.local_devices()[0].memory_stats()) and "peak_bytes_in_use" in held:
        result["peak_device_memory_mb"] = round(held["peak_bytes_in_use"] / 2**20)
    if case.beside:
        name, over = case.beside[0], np.array(ours) / beside
        result[f"seconds_over_{name}"] = _rounded(np.median(over))
        result[f"seconds_over_{name}_range"] = [_rounded(f(over)) for f in (np.min, np.max)]
    if case.flop:
        peak = 2 * gemm_size() ** 3 / np.array([product, their_product or product]).min(axis=0)
        if jax.default_backend() != "cpu":  # simulated devices share the processors
            peak *= jax.local_device_count()
        speed = case.flop / np.array(ours)
        result["gemm_gflop_per_s"] = _rounded(np.median(peak) / 1e9)
        result["gflop_per_s"] = _rounded(np.median(speed) / 1e9)
        result["share_of_gemm"] = _rounded(np.median(speed / peak))
    if peer:
        ratio = np.array(theirs) / answer["clips"] * case.clips / np.array(ours)
        result |= {"torch": answer["torch"], "torch_threads": answer["threads"]}
        result["torch_clips_per_s"] = _rounded(answer["clips"] / np.median(theirs))
        result["ratio"] = _rounded(np.median(ratio))
        result["ratio_range"] = [_rounded(f(ratio)) for f in (np.min, np.max)]
    return result | (case.check() if case.check else {})


@contextlib.contextmanager
def _compiling() -> Iterator[tuple[list[float], list[str]]]:
    """Seconds of every compilation meanwhile in this process, and an entry for each fetched one."""
    spent: list[float] = []
    kept: list[str] = []

    def compiled(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            spent.append(duration)

    def fetched(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            kept.append(event)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(fetched)
    try:
        yield spent, kept
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)
        jax.monitoring.unregister_event_listener(fetched)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _stage(stage: str, rest: list[str]) -> int:
    """Measure a stage in a process of its own; how it ended. Wrong usage ends this one, too."""
    with driver.running([sys.executable, __file__, stage, *rest]) as process:
        status = process.wait()
    if status == 2:
        sys.exit(status)
    if status:
        print(f"bench: {stage} ended with {status}", file=sys.stderr)
    return int(status != 0)  # a signal's is negative


def main(argv: list[str]) -> None:
    """Measure the stages that were asked for, each in a process of its own if they are several."""
    interruption.watch()
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        help=f"some of {', '.join(STAGES)}; default: all, on an accelerator the first "
        f"{len(ON_DEVICE)}, which use it",
    )
    parser.add_argument("--torch-python", help="a Python that has PyTorch, to compare with")
    parser.add_argument("--rounds", type=driver.count, default=5)
    parser.add_argument(
        "--batch", type=driver.count, nargs="*", help="batch sizes instead of the stage's"
    )
    parser.add_argument("--seconds", type=driver.seconds, help="length of the clips")
    parser.add_argument("--dtype", nargs="*", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", nargs="*", choices=["none", "attention", "full"])
    parser.add_argument("--recipe", nargs="*", help="of streaming and views")
    parser.add_argument("--clips", type=driver.count, help="of streaming and views")
    parser.add_argument("--devices", type=driver.count, help="simulated devices, on a CPU")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="instead of JAX's choice")
    parser.add_argument("--no-compile-cache", action="store_true", help="compile everything anew")
    options = parser.parse_args(argv)
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    for recipe in options.recipe or ():
        configs.load(recipe)
    stages = options.stages or list(ON_DEVICE if options.device in ("gpu", "tpu") else STAGES)
    if len(stages) > 1:
        rest = [argument for argument in argv if argument not in STAGES]
        sys.exit(max(_stage(stage, rest) for stage in stages))
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif "cpu" not in (jax.config.jax_platforms or "cpu"):  # operations are counted for a CPU
        jax.config.update("jax_platforms", f"{jax.config.jax_platforms},cpu")
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.device and options.device != jax.default_backend():
        extra = {"gpu": "cuda"}.get(options.device, options.device)
        parser.error(
            f"JAX finds no {options.device}, but {jax.default_backend()}: "
            f"pip install 'jax[{extra}]' into {sys.prefix}"
        )
    if options.torch_python and jax.default_backend() == "tpu":
        parser.error("--torch-python: the PyTorch side knows CPUs and NVIDIA GPUs alone")
    if not options.no_compile_cache:
        compile_cache.use()
    about = {
        "bench": stages[0],
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "threads": len(os.sched_getaffinity(0)),
        "compile_cache": not options.no_compile_cache,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("asdjax", "jax", "jaxlib", "numpy")},
    }
    torch = Torch(options.torch_python) if options.torch_python else None
    try:
        for case in STAGES[stages[0]](options, np.random.default_rng(0)):
            if case.torch and jax.default_backend() == "gpu":
                case.torch = (case.torch[0], {**case.torch[1], "device": "cuda"})
            figures = measure(case, options.rounds, torch)
            print(json.dumps({**about, **figures}), flush=True)
            if torch:
                torch.ask("drop", {})
    except AsdjaxError as error:  # such as a batch of one in training
        sys.exit(f"bench: {stages[0]}: {error}")
    finally:
        compile_cache.seal()
    if torch:
        torch.close()


if __name__ == "__main__":
    sys.exit(start(partial(main, sys.argv[1:]), "the figures above stand"))
