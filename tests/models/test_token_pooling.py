"""Poolings without weights, compared with their formulas written out in float64."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import relative

from asdjax.config import recipe, registry
from asdjax.config.beats_architecture import BEATsEncoderConfig
from asdjax.config.embedding_parts import Part
from asdjax.errors import AsdjaxError
from asdjax.models.beats import BEATs
from asdjax.models.beats_encoder import BEATsConfig
from asdjax.models.pooling_generalised_mean import GeneralisedMean
from asdjax.models.pooling_relative_deviation import RelativeDeviation
from asdjax.models.pooling_several import Several
from asdjax.models.poolings import AttentiveStatistics, Mean
from asdjax.signal import fbank

pytestmark = pytest.mark.usefixtures("compiled_fast")

BANDS, SIZE = 4, 5
POOLINGS = [
    Mean(),
    RelativeDeviation(gamma=0.0),
    RelativeDeviation(gamma=4.0),
    RelativeDeviation(gamma=19.0),
    GeneralisedMean(),
    GeneralisedMean(power=1.0),
    GeneralisedMean(power=2.5, gamma=16.0),
]
EVERY = [dataclasses.replace(p, keep_bands=keep) for p in POOLINGS for keep in (False, True)]
EVERY.append(Several(members=(EVERY[5], EVERY[2], EVERY[11])))


def pool(pooling, tokens, valid=None, bands=BANDS):
    module = pooling.build(tokens.shape[2], 1, None, bands)
    return jax.jit(partial(module, train=False))(tokens, valid=valid)


def of_tokens(pooling, tokens):
    """The pooled vector of a list of tokens, each a list of numbers."""
    count, size = len(tokens), len(tokens[0])
    mean = [sum(token[j] for token in tokens) / count for j in range(size)]
    distances = [math.dist(token, mean) for token in tokens]
    largest = max(distances)
    if largest <= 1e-8:
        distances, largest = [0.0] * count, 1.0
    raw = [(1 + d / largest) ** getattr(pooling, "gamma", 0) for d in distances]
    weights = [w / sum(raw) for w in raw]
    pooled = []
    for j in range(size):
        if not isinstance(pooling, GeneralisedMean):
            pooled.append(sum(w * token[j] for w, token in zip(weights, tokens, strict=True)))
            continue
        powers = [
            w * max(token[j], 0.0) ** pooling.power
            for w, token in zip(weights, tokens, strict=True)
        ]
        pooled.append(sum(powers) ** (1 / pooling.power))
    return pooled


def oracle(pooling, clip, bands=BANDS):
    """The definition for one clip [L, C], in plain Python, whose numbers are float64."""
    if isinstance(pooling, Several):
        return np.concatenate([oracle(member, clip, bands) for member in pooling.members])
    tokens = [[float(value) for value in token] for token in clip]
    if not pooling.keep_bands:
        return np.array(of_tokens(pooling, tokens))
    vector = []
    for band in range(bands):
        own = [token for i, token in enumerate(tokens) if i % bands == band]
        vector += of_tokens(pooling, own)
    return np.array(vector)


def clips(rng, dtype, steps=7):
    """Random tokens, a clip with equal ones, one where all values are negative, and a quiet one."""
    x = rng.normal(0.3, 1, (5, steps * BANDS, SIZE)).astype(dtype)
    x[1] = x[1, :1]
    x[2] = -np.abs(x[2])
    x[3] *= dtype(1e-15)
    x[4, ::2] = 0  # a token that equals the mean
    x[4, 1::2] = np.where(np.arange(steps * BANDS // 2) % 2, 1, -1)[:, None]
    return x


@pytest.mark.parametrize("pooling", EVERY, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_definition(pooling, dtype, tolerance, rng):
    with jax.enable_x64(dtype == np.float64):
        x = clips(rng, dtype)
        found = np.asarray(pool(pooling, x))
    assert found.dtype == dtype
    for clip, vector in zip(x, found, strict=True):
        expected = oracle(pooling, clip)
        np.testing.assert_allclose(vector, expected, rtol=0, atol=tolerance * np.abs(clip).max())


def test_the_mean_is_that_of_before(rng):
    x = clips(rng, np.float32)
    np.testing.assert_array_equal(pool(Mean(), x), jax.jit(partial(jnp.mean, axis=1))(x))


@pytest.mark.parametrize("hertz", [60, 200, 500, 1000, 2000, 3000, 5000, 7500])
def test_bands_are_those_of_the_sound(hertz):
    """A tone changes most the vector of the band that has its frequency: time-major tokens."""
    encoder = BEATsEncoderConfig(
        encoder_layers=1, encoder_embed_dim=16, encoder_ffn_embed_dim=8, encoder_attention_heads=2,
        embed_dim=16, conv_pos_groups=4,
    )  # fmt: skip
    beats = BEATs(encoder, rng=np.random.default_rng(0))
    time = np.arange(16000) / 16000
    tone = 0.1 * np.sin(2 * np.pi * hertz * time)
    noise = 1e-3 * np.random.default_rng(1).standard_normal(16000)
    sounds = np.stack([noise, noise + tone]).astype(np.float32)
    # the patches' embeddings: in later layers each token depends on all others
    tokens = beats.patch_embedding(fbank.normalised(fbank.fbank(jnp.asarray(sounds))))
    assert tokens.shape[1] == 6 * encoder.bands  # 98 frames
    quiet, loud = np.asarray(pool(Mean(keep_bands=True), tokens, bands=8)).reshape(2, 8, -1)

    def mel(hertz):
        return 1127 * math.log(1 + hertz / 700)

    expected = (mel(hertz) - mel(20)) / (mel(8000) - mel(20)) * 129 / 16
    found = np.argmax(np.linalg.norm(loud - quiet, axis=1))
    assert found == min(7, int(expected))
    assert min(expected % 1, 1 - expected % 1) > 0.05, "too near to the edge of a band"


@pytest.mark.parametrize("pooling", EVERY, ids=str)
def test_a_clip_alone_in_a_batch_and_padded(pooling, rng):
    steps, row = [1, 3, 6], 6
    x = rng.normal(size=(3, row * BANDS, SIZE)).astype(np.float32)
    valid = np.arange(row * BANDS)[None] // BANDS < np.array(steps)[:, None]
    alone = [pool(pooling, x[[i], : n * BANDS])[0] for i, n in enumerate(steps)]
    x[~valid] = np.nan  # whatever lies beyond a clip's end
    assert relative(pool(pooling, x, valid), np.stack(alone)) < 1e-5
    batch = pool(pooling, np.stack([x[2], -x[2], 3 * x[2]]))
    assert relative(batch[0], alone[2]) < 1e-5


@pytest.mark.parametrize("pooling", EVERY, ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_finite_and_right(pooling, masked, rng, float64):
    x = clips(rng, np.float64, steps=4)
    valid = np.ones(x.shape[:2], bool)
    if masked:
        valid[:, -BANDS:] = False
        x[:, -BANDS:] = np.nan
    given = valid if masked else None

    def total(x):
        return jnp.sum(jnp.sin(pool(pooling, x, given)))

    gradient = np.asarray(jax.grad(total)(x))
    assert np.isfinite(gradient).all() and not gradient[~valid].any()
    step = 1e-6
    for clip, token, value in [(0, 0, 0), (0, 5, 3), (0, 11, 4), (2, 1, 1)]:  # where it is smooth
        away = np.zeros_like(x)
        away[clip, token, value] = step
        slope = (total(x + away) - total(x - away)) / (2 * step)
        assert gradient[clip, token, value] == pytest.approx(float(slope), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("pooling", EVERY, ids=str)
def test_gradients_are_finite_in_float32(pooling, rng):
    x = clips(rng, np.float32)
    x[0] = 1e-19 * x[0] + 1  # squares of their differences vanish
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(pool(pooling, x))))(x)
    assert gradient.dtype == np.float32 and np.isfinite(gradient).all()


@pytest.mark.parametrize("pooling", EVERY, ids=str)
def test_the_parts_cover_the_vector(pooling):
    parts = pooling.parts(SIZE, BANDS)
    assert parts[0].start == 0
    for before, after in zip(parts, parts[1:], strict=False):
        assert after.start == before.start + before.size
    module = pooling.build(SIZE, 1, None, BANDS)
    tokens = jax.ShapeDtypeStruct((2, 3 * BANDS, SIZE), jnp.float32)
    shape = jax.eval_shape(partial(module, train=False), tokens).shape
    assert shape == (2, sum(part.size for part in parts))
    kept = [getattr(p, "keep_bands", False) for p in getattr(pooling, "members", [pooling])]
    assert [part.bands for part in parts] == [BANDS if keep else 1 for keep in kept]


def test_names_of_parts():
    members = (
        RelativeDeviation(keep_bands=True),
        Mean(),
        Mean(keep_bands=True),
        GeneralisedMean(),
        GeneralisedMean(power=2.5, gamma=16.0, keep_bands=True),
    )
    assert Several(members=members).parts(10, 8) == (
        Part("relative_deviation_8_bands", 0, 80, 8),
        Part("mean", 80, 10),
        Part("mean_bands", 90, 80, 8),
        Part("generalised_mean_3", 170, 10),
        Part("generalised_mean_2.5_gamma_16_bands", 180, 80, 8),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{name: several, members: []}", "members: name at least one"),
        ("{name: several, members: [mean, {name: mean}]}", "two of them are equal"),
        ("{name: several, members: [attentive_statistics]}", "with weights"),
        ("{name: several, members: [{name: several, members: [mean]}]}", "cannot be inside"),
        ("{name: relative_deviation, gamma: 1000}", "gamma: must be"),
        ("{name: generalised_mean, power: 0.5}", "power: must be"),
        ("{name: mean, gamma: 3}", "gamma"),
    ],
)
def test_poolings_that_cannot_be(text, words):
    with pytest.raises(AsdjaxError, match=rf"model\.pooling.*{words}"):
        recipe.parse(f"model: {{name: beats, pooling: {text}}}", "r.yaml")


def test_recipes_and_runs_of_before_are_read():
    for text in "mean", "{name: mean}":
        config = recipe.parse(f"model: {{name: beats, pooling: {text}}}", "r.yaml")
        assert config.model.pooling == Mean()
    members = (Mean(keep_bands=True), RelativeDeviation(gamma=4.0))
    config = recipe.Config(model=BEATsConfig(pooling=Several(members=members)))
    assert recipe.parse(recipe.dump(config), "r.yaml") == config


def test_every_pooling_states_what_it_is():
    for name in registry.names("pooling"):
        pooling = registry.find("pooling", name)()
        assert pooling.sentence()
    banded = dataclasses.replace(EVERY[-1].members[0], keep_bands=True)
    assert banded.sentence() == "relative deviation pooling (gamma 4) of each frequency band"


def test_parts_of_an_encoder():
    banded = RelativeDeviation(keep_bands=True)
    model = BEATsConfig(pooling=banded, embedding_size=0, layers=(3, 6))
    assert model.embedding_parts == (Part("relative_deviation_8_bands", 0, 8 * 1536, 8),)
    assert (
        "of each frequency band over the tokens of layers 3, 6, 12288 values"
        in (model.sentences()[1])
    )
    assert dataclasses.replace(model, embedding_size=64).embedding_parts == ()
    with_weights = dataclasses.replace(model, pooling=AttentiveStatistics())
    assert with_weights.embedding_parts == (Part("attentive_statistics", 0, 1536),)
