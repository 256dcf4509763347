"""The configuration: all settings of a run, as frozen dataclasses read from YAML.

A recipe (`configs/system1.yaml`) lists only what differs from the defaults below, or from the
recipe that it extends. Reading is strict: an unknown key, a wrong type or an invalid value raises
`AsdjaxError` with the file, the key and the valid choices. `dump` writes every key, so that a saved
configuration reproduces its run.
"""

import dataclasses
import functools
import re
from functools import partial
from typing import Annotated, Any, Literal

import yaml

from asdjax.config import recipe_files, registry, schema, strict_yaml
from asdjax.config.interfaces import Backend, Encoder, Loss, Threshold, View
from asdjax.config.recipe_files import names as names
from asdjax.config.registry import Name, default
from asdjax.config.schema import Count, NonNegative, Positive, Probability, Range, to_tree
from asdjax.errors import ConfigError

Subset = Literal["development", "additional", "evaluation"]
ProblemKind = Literal[
    "misnamed", "unreadable", "truncated", "empty", "wrong_rate", "wrong_channels", "not_finite",
    "wrong_length", "unstated_length", "out_of_range",
    "copy", "shared", "unused",
]  # fmt: skip

SCORE_COLUMNS = (
    "path", "split", "section", "domain", "label", "score", "threshold", "decision",
)  # fmt: skip
"""First columns of a score file; a column of scores for each view follows."""
_VIEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")

NEUTRAL_KEYS = frozenset(
    {
        "dataset.score_subsets",
        "dataset.score_machines",
        "dataset.skip",
        "audio.resample",
        "audio.read_threads",
        "audio.prefetch_batches",
        "train.devices",
        "train.parallel",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.allow_one_class",
    }
)
"""Keys that may change when a run is resumed, because the trained weights do not depend on them.
`Encoder.neutral` lists the encoder's.

Changes of the training clips, their batches or the pretrained weights are detected by digests.
"""


