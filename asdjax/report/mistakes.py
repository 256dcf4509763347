"""The worst misses and false alarms of a section, to look at and listen to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asdjax.data import audio
from asdjax.data.samples import to_float
from asdjax.errors import AsdjaxError
from asdjax.report import facts, figures
from asdjax.report.parts import Figure, Item, Row, Section, Sound, Text
from asdjax.runtime import console

_LONGEST = 20.0  # seconds of a recording that is shown


def cards(of: facts.Section, root: Path, channel: int, shown: int) -> list[Section]:
    """The misses with the lowest scores, and the false alarms with the highest.

    Without labels: the highest and the lowest scores of test clips.

    Args:
        of: the clips.
        root: their paths are relative to this folder.
        channel: to show and play, counted from 0.
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
            result.append(_card(what, of, int(i), root, channel))
    return result


def _card(what: str, of: facts.Section, i: int, root: Path, channel: int) -> Section:
    path, nearest = str(of.path[i]), str(of.path[of.nearest[i]])
    views = "; ".join(f"{view} {values[i]:.3g}" for view, values in of.views.items())
    words = f"Score {of.score[i]:.3g}, threshold {of.threshold:.3g}. "
    words += f"Domain: {of.domain[i] or 'unknown'}."
    if attributes := attributes_of(path):
        words += f" Attributes: {attributes}."
    if len(of.views) > 1:
        words += f" Scores of the views: {views}."
    items: list[Item | Row] = [Text(words)]
    try:
        one, rate = _read(root / path, channel)
        other, other_rate = _read(root / nearest, channel)
        if rate == other_rate:
            picture = figures.spectrograms(one, other, rate)
            words = "the clip, the most similar normal one, and their difference"
            items.append(Figure(picture, words))
        items.append(
            Row([
                Sound(audio.to_mp3(one, rate), path),
                Sound(audio.to_mp3(other, other_rate), f"most similar normal clip: {nearest}"),
            ])
        )  # fmt: skip
    except AsdjaxError as error:
        items.append(Text(f"The recording cannot be shown: {error}"))
    return Section(f"{what}: {path}", items)


def attributes_of(path: str) -> str:
    """The attributes in a clip's file name, empty if there are none.

    Example:
        >>> attributes_of("fan/train/section_00_source_train_normal_0001_m-n_2.wav")
        'm-n_2'
    """
    name = path.rpartition("/")[2].rpartition(".")[0]
    parts: Sequence[str] = name.split("_")
    is_clip = name.startswith("section_") and len(parts) > 6
    return console.printable("_".join(parts[6:])) if is_clip else ""


def _read(path: Path, channel: int) -> tuple[np.ndarray, int]:
    """The beginning of a channel of a recording, float32, and its sample rate."""
    rate = audio.inspect_any(path).rate
    samples = audio.read_any(path, rate, most=round(_LONGEST * rate))
    return to_float(samples[:, min(channel, samples.shape[1] - 1)]), rate
