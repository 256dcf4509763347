"""BEATs, compared with the reference's arrays stage by stage, and its properties."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BEATS_GRADIENT,
    BLOCK,
    GOLDEN,
    HIDDEN_ATOL,
    LAYER,
    POOLED_ATOL,
    relative,
    relative_l2,
)
from flax import nnx
from support.reference_beats import (
    TINY,
    cosine,
    draws,
    features,
    jit,
    load,
    paths,
    reference_name,
    run,
    take_apart,
)

from asdjax.config.beats_architecture import BEATsEncoderConfig, LoRAConfig
from asdjax.convert import torch_file
from asdjax.errors import AsdjaxError
from asdjax.models.attention import fused_attention
from asdjax.models.beats import (
    BEATs,
    TransformerEncoderLayer,
    n_tokens,
    own_patch_mask,
    position_buckets,
    reference_token_mask,
)
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.dropout import dropout

FLOAT64_FINAL, FLOAT64_POOLED = 1e-6, 1e-7  # the reference evaluates GELU in float32

FINETUNED = dataclasses.replace(
    TINY, dropout=0.0, attention_dropout=0.0, dropout_input=0.0, encoder_layerdrop=0.0,
    finetuned_model=True, layer_wise_gradient_decay_ratio=0.6,
)  # fmt: skip
# for what needs no reference
SMALL = dataclasses.replace(
    TINY, encoder_layers=2, encoder_embed_dim=32, encoder_ffn_embed_dim=48, embed_dim=24,
    conv_pos=16, conv_pos_groups=4,
)  # fmt: skip
STILL = dataclasses.replace(
    SMALL, dropout=0.0, attention_dropout=0.0, dropout_input=0.0, encoder_layerdrop=0.0
)
RANDOM = dataclasses.replace(SMALL, encoder_layers=1, activation_dropout=0.2, encoder_layerdrop=0.4)
LORA = LoRAConfig(rank=4, dropout=0.3, targets=("q_proj", "fc1"))


def to_reference(name: str, array) -> np.ndarray:
    """One of our arrays in the reference's axes."""
    array = np.asarray(array)
    if name == "patch_embedding.weight":
        return array.transpose(3, 2, 0, 1)
    if name.endswith("relative_attention_bias.weight"):
        return array
    shapes = {"weight_g": (1, 1, -1), "grep_a": (1, -1, 1, 1)}
    return array.reshape(shapes[kind]) if (kind := name.split(".")[-1]) in shapes else array.T


def leaves(params) -> dict[str, np.ndarray]:
    """A tree of ours as the reference's names and arrays."""
    names = {path: reference_name(path) for path in paths(params)}
    return {names[path]: to_reference(names[path], a) for path, a in paths(params).items()}


def fresh(config, dtype=np.float32, seed=0, **options):
    """A module's structure and random weights, none of them zero or one."""
    rng = np.random.default_rng(seed)
    graphdef, params = take_apart(BEATs(config, rng=rng, **options))
    return graphdef, jax.tree.map(
        lambda a: (np.asarray(a) + 0.1 * rng.standard_normal(a.shape)).astype(dtype), params
    )


@pytest.fixture(scope="module")
def io(golden):
    return golden("beats_tiny_io")


@pytest.fixture(scope="module")
def state():
    return torch_file.read(GOLDEN / "beats_tiny.pt")["model"]


@pytest.fixture(scope="module")
def tiny(state):
    return load(TINY, state)


@pytest.fixture(scope="module")
def finetuned_io(golden):
    return golden("beats_tiny_finetuned_io")


@pytest.fixture(scope="module")
def finetuned_state():
    return torch_file.read(GOLDEN / "beats_tiny_finetuned.pt")["model"]


