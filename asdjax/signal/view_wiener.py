"""The Wiener view: channel 2 is taken for the noise in channel 1."""

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
    """Channel 1 with a Wiener gain on each bin of its spectrum."""

    method: str = "wiener"
    alpha: Annotated[float, Range(low=0, high=1000)] = 1.0
    """How much of the noise is taken away."""
    beta: Annotated[float, Range(low=0, high=1)] = 0.01
    """Smallest gain."""

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
        """The settings in words."""
        return (
            f"alpha {digits(self.alpha)}, beta {digits(self.beta)}, window/hop "
            f"{self.n_fft}/{self.hop}"
        )
