"""The old name of local_density, with the defaults that it had."""

from __future__ import annotations

import dataclasses

from asdjax.config.registry import register
from asdjax.config.schema import Count
from asdjax.scoring.local_density import LocalDensity


@register
@dataclasses.dataclass(frozen=True)
class Rescaled(LocalDensity):
    """The same as local_density, with four neighbours for the density unless said otherwise."""

    name: str = "rescaled"
    rescale_neighbours: Count = 4
    """Neighbours that measure the density around a reference."""