def test_stages(tiny, io):
    case = {key.removeprefix("n16000/"): a for key, a in io.items() if key.startswith("n16000/")}
    graphdef, params = tiny

    @jit
    def stages(params, x):
        beats = nnx.merge(graphdef, params)
        encoder, out = beats.encoder, {}
        patches = beats.patch_embedding(x)
        out["patch_conv"] = jnp.swapaxes(patches, 1, 2).reshape(2, 48, 6, 8)
        out["patch_ln"] = beats.layer_norm(patches)
        out["post_proj"] = tokens = beats.tokens(x)
        out["pos_conv"] = encoder.pos_conv(tokens)
        out["pos_bias_0"] = bias = encoder.position_bias(48)
        out["enc_in"], *hidden = beats(x, layers=(0, 1, 2, 3))
        for i, (layer, x) in enumerate(zip(encoder.layers, (out["enc_in"], *hidden), strict=False)):
            attention = layer.self_attn
            q, k = (f(x).reshape(2, 48, 4, 16) for f in (attention.q_proj, attention.k_proj))
            weights = attention.weights(q, k, attention.gate(q), bias, None)
            out[f"attn_probs_{i}"] = weights.reshape(8, 48, 48)
            out[f"grep_lin_{i}"] = jnp.swapaxes(attention.grep_linear(q), 1, 2)
            out[f"attn_out_{i}"] = attention(x, bias, None, None)
            out[f"layer_{i}"] = hidden[i]
        out["pooled"] = hidden[2].mean(1)
        return out | {"final": hidden[2]}

    values = stages(params, case["fbank_norm"])
    expected = case.keys() - {"wave", "fbank_norm", "f64_final", "f64_pooled"}
    assert len(expected) == 15 and expected <= values.keys()
    for name in expected:
        tolerance = BLOCK if name.startswith(("attn_out", "layer", "final", "pooled")) else LAYER
        assert relative(values[name], case[name]) < tolerance, name
    np.testing.assert_array_equal(values["pos_bias_0"], case["pos_bias_0"])
    np.testing.assert_allclose(values["final"], case["f64_final"], rtol=0, atol=HIDDEN_ATOL)
    np.testing.assert_allclose(values["pooled"], case["pooled"], rtol=0, atol=POOLED_ATOL)


def test_from_the_waveform(tiny, io):
    (final,) = run(*tiny, features(io["n52800/wave"]))
    np.testing.assert_allclose(final, io["n52800/f64_final"], rtol=0, atol=HIDDEN_ATOL)
    np.testing.assert_allclose(final.mean(1), io["n52800/pooled"], rtol=0, atol=POOLED_ATOL)


@pytest.mark.parametrize("case", ["n16000", "n52800"])
def test_float64(state, io, case, float64):
    (final,) = run(*load(TINY, state, np.float64), features(io[f"{case}/wave"], np.float64))
    assert final.dtype == jnp.float64
    assert relative(final, io[f"{case}/f64_final"]) < FLOAT64_FINAL
    assert relative(final.mean(1), io[f"{case}/f64_pooled"]) < FLOAT64_POOLED


def test_padding_as_in_the_reference(tiny, io):
    valid = reference_token_mask(jnp.asarray(io["padded/sample_mask"]), 198, TINY)
    np.testing.assert_array_equal(valid, ~io["padded/token_mask"])
    first, final = run(*tiny, io["padded/fbank_norm"], valid, layers=(1, 3))
    assert relative(first, io["padded/layer_0"]) < BLOCK
    assert relative(final, io["padded/final"]) < BLOCK
    np.testing.assert_allclose(final.mean(1), io["padded/pooled_plain"], rtol=0, atol=POOLED_ATOL)
    pooled = jnp.mean(final, axis=1, where=valid[:, :, None])
    np.testing.assert_allclose(pooled, io["padded/pooled_masked"], rtol=0, atol=POOLED_ATOL)


