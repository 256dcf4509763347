"""The references' small transformers on spectrograms, converted, and their networks."""

import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
from conftest import GOLDEN

from asdjax.cli import main
from asdjax.config import registry
from asdjax.models import building, parameters
from asdjax.models.poolings import Mean
from asdjax.store import converted_weights

FILES = {"ast": "ast_tiny.safetensors", "eat": "eat_tiny.pt", "dasheng": "dasheng_tiny.pt"}
FROZEN = {"adaptation": "frozen", "pooling": Mean(), "embedding_size": 0}


@functools.cache
def folder(name: str) -> Path:
    """The folder of converted weights; it lasts as long as the tests."""
    place = Path(_room().name) / name
    source = GOLDEN / FILES[name]
    assert main(["convert", name, str(source), str(place), "--heads", "4"]) == 0
    return place


@functools.cache
def _room() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


def model(name: str, **settings):
    """The settings of an encoder with these weights."""
    encoder = registry.find("encoder", name)(name=name, weights=str(folder(name)), **settings)
    return encoder.resolved()[0]


def network(name: str, n_samples: int | None = None, **settings):
    """A network's structure and its parameters: pretrained where they are, else drawn."""
    encoder = model(name, **settings)
    graphdef, params, _ = parameters.split(building.build(encoder, n_samples, 16000, seed=0))
    loaded = encoder.pretrained(converted_weights.read(folder(name)), params)
    params = parameters.replace(jax.tree.map(np.asarray, params), loaded)
    return encoder, graphdef, params


def embedded(name: str, waves, **settings):
    """Embeddings of waveforms [B, T], without any part of the embedder but the network."""
    _, graphdef, params = network(name, **FROZEN, **settings)
    apply = jax.jit(functools.partial(parameters.apply, graphdef, train=False))
    return np.asarray(apply(params, {}, waves)[0])


def changed(encoder, **settings):
    """The same encoder with other settings."""
    return dataclasses.replace(encoder, **settings)
