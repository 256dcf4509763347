"""Combination: the scores of several runs in, a run that scores by all of them out; no jax."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from asdjax._version import __version__
from asdjax.challenge import meta_yaml
from asdjax.config import recipe as configs
from asdjax.config.recipe import Config, ExtractConfig, differences
from asdjax.errors import ArtifactError, AsdjaxError, DataError
from asdjax.files import atomic
from asdjax.files.documents import fingerprint
from asdjax.models.member_scores_encoder import DESCRIBED, MemberScores
from asdjax.runtime import console
from asdjax.scoring.combined_scores import CombinedScores
from asdjax.store.embeddings import Embeddings, MadeFrom
from asdjax.store.run_documents import LATER_SECTIONS
from asdjax.store.runs import COMBINED, Run, snapshots
from asdjax.store.scores import CLIP_COLUMNS

How = Literal["mean", "minimum", "maximum", "rank"]
Rows = list[dict[str, str]]


def combine(
    members: Sequence[Run],
    folder: Path,
    how: How,
    *,
    overwrite: bool = False,
) -> Run:
    """Write a run whose embeddings are the members' scores, to be scored like any other run.

    Args:
        members: two or more scored runs with the same clips.
        folder: the run directory to create; if it combines the same scores, nothing is written.
        how: see `CombinedScores`.
        overwrite: whether an earlier combination may be replaced; its decision is kept.

    Raises:
        AsdjaxError: the members' scores are outdated, or are not of the same clips; two are the
            same run; or the folder exists.
    """

    def check() -> None:
        atomic.require_result(folder, overwrite, ours=_is_combined)
        atomic.refuse_foreign(Run(folder).foreign_files(), "--overwrite")

    names = [run.path.resolve().name for run in members]
    if len(set(names)) < len(names):
        names = ["/".join(run.path.resolve().parts[-2:]) for run in members]
    if len({run.path.resolve() for run in members}) < len(members):
        raise DataError("a run is named twice: name each once")
    with snapshots(members):
        tables = {machine: _scores(members, machine) for machine in _machines(members)}
        config = _config(members, names, tables, how)
        earlier = Run(folder).config() if _is_combined(folder) else None
        if earlier is not None and _equal(earlier, config) and _is_whole(Run(folder)):
            console.say(f"{folder}: combines these scores already")
            return Run(folder)
        if earlier is not None:
            config = dataclasses.replace(config, decision=earlier.decision)
    with atomic.whole_folder(folder, check) as partial, snapshots(members):
        first = members[0]
        run = Run(partial)
        run.write_config(config)
        run.write_training(_training(members, config))
        made_from = {run.embeddings_path("raw", m): _made_from(run, members, m) for m in tables}
        run.begin_extraction({path: str(of) for path, of in made_from.items()})
        run.write_embeddings(
            {
                path: (_embeddings(tables[path.stem], first, path.stem), str(of))
                for path, of in made_from.items()
            }
        )
    if earlier is not None and (changed := differences(earlier, config, LATER_SECTIONS)):
        console.say(f"{folder}: changed by this command: {'; '.join(changed)}")
    return Run(folder)


def _is_combined(folder: Path) -> bool:
    return COMBINED in (Run(folder).training() or {})


def _is_whole(run: Run) -> bool:
    """Whether the embeddings of a combination are as they were written."""
    try:
        for machine in run.machines():
            run.read_embeddings("raw", machine)
    except AsdjaxError:
        return False
    return True


def _equal(one: Config, other: Config) -> bool:
    """Whether two configurations combine the same scores in the same way."""
    return (one.model, one.backend) == (other.model, other.backend)


def _machines(members: Sequence[Run]) -> list[str]:
    """The machines that all members have scored; others are an error."""
    machines = members[0].scored_machines()
    for run in members[1:]:
        if (others := run.scored_machines()) != machines:
            raise DataError(
                f"{run.path}: scored {', '.join(others)}, but {members[0].path} "
                f"{', '.join(machines)}: combine runs of the same machines"
            )
    return machines


def _scores(members: Sequence[Run], machine: str) -> list[Rows]:
    """The rows of each member, all of the same clips."""
    tables = [run.read_scores(machine) for run in members]
    clips = [[[row[name] for name in CLIP_COLUMNS] for row in table] for table in tables]
    for run, others in zip(members, clips, strict=True):
        if others != clips[0]:
            raise DataError(
                f"{run.path}: scored other clips of {machine} than {members[0].path}: combine runs "
                "of the same data set"
            )
        if _files(run, machine) != _files(members[0], machine):
            raise DataError(
                f"{run.path}: the clips of {machine} have other contents than those of "
                f"{members[0].path}: combine runs of the same data set"
            )
    return tables


def _files(run: Run, machine: str) -> tuple[str, str]:
    """Fingerprints of the training and test clips."""
    made_from = run.made_from()[machine]
    return made_from.train, made_from.test


def _config(
    members: Sequence[Run],
    names: Sequence[str],
    tables: Mapping[str, Sequence[Rows]],
    how: How,
) -> Config:
    """The configuration of the combination; of members' scores it has the digests."""
    scores = {m: [[r["score"] for r in rows] for rows in of] for m, of in tables.items()}
    of_members = [run.config() for run in members]
    described = [
        meta_yaml.describe(config, run.finished_training()["classes"])
        for config, run in zip(of_members, members, strict=True)
    ]
    texts = {key: dict.fromkeys(of[key] for of in described if of[key]) for key in DESCRIBED}
    model = MemberScores(
        members=tuple(names),
        methods=tuple(str(of["machine_learning_method"]) for of in described),
        scores=tuple(fingerprint([of[i] for of in scores.values()]) for i in range(len(members))),
        random_init=any(config.model.for_tests_only for config in of_members),
        **{key: "; ".join(found) for key, found in texts.items()},
    )
    first = of_members[0]
    return dataclasses.replace(
        Config(),
        seed=first.seed,
        dataset=first.dataset,
        audio=first.audio,
        model=model,
        extract=ExtractConfig(),
        backend=CombinedScores(combine=how),
        decision=first.decision,
    )


