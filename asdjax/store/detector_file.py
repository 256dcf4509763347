"""The file of a detector, an .npz file named .asd.

    about       the `Document` as JSON text (UTF-8, uint8)
    vectors/*   features of the normal windows, float32 [N, D]
    probe/*     features of a known signal, float32 [1, D]: they tell whether this machine computes
                what the detector was made with
    recording   int32 [N]: index in `Document.recordings`
    start       float64 [N]: seconds from the beginning of the recording
    held_out    float64 [K, N]: each member's scores of the normal windows
    spectra     float32 [N, S, P]: `asdjax.signal.spectral_map.summary` of the normal windows

Nothing in it is executed, and it has no pickles. `about` has a digest of all of this, so that a
changed file is not used.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from asdjax._version import __version__
from asdjax.config import schema
from asdjax.config.interfaces import Backend
from asdjax.config.schema import Count, Positive, Probability, Range
from asdjax.errors import ArtifactError, ConfigError
from asdjax.files import atomic, documents, user_files
from asdjax.store import arrays

SCHEMA = "asdjax.detector/3"
SUFFIX = ".asd"
VECTORS, PROBE = "vectors/", "probe/"
_LARGEST = {np.float32: 1e15, np.float64: 1e100}  # squares of larger values may be infinite
_LONGEST_PATH = 4096  # characters
_HOW = "make it again with asdjax fit"


@dataclasses.dataclass(frozen=True)
class NormalRecording:
    """What a detector remembers of a normal recording."""

    name: str
    """The path as it was given, or the number of an array."""
    digest: str
    """Of its samples and sample rate; copies have the same."""
    rate: Count
    """Sample rate, hertz."""
    channels: Count
    seconds: Positive
    level_db: float
    """Mean power of the channel in use without its mean, decibels of full scale; at least -200."""
    clipped: Probability
    """Share of samples at full scale."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a fitted detector."""

    embedder: str
    """`spectral`, or the path of the run or the converted weights."""
    identity: str
    """JSON text: what must be equal for features to be comparable (digests of weights ...)."""
    backends: tuple[Backend, ...]
    level: Annotated[float, Range(low=0.5, high=0.9999)]
    """Intended share of normal recordings without an alarm."""
    clip_seconds: Annotated[float, Range(low=0, high=120, above=True)]
    """Length of a window."""
    hop_seconds: Positive
    """Step between windows."""
    channel: Count
    """The channel in use, counted from 1."""
    max_bank: Annotated[int, Range(low=3)] | None
    """Most windows to compare with; None: all."""
    seed: Annotated[int, Range(low=0, high=2**32 - 1)]
    """Of the choice of these windows."""


@dataclasses.dataclass(frozen=True)
class Document:
    """Everything about a detector but its arrays."""

    settings: Settings
    recordings: tuple[NormalRecording, ...]


def checked(settings: Settings, where: str) -> Settings:
    """The settings; `AsdjaxError`, which begins with `where`, if one is invalid."""
    settings = schema.read(Settings, schema.to_tree(settings), "", where)
    schema.check(Settings, settings, "", where)
    names = [backend.name for backend in settings.backends]
    checks = [check for backend in settings.backends for check in backend.checks()]
    for possible, key, what in (
        (len(settings.embedder) <= _LONGEST_PATH, "embedder", "longer than a path may be"),
        (len(names) > 0, "backend", "name one or more"),
        (len(set(names)) == len(names), "backend", f"{', '.join(names)}: name each once"),
        (
            len({backend.metric for backend in settings.backends}) < 2,
            "backend",
            "all must have the same metric",
        ),
        (settings.hop_seconds <= settings.clip_seconds, "hop_seconds", "longer than clip_seconds"),
        (
            settings.hop_seconds >= settings.clip_seconds / 100,
            "hop_seconds",
            "less than a hundredth of clip_seconds",
        ),
        *((good, f"backend.{key}", what) for good, key, what in checks),
    ):
        if not possible:
            raise ConfigError(f"{where}: {key}: {what}")
    return settings


