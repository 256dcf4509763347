"""A quick look at recordings: levels, spectrograms, and what a recipe makes of them."""

import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asdjax.config import recipe as recipes
from asdjax.config.interfaces import View
from asdjax.config.recipe import Config
from asdjax.data import audio, levels, sound_search
from asdjax.data.samples import to_float
from asdjax.errors import AsdjaxError, DataError
from asdjax.files import atomic
from asdjax.report import overview, terminal
from asdjax.runtime import console

SCHEMA = "asdjax.show/1"
_ROWS = 12  # of a picture as text
_NARROWEST, _WIDEST = 20, 160  # characters of a picture
_PIXELS = 400, 256  # columns and rows of a picture as PNG
_MOST_SECONDS = 60  # of which views are computed
_NAMES = ("near", "far")


@dataclasses.dataclass(frozen=True)
class _Sound:
    """A signal to be drawn."""

    title: str
    samples: np.ndarray
    rate: int


def show(
    inputs: Sequence[Path],
    *,
    recipe: str | None = None,
    png: Path | None = None,
    as_json: bool = False,
    overwrite: bool = False,
) -> int:
    """Print what is in sound files, and draw their spectrograms.

    Args:
        inputs: sound files, and folders to search for them.
        recipe: its name or path; its views of each recording are drawn, too.
        png: folder for a picture per recording instead of text.
        as_json: print a JSON document per line instead of text.
        overwrite: whether to replace pictures.

    Returns:
        The exit code: 1 if a file is faulty.

    Raises:
        AsdjaxError: the recipe is invalid, a folder has no sound files, or a picture cannot be
            written.
    """
    config = None if recipe is None else recipes.load(recipe)
    files = sound_search.files(inputs, "show")
    pictures: Sequence[Path | None] = [None] * len(files)
    if png is not None:
        from asdjax.report import figures

        pictures = figures.picture_paths(png, files, overwrite)
    failures = 0
    for path, picture in zip(files, pictures, strict=True):
        try:
            document, sounds = _examined(path, recipe, config)
        except AsdjaxError as error:
            console.say_always(str(error))
            failures += 1
            continue
        text = json.dumps(document, allow_nan=False) if as_json else _text(document)
        print(text, flush=True)
        if picture is not None:
            content = figures.overview_png(document["file"], _pictured(sounds, *_PIXELS))
            atomic.write_bytes(picture, content, overwrite=overwrite)
        elif not as_json:
            print("\n".join(_drawn(sounds)), flush=True)
    if png is not None:
        count = len(files) - failures
        console.say(f"{png}: {count} picture{'s' * (count != 1)}")
    return int(failures > 0)


def _examined(
    path: Path, recipe: str | None, config: Config | None
) -> tuple[dict[str, Any], list[_Sound]]:
    """What is in a file, and the signals to draw: its channels and a recipe's views."""
    header = audio.inspect_any(path)
    samples = audio.read_any(path, header.rate)
    channels = [np.ascontiguousarray(samples[:, i]) for i in range(samples.shape[1])]
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "file": sound_search.shown(path),
        "format": header.subtype,
        "rate": header.rate,
        "channels": header.channels,
        "samples": header.frames,
        "seconds": header.seconds,
        "levels": [dataclasses.asdict(levels.measure(channel)) for channel in channels],
        "recipe": None,
    }
    names = [f"channel {i + 1}" for i in range(len(channels))]
    sounds = [
        _Sound(name, channel, header.rate)
        for name, channel in zip(names[:2], channels[:2], strict=True)
    ]
    if config is not None:
        found, views = _of_recipe(path, header, config)
        document["recipe"] = {"name": recipe, **found}
        sounds += views
    return document, sounds


