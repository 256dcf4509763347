"""The run directory: its files, lock, configuration, training record and log.

    config.yaml                      the resolved configuration
    training.json                    what was trained: classes, clip length, weights' digest
    checkpoints/                     see checkpoint.py
    log.jsonl                        one line per training step
    embeddings/machines.json         the machines, so that a partial extraction is detected
    embeddings/<view>/<machine>.npz
    diagnostics/<machine>.csv        comparison of the channels of each clip
    scores/<machine>.csv
    pseudo_labels.csv                class of each training clip, with dataset.label pseudo
    selection.json                   evidence for the backend of each machine
    thresholds.json                  threshold and false alarms of each machine
    metrics/metrics.json  metrics.csv
    artefacts.json                   see run_manifest.py
    tensorboard/                     see event_files.py

Every file is written under a temporary name and renamed, so that readers never see a partial file.
A run may come from an untrusted source: it must not contain links or names of paths outside it.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from asdjax.config import recipe as configs
from asdjax.config.recipe import Config
from asdjax.errors import ArtifactError
from asdjax.files import atomic, user_files
from asdjax.files.documents import content_digest, digest, present
from asdjax.store import training_record
from asdjax.store.run_documents import CONFIG, TRAINING, RunDocuments
from asdjax.store.run_manifest import ARTEFACTS

_BUSY = "another process is writing to this run"
_FOLLOWING = ("metrics", "scores", "diagnostics", "embeddings")  # computed from the weights
LOG_SCHEMA = "asdjax.log/1"


class RunDirectory:
    """A run without its results; see `asdjax.Run`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics"
        self.thresholds = self.path / "thresholds.json"
        self._config = self.path / CONFIG
        self._training = self.path / TRAINING
        self._artefacts = self.path / ARTEFACTS
        self._log = self.path / "log.jsonl"
        self._embeddings = self.path / "embeddings"
        self._machines = self._embeddings / "machines.json"
        self._pseudo_labels = self.path / "pseudo_labels.csv"
        self.selection = self.path / "selection.json"
        self._held: RunDocuments | None = None  # those of the present lock or snapshot

    @contextlib.contextmanager
    def lock(self, *, existing: bool = False) -> Iterator[None]:
        """Lock the run against writes of other processes and refuse links in it.

        Every command that writes to a run locks it. The lock is released when the process ends.

        Args:
            existing: require an existing run; otherwise its directory is created.

        Raises:
            AsdjaxError: another process holds the lock, it is not a run directory, it contains
                files of other programs, or something in it is a link or not a file.
        """
        if existing:
            self._require_config()
        self._refuse_foreign()
        lock, busy = self.path / ".lock", f"{self.path}: {_BUSY}"
        with self._made(), atomic.locked(lock, busy, of_folder=True):
            for place in self._all_ours():
                atomic.refuse_links(place)
            self._require_folders()
            atomic.clear(self.path, ("checkpoints", *_FOLLOWING))  # a killed command's leftovers
            with self._holding(RunDocuments(self.path)):  # read after locking: current
                yield

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read each document once, for a command that only reads the run.

        A result that another process writes meanwhile is refused: it has no record in the snapshot.
        """
        with self._holding(self._held or RunDocuments(self.path)):
            yield

    @contextlib.contextmanager
    def _holding(self, documents: RunDocuments) -> Iterator[None]:
        before, self._held = self._held, documents
        try:
            yield
        finally:
            self._held = before

    @property
    def _documents(self) -> RunDocuments:
        """As of the start of the present lock or snapshot; without one, as they are now."""
        return self._held or RunDocuments(self.path)

    def _read_again(self) -> None:
        """Forget what was read of the documents, after one of them was written."""
        if self._held is not None:
            self._held = RunDocuments(self.path)

    def _refuse_foreign(self) -> None:
        """Refuse a directory that is not a run but contains files that a run would overwrite."""
        taken = [place for place in self._all_ours() if os.path.lexists(place)]
        if taken and not RunDocuments(self.path).has_ours():
            raise ArtifactError(
                f"{self.path}: not a run directory, and a run would overwrite its {taken[0].name}: "
                "choose another directory"
            )

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Create the run directory; after an exception it is removed if it is new and empty."""
        with atomic.writing(self.path):
            new = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if new and os.listdir(self.path) == [".lock"]:
                    (self.path / ".lock").unlink()
                    self.path.rmdir()
            raise

    def _require_folders(self) -> None:
        """Refuse a file in the place of a folder before anything is deleted."""
        for name in "checkpoints", *_FOLLOWING:
            if os.path.lexists(self.path / name) and not (self.path / name).is_dir():
                raise ArtifactError(f"{self.path / name}: is not a folder: move it away")

    def _all_ours(self) -> list[Path]:
        """All paths that a command writes to or deletes."""
        files = [self._config, self._training, self._log, self._artefacts, self.thresholds]
        files += [self._pseudo_labels, self.selection]
        folders = [self.path / folder for folder in ("checkpoints", *_FOLLOWING)]
        return [*files, *folders, *map(atomic.discarded, folders)]

    # configuration and training

    def config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            AsdjaxError: this is not a run directory, one of its documents is a link, or its
                config.yaml differs from the settings that it was trained with.
        """
        self._require_config()
        return self._documents.config

    def training_settings(self) -> Config:
        """The settings that the run was begun with; of the later sections the defaults.

        Raises:
            AsdjaxError: as in `config`.
        """
        self._require_config()
        return self._documents.training_settings

    def _require_config(self) -> None:
        for file in (self._config, self._training, self._artefacts, self._log, self.thresholds):
            atomic.refuse_links(file)  # also for reading: what they lead to would be shown
        if os.path.exists(self._config) and not present(self._config):
            raise ArtifactError(f"{self._config}: is not a regular file: restore it")
        if not present(self._config):
            raise ArtifactError(
                f"{self.path}: not a run directory (no config.yaml): train first, with "
                f"asdjax train CONFIG --data DIR --run {self.path}"
            )

    def marks(self) -> dict[str, bool]:
        """Flags for all results of the run: {"random_init": True} without pretrained weights."""
        return {"random_init": True} if self.config().model.for_tests_only else {}

    def write_config(self, config: Config) -> None:
        """Store the resolved configuration; nothing is written if it is stored already."""
        content = configs.dump(config).encode()
        if not present(self._config) or digest(self._config) != content_digest(content):
            atomic.write_bytes(self._config, content)
            self._read_again()

    def was_trained(self) -> bool:
        """Whether there is a training record or a checkpoint to resume from."""
        return present(self._config) and (present(self._training) or self.checkpoints.is_dir())

    def training(self) -> Mapping[str, Any] | None:
        """The training record, or None if training has not finished."""
        return self._documents.training

    def write_training(self, document: Mapping[str, Any]) -> None:
        """Store the training record, which marks training as finished."""
        training_record.write(self._training, document)
        self._read_again()

    def finished_training(self) -> Mapping[str, Any]:
        """The training record; `AsdjaxError` if training has not finished."""
        self._require_config()
        document = self.training()
        if document is None:
            raise ArtifactError(
                f"{self.path}: training has not finished (no training.json): run its asdjax train "
                "command again"
            )
        return document

    # the log

    def truncate_log(self, step: int) -> None:
        """Delete the log's lines from `step` on, which a resumed run writes again."""
        if present(self._log):
            with user_files.open_regular(self._log) as file:
                lines = file.readlines()
            atomic.write_bytes(self._log, b"".join(line for line in lines if _step(line) < step))

    def read_log(self) -> list[dict[str, Any]]:
        """The log's rows; incomplete lines are left out."""
        if not present(self._log):
            return []
        with user_files.open_regular(self._log) as file:
            return [json.loads(line) for line in file if math.isfinite(_step(line))]

    def append_log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON line per row."""
        lines = "".join(json.dumps({"schema": LOG_SCHEMA, **row}) + "\n" for row in rows)
        atomic.append(self._log, lines.encode())


def _step(line: bytes) -> float:
    """The step of a line of the log; infinity for an incomplete line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return math.inf
    return step if isinstance(step, int) and 0 <= step < 2**63 else math.inf
