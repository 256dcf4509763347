"""What channel 2 is good for: gains and cancellers that clean the spectrum of channel 1.

Shapes: spectra and powers are [B, L, F], frames before frequencies as transforms leave them, with
`valid` [B, L] true for the frames of the clip itself; `scale` [B, 1, 1] is the mean power of
channel 1 over the clip's bins and frames. Channel 2 comes at the level of channel 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

EXTREME = 0.1
"""Share of frames beyond which a ratio counts as the machine's alone, or the environment's."""
NEIGHBOURS, MOST = 31, 60
"""Frequencies that are looked at around one, and the percentile of their ratios."""

Power = Float[Array, "B L F"]


def floor(scale: Float[Array, "B 1 1"]) -> Float[Array, "B 1 1"]:
    """The power below which a bin counts as silent: 80 dB under the clip's mean, or 1e-20."""
    return jnp.maximum(1e-8 * scale, 1e-20)


def gain(
    near: Power, far: Power, scale: Float[Array, "B 1 1"], *, alpha: float, beta: float
) -> Float[Array, "B L F"]:
    """Wiener gain in [beta, 1]: channel 2's power is taken for the noise in channel 1's.

    Args:
        near: power of channel 1.
        far: power of channel 2.
        scale: mean power of channel 1.
        alpha: how much of the noise is taken away; 0 takes nothing.
        beta: the smallest gain.
    """
    return jnp.clip(1 - alpha * far / (near + floor(scale)), beta, 1.0)


def cancelled(
    near: Complex[Array, "B L F"],
    far: Complex[Array, "B L F"],
    valid: Bool[Array, "B L"],
    scale: Float[Array, "B 1 1"],
) -> Complex[Array, "B L F"]:
    """Channel 1 less what channel 2 explains of it by one complex factor per frequency.

    The factor is the least-squares one over the clip: what is left is uncorrelated with channel 2.
    """
    inside = jnp.where(valid[:, :, None], far, jnp.zeros((), far.dtype))
    cross = jnp.sum(near * jnp.conj(inside), axis=1, keepdims=True)
    explained = jnp.sum(power(inside), axis=1, keepdims=True) + floor(scale)
    return near - scaled(cross, 1 / explained) * far


def ratios(near: Power, far: Power, valid: Bool[Array, "B L"], context: int) -> Power:
    """Power of channel 2 over that of channel 1, each summed over `context` frames around a frame.

    Frames that are not the clip's own count for nothing.
    """

    return around(far, valid, context) / jnp.maximum(around(near, valid, context), 1e-20)


def around(power: Power, valid: Bool[Array, "B L"], context: int) -> Power:
    """Sums over `context` frames around each."""
    power = power * valid.astype(power.dtype)[:, :, None]
    before = context // 2
    padded = jnp.pad(power, ((0, 0), (before, context - 1 - before), (0, 0)))
    frames = power.shape[1]
    return sum((padded[:, i : i + frames] for i in range(1, context)), padded[:, :frames])


def calibrate(ratios: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "2 F"]:
    """How channel 2 compares with channel 1 where there is only the machine, and only the rest.

    Of a machine's own normal clips: at each frequency the ratio is lowest in the frames that hold
    the machine alone, which are its leakage into channel 2, and highest in those that hold the
    environment alone. Where the machine never pauses the latter are not seen: there the environment
    is taken to reach channel 2 no less than at most of the neighbouring frequencies.

    Args:
        ratios: from `ratios`, of many frames.

    Returns:
        float32: the ratio of the machine, then of the environment, by frequency.
    """
    from scipy.ndimage import percentile_filter  # slow to import, and seldom needed

    machine, environment = np.quantile(ratios, [EXTREME, 1 - EXTREME], axis=0)
    around = percentile_filter(environment, MOST, size=NEIGHBOURS, mode="nearest")
    return np.stack([machine, np.maximum(environment, around)]).astype(np.float32)


def calibrated_gain(
    ratios: Power, calibration: Float[Array, "2 F"], *, alpha: float, beta: float
) -> Float[Array, "B L F"]:
    """Wiener gain in [beta, 1] from the share of the environment in channel 1's power.

    With a machine's ratio m and the environment's ratio e, powers that add up give channel 2 over
    channel 1 as r = m + (e - m) * share. A line on which the machine is louder in channel 2 than in
    channel 1 has r = m there, and keeps its gain of 1.

    Args:
        ratios: from `ratios`.
        calibration: from `calibrate`.
        alpha: how much of the environment is taken away; 0 takes nothing.
        beta: the smallest gain.
    """
    machine, environment = calibration[0][None, None, :], calibration[1][None, None, :]
    contrast = environment - machine
    share = (ratios - machine) / jnp.where(contrast > 0, contrast, jnp.inf)
    return jnp.clip(1 - alpha * jnp.clip(share, 0.0, 1.0), beta, 1.0)


def scaled(spectrum: Complex[Array, "*shape"], gain: Float[Array, "*shape"]) -> Array:
    """A spectrum times a real gain."""
    return jax.lax.complex(gain * spectrum.real, gain * spectrum.imag)


def power(spectrum: Complex[Array, "B L F"]) -> Power:
    """Squared magnitude."""
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
