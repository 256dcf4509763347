"""The start of JAX, where what its environment variables ask for may turn out impossible."""

import os

from asdjax.errors import AsdjaxError

_CHOOSING = (
    "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS",
)  # fmt: skip


def start() -> None:
    """Import JAX and find its devices, before anything else does.

    Raises:
        AsdjaxError: JAX cannot do what its environment variables ask for, or finds no device.
    """
    try:
        import jax  # reads most variables

        jax.local_devices()  # reads those that choose devices
        default = jax.config.jax_default_device
        if isinstance(default, str):  # which JAX would look for at the first operation
            jax.devices(default)
    except (RuntimeError, ValueError, AssertionError) as error:
        why = str(error).split("\n")[0].split(" (")[0][:200] or "no such device"
        chosen = [name for name in os.environ if name.startswith("JAX_") or name in _CHOOSING]
        named = [name for name in chosen if name.lower() in why.lower()]  # JAX_X or its flag, jax_x
        named = named or [name for name in _CHOOSING if os.environ.get(name)]
        if named:
            told = " ".join(f"{name}={os.environ[name]}" for name in named)
            install = ", or install what it asks for (pip install 'asdjax[cuda]' or 'asdjax[tpu]')"
            raise AsdjaxError(
                f"{told}: JAX cannot start with this ({why}): unset {' or '.join(named)}"
                + install * ("JAX_PLATFORMS" in named)
            ) from error
        if not isinstance(error, RuntimeError):
            raise
        raise AsdjaxError(
            f"JAX finds no device that works ({why}): JAX_PLATFORMS=cpu computes on the processors"
        ) from error
