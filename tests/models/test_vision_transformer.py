"""The transformers on spectrograms: published embeddings, parts, padding, adapters, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import POOLED_ATOL
from support import spectrogram_weights
from support.spectrogram_weights import FROZEN, embedded, folder, network

from asdjax.config import registry, schema
from asdjax.config.beats_architecture import LoRAConfig
from asdjax.embedder import load
from asdjax.errors import AsdjaxError
from asdjax.models import building, lora, parameters
from asdjax.models.dropout import Draws
from asdjax.models.vision_transformer import sines

NAMES = tuple(spectrogram_weights.FILES)
LORA = LoRAConfig(rank=2, targets=("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"))


def test_class_tokens_of_ast_are_the_published_embedding(golden):
    io = golden("ast_tiny_io")
    for samples in (20000, 164080):
        found = embedded("ast", io[f"n{samples}/wave"], class_tokens=True)
        expected = io[f"n{samples}/published"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=POOLED_ATOL)


def test_ast_in_float64(golden, float64):
    io = golden("ast_tiny_io")
    _, graphdef, params = network("ast", **FROZEN)
    params = jax.tree.map(lambda a: a.astype(np.float64), params)
    spectrogram = io["n20000/fbank"].astype(np.float64)
    encoder = parameters.merged(graphdef, params, {}).encoder
    found = jax.jit(lambda x: encoder(x).layers[0])(spectrogram)
    np.testing.assert_allclose(found, io["n20000/tokens_f64"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_padding_has_no_influence(name, rng, compiled_fast_here):
    lengths = (9000, 15100, 40011)
    waves = [rng.normal(0, 0.1, n).astype(np.float32) for n in lengths]
    embedder = load(folder(name))
    alone = [embedder.embed([wave])[0] for wave in waves]
    _, graphdef, params = network(name, **FROZEN)
    rows = np.stack([np.pad(wave, (0, 41000 - len(wave))) for wave in waves])
    rows[0, 9000:] = 0.5  # whatever the padding is
    apply = jax.jit(lambda w, n: parameters.apply(graphdef, params, {}, w, train=False, length=n))
    together = apply(rows, np.array(lengths, np.int32))[0]
    np.testing.assert_allclose(together, alone, rtol=0, atol=POOLED_ATOL)


def test_a_long_clip_is_embedded_in_parts(rng):
    """A part has the columns of the table of positions; the step from column to column goes on."""
    wave = rng.normal(0, 0.1, 16000 * 12).astype(np.float32)
    columns, frames = 101, 1198
    total = (frames - 16) // 10 + 1
    start = columns * 10 * 160
    first = wave[: 400 + 160 * 1015]
    embedder = load(folder("ast"))
    whole, one, other = (embedder.embed([w], "none")[0] for w in (wave, first, wave[start:]))
    assert len(whole) == 12 * total and len(one) == 12 * columns
    np.testing.assert_allclose(whole[: len(one)], one, rtol=0, atol=1e-4)
    np.testing.assert_allclose(whole[len(one) :], other, rtol=0, atol=1e-4)
    classes = [embedded("ast", w[None], class_tokens=True)[0] for w in (wave, first, wave[start:])]
    np.testing.assert_allclose(classes[0], (classes[1] + classes[2]) / 2, rtol=0, atol=1e-4)


def test_tokens_are_time_major(rng):
    """A change of the last frames changes the last column's patches alone, before the layers."""
    _, graphdef, params = network("ast", **FROZEN)
    encoder = parameters.merged(graphdef, params, {}).encoder
    one = rng.normal(0, 1, (1, 116, 128)).astype(np.float32)
    other = one.copy()
    other[:, 106:] += 1
    differ = np.abs(encoder.patches(one) - encoder.patches(other)).max(axis=(0, 3)) > 0
    assert differ.shape == (11, 12)
    np.testing.assert_array_equal(differ.all(axis=1), np.arange(11) == 10)
    np.testing.assert_array_equal(differ.any(axis=1), np.arange(11) == 10)


@pytest.mark.parametrize("name", NAMES)
def test_adapters_begin_at_the_encoder_and_are_merged(name, rng, compiled_fast_here):
    wave = rng.normal(0, 0.1, (2, 16000)).astype(np.float32)
    encoder, graphdef, params = network(
        name, adaptation="lora", lora=LORA, pooling=FROZEN["pooling"], embedding_size=0
    )
    apply = jax.jit(lambda p, g: parameters.apply(g, p, {}, wave, train=False)[0], static_argnums=1)
    np.testing.assert_allclose(apply(params, graphdef), embedded(name, wave), rtol=0, atol=1e-5)
    trained, frozen = building.partition(encoder, params)
    paths = {path[-1] for path in _paths(trained)}
    assert paths == {"lora_a", "lora_b"} and len(_paths(trained)) == 2 * 6 * encoder.encoder.depth
    drawn = jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32), trained)
    adapted = parameters.join(drawn, frozen)
    merged, plain = encoder.for_inference(adapted)
    module = building.skeleton(merged, None, 16000)
    assert not any(lora.is_adapter(path) for path in _paths(plain))
    other = apply(plain, parameters.split(module)[0])
    np.testing.assert_allclose(apply(adapted, graphdef), other, rtol=0, atol=1e-4)
    assert np.abs(other - embedded(name, wave)).max() > 1e-3


