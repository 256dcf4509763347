"""Folders of converted weights: what is refused, and what a recipe takes from them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support.converted_beats import SMALL
from support.converted_beats import folder as folder  # a fixture

from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.store import converted_weights
from asdjax.store.checkpoint import digest, load_pretrained


def test_a_recipe_takes_architecture_and_weights(folder):
    path, weights = folder
    model, found = BEATsConfig(weights=str(path)).resolved()
    assert model.encoder == SMALL and found.digest == digest(weights)
    assert model.resolved()[0] == model  # again, from the stored configuration
    loaded = load_pretrained(found, weights)
    jax.tree.map(np.testing.assert_array_equal, loaded, weights)


def test_another_architecture_is_refused(folder):
    wanted = BEATsConfig(weights=str(folder[0]), encoder=dataclasses.replace(SMALL, conv_pos=8))
    with pytest.raises(AsdjaxError, match=r"model\.encoder: not the architecture of .*converted"):
        wanted.resolved()


def test_weights_are_needed_unless_random_ones_are_asked_for():
    with pytest.raises(AsdjaxError, match="asdjax convert beats"):
        BEATsConfig().resolved()
    model = BEATsConfig(encoder=SMALL, random_init=True)
    assert model.resolved() == (model, None)
    both = dataclasses.replace(configs.Config(), model=BEATsConfig(weights="x", random_init=True))
    with pytest.raises(AsdjaxError, match=r"model\.random_init"):
        configs.validate(both, "here")


def test_faulty_folders(folder, tmp_path):
    path, weights = folder
    with pytest.raises(AsdjaxError, match="not a folder of converted weights"):
        converted_weights.read(tmp_path / "nothing")
    file = path / converted_weights.DOCUMENT
    whole = json.loads(file.read_text())
    for change, words in (
        ({"schema": "asdjax.beats/0"}, "not written by this version"),
        ({"digest": None}, "no digest"),
        ({"encoder": {"conv_pos": "wide"}}, r"encoder\.conv_pos: expected a whole number"),
        ({"encoder": {"depth": 3}}, "unknown key 'encoder.depth'"),
    ):
        converted_weights.write_description(file, whole | change)
        with pytest.raises(AsdjaxError, match=words):
            converted_weights.read(path)
    for change in ({"encoder": whole["encoder"] | {"deep_norm": False}}, {"source": "other.pt"}):
        file.write_text(json.dumps(whole | change))
        with pytest.raises(AsdjaxError, match="beats.json: was changed"):
            converted_weights.read(path)
    file.write_text("{")
    with pytest.raises(AsdjaxError, match="cannot be read as JSON"):
        converted_weights.read(path)
    converted_weights.write_description(file, whole | {"digest": "0" * 32})
    with pytest.raises(AsdjaxError, match=f"{path}: the weights"):
        load_pretrained(converted_weights.read(path), weights)
    with pytest.raises(AsdjaxError, match="not weights of this architecture"):
        load_pretrained(
            converted_weights.read(path), {"encoder": {"other": np.zeros(2, np.float32)}}
        )
    file.write_text(json.dumps(whole))
    refused = 0
    for damaged in [p for p in (path / converted_weights.WEIGHTS).rglob("d/*") if p.is_file()]:
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
        try:  # some files hold what another holds too: then the digest is right
            load_pretrained(converted_weights.read(path), weights)
        except AsdjaxError as error:
            assert str(path) in str(error)
            refused += 1
        damaged.write_bytes(content)
    assert refused
    load_pretrained(converted_weights.read(path), weights)
    (path / converted_weights.WEIGHTS).rename(path / "elsewhere")
    with pytest.raises(AsdjaxError, match="missing or damaged"):
        load_pretrained(converted_weights.read(path), weights)
