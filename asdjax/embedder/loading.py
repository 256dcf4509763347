"""Loading an embedder from a run directory or from a folder of converted weights."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from asdjax.config.interfaces import ComputeDtype
from asdjax.config.recipe import Config
from asdjax.embedder.embedding import Embedder
from asdjax.errors import ArtifactError, ConfigError
from asdjax.files.documents import present
from asdjax.store import converted_weights
from asdjax.store.runs import Run
from asdjax.training import weights


def load(
    path: Path | str, *, layers: Sequence[int] = (), compute_dtype: ComputeDtype | None = None
) -> Embedder:
    """The embedder of a finished run, or of a folder of converted weights.

    Args:
        path: the run directory or the folder.
        layers: for converted weights, the layers whose tokens are concatenated and pooled; empty:
            the last layer.
        compute_dtype: precision of large products; None: the run's `model.compute_dtype`, or
            "auto" for converted weights.

    Returns:
        The embedder. With converted weights, it embeds clips of any length by the mean over tokens.

    Raises:
        AsdjaxError: `path` is neither a run nor converted weights, it is damaged, or an option is
            not supported.

    Example:
        >>> embedder = asdjax.load("weights/beats")
        >>> embedder.embed([np.zeros(16_000, np.float32)], pool="mean")[0].ndim
        1
    """
    path = Path(path)
    if converted_weights.present(path):
        config, n_samples, tree = weights.of_folder(converted_weights.read(path), tuple(layers))
        return Embedder(_computing_in(compute_dtype, config), n_samples, tree)
    if not present(path / "config.yaml"):
        raise ArtifactError(
            f"{path}: neither a run directory nor a folder of converted weights: train one with "
            "asdjax train, or convert BEATs_iter3.pt with asdjax convert beats"
        )
    if layers:
        raise ConfigError(
            f"{path}: layers can be chosen for converted weights only, and this is a run, whose "
            "layers are in its recipe (model.layers): omit this option"
        )
    run = Run(path)
    config, n_samples, tree = weights.of_run(run)
    channels = run.finished_training().get("channels", ())
    return Embedder(_computing_in(compute_dtype, config), n_samples, tree, channels)


def digests(path: Path) -> dict[str, str]:
    """The digests of the weights of a finished run, or of a folder of converted weights."""
    if converted_weights.present(path):
        return {"digest": converted_weights.read(path).digest}
    training = Run(path).finished_training()
    return {name: training[name] for name in ("digest", "frozen") if training.get(name)}


def _computing_in(compute_dtype: ComputeDtype | None, config: Config) -> Config:
    """The configuration with another `compute_dtype`; None: unchanged."""
    if compute_dtype is None:
        return config
    if compute_dtype not in get_args(ComputeDtype):
        choices = ", ".join(get_args(ComputeDtype))
        raise ConfigError(f"compute_dtype {compute_dtype!r}: choose one of {choices}")
    return dataclasses.replace(config, model=config.model.computing_in(compute_dtype))
