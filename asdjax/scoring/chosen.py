"""A backend for each machine and section, as `asdjax select` chooses it."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Any

from asdjax.config.interfaces import Backend
from asdjax.config.registry import default, register
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backend of a machine and section."""

    machine: str
    section: str
    """Two digits."""
    backend: Backend = dataclasses.field(default_factory=partial(default, "backend"))


@register
@dataclasses.dataclass(frozen=True)
class Chosen(Backend):
    """Another backend for each machine; written by asdjax select."""

    name: str = "chosen"
    choices: tuple[Choice, ...] = ()
    """The backend of each machine and section."""

    def of(self, machine: str, section: str) -> Backend:
        for choice in self.choices:
            if (choice.machine, choice.section) == (machine, section):
                return choice.backend
        raise ConfigError(
            f"backend.choices: none for {machine} section {section}: run asdjax select again, or "
            "name another backend (asdjax score RUN --backend.name nearest_neighbours)"
        )

    def fitted(self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]) -> Any:
        raise ConfigError("backend chosen: it has another backend for each machine and section")

    def sentence(self) -> str:
        return "chosen for each machine without anomalies, by pseudo-anomalies: " + "; ".join(
            f"{choice.machine} {choice.section}: {choice.backend.sentence()}"
            for choice in self.choices
        )

    def generalization(self) -> str | None:
        found = {choice.backend.generalization(): None for choice in self.choices}
        return "; ".join(words for words in found if words) or None

    def training_scores(self) -> str:
        found = {choice.backend.training_scores(): None for choice in self.choices}
        return ", ".join(found) or super().training_scores()
