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

Every file is written beside its place and renamed, so that a reader never meets half of one. A run
may come from somebody else: nothing in it may be a link or name a place outside it.
"""

import contextlib
import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax._version import __version__
from asdjax.config import recipe as configs
from asdjax.config import strict_yaml
from asdjax.config.recipe import Config, ViewConfig
from asdjax.errors import AsdjaxError
from asdjax.files import atomic, user_files
from asdjax.files.documents import (
    content_digest,
    csv_bytes,
    digest,
    fingerprint,
    json_bytes,
    present,
    read_json,
    write_json,
)
from asdjax.store import training_record
from asdjax.store.embeddings import Embeddings

_BUSY = "another process is writing to this run"
_FOLLOWING = ("metrics", "scores", "diagnostics", "embeddings")  # from the weights
LOG_SCHEMA = "asdjax.log/1"
TRAINING_SECTIONS = ("seed", "dataset", "audio", "augment", "model", "loss", "optim", "train")
"""The sections of the configuration that the weights depend on."""
CLIP_COLUMNS = ("path", "split", "section", "domain", "label")
"""What every table of clips says of a clip, in this order."""


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
    def lock(self, *, existing: bool = False) -> Iterator[None]:
        """Keep other processes from writing to this run; released when the process ends.

        Whoever writes to a run holds it, so this is also where links in it are refused.

        Args:
            existing: whether this must be a run already; otherwise its directory is made.

        Raises:
            AsdjaxError: another process holds it, it is not a run directory, it holds files of
                others, or something in it is a link or no file.
        """
        if existing:
            self._require_config()
        self._refuse_foreign()
        with self._made(), atomic.locked(self.path / ".lock", f"{self.path}: {_BUSY}"):
            for place in self._all_ours():
                atomic.refuse_links(place)
            atomic.clear(self.path)  # of a command that was killed while it deleted
            yield

    def _refuse_foreign(self) -> None:
        """Refuse a directory that is no run and holds what a run would replace or delete."""
        taken = [place for place in self._all_ours() if os.path.lexists(place)]
        if taken and not self._was_written_here():
            raise AsdjaxError(
                f"{self.path}: is no run directory, and a run would replace its {taken[0].name}: "
                "name another directory"
            )

    def _was_written_here(self) -> bool:
        """Whether asdjax wrote the configuration, whatever its values, or a record of training."""
        with contextlib.suppress(AsdjaxError):
            tree = strict_yaml.read(self._config)
            if isinstance(tree, dict) and {f.name for f in dataclasses.fields(Config)} <= {*tree}:
                return True
        with contextlib.suppress(AsdjaxError):
            record = read_json(self._training)
            return isinstance(record, dict) and str(record.get("schema")).startswith("asdjax.")
        return False

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Make the run directory; one that holds nothing is gone if an exception is raised."""
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

    def _all_ours(self) -> list[Path]:
        """Every place that a verb writes to or deletes."""
        files = self._config, self._training, self._log, self._artefacts, self.thresholds
        folders = [self.path / folder for folder in ("checkpoints", *_FOLLOWING)]
        return [*files, *folders, *map(atomic.discarded, folders)]

    # configuration and training

    def config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            AsdjaxError: this is not a run directory, or its config.yaml states other settings of
                training than those that it was trained with.
        """
        self._require_config()
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

    def _require_config(self) -> None:
        if not present(self._config):
            raise AsdjaxError(
                f"{self.path}: not a run directory (no config.yaml): train first, with "
                f"asdjax train CONFIG --data DIR --run {self.path}"
            )

    def marks(self) -> dict[str, bool]:
        """What every result says of the run: {"random_init": True} if it never saw pretraining."""
        return {"random_init": True} if getattr(self.config().model, "random_init", False) else {}

    def write_config(self, config: Config) -> None:
        """Store the resolved configuration."""
        atomic.write_bytes(self._config, configs.dump(config).encode())

    def was_trained(self) -> bool:
        """Whether training left anything to continue from."""
        return present(self._config) and (present(self._training) or self.checkpoints.is_dir())

    def training(self) -> dict[str, Any] | None:
        """What training left behind, or None while it has not finished."""
        if not present(self._training):
            return None
        return training_record.read(self._training)

    def write_training(self, document: Mapping[str, Any]) -> None:
        """Mark training as finished."""
        training_record.write(self._training, document)

    def finished_training(self) -> dict[str, Any]:
        """What training left behind; `AsdjaxError` while it has not finished."""
        self._require_config()
        document = self.training()
        if document is None:
            raise AsdjaxError(
                f"{self.path}: training has not finished (no training.json): give its asdjax train "
                "command again"
            )
        return document

    def forget_training(self) -> None:
        """Remove an earlier training and all that followed from its weights."""
        for file in self._training, self._artefacts, self._log, self.thresholds:
            atomic.delete(file)
        for folder in _FOLLOWING:
            atomic.discard(self.path / folder)
        atomic.discard(self.checkpoints)

    # the log

    def truncate_log(self, step: int) -> None:
        """Drop the log's lines from `step` on: a resumed run writes them again."""
        if present(self._log):
            with user_files.open_regular(self._log) as file:
                lines = file.readlines()
            atomic.write_bytes(self._log, b"".join(line for line in lines if _step(line) < step))

    def append_log(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append one JSON line per row."""
        lines = "".join(json.dumps({"schema": LOG_SCHEMA, **row}) + "\n" for row in rows)
        atomic.append(self._log, lines.encode())

    # artefacts

    def is_current(self, path: Path, made_from: str) -> bool:
        """Whether a file is as it was finished, and was made from exactly these inputs."""
        record = self._records().get(self._name(path))
        return (
            record is not None
            and record["made_from"] == made_from
            and present(path)
            and record["content"] == digest(path)
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
            atomic.write_bytes(path, content)
            record = {"made_from": made_from, "content": content_digest(content)}
            kept[self._name(path)] = record | marks
        write_json(self._artefacts, dict(sorted(kept.items())))

    def _records(self) -> dict[str, dict[str, str]]:
        records = read_json(self._artefacts) if present(self._artefacts) else {}
        if not isinstance(records, dict) or not all(map(_is_record, records.values())):
            raise AsdjaxError(f"{self._artefacts}: not a record of results: delete it")
        return records

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path).as_posix()

    # embeddings and scores

    def embeddings_path(self, view: str, machine: str) -> Path:
        """Where a machine's embeddings under a view are kept."""
        return self.path / "embeddings" / _plain(view) / f"{_plain(machine)}.npz"

    def scores_path(self, machine: str) -> Path:
        """Where a machine's anomaly scores are kept."""
        return self.path / "scores" / f"{_plain(machine)}.csv"

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
            atomic.delete(self.thresholds)
        if not self.is_current(self._machines, listed[self._machines]):
            self.write_artefact(self._machines, json_bytes(machines), listed[self._machines])
        for path in (self.path / "embeddings").glob("*/*.npz"):
            if path not in expected:
                atomic.delete(path)
        for folder in ("scores", "diagnostics"):
            for path in (self.path / folder).glob("*.csv"):
                if path.stem not in machines:
                    atomic.delete(path)

    def machines(self) -> list[str]:
        """The machines of a finished extraction; `AsdjaxError` when it has not finished.

        It has not, either, when the configuration or the weights are no longer those it was of.
        """
        self.finished_training()
        machines = self._stated_machines()
        if machines and not present(self._artefacts):
            raise AsdjaxError(
                f"{self._artefacts}: the record of results is gone: run asdjax extract {self.path} "
                "again"
            )
        if machines and not self.is_current(self._machines, fingerprint(machines)):
            raise AsdjaxError(
                f"{self._machines}: not as extraction left it: run asdjax extract {self.path} again"
            )
        records = self._records()
        for view, recipe in self.embedding_recipes().items() if machines else ():
            for machine in machines:
                path = self.embeddings_path(view.name, machine)
                record = records.get(self._name(path), {"made_from": ""})
                if not (record["made_from"].startswith(f"{recipe}/") and present(path)):
                    machines = []
        if not machines:
            raise AsdjaxError(
                f"{self.path}: no embeddings, or not of all machines under the present "
                f"configuration: run asdjax extract {self.path} first"
            )
        return machines

    def _stated_machines(self) -> list[str]:
        machines = read_json(self._machines) if present(self._machines) else []
        if not isinstance(machines, list) or not all(type(name) is str for name in machines):
            raise AsdjaxError(
                f"{self._machines}: not a list of machines: delete it and run asdjax extract again"
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
            contents[path] = table.to_bytes(), made_from
        self.write_artefacts(contents)

    def read_embeddings(self, view: str, machine: str) -> Embeddings:
        """Read a machine's embeddings under a view; `AsdjaxError` if the file was changed."""
        path = self.embeddings_path(view, machine)
        changed = AsdjaxError(
            f"{path}: not as extraction left it: run asdjax extract {self.path} again"
        )
        record = self._records().get(self._name(path))
        if record is None or record["content"] != digest(path):
            raise changed
        with user_files.open_regular(path) as file:
            table = Embeddings.read(file)
        if table is None:
            raise changed
        return table

    def write_diagnostics(self, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store what a machine's clips tell about its channels; no rows, no file."""
        path = self.path / "diagnostics" / f"{_plain(machine)}.csv"
        if not rows:
            atomic.delete(path)
        elif not present(path) or digest(path) != content_digest(csv_bytes(rows)):
            atomic.write_bytes(path, csv_bytes(rows))

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
        with user_files.open_regular(path) as file:
            content = file.read()
        try:
            rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        except (UnicodeDecodeError, csv.Error) as error:
            raise AsdjaxError(f"{path}: not a table of scores ({error})") from error
        columns = {*CLIP_COLUMNS, "score", *self.config().extract.view_names}
        for number, row in enumerate(rows, start=2):
            if not columns <= row.keys() or not all(
                _is_finite(row[name])
                for name in columns.difference(CLIP_COLUMNS) | ({"threshold"} & row.keys())
            ):
                raise AsdjaxError(
                    f"{path}: line {number} is not as asdjax score writes it: delete the file and "
                    f"run asdjax score {self.path}"
                )
        return rows


def _is_finite(text: Any) -> bool:
    """Whether a field of a table is a finite number."""
    try:
        return math.isfinite(float(text))
    except (TypeError, ValueError):
        return False


def _is_record(record: Any) -> bool:
    return isinstance(record, dict) and all(
        type(record.get(key)) is str for key in ("made_from", "content")
    )


def _plain(name: str) -> str:
    """The name of a machine or a view, if it is one of a file: a received run may hold others."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise AsdjaxError(f"{name!r}: not the name of a machine or a view: it names another place")
    return name


def _step(line: bytes) -> float:
    """The step of a line of the log; infinite where a kill left half of one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf
