"""Initialisation of JAX, with clear errors for impossible environment variables."""

import logging
import os

from asdjax.errors import ConfigError

_LOG = logging.getLogger(__name__)
_CHOOSING = (
    "JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS",
)  # fmt: skip
_REQUIRED = {  # for debugging, or with other numbers
    "jax_enable_x64": False, "jax_disable_jit": False, "jax_no_execution": False,
    "jax_transfer_guard": None, "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}  # fmt: skip


def start() -> None:
    """Import JAX and initialise its devices; call it before anything else uses JAX.

    Raises:
        AsdjaxError: JAX rejects a setting in its environment variables, or finds no device; or a
            setting makes it compute other numbers, or nothing.
    """
    try:
        import jax  # reads most variables

        jax.local_devices()  # reads those that choose devices
        default = jax.config.values["jax_default_device"]
        if isinstance(default, str):  # JAX itself checks this at the first operation
            jax.devices(default)
    except (RuntimeError, ValueError, AssertionError) as error:
        why = str(error).split("\n")[0].split(" (")[0][:200] or "no such device"
        chosen = [name for name in os.environ if name.startswith("JAX_") or name in _CHOOSING]
        named = [name for name in chosen if name.lower() in why.lower()]  # JAX_X or its flag, jax_x
        named = named or [name for name in _CHOOSING if os.environ.get(name)]
        if named:
            settings = " ".join(f"{name}={os.environ[name]}" for name in named)
            remedy = f"unset {' or '.join(named)}"
            if "JAX_PLATFORMS" in named:
                remedy += ", or install its support (pip install 'asdjax[cuda]' or 'asdjax[tpu]')"
            raise ConfigError(f"{settings}: JAX cannot start ({why}): {remedy}") from error
        if not isinstance(error, RuntimeError):
            raise
        raise ConfigError(
            f"JAX finds no working device ({why}): set JAX_PLATFORMS=cpu to compute on the CPU"
        ) from error
    for name, value in _REQUIRED.items():
        if jax.config.values.get(name, value) not in (value, "allow"):
            given = f"{name.upper()}={os.environ.get(name.upper(), jax.config.values[name])}"
            raise ConfigError(
                f"{given}: asdjax computes without this setting: unset {name.upper()}"
            )
    found = jax.local_devices()
    _LOG.info(f"JAX {jax.__version__} on {len(found)} x {found[0].device_kind}")
