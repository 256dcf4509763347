"""The raw view: the unchanged channel."""

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
class Raw(View):
    """The unchanged channel (audio.channel)."""

    uses_channel_2 = False
    is_raw = True
    method: str = "raw"

    def make(self, clips: Channels, learned: Array | None) -> tuple[Float[Array, "B T"], None]:
        return clips.near, None

    def sentence(self, channel: str) -> str:
        return f"{channel} as it is"


RAW = Raw("raw")


def of_mono(view: View) -> View:
    """The view to compute for mono files: `view`, or the raw view if it needs channel 2."""
    return RAW if view.uses_channel_2 or view.is_raw else view
