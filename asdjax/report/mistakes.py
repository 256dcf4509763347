"""The worst misses and false alarms of a section, to look at and listen to."""

import numpy as np

from asdjax.data import audio
from asdjax.data.dcase import attributes_of
from asdjax.errors import AsdjaxError
from asdjax.report import facts, figures
from asdjax.report.clip_sounds import ClipSounds
from asdjax.report.parts import Figure, Item, Row, Section, Sound, Text
from asdjax.runtime import console


def cards(of: facts.Section, sounds: ClipSounds | None, shown: int) -> list[Section]:
    """The misses with the lowest scores, and the false alarms with the highest.

    Of clips without labels: the alarms with the highest scores.

    Args:
        of: the clips.
        sounds: of the clips; None: they are not shown.
        shown: how many of each.
    """
    margin = of.score - of.threshold
    kinds: list[tuple[str, np.ndarray, np.ndarray]] = [
        ("missed", of.test & (of.label == "anomaly") & (margin <= 0), margin),
        ("false alarm", of.test & (of.label == "normal") & (margin > 0), -margin),
        ("alarm of unknown label", of.test & (of.label == "") & (margin > 0), -margin),
    ]
    result = []
    for what, mask, order in kinds:
        candidates = np.flatnonzero(mask)
        for i in candidates[np.argsort(order[candidates], kind="stable")][:shown]:
            result.append(_card(what, of, int(i), sounds))
    return result


def _card(what: str, of: facts.Section, i: int, sounds: ClipSounds | None) -> Section:
    path, nearest = str(of.path[i]), str(of.path[of.nearest[i]])
    views = "; ".join(f"{view} {values[i]:.3g}" for view, values in of.views.items())
    words = f"Score {of.score[i]:.3g}, threshold {of.threshold:.3g}. "
    words += f"Domain: {of.domain[i] or 'unknown'}."
    if attributes := console.printable(attributes_of(path)):
        words += f" Attributes: {attributes}."
    if len(of.views) > 1:
        words += f" Scores of the views: {views}."
    items: list[Item | Row] = [Text(words)]
    if sounds is not None:
        try:
            items += _shown(path, nearest, of.machine, sounds)
        except AsdjaxError as error:
            items.append(Text(f"The recording cannot be shown: {error}"))
    return Section(f"{what}: {console.printable(path)}", items)


def _shown(path: str, nearest: str, machine: str, sounds: ClipSounds) -> list[Item | Row]:
    """Spectrograms and players of a clip and of the most similar normal one."""
    one, other, rate = sounds.read(machine, path), sounds.read(machine, nearest), sounds.rate
    words = f"most similar normal clip: {console.printable(nearest)}"
    return [
        Figure(
            figures.spectrograms(one, other, rate),
            "levels; difference: red where this clip is louder, blue where it is softer",
            long=True,
        ),
        Row([
            Sound(audio.to_mp3(one, rate), console.printable(path)),
            Sound(audio.to_mp3(other, rate), words),
        ]),
    ]  # fmt: skip
