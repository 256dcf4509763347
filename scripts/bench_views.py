"""What views cost in extraction: three views against one, and the making of views by itself.

Called by scripts/bench_views. Measures turn by turn (one view, three views, making alone), so that
a machine whose speed drifts cannot decide, and prints one JSON line with medians of the ratios.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from asdjax import audio, config, models, synth
from asdjax.config import SynthConfig
from asdjax.inference import AT_ONCE, ClipFiles, Embedder
from asdjax.learner import to_float
from asdjax.signal import views

RAW = (config.ViewConfig("raw", "raw"),)


def main(argv: list[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench_views", description=__doc__)
    parser.add_argument("--recipe", default="system1")
    parser.add_argument("--clips", type=int, default=128, help="in each measurement")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of every clip")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    recipe = config.load(arguments.recipe)
    with tempfile.TemporaryDirectory() as folder:
        files = corpus(Path(folder), arguments.clips, arguments.seconds, recipe)
        result = measure(recipe, files, arguments.rounds)
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    about = {
        "bench": "views",
        "recipe": arguments.recipe,
        "views": list(recipe.extract.view_names),
        "clips": arguments.clips,
        "clip_seconds": arguments.seconds,
        "batch": recipe.extract.batch_size,
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }
    print(json.dumps({**about, **result}))


def corpus(folder: Path, clips: int, seconds: float, recipe: config.Config) -> ClipFiles:
    """Synthetic clips on disk."""
    wanted = SynthConfig(machines=("fan",), train_source=clips, train_target=0, test_per_cell=0)
    wanted = dataclasses.replace(wanted, seconds=seconds)
    synth.write(folder, wanted)
    paths = sorted(folder.glob("fan/train/*.wav"))
    frames = [audio.inspect(path).frames for path in paths]
    return ClipFiles(paths, frames, max(frames), min(frames), True, recipe.extract.batch_size)


def measure(recipe: config.Config, files: ClipFiles, rounds: int) -> dict[str, float]:
    """Seconds per clip and their ratios."""
    n_samples = audio.clip_samples(recipe.audio, [audio.inspect(files.paths[0])])
    module = models.build(recipe.model, n_samples, recipe.audio.sample_rate, seed=0)
    _, params, stats = models.split(module)
    weights = {"params": {"model": params}, "stats": {"model": stats}}
    embedder = Embedder(recipe, n_samples, jax.tree.map(np.asarray, weights))
    all_views = recipe.extract.views

    def extraction(chosen: tuple[config.ViewConfig, ...]) -> Callable[[], None]:
        return lambda: [None for _ in embedder.stream(files, chosen)]

    at_once = AT_ONCE.get(jax.default_backend(), recipe.extract.batch_size)
    length = np.full(at_once, files.frames[0], np.int32)
    waveform = np.stack([audio.read(path, channel=None).T for path in files.paths[:at_once]])

    def fitted(sound: jax.Array, length: jax.Array) -> jax.Array:
        return views.fit_length(sound, length, n_samples, files.shortest).sum()

    def making(chosen: tuple[config.ViewConfig, ...]) -> Callable[[], None]:
        """Views of as many clips as are measured, so many at once as are embedded, summed up."""

        def some(waveform: jax.Array, length: jax.Array) -> jax.Array:
            waveform = to_float(waveform, jnp.float32)
            if chosen == RAW:
                return fitted(waveform[None, :, 0], length)
            sounds, facts = views.make(chosen, waveform, length)
            return fitted(sounds, length) + sum(facts[name].sum() for name in ("lag", "gain"))

        times = len(files.paths) // at_once
        repeated = jax.jit(
            lambda w, n: jax.lax.map(lambda i: some(w + i, n), jnp.arange(times, dtype=jnp.int16))
        )
        return lambda: jax.block_until_ready(repeated(waveform, length))

    tasks = {
        "one_view": extraction(RAW),
        "all_views": extraction(all_views),
        "making_one": making(RAW),
        "making_all": making(all_views),
    }
    for task in tasks.values():
        task()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - began)
    times = {name: np.array(values) for name, values in seconds.items()}
    made = times["making_all"] - times["making_one"]
    clips = len(files.paths)
    return {
        **{f"{name}_ms_per_clip": 1000 * float(np.median(t)) / clips for name, t in times.items()},
        "all_over_one": float(np.median(times["all_views"] / times["one_view"])),
        "all_over_one_range": [
            float(f(times["all_views"] / times["one_view"])) for f in (np.min, np.max)
        ],
        "making_over_one_view": float(np.median(made / times["one_view"])),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
