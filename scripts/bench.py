"""Speed of every stage that a user waits for: one JSON line per case, on standard output.

Each round measures a plain matrix product, then asdjax, then (with --torch-python) PyTorch on the
same layer shapes in a process of its own, so that a machine whose speed drifts cannot decide; the
ratio is the median over the rounds.
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from asdjax import audio, batches, compile_cache, config, host_memory, models, parallel, synth
from asdjax.architectures import BEATsConfig
from asdjax.backends import fit
from asdjax.config import BackendConfig, Config, SynthConfig
from asdjax.corpus import open_corpus
from asdjax.extract import extract
from asdjax.inference import RAW, ClipFiles, Embedder
from asdjax.learner import Learner
from asdjax.runs import Run
from asdjax.signal import fbank, stft

HERE = Path(__file__).parent
RATE = 16000
LEAST = 0.4  # seconds that one measurement takes at least
SIZES = 256, 1024, 4096  # of MultiResNet's transforms
GEMM = 2048  # rows and columns of the matrix product


@dataclasses.dataclass
class Case:
    """Something to measure."""

    about: dict[str, Any]
    clips: int
    ours: Callable[[], Any]
    """Does the work for `clips` clips and returns when it is done."""
    torch: tuple[str, dict[str, Any]] | None = None
    """Stage and options for scripts/bench_torch.py."""
    flop: float | None = None
    """Floating-point operations of one call."""
    dtype: str = "float32"
    """Of the matrix product that the speed is compared with."""


class Torch:
    """The other side: a Python with PyTorch, which answers requests one by one."""

    def __init__(self, python: str):
        self._process = subprocess.Popen(
            [python, str(HERE / "bench_torch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # threads that spin while the other side is measured would slow it down
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )

    def ask(self, stage: str, options: dict[str, Any], repeat: int = 1) -> dict[str, Any]:
        """The answer to one request."""
        request = {"stage": stage, "options": options, "repeat": repeat}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process ended"}
        if "error" in answer:
            sys.exit(f"bench_torch.py: {stage}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def gemm(dtype: str) -> Callable[[], Any]:
    """A square matrix product."""
    a = jnp.ones((GEMM, GEMM), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32))
    return lambda: product(a).block_until_ready()


def seconds(call: Callable[[], Any], times: int = 1) -> float:
    """Seconds of one call, as the mean of several."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - began) / times


