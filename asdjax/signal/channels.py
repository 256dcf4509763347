"""Both channels of a batch of clips and their spectra, from which views are computed.

Clips of different lengths share a batch: a clip is the first `length` samples of its row, the rest
is padding and has no influence.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int

from asdjax.signal import stft, wiener

CLEAR = 7.0
"""Least ratio of the cross-correlation's peak to its root mean square for a delay to be reported.
With uncorrelated noise, the peak of 1000 lags is at 4, and above 6 in one of a thousand clips."""
_LAG_STFT = 1024, 512  # n_fft and hop of the spectra that give the lag


class Channels:
    """A batch of clips at their original lengths (not repeated or cut).

    Attributes:
        near: [B, T], channel 1, zero in the padding.
        far: [B, T], channel 2 scaled to the RMS of channel 1, zero in the padding; all zero if
            channel 2 is silent or missing.
        level: [B], RMS of channel 2 as recorded, divided by that of channel 1.
        length: [B], samples.
    """

    def __init__(self, waveform: Float[Array, "B C T"], length: Int[Array, " B"]):
        """Scale channel 2 to the level of channel 1.

        Args:
            waveform: channel 1 (near), then channel 2 (far) if there is one.
            length: length of each clip, samples.
        """
        if waveform.shape[1] == 1:
            waveform = jnp.concatenate([waveform, jnp.zeros_like(waveform)], axis=1)
        self.length = length
        self.near, self.far, self.level, self._comparison = _levelled(waveform, length)
        self._spectra: dict[tuple[int, int], Spectra] = {}

    def spectra(self, n_fft: int, hop: int) -> "Spectra":
        """The spectra of both channels at one resolution, computed on first use."""
        if (n_fft, hop) not in self._spectra:
            self._spectra[n_fft, hop] = Spectra(self.near, self.far, self.length, n_fft, hop)
        return self._spectra[n_fft, hop]

    def facts(self) -> dict[str, Array]:
        """A comparison of the channels of each clip.

        Returns:
            "level_db" [B], level of channel 2 relative to channel 1; "correlation" [B] of the
            channels; "silent" bool [B, 2], whether a channel is all zero; "lag" [B], delay of
            channel 2 relative to channel 1, samples, NaN if there is no clear one.
        """
        return {**self._comparison, "lag": self.spectra(*_LAG_STFT).lag()}


def _levelled(
    waveform: Float[Array, "B 2 T"], length: Int[Array, " B"]
) -> tuple[Float[Array, "B T"], Float[Array, "B T"], Float[Array, " B"], dict[str, Array]]:
    """`near`, `far` and `level` of `Channels`, and `facts` without the lag."""
    inside = jnp.arange(waveform.shape[2], dtype=jnp.int32)[None, None, :] < length[:, None, None]
    waveform = jnp.where(inside, waveform, 0.0)
    near, far = waveform[:, 0], waveform[:, 1]
    peak = jnp.max(jnp.abs(far), axis=1)
    far = far / jnp.where(peak == 0, 1.0, peak)[:, None]  # so that its energy cannot underflow
    near_energy, far_energy = _dot(near, near), _dot(far, far)
    ratio = jnp.sqrt(near_energy / jnp.where(peak == 0, 1.0, far_energy))
    samples = length.astype(near.dtype)
    rms = jnp.sqrt(near_energy / samples), peak * jnp.sqrt(far_energy / samples)
    level = jnp.maximum(rms[1], 1e-15) / jnp.maximum(rms[0], 1e-15)  # also finite if squared
    facts = {
        "level_db": 20 * jnp.log10(level),
        "correlation": _correlation(near, far, inside[:, 0]),
        "silent": jnp.stack([near_energy == 0, peak == 0], axis=1),
    }
    return near, far * ratio[:, None], level, facts


def _correlation(
    near: Float[Array, "B T"], far: Float[Array, "B T"], inside: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Pearson's correlation of the channels over the clip; 0 if one of them is constant."""

    def centred(sound: Float[Array, "B T"]) -> Float[Array, "B T"]:
        mean = jnp.sum(sound, axis=1) / jnp.sum(inside, axis=1).astype(sound.dtype)
        return jnp.where(inside, sound - mean[:, None], 0.0)

    near, far = centred(near), centred(far)
    product = jnp.sqrt(_dot(near, near)) * jnp.sqrt(_dot(far, far))
    return jnp.clip(_dot(near, far) / jnp.where(product == 0, jnp.inf, product), -1.0, 1.0)


def _dot(a: Float[Array, "B T"], b: Float[Array, "B T"]) -> Float[Array, " B"]:
    return jnp.einsum("bt,bt->b", a, b, precision="highest")


