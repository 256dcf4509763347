"""The features of a known sound, which tell whether a machine computes what a detector knows."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from asdjax.detector.features import Features
from asdjax.detector.recordings import Windowing
from asdjax.errors import ArtifactError

_SAME = 1e-3  # relative difference of the probe's features between two machines


def features_of(features: Features, windowing: Windowing) -> dict[str, np.ndarray]:
    """The features of a known signal, which are stored with a detector: noise of -20 dB."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(windowing.longest)
    found = features([noise.astype(np.float32)], ["probe"], windowing.longest)
    return {name: table.astype(np.float32) for name, table in found.items()}


def require_same(
    path: Path, stored: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> None:
    """Raise `AsdjaxError` if the features of the known signal are not those in the file."""
    shapes = {name: table.shape for name, table in found.items()}
    if {name: table.shape for name, table in stored.items()} != shapes:
        raise ArtifactError(
            f"{path}: has other features than this version of asdjax computes: fit again"
        )
    for name, table in found.items():
        off = float(np.linalg.norm(table - stored[name]))
        off /= max(float(np.linalg.norm(table)), 1e-12)
        if not off <= _SAME:
            raise ArtifactError(
                f"{path}: this machine computes other features of the same sound (by {off:.2g}, "
                f"{name}): fit the detector again on it"
            )