@dataclasses.dataclass(frozen=True)
class PseudoLabelConfig:
    """Classes of training clips whose attributes are not known (dataset.label pseudo)."""

    embedder: str = "auto"
    """What is clustered: vectors of spectral, of a folder of converted weights or of a run; auto:
    of the recipe's pretrained weights, or spectral without such. Of a run with several poolings the
    first part is taken."""
    clusters: Count | Literal["silhouette"] = 16
    """Classes per machine and section, at most a quarter of its clips; silhouette: chosen."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)] = 0
    """Seed of k-means."""


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """Which clips are used for training, which are scored, and how classes are formed."""

    edition: Annotated[str, Name("edition", besides=("auto",))] = "auto"
    """Edition of the challenge, which defines machines, sections and channels; own: data of your
    own; auto: recognised by names of folders and files."""
    train_subsets: tuple[Literal["development", "additional"], ...] = ("development", "additional")
    """Subsets used for training; those that are not in the data set are ignored."""
    train_machines: tuple[str, ...] = ()
    """Machines used for training; empty: all machines of the subsets."""
    score_subsets: tuple[Literal["development", "evaluation"], ...] = ("development", "evaluation")
    """Subsets whose test clips are scored; those that are not in the data set are ignored."""
    score_machines: tuple[str, ...] = ()
    """Machines whose test clips are scored; empty: all machines of the subsets."""
    label: Literal[
        "machine_section", "machine_section_attributes", "machine_section_attributes_domain",
        "pseudo",
    ] = "machine_section"  # fmt: skip
    """What a class is: a machine and section, optionally divided by attributes and by domain;
    pseudo: by attributes, and where they are not known by clusters (dataset.pseudo)."""
    pseudo: PseudoLabelConfig = PseudoLabelConfig()
    skip: tuple[ProblemKind, ...] = ()
    """Kinds of faulty files to skip (and count) instead of refusing the data set."""


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """How audio files are read."""

    sample_rate: Count = 16000
    """Sample rate, hertz."""
    resample: Literal["auto", "always", "never"] = "auto"
    """Whether files with another rate are resampled or refused; auto: resampled, except data of a
    challenge."""
    clip_seconds: Annotated[float, Range(low=0, high=3600, above=True)] | Literal["auto"] = 12.0
    """Length of every clip, seconds: shorter clips are repeated, longer ones cropped; auto: the
    length of the longest clip."""
    channel: Literal["near", "far"] = "near"
    """Channel to use: near is the first of a file, far the second."""
    train_crop: Literal["random", "start"] = "random"
    """Start of the crop of a longer clip in training; inference always crops at the start."""
    read_threads: Annotated[int, Range(low=0, high=64)] = 2
    """Threads that read audio in the background; 0: read in the main thread."""
    prefetch_batches: Count = 4
    """Batches to read ahead."""


@dataclasses.dataclass(frozen=True)
class MixupConfig:
    """Mixup of waveforms and one-hot labels over the global batch, in training only."""

    probability: Probability = 0.5
    """Probability that a clip is mixed with its partner."""


@dataclasses.dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment (BEATs only), in training: one mask in time and one in frequency per clip."""

    probability: Probability = 0.0
    """Probability of each of the two masks."""
    time_width: Annotated[float, Range(low=0, high=2**20)] = 80.0
    """Largest width of the time mask, frames."""
    frequency_width: Annotated[float, Range(low=0, high=128)] = 80.0
    """Largest width of the frequency mask, bands."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Training-time augmentation."""

    mixup: MixupConfig = MixupConfig()
    spec_augment: SpecAugmentConfig = SpecAugmentConfig()


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with weight decay on all trainable arrays."""

    learning_rate: Positive = 1e-3
    """Learning rate after the warm-up."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: Positive = 1e-8
    """Added to the square root of the second moment."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay, multiplied by the learning rate."""
    warmup_steps: Annotated[int, Range(low=0, high=2**31 - 1)] = 0
    """Steps over which the learning rate rises linearly from 0; afterwards it is constant."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: Count = 16
    """Passes over the training clips; the last weights count. A run goes on if this is raised."""
    batch_size: Annotated[int, Range(low=2, high=2**20)] = 64
    """Clips per step, over all devices and processes."""
    accumulate: Annotated[int, Range(low=1, high=2**20)] = 1
    """Parts into which each device's clips are divided to save memory; their gradients are averaged
    for one update. Batch normalisation is by the part, not by the batch."""
    validation: Annotated[float, Range(low=0, high=0.5)] = 0.0
    """Share of the training clips to hold out; their loss is measured after each epoch."""
    drop_last: bool = False
    """Skip the last batch of an epoch if it is smaller than the others."""
    devices: Annotated[int, Range(low=0, high=2**20)] = 0
    """Number of local devices to use; 0: all."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
    """Function of JAX that maps training and embedding over the devices; the results are equal."""
    log_every: Annotated[int, Range(low=1, high=8)] = 8
    """Steps between reads of the loss from the device."""
    checkpoint_every: Count = 1
    """Epochs between checkpoints; the last epoch always saves one."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep; older ones are deleted."""
    allow_one_class: bool = False
    """Train even if all clips have the same class, although nothing can be learned then."""


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Embedding extraction."""

    batch_size: Count = 64
    """Clips per batch, over all devices."""
    views: tuple[View, ...] = dataclasses.field(
        default_factory=lambda: (default("view", name="raw"),)
    )
    """Views of each clip; backend.combine_views says how they become one score."""

    @property
    def view_names(self) -> tuple[str, ...]:
        """The names of the views, in order."""
        return tuple(view.name for view in self.views)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a run.

    Example:
        >>> asdjax.Config().train.batch_size
        64
    """

    seed: Annotated[int, Range(low=0, high=2**31 - 1)] = 0
    """Seed of the initial weights, the order of the clips, crops, mixup and dropout."""
    dataset: DatasetConfig = DatasetConfig()
    audio: AudioConfig = AudioConfig()
    augment: AugmentConfig = AugmentConfig()
    model: Encoder = dataclasses.field(default_factory=partial(default, "encoder"))
    loss: Loss = dataclasses.field(default_factory=partial(default, "loss"))
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    extract: ExtractConfig = dataclasses.field(default_factory=ExtractConfig)
    backend: Backend = dataclasses.field(default_factory=partial(default, "backend"))
    decision: Threshold = dataclasses.field(default_factory=partial(default, "threshold"))


