"""A folder of converted weights: what `asdjax convert beats` leaves, less the arrays themselves.

beats.json     where the weights come from, their configuration, names, shapes and digest
weights/       the encoder's arrays, an orbax checkpoint (see checkpoint.py)
predictor/     likewise those of a fine-tuned checkpoint's last layer
"""

import dataclasses
from pathlib import Path
from typing import Any

from asdjax.config import schema
from asdjax.config.architectures import BEATsConfig, BEATsEncoderConfig, checks
from asdjax.errors import AsdjaxError
from asdjax.files import documents

SCHEMA = "asdjax.beats/1"
DOCUMENT, WEIGHTS, PREDICTOR = "beats.json", "weights", "predictor"
_HOW = "asdjax convert beats BEATs_iter3.pt FOLDER"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """One such folder."""

    path: Path
    encoder: BEATsEncoderConfig
    """The configuration that the checkpoint stated."""
    digest: str
    """Of the encoder's arrays as float32 (`checkpoint.digest`)."""
    document: dict[str, Any]
    """All that the folder says of itself."""


def read(path: Path) -> Pretrained:
    """Read a folder's description.

    Raises:
        AsdjaxError: it is not such a folder, or its description is faulty.
    """
    file = path / DOCUMENT
    if not documents.present(file):
        raise AsdjaxError(
            f"{path}: not a folder of converted weights (no {DOCUMENT}): make one with {_HOW}"
        )
    document = documents.read_json(file)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise AsdjaxError(
            f"{file}: not written by this version of asdjax (schema {SCHEMA}): convert again"
        )
    if not isinstance(document.get("digest"), str):
        raise AsdjaxError(f"{file}: states no digest of its weights: convert again")
    encoder = schema.read(BEATsEncoderConfig, document.get("encoder"), "encoder", str(file))
    schema.check(BEATsEncoderConfig, encoder, "encoder", str(file))
    for possible, key, what in checks(BEATsConfig(encoder=encoder), 16000):
        if not possible:
            raise AsdjaxError(f"{file}: {key}: {what}: convert again")
    return Pretrained(path, encoder, document["digest"], document)


def resolve(model: BEATsConfig) -> tuple[BEATsConfig, Pretrained | None]:
    """An embedder's settings with its weights' own architecture, and these weights.

    Raises:
        AsdjaxError: there are no weights, and none are to be drawn; or another architecture is
            asked for than theirs.
    """
    if model.weights is None:
        if not model.random_init:
            raise AsdjaxError(
                "model.weights: this system starts from pretrained weights: download "
                f"BEATs_iter3.pt from the BEATs authors, convert it with {_HOW}, and give "
                "--model.weights FOLDER (model.random_init true draws random ones, for tests)"
            )
        return model, None
    weights = read(Path(model.weights))
    encoder = dataclasses.replace(weights.encoder, finetuned_model=False)
    if model.encoder not in (BEATsEncoderConfig(), encoder):
        raise AsdjaxError(
            f"model.encoder: not the architecture of {model.weights}, which states its own: leave "
            "model.encoder out"
        )
    absolute = str(Path(model.weights).absolute())
    return dataclasses.replace(model, weights=absolute, encoder=encoder), weights
