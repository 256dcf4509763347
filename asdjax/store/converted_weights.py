"""The folder of converted weights, as written by `asdjax convert`, and its description.

beats.json     origin, configuration, names, shapes and digest of the weights of BEATs or OpenBEATs
encoder.json   likewise of the other encoders
weights/       the encoder's arrays, an orbax checkpoint (see checkpoint.py)
predictor/     the classifier's arrays of a fine-tuned checkpoint
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asdjax.config import registry, schema
from asdjax.errors import ArtifactError
from asdjax.files import documents

SCHEMA = "asdjax.beats/1"
DOCUMENT, WEIGHTS, PREDICTOR = "beats.json", "weights", "predictor"
ENCODER_DOCUMENT = "encoder.json"
HOW = "asdjax convert beats BEATs_iter3.pt FOLDER"
_SEAL = "description_digest"


SCHEMAS: Mapping[str, str] = {DOCUMENT: SCHEMA, ENCODER_DOCUMENT: "asdjax.encoder/1"}
"""By the description's file name."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The description of a folder of converted weights."""

    path: Path
    encoder: Any
    """The architecture, of the class that the encoder's settings have."""
    digest: str
    """`checkpoint.digest` of the encoder's arrays as float32."""
    document: dict[str, Any]
    """The content of the description."""
    name: str
    """The registered name of the encoder that these weights are for."""
    file: str
    """Name of the description."""


def architecture(name: str) -> Any:
    """The class of an encoder's architecture."""
    return schema.field_types(registry.find("encoder", name))["encoder"]


def present(path: Path) -> bool:
    """Whether a folder has the description of converted weights."""
    return any(documents.present(path / file) for file in SCHEMAS)


def read(path: Path) -> Pretrained:
    """Read the description of a folder of converted weights.

    Raises:
        AsdjaxError: not a folder of converted weights, or an invalid description.
    """
    found = [file for file in SCHEMAS if documents.present(path / file)]
    if len(found) != 1:
        raise ArtifactError(
            f"{path}: not a folder of converted weights ({' and '.join(found) or f'no {DOCUMENT}'})"
            f": create one with {HOW}"
        )
    file, expected = path / found[0], SCHEMAS[found[0]]
    document = documents.read_json(file, "convert again")
    if not isinstance(document, dict) or document.get("schema") != expected:
        raise ArtifactError(
            f"{file}: not written by this version of asdjax (schema {expected}): convert again"
        )
    name = document.get("name") if found[0] == ENCODER_DOCUMENT else "beats"
    if not (isinstance(name, str) and _has_weights(name)):
        raise ArtifactError(f"{file}: weights of an unknown encoder {name!r}: convert again")
    if not isinstance(document.get("digest"), str):
        raise ArtifactError(f"{file}: no digest of the weights: convert again")
    kind = architecture(name)
    encoder = schema.read(kind, document.get("encoder"), "encoder", str(file))
    schema.check(kind, encoder, "encoder", str(file))
    for possible, key, what in encoder.checks():
        if not possible:
            raise ArtifactError(f"{file}: {key}: {what}: convert again")
    if document.get(_SEAL) != _seal(document):
        raise ArtifactError(f"{file}: was changed, or is of an earlier version: convert again")
    return Pretrained(path, encoder, document["digest"], document, name, found[0])


def write_description(file: Path, document: Mapping[str, Any]) -> None:
    """Write the description of converted weights, with a digest of its content.

    Args:
        file: in the folder; its name is one of `SCHEMAS`.
        document: its content.
    """
    documents.write_json(file, {**document, _SEAL: _seal(document)})


def _seal(document: Mapping[str, Any]) -> str:
    """The digest of a description's content."""
    return documents.fingerprint({k: v for k, v in document.items() if k != _SEAL})


def _has_weights(name: str) -> bool:
    """Whether this is the name of an encoder with an architecture of its own."""
    known = name in registry.names("encoder")
    return known and "encoder" in schema.field_types(registry.find("encoder", name))
