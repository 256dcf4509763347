"""meta.yaml of a submission, from the authors' information and a run."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax.config import embedding_parts, schema, strict_yaml
from asdjax.config.recipe import Config
from asdjax.config.schema import digits
from asdjax.data.editions import find_edition
from asdjax.errors import ArtifactError, ConfigError
from asdjax.signal.view_raw import of_mono
from asdjax.store.runs import Run

_LONGEST_PART = 64  # labels are parts of file names, which have at most 255 bytes


@dataclasses.dataclass(frozen=True)
class Affiliation:
    """An author's institution."""

    institution: str
    department: str
    location: str


@dataclasses.dataclass(frozen=True)
class Author:
    """One author."""

    firstname: str
    lastname: str
    email: str
    affiliation: Affiliation
    corresponding: bool = False


@dataclasses.dataclass(frozen=True)
class ExternalDataset:
    """Data or weights from outside the challenge."""

    name: str
    url: str


@dataclasses.dataclass(frozen=True)
class Info:
    """The authors' information about a submission."""

    institute: str
    """Short name for the labels."""
    name: tuple[str, ...]
    """One for all systems, or one per system."""
    abbreviation: tuple[str, ...]
    """One for all systems, or one per system."""
    authors: tuple[Author, ...]
    source_code: str | None = None
    external_datasets: tuple[ExternalDataset, ...] = ()
    label_lastname: str | None = None
    """The corresponding author's last name for the labels, if it has other than A-Z, a-z, 0-9."""


def read_info(path: Path, systems: int) -> Info:
    """Read the authors' information.

    Args:
        path: the YAML file.
        systems: the number of systems in the submission.

    Raises:
        AsdjaxError: the file cannot be read, or a key is unknown, missing or invalid.
    """
    tree = strict_yaml.read(path)
    if isinstance(tree, Mapping):  # a single name is for all systems
        for key in {"name", "abbreviation"} & tree.keys():
            if isinstance(tree[key], str):
                tree = {**tree, key: [tree[key]]}
    info: Info = schema.read(Info, tree, "", str(path))
    _refuse_blank(schema.to_tree(info), "", path)
    for key in ("name", "abbreviation"):
        given = len(getattr(info, key))
        if given not in (1, systems):
            raise ArtifactError(
                f"{path}: {key}: {given} values for {systems} runs: give 1 or one each"
            )
    corresponding = [author for author in info.authors if author.corresponding]
    if len(corresponding) != 1:
        raise ArtifactError(
            f"{path}: authors: {len(corresponding)} with corresponding: true, expected one"
        )
    parts = {
        "institute": info.institute,
        "label_lastname": info.label_lastname or corresponding[0].lastname,
    }
    for key, part in parts.items():
        if not (part.isascii() and part.isalnum() and len(part) <= _LONGEST_PART):
            raise ArtifactError(
                f"{path}: {schema.shown(part)} is not possible in a label (only A-Z, a-z and 0-9, "
                f"at most {_LONGEST_PART}): set {key} to a spelling with these"
            )
    return info


def _refuse_blank(tree: Any, key: str, path: Path) -> None:
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            _refuse_blank(value, f"{key}.{name}" if key else name, path)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            _refuse_blank(value, f"{key}[{i}]", path)
    elif isinstance(tree, str) and not tree.strip():
        raise ArtifactError(f"{path}: {key}: empty: fill it in")