@dataclasses.dataclass(frozen=True)
class SynthConfig:
    """Settings of a synthetic corpus."""

    machines: tuple[str, ...] = ("fan", "bearingEmu", "valveEmu")
    """Names of DCASE 2026 machines; test clips of evaluation machines get no label."""
    train_source: Annotated[int, Range(low=1, high=10000)] = 100
    """Normal training clips of the source domain, per machine."""
    train_target: Annotated[int, Range(low=0, high=10000)] = 10
    """Normal training clips of the target domain, per machine."""
    test_per_cell: Annotated[int, Range(low=0, high=2500)] = 25
    """Test clips per machine for each domain and label (source/target, normal/anomaly)."""
    seconds: Annotated[float, Range(low=0.5, high=60)] = 10.0
    """Length of every clip, seconds."""
    seed: Annotated[int, Range(low=0, high=2**31 - 1)] = 0
    """Seed of the random numbers."""
    noise_db: Annotated[float, Range(low=-60, high=6)] = -8.0
    """Mean power of the environment relative to the machine, at the near microphone, dB."""
    leakage_db: Annotated[float, Range(low=-100, high=0)] = -12.0
    """Mean power of the machine at the far microphone relative to the near one, dB."""
    ground_truth: bool = False
    """Write labels and domains of evaluation machines to supplemental/, as the organisers do."""
    overwrite: bool = False
    """Replace machine folders that an earlier run wrote with other settings."""


def load(name_or_path: str) -> Config:
    """Read an installed recipe by its name, or a YAML file by its path.

    A recipe may extend another one (see `recipe_files`). Each of them must be valid.

    Raises:
        AsdjaxError: there is no such recipe or file, it cannot be read, or a value is invalid.

    Example:
        >>> load("system1").train.batch_size
        64
    """
    *others, last = recipe_files.chain(name_or_path)
    tree, config = last.tree, from_tree(last.tree, last.source)
    for file in reversed(others):
        tree = recipe_files.merged(Config, tree, file.tree)
        config = from_tree(tree, file.source)
    require_suited(config, (others or [last])[0].source)
    return config


def require_suited(config: Config, source: str) -> None:
    """Raise `AsdjaxError` if the backend is for a combination of runs and this is none, or not."""
    if config.backend.of_scores == config.model.embeds:
        raise ConfigError(
            f"{source}: backend.name: combined_scores is for runs of asdjax combine, which have no "
            "other backend (their ways to combine: --backend.combine)"
        )


def parse(text: str, source: str) -> Config:
    """Read a configuration from YAML text, which extends none; errors begin with `source`."""
    return _parse(text, source, registry.changes)


@functools.lru_cache(maxsize=16)  # Run.config reads its file in every call
def _parse(text: str, source: str, changes: int) -> Config:
    tree = strict_yaml.parse(text, source)
    return from_tree({} if tree is None else tree, source)


_MOST_NAMED = 20  # plugins


def from_tree(tree: Any, source: str) -> Config:
    """Build a configuration from nested dictionaries and lists."""
    try:
        config = schema.read(Config, tree, "", source)
    except ConfigError as error:
        missing = sorted({*plugins(tree).values()} - registry.loaded_plugins())
        if len(missing) < 2:
            raise
        named = ", ".join(map(schema.cut, missing[:_MOST_NAMED]))
        raise ConfigError(
            f"{source}: written with the plugins {named}, which are not loaded: name each file "
            "with --plugin"
        ) from error
    validate(config, source)
    return config


