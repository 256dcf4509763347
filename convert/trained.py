"""Conversion of ASDKit's trained checkpoints into runs, and of runs into PyTorch state dicts."""

import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from asdjax._version import __version__
from asdjax.config import recipe as configs
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.config.recipe import Config
from asdjax.convert import asdkit, beats, state_dict, torch_file, weights_folder
from asdjax.data import audio
from asdjax.data.editions import AUTO, NEWEST
from asdjax.errors import ArtifactError
from asdjax.files import atomic
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.multiresnet_encoder import MultiResNetConfig
from asdjax.models.parameters import Tree
from asdjax.models.poolings import AttentiveStatistics, Mean
from asdjax.store import checkpoint, converted_weights
from asdjax.store.checkpoint import Checkpoints
from asdjax.store.runs import Run
from asdjax.training import weights
from asdjax.training.adacos import SubClusterAdaCos
from asdjax.training.learner import Learner

BatchNormStatistics = Literal["fresh"] | None

_STATISTICS = (".running_mean", ".running_var")
_FIRST_ADAPTER = re.compile(re.escape(asdkit.ADAPTED) + r".*\.(\w+)\.lora_A\.default\.weight")


def from_asdkit(
    source: Path,
    folder: Path,
    *,
    bn_stats: BatchNormStatistics = None,
    pretrained_weights: Path | None = None,
    recipe: str | None = None,
    clip_seconds: float | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Convert a trained ASDKit checkpoint into a run whose training has finished.

    Args:
        source: a Lightning file with MultiResNet, or BEATs with adapters.
        folder: the run directory to create.
        bn_stats: "fresh" sets the running statistics of BatchNorm to 0 and 1 if the file has none,
            as ASDKit does when it reads such a file.
        pretrained_weights: the converted base weights of the adapters.
        recipe: name or path of the configuration; None: system1 or asdkit_lora. Rank and targets
            of the adapters, pooling and embedding size are taken from the file instead.
        clip_seconds: length of the training clips; None: the recipe's.
        overwrite: whether to replace an earlier run that was converted.

    Returns:
        The content of training.json.

    Raises:
        AsdjaxError: the file is not an ASDKit checkpoint, does not fit the configuration or the
            pretrained weights (all arrays that differ are named) or lacks statistics; or the folder
            exists.
    """

    def check() -> None:
        atomic.require_result(folder, overwrite, ours=_is_converted)
        atomic.refuse_foreign(Run(folder).foreign_files(), "--overwrite")

    with atomic.whole_folder(folder, check) as partial:
        state = _trained_state(source)
        config = _configuration(state, source, recipe, clip_seconds, pretrained_weights)
        state, fresh = _with_statistics(state, source, bn_stats)
        arrays, frozen, n_classes, n_samples = _weights(state, source, config)
        run = Run(partial)
        run.write_config(config)
        trained = _size(arrays["params"]["model"])
        training = {
            "classes": [f"class {i}" for i in range(n_classes)],
            "n_samples": n_samples,
            "steps": 0,
            "step": 0,
            "seed": config.seed,
            "sample_rate": config.audio.sample_rate,
            "data": f"the training data of {source.name}",
            "converted_from": {
                "toolkit": "ASDKit",
                "file": source.name,
                "sha256": torch_file.sha256(source),
                "batch_norm": "fresh" if fresh else "stored",
            },
            "versions": {"asdjax": __version__, "jax": jax.__version__},
            "config": configs.to_tree(config),
            "parameters": trained + _size(frozen),
            "trained_parameters": trained,
            "digest": checkpoint.digest(arrays),
            "frozen": checkpoint.digest(frozen) if frozen else None,
        }
        progress = {"step": np.zeros((), np.int32)}
        checkpoints = Checkpoints(run.checkpoints, keep=1)
        checkpoints.save(0, {"weights": arrays, "progress": progress}, training)
        run.write_training(training)
    return training


def to_torch(source: Path, file: Path, *, overwrite: bool = False) -> int:
    """Write the weights of a run, or converted weights, with PyTorch's names and shapes.

    Arrays of a run are named as in ASDKit's checkpoints, with the prefixes `extractor.` and
    `head_dict.main.`; base weights are included. Converted weights are named as in BEATs.

    Args:
        source: a run directory, or a folder of converted weights.
        file: the .npz file to write.
        overwrite: whether to replace an existing file.

    Returns:
        The number of arrays.

    Raises:
        AsdjaxError: `source` is neither of both, its training has not finished or its weights have
            changed since; or the file exists or is not named .npz.
    """
    if file.suffix != ".npz":
        raise ArtifactError(f"{file}: the file name must end in .npz")
    atomic.require_free(file, overwrite)
    if converted_weights.present(source):
        pretrained = converted_weights.read(source)
        if pretrained.name != "beats":
            raise ArtifactError(
                f"{source}: weights of {pretrained.name}: only those of BEATs and OpenBEATs are "
                "written back; use the file that they were converted from"
            )
        tree = weights_folder.load(pretrained)
        state: dict[str, Any] = state_dict.to_torch(beats.table(tree["encoder"]), tree)
    else:
        state = _run_state(Run(source))
    buffer = io.BytesIO()
    np.savez(buffer, **state)
    atomic.write_bytes(file, buffer.getbuffer(), overwrite=overwrite)
    return len(state)


def _is_converted(folder: Path) -> bool:
    return "converted_from" in (Run(folder).training() or {})


def _run_state(run: Run) -> dict[str, np.ndarray]:
    with run.snapshot():
        model, (trained, frozen) = run.config().model, weights.parts(run)
    state = {}
    if not model.trains_nothing:
        state = state_dict.to_torch(asdkit.table(model, trained), trained)
    if isinstance(model, BEATsConfig) and frozen:
        state |= state_dict.to_torch(asdkit.base_table(model, frozen["encoder"]), frozen)
    return state


def _trained_state(source: Path) -> dict[str, np.ndarray]:
    """The arrays of a Lightning file, without BatchNorm's counters."""
    state = torch_file.read(source, placeholders_outside="state_dict")["state_dict"]
    wrong = state_dict.no_arrays(state) if type(state) is dict else ["state_dict is not a dict"]
    if wrong:
        raise ArtifactError(f"{source}: {'; '.join(wrong)}: choose a checkpoint of ASDKit")
    return state_dict.parameters(state)


def _configuration(
    state: Mapping[str, np.ndarray],
    source: Path,
    recipe: str | None,
    clip_seconds: float | None,
    pretrained_weights: Path | None,
) -> Config:
    """The recipe, changed to the settings that the file determines."""
    adapters = [match for name in state if (match := _FIRST_ADAPTER.fullmatch(name))]
    multiresnet = (f"{asdkit.EXTRACTOR}fft_layer.", f"{asdkit.EXTRACTOR}stft_layer_list.")
    if not adapters and not any(name.startswith(multiresnet) for name in state):
        raise ArtifactError(
            f"{source}: contains neither ASDKit's MultiResNet nor its BEATs with adapters: choose "
            "another checkpoint"
        )
    config = configs.load(recipe or ("asdkit_lora" if adapters else "system1"))
    if config.dataset.edition == AUTO:  # there are no data yet by which to recognise it
        dataset = dataclasses.replace(config.dataset, edition=NEWEST)
        config = dataclasses.replace(config, dataset=dataset)
    kind = BEATsConfig if adapters else MultiResNetConfig
    if not isinstance(config.model, kind):
        raise ArtifactError(
            f"{source}: contains {kind.name}, but model.name of {recipe} is {config.model.name}: "
            "name another --config"
        )
    if bool(adapters) != (pretrained_weights is not None):
        raise ArtifactError(
            f"{source}: contains adapters without their base weights: give the converted weights "
            "with --beats"
            if adapters
            else f"{source}: contains MultiResNet, which has no pretrained weights: omit --beats"
        )
    model = config.model
    if isinstance(model, BEATsConfig):
        model, _ = _adapted(model, state, adapters, pretrained_weights).resolved()
    sound = config.audio
    if clip_seconds is not None:
        sound = dataclasses.replace(sound, clip_seconds=clip_seconds)
    if sound.clip_seconds == "auto":
        raise ArtifactError(f"{source}: the recipe has no clip length: give --clip-seconds")
    config = dataclasses.replace(config, audio=sound, model=model)
    configs.validate(config, str(source))
    return config


def _adapted(
    model: BEATsConfig,
    state: Mapping[str, np.ndarray],
    adapters: list[re.Match[str]],
    pretrained_weights: Path | None,
) -> BEATsConfig:
    found: set[Any] = {match[1] for match in adapters}  # `validate` refuses unknown ones
    order = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    lora = dataclasses.replace(
        model.lora,
        rank=(*state[adapters[0][0]].shape, 0)[0],
        targets=tuple(sorted(found, key=lambda name: (*order, name).index(name))),
    )
    pooled = any(name.startswith(f"{asdkit.PROJECTION}0.") for name in state)
    projection = state.get(f"{asdkit.PROJECTION}{'1.' * pooled}weight")
    return dataclasses.replace(
        model,
        weights=str(pretrained_weights),
        random_init=False,
        encoder=BEATsEncoderConfig(),
        adaptation="lora",
        lora=lora,
        pooling=AttentiveStatistics() if pooled else Mean(),
        embedding_size=model.embedding_size if projection is None else (*projection.shape, 0)[0],
    )


def _with_statistics(
    state: Mapping[str, np.ndarray], source: Path, bn_stats: BatchNormStatistics
) -> tuple[dict[str, np.ndarray], bool]:
    """The state with BatchNorm's running statistics, and whether they were set to 0 and 1."""
    pools = [
        (name.removesuffix(".weight"), array.shape)
        for name, array in state.items()
        if re.fullmatch(rf"{re.escape(asdkit.PROJECTION)}0\..*\.weight", name) and array.ndim == 1
    ]
    stored = any(name.endswith(_STATISTICS) for name in state)
    if stored and bn_stats == "fresh":
        raise ArtifactError(f"{source}: contains running statistics of BatchNorm: omit --bn-stats")
    if stored or not pools:
        return dict(state), False
    if bn_stats is None:
        raise ArtifactError(
            f"{source}: lacks the running statistics of the pooling's BatchNorm, which ASDKit does "
            "not save: give --bn-stats fresh to use 0 and 1, as ASDKit does after loading this file"
        )
    fresh = dict(state)
    for name, shape in pools:
        fresh[f"{name}.running_mean"] = np.zeros(shape, np.float32)
        fresh[f"{name}.running_var"] = np.ones(shape, np.float32)
    return fresh, True


def _weights(
    state: Mapping[str, np.ndarray], source: Path, config: Config
) -> tuple[Tree, Tree, int, int]:
    """The trained weights, the frozen weights, the number of classes and samples per clip."""
    if not isinstance(config.loss, SubClusterAdaCos):
        raise ArtifactError(
            f"{source}: needs a --config with the loss sub_cluster_adacos: name one"
        )
    sub_clusters = config.loss.sub_clusters
    centres = state.get(f"{asdkit.HEAD}W", np.zeros((0, sub_clusters)))
    columns = centres.shape[-1] if centres.ndim else 0
    if columns % sub_clusters or not columns:
        raise ArtifactError(
            f"{source}: {columns} class centres are not {sub_clusters} for each class: name a "
            "--config with the loss.sub_clusters of the training"
        )
    n_classes = columns // sub_clusters
    n_samples = audio.clip_samples(config.audio, ())
    learner = Learner(config, n_classes=n_classes, n_samples=n_samples)
    like = learner.shapes().weights
    names = asdkit.table(config.model, like)
    scale = f"{asdkit.HEAD}s"
    if scale not in state:  # a buffer, not saved with adapters; ASDKit initialises it
        _, start = config.loss.init(n_classes, 1, jax.random.key(0))
        state = {**state, scale: np.asarray(start["scale"])}
    frozen: Tree = {}
    wrong: list[str] = []
    trained = dict(state)
    if isinstance(config.model, BEATsConfig) and config.model.weights is not None:
        frozen = learner.frozen(converted_weights.read(Path(config.model.weights)))
        base = asdkit.base_table(config.model, frozen["encoder"])
        here = {name: place for name, place in base.items() if name in trained}
        wrong = [
            f"{name} differs from that in {config.model.weights}"
            for name, array in state_dict.to_torch(here, frozen).items()
            if not np.array_equal(trained.pop(name), array)
        ]
    wrong += state_dict.mismatches(names, trained, like) + asdkit.wrong_windows(trained)
    if wrong:
        raise ArtifactError(
            f"{source}: its arrays do not fit ({'; '.join(wrong)}): set --clip-seconds, --config "
            "and --beats as in the training"
        )
    return state_dict.from_torch(names, trained, like), frozen, n_classes, n_samples


def _size(tree: Tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
