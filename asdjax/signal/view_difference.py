"""The difference view: channel 2 is subtracted from channel 1, sample by sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from asdjax.config.interfaces import View
from asdjax.config.registry import register

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from asdjax.signal.channels import Channels


@register
@dataclasses.dataclass(frozen=True)
class Difference(View):
    """Channel 1 minus channel 2, scaled to the same level."""

    method: str = "difference"

    def make(self, clips: Channels, learned: Array | None) -> tuple[Float[Array, "B T"], None]:
        return clips.near - clips.far, None

    def sentence(self, channel: str) -> str:
        return "channel 1 less channel 2 at its level"
