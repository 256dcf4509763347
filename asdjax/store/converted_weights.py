"""The folder of converted weights, as written by `asdjax convert`, and its description.

beats.json     origin, configuration, names, shapes and digest of the weights of BEATs or OpenBEATs
encoder.json   likewise of the other encoders
weights/       the encoder's arrays, an orbax checkpoint (see checkpoint.py)
predictor/     the classifier's arrays of a fine-tuned checkpoint
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asdjax.config import registry, schema
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.config.transformer_architecture import TransformerConfig
from asdjax.errors import ArtifactError
from asdjax.files import documents

SCHEMA = "asdjax.beats/1"
DOCUMENT, WEIGHTS, PREDICTOR = "beats.json", "weights", "predictor"
ENCODER_DOCUMENT = "encoder.json"
HOW = "asdjax convert beats BEATs_iter3.pt FOLDER"


class Kind(NamedTuple):
    """What a description holds."""

    schema: str
    architecture: type
    """Class of the encoder's architecture."""


KINDS: Mapping[str, Kind] = {
    DOCUMENT: Kind(SCHEMA, BEATsEncoderConfig),
    ENCODER_DOCUMENT: Kind("asdjax.encoder/1", TransformerConfig),
}
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


def present(path: Path) -> bool:
    """Whether a folder has the description of converted weights."""
    return any(documents.present(path / file) for file in KINDS)


def read(path: Path) -> Pretrained:
    """Read the description of a folder of converted weights.

    Raises:
        AsdjaxError: not a folder of converted weights, or an invalid description.
    """
    found = [file for file in KINDS if documents.present(path / file)]
    if len(found) != 1:
        raise ArtifactError(
            f"{path}: not a folder of converted weights ({' and '.join(found) or f'no {DOCUMENT}'})"
            f": create one with {HOW}"
        )
    file, kind = path / found[0], KINDS[found[0]]
    document = documents.read_json(file, "convert again")
    if not isinstance(document, dict) or document.get("schema") != kind.schema:
        raise ArtifactError(
            f"{file}: not written by this version of asdjax (schema {kind.schema}): convert again"
        )
    name = document.get("name") if found[0] == ENCODER_DOCUMENT else "beats"
    if name not in registry.names("encoder"):
        raise ArtifactError(f"{file}: weights of an unknown encoder {name!r}: convert again")
    if not isinstance(document.get("digest"), str):
        raise ArtifactError(f"{file}: no digest of the weights: convert again")
    encoder = schema.read(kind.architecture, document.get("encoder"), "encoder", str(file))
    schema.check(kind.architecture, encoder, "encoder", str(file))
    for possible, key, what in encoder.checks():
        if not possible:
            raise ArtifactError(f"{file}: {key}: {what}: convert again")
    return Pretrained(path, encoder, document["digest"], document, name, found[0])
