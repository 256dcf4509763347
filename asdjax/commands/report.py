"""Reports: runs and detectors in, one page of HTML out."""

from collections.abc import Sequence
from pathlib import Path

from asdjax.detector.detector import Detector
from asdjax.errors import ArtifactError, UsageError
from asdjax.files import atomic
from asdjax.report import of_detector, of_run, page
from asdjax.report.parts import Section
from asdjax.runtime import console
from asdjax.store.detector_file import SUFFIX
from asdjax.store.runs import Run


def report(
    sources: Sequence[Path], out: Path, *, data: Path | None = None, overwrite: bool = False
) -> None:
    """Write a page on runs and detectors.

    Args:
        sources: run directories, and files of detectors.
        out: the page, whose name ends in .html.
        data: root of the runs' data set, if it has moved since training.
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
    parts = []
    for source in sources:
        if source.suffix == SUFFIX and not source.is_dir():
            found = of_detector.sections(Detector.load(source))
        elif source.is_dir():
            found = of_run.sections(Run(source), data)
        else:
            raise ArtifactError(f"{source}: neither a run directory nor a detector (.asd)")
        parts.append((source, found))
    title = f"asdjax: {', '.join(console.printable(str(source)) for source, _ in parts)}"
    if len(parts) == 1:
        sections = parts[0][1]
    else:
        sections = [Section(str(source), sections=found) for source, found in parts]
    content = page.render(title, sections).encode(errors="backslashreplace")
    atomic.write_bytes(out, content, overwrite=overwrite)
    console.say(f"{out}: {len(content) / 1e6:.1f} MB")
