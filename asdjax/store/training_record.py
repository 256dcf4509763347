"""training.json: the training record, with a fingerprint to detect changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.errors import ArtifactError
from asdjax.files.documents import fingerprint, read_json, write_json

SCHEMA = "asdjax.training/2"
_REMEDY = "restore it, or train again with --no-resume"
_TYPES = {  # the required keys
    "config": dict,
    "classes": list,
    "n_samples": int,
    "step": int,
    "seed": int,
    "data": str,
    "digest": str,
    "frozen": str | None,
}


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the training record with its fingerprint."""
    document = {"schema": SCHEMA, **document}
    write_json(path, {**document, "fingerprint": fingerprint(document)})


def is_record(document: Any) -> bool:
    """Whether a document is a training record, of any version of asdjax."""
    name, _, _ = SCHEMA.partition("/")
    return isinstance(document, dict) and str(document.get("schema")).startswith(f"{name}/")


def read(path: Path) -> dict[str, Any]:
    """Read the training record; `AsdjaxError` if it is invalid or was changed."""
    document = read_json(path, _REMEDY)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path}: not written by this version of asdjax (schema {SCHEMA}): train again with "
            "--no-resume"
        )
    if document.pop("fingerprint", None) != fingerprint(document):
        raise ArtifactError(f"{path}: changed since training: {_REMEDY}")
    wrong = [key for key, kind in _TYPES.items() if not _is(document.get(key, ...), kind)]
    if not wrong and not all(type(name) is str for name in document["classes"]):
        wrong = ["classes"]
    channels = document.get("channels", [])
    if not (isinstance(channels, list) and all(_is(c, int) and c > 0 for c in channels)):
        wrong.append("channels")
    if not wrong and "\0" in document["data"]:
        wrong = ["data"]
    if not wrong and not 0 < document["n_samples"] < 2**31:
        wrong = ["n_samples"]
    if wrong:
        raise ArtifactError(f"{path}: missing or invalid: {', '.join(wrong)}: {_REMEDY}")
    return document


def _is(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type; true and false are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)
