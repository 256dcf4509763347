"""Explanation: why recordings have their scores, as text, JSON and pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from asdjax.data import sound_search
from asdjax.detector.detector import Detector
from asdjax.detector.explanation import Area, Explanation
from asdjax.errors import AsdjaxError
from asdjax.files import atomic
from asdjax.runtime import console

_MEMBERS = 3  # that are printed


def explain(
    detector: Detector,
    inputs: Sequence[Path],
    *,
    as_json: bool = False,
    png: Path | None = None,
    overwrite: bool = False,
) -> int:
    """Print why recordings have their scores.

    Args:
        detector: a fitted detector.
        inputs: sound files, and folders to search for them.
        as_json: print a JSON document per line (`Explanation.document`) instead of text.
        png: folder for a picture per recording, or None.
        overwrite: whether to replace pictures.

    Returns:
        The exit code: 1 if a recording could not be scored.

    Raises:
        AsdjaxError: a folder has no sound files, or a picture exists or cannot be written.
    """
    files = sound_search.files(inputs, "explain")
    pictures: Sequence[Path | None] = [None] * len(files)
    if png is not None:
        from asdjax.report import figures

        pictures = figures.picture_paths(png, files, overwrite)
    failures = 0
    with console.progress("explaining", len(files), "recordings", minor=True) as advance:
        for file, picture in zip(files, pictures, strict=True):
            advance(1, "")
            try:
                (why,) = detector.explain(file)
            except AsdjaxError as error:
                console.say_always(str(error))
                failures += 1
                continue
            document = json.dumps(why.document(), allow_nan=False) if as_json else _text(why)
            print(document, flush=True)
            if picture is not None:
                atomic.write_bytes(picture, figures.explanation_png(why), overwrite=overwrite)
    if png is not None:
        count = len(files) - failures
        console.say(f"{png}: {count} picture{'s' * (count != 1)}")
    return int(failures > 0)


def _text(why: Explanation) -> str:
    found = why.prediction
    lines = [
        f"{console.printable(found.file)}: {'ALARM' if found.alarm else 'ok'}, score "
        f"{found.score:.2f}, threshold {found.threshold:.2f}"
    ]
    if found.windows > 1:
        lines[0] += f", worst of {found.windows} windows from {found.start:g} s"
    lines += [f"  {_area(area, why)}" for area in why.areas]
    members = sorted(why.members.items(), key=lambda item: -item[1])[:_MEMBERS]
    lines.append("  members: " + ", ".join(f"{name} {score:.1f}" for name, score in members))
    if found.nearest:
        nearest = found.nearest[0]
        name = console.printable(nearest.name)
        lines.append(f"  most similar: {name}" + (f" at {nearest.start:g} s" * (nearest.start > 0)))
    lines += [f"  note: {note}" for note in found.warnings]
    return "\n".join(lines)


def _area(area: Area, why: Explanation) -> str:
    hertz = why.map.hertz
    when = f"{area.start:.2f} to {area.end:.2f} s"
    if area.low < hertz[0] and area.high > hertz[-1]:
        where = "all frequencies"
    else:
        where = f"{area.low:.0f} to {area.high:.0f} Hz"
    louder = "louder" if area.deviations > 0 else "softer"
    return f"{when}, {where}: {louder} than normal by {abs(area.deviations):.1f} deviations"
