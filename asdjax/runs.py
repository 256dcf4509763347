"""The run directory: the one argument that ties the verbs together.

    config.yaml                      the resolved configuration
    training.json                    what was trained: classes, clip length, weights' digest
    checkpoints/                     see checkpoint.py
    log.jsonl                        one line per training step
    embeddings/machines.json         the machines that extraction is about
    embeddings/<view>/<machine>.npz
    diagnostics/<machine>.csv        how the channels of each clip compare
    scores/<machine>.csv
    thresholds.json                  what each machine's threshold implies
    metrics/metrics.json  metrics.csv
    artefacts.json                   what each finished file was made from, and its digest

Every file is written beside its place and renamed, so that a reader never meets half of one.
"""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdjax import config as configs
from asdjax._version import __version__
from asdjax.config import Config, ViewConfig
from asdjax.errors import AsdjaxError

TRAINING_SCHEMA = "asdjax.training/2"
LOG_SCHEMA = "asdjax.log/1"
TRAINING_SECTIONS = ("seed", "dataset", "audio", "augment", "model", "loss", "optim", "train")
"""The sections of the configuration that the weights depend on."""
CLIP_COLUMNS = ("path", "split", "section", "domain", "label")
"""What every table of clips says of a clip, in this order."""


def fingerprint(*parts: Any) -> str:
    """A short digest of JSON-able values: equal parts, equal text."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside its place, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_json(path: Path, document: Any) -> None:
    """Write a JSON document, whole or not at all."""
    write_bytes(path, json_bytes(document))


def json_bytes(document: Any) -> bytes:
    """A JSON document as the content of a file; `ValueError` where it holds NaN or infinity."""
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def csv_bytes(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows that share their keys, as CSV with a header; floats keep all their digits."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def read_json(path: Path) -> Any:
    """Read a JSON document; `AsdjaxError` when it is not one."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AsdjaxError(f"{path}: cannot be read as JSON ({error})") from error


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """One machine's embeddings under one view; row i of every array is clip i, sorted by path."""

    path: np.ndarray
    """Text [N]: relative to the data set's root."""
    split: np.ndarray
    """Text [N]: train or test."""
    section: np.ndarray
    """Text [N]: two digits."""
    domain: np.ndarray
    """Text [N]: source, target or empty when the file name does not say."""
    label: np.ndarray
    """Text [N]: normal, anomaly or empty when the file name does not say."""
    embedding: np.ndarray
    """float32 [N, D]."""
    gain: np.ndarray
    """float32 [N]: mean gain of the view; this and the next three are NaN without channel 2."""
    level_db: np.ndarray
    """float32 [N]: level of channel 2 against channel 1."""
    correlation: np.ndarray
    """float32 [N]: of the channels."""
    lag: np.ndarray
    """float32 [N]: samples by which channel 2 hears later; NaN where no delay stands out."""
    silent: np.ndarray
    """bool [N, 2]: which channels have no sound; false without channel 2."""
    calibration: np.ndarray
    """float32 [2, F] of a calibrated view, see signal/wiener.py; [2, 0] of any other."""

    def rows(self, keep: np.ndarray) -> "Embeddings":
        """The clips selected by a boolean or index array."""
        per_clip = [f.name for f in dataclasses.fields(self) if f.name != "calibration"]
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in per_clip})


