"""Selection: a run's embeddings in, a backend for each machine out, without anomalies; no jax."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from asdjax.config import registry, schema
from asdjax.config.interfaces import Backend
from asdjax.config.recipe import Config
from asdjax.data.dcase import attributes_of
from asdjax.errors import AsdjaxError, ConfigError, DataError
from asdjax.files.documents import json_bytes
from asdjax.runtime import console
from asdjax.scoring import of_views, selection
from asdjax.scoring.chosen import Chosen
from asdjax.scoring.selection import Bank, Scorer
from asdjax.store.embeddings import Embeddings
from asdjax.store.runs import Run

SCHEMA = "asdjax.selection/1"
BACKENDS = ("nearest_neighbours", "local_density", "variance_minimised", "standardised_domains")
"""Those that are tried unless others are named."""


def select(
    run: Run,
    *,
    names: Sequence[str] = BACKENDS,
    kinds: Sequence[str] = selection.KINDS,
    seed: int = 0,
    store: bool = True,
) -> dict[str, Any]:
    """Choose a backend, and a part of the embedding, for each machine and section.

    The choice goes into the run's config.yaml, which `score` follows, the evidence into
    selection.json. Test clips are not used.

    Args:
        run: with embeddings.
        names: of the backends to try, with their default settings.
        kinds: of pseudo-anomalies, see `selection.KINDS`.
        seed: of the draws.
        store: false: change nothing.

    Returns:
        The document of selection.json.

    Raises:
        AsdjaxError: there are no embeddings, no pseudo-anomalies are possible, or no candidate can
            be fitted to some machine.
    """
    with run.lock(existing=True):
        config = run.config()
        if not config.model.embeds:
            raise ConfigError(
                f"{run.path}: model.name {config.model.name}: there is one backend only, and "
                "nothing to choose"
            )
        tried = candidates(config, names)
        banks = banks_of(run, config)
        sections: dict[str, Any] = {}
        members: list[Backend] = []
        with console.progress("selecting", len(banks), "machines", minor=True) as advance:
            for place, bank in banks.items():
                others = [b.views for p, b in banks.items() if p[0] != place[0]]
                trials = list(selection.trials(bank, others, kinds, seed))
                name = "/".join(place)
                if not trials:
                    raise DataError(
                        f"{name}: no pseudo-anomalies of the kinds {', '.join(kinds)}: name others"
                    )
                found = [outcome(candidate, config, trials) for candidate in tried]
                possible = {i: of.evidence for i, of in enumerate(found) if of.evidence}
                if not possible:
                    raise DataError(
                        f"{name}: no candidate can be fitted to its training clips: add clips, or "
                        "name other --backends"
                    )
                best = list(possible)[selection.best([*possible.values()])]
                members.append(tried[best])
                sections[name] = {
                    "chosen": best,
                    "evidence": [of.evidence for of in found],
                    "equal_to": _equal_to(found),
                    "notes": [list(of.notes) for of in found],
                }
                advance(1, name)
        document = {
            "schema": SCHEMA,
            "kinds": list(kinds),
            "seed": seed,
            "candidates": [schema.to_tree(candidate) for candidate in tried],
            "sections": sections,
            **run.marks(),
        }
        if store:
            chosen = Chosen(
                combine_views=config.backend.combine_views,
                sections=tuple(sections),
                members=tuple(members),
            )
            run.write_config(dataclasses.replace(config, backend=chosen))
            run.write_artefact(run.selection, json_bytes(document), run.embeddings_version())
    return document


def candidates(config: Config, names: Sequence[str]) -> list[Backend]:
    """The backends to try, with their default settings, on every part of the embedding."""
    parts = config.model.embedding_parts
    found: dict[Backend, None] = {}
    for part in parts or (None,):
        for name in names:
            combine_views = config.backend.combine_views
            backend = registry.find("backend", name)(combine_views=combine_views)
            for bands in ("each", "joined") if part and part.bands > 1 else ("each",):
                of_part = part.name if part and len(parts) > 1 else None
                found[dataclasses.replace(backend, bands=bands, part=of_part)] = None
    return list(found)


def words(document: dict[str, Any]) -> list[str]:
    """A line for each machine: the choice, its evidence, and that of the first candidate.

    Lines on candidates follow: the notes of their fits, once if all have them, and which rank the
    clips as others do.
    """
    labels = [_label(tree) for tree in document["candidates"]]
    lines, about = [], dict[str, list[str]]()
    for name, of in document["sections"].items():
        evidence, shared = of["evidence"], set.intersection(*map(set, of["notes"]))
        for note in sorted(shared):
            about.setdefault(note, []).append(name)
        for label, equal, notes in zip(labels, of["equal_to"], of["notes"], strict=True):
            said = [] if equal is None else [f"ranks all clips as {labels[equal]} does"]
            for words in said + [note for note in notes if note not in shared]:
                about.setdefault(f"{label}: {words}", []).append(name)
        kinds = ", ".join(f"{k} {100 * v:.1f}" for k, v in evidence[of["chosen"]].items())
        before = evidence[0] and f"; {100 * np.mean(list(evidence[0].values())):.1f} for the first"
        mean = 100 * np.mean(list(evidence[of["chosen"]].values()))
        lines.append(
            f"{name}: {labels[of['chosen']]}: AUC of pseudo-anomalies {mean:.1f} "
            f"({kinds}{before or ''})"
        )
    return lines + [f"{', '.join(names)}: {words}" for words, names in about.items()]


def _label(tree: Any) -> str:
    """A candidate in words: its name, and its part and bands."""
    settings = {"name": tree} if isinstance(tree, str) else tree
    shown = [f"{key} {settings[key]}" for key in ("part", "bands") if settings.get(key)]
    return " ".join([settings["name"], *shown])


def banks_of(run: Run, config: Config) -> dict[tuple[str, str], Bank]:
    """The training clips of each machine and section."""
    banks = {}
    for machine in run.machines():
        tables = [run.read_embeddings(view, machine) for view in config.extract.view_names]
        for section in np.unique(tables[0].section):
            banks[machine, str(section)] = _bank(tables, section)
    return banks


def _bank(tables: Sequence[Embeddings], section: str) -> Bank:
    first = tables[0]
    train = (first.section == section) & (first.split == "train")
    return Bank(
        [table.embedding[train] for table in tables],
        first.domain[train] == "target",
        tuple(attributes_of(path) for path in first.path[train]),
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the trials of a machine and section say of a candidate."""

    evidence: dict[str, float] | None
    """The AUCs by kind; None if it cannot be fitted to these clips."""
    notes: tuple[str, ...] = ()
    """Of the fit to the largest bank."""
    ranks: tuple[bytes, ...] = ()
    """The ranks of all clips in each trial."""


