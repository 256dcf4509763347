"""A small BEATs with random weights, and its folder of converted weights."""

import dataclasses

import jax
import numpy as np
import pytest

from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.config.schema import to_tree
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.store import converted_weights
from asdjax.store.checkpoint import digest, save_weights

SMALL = BEATsEncoderConfig(
    encoder_layers=1, encoder_embed_dim=32, encoder_ffn_embed_dim=48, encoder_attention_heads=2,
    embed_dim=24, conv_pos=16, conv_pos_groups=4, dropout=0.25,
)  # fmt: skip

TWO_LAYERS = dataclasses.replace(SMALL, encoder_layers=2)


def convert(path, **changes):
    """Random weights of a small encoder, as conversion leaves them; and all its weights."""
    encoder = dataclasses.replace(TWO_LAYERS, **changes)
    model = BEATsConfig(encoder=encoder, random_init=True)
    _, params, _ = parameters.split(building.build(model, 16000, 16000, seed=0))
    whole = jax.tree.map(np.asarray, params["encoder"])
    weights = {"encoder": {k: v for k, v in whole.items() if k != "predictor"}}
    path.mkdir()
    save_weights(path / converted_weights.WEIGHTS, weights)
    document = {
        "schema": converted_weights.SCHEMA,
        "digest": digest(weights),
        "encoder": to_tree(encoder),
    }
    if encoder.finetuned_model:
        predictor = {"predictor": whole["predictor"]}
        save_weights(path / converted_weights.PREDICTOR, predictor)
        document["predictor_digest"] = digest(predictor)
    converted_weights.write_description(path / converted_weights.DOCUMENT, document)
    return whole


@pytest.fixture
def folder(tmp_path):
    """Random weights of a small encoder, as conversion leaves them."""
    model = BEATsConfig(encoder=SMALL, random_init=True)
    _, params, _ = parameters.split(building.build(model, 16000, 16000, seed=0))
    weights = jax.tree.map(np.asarray, {"encoder": params["encoder"]})
    path = tmp_path / "converted"
    path.mkdir()
    save_weights(path / converted_weights.WEIGHTS, weights)
    document = {
        "schema": converted_weights.SCHEMA,
        "digest": digest(weights),
        "encoder": to_tree(dataclasses.replace(SMALL, finetuned_model=True)),
    }
    converted_weights.write_description(path / converted_weights.DOCUMENT, document)
    return path, weights
