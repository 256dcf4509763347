"""MultiResNet and its weights' conversion against ASDKit's, stage by stage."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import (
    BLOCK,
    COSINE,
    EMBEDDING,
    FLOAT64,
    GRADIENT,
    LAYER,
    MULTIRESNET_EVAL_ATOL,
    MULTIRESNET_TRAIN_ATOL,
    relative,
    relative_l2,
)
from flax import nnx

from asdjax.convert.asdkit import multiresnet_from_torch, multiresnet_to_torch
from asdjax.errors import AsdjaxError
from asdjax.models.building import build, skeleton
from asdjax.models.multiresnet import flatten, shortest
from asdjax.models.multiresnet_encoder import (
    MultiResNetConfig,
    SpectrogramConfig,
    StridedConvConfig,
)
from asdjax.models.parameters import apply, split
from asdjax.signal.stft import magnitude_spectrum

CONFIG, RATE, SHORTEST = MultiResNetConfig(), 16000, 71680
SMALL = MultiResNetConfig(fft_branch=False, spectrograms=(SpectrogramConfig(256, 128),))
BRANCHES = {
    "fft": slice(0, 128),
    "stft_0": slice(128, 256),
    "stft_1": slice(256, 384),
    "stft_2": slice(384, 512),
}


def shapes(*args):
    """Structure, weights and statistics of an embedder, the arrays as shapes."""
    return split(skeleton(*args))


@pytest.fixture(scope="module")
def reference(golden):
    return golden("multiresnet_io")


@pytest.fixture(scope="module")
def state(golden):
    return golden("multiresnet_state")


@pytest.fixture(scope="module")
def trees(state):
    return multiresnet_from_torch(state, CONFIG, SHORTEST, RATE)


@pytest.fixture(scope="module")
def graphdef():
    return shapes(CONFIG, SHORTEST, RATE)[0]


def double(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)


def train_step(graphdef, params, stats, waveform, weights):
    """Gradient of sum(embedding * weights) in training, the embedding, the new statistics."""

    @jax.jit
    def step(params, stats, waveform, weights):
        def loss(params):
            embedding, new = apply(graphdef, params, stats, waveform, train=True)
            return jnp.sum(embedding * weights), (embedding, new)

        return jax.grad(loss, has_aux=True)(params)

    gradient, (embedding, new) = step(params, stats, waveform, weights)
    return np.asarray(embedding), multiresnet_to_torch(gradient, new, CONFIG)


@pytest.fixture(scope="module")
def trained(graphdef, trees, reference):
    return train_step(graphdef, *trees, reference["wave"], reference["train/R"])


def check(name, value, reference, tolerance):
    """Compare an array of ours, in ASDKit's axes, with a thinned one of the reference."""
    thinned = np.asarray(value).ravel()[:: reference[f"stride/{name}"]]
    assert relative(thinned, reference[name]) < tolerance, name


def check_stages(branch, stages, trees, reference):
    """Compare what a branch yields on its way (name, value, tolerance), all in one program."""
    tolerances = {}

    @jax.jit
    def values(trees, waveform):
        found = list(stages(trees, waveform))
        tolerances.update({name: tolerance for name, _, tolerance in found})
        return {name: value for name, value, _ in found}

    for name, value in values(trees, reference["wave"][:1]).items():
        check(f"mid/{branch}/{name}", value, reference, tolerances[name])


def channels_first(x):
    return jnp.moveaxis(x, -1, 1)


def test_embedding(graphdef, trees, reference):
    evaluate = jax.jit(lambda *args: apply(graphdef, *args, train=False))
    embedding, stats = evaluate(*trees, reference["wave"])
    assert embedding.dtype == jnp.float32
    jax.tree.map(np.testing.assert_array_equal, stats, trees[1])
    for name, part in BRANCHES.items():
        expected = reference[f"eval/emb_{name}"]
        value = np.asarray(embedding[:, part])
        np.testing.assert_allclose(value, expected, rtol=0, atol=MULTIRESNET_EVAL_ATOL)
        assert relative(value, expected) < EMBEDDING
    for a, b in zip(np.asarray(embedding), reference["eval/emb"], strict=True):
        assert a @ b > COSINE * np.linalg.norm(a) * np.linalg.norm(b)