def test_gradients(tiny, io):
    graphdef, params = tiny

    def loss(params, x):
        return jnp.sum(jnp.square(nnx.merge(graphdef, params)(x)[0]))

    value, gradient = jit(jax.value_and_grad(loss))(params, io["n16000/fbank_norm"])
    assert float(value) == pytest.approx(float(io["grad/__loss__"]), rel=1e-5)
    gradients = leaves(gradient)
    expected = {key.removeprefix("grad/") for key in io if key.startswith("grad/")} - {"__loss__"}
    assert gradients.keys() == expected
    for name, array in gradients.items():
        if name.endswith("k_proj.bias"):  # zero in exact arithmetic
            assert np.max(np.abs(array)) < 1e-5
        else:
            assert relative_l2(array, io[f"grad/{name}"]) < BEATS_GRADIENT, name


def test_finetuned(finetuned_state, finetuned_io):
    io = finetuned_io
    graphdef, params = load(FINETUNED, finetuned_state)

    @jit
    def classify(params, x, valid=None):
        beats = nnx.merge(graphdef, params)
        (hidden,) = beats(x, valid=valid)
        return hidden, beats.logits(hidden, valid), beats.probabilities(hidden, valid)

    padded = features(io["padded_wave"])
    valid = reference_token_mask(jnp.asarray(io["padded_sample_mask"]), padded.shape[1], FINETUNED)
    np.testing.assert_array_equal(valid, ~io["padded_token_mask"])
    assert not valid.all()
    for prefix, inputs in ("", (features(io["wave"]),)), ("padded_", (padded, valid)):
        hidden, logits, probabilities = classify(params, *inputs)
        np.testing.assert_allclose(hidden, io[f"{prefix}hidden"], rtol=0, atol=HIDDEN_ATOL)
        assert relative(logits, io[f"{prefix}logits"]) < LAYER
        assert relative(probabilities, io[f"{prefix}probs"]) < LAYER


@pytest.mark.parametrize("ratio, prefix, count", [(0.6, "grad/", 8), (1.0, "grad_ratio1/", 3)])
def test_gradient_decay(finetuned_state, finetuned_io, ratio, prefix, count):
    config = dataclasses.replace(FINETUNED, layer_wise_gradient_decay_ratio=ratio)
    graphdef, params = load(config, finetuned_state)
    x = features(finetuned_io["wave"])

    def loss(params):
        beats = nnx.merge(graphdef, params)
        return jnp.sum(jnp.square(beats.logits(beats(x)[0])))

    gradients = leaves(jit(jax.grad(loss))(params))
    names = [n.removeprefix(prefix) for n in finetuned_io if n.startswith(prefix)]
    names = [n for n in names if n != "__loss__"]
    assert len(names) == count
    for name in names:
        assert relative_l2(gradients[name], finetuned_io[prefix + name]) < BEATS_GRADIENT, name


@pytest.mark.parametrize("buckets, distance", [(320, 800), (320, 1280), (32, 128)])
def test_position_buckets(golden, buckets, distance):
    reference = golden("rel_buckets")
    config = dataclasses.replace(TINY, num_buckets=buckets, max_distance=distance)
    table = position_buckets(2048, config)
    np.testing.assert_array_equal(table, reference[f"b{buckets}_d{distance}/bucket"])
    np.testing.assert_array_equal(table[1552:-1552], position_buckets(496, config))


def test_position_bias_is_the_table_looked_up(golden, rng):
    reference = golden("rel_buckets")
    graphdef, params = fresh(TINY)
    table = rng.standard_normal((320, 4)).astype(np.float32)
    params["encoder"]["relative_attention_bias"] = table
    for length, name in (64, "T64"), (496, "T496"):
        bias = nnx.merge(graphdef, params).encoder.position_bias(length)
        np.testing.assert_array_equal(bias, np.moveaxis(table[reference[name]], 2, 0))


def pooled(graphdef, params, x, valid=None, **options):
    (tokens,) = nnx.merge(graphdef, params)(x, valid=valid, **options)
    return jnp.mean(tokens, axis=1, where=None if valid is None else valid[:, :, None])


def alone_and_in_a_row(dtype):
    """A clip, and the clip at the start of a longer row of loud noise, with its own tokens."""
    frames, n_frames = 85, 150
    row = np.random.default_rng(1).standard_normal((1, n_frames, 128)).astype(dtype)
    row[:, frames:] *= 10
    valid = own_patch_mask(jnp.asarray([frames]), n_frames, STILL)
    assert valid.shape == (1, 9 * 8) and valid.sum() == 5 * 8
    return (row[:, :frames], None), (row, valid)