def write(
    path: Path, document: Document, tables: Mapping[str, np.ndarray], *, overwrite: bool
) -> None:
    """Write a detector, atomically.

    Args:
        path: the file.
        document: goes into the array `about`.
        tables: all other arrays.
        overwrite: whether to replace an existing file.

    Raises:
        AsdjaxError: the file exists, or cannot be written.
    """
    tree = {"schema": SCHEMA, "asdjax": __version__, **schema.to_tree(document)}
    tree["digest"] = documents.fingerprint(tree, arrays.digest(tables))
    about = np.frombuffer(json.dumps(tree, allow_nan=False).encode(), np.uint8)
    atomic.write_bytes(path, arrays.to_bytes({"about": about, **tables}), overwrite=overwrite)


def read(path: Path) -> tuple[Document, dict[str, np.ndarray]]:
    """The document and the other arrays of a detector.

    Raises:
        AsdjaxError: the file cannot be read, or is not a complete detector.
    """
    with user_files.open_regular(path) as file:
        found = arrays.read(file)
    if found is None or "about" not in found:
        raise ArtifactError(f"{path}: not a detector, or damaged: {_HOW}")
    about = found.pop("about")
    if about.dtype != np.uint8 or about.ndim != 1:
        raise ArtifactError(f"{path}: not a detector: {_HOW}")
    tree = documents.parse_json(user_files.as_text(about.tobytes(), path), path, _HOW)
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        raise ArtifactError(f"{path}: not a detector of this version of asdjax: {_HOW}")
    digest = tree.pop("digest", None)
    whole = documents.fingerprint(tree, arrays.digest(found))
    tree = {name: value for name, value in tree.items() if name not in ("schema", "asdjax")}
    try:
        document = schema.read(Document, tree, "", str(path))
        schema.check(Document, document, "", str(path))
        checked(document.settings, str(path))
    except ConfigError as error:
        raise ArtifactError(f"{error}: {_HOW}") from error
    if (fault := _fault(document, found)) is not None:
        raise ArtifactError(f"{path}: {fault}: {_HOW}")
    if digest != whole:
        raise ArtifactError(f"{path}: was changed after asdjax wrote it: {_HOW}")
    return document, found


def _fault(document: Document, tables: Mapping[str, np.ndarray]) -> str | None:
    """What is wrong with the arrays, if anything."""
    names = {name.removeprefix(VECTORS) for name in tables if name.startswith(VECTORS)}
    expected = {f"{kind}{name}" for name in names for kind in (VECTORS, PROBE)}
    if not names or tables.keys() != expected | {"recording", "start", "held_out", "spectra"}:
        return "arrays are missing, or there are others"
    recording, start = tables["recording"], tables["start"]
    count = len(recording) if recording.ndim == 1 else 0
    members = len(names) * len(document.settings.backends)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "recording": ((count,), np.int32),
        "start": ((count,), np.float64),
        "held_out": ((members, count), np.float64),
    }
    spectra = tables["spectra"]
    shapes["spectra"] = (count, *(spectra.shape[1:] if spectra.ndim == 3 else (0, 0))), np.float32
    for name in names:
        vectors = tables[VECTORS + name]
        size = vectors.shape[1] if vectors.ndim == 2 else 0
        shapes[VECTORS + name] = (count, size), np.float32
        shapes[PROBE + name] = (1, size), np.float32
    for name, (shape, dtype) in shapes.items():
        table = tables[name]
        if table.shape != shape or table.dtype != dtype or 0 in shape:
            return f"{name}: {schema.array_shown(table)} instead of {np.dtype(dtype)}{list(shape)}"
        largest = float(np.abs(table).max())  # NaN if any is
        if dtype in _LARGEST and not largest < _LARGEST[dtype]:
            return f"{name}: not finite, or too large"
    for known in document.recordings:
        if (
            len(known.name) > _LONGEST_PATH
            or known.name != known.name.encode(errors="replace").decode()
        ):
            return "recordings: a name that is too long, or no text"
    if not set(recording.tolist()) == set(range(len(document.recordings))):
        return "recording: not the recordings that are listed"
    if start.min() < 0:
        return "start: below 0"
    return None
