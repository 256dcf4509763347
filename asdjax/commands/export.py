"""Export: a detector as one program that needs JAX alone."""

from pathlib import Path

from asdjax.detector.detector import Detector
from asdjax.runtime import console


def export(detector: Detector, out: Path, *, overwrite: bool = False) -> None:
    """Write a detector as a program of `jax.export` and say how it is called.

    Raises:
        AsdjaxError: see `Detector.export`.
    """
    detector.export(out, overwrite=overwrite)
    facts = detector.description()
    rate, samples = facts["sample_rate"], round(facts["clip_seconds"] * facts["sample_rate"])
    console.say(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, for CPU, CUDA and TPU: waveforms float32 "
        f"[any number, {samples}] at {rate} Hz in; embedding, score, threshold, alarm out"
    )
