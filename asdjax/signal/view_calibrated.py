"""The calibrated view: a gain that accounts for the machine's leakage into channel 2."""

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

_MOST = 200  # approximate number of frames per clip used for the calibration


@register
@dataclasses.dataclass(frozen=True)
class Calibrated(Wiener):
    """Channel 1 with a gain per frequency bin, from calibrated power ratios of the channels."""

    learns = True
    method: str = "calibrated"
    context: Annotated[int, Range(low=1, high=64)] = 8
    """Frames over which the channels' powers are summed before their ratio is taken."""

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
        """Power of channel 2 as recorded, not scaled, divided by that of channel 1."""
        import jax.numpy as jnp

        from asdjax.signal import wiener

        s = clips.spectra(self.n_fft, self.hop)
        ratios = wiener.ratios(s.near_power, s.far_power, s.valid, self.context)
        return ratios * jnp.square(clips.level)[:, None, None]

    def observe(self, clips: Channels) -> tuple[Float[Array, "B N F"], Bool[Array, "B N"]]:
        """Power ratios in about 200 frames per clip at most, whose contexts do not overlap.

        The mask selects frames inside of the clip in which neither channel is silent.
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
        some = slice(min(self.context // 2, frames - 1), None, max(self.context, frames // _MOST))
        return self._ratios(clips)[:, some], s.valid[:, some] & sounds[:, some]

    def learned(self, rows: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "2 F"]:
        """The power ratios of the machine and of the environment (`wiener.calibrate`)."""
        from asdjax.signal import wiener

        if not len(rows):
            raise DataError(
                f"the view {self.name} needs clips with two channels that sound for longer than "
                f"{self.context // 2 * self.hop} samples, and there is none: remove it from "
                "extract.views"
            )
        return wiener.calibrate(rows)

    def sentence(self, channel: str) -> str:
        return (
            "gain on channel 1 from its power ratio to channel 2, calibrated on the machine's "
            f"normal training clips ({self.settings()}, context {self.context} frames)"
        )
