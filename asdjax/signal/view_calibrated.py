"""The calibrated view: a gain from what a machine's normal clips tell of its leakage."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from asdjax.config.registry import register
from asdjax.config.schema import Range
from asdjax.errors import DataError
from asdjax.signal.view_wiener import Wiener

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Bool, Float

    from asdjax.signal.channels import Channels

_MOST = 200  # frames of a clip that calibrate


@register
@dataclasses.dataclass(frozen=True)
class Calibrated(Wiener):
    """Channel 1 with a gain on each bin of its spectrum, from its power ratio to channel 2."""

    learns = True
    method: str = "calibrated"
    context: Annotated[int, Range(low=1, high=64)] = 8
    """Frames over which the channels' powers are summed before they are compared."""

    def make(
        self, clips: Channels, learned: Array | None
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"]]:
        from asdjax.signal import wiener

        assert learned is not None
        gain = wiener.calibrated_gain(
            self._ratios(clips), learned, alpha=self.alpha, beta=self.beta
        )
        return clips.spectra(self.n_fft, self.hop).with_gain(gain)

    def _ratios(self, clips: Channels) -> Float[Array, "B L F"]:
        """Of channel 2 as recorded, not as levelled, to channel 1."""
        import jax.numpy as jnp

        from asdjax.signal import wiener

        s = clips.spectra(self.n_fft, self.hop)
        ratios = wiener.ratios(s.near_power, s.far_power, s.valid, self.context)
        return ratios * jnp.square(clips.level)[:, None, None]

    def observe(self, clips: Channels) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
        """Ratios of channel 2 to channel 1 in frames whose contexts do not meet.

        They are at most about 200 of a clip. Those count that lie in the clip where both channels
        sound.
        """
        from asdjax.signal import wiener

        s = clips.spectra(self.n_fft, self.hop)
        floor = wiener.floor(s.scale)[:, :, 0]
        near, far = (
            wiener.around(power.mean(axis=2, keepdims=True), s.valid, self.context)[:, :, 0]
            for power in (s.near_power, s.far_power)
        )
        sounds = (near > floor) & (far > floor)
        frames = s.valid.shape[1]
        apart = slice(min(self.context // 2, frames - 1), None, max(self.context, frames // _MOST))
        return self._ratios(clips)[:, apart], s.valid[:, apart] & sounds[:, apart]

    def learned(self, rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "2 F"]:
        """The ratios of the machine, then of the environment (`wiener.calibrate`)."""
        from asdjax.signal import wiener

        if not len(rows):
            raise DataError(
                "no clip has two channels that sound for longer than "
                f"{self.context // 2 * self.hop} samples, which the view {self.name} needs: leave "
                "it out of extract.views"
            )
        return wiener.calibrate(rows)

    def sentence(self, channel: str) -> str:
        return (
            "gain on channel 1 from its power ratio to channel 2, calibrated on the machine's "
            f"normal training clips ({self.settings()}, context {self.context} frames)"
        )