def test_stages_of_the_fft_branch(graphdef, trees, reference):
    def stages(trees, waveform):
        branch = nnx.merge(graphdef, *trees).fft
        x = magnitude_spectrum(waveform)[..., None]
        for conv, name in zip(branch.convs, ("conv1d_2", "conv1d_5", "conv1d_8"), strict=True):
            x = conv(x)
            yield name, channels_first(x), LAYER
        yield "aggregate", branch.hidden[0](flatten(x), train=False), BLOCK

    check_stages("fft", stages, trees, reference)


def test_stages_of_an_stft_branch(graphdef, trees, reference):
    def stages(trees, waveform):
        branch = nnx.merge(graphdef, *trees).stft[0]
        x = branch.image(branch.spectrogram(waveform), train=False)
        yield "bn_freq", x, LAYER
        x = branch.stem(x, train=False)
        yield "layers_0", channels_first(x), LAYER
        for i, block in enumerate(branch.blocks):
            if i == 2:
                inputs = block.norm1(x, train=False)
                yield "layers_2_0_bn", channels_first(inputs), BLOCK
                residual = block.residual(inputs, train=False)
                yield "layers_2_0_main_after_se", channels_first(residual), BLOCK
                yield "layers_2_0_skip", channels_first(block.shortcut(inputs)), BLOCK
            x = block(x, train=False)
            if i % 2 == 1:
                yield f"layers_{i // 2 + 1}", channels_first(x), BLOCK
        yield "flat", flatten(jnp.max(x, axis=2)), BLOCK

    check_stages("stft0", stages, trees, reference)


def test_training_embedding_and_statistics(trained, reference, state):
    embedding, arrays = trained
    for name, part in BRANCHES.items():
        expected = reference[f"train/emb_{name}"]
        np.testing.assert_allclose(
            embedding[:, part], expected, rtol=0, atol=MULTIRESNET_TRAIN_ATOL
        )
    names = [n for n in state if n.endswith(("running_mean", "running_var"))]
    assert len(names) == 124
    for name in names:
        assert relative(arrays[name], reference[f"train/new_stats/{name}"]) < LAYER, name
    for name in (n for n in state if n.endswith("window")):
        np.testing.assert_array_equal(arrays[name], state[name])


MOVED = 10
"""Of 126 gradients at most, those that another place of a maximum may change; see below."""


def unlike(gradients, reference, state):
    """The weights whose gradients are not the reference's."""
    found = []
    for name in (n for n in state if n.endswith("weight")):
        gradient = gradients[name].astype(np.float64)
        norm, expected_norm = np.linalg.norm(gradient), float(reference[f"train/grad_norm/{name}"])
        if f"train/grad/{name}" in reference:
            expected = reference[f"train/grad/{name}"]
        else:
            expected, gradient = reference[f"train/grad_head/{name}"], gradient.ravel()[:256]
        same_norm = norm == pytest.approx(expected_norm, rel=GRADIENT)
        if not (same_norm and relative_l2(gradient, expected) < GRADIENT):
            found.append(name)
    return found


def test_training_gradients(graphdef, trees, trained, reference, state):
    """In float32; where rounding decides which of two nearly equal values is a maximum, in float64.

    On some processors (seen with AVX-512) one maximum over time lies elsewhere than in the
    reference, which changes the gradients before it by some per cent. In float64 none does.
    """
    assert sum(name.endswith("weight") for name in state) == 126
    moved = unlike(trained[1], reference, state)
    assert len(moved) <= MOVED, moved
    if moved:
        with jax.enable_x64(True):
            inputs = double((reference["wave"], reference["train/R"]))
            _, gradients = train_step(graphdef, *double(trees), *inputs)
        assert not unlike(gradients, reference, state)


def test_float64(graphdef, trees, reference, float64):
    waveform = reference["wave"].astype(np.float64)
    run = jax.jit(lambda *args: [apply(graphdef, *args, train=t)[0] for t in (False, True)])
    evaluated, trained = run(*double(trees), waveform)
    assert evaluated.dtype == jnp.float64
    assert relative(evaluated, reference["eval/emb_f64"]) < FLOAT64
    assert relative(trained, reference["train/emb_f64"]) < FLOAT64


@pytest.mark.slow
def test_float64_gradient_norms(graphdef, trees, reference, state, float64):
    inputs = double((reference["wave"], reference["train/R"]))
    _, gradients = train_step(graphdef, *double(trees), *inputs)
    for name in (n for n in state if n.endswith("weight")):
        expected = float(reference[f"train/grad_norm/{name}"])
        assert np.linalg.norm(gradients[name]) == pytest.approx(expected, rel=FLOAT64), name