def _of_recipe(
    path: Path, header: audio.Header, config: Config
) -> tuple[dict[str, Any], list[_Sound]]:
    """What a recipe makes of a file: its channel, rate and length, and its views."""
    from asdjax.signal.view_raw import of_mono

    settings, rate = config.audio, config.audio.sample_rate
    index = _NAMES.index(settings.channel)
    if index >= header.channels:
        raise DataError(
            f"{path}: the recipe uses the {settings.channel} channel, and the file has only "
            "one: set audio.channel to near, or record two channels"
        )
    if header.rate != rate and settings.resample == "never":
        raise DataError(
            f"{path}: {header.rate} Hz, but audio.sample_rate is {rate} Hz and audio.resample is "
            "never: resample the file, or change the recipe"
        )
    samples = audio.read_any(path, rate, most=_MOST_SECONDS * rate)
    frames = -(-header.frames * rate // header.rate)
    own = settings.clip_seconds == "auto"
    n_samples = frames if own else audio.clip_samples(settings, ())
    chosen = config.extract.views
    views = [of_mono(view) if header.channels == 1 else view for view in chosen]
    try:
        made, gains = _views(views, to_float(samples[:, :2]), index)
    except AsdjaxError as error:
        raise DataError(f"{path}: {error}") from error
    found = {
        "channel": index + 1,
        "rate_from": header.rate,
        "rate": rate,
        "resample": settings.resample,
        "samples_from": frames,
        "samples": n_samples,
        "length": ("whole", "cropped", "repeated")[(n_samples < frames) + 2 * (n_samples > frames)],
        "length_of_longest": own,
        "crop": settings.train_crop,
        "views": [
            {
                "name": meant.name,
                "method": view.method,
                "learns": view.learns,
                "gain": gain,
                "lacks_channel_2": meant.uses_channel_2 and header.channels == 1,
            }
            for meant, view, gain in zip(chosen, views, gains, strict=True)
        ],
    }
    shown = min(n_samples, _MOST_SECONDS * rate)
    sounds = [
        _Sound(f"view {meant.name} ({view.method})", audio.fit_length(wave, shown), rate)
        for meant, view, wave in zip(chosen, views, made, strict=True)
    ]
    return found, sounds


def _views(
    views: Sequence[View], samples: np.ndarray, index: int
) -> tuple[np.ndarray, list[float | None]]:
    """The views [V, T] of samples [T, 1 or 2], and their mean gains as in `signal.views.make`.

    A view that is calibrated on a machine's clips is calibrated on this one alone.
    """
    import jax
    import jax.numpy as jnp

    from asdjax.signal.channels import Channels
    from asdjax.signal.views import make

    if all(view.is_raw for view in views):
        return np.stack([samples[:, index]] * len(views)), [None] * len(views)
    waveform = jnp.asarray(samples.T[None])
    length = jnp.full(1, waveform.shape[2], jnp.int32)
    learned = {}
    for view in views:
        if view.learns:
            rows, mask = view.observe(Channels(waveform, length))
            learned[view.name] = jnp.asarray(view.learned(np.asarray(rows)[np.asarray(mask)]))
    made, facts = jax.jit(functools.partial(make, views))(waveform, length, learned)
    gains: list[float | None] = [None] * len(views)
    if facts:
        gains = [float(gain) for gain in facts["gain"][:, 0]]
    return np.asarray(made)[:, 0], gains


def _text(document: Mapping[str, Any]) -> str:
    lines = [
        f"{console.printable(document['file'])}: {document['format']}, {document['rate']} Hz, "
        f"{document['channels']} channel{'s' * (document['channels'] != 1)}, "
        f"{document['seconds']:.3f} s ({document['samples']} samples)"
    ]
    for i, level in enumerate(document["levels"]):
        if level["peak_db"] is None:
            lines.append(f"  channel {i + 1}: silent")
            continue
        rms = "constant" if level["level_db"] is None else f"level {level['level_db']:.1f} dBFS"
        lines.append(
            f"  channel {i + 1}: {rms}, peak {level['peak_db']:.1f} dBFS, offset "
            f"{level['offset']:.2g}, clipped {100 * level['clipped']:.2g} %"
        )
    if document["recipe"] is not None:
        lines += [f"  {line}" for line in _of_recipe_text(document["recipe"])]
    return "\n".join(lines)


def _of_recipe_text(found: Mapping[str, Any]) -> list[str]:
    rate, seconds = found["rate"], found["samples"] / found["rate"]
    before = found["samples_from"] / rate
    words = [f"channel {found['channel']} ({_NAMES[found['channel'] - 1]})"]
    if found["rate_from"] != rate:
        refused = " (refused in data of a challenge)" * (found["resample"] == "auto")
        words.append(f"resampled from {found['rate_from']} to {rate} Hz{refused}")
    if found["length"] == "whole":
        words.append(f"{seconds:.3g} s, as it is")
    else:
        words.append(f"{found['length']} from {before:.3g} to {seconds:.3g} s")
    if found["length"] == "cropped" and found["crop"] == "random":
        words.append("at the start, in training at random")
    if found["length_of_longest"]:
        words.append("the longest clip of a data set sets the length")
    lines = [f"{console.printable(found['name'])}: {', '.join(words)}"]
    for view in found["views"]:
        gain = "" if view["gain"] in (None, 1) else f", mean gain {view['gain']:.2f}"
        alone = ", calibrated on this clip alone" * view["learns"]
        mono = ", for want of a second channel" * view["lacks_channel_2"]
        lines.append(f"view {view['name']}: {view['method']}{mono}{gain}{alone}")
    return lines


def _pictured(
    sounds: Sequence[_Sound], columns: int, rows: int
) -> list[tuple[str, np.ndarray, float, int]]:
    """Title, levels of the cells in dB, length in seconds and rate of each signal."""
    return [
        (
            sound.title,
            overview.spectrogram(sound.samples, columns, rows),
            len(sound.samples) / sound.rate,
            sound.rate,
        )
        for sound in sounds
    ]


def _drawn(sounds: Sequence[_Sound]) -> list[str]:
    """The spectrograms as text, as wide as the terminal."""
    width = int(np.clip(shutil.get_terminal_size().columns - 14, _NARROWEST, _WIDEST))
    drawn = _pictured(sounds, width, _ROWS)
    shades = terminal.characters(getattr(sys.stdout, "encoding", None))
    low, high = terminal.limits([cells for _, cells, _, _ in drawn])
    lines = []
    for title, cells, seconds, rate in drawn:
        lines.append(f"  {title}, {low:.0f} to {high:.0f} dB")
        lines += terminal.spectrogram(cells, seconds, rate / 2, shades, (low, high))
    return lines