def dump(config: Config) -> str:
    """The configuration as YAML text with every key, as `parse` reads it."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)


def validate(config: Config, source: str) -> None:
    """Raise `AsdjaxError` if a value or a combination of values is invalid."""
    schema.check(Config, config, "", source)
    checks = [
        *config.model.checks(config.audio.sample_rate),
        *config.loss.checks(),
        *((good, f"backend.{key}", what) for good, key, what in config.backend.checks()),
        (
            config.train.accumulate == 1 or not config.loss.of_whole_batch,
            "train.accumulate",
            f"must be 1 with this loss ({config.loss.name}), which needs a batch as a whole",
        ),
        (max(config.optim.betas) < 1, "optim.betas", "must be below 1"),
        (config.extract.views, "extract.views", "name at least one view"),
        (
            len(set(config.extract.view_names)) == len(config.extract.views),
            "extract.views",
            "a view is named twice",
        ),
    ]
    for i, view in enumerate(config.extract.views):
        key = f"extract.views[{i}]"
        checks += [
            (
                _VIEW_NAME.fullmatch(view.name) and view.name not in SCORE_COLUMNS,
                f"{key}.name",
                f"{schema.shown(view.name)} must be letters, digits, - or _, at most 40, and none "
                f"of {', '.join(SCORE_COLUMNS)}",
            ),
            *((good, f"{key}.{setting}", what) for good, setting, what in view.checks()),
            (
                config.audio.channel == "near" or not view.uses_channel_2,
                f"{key}.method",
                f"{view.method} takes channel 1 as the signal: set audio.channel to near",
            ),
        ]
    for good, key, what in checks:
        if not good:
            raise ConfigError(f"{source}: {key}: {what}")


def settings(config: Config, sections: tuple[str, ...]) -> dict[str, Any]:
    """Values by dotted key of all settings in `sections`, except neutral ones.

    A list of sections (`model.spectrograms`) is one value.
    """
    neutral = {*NEUTRAL_KEYS, *(f"model.{name}" for name in config.model.neutral)}

    def walk(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {} if key in neutral else {key: value}
        return {k: v for name, sub in value.items() for k, v in walk(sub, f"{key}.{name}").items()}

    tree = to_tree(config)
    return {k: v for section in sections for k, v in walk(tree[section], section).items()}


def plugins(tree: Any) -> dict[str, str]:
    """Names and digests of the plugins in a tree of `to_tree`, by the dotted key of the section."""
    found, left = {}, [("", tree)]
    while left:  # not by recursion: a stranger's tree may have any depth
        key, value = left.pop()
        if isinstance(value, dict):
            if schema.PLUGIN in value:
                found[key] = str(value[schema.PLUGIN])
            pairs = [(str(name), inner) for name, inner in value.items()]
        elif isinstance(value, list):
            pairs = [(str(i), inner) for i, inner in enumerate(value)]
        else:
            continue
        left += [(f"{key}.{name}" if key else name, inner) for name, inner in reversed(pairs)]
    return found


def differences(old: Config, new: Config, sections: tuple[str, ...]) -> list[str]:
    """The `settings` that differ between two configurations, as `key: old -> new`.

    Keys that only one of them has, because it has another class, and long values are not shown;
    of many keys the first ones are.
    """
    a, b = settings(old, sections), settings(new, sections)
    found = [_difference(k, a.get(k), b.get(k)) for k in a if k in b and a[k] != b[k]]
    found += [k for k in {**a, **b} if (k in a) != (k in b)]
    more = len(found) - _MOST_DIFFERENCES
    return found if more <= 0 else [*found[:_MOST_DIFFERENCES], f"and {more} more"]


_MOST_DIFFERENCES = 8
_SHORT = 40  # characters


def _difference(key: str, old: Any, new: Any) -> str:
    values = f"{old} -> {new}"
    return f"{key}: {values}" if len(values) <= _SHORT else key
