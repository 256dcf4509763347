"""Submission: scores and decisions of up to four runs in, the challenge's package out; no jax.

OUT/task2/<label>/...                       one folder per run, see submission.py
OUT/<Lastname>_<Institute>_task2.zip        the same files, for upload
OUT/expected.json                           the names of the test clips, for verification
"""

import dataclasses
import hashlib
import io
import os
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from asdjax.challenge import meta_yaml, submission, verification
from asdjax.challenge.submission import Key
from asdjax.data import dcase
from asdjax.data.editions import OWN
from asdjax.errors import ArtifactError, AsdjaxError
from asdjax.files import atomic, documents
from asdjax.runtime import console
from asdjax.scoring import averages, metrics
from asdjax.store.runs import Run, snapshots

SUBSETS = ("development", "evaluation")


@dataclasses.dataclass
class _Section:
    """The test clips of a machine's section, by base name."""

    evaluation: bool = True
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    decisions: dict[str, int] = dataclasses.field(default_factory=dict)
    truth: dict[str, tuple[bool, bool]] = dataclasses.field(default_factory=dict)
    """(is anomalous, is target domain) of the clips whose names state it."""


def submit(
    all_runs: Sequence[Run], info: Path, out: Path, subsets: tuple[str, ...] = SUBSETS
) -> Path:
    """Package the scores and decisions of runs as systems 1, 2, ... in the given order.

    Args:
        all_runs: up to four runs that scored the same clips.
        info: YAML file with the fields of `meta_yaml.Info`.
        out: folder to create. An earlier package is replaced, any other content is refused.
        subsets: the subsets whose machines are included; the challenge requires `evaluation`.

    Returns:
        The zip file.

    Raises:
        AsdjaxError: a run or `info` is incomplete or invalid; `out` is then unchanged.
    """
    if not 1 <= len(all_runs) <= submission.MAX_SYSTEMS:
        raise ArtifactError(f"{len(all_runs)} runs: submit 1 to {submission.MAX_SYSTEMS} of them")
    places = [run.path.resolve() for run in all_runs]
    for run, place in zip(all_runs, places, strict=True):
        if places.count(place) > 1:
            raise ArtifactError(f"{run.path}: named twice: name each run once")
    files: dict[str, bytes] = {}
    expected: dict[Key, set[str]] = {}
    with snapshots(all_runs):
        editions = {run.config().dataset.edition for run in all_runs}
        if len(editions) > 1:
            raise ArtifactError(
                f"the runs use {' and '.join(sorted(editions))}: submit one edition"
            )
        if OWN in editions:
            raise ArtifactError(
                f"{all_runs[0].path}: a run on data of your own (dataset.edition own): there is no "
                "challenge to submit it to"
            )
        about = meta_yaml.read_info(info, len(all_runs))
        corresponding = next(author for author in about.authors if author.corresponding)
        lastname = about.label_lastname or corresponding.lastname
        for i, run in enumerate(all_runs):
            label = submission.label(lastname, about.institute, i + 1)
            scored = _sections(run)
            chosen = {
                key: section
                for key, section in scored.items()
                if ("evaluation" if section.evaluation else "development") in subsets
            }
            if not chosen:
                other = " ".join({"development", "evaluation"} - set(subsets))
                raise ArtifactError(
                    f"{run.path}: none of its scored machines belongs to {' or '.join(subsets)}: "
                    f"score such machines, or give --subsets {other}"
                )
            _same_clips(all_runs[0], expected, run, chosen)
            _same_contents(all_runs[0], run, chosen)
            expected = {key: set(section.scores) for key, section in chosen.items()}
            folder = f"task2/{label}"
            for key, section in chosen.items():
                try:
                    scores = submission.score_bytes(section.scores)
                except AsdjaxError as error:
                    raise ArtifactError(f"{run.path}: {key[0]}: {error}: score it again") from error
                files[f"{folder}/{submission.score_file(key)}"] = scores
                decisions = submission.decision_bytes(section.decisions)
                files[f"{folder}/{submission.decision_file(key)}"] = decisions
            meta = meta_yaml.meta(run, about, i, label, _results(scored, run))
            text = yaml.safe_dump(meta, sort_keys=False, allow_unicode=True)
            files[f"{folder}/{label}.meta.yaml"] = text.encode()
    archive = f"{lastname}_{about.institute}_task2.zip"
    files[archive] = _zip_bytes(files)
    edition = editions.pop()
    document = verification.expected_document(expected, edition)
    replaced = _place(out, files, document, archive)
    if replaced:
        console.say(f"{out}: held an earlier package, which this one replaces")
    _compare_with_rules(out, edition)
    return out / archive


