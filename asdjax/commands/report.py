"""Reports: runs and detectors in, one page of HTML out."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from asdjax.challenge import submission
from asdjax.detector.detector import Detector
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic
from asdjax.report import facts, of_detector, of_run, of_runs, page
from asdjax.report.facts import Facts
from asdjax.report.parts import Section
from asdjax.runtime import console
from asdjax.store.detector_file import SUFFIX
from asdjax.store.runs import Run


def report(
    sources: Sequence[Path],
    out: Path,
    *,
    data: Path | None = None,
    truth: Path | None = None,
    log: Path | None = None,
    embedder: Path | None = None,
    method: Literal["pca", "umap"] = "pca",
    overwrite: bool = False,
) -> None:
    """Write a page on runs and detectors.

    Args:
        sources: run directories, and files of detectors.
        out: the page, whose name ends in .html.
        data: root of the runs' data set, if it has moved since training.
        truth: folder with ground_truth_data and ground_truth_domain, for clips whose names state
            neither label nor domain.
        log: of `asdjax watch`; its last predictions are shown with the detector.
        embedder: where the detector's run or converted weights are, if they have moved.
        method: of the maps of embeddings.
        overwrite: whether to replace an existing page.

    Raises:
        AsdjaxError: a run has no current scores, a detector cannot be read, or the page cannot be
            written.
    """
    page.require_libraries()
    if not sources:
        raise UsageError("nothing to report: name run directories or detectors (.asd)")
    if out.suffix not in (".html", ".htm"):
        raise UsageError(f"{out}: the name of a report must end in .html")
    atomic.require_free(out, overwrite)
    detectors = [
        source for source in sources if source.suffix == SUFFIX and not os.path.isdir(source)
    ]
    for option, value in (("log", log), ("embedder", embedder)):
        if value is not None and len(detectors) != 1:
            raise UsageError(f"--{option}: is of one detector: name one")
    for option, given in (("data", data), ("truth", truth), ("map", method != "pca" or None)):
        if given is not None and len(detectors) == len(sources):
            raise UsageError(f"--{option}: is of runs, and none is named: omit it")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ArtifactError("--map umap needs umap-learn: pip install 'asdjax[umap]'")
    known = None if truth is None else submission.read_truth(truth)
    parts: list[tuple[Path, Sequence[Section]]] = []
    runs: list[Facts] = []
    for source in sources:
        if source in detectors:
            parts.append(
                (source, of_detector.sections(Detector.load(source, embedder=embedder), log))
            )
        elif os.path.isdir(source):
            console.say(f"{source}: reading")
            runs.append(facts.read(Run(source), known, method))
            parts.append((source, of_run.sections(runs[-1], data)))
        else:
            raise ArtifactError(
                f"{source}: neither a run directory nor a detector (.asd): name one of them"
            )
    title = f"asdjax: {', '.join(console.printable(str(source)) for source, _ in parts)}"
    sections = list(parts[0][1])
    if len(parts) > 1:
        sections = [of_runs.comparison_of(runs)] if len(runs) > 1 else []
        sections += [Section(str(source), sections=found) for source, found in parts]
    content = page.render(title, sections).encode(errors="backslashreplace")
    atomic.write_bytes(out, content, overwrite=overwrite)
    size = len(content)
    console.say(f"{out}: {size / 1e6:.1f} MB" if size >= 1e6 else f"{out}: {size / 1e3:.0f} kB")