def _paths(tree, path=()):
    if not isinstance(tree, dict):
        return {path}
    return {p for key, value in tree.items() for p in _paths(value, (*path, key))}


@pytest.mark.parametrize(("name", "adaptation"), [*((n, "full") for n in NAMES), ("ast", "lora")])
def test_recomputed_layers_give_the_same_gradients(name, adaptation, rng):
    wave = rng.normal(0, 0.1, (2, 9000)).astype(np.float32)

    def gradients(remat):
        settings = {"pooling": FROZEN["pooling"], "embedding_size": 8, "remat": remat}
        adapters = LoRAConfig(rank=2, dropout=0.3)
        encoder, graphdef, params = network(name, adaptation=adaptation, lora=adapters, **settings)
        trained, frozen = building.partition(encoder, params)

        def loss(trained):
            joined = parameters.join(trained, frozen)
            draws = Draws(jax.random.key(0), jnp.arange(2))
            found = parameters.apply(graphdef, joined, {}, wave, train=True, draws=draws)[0]
            return jnp.sum(jnp.square(found))

        return jax.jit(jax.grad(loss))(trained)

    plain, again = gradients("none"), gradients("full")
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain["projection"]))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close(name, rng, compiled_fast_here):
    waves = [rng.normal(0, 0.1, 16000).astype(np.float32)]
    one, other = (load(folder(name), compute_dtype=kind).embed(waves)[0]
                  for kind in ("float32", "bfloat16"))  # fmt: skip
    assert not np.array_equal(one, other)
    assert one @ other > 0.999 * np.linalg.norm(one) * np.linalg.norm(other)


def test_sines_of_single_places():
    """Computed place by place, in double precision."""
    found = sines(70, 8, 16)
    for step, band in ((0, 0), (1, 0), (0, 1), (69, 7), (33, 2)):
        expected = []
        for position in (band, step):
            angles = [position / 10000 ** (i / 4) for i in range(4)]
            expected += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
        np.testing.assert_allclose(found[step, band], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "grid"), [("ast", (10, 101, 12)), ("eat", (16, 64, 8)), ("dasheng", (4, 252, 1))]
)
def test_a_recipe_that_states_one_size_has_the_others_of_its_encoder(name, grid):
    kind = registry.find("encoder", name)
    encoder = schema.read(kind, {"name": name, "encoder": {"depth": 2}}, "model", "x").encoder
    assert encoder.depth == 2 and (encoder.stride, encoder.columns, encoder.bands) == grid
    with pytest.raises(AsdjaxError, match="published_as"):
        schema.read(kind, {"name": name, "encoder": {"published_as": "BEATs"}}, "model", "x")


@pytest.mark.parametrize("name", NAMES)
def test_settings_that_do_not_fit(name):
    encoder = spectrogram_weights.model(name, **FROZEN)
    assert all(possible for possible, _, _ in encoder.checks(16000))
    for change, words in (
        ({"layers": (4,)}, "has layers 1 to 3"),
        ({"layers": (2, 1)}, "rising order"),
        ({"embedding_size": 16}, "frozen trains nothing"),
        ({"random_init": True}, "together with model.weights"),
        ({"adaptation": "lora", "lora": LoRAConfig(targets=())}, "at least one projection"),
        ({"class_tokens": True, "layers": (1,)}, "not used with model.class_tokens"),
    ):
        found = spectrogram_weights.changed(encoder, **change).checks(16000)
        assert any(words in what for possible, _, what in found if not possible), words
    assert not encoder.checks(8000)[0][0]
    with pytest.raises(AsdjaxError, match="samples are too short"):
        encoder.build(encoder.shortest - 1, 16000, np.random.default_rng(0))
    module = encoder.build(encoder.shortest, 16000, np.random.default_rng(0))
    assert module.embedding_size == 32
    with pytest.raises(AsdjaxError, match="samples are too short"):
        module.tokens(jnp.zeros((1, encoder.shortest - 1)))
    with pytest.raises(AsdjaxError, match="no classifier"):
        encoder.require_classifier()
