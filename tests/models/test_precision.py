"""The precision of large products: what it means on a platform, and which products have it."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from asdjax.config.interfaces import ComputeDtype, precision_on
from asdjax.config.recipe import load, names
from asdjax.models import building, parameters
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.multiresnet import shortest
from asdjax.models.multiresnet_encoder import MultiResNetConfig


@pytest.mark.parametrize(
    ("platform", "of_auto"),
    [("cpu", "float32"), ("gpu", "tensorfloat32"), ("tpu", "tensorfloat32")],
)
def test_what_a_precision_means_on_a_platform(platform, of_auto):
    chosen: list[ComputeDtype] = ["auto", "tensorfloat32", "float32", "bfloat16"]
    found = [precision_on(platform, dtype) for dtype in chosen]
    assert found == [of_auto, of_auto, "float32", "bfloat16"]
    for model in MultiResNetConfig(), BEATsConfig():
        assert model.compute_dtype == "auto"
        assert model.on_platform(platform).compute_dtype == of_auto


def test_the_recipes_leave_the_precision_to_the_device():
    for system in names():
        assert load(system).model.compute_dtype == "auto"


def test_cudnns_attention_needs_bfloat16():
    model = BEATsConfig(compute_dtype="bfloat16", fused_attention=True)
    assert model.on_platform("gpu").fused_attention
    assert not model.on_platform("cpu").fused_attention
    assert not model.computing_in("tensorfloat32").fused_attention


def program(model, n_samples):
    """The network's gradient as StableHLO, before any compiler has seen it."""
    module = building.skeleton(model, n_samples, 16000)
    graphdef, params, stats = parameters.split(module)
    waveform = jax.ShapeDtypeStruct((2, n_samples), np.float32)

    def loss(params, stats, waveform):
        return parameters.apply(graphdef, params, stats, waveform, train=True)[0].sum()

    return jax.jit(jax.grad(loss)).lower(params, stats, waveform).as_text()


def products(text, operation):
    """The precision of each operation of a program; those of bfloat16 have none."""
    lines = [line for line in text.splitlines() if f"stablehlo.{operation}" in line]
    return ["bf16" if "bf16" in line else re.search("HIGHEST|HIGH|$", line)[0] for line in lines]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("auto", "HIGH"), ("bfloat16", "bf16")],
)
def test_every_convolution_of_multiresnet_has_the_precision(dtype, expected):
    model = dataclasses.replace(load("system1").model, compute_dtype=dtype)
    text = program(model, shortest(model, 16000))
    convolutions = products(text, "convolution")
    assert len(convolutions) > 100 and {*convolutions} == {expected}
    assert {*products(text, "dot_general")} == {"HIGHEST"}  # perceptrons, gates


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "HIGHEST"), ("tensorfloat32", "HIGH"), ("bfloat16", "bf16")],
)
def test_every_large_product_of_beats_has_the_precision(dtype, expected):
    encoder = dataclasses.replace(BEATsConfig().encoder, encoder_layers=2)
    drops = "dropout", "attention_dropout", "activation_dropout", "dropout_input"
    still = dict.fromkeys((*drops, "encoder_layerdrop"), 0.0)
    model = BEATsConfig(encoder=encoder, random_init=True, compute_dtype=dtype, **still)
    found = products(program(model, 16000), "dot_general")
    large = 3 * (2 + 2 * 8) - 1  # patches, whose input has no gradient, projection, two layers
    others = len(found) - large
    assert found.count(expected) == (len(found) if dtype == "float32" else large), found
    assert 0 < others < large and {*found} == {expected, "HIGHEST"}
