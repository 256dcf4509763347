"""Low-rank adaptation of a pretrained encoder's linear maps (LoRA).

Hu et al. (ICLR 2022) with the conventions of the peft library:
y = x W + b + alpha / rank * (x A) B. A is initialised as PyTorch's linear layers, B with zeros, so
that the adapted encoder is initially equal to the encoder.
"""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from asdjax.config.beats_architecture import LoRAConfig
from asdjax.config.interfaces import ComputeDtype
from asdjax.models.dropout import Draws, dropout
from asdjax.models.layers import Linear, Rng
from asdjax.models.mixed_precision import Projection, wide
from asdjax.models.parameters import Tree

_ADAPTERS = ("lora_a", "lora_b")


class LoRALinear(Projection):
    """A projection with an adapter: x @ kernel + bias + alpha / rank * (x @ lora_a) @ lora_b."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        config: LoRAConfig,
        *,
        compute_dtype: ComputeDtype = "float32",
        rng: Rng,
    ):
        super().__init__(n_in, n_out, compute_dtype=compute_dtype, rng=rng)
        self.lora_a = Linear(n_in, config.rank, rng=rng).kernel  # initialised as in Linear
        self.lora_b = nnx.Param(np.zeros((config.rank, n_out), np.float32))
        self.scale = config.alpha / config.rank
        self.dropout = config.dropout

    def __call__(
        self, x: Float[Array, "*batch n_in"], draws: Draws | None = None
    ) -> Float[Array, "*batch n_out"]:
        """Apply the adapted map; `draws` are for dropout of the adapter's input."""
        rows = dropout(x, self.dropout, draws).reshape(-1, x.shape[-1])
        adapted = self._product(self._product(rows, self.lora_a[...]), self.lora_b[...])
        y = super().__call__(wide(x)) + self.scale * adapted.reshape(*x.shape[:-1], -1)
        return y.astype(x.dtype)


def is_adapter(path: tuple[str, ...]) -> bool:
    """Whether the array at `path` in a tree of weights belongs to an adapter."""
    return path[-1] in _ADAPTERS


def merge(params: Tree, scale: float) -> Tree:
    """Add every adapter to its kernel, for an encoder without adapters.

    Args:
        params: weights with adapters, which are not changed.
        scale: alpha / rank.

    Returns:
        The same weights without adapters; the sums are NumPy arrays, computed in float64 and
        rounded to the kernel's dtype.
    """
    merged = {
        key: merge(value, scale) if isinstance(value, dict) else value
        for key, value in params.items()
        if not is_adapter((key,))
    }
    if all(name in params for name in _ADAPTERS):
        a, b, kernel = (np.asarray(params[n], np.float64) for n in (*_ADAPTERS, "kernel"))
        merged["kernel"] = (kernel + scale * (a @ b)).astype(params["kernel"].dtype)
    return merged
