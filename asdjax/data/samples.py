"""The one conversion of 16-bit samples to floating point."""

from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array", bound=Any)
"""Of NumPy or of JAX."""


def to_float(samples: Array, dtype: Any = np.float32) -> Array:
    """Samples in [-1, 1]: int16 is divided by 32768, which is exact; floats are cast.

    Args:
        samples: int16 or floating point, of NumPy or of JAX, of any shape.
        dtype: of the result, a floating-point type.

    Example:
        >>> to_float(np.array([-32768, 16384], np.int16)).tolist()
        [-1.0, 0.5]
    """
    kind = np.dtype(dtype).type
    if samples.dtype == np.int16:
        return samples.astype(kind) / kind(32768)
    return samples.astype(kind)