def test_padding_does_not_matter():
    model = fresh(STILL)
    alone, in_a_row = (
        jnp.mean(run(*model, x, valid)[0][:, : 5 * 8], axis=1)
        for x, valid in alone_and_in_a_row(np.float32)
    )
    np.testing.assert_allclose(in_a_row, alone, rtol=0, atol=2e-5)


def embed(x, valid, **options):
    """Embeddings and gradients, in float64."""
    graphdef, params = fresh(STILL, np.float64, **options)

    def loss(params):
        embedding = pooled(graphdef, params, x, valid)
        return jnp.sum(jnp.sin(embedding)), embedding

    gradient, embedding = jit(jax.grad(loss, has_aux=True))(params)
    return np.asarray(embedding), [np.asarray(a) for a in jax.tree.leaves(gradient)]


@functools.cache
def embed_alone(lora):
    return embed(*alone_and_in_a_row(np.float64)[0], lora=lora)


@pytest.mark.parametrize(
    ("remat", "lora"),
    [
        ("none", None),
        ("none", LORA),
        ("attention", LORA),
        ("full", None),
        pytest.param("attention", None, marks=pytest.mark.slow),
        pytest.param("full", LORA, marks=pytest.mark.slow),
    ],
    ids=["none", "none-lora", "attention-lora", "full", "attention", "full-lora"],
)
@pytest.mark.usefixtures("compiled_fast_here")
def test_padding_does_not_matter_float64(float64, remat, lora):
    alone = embed_alone(lora)
    in_a_row = embed(*alone_and_in_a_row(np.float64)[1], remat=remat, lora=lora)
    np.testing.assert_allclose(in_a_row[0], alone[0], rtol=0, atol=1e-10)
    for a, b in zip(in_a_row[1], alone[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def test_a_row_without_own_tokens_stays_finite(rng):
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    valid = own_patch_mask(jnp.asarray([15, 40]), 40, STILL)
    assert list(valid.sum(1)) == [0, 16]
    assert np.isfinite(run(*fresh(STILL), x, valid)[0]).all()


@pytest.mark.usefixtures("compiled_fast_here")
@pytest.mark.parametrize(
    ("n_layers", "ways"),
    [(1, (("attention", False), ("full", False))), (3, (("none", True), ("full", True)))],
    ids=["remat", "scan"],
)
def test_remat_and_scan_change_nothing(n_layers, ways, rng, float64):
    """Neither tokens nor gradients, in training with every dropout and layer drop."""
    x, config = (
        rng.standard_normal((2, 40, 128)),
        dataclasses.replace(RANDOM, encoder_layers=n_layers),
    )
    results = []
    for remat, scan in ("none", False), *ways:
        graphdef, params = fresh(config, np.float64, remat=remat, scan=scan, lora=LORA)

        def loss(params, x, draws, graphdef=graphdef):
            module = nnx.merge(graphdef, params)
            tokens = module(x, layers=(0, 1, n_layers), train=True, draws=draws)
            return sum(jnp.sum(jnp.sin(t)) for t in tokens), tokens

        train = jit(jax.grad(loss, (0, 1), has_aux=True))
        results.append([train(params, x, draws([0, 1], seed)) for seed in range(4)])
    assert {bool(np.all(a == b)) for _, (a, b, _) in results[0]} == {True, False}  # layer dropped
    for other in results[1:]:
        for a, b in zip(*map(jax.tree.leaves, (other, results[0])), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


def test_a_loop_over_the_layers_is_one_layer_to_the_compiler():
    def lines(n_layers, scan):
        config = dataclasses.replace(STILL, encoder_layers=n_layers)
        graphdef, params = fresh(config, scan=scan)
        x = jax.ShapeDtypeStruct((2, 40, 128), np.float32)
        lowered = jax.jit(lambda params, x: nnx.merge(graphdef, params)(x)[0]).lower(params, x)
        return lowered.as_text().count("stablehlo.dot_general")

    assert lines(6, True) == lines(2, True) == lines(1, False)
    assert lines(6, False) > 2 * lines(2, False)


@pytest.mark.parametrize(
    ("chosen", "platform", "scan"),
    [(None, "cpu", False), (None, "gpu", True), (None, "tpu", True), (True, "cpu", True),
     (False, "gpu", False)],
)  # fmt: skip
def test_where_layers_are_a_loop(chosen, platform, scan):
    assert BEATsConfig(scan_layers=chosen).on_platform(platform).scan_layers is scan


def test_remat_stores_less():
    """Counts the values that are stored for the backward pass, before XLA optimises it."""

    def kept(remat):
        graphdef, params = fresh(STILL, remat=remat)
        x = jnp.zeros((2, 160, 128), jnp.float32)
        backward = jax.eval_shape(
            lambda params: jax.vjp(lambda params: nnx.merge(graphdef, params)(x)[0], params)[1],
            params,
        )
        return sum(a.size for a in jax.tree.leaves(backward))

    none, attention, full = map(kept, ("none", "attention", "full"))
    weights = 2 * 2 * 4 * 80 * 80  # layers, clips, heads, queries, keys
    assert attention < none - weights
    assert full < attention - 10 * 2 * 2 * 80 * 32  # ten times a layer's tokens


@pytest.mark.usefixtures("compiled_fast_here")
def test_draws_belong_to_clips(rng, float64):
    """A clip's draws depend on its place in the global batch, not on the device's share."""
    graphdef, params = fresh(RANDOM, np.float64, lora=LORA)
    x = rng.standard_normal((4, 40, 128))

    @jit
    def train(x, draws):
        return nnx.merge(graphdef, params)(x, train=True, draws=draws)[0]

    together = train(x, draws(range(4)))
    halves = [train(x[i : i + 2], draws([i, i + 1])) for i in (0, 2)]
    np.testing.assert_allclose(np.concatenate(halves), together, rtol=0, atol=1e-12)
    same_clip = train(np.stack([x[0]] * 4), draws(range(4)))
    assert all(np.abs(same_clip[i] - same_clip[0]).max() > 0.1 for i in (1, 2, 3))
    assert np.abs(train(x, draws(range(4), seed=1)) - together).max() > 0.1


def test_training_without_dropout_is_evaluation(rng):
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    graphdef, params = fresh(STILL)
    evaluated = run(graphdef, params, x)[0]
    np.testing.assert_array_equal(run(graphdef, params, x, train=True)[0], evaluated)

    def program(config):
        module = nnx.merge(*fresh(config))
        return str(jax.make_jaxpr(lambda d: module(x, train=True, draws=d))(draws([0, 1])))

    assert "random_" in program(RANDOM) and "random_" not in program(STILL)
    evaluated = run(*fresh(RANDOM), x, draws=draws([0, 1]))[0]
    np.testing.assert_array_equal(run(*fresh(RANDOM), x)[0], evaluated)


DROPS = 1  # a seed with which the layer is dropped
PLACES = {  # in one layer and before it
    "dropout": 3,
    "attention_dropout": 1,
    "activation_dropout": 1,
    "dropout_input": 1,
    "encoder_layerdrop": 1,
    "lora": 2,
}


@pytest.mark.parametrize("rate", PLACES)
@pytest.mark.usefixtures("compiled_fast_here")
def test_every_rate_acts_in_training(rng, rate):
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    lora = LORA if rate == "lora" else None
    rates = {} if lora else {rate: 0.5}
    model = fresh(dataclasses.replace(STILL, encoder_layers=1, **rates), lora=lora)
    (trained,) = run(*model, x, train=True, draws=draws([0, 1], seed=DROPS))
    difference = np.abs(trained - run(*model, x)[0])
    assert np.max(difference, axis=(1, 2)).min() > 0.05
    module = nnx.merge(*model)
    program = jax.make_jaxpr(lambda d: module(x, train=True, draws=d))(draws([0, 1]))
    assert str(program).count("random_bits[") == PLACES[rate]
    with pytest.raises(ValueError, match="needs draws"):
        run(*model, x, train=True)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_dropout(rate):
    x = jnp.ones((3, 7, 5001), jnp.float32)
    y = np.asarray(dropout(x, rate, draws([5, 0, 9])))
    kept = y > 0
    deviation = np.sqrt(rate * (1 - rate) / y[0].size)
    assert np.abs(kept.mean((1, 2)) - (1 - rate)).max() < 5 * deviation
    np.testing.assert_allclose(y[kept], 1 / (1 - round(rate * 2**16) / 2**16), rtol=1e-6)
    agree = (kept[0] == kept[1]).mean()
    assert abs(agree - (1 - rate) ** 2 - rate**2) < 0.02


def test_dropout_at_its_ends():
    x = jnp.ones((2, 3), jnp.float32)
    assert dropout(x, 0.0, draws([0, 1])) is x
    assert dropout(x, 0.5, None) is x
    gradient = jax.grad(lambda x: jnp.sum(dropout(x, 1.0, draws([0, 1]))))(x)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.usefixtures("compiled_fast_here")
def test_layer_drop_is_one_draw_for_all_clips(rng):
    """A skipped layer is the identity, for tokens and gradients."""
    graphdef, params = fresh(dataclasses.replace(STILL, encoder_layerdrop=0.4))
    x = rng.standard_normal((2, 16, 128)).astype(np.float32)

    @jit
    def train(params, draws):
        def loss(params):
            hidden = nnx.merge(graphdef, params)(x, layers=(0, 1, 2), train=True, draws=draws)
            return jnp.sum(jnp.sin(hidden[2])), hidden

        gradient, hidden = jax.grad(loss, has_aux=True)(params)
        return gradient["encoder"]["layers"], hidden

    skipped = np.zeros(2)
    for seed in range(60):
        gradient, hidden = train(params, draws([0, 1], seed))
        for i in range(2):
            same = [bool((hidden[i][clip] == hidden[i + 1][clip]).all()) for clip in range(2)]
            assert same[0] == same[1]
            assert same[0] == all(not np.any(a) for a in jax.tree.leaves(gradient[i]))
            skipped[i] += same[0]
    assert (np.abs(skipped - 24) < 4 * np.sqrt(60 * 0.4 * 0.6)).all()


def test_layer_drop_at_rate_one_skips_all(rng):
    x = rng.standard_normal((2, 16, 128)).astype(np.float32)
    model = fresh(dataclasses.replace(STILL, encoder_layerdrop=1.0))
    first, last = run(*model, x, layers=(0, 2), train=True, draws=draws([0, 1]))
    np.testing.assert_array_equal(first, last)


def test_layers_in_any_order_and_no_more_than_needed(rng):
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    model = fresh(STILL)
    hidden = run(*model, x, layers=(0, 1, 2))
    for layers in (2, 0, 2), ():
        for tokens, number in zip(run(*model, x, layers=layers), layers or (2,), strict=True):
            np.testing.assert_array_equal(tokens, hidden[number])

    def products(layers):
        module = nnx.merge(*model)
        return str(jax.make_jaxpr(lambda x: module(x, layers=layers))(x)).count("dot_general")

    assert products((2,)) - products((1,)) == products((1,)) - products((0,)) > 0


def test_bfloat16(rng):
    config = dataclasses.replace(
        STILL, encoder_layers=4, encoder_embed_dim=256, encoder_ffn_embed_dim=1024, embed_dim=128
    )
    quiet = rng.standard_normal((2, 13600))
    loud = np.sign(rng.standard_normal((1, 13600)))  # full scale
    samples = np.round(np.concatenate([30 * quiet, 32767 * loud])).astype(np.int16)
    x = np.concatenate(
        [features(samples), 30 * rng.standard_normal((1, 83, 128))], dtype=np.float32
    )
    embeddings, gradients = [], []
    for compute_dtype in "float32", "bfloat16":
        graphdef, params = fresh(config, compute_dtype=compute_dtype)

        @jit
        def run(params, graphdef=graphdef):
            def loss(params):
                embedding = pooled(graphdef, params, x)
                return jnp.sum(jnp.sin(embedding)), embedding

            return jax.grad(loss, has_aux=True)(params)

        gradient, embedding = run(params)
        assert embedding.dtype == jnp.float32
        embeddings.append(embedding)
        gradients.append(gradient)
    assert np.isfinite(embeddings[1]).all()
    assert (cosine(*embeddings) > 0.999).all()
    assert np.abs(embeddings[1] - embeddings[0]).max() > 1e-5  # else nothing was rounded
    for a, b in zip(*map(jax.tree.leaves, gradients), strict=True):
        assert a.dtype == b.dtype == jnp.float32 and np.isfinite(b).all()
    flat = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(g)]) for g in gradients]
    assert cosine(*flat) > 0.99


