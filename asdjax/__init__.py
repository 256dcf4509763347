"""Anomalous sound detection for machine condition monitoring, native to accelerators.

    Detector                   learns normal recordings, and scores others
    load, Embedder             embeddings by a trained run or converted weights
    Run                        the folder of a run: settings, log, scores
    BatchWorker                embeds or scores batches of Ray Data
    register, load_plugin      add what a plugin defines
    Backend, Encoder, Loss, Pooling, Threshold, View, Edition
                               what a plugin may define
    Config                     the settings of a run
    AsdjaxError                base of ArtifactError, ConfigError and DataError

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
