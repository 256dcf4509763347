"""Noise reduction of channel 1 with the help of channel 2: Wiener gains and a canceller.

Shapes: spectra and powers are [B, L, F] (clip, frame, bin), with `valid` [B, L] true for the frames
of the clip and false for padding; `scale` [B, 1, 1] is the mean power of channel 1 over the clip's
frames and bins. Channel 2 is scaled to the level of channel 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Float

EXTREME = 0.1
"""Quantile of the power ratio taken for the machine alone; 1 - EXTREME: the environment alone."""
NEIGHBOURS, MOST = 31, 60
"""Size, in bins, and percentile of the filter over the frequencies of the environment's ratio."""

Power = Float[Array, "B L F"]


def floor(scale: Float[Array, "B 1 1"]) -> Float[Array, "B 1 1"]:
    """The power below which a bin is silent: 80 dB below the clip's mean, at least 1e-20."""
    return jnp.maximum(1e-8 * scale, 1e-20)


def gain(
    near: Power, far: Power, scale: Float[Array, "B 1 1"], *, alpha: float, beta: float
) -> Float[Array, "B L F"]:
    """Wiener gain in [beta, 1], with the power of channel 2 as the noise in channel 1.

    gain = 1 - alpha far / (near + floor)

    Args:
        near: power of channel 1.
        far: power of channel 2.
        scale: mean power of channel 1.
        alpha: factor on the noise power; 0: the gain is 1.
        beta: lower limit of the gain.
    """
    return jnp.clip(1 - alpha * far / (near + floor(scale)), beta, 1.0)


def cancelled(
    near: Complex[Array, "B L F"],
    far: Complex[Array, "B L F"],
    valid: Bool[Array, "B L"],
    scale: Float[Array, "B 1 1"],
) -> Complex[Array, "B L F"]:
    """Channel 1 minus its least-squares prediction from channel 2.

    At each frequency near - h far, with h = sum(near conj(far)) / (sum(|far|^2) + floor) over the
    frames of the clip. Up to the floor, h minimises the power of the difference, which is then
    uncorrelated with channel 2.
    """
    inside = jnp.where(valid[:, :, None], far, jnp.zeros((), far.dtype))
    cross = jnp.sum(near * jnp.conj(inside), axis=1, keepdims=True)
    explained = jnp.sum(power(inside), axis=1, keepdims=True) + floor(scale)
    return near - scaled(cross, 1 / explained) * far


def ratios(near: Power, far: Power, valid: Bool[Array, "B L"], context: int) -> Power:
    """Power of channel 2 divided by that of channel 1, each summed by `around`."""

    return around(far, valid, context) / jnp.maximum(around(near, valid, context), 1e-20)


def around(power: Power, valid: Bool[Array, "B L"], context: int) -> Power:
    """The sums of power over the `context` frames around each frame, without padding frames."""
    power = power * valid.astype(power.dtype)[:, :, None]
    before = context // 2
    padded = jnp.pad(power, ((0, 0), (before, context - 1 - before), (0, 0)))
    frames = power.shape[1]
    return sum((padded[:, i : i + frames] for i in range(1, context)), padded[:, :frames])


def calibrate(ratios: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "2 F"]:
    """Estimate the power ratio (channel 2 / channel 1) of the machine and of the environment.

    In a machine's normal clips, the ratio at a frequency is low in frames with the machine alone
    (its leakage into channel 2) and high in frames with the environment alone. The estimates are
    quantiles over frames: `EXTREME` for the machine, 1 - `EXTREME` for the environment. If the
    machine never pauses at a frequency, the latter is too low. The environment's ratio is therefore
    raised to the percentile `MOST` of those at `NEIGHBOURS` frequencies around, where it is lower.

    Args:
        ratios: from `ratios`, of many frames.

    Returns:
        float32: the ratio of the machine, then of the environment, by frequency.
    """
    from scipy.ndimage import percentile_filter  # slow to import, and rarely needed

    machine, environment = np.quantile(ratios, [EXTREME, 1 - EXTREME], axis=0)
    around = percentile_filter(environment, MOST, size=NEIGHBOURS, mode="nearest")
    return np.stack([machine, np.maximum(environment, around)]).astype(np.float32)


def calibrated_gain(
    ratios: Power, calibration: Float[Array, "2 F"], *, alpha: float, beta: float
) -> Float[Array, "B L F"]:
    """Wiener gain in [beta, 1] from the environment's share of the power of channel 1.

    gain = 1 - alpha share. Let M and E be the powers of machine and environment in channel 1, and
    share = E / (M + E). With their ratios m and e, and if powers add up, channel 2 has the power
    m M + e E. The ratio of the channels is then r = m (1 - share) + e share, so that

        share = (r - m) / (e - m)

    Machine lines that are louder in channel 2 than in channel 1 have r = m, too, and a gain of 1.

    Args:
        ratios: r, from `ratios`.
        calibration: m and e, from `calibrate`.
        alpha: factor on the share; 0: the gain is 1.
        beta: lower limit of the gain.
    """
    machine, environment = calibration[0][None, None, :], calibration[1][None, None, :]
    contrast = environment - machine
    share = (ratios - machine) / jnp.where(contrast > 0, contrast, jnp.inf)
    return jnp.clip(1 - alpha * jnp.clip(share, 0.0, 1.0), beta, 1.0)


def scaled(spectrum: Complex[Array, "*shape"], gain: Float[Array, "*shape"]) -> Array:
    """A spectrum multiplied by a real gain."""
    return jax.lax.complex(gain * spectrum.real, gain * spectrum.imag)


def power(spectrum: Complex[Array, "B L F"]) -> Power:
    """Squared magnitude."""
    return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
