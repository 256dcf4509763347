"""Anomalous sound detection for machine condition monitoring, native to accelerators.

The public names are imported on first use, so that `import asdjax` is fast.
"""

import importlib
from typing import Any

from asdjax._version import __version__

_PUBLIC = {
    "ArtifactError": "errors",
    "AsdjaxError": "errors",
    "Backend": "config.interfaces",
    "BatchWorker": "archive.map_batches",
    "Config": "config.recipe",
    "ConfigError": "errors",
    "DataError": "errors",
    "Detector": "detector.detector",
    "Edition": "data.editions",
    "Embedder": "embedder",
    "Encoder": "config.interfaces",
    "Loss": "config.interfaces",
    "Pooling": "config.interfaces",
    "Run": "store.runs",
    "Threshold": "config.interfaces",
    "View": "config.interfaces",
    "load": "embedder",
    "load_plugin": "config.registry",
    "register": "config.registry",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'asdjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"asdjax.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
