"""The state of an installation: versions, devices, memory, disks, and whether results are right."""

import contextlib
import locale
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from asdjax.errors import AsdjaxError, ConfigError
from asdjax.runtime import console, devices, host_memory

SCHEMA = "asdjax.doctor/1"
_EXTRAS = {
    "cuda": "NVIDIA GPUs",
    "tpu": "TPUs",
    "parquet": "tables as Parquet files",
    "plot": "pictures and reports",
    "live": "microphones (watch)",
    "serve": "requests by HTTP (serve)",
    "export": "programs without asdjax (export)",
    "tensorboard": "event files (train --log)",
    "umap": "maps of another kind (report --map umap)",
    "ray": "archives by Ray Data (asdjax.BatchWorker)",
    "cloud": "recordings at URLs (batch plan)",
    "faiss": "approximate search of many clips (backend.index faiss)",
}
_OF_DEVICES = {  # an extra of JAX is another distribution
    "cuda": ("jax-cuda13-plugin", "jax-cuda12-plugin"),
    "tpu": ("libtpu",),
}
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[^\]]*\])?(>=(?P<least>[\w.]+))?[^;]*(;.*extra == \"(?P<extra>\w+)\")?"
)
_VARIABLES = ("JAX_", "XLA_", "CUDA_VISIBLE", "NVIDIA_TF32", "OMP_NUM", "LANG", "LC_", "PYTHON")
_LEAST_FREE = 10**9  # bytes


def examine() -> dict[str, Any]:
    """What is installed and whether it works; "problems" has a sentence for each fault."""
    problems: list[str] = []
    packages, extras = _packages(problems)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "python": {"version": platform.python_version(), "path": sys.executable},
        "system": platform.platform(),
        "packages": packages,
        "extras": extras,
        "cores": {"all": os.cpu_count(), "usable": _usable_cores()},
        "memory_bytes": host_memory.total(),
        "disks": _disks(problems),
        "encoding": _encoding(problems),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)
        },
        "devices": [],
        "computations": [],
        "cache": None,
    }
    try:
        _require_flags()
        devices.start()
        document["devices"] = _devices(problems)
        document["computations"] = _computations(problems)
        document["cache"] = _cache(problems)
    except AsdjaxError as error:
        problems.append(str(error))
    except (ImportError, OSError) as error:
        why = " ".join(str(error).split())[:200]
        problems.append(f"a library cannot be loaded ({why}): install asdjax in a new environment")
    return {**document, "problems": problems}


def _require_flags() -> None:
    """Raise `AsdjaxError` if XLA ends the process because of XLA_FLAGS (an unknown flag)."""
    flags = os.environ.get("XLA_FLAGS")
    if not flags:
        return
    command = [sys.executable, "-c", "import jax; jax.local_devices()"]
    tried = subprocess.run(command, capture_output=True, text=True, errors="replace")
    last = (tried.stderr.splitlines() or [""])[-1]
    if (
        tried.returncode and "XLA_FLAGS" in last
    ):  # other errors are exceptions, also in this process
        why = last.rpartition("] ")[2][:200]
        raise ConfigError(f"XLA_FLAGS={flags}: JAX cannot start ({why}): unset XLA_FLAGS")


def _packages(problems: list[str]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Versions of asdjax and its dependencies, and what there is of each extra."""
    found: dict[str, str | None] = {name: _version(name) for name in ("asdjax", "jax", "jaxlib")}
    extras: dict[str, Any] = {
        name: {"for": purpose, "packages": {}} for name, purpose in _EXTRAS.items()
    }
    for name, least, extra in _requirements(problems):
        version = _version(name)
        if extra in _OF_DEVICES:
            plugins = {plugin: _version(plugin) for plugin in _OF_DEVICES[extra]}
            some = {plugin: v for plugin, v in plugins.items() if v is not None}
            extras[extra]["packages"] = some or dict.fromkeys(_OF_DEVICES[extra][:1])
            continue
        if extra is None:
            found[name] = version
        elif extra in extras:
            extras[extra]["packages"][name] = version
        else:
            continue
        remedy = f"pip install '{name}>={least}'" if least else f"pip install {name}"
        if version is None and extra is None:
            problems.append(f"{name} is not installed: {remedy}")
        elif version is not None and least and _numbers(version) < _numbers(least):
            problems.append(f"{name} {version} is too old, {least} is needed: {remedy}")
    for about in extras.values():
        versions = about["packages"].values()
        about["installed"] = bool(versions) and None not in versions
    return found, extras


def _requirements(problems: list[str]) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, least version and extra of everything that asdjax depends on."""
    try:
        required = metadata.requires("asdjax") or []
    except metadata.PackageNotFoundError:
        problems.append("asdjax itself is not installed: pip install . in its folder")
        return
    for line in required:
        if match := _REQUIREMENT.match(line):
            yield match["name"], match["least"], match["extra"]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, [*re.findall(r"\d+", version), "0", "0"][:3]))


def _usable_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _disks(problems: list[str]) -> dict[str, Any]:
    """Free space where commands write: here, and for temporary files."""
    found = {}
    try:
        places = {"current": Path.cwd(), "temporary": Path(tempfile.gettempdir())}
    except OSError as error:
        problems.append(f"files cannot be written here ({error.strerror}): go to another folder")
        return {}
    for name, path in places.items():
        free = shutil.disk_usage(path).free
        found[name] = {"path": str(path), "free_bytes": free}
        if free < _LEAST_FREE:
            problems.append(f"{path}: {free / 1e9:.1f} GB are free: make room for 1 GB or more")
    return found


