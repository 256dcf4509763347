"""Stages of scripts/bench.py for commands: in this process, and as processes."""

import argparse
import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import driver
import numpy as np
from bench_stages import Case, embedder_and_work, small_corpus, sound, training_case

from asdjax import cli
from asdjax.config import recipe as configs

EPOCH = ("--train.epochs", "1")
FEW = (*EPOCH, "--train.batch-size", "8")


def end_to_end(options: argparse.Namespace, rng: np.random.Generator) -> Iterator[Case]:
    """`run` (an epoch of training) and `extract` of System 1, three views, in this process."""
    length = options.seconds or 10
    with tempfile.TemporaryDirectory() as folder:
        data = small_corpus(Path(folder) / "data", 64, length)
        clips, run = len(list(data.rglob("*.wav"))), Path(folder) / "run"
        cache = ["--no-compile-cache"] if options.no_compile_cache else []

        def verb(*arguments: str) -> None:
            with contextlib.redirect_stdout(io.StringIO()):  # standard output has the figures
                if cli.main([*arguments, *cache]):
                    sys.exit(f"asdjax {' '.join(arguments)} failed")

        def everything() -> None:
            shutil.rmtree(run, ignore_errors=True)
            fitting = (*FEW, "--audio.clip-seconds", f"{length:g}")
            verb("run", "system1", "--data", str(data), "--run", str(run), *fitting)

        def extraction() -> None:
            shutil.rmtree(run / "embeddings")
            verb("extract", str(run))

        # operations of the model; computing the views adds a few per cent
        recipe = configs.load("system1")
        _, work = embedder_and_work(recipe, length)
        embedding = 3 * clips * work(sound(1, length, rng))
        trained = len(list(data.rglob("train/*.wav")))
        training = trained / 8 * training_case(recipe, length, 8, options, rng).flop
        about = {"views": 3, "seconds": length, "clips": clips}
        whole = {"verb": "run", "epochs": 1, "batch": 8, **about}
        yield Case(whole, clips, everything, flop=training + embedding)
        yield Case({"verb": "extract", "batch": 64, **about}, clips, extraction, flop=embedding)


def start(*_: object) -> Iterator[Case]:
    """A process to its first result: help, a loss of `train`, a clip's embedding, clips' scores.

    The first call of each starts with an empty compilation cache (first_call_s), the others with a
    filled one. scripts/bench_memory measures their memory.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, run = small_corpus(root / "data", 16, 10.0), root / "run"
        clips, log = [str(path) for path in data.rglob("*.wav")], run / "log.jsonl"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")}
        environment = {**inherited, "XDG_CACHE_HOME": str(root / "cache")}

        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = partial(driver.started, env=environment, **quiet)

        def command(*arguments: str) -> None:
            with started(arguments) as process:
                code = process.wait()
            if code:
                sys.exit(f"asdjax {' '.join(arguments)} failed")

        def first_loss(*train: str) -> None:
            shutil.rmtree(run, ignore_errors=True)
            with started(train) as training:
                while not (log.is_file() and log.stat().st_size):
                    if training.poll() is not None:
                        sys.exit(f"asdjax {' '.join(train)} failed")
                    time.sleep(0.01)
                training.kill()

        def embedding() -> None:
            out = str(root / "out.npz")
            command("embed", str(run), clips[0], "--out", out, "--overwrite")

        def scores() -> None:
            for made in "embeddings", "scores":
                shutil.rmtree(run / made, ignore_errors=True)
            command("extract", str(run))
            command("score", str(run))

        yield Case({"command": "--help"}, 1, lambda: command("--help"), here=False)
        whole = small_corpus(root / "whole", 124, 12.0)  # 64 clips to train on
        for corpus, length, batch, chosen in (whole, 12, 64, EPOCH), (data, 10, 8, FEW):
            train = ("train", "system1", "--data", str(corpus), "--run", str(run), *chosen)
            train = (*train, "--audio.clip-seconds", str(length))
            about = {"command": "train system1, first loss", "seconds": length, "batch": batch}
            yield Case(about, 1, partial(first_loss, *train), here=False)
        command(*train)
        yield Case({"command": "embed", "seconds": 10, "clips": 1}, 1, embedding, here=False)
        about = {"command": "extract and score", "seconds": 10, "clips": len(clips), "views": 3}
        yield Case(about, len(clips), scores, here=False)


COMMANDS: dict[str, Callable[..., Iterator[Case]]] = {"end_to_end": end_to_end, "start": start}
