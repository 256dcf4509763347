"""The encoder of a combination of runs (asdjax combine): a clip's vector is its members' scores."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from asdjax.config.interfaces import Encoder
from asdjax.config.registry import register
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    from flax import nnx


DESCRIBED = (
    "front_end", "acoustic_features", "data_augmentation", "domain_generalization_method",
    "development_data_usage",
)  # fmt: skip
"""Entries of a submission's description that a combination has from its members."""


@register
@dataclasses.dataclass(frozen=True)
class MemberScores(Encoder):
    """The scores of other runs; written by asdjax combine."""

    neutral = ("members", "scores")  # they differ between seeds of one combination
    embeds: ClassVar[bool] = False
    name: str = "member_scores"
    members: tuple[str, ...] = ()
    """Names of the combined runs' folders."""
    methods: tuple[str, ...] = ()
    """How each of them computes its scores, in the words of its meta.yaml."""
    scores: tuple[str, ...] = ()
    """Digest of the scores of each of them."""
    front_end: str = ""
    """What their meta.yaml say of the front end, each text once."""
    acoustic_features: str = ""
    """Likewise of the acoustic features."""
    data_augmentation: str = ""
    """Likewise of the augmentation."""
    domain_generalization_method: str = ""
    """Likewise of domain generalization."""
    development_data_usage: str = ""
    """Likewise of the use of development data."""
    random_init: bool = False
    """Whether one of them began with random weights; all results of the run are then marked so."""

    @property
    def trains_nothing(self) -> bool:
        return True

    @property
    def for_tests_only(self) -> bool:
        return self.random_init

    def described(self) -> dict[str, Any]:
        own = {name: getattr(self, name) or None for name in DESCRIBED}
        return {**own, "ensemble_method_subsystem_count": len(self.members)}

    def build(self, n_samples: int | None, sample_rate: int, rng: Any) -> nnx.Module:
        raise ConfigError(
            "model.name member_scores: a combination of runs has no network of its own: use one "
            f"of its members ({', '.join(self.members)})"
        )

    def sentences(self) -> tuple[str, str, str]:
        methods = "; ".join(dict.fromkeys(self.methods))
        return (
            self.acoustic_features or "those of the combined systems",
            f"the anomaly scores of {len(self.members)} systems",
            f"combination of {len(self.members)} systems ({methods})",
        )