def measure(case: Case, rounds: int, torch: Torch | None) -> dict[str, Any]:
    """Time a case turn by turn with what it is compared with."""
    peer = torch if case.torch else None
    first = seconds(case.ours)
    host_memory.trim()
    steady = seconds(case.ours)
    times = max(1, round(LEAST / steady))
    tasks = {"gemm": gemm(case.dtype)}
    tasks["gemm"]()
    ours, theirs, product, their_product = [], [], [], []
    options = {"size": GEMM, "dtype": case.dtype}
    if peer and "device" in case.torch[1]:
        options["device"] = case.torch[1]["device"]
    if peer:
        answer = peer.ask(*case.torch)
        their_times = max(1, round(LEAST / answer["seconds"][0]))
        peer.ask("gemm", options)
    for _ in range(rounds):
        product.append(seconds(tasks["gemm"], 5))
        ours.append(seconds(case.ours, times))
        if peer:
            time.sleep(0.3)  # its threads may spin for a while
            their_product.append(np.mean(peer.ask("gemm", options, 5)["seconds"]))
            theirs.append(np.mean(peer.ask(*case.torch, repeat=their_times)["seconds"]))
            time.sleep(0.3)
    peak = 2 * GEMM**3 / np.array([product, their_product or product]).min(axis=0)
    result = {
        **case.about,
        "clips_per_s": _rounded(case.clips / np.median(ours)),
        "clips_per_s_range": [_rounded(case.clips / f(ours)) for f in (np.max, np.min)],
        "first_call_s": _rounded(first),
        "gemm_gflop_per_s": _rounded(np.median(peak) / 1e9),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    if case.flop:
        speed = case.flop / np.array(ours)
        result["gflop_per_s"] = _rounded(np.median(speed) / 1e9)
        result["share_of_gemm"] = _rounded(np.median(speed / peak))
    if peer:
        ratio = np.array(theirs) / answer["clips"] * case.clips / np.array(ours)
        result["torch"] = answer["versions"]["torch"]
        result["torch_clips_per_s"] = _rounded(answer["clips"] / np.median(theirs))
        result["ratio"] = _rounded(np.median(ratio))
        result["ratio_range"] = [_rounded(f(ratio)) for f in (np.min, np.max)]
    return result


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def sound(batch: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Noise as 16-bit integers [batch, samples]."""
    return rng.integers(-9000, 9000, (batch, round(length * RATE)), dtype=np.int16)


def flop(function: Callable, *args: Any) -> float:
    """Operations as XLA counts them before it optimises."""
    return jax.jit(function).lower(*args).cost_analysis()["flops"]


def filterbank(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Kaldi filterbank of 10 s clips, from the host's integers."""
    for batch in options.batch or (1, 16):
        waves = sound(batch, options.seconds or 10, rng).astype(np.float32) / 32768
        run = jax.jit(lambda w: fbank.normalised(fbank.fbank(w)))
        about = {"seconds": options.seconds or 10, "batch": batch}
        yield Case(about, batch, lambda w=waves, f=run: f(w).block_until_ready(), ("fbank", about))


def spectrograms(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """The three spectrograms of MultiResNet."""
    for batch in options.batch or (8,):
        waves = sound(batch, options.seconds or 12, rng).astype(np.float32) / 32768
        run = jax.jit(lambda w: [stft.magnitude_spectrogram(w, n_fft=n, hop=n // 2) for n in SIZES])
        about = {"seconds": options.seconds or 12, "batch": batch}
        yield Case(about, batch, lambda w=waves, f=run: jax.block_until_ready(f(w)))


def _embedder(recipe: Config, length: float | None) -> tuple[Embedder, Any, Any]:
    """An embedder with random weights; its structure and weights."""
    n_samples = length and round(length * RATE)
    module = models.build(recipe.model, n_samples, RATE, seed=0)
    graphdef, params, stats = models.split(module)
    weights = {"params": {"model": params}, "stats": {"model": stats}}
    weights = jax.tree.map(np.asarray, weights)
    return Embedder(recipe, n_samples, weights), graphdef, weights


def multiresnet_embed(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Embeddings of MultiResNet, from the host's integers to the host's floats."""
    length = options.seconds or 12
    recipe = config.load("system1")
    embedder, graphdef, weights = _embedder(recipe, length)
    for batch in options.batch or (8, 64):
        waves = sound(batch, length, rng)
        arguments = (weights["params"]["model"], weights["stats"]["model"])
        work = flop(
            lambda p, s, w, g=graphdef: models.apply(g, p, s, w, train=False)[0],
            *arguments,
            waves.astype(np.float32),
        )
        about = {"seconds": length, "batch": batch}
        yield Case(
            about,
            batch,
            lambda w=waves: embedder(w),
            ("multiresnet_embed", about),
            work,
        )


def beats_embed(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Mean-pooled embeddings of BEATs (90 M), from the host's integers to the host's floats."""
    length = options.seconds or 10
    for dtype in options.dtype or ("float32", "bfloat16"):
        recipe = config.load("beats_frozen")
        model = dataclasses.replace(recipe.model, random_init=True, compute_dtype=dtype)
        embedder, graphdef, weights = _embedder(dataclasses.replace(recipe, model=model), None)
        for batch in options.batch or (1, 8):
            waves = list(sound(batch, length, rng))
            arguments = (weights["params"]["model"], weights["stats"]["model"])
            work = flop(
                lambda p, s, w, g=graphdef: models.apply(g, p, s, w, train=False)[0],
                *arguments,
                np.stack(waves).astype(np.float32),
            )
            about = {"seconds": length, "batch": batch, "dtype": dtype}
            yield Case(
                about,
                batch,
                lambda w=waves, e=embedder: e.embed(w, "mean"),
                ("beats_embed", about),
                work,
                dtype,
            )
        del embedder, weights


def _training(recipe: Config, length: float, batch: int, rng: np.random.Generator) -> Case:
    """A training step, from the host's integers to the loss."""
    learner = Learner(recipe, n_classes=16, n_samples=round(length * RATE))
    devices = parallel.local_devices(recipe.train.devices)
    step = parallel.training_step(learner.step, devices)
    data = {
        "waveform": sound(batch, length, rng),
        "label": rng.integers(0, 16, batch, dtype=np.int32),
    }
    data = parallel.split_batch(data, devices)
    state = [parallel.replicate(learner.start(), devices)]

    def run() -> None:
        state[0], metrics = step(state[0], data)
        jax.block_until_ready(metrics)

    work = step.lower(learner.shapes(), data).cost_analysis()["flops"]
    return Case({"seconds": length, "batch": batch}, batch, run, None, work)


def multiresnet_train(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """System 1's training step."""
    for batch in options.batch or (8, 64):
        case = _training(config.load("system1"), options.seconds or 12, batch, rng)
        case.torch = ("multiresnet_train", dict(case.about))
        yield case


def _beats_training(
    name: str, stage: str, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[Case]:
    recipe = config.load(name)
    for batch in options.batch or (8,):
        for remat in options.remat or ("none",):
            for dtype in options.dtype or ("float32",):
                change = {"random_init": True, "remat": remat, "compute_dtype": dtype}
                model = dataclasses.replace(recipe.model, **change)
                changed = dataclasses.replace(recipe, model=model)
                case = _training(changed, options.seconds or 10, batch, rng)
                case.about["dtype"] = case.dtype = dtype
                case.torch = (stage, dict(case.about))
                case.about["remat"] = remat
                yield case


def beats_train(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """System 2's training step: all of BEATs."""
    return _beats_training("system2", "beats_train", options, rng)


def lora_train(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """System 4's training step: adapters of rank 128."""
    return _beats_training("system4", "lora_train", options, rng)


def scoring(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Nearest neighbours with SMOTE, leave-one-out scores among them, per test clip."""
    for bank in options.batch or (1000, 10000):
        train = rng.standard_normal((bank, 512)).astype(np.float32)
        test = rng.standard_normal((200, 512)).astype(np.float32)
        is_target = np.arange(bank) < 10

        def run(train=train, test=test, is_target=is_target) -> None:
            backend = fit(BackendConfig(), train, is_target)
            backend.score(test)
            backend.leave_one_out()

        yield Case({"reference_bank": bank, "dimensions": 512}, len(test), run)


def _corpus(folder: Path, clips: int, length: float) -> Path:
    wanted = SynthConfig(machines=("fan",), train_source=clips // 2, train_target=2, seconds=length)
    synth.write(folder, dataclasses.replace(wanted, test_per_cell=max(1, clips // 8)))
    return folder


def reading(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """12 s stereo files from the page cache to integers: one by one, and in batches."""
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(_corpus(Path(folder), 64, options.seconds or 12).rglob("*.wav"))
        settings = config.load("system1").audio
        frames = [audio.inspect(path).frames for path in paths]

        def alone() -> None:
            for path in paths:
                audio.read(path, channel=None)

        def pipeline() -> None:
            for _ in batches.inference_batches(
                paths,
                frames,
                settings,
                batch_size=16,
                room=max(frames),
                two_channels=True,
                pcm16=True,
            ):
                pass

        about = {"seconds": options.seconds or 12}
        yield Case({**about, "reader": "loop"}, len(paths), alone)
        yield Case({**about, "reader": "pipeline"}, len(paths), pipeline)


def streaming(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Extraction from files against the same clips from memory, without reading."""
    length = options.seconds or 10
    cases = {"system1": (128, 64), "beats_frozen": (32, 16)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipe or cases:
            count, batch = cases[name]
            paths = sorted(_corpus(Path(folder) / name, count, length).rglob("*.wav"))[:count]
            recipe = config.load(name)
            if isinstance(recipe.model, BEATsConfig):
                model = dataclasses.replace(recipe.model, random_init=True)
                recipe = dataclasses.replace(recipe, model=model)
            embedder, _, _ = _embedder(recipe, recipe.audio.clip_seconds)
            frames = [audio.inspect(path).frames for path in paths]
            files = ClipFiles(paths, frames, max(frames), min(frames), True, batch)
            waves = np.stack([audio.read(path, channel=0) for path in paths])
            waves = np.stack([audio.fit_length(w, embedder.n_samples) for w in waves])

            def from_files(e=embedder, f=files) -> None:
                for _ in e.stream(f, (RAW,)):
                    pass

            def from_memory(e=embedder, w=waves, b=batch) -> None:
                e.embed(list(w), "head")

            about = {"recipe": name, "seconds": length, "batch": batch}
            yield Case({**about, "clips_from": "memory"}, count, from_memory)
            yield Case({**about, "clips_from": "files"}, count, from_files)


def end_to_end(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """The verbs themselves in this process: System 1's `extract`, three views."""
    with tempfile.TemporaryDirectory() as folder:
        data = _corpus(Path(folder) / "data", 64, options.seconds or 10)
        recipe = config.load("system1")
        changes = dataclasses.replace(recipe.train, epochs=1, batch_size=8)
        recipe = dataclasses.replace(recipe, train=changes)
        from asdjax import train

        run, corpus = Run(Path(folder) / "run"), open_corpus(data, recipe)
        train.train(recipe, corpus, run)
        clips = len(list(data.rglob("*.wav")))

        def again() -> None:
            shutil.rmtree(run.path / "embeddings", ignore_errors=True)
            extract(run, corpus)

        yield Case({"verb": "extract", "views": 3, "seconds": options.seconds or 10}, clips, again)


def start(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Processes from start to end: help, and `check`, `embed` and `train` cold and warm."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = _corpus(root / "data", 16, 10.0)
        clip = str(next(data.rglob("*.wav")))
        own = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
        environment = {**own, "XDG_CACHE_HOME": str(root / "cache")}

        def command(*arguments: str) -> None:
            subprocess.run(
                [sys.executable, "-m", "asdjax.cli", *arguments],
                env=environment,
                check=True,
                capture_output=True,
            )

        def training() -> None:
            shutil.rmtree(root / "run", ignore_errors=True)
            few = ("--train.epochs", "1", "--train.batch-size", "8", "--audio.clip-seconds", "10")
            command("train", "system1", "--data", str(data), "--run", str(root / "run"), *few)

        def embedding() -> None:
            out = str(root / "out.npz")
            command("embed", str(root / "run"), clip, "--out", out, "--overwrite")

        yield Case({"command": "--help"}, 1, lambda: command("--help"))
        yield Case({"command": "train system1, one step"}, 1, training)
        yield Case({"command": "embed, one clip"}, 1, embedding)


STAGES: dict[str, Callable[..., Iterator[Case]]] = {
    "reading": reading,
    "filterbank": filterbank,
    "spectrograms": spectrograms,
    "multiresnet_embed": multiresnet_embed,
    "beats_embed": beats_embed,
    "multiresnet_train": multiresnet_train,
    "lora_train": lora_train,
    "beats_train": beats_train,
    "scoring": scoring,
    "streaming": streaming,
    "end_to_end": end_to_end,
    "start": start,
}


def main(argv: list[str]) -> None:
    """Measure the stages that were asked for, each in a process of its own if they are several."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; default: all")
    parser.add_argument("--torch-python", help="a Python that has PyTorch, to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, nargs="*", help="batch sizes instead of the stage's")
    parser.add_argument("--seconds", type=float, help="length of the clips")
    parser.add_argument("--dtype", nargs="*", choices=["float32", "bfloat16"])
    parser.add_argument("--remat", nargs="*", choices=["none", "attention", "full"])
    parser.add_argument("--recipe", nargs="*", help="of streaming")
    parser.add_argument("--device", choices=["cpu", "gpu", "tpu"], help="instead of JAX's choice")
    options = parser.parse_args(argv)
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"no stage {', '.join(sorted(unknown))}: choose from {', '.join(STAGES)}")
    stages = options.stages or list(STAGES)
    if len(stages) > 1:
        rest = [argument for argument in argv if argument not in STAGES]
        results = [subprocess.run([sys.executable, __file__, s, *rest]).returncode for s in stages]
        sys.exit(max(results))
    if options.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    host_memory.keep()  # as the command does
    compile_cache.use()
    about = {
        "bench": stages[0],
        "device": jax.devices()[0].device_kind,
        "devices": len(jax.devices()),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("asdjax", "jax", "jaxlib", "numpy")},
    }
    torch = Torch(options.torch_python) if options.torch_python else None
    for case in STAGES[stages[0]](options, np.random.default_rng(0)):
        if case.torch and options.device == "gpu":
            case.torch = (case.torch[0], {**case.torch[1], "device": "cuda"})
        print(json.dumps({**about, **measure(case, options.rounds, torch)}), flush=True)
        if torch:
            torch.ask("drop", {})
    if torch:
        torch.close()


if __name__ == "__main__":
    main(sys.argv[1:])