def test_tokens_between_layers_are_bfloat16(rng, monkeypatch):
    """Not only the operands of products: also what a layer reads and returns."""
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    seen, apply = [], TransformerEncoderLayer.__call__

    def watched(layer, x, *others):
        y = apply(layer, x, *others)
        seen.append((x.dtype, y.dtype))
        return y

    monkeypatch.setattr(TransformerEncoderLayer, "__call__", watched)
    for dtype in "bfloat16", "float32":
        module = nnx.merge(*fresh(STILL, compute_dtype=dtype))
        tokens = jax.eval_shape(lambda x, module=module: module(x, layers=(0, 1, 2)), x)
        assert {t.dtype for t in tokens} == {jnp.dtype("float32")}
        assert seen == [(jnp.dtype(dtype), jnp.dtype(dtype))] * STILL.encoder_layers
        seen.clear()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias_rows", [None, 1, 2], ids=["no bias", "bias", "gated"])
def test_fused_attention(rng, bias_rows, masked):
    """Equal to separate operations up to the rounding of bfloat16; padding has no influence."""
    q, k, v = (rng.standard_normal((2, 37, 3, 16)).astype(np.float32) for _ in range(3))
    bias = None
    if bias_rows:
        bias = 3 * rng.standard_normal((bias_rows, 3, 37, 37)).astype(np.float32)
    valid = np.arange(37) < np.array([[20], [37]])
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 4 + (0 if bias is None else bias)
    logits = np.where(valid[:, None, None] | (not masked), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    expected = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    if masked:
        k, v = (np.where(valid[:, :, None, None], a, 1e3) for a in (k, v))
    y = fused_attention(q, k, v, bias, valid if masked else None, implementation="xla")
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=0, atol=0.05)
    assert cosine(np.ravel(y), np.ravel(expected)) > 0.9999


