"""The cancelling view: the part of channel 1 that correlates with channel 2 is subtracted."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.interfaces import SpectralView
from asdjax.config.registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from asdjax.signal.channels import Channels


@register
@dataclasses.dataclass(frozen=True)
class Cancel(SpectralView):
    """Channel 1 minus its least-squares prediction from channel 2, at each frequency."""

    method: str = "cancel"

    def make(self, clips: Channels, learned: Array | None) -> tuple[Float[Array, "B T"], None]:
        from asdjax.signal import wiener

        s = clips.spectra(self.n_fft, self.hop)
        return s.sound(wiener.cancelled(s.near, s.far, s.valid, s.scale)), None

    def sentence(self, channel: str) -> str:
        return (
            "channel 1 less the least-squares share of channel 2 in each frequency (window/hop "
            f"{self.n_fft}/{self.hop})"
        )