class Run:
    """One run directory."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics"
        self.thresholds = self.path / "thresholds.json"
        self._config = self.path / "config.yaml"
        self._training = self.path / "training.json"
        self._log = self.path / "log.jsonl"
        self._artefacts = self.path / "artefacts.json"
        self._machines = self.path / "embeddings" / "machines.json"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing to this run; released when the process ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise AsdjaxError(f"{self.path}: another process is writing to this run") from error
            yield

    # configuration and training

    def config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            AsdjaxError: this is not a run directory, or its config.yaml states other settings of
                training than those that it was trained with.
        """
        if not self._config.is_file():
            raise AsdjaxError(
                f"{self.path}: not a run directory (no config.yaml): train first, with "
                f"asdjax train CONFIG --data DIR --run {self.path}"
            )
        config, training = configs.load(str(self._config)), self.training()
        if training is not None:
            trained = configs.from_tree(training["config"], str(self._training))
            changed = configs.differences(trained, config, TRAINING_SECTIONS)
            if changed:
                raise AsdjaxError(
                    f"{self._config}: not the settings that the run was trained with "
                    f"({'; '.join(changed)}): put them back, or train again with --no-resume"
                )
        return config

    def marks(self) -> dict[str, bool]:
        """What every result says of the run: {"random_init": True} if it never saw pretraining."""
        return {"random_init": True} if getattr(self.config().model, "random_init", False) else {}

    def write_config(self, config: Config) -> None:
        """Store the resolved configuration."""
        write_bytes(self._config, configs.dump(config).encode())

    def was_trained(self) -> bool:
        """Whether training left anything to continue from."""
        return self._config.is_file() and (self._training.is_file() or self.checkpoints.is_dir())

    def training(self) -> dict[str, Any] | None:
        """What training left behind, or None while it has not finished."""
        if not self._training.is_file():
            return None
        document = read_json(self._training)
        if not isinstance(document, dict) or document.get("schema") != TRAINING_SCHEMA:
            raise AsdjaxError(
                f"{self._training}: not written by this version of asdjax (schema "
                f"{TRAINING_SCHEMA}): train again with --no-resume"
            )
        stated = document.pop("fingerprint", None)
        if stated != fingerprint(document):
            raise AsdjaxError(
                f"{self._training}: changed since training wrote it: restore it, or train again "
                "with --no-resume"
            )
        return document

    def write_training(self, document: Mapping[str, Any]) -> None:
        """Mark training as finished."""
        document = {"schema": TRAINING_SCHEMA, **document}
        write_json(self._training, {**document, "fingerprint": fingerprint(document)})

    def finished_training(self) -> dict[str, Any]:
        """What training left behind; `AsdjaxError` while it has not finished."""
        document = self.training()
        if document is None:
            raise AsdjaxError(f"{self.path}: training has not finished: run asdjax train again")
        return document

    def forget_training(self) -> None:
        """Remove an earlier training and all that followed from its weights."""
        self._training.unlink(missing_ok=True)
        self._artefacts.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        self.thresholds.unlink(missing_ok=True)
        for folder in ("metrics", "scores", "diagnostics", "embeddings"):
            self._discard(self.path / folder)
        self._discard(self.checkpoints)

    def _discard(self, folder: Path) -> None:
        """Delete a folder so that no part of it is ever taken for the whole."""
        gone = folder.with_name(f".{folder.name}.discarded")
        if gone.exists():  # of a deletion that was interrupted
            shutil.rmtree(gone)
        if folder.exists():
            folder.rename(gone)
            shutil.rmtree(gone)

    # the log

    def truncate_log(self, step: int) -> None:
        """Drop the log's lines from `step` on: a resumed run writes them again."""
        if self._log.is_file():
            lines = self._log.read_bytes().splitlines(keepends=True)
            write_bytes(self._log, b"".join(line for line in lines if _step(line) < step))

    def append_log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON line per row."""
        with self._log.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"schema": LOG_SCHEMA, **row}) + "\n" for row in rows)

    # artefacts

    def is_current(self, path: Path, made_from: str) -> bool:
        """Whether a file is as it was finished, and was made from exactly these inputs."""
        record = self._records().get(self._name(path))
        return (
            record is not None
            and record["made_from"] == made_from
            and path.is_file()
            and record["content"] == _content(path.read_bytes())
        )

    def write_artefact(self, path: Path, content: bytes, made_from: str) -> None:
        """Write a result and record what it was made from."""
        self.write_artefacts({path: (content, made_from)})

    def write_artefacts(self, results: Mapping[Path, tuple[bytes, str]]) -> None:
        """Write results that were made together, and record what each was made from.

        The old records go first, and the new ones come together: killed at any point, no file
        stands under another's record, and either all of them are finished or none.
        """
        records = self._records()
        kept = {n: r for n, r in records.items() if n not in {self._name(p) for p in results}}
        if kept != records:
            write_json(self._artefacts, kept)
        marks = self.marks()
        for path, (content, made_from) in results.items():
            write_bytes(path, content)
            record = {"made_from": made_from, "content": _content(content)}
            kept[self._name(path)] = record | marks
        write_json(self._artefacts, dict(sorted(kept.items())))

    def _records(self) -> dict[str, dict[str, str]]:
        records = read_json(self._artefacts) if self._artefacts.is_file() else {}
        if not isinstance(records, dict):
            raise AsdjaxError(f"{self._artefacts}: not a record of results: delete it")
        return records

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    # embeddings and scores

    def embeddings_path(self, view: str, machine: str) -> Path:
        """Where a machine's embeddings under a view are kept."""
        return self.path / "embeddings" / view / f"{machine}.npz"

    def scores_path(self, machine: str) -> Path:
        """Where a machine's anomaly scores are kept."""
        return self.path / "scores" / f"{machine}.csv"

    def embedding_recipes(self) -> dict[ViewConfig, str]:
        """Fingerprints of all that each view's embeddings follow from, besides the clips."""
        config, training = self.config(), self.finished_training()
        digests = training["digest"], training.get("frozen")
        settled = configs.settings(config, ("audio", "model"))
        return {
            view: fingerprint(__version__, digests, configs.to_tree(view), settled)
            for view in config.extract.views
        }

    def begin_extraction(self, expected: Mapping[Path, str]) -> None:
        """State what is being embedded; everything else under embeddings/ is forgotten.

        Args:
            expected: what each machine's embeddings under each view are to be made from.
        """
        records = self._records()
        machines = sorted({path.stem for path in expected})
        listed = {self._machines: fingerprint(machines)}
        names = {self._name(p): made_from for p, made_from in {**expected, **listed}.items()}
        kept = {
            name: record
            for name, record in records.items()
            if not name.startswith("embeddings/") or names.get(name) == record["made_from"]
        }
        if kept != records:  # at once: no mixture of old and new is ever taken for the whole
            write_json(self._artefacts, kept)
            self.thresholds.unlink(missing_ok=True)
        if not self.is_current(self._machines, listed[self._machines]):
            self.write_artefact(self._machines, json_bytes(machines), listed[self._machines])
        for path in (self.path / "embeddings").glob("*/*.npz"):
            if path not in expected:
                path.unlink()
        for folder in ("scores", "diagnostics"):
            for path in (self.path / folder).glob("*.csv"):
                if path.stem not in machines:
                    path.unlink()

    def machines(self) -> list[str]:
        """The machines of a finished extraction; `AsdjaxError` when it has not finished.

        It has not, either, when the configuration or the weights are no longer those it was of.
        """
        machines = read_json(self._machines) if self._machines.is_file() else []
        if machines and not self.is_current(self._machines, fingerprint(machines)):
            raise AsdjaxError(
                f"{self._machines}: not as extraction left it: run asdjax extract {self.path} again"
            )
        records = self._records()
        for view, recipe in self.embedding_recipes().items() if machines else ():
            for machine in machines:
                path = self.embeddings_path(view.name, machine)
                record = records.get(self._name(path), {"made_from": ""})
                if not (record["made_from"].startswith(f"{recipe}/") and path.is_file()):
                    machines = []
        if not machines:
            raise AsdjaxError(
                f"{self.path}: no embeddings, or not of all machines under the present "
                f"configuration: run asdjax extract {self.path} first"
            )
        return machines

    def scores_made_from(self, machine: str) -> str:
        """The fingerprint of what a machine's scores follow from."""
        config, records = self.config(), self._records()
        embeddings = [
            records.get(self._name(self.embeddings_path(view, machine)))
            for view in config.extract.view_names
        ]
        chosen = configs.settings(config, ("backend", "decision"))
        recipes = list(self.embedding_recipes().values())
        return fingerprint(__version__, chosen, config.extract.view_names, recipes, embeddings)

    def write_thresholds(self, document: Mapping[str, Any]) -> None:
        """Store what the thresholds of all machines' scores imply."""
        made_from = self._thresholds_made_from(self.machines())
        if not self.is_current(self.thresholds, made_from):
            self.write_artefact(self.thresholds, json_bytes(document), made_from)

    def scored_machines(self) -> list[str]:
        """The machines of a finished scoring; `AsdjaxError` when thresholds.json is not its own."""
        machines = self.machines()
        if not self.is_current(self.thresholds, self._thresholds_made_from(machines)):
            raise AsdjaxError(
                f"{self.thresholds}: missing, changed, or of other scores: run asdjax score "
                f"{self.path}"
            )
        return machines

    def _thresholds_made_from(self, machines: Sequence[str]) -> str:
        return fingerprint([self.scores_made_from(machine) for machine in machines])

    def write_embeddings(self, tables: Mapping[Path, tuple[Embeddings, str]]) -> None:
        """Store embeddings that were made together; equal arrays give equal bytes.

        Args:
            tables: by place, with what each was made from.
        """
        contents = {}
        for path, (table, made_from) in tables.items():
            buffer = io.BytesIO()
            np.savez(buffer, **vars(table))
            contents[path] = buffer.getvalue(), made_from
        self.write_artefacts(contents)

    def read_embeddings(self, view: str, machine: str) -> Embeddings:
        """Read a machine's embeddings under a view; `AsdjaxError` if the file was changed."""
        path = self.embeddings_path(view, machine)
        record, content = self._records().get(self._name(path)), path.read_bytes()
        if record is None or record["content"] != _content(content):
            raise AsdjaxError(
                f"{path}: not as extraction left it: run asdjax extract {self.path} again"
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return Embeddings(**arrays)

    def write_diagnostics(self, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store what a machine's clips tell about its channels; no rows, no file."""
        path = self.path / "diagnostics" / f"{machine}.csv"
        if not rows:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_bytes() != csv_bytes(rows):
            write_bytes(path, csv_bytes(rows))

    def write_scores(self, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store a machine's scores."""
        made_from = self.scores_made_from(machine)
        self.write_artefact(self.scores_path(machine), csv_bytes(rows), made_from)

    def has_scores(self, machine: str) -> bool:
        """Whether a machine's scores are there and follow from its embeddings and the backend."""
        return self.is_current(self.scores_path(machine), self.scores_made_from(machine))

    def read_scores(self, machine: str) -> list[dict[str, str]]:
        """The rows of a machine's scores, as text by column; `AsdjaxError` unless current."""
        path = self.scores_path(machine)
        if not self.has_scores(machine):
            raise AsdjaxError(
                f"{path}: missing, changed, or of other embeddings or another backend: run "
                f"asdjax score {self.path}"
            )
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def _content(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _step(line: bytes) -> float:
    """The step of a line of the log; infinite where a kill left half of one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