@pytest.mark.usefixtures("compiled_fast_here")
def test_fused_attention_is_used(rng, monkeypatch):
    """Also for gradients, except where attention weights are dropped."""
    x = rng.standard_normal((2, 40, 128)).astype(np.float32)
    valid = own_patch_mask(jnp.asarray([24, 40]), 40, STILL)
    steps = {"compute_dtype": "bfloat16"}

    def tokens_and_gradients(graphdef, params):
        def loss(params):
            tokens = nnx.merge(graphdef, params)(x, valid=valid)[0]
            return jnp.sum(jnp.sin(jnp.where(valid[:, :, None], tokens, 0))), tokens

        with jax.numpy_dtype_promotion("standard"):  # JAX's own gradient mixes dtypes
            gradients, tokens = jit(jax.grad(loss, has_aux=True))(params)
        return tokens, gradients

    expected = tokens_and_gradients(*fresh(STILL, **steps))
    taken = []

    def on_any_device(*args):
        taken.append(len(args))
        return fused_attention(*args, implementation="xla")

    monkeypatch.setattr("asdjax.models.attention.fused_attention", on_any_device)
    found = tokens_and_gradients(*fresh(STILL, **steps, fused_attention=True))
    assert len(taken) == STILL.encoder_layers
    own = np.asarray(valid)
    assert cosine(np.ravel(found[0][own]), np.ravel(expected[0][own])) > 0.9999
    largest = max(np.abs(a).max() for a in jax.tree.leaves(expected[1]))
    for (path, a), b in zip(
        jax.tree.leaves_with_path(expected[1]), jax.tree.leaves(found[1]), strict=True
    ):
        error = np.abs(a - b).max()
        assert error < 0.05 * np.abs(a).max() + 1e-4 * largest, (path, error)
    dropping = dataclasses.replace(STILL, attention_dropout=0.1)
    graphdef, params = fresh(dropping, **steps, fused_attention=True)
    jax.eval_shape(
        lambda params: nnx.merge(graphdef, params)(x, train=True, draws=draws([0, 1])), params
    )
    assert len(taken) == STILL.encoder_layers


