"""Speed of every stage, one JSON line per case on standard output.

Each round measures a matrix product, then asdjax, then (with --torch-python) PyTorch with the same
layer shapes in another process. The measurements alternate because a machine's speed may drift; the
ratio is the median over the rounds. Peak memory is that of the process so far: measure a case alone
for its own. `compile_s` is the time of compiling or of reading programs from the cache;
`programs_kept` is the number read from it.
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
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leave memory to PyTorch

# ruff: noqa: E402 (these imports start threads)
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
LEAST = 0.4  # seconds per measurement at least
VISIT = 480  # seconds for all stages on an accelerator, with compilation
GEMM = {"cpu": 2048}  # rows and columns of the matrix product, by kind of device
BIG_GEMM = 8192  # on other devices


class TorchError(Exception):
    """PyTorch cannot measure a stage."""


class Torch:
    """A process of a Python with PyTorch (bench_torch.py), which answers one request at a time."""

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
                f"--torch-python {python}: cannot be run ({error.strerror}): give a Python that "
                "has PyTorch"
            ) from error
        try:
            self.ask("drop", {})
        except TorchError as error:
            raise AsdjaxError(
                f"--torch-python {python}: does not answer, see above: give a Python that has "
                "PyTorch and NumPy"
            ) from error

    def ask(self, stage: str, options: dict[str, Any], repeat: int = 1) -> dict[str, Any]:
        """The answer to one request; `TorchError` if it fails."""
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
    """Rows and columns of a matrix product that uses the device fully."""
    return GEMM.get(jax.default_backend(), BIG_GEMM)


def gemm(dtype: str) -> Callable[[int], Any]:
    """A function that computes a square matrix product `times` times and waits for the last."""
    size = gemm_size()
    kind = jnp.bfloat16 if dtype == "bfloat16" else jnp.float32
    a = jax.random.normal(jax.random.key(0), (size, size), kind)
    precision = "high" if dtype == "tensorfloat32" else "highest"
    how = {"preferred_element_type": jnp.float32, "precision": precision}
    product = jax.jit(lambda a: jnp.matmul(a, a, **how))
    return lambda times: jax.block_until_ready([product(a) for _ in range(times)][-1])


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """Mean seconds per call."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def measure(case: Case, rounds: int, torch: Torch | None) -> dict[str, Any]:
    """Time a case, in alternation with what it is compared with."""
    peer = torch if case.torch else None
    with _compiling() as (compiled, cached):
        first = seconds(case.ours)
    steady = seconds(case.ours)
    if case.alternative:
        case.alternative[1]()
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
    ours, theirs, product, their_product, alternative = [], [], [], [], []
    if case.flop:
        ask_gemm = gemm(case.dtype)
        ask_gemm(1)
        products = max(5, round(LEAST / seconds(lambda: ask_gemm(1))))
    for _ in range(rounds):
        if case.flop:
            product.append(seconds(lambda: ask_gemm(products)) / products)
        ours.append(seconds(case.ours, times))
        if case.alternative:
            alternative.append(seconds(case.alternative[1], times))
        if peer:
            time.sleep(0.3)  # its threads may be busy for a while
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
        result |= {"compile_s": _rounded(sum(compiled)), "programs_kept": len(cached)}
    if case.here:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["peak_memory_mb"] = round(most / 1024)
    if (held := jax.local_devices()[0].memory_stats()) and "peak_bytes_in_use" in held:
        result["peak_device_memory_mb"] = round(held["peak_bytes_in_use"] / 2**20)
    if case.alternative:
        name, over = case.alternative[0], np.array(ours) / alternative
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
    """Seconds of each compilation in the block, and an entry for each program from the cache."""
    spent: list[float] = []
    cached: list[str] = []

    def compiled(event: str, duration: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            spent.append(duration)

    def fetched(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            cached.append(event)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    jax.monitoring.register_event_listener(fetched)
    try:
        yield spent, cached
    finally:
        jax.monitoring.unregister_event_duration_listener(compiled)
        jax.monitoring.unregister_event_listener(fetched)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _stage(stage: str, rest: list[str], limit: float | None) -> int:
    """Measure a stage in a new process; 0 if it succeeded. Wrong usage ends this process, too.

    Args:
        stage: its name.
        rest: the other arguments of the command line.
        limit: seconds after which it is stopped; the figures that it has printed stay.
    """
    with driver.running([sys.executable, __file__, stage, *rest]) as process:
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()  # a compilation answers to nothing else
            print(f"bench: {stage}: stopped after {limit:g} s (--limit)", file=sys.stderr)
            return 1
    if status == 2:
        sys.exit(status)
    if status:
        print(f"bench: {stage} ended with {status}", file=sys.stderr)
    return int(status != 0)  # a signal's is negative


def main(argv: list[str]) -> None:
    """Measure the given stages, each in a new process if there are several."""
    interruption.watch()
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "stages",
        nargs="*",
        help=f"some of {', '.join(STAGES)}; default: all, or with --device gpu or tpu the first "
        f"{len(ON_DEVICE)}",
    )
    parser.add_argument("--torch-python", help="a Python with PyTorch, to compare with")
    parser.add_argument("--rounds", type=driver.count, default=5)
    parser.add_argument(
        "--batch", type=driver.count, nargs="*", help="batch sizes instead of the defaults"
    )
    parser.add_argument("--seconds", type=driver.seconds, help="length of the clips")
    parser.add_argument("--dtype", nargs="*", choices=["float32", "tensorfloat32", "bfloat16"])
    parser.add_argument("--remat", nargs="*", choices=["none", "attention", "full"])
    parser.add_argument(
        "--parallel", choices=["pmap", "shard_map"], default="pmap", help="of the training stages"
    )
    parser.add_argument("--recipe", nargs="*", help="recipes of streaming and views")
    parser.add_argument("--clips", type=driver.count, help="number of clips of streaming and views")
    parser.add_argument("--devices", type=driver.count, help="number of simulated devices on a CPU")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="default: JAX's choice")
    parser.add_argument(
        "--limit",
        type=driver.seconds,
        help="seconds for each of several stages; default: none, or with --device gpu or tpu "
        f"{VISIT} in all",
    )
    parser.add_argument(
        "--no-compile-cache", action="store_true", help="compile all programs again"
    )
    options = parser.parse_args(argv)
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    for recipe in options.recipe or ():
        configs.load(recipe)
    on_accelerator = options.device in ("gpu", "tpu")
    stages = options.stages or list(ON_DEVICE if on_accelerator else STAGES)
    if len(stages) > 1:
        rest = [argument for argument in argv if argument not in STAGES]
        limit = options.limit or (VISIT / len(stages) if on_accelerator else None)
        sys.exit(max([_stage(stage, rest, limit) for stage in stages]))
    if options.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    elif "cpu" not in (jax.config.jax_platforms or "cpu"):  # the CPU counts operations
        jax.config.update("jax_platforms", f"{jax.config.jax_platforms},cpu")
    if options.devices:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.device and options.device != jax.default_backend():
        extra = {"gpu": "cuda"}.get(options.device, options.device)
        parser.error(
            f"--device {options.device}: JAX only finds {jax.default_backend()}: "
            f"pip install 'jax[{extra}]' into {sys.prefix}"
        )
    if options.torch_python and jax.default_backend() == "tpu":
        parser.error("--torch-python: possible on CPUs and NVIDIA GPUs only")
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
    sys.exit(start(partial(main, sys.argv[1:]), "the figures above are complete"))
