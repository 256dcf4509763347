"""The parts of an embedding: which of its values belong together, and how many bands they have."""

import dataclasses
from collections.abc import Sequence

from asdjax.config.schema import shown
from asdjax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Part:
    """Values of an embedding that one pooling made, `embedding[start : start + size]`.

    With bands, they are the vectors of the frequency bands, one after the other, the lowest first.

    Example:
        >>> Part("mean_bands", start=0, size=6144, bands=8).name
        'mean_bands'
    """

    name: str
    start: int
    size: int
    """Number of values, those of all bands."""
    bands: int = 1


def chosen(parts: Sequence[Part], name: str | None) -> Part | None:
    """The part with a name, the first if the name is None; None: the whole embedding.

    Args:
        parts: what an embedding consists of (`Encoder.embedding_parts`).
        name: `backend.part`.

    Raises:
        AsdjaxError: there is no such part.
    """
    if name is None:
        return parts[0] if parts else None
    for part in parts:
        if part.name == name:
            return part
    those = f"one of {', '.join(part.name for part in parts)}" if parts else "none, it has no parts"
    raise ConfigError(f"backend.part: the embedding has no part {shown(name)}: choose {those}")


def small(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The same parts with eight values in each band, to try a backend with.

    Example:
        >>> small([Part("mean", 0, 768), Part("mean_bands", 768, 6144, bands=8)])[1]
        Part(name='mean_bands', start=8, size=64, bands=8)
    """
    found: list[Part] = []
    for part in parts:
        start = found[-1].start + found[-1].size if found else 0
        found.append(Part(part.name, start, 8 * part.bands, part.bands))
    return tuple(found)
