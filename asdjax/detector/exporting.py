"""A detector as one JAX program: waveforms in; embeddings, scores and alarms out.

The program needs JAX alone. It has the weights, the normal windows' vectors and the threshold as
constants. Distances and scores are float64, as those of `Detector`, whatever the caller's setting
of jax_enable_x64: in float32 a score of 100 is off by up to 4e-6.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from asdjax.detector.features import Features
from asdjax.detector.normal import Model
from asdjax.errors import ArtifactError
from asdjax.scoring.backends import References

PLATFORMS = ("cpu", "cuda", "tpu")
_SAME = 1e-3  # difference of scores, relative to those above 1
_FLOOR = 1e-12  # smallest norm, as in `asdjax.scoring.distances`


def require_flatbuffers() -> None:
    """Raise `AsdjaxError` if flatbuffers, with which JAX writes programs, is not installed."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ArtifactError("JAX writes programs by flatbuffers: pip install 'asdjax[export]'")


def exported(
    features: Features, model: Model, samples: int, platforms: Sequence[str] = PLATFORMS
) -> jax.export.Exported:
    """The program, for any number of waveforms.

    Its argument is float32 [B, samples] in [-1, 1], at the detector's sample rate. Its result is a
    dictionary: `embedding` float32 [B, D] (all features, one after the other), `score` float64 [B],
    `threshold` float64 [B], `alarm` bool [B].

    Args:
        features: of a fitted detector.
        model: of a fitted detector.
        samples: length of its windows.
        platforms: for which the program is lowered.

    Raises:
        AsdjaxError: a backend's scores cannot be exported.
    """
    program = program_of(features, model)
    (batch,) = jax.export.symbolic_shape("batch")
    shape: Any = (batch, samples)
    with jax.enable_x64(True), _without_source_files():
        argument = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.export.export(jax.jit(program), platforms=platforms)(argument)


@contextlib.contextmanager
def _without_source_files() -> Iterator[None]:
    """A program that is written has no paths of the machine that made it."""
    option = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, option)
    jax.config.update(option, ".*")
    try:
        yield
    finally:
        jax.config.update(option, before)


def serialized(
    program: jax.export.Exported, score_samples: Callable[[list[np.ndarray]], np.ndarray]
) -> bytes:
    """The content of a program's file.

    Args:
        program: from `exported`.
        score_samples: of the detector, to compare the program with.

    Raises:
        AsdjaxError: the program scores known sounds otherwise than the detector.
    """
    content = bytes(program.serialize())
    (argument,) = program.in_avals
    shape = 2, argument.shape[1]
    sounds = 0.1 * np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = jax.jit(jax.export.deserialize(bytearray(content)).call)(sounds)
    scores, expected = np.asarray(found["score"], np.float64), -score_samples([*sounds])
    off = np.abs(scores - expected) / np.maximum(np.abs(expected), 1)
    if not (off <= _SAME).all():
        raise ArtifactError(
            f"the exported program and the detector give known sounds other scores (by "
            f"{off.max():.2g}): not written"
        )
    return content


def program_of(
    features: Features, model: Model
) -> Callable[[Float[Array, "B T"]], dict[str, Array]]:
    """The program of `exported`, to be traced with `jax.enable_x64(True)`."""
    members = model.ensemble.references()
    names = [member.partition("/")[0] for member in model.ensemble.members]
    spreads = [(spread.mean, spread.deviation) for spread in model.spreads]

    def program(waveform: Float[Array, "B T"]) -> dict[str, Array]:
        tables = features.traced(waveform)
        total = jnp.zeros(waveform.shape[:1], jnp.float64)
        for name, references, (mean, deviation) in zip(names, members, spreads, strict=True):
            points = tables[name].astype(jnp.float32)
            if model.ensemble.metric == "cosine":
                points = _unit_length(points)
            total = total + (_score(references, points) - mean) / deviation
        score = total / len(members) - model.median
        return {
            "embedding": jnp.concatenate([tables[name] for name in dict.fromkeys(names)], axis=1),
            "score": score,
            "threshold": jnp.full(waveform.shape[:1], model.threshold, jnp.float64),
            "alarm": ~(score <= model.threshold),  # also if the score is not finite
        }

    program.__name__ = f"detector_{features.sample_rate}_hz"
    return program


def _unit_length(points: Float[Array, "B D"]) -> Float64[Array, "B D"]:
    """Rows scaled to unit length and rounded to float32, as those of the detector."""
    exact = points.astype(jnp.float64)
    norms = jnp.sqrt(jnp.sum(jnp.square(exact), axis=1, keepdims=True))
    return jax.lax.platform_dependent(
        exact / jnp.maximum(norms, _FLOOR),
        cpu=lambda x: jax.lax.reduce_precision(x, 8, 23),  # XLA may leave out mere conversions
        default=lambda x: x.astype(jnp.float32).astype(jnp.float64),  # TPUs have nothing else
    )


def _score(references: References, points: Float[Array, "B D"]) -> Float64[Array, "B"]:
    """The score of `References` in float64."""
    exact = points.astype(jnp.float64)[:, None, :]
    pool = jnp.asarray(references.points.astype(np.float64))[None]
    distances = jnp.sqrt(jnp.sum(jnp.square(exact - pool), axis=2))
    quotients = distances / jnp.asarray(references.divisors)[None]
    nearest = -jax.lax.top_k(-quotients, references.neighbours)[0]
    return references.factor * jnp.mean(nearest, axis=1)