def test_sizes(reference):
    def count(tree):
        return sum(array.size for array in jax.tree.leaves(tree))

    _, params, _ = shapes(CONFIG, SHORTEST, RATE)
    assert count(params) == reference["n_params"]
    assert count(params["fft"]) == reference["n_params_fft"]
    assert [count(params["stft"][str(i)]) for i in range(3)] == list(reference["n_params_stft"])
    assert count(shapes(CONFIG, 12 * RATE, RATE)[1]) == 5_033_200
    assert count(shapes(CONFIG, 10 * RATE, RATE)[1]) == 5_000_432


@pytest.mark.parametrize("n_samples", [71680, 71681, 96001, 100003, 160000, 192000])
@pytest.mark.usefixtures("compiled_fast_here")
def test_any_length_from_the_shortest_on(n_samples):
    graphdef, params, stats = shapes(CONFIG, n_samples, RATE)
    waveform = jax.ShapeDtypeStruct((3, n_samples), jnp.float32)
    for train in False, True:
        embedding, new = jax.eval_shape(
            lambda p, s, w, t=train: apply(graphdef, p, s, w, train=t), params, stats, waveform
        )
        assert embedding.shape == (3, 512)
        assert embedding.dtype == jnp.float32
        assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
            lambda a: (a.shape, a.dtype), stats
        )


OTHER = MultiResNetConfig(
    spectrograms=(SpectrogramConfig(400, 160), SpectrogramConfig(1000, 300)),
    low_hz=0,
    high_hz=4000,
    branch_size=24,
    squeeze_ratio=4,
)


@pytest.mark.parametrize(
    "config, size",
    [(SMALL, 128), (dataclasses.replace(CONFIG, spectrograms=(), branch_size=48), 48), (OTHER, 72)],
    ids=["one STFT", "FFT only", "others"],
)
@pytest.mark.usefixtures("compiled_fast_here")
def test_other_configurations(config, size):
    n_samples = shortest(config, RATE) + 13
    graphdef, *arrays = shapes(config, n_samples, RATE)
    waveform = jax.ShapeDtypeStruct((3, n_samples), jnp.float32)
    embedding, _ = jax.eval_shape(
        lambda *args: apply(graphdef, *args, train=True), *arrays, waveform
    )
    assert embedding.shape == (3, size)


@pytest.mark.usefixtures("compiled_fast_here")
def test_a_fresh_network_trains(rng):
    n_samples = shortest(SMALL, RATE) + 13
    graphdef, params, stats = split(build(SMALL, n_samples, RATE, seed=1))
    abstract = shapes(SMALL, n_samples, RATE)
    assert graphdef == abstract[0]
    for tree, expected in zip((params, stats), abstract[1:], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), tree, expected)

    waveform = rng.standard_normal((3, n_samples)).astype(np.float32)
    step = jax.jit(lambda *args: apply(graphdef, *args, train=True))
    embedding, new = step(params, stats, waveform)
    assert np.all(np.isfinite(embedding))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), stats, new)
    for path, changed in jax.tree.leaves_with_path(moved):
        assert changed == ("window" not in jax.tree_util.keystr(path)), path


@pytest.mark.usefixtures("compiled_fast_here")
def test_bfloat16(rng):
    """Convolutions' operands are rounded, and nothing else: embeddings and gradients stay near."""
    small = dataclasses.replace(
        OTHER, spectrograms=OTHER.spectrograms[:1], stage_channels=(8, 16), fft_hidden_layers=1
    )
    found, n_samples = {}, shortest(small, RATE) + 13
    tones = np.sin(np.arange(n_samples) * rng.uniform(0.1, 1, (8, 1)))  # unlike each other
    waveform = (tones + 0.1 * rng.standard_normal(tones.shape)).astype(np.float32)
    for dtype in "float32", "bfloat16":
        config = dataclasses.replace(small, compute_dtype=dtype)
        graphdef, params, stats = split(build(config, n_samples, RATE, seed=1))
        run = functools.partial(apply, graphdef, train=True)

        def loss(params, stats, run=run):
            embedding, _ = run(params, stats, waveform)
            return jnp.sum(embedding * jnp.cos(jnp.arange(embedding.shape[1]))[None]), embedding

        gradient, embedding = jax.jit(jax.grad(loss, has_aux=True))(params, stats)
        assert {leaf.dtype for leaf in jax.tree.leaves((gradient, embedding))} == {
            np.dtype(np.float32)
        }
        found[dtype] = (
            embedding,
            np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)]),
        )
    (exact, exact_gradient), (rounded, rounded_gradient) = found.values()
    assert 1e-4 < relative_l2(rounded, exact) < 0.04
    assert relative_l2(rounded_gradient, exact_gradient) < 0.2


