"""The results of a run, which commands write and read: embeddings, scores, metrics.

The files are listed in run_directory.py.
"""

import contextlib
import csv
import io
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from asdjax._version import __version__
from asdjax.config import recipe as configs
from asdjax.config.interfaces import View
from asdjax.errors import ArtifactError
from asdjax.files import atomic, user_files
from asdjax.files.documents import (
    content_digest,
    csv_bytes,
    digest,
    fingerprint,
    json_bytes,
    present,
    read_json,
)
from asdjax.store import event_files, scores
from asdjax.store.checkpoint_files import checkpoint_files
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.run_directory import RunDirectory
from asdjax.store.run_documents import RunDocuments
from asdjax.store.run_manifest import Record

COMBINED = "combined"
"""Key of training.json, in combinations: the folders of the combined runs."""


class Run(RunDirectory):
    """One run directory.

    Every method reads config.yaml, training.json and artefacts.json again, as other processes may
    have written them; within `lock` and `snapshot` each of them is read once.

    Example:
        >>> asdjax.Run("runs/seed0").was_trained()
        True
    """

    def forget_training(self) -> None:
        """Delete the results of an earlier training and everything computed from them.

        Raises:
            AsdjaxError: the folder of checkpoints has files of other origin, which would be lost,
                or a folder is read-only. Nothing has been deleted then.
        """
        atomic.require_writable(self.path)
        results = self._embeddings, self.path / "scores", self.path / "diagnostics", self.metrics
        for top in (self.checkpoints, *results):
            for folder, _, _ in os.walk(top):
                atomic.require_writable(Path(folder))
        foreign = [path for path in self.foreign_files() if path.is_relative_to(self.checkpoints)]
        atomic.refuse_foreign(foreign, "--no-resume")
        atomic.delete(self._training)
        with contextlib.suppress(ArtifactError):  # an invalid record of results is deleted below
            self._delete_results(lambda path, record: True)
        self._delete_metrics()
        events = event_files.ours(self.path / event_files.FOLDER)
        for file in self._artefacts, self._log, self.thresholds, *events:
            atomic.delete(file)
        self._read_again()
        atomic.discard(self.checkpoints)

    def reopen_training(self) -> bool:
        """Delete the training record, because training goes on, and the metrics of its weights.

        Embeddings and scores stay until they are made again; without the record nothing reads them.

        Returns:
            whether there are any.
        """
        self._delete_metrics()
        atomic.delete(self._training)
        self._read_again()
        with contextlib.suppress(ArtifactError):  # an invalid record of results names none
            return bool(self._documents.manifest.files())
        return False

    def _delete_results(self, doomed: Callable[[Path, Record], bool]) -> None:
        """Delete recorded results, their records, and what was computed from them.

        Files of other origin stay. Metrics and thresholds, which cover all machines, go first: a
        mixture of old and new is never complete.
        """
        manifest = self._documents.manifest
        gone = [path for path in manifest.files() if doomed(path, manifest.require(path))]
        if not gone:
            return
        self._delete_metrics()
        atomic.delete(self.thresholds)
        embedded = [path for path in manifest.files() if path.parent.parent == self._embeddings]
        for path in gone:  # a file that was changed, or never written here, is not deleted
            if present(path) and digest(path) == manifest.require(path)["content"]:
                atomic.delete(path)
        left = {path.stem for path in embedded if present(path)}
        for machine in {path.stem for path in embedded} - left:
            diagnostics = self.diagnostics_path(machine)
            if present(diagnostics) and _is_diagnostics(diagnostics):
                atomic.delete(diagnostics)
        for folder in self._embeddings.glob("*/"):
            with contextlib.suppress(OSError):  # only an empty folder can be removed
                folder.rmdir()
        manifest.keep(lambda path, record: path not in gone)

    # artefacts

    def is_current(self, path: Path, made_from: str) -> bool:
        """Whether a file is unchanged since it was written, and was made from these inputs."""
        return self._documents.manifest.is_current(path, made_from)

    def write_artefact(self, path: Path, content: bytes, made_from: str) -> None:
        """Write a result and record the fingerprint of its inputs."""
        self.write_artefacts({path: (content, made_from)})

    def write_artefacts(self, results: Mapping[Path, tuple[bytes, str]]) -> None:
        """Write results that were made together, and record the fingerprints of their inputs."""
        self._documents.manifest.write(results, self.marks())

    # pseudo-labels

    def pseudo_labels(self, made_from: str) -> dict[str, str] | None:
        """The stored classes of the training clips by path; None unless made from these inputs."""
        if not self.is_current(self._pseudo_labels, made_from):
            return None
        with user_files.open_regular(self._pseudo_labels) as file:
            text = file.read().decode()
        return {row["path"]: row["class"] for row in csv.DictReader(io.StringIO(text, newline=""))}

    def write_pseudo_labels(self, classes: Mapping[str, str], made_from: str) -> None:
        """Store the classes of the training clips."""
        if not self.is_current(self._pseudo_labels, made_from):
            rows = [{"path": path, "class": name} for path, name in sorted(classes.items())]
            self.write_artefact(self._pseudo_labels, csv_bytes(rows), made_from)

    # embeddings and scores

    def embeddings_path(self, view: str, machine: str) -> Path:
        """The file of a machine's embeddings of a view."""
        return self._embeddings / _plain(view) / f"{_plain(machine)}.npz"

    def scores_path(self, machine: str) -> Path:
        """The file of a machine's anomaly scores."""
        return self.path / "scores" / f"{_plain(machine)}.csv"

    def diagnostics_path(self, machine: str) -> Path:
        """The file that compares the channels of a machine's clips."""
        return self.path / "diagnostics" / f"{_plain(machine)}.csv"

    def foreign_files(self) -> list[Path]:
        """Files in the run directory that no command of asdjax writes, sorted."""
        recorded: list[Path] = []
        with contextlib.suppress(ArtifactError):  # an invalid record names no file
            recorded = RunDocuments(self.path).manifest.files()
        ours = {*recorded, *(self.diagnostics_path(path.stem) for path in recorded)}
        ours |= {self.path / ".lock", self._machines}
        ours |= {self.metrics / "metrics.json", self.metrics / "metrics.csv"}
        ours |= {self._config, self._training, self._log, self._artefacts, self.thresholds}
        ours |= {self._pseudo_labels, self.selection}
        ours |= {*event_files.ours(self.path / event_files.FOLDER)}
        for step in self.checkpoints.glob("*"):
            if step.name.isdecimal():
                ours |= checkpoint_files(step)
        return atomic.foreign(self.path, ours)

    def embedding_recipes(self) -> dict[View, str]:
        """Fingerprints of everything but the clips that each view's embeddings depend on."""
        config, training = self.config(), self.finished_training()
        digests = training["digest"], training.get("frozen")
        settled = configs.settings(config, ("audio", "model"))
        return {
            view: fingerprint(__version__, digests, configs.to_tree(view), settled)
            for view in config.extract.views
        }

    def begin_extraction(self, expected: Mapping[Path, str]) -> None:
        """Record which machines will be embedded, and delete the results of all others.

        Args:
            expected: file of embeddings -> fingerprint of its inputs.
        """
        machines = sorted({path.stem for path in expected})
        listed = {self._machines: self._listed(machines)}
        made_from = {**expected, **listed}

        def outdated(path: Path, record: Record) -> bool:
            if path.is_relative_to(self._embeddings):
                return record["made_from"] != made_from.get(path)
            return path.parent == self.path / "scores" and path.stem not in machines

        self._delete_results(outdated)
        if not self.is_current(self._machines, listed[self._machines]):
            self.write_artefact(self._machines, json_bytes(machines), listed[self._machines])

    def machines(self) -> list[str]:
        """The machines of a finished extraction.

        Raises:
            AsdjaxError: extraction has not finished, or its configuration or weights have changed.
        """
        self.finished_training()
        machines, manifest = self._stated_machines(), self._documents.manifest
        if machines and not present(self._artefacts):
            raise ArtifactError(
                f"{self._artefacts}: missing record of results: run {self.remake()} again"
            )
        if machines and not manifest.is_current(self._machines, self._listed(machines)):
            raise ArtifactError(
                f"{self._machines}: missing, changed since extraction, or of another choice of "
                f"machines (section dataset of config.yaml): run {self.remake()} again"
            )
        precisions = set()
        for view, recipe in self.embedding_recipes().items() if machines else ():
            for machine in machines:
                path = self.embeddings_path(view.name, machine)
                record = manifest.record(path) or {"made_from": ""}
                made_from = MadeFrom.parse(record["made_from"])
                if made_from is None or made_from.recipe != recipe or not present(path):
                    machines = []
                else:
                    precisions.add(made_from.precision)
        if not machines or len(precisions) > 1:
            raise ArtifactError(
                f"{self.path}: no embeddings, or not of all machines with the current "
                f"configuration: run {self.remake()} first"
            )
        return machines

    def _listed(self, machines: Sequence[str]) -> str:
        """The fingerprint of a list of machines and of the settings that choose them."""
        return fingerprint(list(machines), configs.to_tree(self.config())["dataset"])

    def precision(self) -> str:
        """The `compute_dtype` in which the embeddings of a finished extraction were computed."""
        return self.made_from()[self.machines()[0]].precision

    def made_from(self) -> dict[str, MadeFrom]:
        """What each machine's embeddings were made from, after a finished extraction.

        All views have the same clips and precision; `recipe` is that of the first view.
        """
        view, result = self.config().extract.view_names[0], {}
        for machine in self.machines():
            record = self._documents.manifest.record(self.embeddings_path(view, machine))
            made_from = MadeFrom.parse(record["made_from"]) if record else None
            assert made_from is not None, "else machines() raises"
            result[machine] = made_from
        return result

    def remake(self) -> str:
        """The command that makes the embeddings again: extract, or combine for a combination."""
        if self.config().model.embeds:
            return f"asdjax extract {self.path}"
        members = (self.training() or {}).get(COMBINED, ("RUN", "RUN"))
        return shlex.join(["asdjax", "combine", *members, "--out", str(self.path), "--overwrite"])

    def _stated_machines(self) -> list[str]:
        remedy = f"delete it and run {self.remake()} again"
        machines = read_json(self._machines, remedy) if present(self._machines) else []
        if not isinstance(machines, list) or not all(type(name) is str for name in machines):
            raise ArtifactError(f"{self._machines}: not a list of machines: {remedy}")
        return machines

    def scores_made_from(self, machine: str) -> str:
        """The fingerprint of everything that a machine's scores depend on."""
        config, manifest = self.config(), self._documents.manifest
        embeddings = [
            manifest.record(self.embeddings_path(view, machine))
            for view in config.extract.view_names
        ]
        chosen = configs.settings(config, ("backend", "decision"))
        recipes = list(self.embedding_recipes().values())
        return fingerprint(__version__, chosen, config.extract.view_names, recipes, embeddings)

    def write_thresholds(self, document: Mapping[str, Any]) -> None:
        """Store the thresholds and false alarms of all machines."""
        made_from = self._thresholds_made_from(self.machines())
        if not self.is_current(self.thresholds, made_from):
            self.write_artefact(self.thresholds, json_bytes(document), made_from)

    def scored_machines(self) -> list[str]:
        """The machines of a finished scoring; `AsdjaxError` unless thresholds.json is current."""
        machines = self.machines()
        if not self.is_current(self.thresholds, self._thresholds_made_from(machines)):
            raise ArtifactError(
                f"{self.thresholds}: missing, changed, or of other scores: run asdjax score "
                f"{self.path}"
            )
        return machines

    def _thresholds_made_from(self, machines: Sequence[str]) -> str:
        return fingerprint([self.scores_made_from(machine) for machine in machines])

    def write_embeddings(self, tables: Mapping[Path, tuple[Embeddings, str]]) -> None:
        """Store embeddings that were made together; equal arrays give equal bytes.

        Args:
            tables: file -> embeddings and fingerprint of their inputs.
        """
        contents = {}
        for path, (table, made_from) in tables.items():
            contents[path] = table.to_bytes(), made_from
        self.write_artefacts(contents)

    def read_embeddings(self, view: str, machine: str) -> Embeddings:
        """A machine's embeddings of a view; `AsdjaxError` if the file is missing or changed."""
        path = self.embeddings_path(view, machine)
        changed = ArtifactError(
            f"{path}: missing or changed since extraction: run {self.remake()} again"
        )
        record = self._documents.manifest.record(path)
        if record is None or record["content"] != digest(path):
            raise changed
        with user_files.open_regular(path) as file:
            table = Embeddings.read(file)
        if table is None:
            raise changed
        return table

    def write_diagnostics(self, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store the comparison of a machine's channels; without rows, delete the file."""
        path = self.diagnostics_path(machine)
        if present(path) and not _is_diagnostics(path):
            raise ArtifactError(f"{path}: not written by asdjax: move it away")
        if not rows:
            atomic.delete(path)
        elif not present(path) or digest(path) != content_digest(csv_bytes(rows)):
            atomic.write_bytes(path, csv_bytes(rows))

    def write_scores(self, machine: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store a machine's scores, and delete the metrics of earlier ones."""
        folder = self.scores_path(machine).parent
        if folder.is_dir():
            atomic.require_writable(folder)
        self._delete_metrics()
        made_from = self.scores_made_from(machine)
        self.write_artefact(self.scores_path(machine), csv_bytes(rows), made_from)

    def _delete_metrics(self) -> None:
        for name in "metrics.json", "metrics.csv":
            atomic.delete(self.metrics / name)

    def has_scores(self, machine: str) -> bool:
        """Whether a machine's scores are up to date with its embeddings and the configuration."""
        return self.is_current(self.scores_path(machine), self.scores_made_from(machine))

    def embeddings_version(self) -> str:
        """A digest of all embeddings of a finished extraction."""
        views, records = self.config().extract.view_names, self._documents.manifest.record
        paths = [self.embeddings_path(view, m) for m in self.machines() for view in views]
        return fingerprint([records(path) for path in paths])

    def scores_version(self) -> str:
        """A digest of all scores, to detect that another process has changed them."""
        records = self._documents.manifest.record
        return fingerprint([records(self.scores_path(machine)) for machine in self.machines()])

    def read_scores(self, machine: str) -> list[dict[str, str]]:
        """The rows of a machine's scores, as text by column; `AsdjaxError` if not up to date."""
        path, made_from = self.scores_path(machine), self.scores_made_from(machine)
        record = self._documents.manifest.record(path)
        content = b""
        if record is not None and present(path):
            with user_files.open_regular(path) as file:
                content = file.read()
        if (
            record is None
            or record["made_from"] != made_from
            or record["content"] != content_digest(content)
        ):
            raise ArtifactError(
                f"{path}: missing, changed, or of other embeddings or another backend: run "
                f"asdjax score {self.path}"
            )
        remedy = f"delete the file and run asdjax score {self.path}"
        return scores.parse(path, content, self.config().extract.view_names, remedy)


@contextlib.contextmanager
def snapshots(all_runs: Iterable[Run]) -> Iterator[None]:
    """Snapshots of several runs, see `Run.snapshot`."""
    with contextlib.ExitStack() as stack:
        for run in all_runs:
            stack.enter_context(run.snapshot())
        yield


def _is_diagnostics(path: Path) -> bool:
    """Whether a file has the header of those that compare channels."""
    with user_files.open_regular(path) as file:
        return file.readline(2**16).startswith(",".join(scores.CLIP_COLUMNS).encode() + b",")


def _plain(name: str) -> str:
    """The name of a machine or a view, checked to be a file name without a folder."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ArtifactError(f"{name!r}: not the name of a machine or a view: not a plain file name")
    return name