class Spectra:
    """Spectra of both channels at one resolution.

    The STFT of each clip as if it were alone in the batch, with the conventions of `stft.stft`. The
    clip is extended by its mirror image at both ends: on the right first to a multiple of the hop,
    so that `sound` inverts clips of any length exactly, then at both ends by n_fft // 2 for the
    frames that reach beyond.

    Attributes:
        near: complex [B, L, F], of channel 1.
        far: complex [B, L, F], of channel 2 at the level of channel 1.
        near_power: [B, L, F], squared magnitudes of `near`.
        far_power: [B, L, F], squared magnitudes of `far`.
        valid: bool [B, L], the frames of the clip (the others are padding).
        scale: [B, 1, 1], mean of `near_power` over the clip's frames and bins.
    """

    def __init__(
        self,
        near: Float[Array, "B T"],
        far: Float[Array, "B T"],
        length: Int[Array, " B"],
        n_fft: int,
        hop: int,
    ):
        self.n_fft, self.hop, self.samples = n_fft, hop, near.shape[1]
        self.window = jnp.asarray(stft.hann(n_fft), near.dtype)
        hops = -(-self.samples // hop)  # of a row; those of its clip are own_hops
        own_hops = -(-length // hop)
        self.inside = jnp.arange(self.samples, dtype=jnp.int32)[None, :] < length[:, None]
        self.valid = jnp.arange(hops + 1, dtype=jnp.int32)[None, :] <= own_hops[:, None]
        # sample positions before a clip's start and from its end on, then where they are mirrored:
        # first at the ends of the extended clip, then at those of the clip
        head = jnp.arange(-(n_fft // 2), 0, dtype=jnp.int32)[None, :]
        tail = length[:, None] + jnp.arange(hop + n_fft // 2, dtype=jnp.int32)[None, :]
        ends = [
            _mirrored(_mirrored(place, own_hops[:, None] * hop), length[:, None])
            for place in (head, tail)
        ]

        def spectrum(sound: Float[Array, "B T"]) -> Complex[Array, "B L F"]:
            before, after = (jnp.take_along_axis(sound, place, axis=1) for place in ends)
            zeros = jnp.zeros_like(sound, shape=(len(sound), hop + n_fft))
            padded = jnp.concatenate([before, sound, zeros], axis=1)
            put = jax.vmap(lambda row, end, at: jax.lax.dynamic_update_slice(row, end, (at,)))
            padded = put(padded, after, length + n_fft // 2)
            framed = stft.frames(padded, self.window, hop=hop, count=hops + 1)
            return jnp.fft.rfft(framed, axis=-1)

        self.near, self.far = spectrum(near), spectrum(far)
        self.near_power, self.far_power = wiener.power(self.near), wiener.power(self.far)
        self.scale = self.mean(self.near_power)[:, None, None]

    def with_gain(
        self, gain: Float[Array, "B L F"]
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"]]:
        """Channel 1 after multiplication of its spectrum by a gain, and the mean gain."""
        return self.sound(wiener.scaled(self.near, gain)), self.mean(gain)

    def lag(self) -> Float[Array, " B"]:
        """Delay of channel 2 relative to channel 1, samples; NaN if no delay is clear.

        The peak of the cross-correlation with phase transform (GCC-PHAT, Knapp and Carter, 1976):
        r = irfft(S / |S|), where S is the sum over frames of conj(near) far. Indices from n_fft / 2
        on are negative lags. The peak may be negative (microphones of opposite polarity).
        """
        alternate = slice(None, None, 2)  # every other frame: frames overlap by half
        cross = jnp.conj(self.near[:, alternate]) * self.far[:, alternate]
        own = self.valid[:, alternate, None]
        cross = jnp.where(own, cross, jnp.zeros((), cross.dtype)).sum(axis=1)
        size = jnp.abs(cross)
        phase = wiener.scaled(cross, 1 / jnp.where(size == 0, 1.0, size))
        correlation = jnp.abs(jnp.fft.irfft(phase, self.n_fft, axis=1))
        place = jnp.argmax(correlation, axis=1).astype(jnp.int32)
        lag = jnp.where(place < self.n_fft // 2, place, place - self.n_fft)
        spread = jnp.sqrt(jnp.mean(jnp.square(correlation), axis=1))
        clear = jnp.max(correlation, axis=1) > CLEAR * spread
        return jnp.where(clear, lag.astype(correlation.dtype), jnp.nan)

    def mean(self, values: Float[Array, "B L F"]) -> Float[Array, " B"]:
        """The mean over the frames of a clip and all bins."""
        own = self.valid.astype(values.dtype)
        total = jnp.einsum("bl,blf->bf", own, values, precision="highest")
        return total.mean(axis=1) / jnp.sum(own, axis=1)

    def sound(self, spectrum: Complex[Array, "B L F"]) -> Float[Array, "B T"]:
        """The least-squares inverse (see `stft.istft`): clips [B, T], zero in the padding."""
        framed = stft.inverse_rfft(spectrum, self.n_fft)
        own = self.valid.astype(framed.dtype)[:, :, None]
        added = stft.overlap_add(framed * own, self.window, hop=self.hop)
        weight = stft.overlap_add(own, jnp.square(self.window), hop=self.hop)
        sound = added / jnp.where(weight == 0, 1.0, weight)
        start = self.n_fft // 2
        sound = sound.reshape(len(sound), -1)[:, start : start + self.samples]
        return jnp.where(self.inside, sound, 0.0)


def _mirrored(place: Int[Array, "B P"], length: Int[Array, "B 1"]) -> Int[Array, "B P"]:
    """The sample of a signal that its periodic mirror image has at `place`, as `np.pad` reflects.

    The mirror image has the period 2 (length - 1): 0, 1, ..., length - 1, ..., 1, 0, 1, ...
    """
    period = jnp.maximum(2 * (length - 1), 1)
    place = place % period
    return jnp.minimum(place, period - place)
