"""A backend for each machine and section, as `asdjax select` chooses it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Check
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


@register
@dataclasses.dataclass(frozen=True)
class Chosen(Backend):
    """Another backend for each machine and section; written by asdjax select."""

    selected: ClassVar[bool] = True
    name: str = "chosen"
    sections: tuple[str, ...] = ()
    """Machines and their sections, as fan/00."""
    members: tuple[Backend, ...] = ()
    """The backend of each of them."""

    def of(self, machine: str, section: str) -> Backend:
        name = f"{machine}/{section}"
        if name not in self.sections:
            raise ConfigError(
                f"backend.sections: {name} is not among them: run asdjax select again, or name "
                "another backend (asdjax score RUN --backend.name nearest_neighbours)"
            )
        return self.members[self.sections.index(name)]

    def checks(self) -> list[Check]:
        equal = len(self.sections) == len(self.members)
        found: list[Check] = [
            (self.sections, "name", "chosen is written by asdjax select: run it"),
            (equal, "members", "there must be one for each of backend.sections"),
        ]
        own = ("name", "combine_views", "sections", "members")
        for field in dataclasses.fields(self):
            same = field.name in own or getattr(self, field.name) == field.default
            found.append((same, field.name, "has no effect here: name another backend with it"))
        for i, member in enumerate(self.members):
            key = f"members[{i}]"
            found += [
                (not isinstance(member, Chosen), f"{key}.name", "a member cannot be chosen itself"),
                (
                    member.combine_views == self.combine_views,
                    f"{key}.combine_views",
                    "must be combine_views of the backend: choose anew with asdjax select, or name "
                    "another backend",
                ),
                *((good, f"{key}.{setting}", what) for good, setting, what in member.checks()),
            ]
        return found

    def fitted(self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]) -> Any:
        raise ConfigError("backend chosen: it has another backend for each machine and section")

    def sentence(self) -> str:
        return "chosen for each machine without anomalies, by pseudo-anomalies: " + "; ".join(
            f"{name}: {_of_part(member)}{member.sentence()}"
            for name, member in zip(self.sections, self.members, strict=True)
        )

    def generalization(self) -> str | None:
        found = {member.generalization(): None for member in self.members}
        return "; ".join(words for words in found if words) or None

    def training_scores(self) -> str:
        found = {member.training_scores(): None for member in self.members}
        return ", ".join(found) or super().training_scores()


def _of_part(member: Backend) -> str:
    """Words for the part of the embedding that a backend scores."""
    return f"{member.part}, bands {member.bands}, by " if member.part else ""