def outcome(candidate: Backend, config: Config, trials: Sequence[selection.Trial]) -> Outcome:
    """Try a candidate; one that cannot be fitted is named."""
    parts, notes, ranks = config.model.embedding_parts, dict[int, tuple[str, ...]](), list[bytes]()

    def scorer(bank: Any, is_target: Any, anomalies: Any) -> selection.Scores:
        found = of_views.score(candidate, parts, bank, is_target, anomalies)
        left_out, new = found.combined.left_out, found.combined.new
        notes.setdefault(len(is_target), found.notes)
        ranks.append(stats.rankdata(np.concatenate([left_out, new])).tobytes())
        return left_out, new

    as_scorer: Scorer = scorer
    try:
        evidence = selection.evidence(as_scorer, trials)
    except AsdjaxError as error:
        console.say(f"{candidate.name} is not tried: {error}")
        return Outcome(None)
    return Outcome(evidence, notes[max(notes)], tuple(ranks))


def _equal_to(found: Sequence[Outcome]) -> list[int | None]:
    """For each candidate the first one before it that ranks all clips alike, or None."""
    equal: list[int | None] = []
    for i, of in enumerate(found):
        alike = (j for j in range(i) if of.evidence and found[j].ranks == of.ranks)
        equal.append(next(alike, None))
    return equal
