"""An embedder's weights, from a finished run or from a folder of converted ones."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.config import registry
from asdjax.config.interfaces import Weights
from asdjax.config.recipe import Config, ExtractConfig, validate
from asdjax.errors import ArtifactError
from asdjax.models import building, parameters
from asdjax.store.checkpoint import Checkpoints, Tree, digest
from asdjax.store.converted_weights import Pretrained
from asdjax.store.runs import Run
from asdjax.training.learner import Learner


def of_run(run: Run) -> tuple[Config, int, Tree]:
    """What a run's embedder is made from: its last checkpoint, verified by digest.

    Returns:
        the configuration, adapters merged; the clips' samples; {"params": {"model"}, "stats":
        {"model"}}.

    Raises:
        AsdjaxError: training has not finished, or the weights are not those at its end.
    """
    with run.snapshot():
        config, n_samples = run.config(), run.finished_training()["n_samples"]
        trained, frozen = parts(run)
    model, params = config.model.for_inference(parameters.join(trained["params"]["model"], frozen))
    whole = {"params": {"model": params}, "stats": {"model": trained["stats"]["model"]}}
    return dataclasses.replace(config, model=model), n_samples, whole


def parts(run: Run) -> tuple[Tree, Tree]:
    """The weights that a run trained, {"params", "stats"} of "model" and "head", and frozen ones.

    Raises:
        AsdjaxError: as for `of_run`.
    """
    config, training = run.config(), run.finished_training()
    learner = Learner(config, n_classes=len(training["classes"]), n_samples=training["n_samples"])
    trained: Tree = {"params": {"model": {}}, "stats": {"model": {}}}
    if not config.model.trains_nothing:
        trained = _trained(run, training, learner.shapes().weights)
    frozen = learner.frozen(_pretrained(config)) if learner.freezes else {}
    if training.get("frozen") != (digest(frozen) if frozen else None):
        raise ArtifactError(
            f"{run.path}: the weights that training left as they were are not those that "
            "training.json states: restore the folder of model.weights, or train again with "
            "--no-resume"
        )
    return trained, frozen


def of_folder(folder: Pretrained, layers: tuple[int, ...]) -> tuple[Config, None, Tree]:
    """Configuration, clip length and weights of converted weights.

    The configuration takes the mean over the tokens of `layers`. Clips may have any length: None.
    """
    model = registry.find("encoder", folder.name).of_weights(folder, layers)
    config = Config(model=model, extract=ExtractConfig(batch_size=16))
    validate(config, str(folder.path))
    _, params, _ = parameters.split(building.skeleton(model, None, config.audio.sample_rate))
    loaded = model.pretrained(folder, params)
    return config, None, {"params": {"model": loaded}, "stats": {"model": {}}}


def _trained(run: Run, training: Mapping[str, Any], like: Tree) -> Tree:
    """The weights of a run's last checkpoint, verified by their digest."""
    if not run.checkpoints.is_dir():
        raise ArtifactError(
            f"{run.checkpoints}: the weights are gone: restore them, or train again with "
            "--no-resume"
        )
    checkpoints = Checkpoints(run.checkpoints)
    weights = checkpoints.restore(training["step"], {"weights": like})["weights"]
    if digest(weights) != training["digest"]:
        raise ArtifactError(
            f"{run.checkpoints / str(training['step'])}: the weights are not those that "
            "training.json states: restore them, or train again with --no-resume"
        )
    return weights


def _pretrained(config: Config) -> Weights | None:
    """The converted weights that a run's model starts from, if any."""
    path = config.model.weights_folder
    if path is None:
        return None
    if not Path(path).is_dir():
        raise ArtifactError(
            f"{path}: the converted weights that this run starts from are gone: restore the "
            "folder, or give the run's training command again with --model.weights and its new "
            "place"
        )
    return config.model.resolved()[1]