def _training(members: Sequence[Run], config: Config) -> dict[str, object]:
    """A training record: nothing was trained, and the classes are those of all members."""
    records = [run.finished_training() for run in members]
    return {
        "classes": sorted({name for record in records for name in record["classes"]}),
        "n_samples": records[0]["n_samples"],
        "steps": 0,
        "step": 0,
        "seed": config.seed,
        "sample_rate": config.audio.sample_rate,
        "data": records[0]["data"],
        COMBINED: [str(run.path.absolute()) for run in members],
        "versions": {"asdjax": __version__},
        "config": configs.to_tree(config),
        "parameters": sum(record.get("parameters", 0) for record in records),
        "trained_parameters": sum(record.get("trained_parameters", 0) for record in records),
        "digest": fingerprint([run.scores_version() for run in members]),
        "frozen": None,
    }


def _made_from(run: Run, members: Sequence[Run], machine: str) -> MadeFrom:
    (recipe,) = run.embedding_recipes().values()
    precisions = {member.made_from()[machine].precision for member in members}
    first = members[0].made_from()[machine]
    return dataclasses.replace(first, recipe=recipe, precision=" ".join(sorted(precisions)))


def _embeddings(tables: Sequence[Rows], first: Run, machine: str) -> Embeddings:
    """The clips of the first member, with the members' scores as embeddings."""
    known = first.read_embeddings(first.config().extract.view_names[0], machine)
    if known.path.tolist() != [row["path"] for row in tables[0]]:
        raise ArtifactError(
            f"{first.path}: its scores and embeddings are of other clips: run asdjax score "
            f"{first.path}"
        )
    scores = np.array([[float(row["score"]) for row in table] for table in tables])
    unknown = np.full(len(known.path), np.nan, np.float32)
    return dataclasses.replace(
        known,
        embedding=scores.T,
        **dict.fromkeys(("gain", "level_db", "correlation", "lag"), unknown),
        silent=np.zeros((len(known.path), 2), bool),
        calibration=np.empty((2, 0), np.float32),
    )
