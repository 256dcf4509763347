"""The Wiener view: channel 2 is used as an estimate of the noise in channel 1."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

from asdjax.config.interfaces import SpectralView
from asdjax.config.registry import register
from asdjax.config.schema import Range, digits

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from asdjax.signal.channels import Channels


@register
@dataclasses.dataclass(frozen=True)
class Wiener(SpectralView):
    """Channel 1 with a Wiener gain per frequency bin, with channel 2 as the noise."""

    method: str = "wiener"
    alpha: Annotated[float, Range(low=0, high=1000)] = 1.0
    """Factor on the noise power that is subtracted; 0: no noise reduction."""
    beta: Annotated[float, Range(low=0, high=1)] = 0.01
    """Lower limit of the gain."""

    def make(
        self, clips: Channels, learned: Array | None
    ) -> tuple[Float[Array, "B T"], Float[Array, " B"]]:
        from asdjax.signal import wiener

        s = clips.spectra(self.n_fft, self.hop)
        gain = wiener.gain(s.near_power, s.far_power, s.scale, alpha=self.alpha, beta=self.beta)
        return s.with_gain(gain)

    def sentence(self, channel: str) -> str:
        return f"Wiener gain on channel 1 with channel 2 as the noise ({self.settings()})"

    def settings(self) -> str:
        """The settings as a text for meta.yaml."""
        return (
            f"alpha {digits(self.alpha)}, beta {digits(self.beta)}, window/hop "
            f"{self.n_fft}/{self.hop}"
        )
