"""AdaCos and sub-cluster AdaCos: softmax cross-entropy on scaled cosines to class centres.

Sub-cluster AdaCos (Wilkinghoff, IJCNN 2021) gives every class K centres and sums their softmax
probabilities; AdaCos (Zhang et al., CVPR 2019) is the same loss with one centre.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from asdjax.config.interfaces import Loss
from asdjax.config.registry import register
from asdjax.config.schema import Count, Positive
from asdjax.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray


@register
@dataclasses.dataclass(frozen=True)
class AdaCos(Loss):
    """AdaCos: softmax over scaled cosines, with one centre per class."""

    name: str = "adacos"
    trainable_centres: bool = True
    """Train the class centres; false: keep their random initial values."""
    scale: Positive | Literal["auto"] = "auto"
    """Factor on the cosine; auto: sqrt(2) log(number of centres - 1)."""
    dynamic: bool = False
    """Re-estimate the scale in each training step, from the batch (without gradient)."""

    @property
    def of_whole_batch(self) -> bool:
        return self.dynamic

    def init(
        self, n_classes: int, embedding_size: int, key: PRNGKeyArray
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        from asdjax.training import cosine_losses

        n_centres = n_classes * self._centres_per_class
        if (self.scale == "auto" or self.dynamic) and n_centres < 3:
            raise ConfigError(
                f"loss.scale: {self.name} with {n_classes} class(es) has {n_centres} centre(s), "
                f"and an automatic or dynamic scale needs at least 3: {self._remedy}, choose a "
                "finer dataset.label, or set loss.scale to a number and loss.dynamic to false"
            )
        scale = math.sqrt(2) * math.log(n_centres - 1) if self.scale == "auto" else self.scale
        return cosine_losses.init(
            n_centres, embedding_size, key, scale=scale, trainable=self.trainable_centres
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
        from jax import lax

        from asdjax.training import cosine_losses

        cosine, target, scale = cosine_losses.cosines(params | stats, embedding, target)
        if self.dynamic and train:
            scale = cosine_losses.dynamic_scale(
                scale,
                *lax.stop_gradient((cosine, target)),
                axis_name,
                with_label=self._with_label,
            )
            stats = stats | {"scale": scale.astype(stats["scale"].dtype)}
        log_probabilities = cosine_losses.log_probabilities(scale, cosine)
        loss = cosine_losses.mean_over_labels(log_probabilities, target)
        return loss, log_probabilities, stats

    def sentence(self) -> str:
        return "AdaCos"

    _with_label = False  # `with_label` of `cosine_losses.dynamic_scale`
    _remedy = "set loss.name to sub_cluster_adacos"  # if there are too few centres

    @property
    def _centres_per_class(self) -> int:
        return 1


@register
@dataclasses.dataclass(frozen=True)
class SubClusterAdaCos(AdaCos):
    """AdaCos with several centres per class, whose probabilities are summed."""

    name: str = "sub_cluster_adacos"
    sub_clusters: Count = 16
    """Centres per class."""

    def sentence(self) -> str:
        return "sub-cluster AdaCos"

    _with_label = True
    _remedy = "raise loss.sub_clusters"

    @property
    def _centres_per_class(self) -> int:
        return self.sub_clusters