def count(config, **options):
    module = nnx.eval_shape(lambda: BEATs(config, rng=np.random.default_rng(0), **options))
    return sum(a.size for a in jax.tree.leaves(nnx.state(module, nnx.Param)))


def test_sizes():
    assert count(BEATsEncoderConfig()) == 90_311_792
    assert count(BEATsEncoderConfig(), lora=LoRAConfig(rank=128)) == 90_311_792 + 4_718_592
    assert count(TINY) == 150_724
    assert [n_tokens(frames, TINY) for frames in (998, 598, 1198, 16, 15)] == [496, 296, 592, 8, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"embed_dim": 32, "conv_bias": True, "deep_norm": False, "num_buckets": 4},
        {"relative_position_embedding": False},
        {"gru_rel_pos": False, "input_patch_size": 24, "conv_pos": 7, "conv_pos_groups": 1},
    ],
)
@pytest.mark.usefixtures("compiled_fast_here")
def test_other_architectures(rng, changes):
    config = dataclasses.replace(SMALL, encoder_layers=1, encoder_layerdrop=0.0, **changes)
    graphdef, params = fresh(config)
    assert ("post_extract_proj" in params) == (config.embed_dim != 32)
    assert ("relative_attention_bias" in params["encoder"]) == config.relative_position_embedding
    assert ("grep_a" in params["encoder"]["layers"][0]["self_attn"]) == config.gru_rel_pos
    x = rng.standard_normal((2, 80, 128)).astype(np.float32)

    @jit
    def train(params):
        def loss(params):
            (tokens,) = nnx.merge(graphdef, params)(x, train=True, draws=draws([0, 1]))
            return jnp.sum(jnp.sin(tokens)), tokens

        return jax.grad(loss, has_aux=True)(params)

    gradient, tokens = train(params)
    assert tokens.shape == (2, n_tokens(80, config), 32) and np.isfinite(tokens).all()
    for path, value in leaves(gradient).items():
        used = config.relative_position_embedding or "grep" not in path
        assert np.any(value != 0) == used and np.isfinite(value).all(), path


def test_invalid_arguments_are_refused():
    module = nnx.merge(*fresh(SMALL))

    def shapes(frames, **options):
        x = jax.ShapeDtypeStruct((1, frames, 128), jnp.float32)
        return jax.eval_shape(lambda x: module(x, **options), x)

    with pytest.raises(AsdjaxError, match="clips of 15 frames are too short for BEATs"):
        shapes(15)
    assert shapes(16)[0].shape == (1, 8, 32)
    for layers in (3,), (-1, 2):
        with pytest.raises(AsdjaxError, match="the encoder has 2"):
            shapes(16, layers=layers)
    with pytest.raises(AsdjaxError, match="no classifier"):
        module.probabilities(jnp.zeros((1, 8, 32), jnp.float32))
    with pytest.raises(AsdjaxError, match="max_distance: 80 is too small for 320 buckets"):
        position_buckets(8, dataclasses.replace(TINY, max_distance=80))
