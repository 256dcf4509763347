"""What the results of a run depend on: its config.yaml, training.json and artefacts.json."""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.config import recipe as configs
from asdjax.config import strict_yaml
from asdjax.config.recipe import Config
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import user_files
from asdjax.files.documents import present, read_json
from asdjax.store import training_record
from asdjax.store.run_manifest import Manifest

CONFIG, TRAINING = "config.yaml", "training.json"
TRAINING_SECTIONS = ("seed", "dataset", "audio", "augment", "model", "loss", "optim", "train")
"""The sections of the configuration that the weights depend on."""
LATER_SECTIONS = ("extract", "backend", "decision")
"""The others."""


class RunDocuments:
    """The documents of a run, each read once, at first use."""

    def __init__(self, run: Path):
        self._run, self._config, self._training = run, run / CONFIG, run / TRAINING
        self.manifest = Manifest(run)

    @functools.cached_property
    def training(self) -> Mapping[str, Any] | None:
        """The training record, or None if training has not finished."""
        if not present(self._training):
            return None
        return training_record.read(self._training)

    @functools.cached_property
    def config(self) -> Config:
        """The configuration; `AsdjaxError` if it differs from what the run was trained with."""
        # not by load: a run may come from a stranger, and extends no files elsewhere
        text = user_files.read_text(self._config, most=strict_yaml.MOST_BYTES)
        config, training = configs.parse(text, str(self._config)), self.training
        if training is not None:
            self._require_as_trained(config, training["config"])
        return config

    @functools.cached_property
    def training_settings(self) -> Config:
        """The sections of config.yaml that the weights depend on; the others are the defaults.

        A plugin of the other sections may be missing. Raises as `config` does.
        """
        tree = strict_yaml.read(self._config)
        if isinstance(tree, dict):
            tree = {name: tree[name] for name in TRAINING_SECTIONS if name in tree}
        config, training = configs.from_tree(tree, str(self._config)), self.training
        if training is not None:
            self._require_as_trained(config, training["config"])
        return config

    def has_ours(self) -> bool:
        """Whether there is a configuration or a training record written by asdjax."""
        with contextlib.suppress(AsdjaxError):
            tree = strict_yaml.read(self._config)
            if isinstance(tree, dict) and {f.name for f in dataclasses.fields(Config)} <= {*tree}:
                return True
        with contextlib.suppress(AsdjaxError):
            return training_record.is_record(read_json(self._training))
        return False

    def _require_as_trained(self, config: Config, tree: dict[str, Any]) -> None:
        # Plugins of the other sections, which may have changed since, are not needed.
        tree = {name: tree[name] for name in TRAINING_SECTIONS if name in tree}
        trained = configs.from_tree(tree, str(self._training))
        changed = configs.differences(trained, config, TRAINING_SECTIONS)
        if changed:
            raise ArtifactError(
                f"{self._config}: not the settings that the run was trained with "
                f"({'; '.join(changed)}): restore them, or train again with --no-resume"
            )
        now = configs.plugins(configs.to_tree(trained))
        for key, plugin in configs.plugins(tree).items():
            if now.get(key) != plugin:
                raise ArtifactError(
                    f"{self._run}: {key}: trained with the plugin {plugin}, and {now.get(key)} "
                    "is loaded: restore it, or train again with --no-resume"
                )