def _sections(run: Run) -> dict[Key, _Section]:
    """A run's scored test clips."""
    edition = run.config().dataset.edition
    sections: dict[Key, _Section] = {}
    for machine in run.scored_machines():
        for row in run.read_scores(machine):
            if row["split"] != "test":
                continue
            file = run.scores_path(machine)
            clip = dcase.parse_clip(row["path"], edition)
            section = sections.setdefault((machine, row["section"]), _Section())
            if clip.name in section.scores:
                raise ArtifactError(
                    f"{file}: two clips are named {clip.name}: a package needs unique names"
                )
            section.scores[clip.name] = float(row["score"])
            section.decisions[clip.name] = int(row["decision"])
            if row["label"] and row["domain"]:
                section.truth[clip.name] = row["label"] == "anomaly", row["domain"] == "target"
            section.evaluation &= clip.subset == "evaluation"
    return sections


def _same_clips(
    first: Run, expected: Mapping[Key, set[str]], run: Run, chosen: Mapping[Key, _Section]
) -> None:
    """Refuse a run that did not score the same clips as the first one."""
    if not expected:
        return
    for key in sorted({*expected, *chosen}):
        names = set(chosen[key].scores) if key in chosen else set()
        different = sorted(names ^ expected.get(key, set()))
        if different:
            raise ArtifactError(
                f"{run.path}: not the clips of {first.path}: {different[0]} of {key[0]} (and "
                f"{len(different) - 1} others) are in only one of them: score the same machines"
            )


def _same_contents(first: Run, run: Run, chosen: Collection[Key]) -> None:
    """Refuse a run whose test clips have other contents than the first one's."""
    from_first, from_run = first.made_from(), run.made_from()
    for machine, section in sorted(chosen):
        if from_first[machine].tests(section) != from_run[machine].tests(section):
            raise ArtifactError(
                f"{run.path}: its test clips of {machine} have other contents than those of "
                f"{first.path}, though equal names: score the same clips"
            )


def _results(scored: Mapping[Key, _Section], run: Run) -> dict[str, dict[str, float]]:
    """Official figures of the development machines, in per cent with two decimals."""
    results: dict[str, dict[str, float]] = {}
    for machine in sorted({m for (m, _), s in scored.items() if not s.evaluation}):
        tables = []
        for (name, _), section in sorted(scored.items()):
            if name == machine and section.truth:
                truth = np.array(list(section.truth.values()))
                values = np.array([section.scores[clip] for clip in section.truth])
                tables.append(metrics.figures(values, truth[:, 0], truth[:, 1])["official"])
        means = {
            figure: averages.harmonic_mean(table[figure] for table in tables)
            for figure in verification.FIGURES
        }
        if None in means.values():
            console.say(f"{run.path}: {machine}: too few labelled clips, left out of the results")
        else:
            results[machine] = {figure: round(100 * v, 2) for figure, v in means.items()}
    if not results:
        console.say(f"{run.path}: no labelled development machine: meta.yaml has no results")
    return results


def _zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A reproducible zip file: fixed times, and uncompressed because zlib versions differ."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def _place(out: Path, files: Mapping[str, bytes], document: dict[str, Any], archive: str) -> bool:
    """Write and verify everything under a hidden name, then rename it to `out`.

    Returns:
        Whether another package was there.
    """
    digests = {name: _digest(content) for name, content in files.items()}
    with atomic.whole_folder(out, lambda: _refuse_foreign(out)) as made:
        for name, content in files.items():
            if ".." in Path(name).parts or Path(name).is_absolute():
                raise ArtifactError(f"{out}: {name!r} is not a name in a package")
            atomic.write_bytes(made / name, content)
        record = made / verification.EXPECTED_FILE
        documents.write_json(record, {**document, "files": digests})
        earlier = out / verification.EXPECTED_FILE
        replaced = earlier.is_file() and earlier.read_bytes() != record.read_bytes()
        for path in (made, made / archive):
            _, faults = verification.verify(path)
            if faults:
                raise ArtifactError(f"{faults[0]}: nothing was written")
    return replaced


def _compare_with_rules(out: Path, edition: str) -> None:
    """Print why the challenge would refuse the package, if it would."""
    systems = [submission.read_system(path) for path in sorted((out / "task2").iterdir())]
    refusal = verification.against_rules(systems, edition)
    if refusal:
        console.say_always(f"{out}: matches its own data, but {refusal}")


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace anything but an unchanged earlier package."""
    if not os.path.lexists(out):
        return
    if not out.is_dir():
        raise ArtifactError(f"{out}: is a file: name a folder to create")
    out = Path(os.path.realpath(out))
    atomic.refuse_links(out)
    record = out / verification.EXPECTED_FILE
    document = documents.read_json(record) if record.is_file() else None
    written = document.get("files") if isinstance(document, dict) else None
    if not isinstance(written, dict):
        written = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path == record and written or path.is_dir():
            continue
        if written.get(name) != documents.digest(path):
            raise ArtifactError(
                f"{path}: not from asdjax submit, or changed since: name another folder, or move "
                "this one away"
            )


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