def test_the_seed_alone_decides_the_initial_weights():
    one, same, other = (split(build(SMALL, 4480, RATE, seed=s))[1] for s in (3, 3, 4))
    equal = jax.tree.map(np.array_equal, one, same)
    assert all(jax.tree.leaves(equal))
    assert not any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(np.equal(a, b)), one, other)))


def test_shortest():
    assert shortest(CONFIG, RATE) == SHORTEST
    assert shortest(dataclasses.replace(CONFIG, spectrograms=()), RATE) == 70014
    assert shortest(SMALL, RATE) == 35 * 128
    narrow = dataclasses.replace(SMALL, low_hz=1000, high_hz=2000)
    with pytest.raises(AsdjaxError, match="n_fft 256 has 17 bins"):
        shortest(narrow, RATE)


def test_too_short_clips_are_refused():
    words = r"audio.clip_seconds: .*71679 samples \(4.47994 s\) .*71680 samples \(4.48 s\)"
    with pytest.raises(AsdjaxError, match=words):
        build(CONFIG, SHORTEST - 1, RATE, seed=0)


def test_clips_of_another_length_are_refused(graphdef, trees):
    with pytest.raises(AsdjaxError, match="clips of 71680 samples, not 71681"):
        apply(graphdef, *trees, np.zeros((2, 71681), np.float32), train=False)


def test_conversion_is_a_bijection(state, trees):
    back = multiresnet_to_torch(*trees, CONFIG)
    assert back.keys() == state.keys()
    for name, array in back.items():
        if name.endswith("num_batches_tracked"):
            assert array == 0 and array.dtype == state[name].dtype
        else:
            assert array.dtype == np.float32 and array.flags.c_contiguous
            np.testing.assert_array_equal(array, state[name], err_msg=name)
    again = multiresnet_from_torch(back, CONFIG, SHORTEST, RATE)
    jax.tree.map(np.testing.assert_array_equal, again, trees)


def test_conversion_reports_every_mismatch_together(state, trees):
    wrong = dict(state)
    del wrong["fft_layer.layer.last_layer.12.weight"]
    wrong["surplus"] = np.zeros(3)
    name = "stft_layer_list.1.layer.layers.2.0.layer.1.weight"
    wrong[name] = wrong[name][:, :, :2]
    wrong["stft_layer_list.0.stft.stft.window"] = np.hamming(256)
    with pytest.raises(AsdjaxError) as error:
        multiresnet_from_torch(wrong, CONFIG, SHORTEST, RATE)
    for words in [
        "missing fft_layer.layer.last_layer.12.weight",
        "unexpected surplus",
        f"{name} has shape (32, 16, 2, 3), not (32, 16, 3, 3)",
        "stft_layer_list.0.stft.stft.window is not the periodic Hann window",
    ]:
        assert words in str(error.value)
    with pytest.raises(AsdjaxError, match=r"aggregate_layer.1.weight has shape \(128, 128\)"):
        multiresnet_from_torch(state, CONFIG, 12 * RATE, RATE)
    fewer = {key: value for key, value in trees[0].items() if key != "fft"}
    with pytest.raises(AsdjaxError, match="missing params.fft.out.kernel"):
        multiresnet_to_torch(fewer, trees[1], CONFIG)


def test_other_architectures_have_their_shapes():
    config = dataclasses.replace(
        CONFIG,
        fft_convs=(StridedConvConfig(128, 32), StridedConvConfig(32, 8)),
        fft_channels=32,
        fft_hidden_layers=2,
        stage_channels=(16, 32),
        branch_size=24,
    )
    graphdef, params, stats = shapes(config, shortest(config, RATE), RATE)
    waveform = jax.ShapeDtypeStruct((2, shortest(config, RATE)), jnp.float32)
    embed = functools.partial(apply, graphdef, train=False)
    embedding, _ = jax.eval_shape(embed, params, stats, waveform)
    assert embedding.shape == (2, 4 * 24)
    assert len(params["fft"]["convs"]) == 2 and len(params["fft"]["hidden"]) == 2
    assert len(params["stft"]["0"]["blocks"]) == 4