def _encoding(problems: list[str]) -> dict[str, str]:
    found = {
        "files": sys.getfilesystemencoding(),
        "output": str(getattr(sys.stdout, "encoding", None)),
        "locale": locale.setlocale(locale.LC_CTYPE),
    }
    if found["files"].lower() != "utf-8":
        problems.append(
            f"names of files are read as {found['files']}, in which not all can be written: set "
            "PYTHONUTF8=1, or a locale with UTF-8"
        )
    return found


def _devices(problems: list[str]) -> list[dict[str, Any]]:
    import jax

    found = []
    for device in jax.local_devices():
        memory = device.memory_stats() or {}
        found.append({
            "platform": device.platform, "kind": device.device_kind, "id": device.id,
            "memory_bytes": memory.get("bytes_limit"), "used_bytes": memory.get("bytes_in_use"),
        })  # fmt: skip
    unused = found[0]["platform"] == "cpu" and Path("/proc/driver/nvidia/version").exists()
    if unused and not os.environ.get("JAX_PLATFORMS"):
        problems.append(
            "the NVIDIA GPU of this machine is not used: pip install 'asdjax[cuda]', or set "
            "JAX_PLATFORMS=cpu if that is intended"
        )
    return found


def _computations(problems: list[str]) -> list[dict[str, Any]]:
    from asdjax.training import known_results

    found = []
    try:
        for one in known_results.compare():
            found.append({
                "name": one.name, "right": one.right, "allowed": one.allowed,
                "difference": one.difference if math.isfinite(one.difference) else None,
            })  # fmt: skip
            if not one.right:
                problems.append(
                    f"{one.name}: the result differs by {one.difference:.1e} from the known one "
                    f"(allowed: {one.allowed:g}): results of this machine are wrong: update the "
                    "device's driver and JAX, and unset XLA_FLAGS"
                )
    except RuntimeError as error:  # of XLA: no memory, no driver
        why = " ".join(str(error).split())[:200]
        problems.append(
            f"the device cannot compute ({why}): end other programs on it and update its driver, "
            "or set JAX_PLATFORMS=cpu"
        )
    return found


def _cache(problems: list[str]) -> dict[str, Any]:
    """Where compiled programs are kept, and whether they can be."""
    import jax

    from asdjax.runtime import compile_cache

    try:
        compile_cache.use()
    except AsdjaxError as error:
        problems.append(f"compiled programs are not kept: {error}")
        return {"path": None, "bytes": None, "programs": None, "usable": False}
    settings = jax.config.values
    place = settings["jax_compilation_cache_dir"]
    if not (place and settings["jax_enable_compilation_cache"]):
        return {"path": None, "bytes": None, "programs": None, "usable": False}
    sizes: dict[str, int] = {}
    for path in Path(place).glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process may delete it
            sizes[path.name] = path.stat().st_size
    programs = sum(name.endswith("-cache") for name in sizes)
    return {"path": place, "bytes": sum(sizes.values()), "programs": programs, "usable": True}


def render(document: dict[str, Any]) -> str:
    """The document as text."""
    cores, memory = document["cores"], document["memory_bytes"]
    cache, encoding = document["cache"], document["encoding"]
    lines = {
        "system": document["system"],
        "python": f"{document['python']['version']}, {document['python']['path']}",
        "packages": ", ".join(f"{n} {v or 'missing'}" for n, v in document["packages"].items()),
    }
    for name, extra in document["extras"].items():
        state = "installed" if extra["installed"] else f"missing: pip install 'asdjax[{name}]'"
        lines[f"extra {name}"] = f"for {extra['for']}: {state}"
    lines["cores"] = f"{cores['usable']} of {cores['all']}"
    lines["memory"] = "unknown" if memory is None else f"{memory / 1e9:.1f} GB"
    for name, disk in document["disks"].items():
        lines[f"{name} folder"] = f"{disk['path']}, {disk['free_bytes'] / 1e9:.1f} GB free"
    lines["encoding"] = ", ".join(f"{what} {value}" for what, value in encoding.items())
    for name, value in document["environment"].items():
        lines[name] = value
    for device in document["devices"]:
        limit = device["memory_bytes"]
        size = "" if limit is None else f", {limit / 1e9:.1f} GB"
        lines[f"device {device['id']}"] = f"{device['platform']}, {device['kind']}{size}"
    for one in document["computations"]:
        off = "not finite" if one["difference"] is None else f"differs by {one['difference']:.1e}"
        word = "right" if one["right"] else "WRONG"
        lines[one["name"]] = f"{word}: {off} (allowed: {one['allowed']:g})"
    if cache and cache["usable"]:
        size = f"{cache['programs']} programs, {cache['bytes'] / 1e6:.1f} MB"
        lines["compiled programs"] = f"{cache['path']}, {size}"
    width = max(map(len, lines))
    printed = [f"{name:{width}}  {console.printable(text)}" for name, text in lines.items()]
    problems = document["problems"]
    printed += [f"problem: {console.printable(problem)}" for problem in problems]
    return "\n".join([*printed, f"{len(problems) or 'no'} problem{'s' * (len(problems) != 1)}"])
