"""Views of two-channel clips: channel 1 as it is, or cleaned with the help of channel 2.

A view is made at the clip's own length, before it is tiled or cut. Clips of different lengths share
a batch: each occupies its first `length` samples, and what lies beyond never matters.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from asdjax.config.recipe import ViewConfig
from asdjax.signal import stft, wiener

CLEAR = 7.0
"""A delay stands out when the cross-correlation peaks at so many times its root mean square: in
1000 samples of noise alone it reaches 4, once in a thousand clips 6."""
_MOST = 200  # frames of a clip that calibrate
_FACTS = 1024, 512  # n_fft and hop of the spectra that tell which channel hears first


def make(
    views: Sequence[ViewConfig],
    waveform: Float[Array, "B 2 T"],
    length: Int[Array, " B"],
    calibration: Mapping[str, Float[Array, "2 F"]] = MappingProxyType({}),
) -> tuple[Float[Array, "V B T"], dict[str, Array]]:
    """All views of a batch of clips, and what was noticed on the way.

    Channel 2 is first brought to channel 1's level over the clip; where it is silent it stays so.

    Args:
        views: what to make.
        waveform: channel 1 (near), then channel 2 (far).
        length: each clip's samples.
        calibration: by name of each calibrated view, from `wiener.calibrate`.

    Returns:
        The views, zero beyond each clip's end, and facts on each clip: "gain" [V, B], the mean over
        bins and frames of the gain (1 where a view has none); "level_db" [B], the level of channel
        2 against channel 1; "correlation" [B] of the channels; "silent" bool [B, 2], the channels
        without a sound; "lag" [B], the samples by which channel 2 hears later, where the phase-only
        cross-correlation (GCC-PHAT, Knapp and Carter 1976) peaks, NaN where no peak stands out.
    """
    near, far, level, facts = _levelled(waveform, length)
    spectra = {_FACTS: _Spectra(near, far, level, length, *_FACTS)}
    sounds, gains = [], []
    for view in views:
        shape = view.n_fft, view.hop
        if view.method in ("wiener", "cancel", "calibrated") and shape not in spectra:
            spectra[shape] = _Spectra(near, far, level, length, *shape)
        sound, gain = near, jnp.ones_like(near[:, 0])
        if view.method == "wiener":
            sound, gain = spectra[shape].wiener(view)
        elif view.method == "calibrated":
            sound, gain = spectra[shape].calibrated(view, calibration[view.name])
        elif view.method == "cancel":
            sound = spectra[shape].cancelled()
        elif view.method == "far":
            sound = far
        elif view.method == "difference":
            sound = near - far
        sounds.append(sound)
        gains.append(gain)
    facts |= {"gain": jnp.stack(gains), "lag": spectra[_FACTS].lag()}
    return jnp.stack(sounds), facts


def ratios(
    view: ViewConfig, waveform: Float[Array, "B 2 T"], length: Int[Array, " B"]
) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
    """What a machine's normal clips contribute to the calibration of a view.

    Returns:
        Ratios of channel 2 to channel 1 in frames whose contexts do not meet, at most about 200 of
        a clip, and which of them lie in the clip and where both channels sound.
    """
    near, far, level, _ = _levelled(waveform, length)
    spectra = _Spectra(near, far, level, length, view.n_fft, view.hop)
    frames = spectra.valid.shape[1]
    apart = slice(min(view.context // 2, frames - 1), None, max(view.context, frames // _MOST))
    sounds = spectra.sounds(view.context)[:, apart]
    return spectra.ratios(view.context)[:, apart], spectra.valid[:, apart] & sounds


def fit_length(
    waveform: Float[Array, "V B T"], length: Int[Array, " B"], n_samples: int, shortest: int
) -> Float[Array, "V B n_samples"]:
    """Repeat each clip, then cut it: `audio.fit_length` from the start, on the device.

    Args:
        waveform: views of clips, in their first `length` samples.
        length: each clip's samples, at least `shortest`.
        n_samples: length of the result.
        shortest: up to here nothing is repeated, which spares a search for each sample.
    """
    kept = min(shortest, n_samples)
    place = jnp.arange(kept, n_samples, dtype=jnp.int32)[None, :] % length[:, None]
    again = jnp.take_along_axis(waveform, place[None, :, :], axis=2)
    return jnp.concatenate([waveform[:, :, :kept], again], axis=2)


def _levelled(
    waveform: Float[Array, "B 2 T"], length: Int[Array, " B"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"], Float[Array, " B"], dict[str, Array]]:
    """Channel 1, channel 2 at its level, that level as recorded, and how they compare.

    Both are zero beyond the clips' ends.
    """
    inside = jnp.arange(waveform.shape[2], dtype=jnp.int32)[None, None, :] < length[:, None, None]
    waveform = jnp.where(inside, waveform, 0.0)
    near, far = waveform[:, 0], waveform[:, 1]
    peak = jnp.max(jnp.abs(far), axis=1)
    far = far / jnp.where(peak == 0, 1.0, peak)[:, None]  # so that no square of it vanishes
    near_energy, far_energy = _dot(near, near), _dot(far, far)
    ratio = jnp.sqrt(near_energy / jnp.where(peak == 0, 1.0, far_energy))
    samples = length.astype(near.dtype)
    rms = jnp.sqrt(near_energy / samples), peak * jnp.sqrt(far_energy / samples)
    level = jnp.maximum(rms[1], 1e-15) / jnp.maximum(rms[0], 1e-15)  # the square is finite too
    facts = {
        "level_db": 20 * jnp.log10(level),
        "correlation": _correlation(near, far, inside[:, 0]),
        "silent": jnp.stack([near_energy == 0, peak == 0], axis=1),
    }
    return near, far * ratio[:, None], level, facts


def _correlation(
    near: Float[Array, "B T"], far: Float[Array, "B T"], inside: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Of the channels over the clip; 0 where one of them is constant."""

    def centred(sound: Float[Array, "B T"]) -> Float[Array, "B T"]:
        mean = jnp.sum(sound, axis=1) / jnp.sum(inside, axis=1).astype(sound.dtype)
        return jnp.where(inside, sound - mean[:, None], 0.0)

    near, far = centred(near), centred(far)
    product = jnp.sqrt(_dot(near, near)) * jnp.sqrt(_dot(far, far))
    return jnp.clip(_dot(near, far) / jnp.where(product == 0, jnp.inf, product), -1.0, 1.0)


