"""The folder of converted weights, as written by `asdjax convert beats`, and its description.

beats.json     origin, configuration, names, shapes and digest of the weights
weights/       the encoder's arrays, an orbax checkpoint (see checkpoint.py)
predictor/     the classifier's arrays of a fine-tuned checkpoint
"""

import dataclasses
from pathlib import Path
from typing import Any

from asdjax.config import schema
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.errors import ArtifactError
from asdjax.files import documents

SCHEMA = "asdjax.beats/1"
ENCODER = "beats"
"""The encoder that these weights are for."""
DOCUMENT, WEIGHTS, PREDICTOR = "beats.json", "weights", "predictor"
HOW = "asdjax convert beats BEATs_iter3.pt FOLDER"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """The description of a folder of converted weights."""

    path: Path
    encoder: BEATsEncoderConfig
    """The configuration in the checkpoint."""
    digest: str
    """`checkpoint.digest` of the encoder's arrays as float32."""
    document: dict[str, Any]
    """The content of beats.json."""


def read(path: Path) -> Pretrained:
    """Read the description of a folder of converted weights.

    Raises:
        AsdjaxError: not a folder of converted weights, or an invalid description.
    """
    file = path / DOCUMENT
    if not documents.present(file):
        raise ArtifactError(
            f"{path}: not a folder of converted weights (no {DOCUMENT}): create one with {HOW}"
        )
    document = documents.read_json(file, "convert again")
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{file}: not written by this version of asdjax (schema {SCHEMA}): convert again"
        )
    if not isinstance(document.get("digest"), str):
        raise ArtifactError(f"{file}: no digest of the weights: convert again")
    encoder = schema.read(BEATsEncoderConfig, document.get("encoder"), "encoder", str(file))
    schema.check(BEATsEncoderConfig, encoder, "encoder", str(file))
    for possible, key, what in encoder.checks():
        if not possible:
            raise ArtifactError(f"{file}: {key}: {what}: convert again")
    return Pretrained(path, encoder, document["digest"], document)
