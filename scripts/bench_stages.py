"""Stages of scripts/bench.py for parts of asdjax: a generator of cases for each stage."""

import argparse
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.neighbors import NearestNeighbors

from asdjax.config import recipe as configs
from asdjax.config.interfaces import View
from asdjax.config.recipe import Config, SynthConfig
from asdjax.data import audio, batches
from asdjax.data.samples import to_float
from asdjax.embedder import Embedder, extraction
from asdjax.embedder.extraction import ClipFiles
from asdjax.embedder.network import AT_ONCE
from asdjax.models import building, parameters
from asdjax.runtime import parallel
from asdjax.scoring.backends import Fitted, fit
from asdjax.scoring.nearest_neighbours import NearestNeighbours
from asdjax.signal import fbank, stft
from asdjax.signal import views as signal_views
from asdjax.signal.view_raw import RAW
from asdjax.synth import corpus as synth
from asdjax.training.learner import Learner

RATE = 16000
SIZES = 256, 1024, 4096  # of MultiResNet's transforms
CPUINFO = Path("/proc/cpuinfo")
BFLOAT16 = re.compile(r"amx_bf16|avx512_bf16|\bbf16\b")
"""Linux's names of bfloat16 instructions; without them, PyTorch's products take minutes."""


@dataclasses.dataclass
class Case:
    """A measurement."""

    about: dict[str, Any]
    clips: int
    ours: Callable[[], Any]
    """Processes `clips` clips and returns when done."""
    torch: tuple[str, dict[str, Any]] | None = None
    """Stage and options for scripts/bench_torch.py."""
    flop: float | None = None
    """Floating-point operations of one call."""
    dtype: str = "float32"
    """Type of the matrix product that the speed is compared with."""
    alternative: tuple[str, Callable[[], Any]] | None = None
    """Name and function of another way to process as many clips, measured in alternation."""
    here: bool = True
    """Whether this process does the work, so that its peak memory is reported."""
    check: Callable[[], dict[str, Any]] | None = None
    """Further figures about the results of `ours`."""


