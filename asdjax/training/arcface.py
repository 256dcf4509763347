"""ArcFace (Deng et al., CVPR 2019): one centre per class, and an angular margin for the label."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from asdjax.config.interfaces import Loss
from asdjax.config.registry import register
from asdjax.config.schema import Check, NonNegative, Positive

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


@register
@dataclasses.dataclass(frozen=True)
class ArcFace(Loss):
    """Softmax over scaled cosines, with a margin added to the angle of the label's class.

    The loss of a soft label is the mean, weighted by the label, of the losses of the hard labels.
    Class probabilities are computed without margin.
    """

    name: str = "arcface"
    trainable_centres: bool = True
    """Train the class centres; false: keep their random initial values."""
    scale: Positive | Literal["auto"] = "auto"
    """Factor on the cosine; auto: 64."""
    margin: NonNegative = 0.5
    """Angle that is added to the angle of the label's class, radians."""
    dynamic: bool = False
    """Must be false: ArcFace has a constant scale."""

    def checks(self) -> list[Check]:
        what = f"{self.name} has a constant scale: set this to false"
        return [(not self.dynamic, "loss.dynamic", what)]

    def init(
        self, n_classes: int, embedding_size: int, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        from asdjax.training import cosine_losses

        scale = 64.0 if self.scale == "auto" else self.scale
        return cosine_losses.init(
            n_classes, embedding_size, key, scale=scale, trainable=self.trainable_centres
        )

    def apply(
        self,
        params: dict[str, Array],
        stats: dict[str, Array],
        embedding: Float[Array, "B D"],
        target: Float[Array, "B C"],
        *,
        train: bool,
        axis_name: str | None = None,
    ) -> tuple[Float[Array, " B"], Float[Array, "B C"], dict[str, Array]]:
        from asdjax.training import cosine_losses

        cosine, target, scale = cosine_losses.cosines(params | stats, embedding, target)
        log_probabilities = cosine_losses.log_probabilities(scale, cosine)
        with_margin = cosine_losses.log_probabilities_with_margin(
            self.margin, scale, cosine[:, :, 0]
        )
        loss = cosine_losses.mean_over_labels(with_margin, target)
        return loss, log_probabilities, stats

    def sentence(self) -> str:
        return "ArcFace"
