"""The far view: channel 2 instead of channel 1."""

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
class Far(View):
    """Channel 2, scaled to the level of channel 1."""

    method: str = "far"

    def make(self, clips: Channels, learned: Array | None) -> tuple[Float[Array, "B T"], None]:
        return clips.far, None

    def sentence(self, channel: str) -> str:
        return "channel 2 at the level of channel 1"