def _dot(a: Float[Array, "B T"], b: Float[Array, "B T"]) -> Float[Array, " B"]:
    return jnp.einsum("bt,bt->b", a, b, precision="highest")


class _Spectra:
    """Both channels' spectra [B, L, F] at one resolution.

    The right end is extended by its mirror image to a multiple of the hop, so that every length is
    inverted exactly; the frames that reach beyond an end see the mirror image there.
    """

    def __init__(
        self,
        near: Float[Array, "B T"],
        far: Float[Array, "B T"],
        level: Float[Array, " B"],
        length: Int[Array, " B"],
        n_fft: int,
        hop: int,
    ):
        self.level = level  # of channel 2 as recorded, over channel 1
        self.n_fft, self.hop, self.samples = n_fft, hop, near.shape[1]
        self.window = jnp.asarray(stft.hann(n_fft), near.dtype)
        hops = -(-self.samples // hop)
        own_hops = -(-length // hop)
        self.inside = jnp.arange(self.samples, dtype=jnp.int32)[None, :] < length[:, None]
        self.valid = jnp.arange(hops + 1, dtype=jnp.int32)[None, :] <= own_hops[:, None]
        head = jnp.arange(-(n_fft // 2), 0, dtype=jnp.int32)[None, :]
        tail = length[:, None] + jnp.arange(hop + n_fft // 2, dtype=jnp.int32)[None, :]
        ends = [
            _mirrored(_mirrored(place, own_hops[:, None] * hop), length[:, None])
            for place in (head, tail)
        ]

        def spectrum(sound: Float[Array, "B T"]) -> Complex[Array, "B L F"]:
            before, after = (jnp.take_along_axis(sound, place, axis=1) for place in ends)
            room = jnp.zeros_like(sound, shape=(len(sound), hop + n_fft))
            padded = jnp.concatenate([before, sound, room], axis=1)
            put = jax.vmap(lambda row, end, at: jax.lax.dynamic_update_slice(row, end, (at,)))
            padded = put(padded, after, length + n_fft // 2)
            framed = stft.frames(padded, self.window, hop=hop, count=hops + 1)
            return jnp.fft.rfft(framed, axis=-1)

        self.near, self.far = spectrum(near), spectrum(far)
        self.near_power, self.far_power = wiener.power(self.near), wiener.power(self.far)
        self.scale = self._mean(self.near_power)[:, None, None]

    def wiener(self, view: ViewConfig) -> tuple[Float[Array, "B T"], Float[Array, " B"]]:
        gain = wiener.gain(
            self.near_power, self.far_power, self.scale, alpha=view.alpha, beta=view.beta
        )
        return self._sound(wiener.scaled(self.near, gain)), self._mean(gain)

    def calibrated(
        self, view: ViewConfig, calibration: Float[Array, "2 F"]
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"]]:
        gain = wiener.calibrated_gain(
            self.ratios(view.context), calibration, alpha=view.alpha, beta=view.beta
        )
        return self._sound(wiener.scaled(self.near, gain)), self._mean(gain)

    def ratios(self, context: int) -> Float[Array, "B L F"]:
        """Of channel 2 as recorded, not as levelled."""
        ratios = wiener.ratios(self.near_power, self.far_power, self.valid, context)
        return ratios * jnp.square(self.level)[:, None, None]

    def sounds(self, context: int) -> Bool[Array, "B L"]:
        """Whether both channels are above the floor around a frame."""
        floor = wiener.floor(self.scale)[:, :, 0]
        near, far = (
            wiener.around(power.mean(axis=2, keepdims=True), self.valid, context)[:, :, 0]
            for power in (self.near_power, self.far_power)
        )
        return (near > floor) & (far > floor)

    def cancelled(self) -> Float[Array, "B T"]:
        return self._sound(wiener.cancelled(self.near, self.far, self.valid, self.scale))

    def lag(self) -> Float[Array, " B"]:
        apart = slice(None, None, 2)  # the frames between add little: they overlap by half
        cross = jnp.conj(self.near[:, apart]) * self.far[:, apart]
        own = self.valid[:, apart, None]
        cross = jnp.where(own, cross, jnp.zeros((), cross.dtype)).sum(axis=1)
        size = jnp.abs(cross)
        phase = wiener.scaled(cross, 1 / jnp.where(size == 0, 1.0, size))
        correlation = jnp.abs(jnp.fft.irfft(phase, self.n_fft, axis=1))
        place = jnp.argmax(correlation, axis=1).astype(jnp.int32)
        lag = jnp.where(place < self.n_fft // 2, place, place - self.n_fft)
        spread = jnp.sqrt(jnp.mean(jnp.square(correlation), axis=1))
        clear = jnp.max(correlation, axis=1) > CLEAR * spread
        return jnp.where(clear, lag.astype(correlation.dtype), jnp.nan)

    def _mean(self, values: Float[Array, "B L F"]) -> Float[Array, " B"]:
        """Over a clip's own frames and all bins."""
        own = self.valid.astype(values.dtype)
        total = jnp.einsum("bl,blf->bf", own, values, precision="highest")
        return total.mean(axis=1) / jnp.sum(own, axis=1)

    def _sound(self, spectrum: Complex[Array, "B L F"]) -> Float[Array, "B T"]:
        framed = stft.inverse_rfft(spectrum, self.n_fft)
        own = self.valid.astype(framed.dtype)[:, :, None]
        added = stft.overlap_add(framed * own, self.window, hop=self.hop)
        weight = stft.overlap_add(own, jnp.square(self.window), hop=self.hop)
        sound = added / jnp.where(weight == 0, 1.0, weight)
        start = self.n_fft // 2
        sound = sound.reshape(len(sound), -1)[:, start : start + self.samples]
        return jnp.where(self.inside, sound, 0.0)


def _mirrored(place: Int[Array, "B P"], length: Int[Array, "B 1"]) -> Int[Array, "B P"]:
    """Where a signal that is reflected at both ends, again and again, is read."""
    period = jnp.maximum(2 * (length - 1), 1)
    place = place % period
    return jnp.minimum(place, period - place)