def sound(batch: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Noise as 16-bit integers [batch, samples]."""
    return rng.integers(-9000, 9000, (batch, round(length * RATE)), dtype=np.int16)


def flop(function: Callable, *args: Any) -> float:
    """Operations counted by XLA before optimisation, for a CPU; other devices do not count them.

    The body of a loop is counted once, of branches the most expensive one, and rematerialised
    values each time.
    """
    with jax.default_device(jax.devices("cpu")[0]):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]


def filterbank(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Kaldi filterbank of 10 s clips, from the host's floats."""
    for batch in options.batch or (1, 16):
        waves = sound(batch, options.seconds or 10, rng).astype(np.float32) / 32768
        run = jax.jit(lambda w: fbank.normalised(fbank.fbank(w)))
        about = {"seconds": options.seconds or 10, "batch": batch}
        work = batch * flop(fbank.fbank, waves[:1])
        yield Case(about, batch, partial(_finished, run, waves), ("fbank", about), work)


def spectrograms(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """The three spectrograms of MultiResNet."""
    for batch in options.batch or (8,):
        waves = sound(batch, options.seconds or 12, rng).astype(np.float32) / 32768
        run = jax.jit(lambda w: [stft.magnitude_spectrogram(w, n_fft=n, hop=n // 2) for n in SIZES])
        about = {"seconds": options.seconds or 12, "batch": batch}
        work = flop(run, waves)
        yield Case(about, batch, partial(_finished, run, waves), ("spectrograms", about), work)


def embedder_and_work(
    recipe: Config, length: float | None
) -> tuple[Embedder, Callable[..., float]]:
    """An embedder with random weights, and a function that counts its operations on [B, T]."""
    n_samples = length and round(length * RATE)
    module = building.build(recipe.model, n_samples, RATE, seed=0)
    _, params, stats = parameters.split(module)
    weights = {"params": {"model": params}, "stats": {"model": stats}}
    weights = jax.tree.map(np.asarray, weights)
    plain = recipe.model.on_platform("cpu")
    graphdef, _, _ = parameters.split(building.skeleton(plain, n_samples, RATE))

    def embed(params: Any, stats: Any, waves: jax.Array) -> jax.Array:
        return parameters.apply(graphdef, params, stats, waves, train=False)[0]

    def work(waves: np.ndarray) -> float:
        return flop(embed, params, stats, waves.astype(np.float32))

    return Embedder(recipe, n_samples, weights), work


def multiresnet_embed(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Embeddings of MultiResNet, from the host's integers to the host's floats."""
    length = options.seconds or 12
    for dtype in options.dtype or _training_dtypes():
        recipe = _computing_in(dtype, configs.load("system1"))
        for batch in options.batch or (8, 64):
            extract = dataclasses.replace(recipe.extract, batch_size=batch)
            embedder, work = embedder_and_work(dataclasses.replace(recipe, extract=extract), length)
            waves = sound(batch, length, rng)
            about = {"seconds": length, "batch": batch, "dtype": dtype}
            run = partial(embedder.embed, list(waves))
            yield Case(about, batch, run, ("multiresnet_embed", about), work(waves), dtype)


def _computing_in(dtype: str, recipe: Config, **changes: Any) -> Config:
    model = dataclasses.replace(recipe.model, compute_dtype=dtype, **changes)
    return dataclasses.replace(recipe, model=model)


def _training_dtypes() -> list[str]:
    """Default types: XLA is slow on CPUs for convolutions and gradients in bfloat16."""
    return ["float32"] if jax.default_backend() == "cpu" else ["tensorfloat32", "bfloat16"]


def embedding_dtypes(options: argparse.Namespace) -> list[str]:
    """The given types; else float32, and bfloat16 if the device has instructions for it."""
    about = CPUINFO.read_text("utf-8", "replace") if CPUINFO.exists() else ""
    fast = jax.default_backend() != "cpu" or BFLOAT16.search(about)
    return options.dtype or (["float32", "bfloat16"] if fast else ["float32"])


def beats_embed(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Mean-pooled embeddings of BEATs (90 M), from the host's integers to the host's floats."""
    length = options.seconds or 10
    kinds = [(dtype, False) for dtype in embedding_dtypes(options)]
    if jax.default_backend() == "gpu" and ("bfloat16", False) in kinds:
        kinds.append(("bfloat16", True))
    sizes = (
        (1, 8) if jax.default_backend() == "cpu" else (1, 64)
    )  # one clip does not use a GPU fully
    exact: dict[int, np.ndarray] = {}

    def rounding(run: Callable[[], Any], batch: int, dtype: str) -> dict[str, float]:
        embeddings = np.stack(run())
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        if dtype == "float32":
            exact[batch] = embeddings
        if dtype == "float32" or batch not in exact:
            return {}
        return {"least_cosine_to_float32": float(np.sum(exact[batch] * embeddings, axis=1).min())}

    for dtype, fused in kinds:
        recipe = configs.load("beats_frozen")
        recipe = _computing_in(dtype, recipe, random_init=True, fused_attention=fused)
        for batch in options.batch or sizes:
            extract = dataclasses.replace(recipe.extract, batch_size=batch)
            embedder, work = embedder_and_work(dataclasses.replace(recipe, extract=extract), None)
            waves = sound(batch, length, np.random.default_rng(batch))  # the same for all types
            count = work(waves)
            about = {"seconds": length, "batch": batch, "dtype": dtype}
            run = partial(embedder.embed, list(waves), "mean")
            for other in sorted({dtype, "float32"}):  # also against PyTorch's default
                yield Case(
                    about | {"torch_dtype": other, "fused_attention": fused},
                    batch,
                    run,
                    ("beats_embed", about | {"dtype": other}),
                    count,
                    dtype,
                    check=partial(rounding, run, batch, dtype),
                )
            del embedder, run


def training_case(
    recipe: Config, length: float, batch: int, options: argparse.Namespace, rng: np.random.Generator
) -> Case:
    """A training step, from the host's integers to the loss; by shard_map also against pmap."""
    learner = Learner(recipe, n_classes=16, n_samples=round(length * RATE))
    devices = parallel.local_devices(recipe.train.devices)
    data = {
        "waveform": sound(batch, length, rng),
        "label": rng.integers(0, 16, batch, dtype=np.int32),
    }
    data = parallel.split_batch(data, devices)

    def steps(how: str) -> Callable[[], None]:
        step = parallel.training_step(learner.step, devices, how)
        state = [parallel.replicate(learner.start(), devices)]

        def run() -> None:
            state[0], metrics = step(state[0], data)
            jax.block_until_ready(metrics)

        return run

    other = ("pmap", steps("pmap")) if options.parallel == "shard_map" else None
    alone = parallel.training_step(learner.step, jax.devices("cpu")[:1])  # as in `flop`
    whole = jax.tree.map(lambda a: a.reshape(1, batch, *a.shape[2:]), data)
    work = alone.lower(learner.shapes(), whole).cost_analysis()["flops"]
    about = {"seconds": length, "batch": batch}
    return Case(about, batch, steps(options.parallel), None, work, alternative=other)


def multiresnet_train(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """System 1's training step."""
    for batch in options.batch or (8, 64):
        for dtype in options.dtype or _training_dtypes():
            recipe = _computing_in(dtype, configs.load("system1"))
            case = training_case(recipe, options.seconds or 12, batch, options, rng)
            case.about["dtype"] = case.dtype = dtype
            case.torch = ("multiresnet_train", dict(case.about))
            yield case


def _beats_training(
    name: str, stage: str, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[Case]:
    recipe = configs.load(name)
    for batch in options.batch or (8,):
        for remat in options.remat or ("none",):
            for dtype in options.dtype or _training_dtypes():
                changed = _computing_in(dtype, recipe, random_init=True, remat=remat)
                case = training_case(changed, options.seconds or 10, batch, options, rng)
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


def _bank(clips: int, rng: np.random.Generator) -> tuple[Fitted, np.ndarray, np.ndarray]:
    """A nearest-neighbour backend, its `clips` training embeddings, and 200 test embeddings."""
    train = rng.standard_normal((clips, 512)).astype(np.float32)
    test = rng.standard_normal((200, 512)).astype(np.float32)
    return fit(NearestNeighbours(), train, np.arange(clips) < clips // 100), train, test


def scoring(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """200 test clips against a reference bank; also with scikit-learn, without SMOTE."""
    for clips in options.batch or (1000, 10_000, 100_000):
        backend, train, test = _bank(clips, rng)
        plain = NearestNeighbors(n_neighbors=1, metric="cosine", algorithm="brute").fit(train)
        about = {"device": "host", "reference_bank": clips, "dimensions": 512}
        other = "scikit_learn", partial(plain.kneighbors, test)
        yield Case(about, len(test), partial(backend.score, test), alternative=other)


def leave_one_out(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Each clip of a reference bank against the others, as for a threshold; also scikit-learn's."""
    for clips in options.batch or (1000, 10_000):
        backend, train, _ = _bank(clips, rng)
        plain = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(train)
        about = {"device": "host", "reference_bank": clips, "dimensions": 512}
        other = "scikit_learn", partial(plain.kneighbors, train)
        yield Case(about, clips, backend.leave_one_out, alternative=other)


def small_corpus(folder: Path, clips: int, length: float) -> Path:
    """About `clips` clips of two machines, as training needs two classes."""
    machines, few = ("fan", "valveEmu"), max(1, clips // 16)
    wanted = SynthConfig(machines, train_source=clips // 4, train_target=2, test_per_cell=few)
    synth.write(folder, dataclasses.replace(wanted, seconds=length))
    return folder


def reading(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """12 s stereo files from the page cache to integers: one by one, and in batches of 16."""
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(small_corpus(Path(folder), 64, options.seconds or 12).rglob("*.wav"))
        settings = configs.load("system1").audio
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

        about = {"device": "host", "seconds": options.seconds or 12}
        yield Case({**about, "reader": "loop"}, len(paths), alone)
        yield Case(
            {**about, "reader": "pipeline"}, len(paths), pipeline, alternative=("loop", alone)
        )


def streaming(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Extraction from files, compared with the same clips in memory."""
    length = options.seconds or 10
    cases = {"system1": (128, 64), "beats_frozen": (32, 16)}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipe or cases:
            count, batch = cases[name]
            count = options.clips or count
            paths = sorted(small_corpus(Path(folder) / name, count, length).rglob("*.wav"))[:count]
            recipe = configs.load(name)
            if hasattr(recipe.model, "random_init"):
                model = dataclasses.replace(recipe.model, random_init=True)
                recipe = dataclasses.replace(recipe, model=model)
            embedder, work = embedder_and_work(recipe, length)
            frames = [audio.inspect(path).frames for path in paths]
            files = ClipFiles(paths, frames, max(frames), min(frames), True, batch)
            waves = np.stack([audio.read(path, channel="near") for path in paths])
            waves = np.stack([audio.fit_length(w, embedder.n_samples) for w in waves])

            def from_files(e=embedder, f=files) -> None:
                for _ in extraction.stream(e.network, f, (RAW,)):
                    pass

            def from_memory(e=embedder, w=waves, b=batch) -> None:
                e.embed(list(w), "head")

            about = {"recipe": name, "seconds": length, "batch": batch, "clips": count}
            flop_of_all = count * work(waves[:1])
            other = "memory", from_memory
            yield Case(about, count, from_files, flop=flop_of_all, alternative=other)


def views(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """Computing all views of a recipe, and extraction of them, each compared with one view."""
    length = options.seconds or 10
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipe or ("system1",):
            recipe = configs.load(name)
            at_once = AT_ONCE.get(jax.default_backend(), recipe.extract.batch_size)
            count = -(-(options.clips or 128) // at_once) * at_once
            corpus = Path(folder) / name
            wanted = SynthConfig(machines=("fan",), train_source=count, train_target=0)
            synth.write(corpus, dataclasses.replace(wanted, test_per_cell=0, seconds=length))
            paths = sorted(corpus.glob("fan/train/*.wav"))
            frames = [audio.inspect(path).frames for path in paths]
            batch = recipe.extract.batch_size
            files = ClipFiles(paths, frames, max(frames), min(frames), True, batch)
            embedder, _ = embedder_and_work(recipe, length)
            pcm = np.stack([audio.read(path, channel=None).T for path in paths[:at_once]])
            lengths = np.full(at_once, frames[0], np.int32)

            def make(i: jax.Array, pcm: jax.Array, chosen=recipe.extract.views, n=lengths) -> Any:
                return signal_views.make(chosen, to_float(pcm + i, jnp.float32), n)

            def all_made(pcm: jax.Array, make=make, rounds=count // at_once) -> Any:
                """As many clips as in the extraction, in batches as for the network."""

                def again(i: jax.Array, _: Any) -> Any:
                    return make(i.astype(jnp.int16), pcm)

                return jax.lax.fori_loop(1, rounds, again, make(jnp.int16(0), pcm))

            def extracted(chosen: tuple[View, ...], e=embedder, f=files) -> None:
                for _ in extraction.stream(e.network, f, chosen):
                    pass

            one = ("one_view", partial(extracted, (RAW,)))
            about = {"recipe": name, "seconds": length, "clips": count}
            about["views"] = len(recipe.extract.views)
            making = partial(_finished, jax.jit(all_made), pcm)
            torch = "views", {"seconds": length, "batch": at_once}
            work = count / at_once * flop(partial(make, jnp.int16(0)), pcm)
            yield Case(about | {"work": "making"}, count, making, torch, work, alternative=one)
            everything = partial(extracted, recipe.extract.views)
            yield Case(about | {"work": "extraction"}, count, everything, alternative=one)


def _finished(function: Callable, *args: Any) -> None:
    jax.block_until_ready(function(*args))


ON_DEVICE: dict[str, Callable[..., Iterator[Case]]] = {
    "multiresnet_train": multiresnet_train,  # training first: a visit to a device may be short
    "lora_train": lora_train,
    "beats_train": beats_train,
    "multiresnet_embed": multiresnet_embed,
    "beats_embed": beats_embed,
    "filterbank": filterbank,
    "spectrograms": spectrograms,
    "views": views,
    "streaming": streaming,
}
ON_HOST: dict[str, Callable[..., Iterator[Case]]] = {
    "reading": reading,
    "scoring": scoring,
    "leave_one_out": leave_one_out,
}
