"""Convolution, pooling and normalisation whose gradients are faster on CPUs than those of JAX.

Values and gradients are equal to those of the plain operations, up to rounding. Arrays are batch
first, channels last. "Positions" are the axes between: one (time or frequency) or two.
"""

import functools
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from asdjax.config.interfaces import ComputeDtype

PRECISION: Mapping[str, lax.Precision] = {
    "auto": lax.Precision.HIGH,
    "float32": lax.Precision.HIGHEST,
    "tensorfloat32": lax.Precision.HIGH,
}
"""JAX's name of a `ComputeDtype`. HIGH is float32 on CPUs, TensorFloat-32 on NVIDIA GPUs, and three
passes of bfloat16 on TPUs."""
CPU_CLIPS = 8
"""Clips per convolution in the backward pass on CPUs; other devices process all clips at once.
On CPUs, XLA takes three times as long for 64 clips at once as for eight times 8 clips."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def correlate(
    x: Float[Array, "B *positions n_in"],
    kernel: Float[Array, "*window n_in n_out"],
    stride: int,
    padding: int,
    compute_dtype: ComputeDtype = "float32",
) -> Float[Array, "B *outputs n_out"]:
    """Cross-correlation over one or two axes, with `padding` zeros at both ends of each.

    y[i, o] = sum over k, c of x[stride * i + k - padding, c] kernel[k, c, o]

    Args:
        x: input.
        kernel: weights.
        stride: step along every axis.
        padding: zeros at both ends of every axis.
        compute_dtype: "float32" multiplies in the operands' dtype, at full precision on every
            device; "tensorfloat32" and "auto" at the precision that `ComputeDtype` says;
            "bfloat16" rounds operands and results, also of the gradients.
    """
    if x.shape[-1] == 1 and stride > 1 and padding == 0:
        x, kernel, stride = *folded(x, kernel, stride), 1  # one channel is slow on CPUs
    rounded = _rounded(x, kernel, compute_dtype)
    return _correlate(*rounded, stride, padding, compute_dtype).astype(x.dtype)


def folded(
    x: Float[Array, "B *positions n_in"], kernel: Float[Array, "*window n_in n_out"], stride: int
) -> tuple[Float[Array, "B *cells channels"], Float[Array, "*taps channels n_out"]]:
    """Input and kernel of an equal cross-correlation with stride 1, without padding.

    Space-to-depth: position s * j + p (stride s, p < s) becomes channel p of cell j, on each axis.
    With the kernel padded by zeros to a multiple of s, tap s * t + p likewise becomes channel p of
    tap t, and

        y[i] = sum_k x[s i + k] w[k] = sum_t sum_p x[s (i + t) + p] w[s t + p]

    is a cross-correlation over cells, summed over channels p (and those of x). Positions beyond the
    last window are cut off.
    """
    axes, window = x.ndim - 2, kernel.shape[:-2]
    taps = [-(-n // stride) for n in window]
    cells = [(n - m) // stride + t for n, m, t in zip(x.shape[1:-1], window, taps, strict=True)]

    def in_cells(a: Array, lead: int, counts: list[int]) -> Array:
        """Divide each of the `axes` axes from `lead` on into cells, and move p to the channels."""
        sizes = a.shape[lead : lead + axes]
        # at the end of an axis: zeros up to whole cells, or a cut (negative padding)
        missing = [(0, n * stride - m, 0) for n, m in zip(counts, sizes, strict=True)]
        widths = [(0, 0, 0)] * lead + missing + [(0, 0, 0)] * (a.ndim - lead - axes)
        a = lax.pad(a, jnp.zeros((), a.dtype), widths)
        split = [m for n in counts for m in (n, stride)]
        a = a.reshape(*a.shape[:lead], *split, *a.shape[lead + axes :])
        inner = [lead + 2 * i + 1 for i in range(axes)]
        a = jnp.moveaxis(a, inner, range(lead + axes, lead + 2 * axes))
        channels = stride**axes * a.shape[lead + 2 * axes]
        return a.reshape(*a.shape[: lead + axes], channels, *a.shape[lead + 2 * axes + 1 :])

    return in_cells(x, 1, cells), in_cells(kernel, 0, taps)


def _rounded(x: Array, kernel: Array, compute_dtype: ComputeDtype) -> tuple[Array, Array]:
    if compute_dtype != "bfloat16":
        return x, kernel
    return x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)


def _correlate(
    x: Array, kernel: Array, stride: int, padding: int, compute_dtype: ComputeDtype
) -> Array:
    axes = x.ndim - 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,) * axes,
        padding=((padding, padding),) * axes,
        dimension_numbers=("NWC", "WIO", "NWC") if axes == 1 else ("NHWC", "HWIO", "NHWC"),
        precision=PRECISION.get(compute_dtype),
    )


def _correlate_forward(
    x: Array, kernel: Array, stride: int, padding: int, compute_dtype: ComputeDtype
) -> tuple:
    dtype, (x, kernel) = x.dtype, _rounded(x, kernel, compute_dtype)
    x = lax.optimization_barrier(x)  # stored: else XLA recomputes it in the backward pass
    return _correlate(x, kernel, stride, padding, compute_dtype).astype(dtype), (x, kernel)


def _correlate_backward(
    stride: int, padding: int, compute_dtype: ComputeDtype, saved: tuple, g: Array
) -> tuple[Array, Array]:
    (x, kernel), dtype = saved, g.dtype
    plain = functools.partial(
        _correlate, stride=stride, padding=padding, compute_dtype=compute_dtype
    )

    def gradients(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        by_x, by_kernel = jax.vjp(plain, x, kernel)[1](g)
        return by_x.astype(dtype), by_kernel.astype(dtype)

    def in_parts(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
        starts = range(0, len(x), CPU_CLIPS)
        parts = [gradients(x[i : i + CPU_CLIPS], kernel, g[i : i + CPU_CLIPS]) for i in starts]
        by_kernel = functools.reduce(jnp.add, [part[1] for part in parts])
        if stride > 1:
            return jnp.concatenate([part[0] for part in parts]), by_kernel
        return gradients(x, kernel, g)[0], by_kernel  # by x: as fast at once, and no copy

    return lax.platform_dependent(x, kernel, g.astype(x.dtype), cpu=in_parts, default=gradients)


correlate.defvjp(_correlate_forward, _correlate_backward)


def grouped_correlate(
    x: Float[Array, "B N D"], weight: Float[Array, "window C D"], groups: int
) -> Float[Array, "B N D"]:
    """Grouped cross-correlation along one axis, with zeros beyond its ends.

    y[i] = sum_k w[k] x[i - left + k] with left = window // 2; in each group, w[k] is a matrix.

    Computed by Fourier transforms (`overlap_save`), because the weight gradient of
    `lax.conv_general_dilated` with groups takes XLA seconds on CPUs. Times for 8 x 496 tokens, 768
    channels and a window of 128 on two cores: 0.18 s, with gradients 0.46 s; native 0.40 s, with
    gradients by transforms 0.72 s or more; one transform over all tokens 0.68 s; block-Toeplitz
    1.7 s.
    """
    window, channels, _ = weight.shape
    weight = jnp.transpose(weight.reshape(window, channels, groups, -1), (2, 1, 3, 0))
    spectrum = jnp.conj(jnp.fft.rfft(weight, 2 * window))
    return overlap_save(x, jnp.moveaxis(spectrum, 3, 1))


def overlap_save(
    x: Float[Array, "B N D"], spectrum: Complex[Array, "groups bins C out"]
) -> Float[Array, "B N D"]:
    """`grouped_correlate`, given conj(rfft(weight, 2 * window)) instead of the weight.

    The inverse transform of X conj(W), both of length 2 M for a window M, is the circular
    cross-correlation: output i = sum_k w[k] x[(i + k) mod 2 M]. For i < M no index wraps around, so
    that the first M outputs are exact. Therefore the input is cut into blocks of 2 M samples that
    overlap by half, and of each block the first M outputs are used (overlap-save).
    """
    groups, bins, channels, _ = spectrum.shape
    window, (batch, length, width) = bins - 1, x.shape
    blocks, left = -(-length // window), window // 2
    padded = jnp.pad(x, ((0, 0), (left, (blocks + 1) * window - length - left), (0, 0)))
    halves = padded.reshape(batch, blocks + 1, window, width)
    x = jnp.concatenate([halves[:, :-1], halves[:, 1:]], axis=2)  # [B, blocks, 2 window, D]
    x = jnp.fft.rfft(jnp.swapaxes(x, 2, 3)).reshape(batch, blocks, groups, channels, -1)
    y = jnp.einsum("bngcf,gfco->bngof", x, spectrum, precision="highest")
    y = jnp.fft.irfft(y.reshape(batch, blocks, width, -1), 2 * window)[..., :window]
    return jnp.swapaxes(y, 2, 3).reshape(batch, -1, width)[:, :length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def batch_normalise(
    x: Float[Array, "B *positions C"], eps: float, axis_name: str | None
) -> tuple[Float[Array, "B *positions C"], Float[Array, "C"], Float[Array, "C"]]:
    """Normalise by the batch's mean and biased variance; also return these (without gradient).

    With `axis_name`, the statistics are of the batch of all devices, which have equal shares.
    """
    return _batch_normalise_forward(x, eps, axis_name)[0]


def _batch_normalise_forward(x: Array, eps: float, axis_name: str | None) -> tuple:
    # not mean(x^2) - mean(x)^2, which loses precision where the mean exceeds the deviation
    mean = _over_batch(x, axis_name)
    var = _over_batch(jnp.square(x - per_channel(mean, x.ndim)), axis_name)
    scale = lax.rsqrt(var + eps)
    y = (x - per_channel(mean, x.ndim)) * per_channel(scale, x.ndim)
    return (y, mean, var), (x, mean, scale)


def _batch_normalise_backward(
    eps: float, axis_name: str | None, saved: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array]:
    """The gradient by x: (g - mean(g) - y mean(g y)) / sqrt(var + eps), means over the batch.

    Only `x` is stored for it, which is in memory anyway, and y is recomputed; JAX would store y,
    too. As mean(y) = 0, mean(g) is equal to the mean of g - y mean(g y). It is subtracted last: the
    result then has mean 0 in spite of rounding.
    """
    (x, mean, scale), g = saved, cotangents[0]
    y = (x - per_channel(mean, x.ndim)) * per_channel(scale, x.ndim)
    dx = (g - y * per_channel(_over_batch(g * y, axis_name), x.ndim)) * per_channel(scale, x.ndim)
    return (dx - per_channel(_over_batch(dx, axis_name), x.ndim),)


batch_normalise.defvjp(_batch_normalise_forward, _batch_normalise_backward)


def _over_batch(x: Float[Array, "B *positions C"], axis_name: str | None) -> Float[Array, "C"]:
    local = jnp.mean(x, axis=tuple(range(x.ndim - 1)))
    alone = axis_name is None or lax.axis_size(axis_name) == 1
    return local if alone else lax.pmean(local, axis_name)


def per_channel(values: Float[Array, "C"], ndim: int) -> Float[Array, "... C"]:
    """Reshape `values` [C] to [1, ..., 1, C] with `ndim` axes."""
    return lax.expand_dims(values, range(ndim - 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def max_pool(
    x: Float[Array, "B *positions C"], window: int, stride: int, padding: int = 0
) -> Float[Array, "B *outputs C"]:
    """Max-pooling along every axis between batch and channels.

    An axis of n positions has (n + 2 padding - window) // stride + 1 outputs; padding is -inf. Of
    equal maxima the first in row-major order gets the gradient, as in PyTorch.

    JAX's gradient (select-and-scatter) is slow on CPUs. Here the forward pass stores where in its
    window each maximum was (`winner`), and the backward pass gathers from these. The numbers are
    int8: (window rounded up to a multiple of stride) ** axes must be at most 128.
    """
    for axis in range(1, x.ndim - 1):  # the maximum over a window is separable
        widths = [padding * (i == axis) for i in range(x.ndim)]
        padded = jnp.pad(x, [(n, n) for n in widths], constant_values=-jnp.inf)
        span = (padded.shape[axis] - window) // stride * stride + 1
        taps = [lax.slice_in_dim(padded, i, i + span, stride, axis) for i in range(window)]
        x = functools.reduce(jnp.maximum, taps)
    return x


def _max_pool_forward(x: Array, window: int, stride: int, padding: int) -> tuple:
    axes, x = x.ndim - 2, lax.optimization_barrier(x)  # stored: else recomputed for every place
    widths = [(0, 0), *[(padding, padding)] * axes, (0, 0)]
    padded = jnp.pad(x, widths, constant_values=-jnp.inf)
    spans = [(n - window) // stride * stride + 1 for n in padded.shape[1:-1]]
    base = _base(window, stride)
    assert base**axes <= 128, "places are int8"

    def values_at(place: tuple[int, ...]) -> Array:
        stop = [first + span for first, span in zip(place, spans, strict=True)]
        limits = (0, *place, 0), (len(x), *stop, x.shape[-1]), (1, *[stride] * axes, 1)
        return lax.slice(padded, *limits)

    first, *others = itertools.product(range(window), repeat=axes)
    best = values_at(first)
    winner = jnp.full_like(best, _number(first, base), jnp.int8)
    for place in others:
        values = values_at(place)
        better = (values > best) | jnp.isnan(values)  # NaN propagates, as in jnp.maximum
        winner = jnp.where(better, jnp.int8(_number(place, base)), winner)
        best = jnp.where(better, values, best)
    winner = lax.optimization_barrier(winner)  # stored: else recomputed in the backward pass
    return best, (winner, x)  # the backward pass needs only the shape of x


def _base(window: int, stride: int) -> int:
    """Base of `_number`: the window size, rounded up to a multiple of the stride."""
    return -(-window // stride) * stride


def _number(place: tuple[int, ...], base: int) -> int:
    """A place in a window as one number: its indices are the digits in this base."""
    return functools.reduce(lambda number, index: number * base + index, place, 0)


def _max_pool_backward(
    window: int, stride: int, padding: int, saved: tuple[Array, Array], g: Array
) -> tuple[Array]:
    """The gradient at each position: the sum of g over the windows whose maximum it was.

    On one axis with stride s, window j covers positions s j .. s j + window - 1. Position s i + p
    (p < s) is therefore place p + s b of window i - b, for b = 0, 1, ...:

        dx[s i + p] = sum_b g[i - b] where winner[i - b] == p + s b, else 0

    Places at or above the window size never win, so b runs to base / s - 1. Cells i and places p
    are separate axes, [B, i, p, ..., C], so that a reshape gives dx of the padded input.
    """
    winner, x = saved
    axes, base = x.ndim - 2, _base(window, stride)
    cells = [-(-(n + 2 * padding) // stride) for n in x.shape[1:-1]]
    p_axes = range(2, 2 * axes + 1, 2)
    sparse = jnp.indices([stride] * axes, jnp.int8, sparse=True)
    places = [jnp.expand_dims(p, [2 * i for i in range(axes)]) for p in sparse]  # as [i, p, ...]

    def of_window(values: Array, back: tuple[int, ...], outside: int) -> Array:
        """The values of window i - back at cell i; `outside` where there is no such window."""
        fill = jnp.asarray(outside, values.dtype)
        widths = [(b, n - b - m, 0) for b, n, m in zip(back, cells, g.shape[1:-1], strict=True)]
        return jnp.expand_dims(lax.pad(values, fill, [(0, 0, 0), *widths, (0, 0, 0)]), p_axes)

    dx = jnp.zeros((), g.dtype)
    for back in itertools.product(range(base // stride), repeat=axes):
        number = functools.reduce(
            lambda number, p: number * jnp.int8(base) + p,
            [p + jnp.int8(stride * b) for p, b in zip(places, back, strict=True)],
        )
        won = of_window(winner, back, -1) == number[None, ..., None]
        dx += jnp.where(won, of_window(g, back, 0), 0)
    dx = dx.reshape(len(x), *[n * stride for n in cells], x.shape[-1])
    inside = [slice(padding, padding + n) for n in x.shape[1:-1]]
    return (dx[:, *inside],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
