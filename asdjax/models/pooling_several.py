"""The pooling `several`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asdjax.config.embedding_parts import Part
from asdjax.config.interfaces import Pooling
from asdjax.config.registry import register
from asdjax.config.schema import Check
from asdjax.models.pooling_relative_deviation import RelativeDeviation
from asdjax.models.poolings import Mean

if TYPE_CHECKING:
    from asdjax.models.token_pooling import SideBySide


@register
@dataclasses.dataclass(frozen=True)
class Several(Pooling):
    """Several poolings without weights, side by side: the parts of the embedding."""

    name: str = "several"
    members: tuple[Pooling, ...] = (Mean(), RelativeDeviation())
    """The poolings; backend.part says which of their vectors is scored."""

    def build(self, features: int, hidden: int, rng: Any, bands: int) -> SideBySide:
        from asdjax.models.token_pooling import SideBySide

        return SideBySide([m.build(features, hidden, rng, bands) for m in self.members])

    def parts(self, features: int, bands: int) -> tuple[Part, ...]:
        found: list[Part] = []
        for member in self.members:
            start = sum(part.size for part in found)
            for part in member.parts(features, bands):
                found.append(dataclasses.replace(part, start=start + part.start))
        return tuple(found)

    def sentence(self) -> str:
        return " and ".join(member.sentence() for member in self.members)

    def checks(self) -> list[Check]:
        names = [part.name for part in self.parts(1, 1)]
        return [
            (self.members, "members", "name at least one pooling"),
            (
                not any(member.trains for member in self.members),
                "members",
                "poolings with weights cannot be combined: choose others",
            ),
            (len({*names}) == len(names), "members", "two of them are equal: remove one"),
            (
                not any(isinstance(member, Several) for member in self.members),
                "members",
                "several cannot be inside of several: name its members here",
            ),
            *(check for member in self.members for check in member.checks()),
        ]
