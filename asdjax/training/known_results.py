"""Small computations with known results, which tell whether an installation computes correctly.

The inputs are formulas and the weights NumPy's draws, so that nothing depends on JAX's random
numbers. The results were computed on a CPU (jax 0.10.2). Each is a few means over consecutive
values, relative to the largest.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32

from asdjax.config.interfaces import Encoder
from asdjax.config.recipe import AugmentConfig, Config, MixupConfig, TrainConfig
from asdjax.models import building, parameters
from asdjax.models.multiresnet_encoder import (
    MultiResNetConfig,
    SpectrogramConfig,
    StridedConvConfig,
)
from asdjax.runtime import parallel
from asdjax.signal.spectral_statistics import FEATURES, spectral_statistics
from asdjax.training.learner import Learner

ALLOWED = {"float32": 1e-3, "tensorfloat32": 3e-2}
"""Largest difference by precision, relative to the largest value of a result."""
_RATE = 16_000
_GROUPS = 4  # of consecutive values, whose means are compared
_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A computation's result compared with the known one."""

    name: str
    difference: float
    """Largest difference, relative to the largest known value; NaN if the result is not finite."""
    allowed: float

    @property
    def right(self) -> bool:
        """Whether the difference is allowed."""
        return self.difference <= self.allowed


def compare() -> list[Comparison]:
    """All computations on the first device, compared with their known results."""
    platform = jax.local_devices()[0].platform
    encoder = _encoder().on_platform(platform)
    found = []
    computations: dict[str, tuple[Callable[[], np.ndarray], str]] = {
        "spectral statistics": (_statistics, "float32"),
        "embedding of a network": (functools.partial(_embedding, encoder), encoder.compute_dtype),
        "training steps": (functools.partial(_losses, encoder), encoder.compute_dtype),
    }
    for name, (compute, precision) in computations.items():
        known = np.array(_KNOWN[name])
        off = np.abs(compute() - known).max() / np.abs(known).max()
        found.append(Comparison(name, float(off), ALLOWED[precision]))
    return found


def _waveforms(count: int) -> Float32[np.ndarray, "B T"]:
    """Sounds of one second: tones that rise at different rates, and noise."""
    time = np.arange(_RATE) / _RATE
    rows = [np.sin(2 * np.pi * (300 * (i + 1) + 2000 * i * time) * time) for i in range(count)]
    noise = np.random.default_rng(0).uniform(-1, 1, (count, len(time)))
    return (0.1 * np.stack(rows) + 0.02 * noise).astype(np.float32)


def _means(values: Float[np.ndarray, "..."]) -> np.ndarray:
    parts = np.array_split(np.asarray(values, np.float64).reshape(-1), _GROUPS)
    return np.array([part.mean() for part in parts])


def _statistics() -> np.ndarray:
    waveform = _waveforms(2)
    length = jnp.full(len(waveform), waveform.shape[1], jnp.int32)
    compute = jax.jit(functools.partial(spectral_statistics, sample_rate=_RATE))
    found = compute(jnp.asarray(waveform), length)
    return np.concatenate([_means(found[name]) for name in FEATURES])


def _encoder() -> Encoder:
    return MultiResNetConfig(
        fft_convs=(StridedConvConfig(64, 16), StridedConvConfig(16, 8)),
        fft_channels=16,
        fft_hidden_layers=1,
        spectrograms=(SpectrogramConfig(512, 256),),
        stage_channels=(8,),
        branch_size=16,
    )


def _embedding(encoder: Encoder) -> np.ndarray:
    waveform = _waveforms(2)
    module = building.build(encoder, waveform.shape[1], _RATE, seed=0)
    graphdef, params, stats = parameters.split(module)
    compute = jax.jit(functools.partial(parameters.apply, graphdef, train=False))
    return _means(compute(params, stats, jnp.asarray(waveform))[0])


def _losses(encoder: Encoder) -> np.ndarray:
    """The losses of training steps with gradients, the optimiser and the functions of devices."""
    waveform, devices = _waveforms(4), jax.local_devices()[:1]
    config = Config(
        model=encoder,
        augment=AugmentConfig(mixup=MixupConfig(probability=0.0)),
        train=TrainConfig(batch_size=len(waveform)),
    )
    learner = Learner(config, n_classes=2, n_samples=waveform.shape[1])
    start = learner.start()
    drawn = np.random.default_rng(1)
    head = jax.tree.map(
        lambda a: drawn.uniform(-1, 1, a.shape).astype(a.dtype), start.params["head"]
    )
    start = dataclasses.replace(start, params={**start.params, "head": head})
    state = parallel.replicate(start, devices)
    step = parallel.training_step(learner.step, devices)
    batch = {"waveform": waveform, "label": np.arange(len(waveform), dtype=np.int32) % 2}
    losses = []
    for _ in range(_STEPS):
        state, metrics = step(state, parallel.split_batch(batch, devices))
        losses.append(float(metrics["loss"]))
    return np.array(losses)


_KNOWN = {
    "spectral statistics": (
        -7.80419, 0.583289, -7.78833, 1.32302, -0.467172, 0.42484, -0.576853, 0.687091,
        -6.37313, 0.278604, -5.85982, 1.37557, -7.31676, 0.560037, -7.6291, 1.63799,
    ),
    "embedding of a network": (0.0231963, -0.000358651, -0.0181529, -0.00825294),
    "training steps": (0.716428, 0.457267, 0.370158),
}  # fmt: skip