def meta(
    run: Run, about: Info, i: int, label: str, results: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The content of meta.yaml for a run.

    Args:
        run: a scored run.
        about: the authors' information.
        i: the run's index among the systems.
        label: the system's label.
        results: official figures of the development machines, per cent; empty: left out.

    Raises:
        AsdjaxError: the training record has no number of parameters.
    """
    training = run.finished_training()
    if "parameters" not in training:
        raise ArtifactError(
            f"{run.path}: training.json has no key parameters: train again with --no-resume"
        )
    return {
        "submission": {
            "label": label,
            "name": about.name[i % len(about.name)],
            "abbreviation": about.abbreviation[i % len(about.abbreviation)],
            "authors": [_author(author) for author in about.authors],
        },
        "system": {
            "description": describe(
                run.config(), training["classes"], [e.name for e in about.external_datasets]
            ),
            "complexity": {"total_parameters": training["parameters"]},
            "external_datasets": [schema.to_tree(e) for e in about.external_datasets] or None,
            "source_code": about.source_code,
        },
        **({"results": {"development_dataset": results}} if results else {}),
    }


def _author(author: Author) -> dict[str, Any]:
    names = ("firstname", "lastname", "email", "corresponding", "affiliation")
    tree = schema.to_tree(author)
    return {name: tree[name] for name in names}


def describe(
    config: Config, classes: Sequence[str], external: Sequence[str] = ()
) -> dict[str, Any]:
    """The entries of `system.description` in meta.yaml; None for what the system does not use.

    Args:
        config: the run's configuration.
        classes: the training classes, each `<machine>/<section>...`.
        external: names of external data sets.

    Raises:
        AsdjaxError: a plugin describes itself by something else than text.
    """
    mono = find_edition(config.dataset.edition).channels == 1
    views = config.extract.views
    combined = {
        "mean": "mean of the views' scores",
        "z_score": "mean of the views' scores, each standardised by its training clips' scores",
        "z_minimum": "smallest of the views' scores, each standardised by its training clips' "
        "scores",
        "z_maximum": "largest of the views' scores, each standardised by its training clips' "
        "scores",
        "embeddings": "one score for the mean of the views' embeddings",
    }[config.backend.combine_views]
    averages_scores = len(views) > 1 and config.backend.combine_views != "embeddings"
    machines = sorted({name.partition("/")[0] for name in classes})
    features, embedding, network = _texts(config.model, "sentences", config.model.sentences(), 3)
    if len(parts := config.model.embedding_parts) > 1 and not config.backend.selected:
        scored = embedding_parts.chosen(parts, config.backend.part)
        embedding += f", of which {scored.name} is scored" if scored else ""
    method, trains = f"{network} without further training", []
    if not config.model.trains_nothing:
        method = f"{network} classifier with {_text(config.loss, config.loss.sentence())} loss"
        trains = [f"training clips of {', '.join(machines)} train the embedder"]
    references = "each machine's own training clips are the references of its scores"
    return {
        "input_sampling_rate": f"{digits(config.audio.sample_rate / 1000)} kHz",
        "data_augmentation": _augmentation(config),
        "front_end": _front_end(config, mono),
        "acoustic_features": features,
        "embeddings": embedding,
        "machine_learning_method": f"{method}; {_text(config.backend, config.backend.sentence())}",
        "aggregation_method": combined if len(views) > 1 else None,
        "domain_adaptation_method": None,
        "domain_generalization_method": config.backend.generalization(),
        "ensemble_method_subsystem_count": len(views) if averages_scores else 1,
        "decision_making": _decision(config),
        "attribute_usage": {
            "machine_section": None,
            "machine_section_attributes": "training classes are machine, section and attributes",
            "machine_section_attributes_domain": "training classes are machine, section, "
            "attributes and domain",
            "pseudo": "training classes are machine, section and attributes; clips without "
            "attributes are divided by k-means",
        }[config.dataset.label],
        "external_data_usage": ", ".join(external) or None,
        "development_data_usage": "; ".join([*trains, references]),
        **config.model.described(),
    }


def _augmentation(config: Config) -> str | None:
    used = []
    if config.model.trains_nothing:
        return None
    if config.augment.mixup.probability > 0:
        used.append(f"mixup of waveforms (probability {digits(config.augment.mixup.probability)})")
    if config.audio.train_crop == "random" and config.audio.clip_seconds != "auto":
        used.append(f"random crop of clips longer than {digits(config.audio.clip_seconds)} s")
    used += config.model.augmentations(config.augment)
    return ", ".join(used) or None


def _front_end(config: Config, mono: bool) -> str:
    channel = {"near": "channel 1 (near)", "far": "channel 2 (far)"}[config.audio.channel]
    if mono:
        channel = "the only channel"
    views = (of_mono(view) if mono else view for view in config.extract.views)
    return "; ".join(dict.fromkeys(_text(view, view.sentence(channel)) for view in views))


def _decision(config: Config) -> str:
    rule = config.decision.sentence(config.backend.training_scores())
    return f"one threshold per machine and section: {_text(config.decision, rule)}"


def _text(thing: schema.Choice, returned: Any) -> str:
    """What the method `sentence` of a class returned, if it is a text."""
    return _texts(thing, "sentence", (returned,), 1)[0]


def _texts(thing: schema.Choice, method: str, returned: Any, count: int) -> tuple[str, ...]:
    if isinstance(returned, tuple | list) and len(returned) == count:
        if all(isinstance(text, str) and text.strip() for text in returned):
            return tuple(returned)
    what = "a text" if count == 1 else f"{count} texts"
    found = schema.shown(returned[0] if count == 1 else returned)
    raise ConfigError(
        f"{thing.kind} {getattr(thing, thing.tag)}: {method} returns {found}: return {what}"
    )
