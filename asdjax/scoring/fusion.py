"""Several backends at once: the mean, minimum or maximum of their standardised scores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar, Literal

from asdjax.config import registry
from asdjax.config.interfaces import Backend
from asdjax.config.registry import register
from asdjax.config.schema import Check
from asdjax.errors import DataError
from asdjax.scoring import backends
from asdjax.scoring.backends import Fitted

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Float64

_FEWEST = 3  # clips: two have the same leave-one-out scores
_PUBLISHED = ("nearest_neighbours", "local_density", "mahalanobis", "principal_components")


def _members() -> tuple[Backend, ...]:
    return tuple(registry.find("backend", name)() for name in _PUBLISHED)


@register
@dataclasses.dataclass(frozen=True)
class Fusion(Backend):
    """Scores of several backends, each standardised by its leave-one-out scores (arXiv 2606.19269).

    A member computes on the embeddings as `metric` of the fusion leaves them, by its own settings.
    """

    name: str = "fusion"
    members: tuple[Backend, ...] = dataclasses.field(default_factory=_members)
    """The backends, with their settings; no fusions."""
    combine: Literal["mean", "minimum", "maximum"] = "minimum"
    """How the members' standardised scores become one."""

    divides_bands: ClassVar[bool] = True

    def fitted(
        self, points: Float[np.ndarray, "N D"], is_target: Bool[np.ndarray, " N"]
    ) -> FittedFusion:
        return FittedFusion(self, points, is_target)

    def fitted_to_bands(
        self, points: Float[np.ndarray, "N FD"], is_target: Bool[np.ndarray, " N"], bands: int
    ) -> FittedFusion:
        return FittedFusion(self, points, is_target, bands)

    def with_metric(self, metric: Literal["cosine", "euclidean"]) -> Fusion:
        members = tuple(member.with_metric(metric) for member in self.members)
        return dataclasses.replace(self, metric=metric, members=members)

    def checks(self) -> list[Check]:
        found: list[Check] = [(self.members, "members", "name at least one backend")]
        for i, member in enumerate(self.members):
            key = f"members[{i}]"
            no_targets = self.target_neighbours > 0 or member.target_neighbours == 0
            found += [
                (not isinstance(member, Fusion), f"{key}.name", "a member cannot be a fusion"),
                (
                    member.name in registry.choices("backend"),
                    f"{key}.name",
                    f"{member.name} cannot be a member: name another backend",
                ),
                (member.part is None, f"{key}.part", "set the part of the fusion instead"),
                (
                    member.combine_views == "mean",
                    f"{key}.combine_views",
                    "set combine_views of the fusion instead",
                ),
                (
                    no_targets,
                    f"{key}.target_neighbours",
                    "must be 0, too, as target_neighbours of the fusion is",
                ),
                *((good, f"{key}.{setting}", what) for good, setting, what in member.checks()),
            ]
        return found

    def sentence(self) -> str:
        members = "; ".join(dict.fromkeys(member.sentence() for member in self.members))
        return f"{self.combine} of the standardised scores of {len(self.members)}: {members}"

    def generalization(self) -> str | None:
        found = dict.fromkeys(member.generalization() for member in self.members)
        return "; ".join(text for text in found if text is not None) or None


class FittedFusion(Fitted):
    """The members, fitted to all clips, and mean and deviation of their leave-one-out scores.

    Scores of the training clips are by cross-validation: members and their means and deviations are
    fitted to the other folds. With as many folds as clips, each clip is left out by itself.
    """

    config: Fusion
    refitted_part = "the fusion"

    def __init__(
        self,
        config: Fusion,
        points: Float[np.ndarray, "N FD"],
        is_target: Bool[np.ndarray, " N"],
        bands: int = 1,
    ):
        self._bands = bands
        super().__init__(config, points, is_target)

    def refitted(self, rows: Bool[np.ndarray, " N"]) -> FittedFusion:
        return FittedFusion(self.config, self.points[rows], self.is_target[rows], self._bands)

    def fit_points(self) -> None:
        import numpy as np

        from asdjax.scoring import standardisation

        if self.used.sum() < _FEWEST:
            raise DataError(
                f"a fusion standardises by leave-one-out scores, which needs {_FEWEST} training "
                f"clips, and one more for the clips' own scores; found {self.used.sum()}: add "
                "normal clips of this machine and section"
            )
        self._members = [
            backends.fit(member, self.points, self.is_target, self._bands)
            for member in self.config.members
        ]
        left_out = np.stack([member.leave_one_out() for member in self._members])
        for i in np.flatnonzero(standardisation.alike(left_out)):
            raise DataError(
                f"all leave-one-out scores of backend.members[{i}] "
                f"({self.config.members[i].name}) are equal: remove it from backend.members"
            )
        self._spreads = standardisation.spreads(left_out, smallest=0)
        for note in dict.fromkeys(note for member in self._members for note in member.notes):
            if note not in {*self.notes, *(member.fold_note for member in self._members)}:
                self.note(note)

    def score_points(self, points: Float[np.ndarray, "M FD"]) -> Float64[np.ndarray, " M"]:
        import numpy as np

        from asdjax.scoring.standardisation import standardised

        scores = standardised(np.stack([m.score(points) for m in self._members]), self._spreads)
        if self.config.combine == "mean":
            return scores.mean(axis=0)
        return scores.min(axis=0) if self.config.combine == "minimum" else scores.max(axis=0)
