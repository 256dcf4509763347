import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import FLOAT64, LAYER, relative, relative_l2

from asdjax.config import recipe as configs
from asdjax.errors import AsdjaxError
from asdjax.training import cosine_losses
from asdjax.training.adacos import AdaCos, SubClusterAdaCos
from asdjax.training.arcface import ArcFace

SUB_CLUSTER = SubClusterAdaCos()
DYNAMIC = SubClusterAdaCos(dynamic=True)
ADACOS = AdaCos()
ARCFACE = ArcFace()


@functools.cache
def differentiated(config, train):
    def mean(x, centres, stats, y):
        parts = config.apply({"centres": centres}, stats, x, y, train=train)
        return jnp.mean(parts[0]), parts

    return jax.jit(jax.value_and_grad(mean, argnums=(0, 1), has_aux=True))


def loss_and_gradients(config, centres, stats, x, y, train=True):
    return differentiated(config, train)(x, centres, stats, y)


def labels(rng, n_clips, n_classes, soft):
    hard = np.eye(n_classes)[rng.integers(n_classes, size=n_clips)]
    if not soft:
        return hard
    lam = np.where(rng.random(n_clips) < 0.5, rng.random(n_clips), 1)[:, None]
    return lam * hard + (1 - lam) * hard[rng.permutation(n_clips)]


def scale_only(scale):
    return {"scale": jnp.asarray(scale, dtype=float)}


# NumPy oracles, written from the papers' formulas without regard to underflow.


def numpy_cosine(x, w):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=0))


def numpy_loss(x, w, y, scale):
    e = np.exp(scale * numpy_cosine(x, w))
    p = e.reshape(*y.shape, -1).sum(2) / e.sum(1, keepdims=True)
    return -(y * np.log(p)).sum(1), np.log(p)


def numpy_dynamic(x, w, y, scale, without_label):
    cosine = numpy_cosine(x, w)
    k = w.shape[1] // y.shape[1]
    y_columns = np.repeat(y, k, axis=1)
    e = np.exp(scale * cosine) * (1 - y_columns if without_label else 1)
    angle = np.sort((y_columns * np.arccos(np.clip(cosine, -1 + 1e-7, 1 - 1e-7))).sum(1))
    median = angle[(len(angle) - 1) // 2]
    return np.log(e.sum(1).mean()) / (np.cos(min(np.pi / 4, median)) + 1e-7)


def numpy_arcface(x, w, y, scale, margin):
    cosine, loss = numpy_cosine(x, w), np.zeros(len(y))
    for c in range(y.shape[1]):
        theta = np.arccos(cosine[:, c])
        z = cosine.copy()
        wide = theta + margin < np.pi
        z[:, c] = np.where(wide, np.cos(theta + margin), cosine[:, c] - margin * np.sin(margin))
        log_p = scale * z[:, c] - np.log(np.exp(scale * z).sum(1))
        loss -= y[:, c] * log_p
    return loss


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_sub_cluster_golden(golden, kind):
    g = golden("scadacos")
    y = g["y_soft" if kind == "soft" else "y_onehot"]
    _, stats = SUB_CLUSTER.init(5, 48, jax.random.key(0))
    (mean, (loss, logits, _)), (gx, gw) = loss_and_gradients(SUB_CLUSTER, g["W"], stats, g["x"], y)
    assert relative(mean, g[f"{kind}/loss"]) < LAYER
    assert relative(loss, g[f"{kind}/loss_per_sample"]) < LAYER
    assert relative(logits, g["logits"]) < LAYER
    assert relative(np.exp(logits), g["prob"]) < LAYER
    assert relative_l2(gw, g[f"{kind}/grad_W"]) < LAYER
    for row, expected in zip(gx, g[f"{kind}/grad_x"], strict=True):  # one is 1000 x larger
        assert relative_l2(row, expected) < LAYER


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_sub_cluster_golden_float64(golden, float64, kind):
    g = {k: v.astype(np.float64) for k, v in golden("scadacos").items()}
    y = g["y_soft" if kind == "soft" else "y_onehot"]
    _, stats = SUB_CLUSTER.init(5, 48, jax.random.key(0))
    assert relative(stats["scale"], g["s_fixed"]) < FLOAT64
    (mean, (loss, logits, _)), (gx, gw) = loss_and_gradients(SUB_CLUSTER, g["W"], stats, g["x"], y)
    assert mean.dtype == gx.dtype == np.float64
    assert relative(mean, g[f"{kind}/loss_f64"]) < FLOAT64
    assert relative(loss, g[f"{kind}/loss_per_sample_f64"]) < FLOAT64
    assert relative(logits, g["logits_f64"]) < FLOAT64
    assert relative(np.exp(logits), g["prob_f64"]) < FLOAT64
    assert relative_l2(gw, g[f"{kind}/grad_W_f64"]) < FLOAT64
    for row, expected in zip(gx, g[f"{kind}/grad_x_f64"], strict=True):
        assert relative_l2(row, expected) < FLOAT64


def test_edge_golden(golden):
    """A clip on a centre, and an all-zero embedding: uniform probabilities, finite gradients."""
    g = golden("scadacos")
    stats = scale_only(float(g["s_fixed"]))
    (mean, (_, logits, _)), gradients = loss_and_gradients(
        SUB_CLUSTER, g["W"], stats, g["edge/x"], g["edge/y"]
    )
    assert relative(mean, g["edge/loss"]) < LAYER
    assert relative(logits, g["edge/logits"]) < LAYER
    np.testing.assert_allclose(logits[-1], -math.log(5), rtol=LAYER)
    assert all(np.isfinite(a).all() for a in gradients)


def test_dynamic_golden(golden):
    g = golden("scadacos")
    stats = scale_only(g["dyn/s_trace"][0])
    for i in range(3):
        x, y = g[f"dyn/x{i}"], g[f"dyn/y{i}"]
        (mean, (_, _, stats)), (gx, gw) = loss_and_gradients(DYNAMIC, g["W"], stats, x, y)
        assert relative(stats["scale"], g["dyn/s_trace"][i + 1]) < LAYER
        assert relative(mean, g["dyn/loss"][i]) < LAYER
        assert relative_l2(gx, g[f"dyn/grad_x{i}"]) < LAYER
        assert relative_l2(gw[:, ::5], g[f"dyn/grad_W{i}"]) < LAYER
    (mean, (_, _, after)), _ = loss_and_gradients(
        DYNAMIC, g["W"], stats, g["dyn/x0"], g["dyn/y0"], train=False
    )
    assert relative(mean, g["dyn/eval_loss_x0"]) < LAYER
    assert after["scale"] == stats["scale"]


def test_dynamic_golden_one_sub_cluster(golden):
    """The cosine of the median angle decides here."""
    g = golden("scadacos")
    config = SubClusterAdaCos(sub_clusters=1, dynamic=True)
    _, stats = config.init(5, 48, jax.random.key(0))
    assert relative(stats["scale"], g["dyn1/s_trace"][0]) < LAYER
    for i in range(3):
        (mean, (_, _, stats)), _ = loss_and_gradients(
            config, g["dyn1/W"], stats, g[f"dyn1/x{i}"], g["y_onehot"]
        )
        assert relative(stats["scale"], g["dyn1/s_trace"][i + 1]) < LAYER
        assert relative(mean, g["dyn1/loss"][i]) < LAYER


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 3, 1), (6, 16, 1, 16), (20, 33, 12, 3)])
def test_other_shapes(rng, float64, shape, soft):
    n_clips, size, n_classes, k = shape
    x, w = rng.normal(size=(n_clips, size)), rng.normal(size=(size, n_classes * k))
    y = labels(rng, n_clips, n_classes, soft)
    config = SubClusterAdaCos(sub_clusters=k)
    _, stats = config.init(n_classes, size, jax.random.key(0))
    (_, (loss, log_probabilities, same)), _ = loss_and_gradients(config, w, stats, x, y)
    expected, expected_log = numpy_loss(x, w, y, math.sqrt(2) * math.log(n_classes * k - 1))
    np.testing.assert_allclose(loss, expected, rtol=FLOAT64, atol=1e-12)
    np.testing.assert_allclose(log_probabilities, expected_log, rtol=FLOAT64, atol=1e-12)
    assert same["scale"] == stats["scale"]
    config = SubClusterAdaCos(sub_clusters=k, dynamic=True)
    (_, (loss, _, new)), _ = loss_and_gradients(config, w, stats, x, y)
    scale = numpy_dynamic(x, w, y, float(stats["scale"]), without_label=False)
    assert relative(new["scale"], scale) < FLOAT64
    np.testing.assert_allclose(loss, numpy_loss(x, w, y, scale)[0], rtol=FLOAT64, atol=1e-12)


@pytest.mark.parametrize("soft", [False, True])
def test_adacos(rng, float64, soft):
    w = rng.normal(size=(8, 6))
    y = labels(rng, 10, 6, soft)
    x = 3 * w.T[np.argmax(y, axis=1)] + rng.normal(size=(10, 8))  # small angles to the label
    params, stats = ADACOS.init(6, 8, jax.random.key(0))
    assert params["centres"].shape == (8, 6)
    assert relative(stats["scale"], math.sqrt(2) * math.log(5)) < FLOAT64
    (_, (loss, log_probabilities, _)), _ = loss_and_gradients(ADACOS, w, stats, x, y)
    expected, expected_log = numpy_loss(x, w, y, math.sqrt(2) * math.log(5))
    assert relative(loss, expected) < FLOAT64
    assert relative(log_probabilities, expected_log) < FLOAT64
    config = AdaCos(dynamic=True)
    (_, (loss, _, new)), _ = loss_and_gradients(config, w, stats, x, y)
    scale = numpy_dynamic(x, w, y, float(stats["scale"]), without_label=True)
    assert relative(new["scale"], scale) < FLOAT64
    assert relative(loss, numpy_loss(x, w, y, scale)[0]) < FLOAT64


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
def test_arcface(rng, float64, soft, margin):
    x, w, y = rng.normal(size=(30, 3)), rng.normal(size=(3, 4)), labels(rng, 30, 4, soft)
    widest = np.where(y > 0, np.arccos(numpy_cosine(x, w)), 0).max()
    assert margin == 0 or widest + margin > np.pi  # both branches are visited
    config = ArcFace(margin=margin)
    _, stats = config.init(4, 3, jax.random.key(0))
    assert stats["scale"] == 64
    (_, (loss, log_probabilities, _)), _ = loss_and_gradients(config, w, stats, x, y)
    np.testing.assert_allclose(loss, numpy_arcface(x, w, y, 64, margin), rtol=FLOAT64, atol=1e-12)
    np.testing.assert_allclose(log_probabilities, numpy_loss(x, w, y, 64)[1], FLOAT64, atol=1e-12)


def test_arcface_falls_from_0_to_pi(float64):
    """The further from its centre, the larger a clip's loss, also beyond pi - margin."""
    theta = np.linspace(0, np.pi, 400)
    x = np.stack([np.cos(theta), np.sin(theta), np.zeros(400)], axis=1)
    y = np.tile([1.0, 0.0], (400, 1))
    centres = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    (_, (loss, _, _)), gradients = loss_and_gradients(ARCFACE, centres, scale_only(4), x, y)
    assert (np.diff(loss) > 0).all()
    assert all(np.isfinite(g).all() for g in gradients)  # also at exactly 0 and pi


@pytest.mark.parametrize(
    "config",
    [SubClusterAdaCos(sub_clusters=2), SubClusterAdaCos(sub_clusters=2, dynamic=True), ADACOS,
     ARCFACE],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("scale", [1.0, 64.0, 1e4])
def test_extremes_stay_finite(rng, config, scale):
    """Clips on, opposite and far from centres, a zero row, probabilities that underflow."""
    k = 2 if config.name == "sub_cluster_adacos" else 1
    w = np.float32(rng.normal(size=(6, 4 * k)))
    w[:, -k:] = -w[:, :1]
    x = np.stack([w[:, 0], w[:, 0], -w[:, 0], 1e6 * w[:, 0], 1e-6 * w[:, 1], 0 * w[:, 0]])
    y = np.float32(np.eye(4)[[0, 3, 0, 3, 1, 2]])
    y[4] = 0.25, 0.75, 0, 0
    (mean, (loss, log_probabilities, new)), gradients = loss_and_gradients(
        config, w, scale_only(scale), x, y
    )
    for array in (mean, loss, log_probabilities, new["scale"], *gradients):
        assert np.isfinite(array).all()
    assert (loss >= -1e-5).all()
    if config.name != "arcface" and not config.dynamic and scale == 1e4:
        # exp(-2e4) is 0 in every dtype; k columns share the label's probability
        np.testing.assert_allclose(loss[1], 2e4 - math.log(k), rtol=LAYER)


def test_dynamic_scale_does_not_overflow(golden):
    """Clips on their centres multiply the scale by up to sqrt(2) per step, without end."""
    g = golden("scadacos")
    x, y = g["W"].T[::16], np.eye(5, dtype=np.float32)
    step = jax.jit(lambda stats: DYNAMIC.apply({"centres": g["W"]}, stats, x, y, train=True))
    stats = scale_only(20)
    for _ in range(60):
        loss, _, stats = step(stats)
    assert stats["scale"] == cosine_losses.LARGEST_SCALE
    assert np.isfinite(loss).all()


@pytest.mark.parametrize("config", [DYNAMIC, AdaCos(dynamic=True)], ids=str)
def test_dynamic_scale_on_eight_devices(rng, config):
    n_classes, k = 5, 16 if config.name == "sub_cluster_adacos" else 1
    w = np.float32(rng.normal(size=(12, n_classes * k)))
    y = np.float32(labels(rng, 24, n_classes, True))
    x = 2 * w.T[k * np.argmax(y, axis=1)] + np.float32(rng.normal(size=(24, 12)))
    stats = scale_only(4)

    def shard(x, y, axis_name=None):
        return config.apply({"centres": w}, stats, x, y, train=True, axis_name=axis_name)

    one_loss, _, one = jax.jit(shard)(x, y)
    sharded = jax.pmap(functools.partial(shard, axis_name="data"), axis_name="data")
    loss, _, new = sharded(x.reshape(8, 3, 12), y.reshape(8, 3, 5))
    np.testing.assert_allclose(new["scale"], np.full(8, one["scale"]), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(loss), one_loss, rtol=LAYER, atol=1e-6)
    alone = jax.jit(shard)(x[:3], y[:3])[2]
    assert abs(float(alone["scale"] / one["scale"]) - 1) > 1e-3  # the other parts matter


def test_no_gradient_through_the_scale(rng, float64):
    x, w, y = rng.normal(size=(6, 5)), rng.normal(size=(5, 8)), labels(rng, 6, 4, True)
    config = SubClusterAdaCos(sub_clusters=2, dynamic=True)
    (_, (_, _, new)), dynamic = loss_and_gradients(config, w, scale_only(3), x, y)
    _, fixed = loss_and_gradients(SubClusterAdaCos(sub_clusters=2), w, new, x, y)
    for a, b in zip(dynamic, fixed, strict=True):
        assert relative(a, b) < FLOAT64


def test_init():
    params, stats = SUB_CLUSTER.init(7, 512, jax.random.key(3))
    centres = np.asarray(params["centres"])
    bound = math.sqrt(6 / (512 + 112))
    assert centres.shape == (512, 112) and centres.dtype == np.float32
    assert 0.999 * bound < np.abs(centres).max() <= bound * (1 + 1e-6)
    np.testing.assert_allclose(centres.std(), bound / math.sqrt(3), rtol=0.01)
    assert list(stats) == ["scale"] and stats["scale"].shape == ()
    assert relative(stats["scale"], 6.6602815) < LAYER
    other, _ = SUB_CLUSTER.init(7, 512, jax.random.key(4))
    assert not np.array_equal(centres, other["centres"])
    with jax.enable_x64(True):
        double, _ = SUB_CLUSTER.init(7, 512, jax.random.key(3))
        assert double["centres"].dtype == np.float64
        np.testing.assert_array_equal(double["centres"], centres)
    assert SubClusterAdaCos(scale=30.0).init(2, 8, jax.random.key(0))[1]["scale"] == 30


def test_centres_that_are_not_trained(rng):
    config = SubClusterAdaCos(trainable_centres=False)
    params, stats = config.init(5, 8, jax.random.key(0))
    trained, _ = SUB_CLUSTER.init(5, 8, jax.random.key(0))
    assert params == {}
    np.testing.assert_array_equal(stats["centres"], trained["centres"])
    x, y = np.float32(rng.normal(size=(3, 8))), np.eye(5, dtype=np.float32)[:3]
    loss, _, new = config.apply(params, stats, x, y, train=True)
    expected, _, _ = SUB_CLUSTER.apply(trained, stats, x, y, train=True)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(new["centres"], stats["centres"])


def test_one_class_with_sub_clusters(rng):
    params, stats = SUB_CLUSTER.init(1, 8, jax.random.key(0))
    x, y = np.float32(rng.normal(size=(3, 8))), np.ones((3, 1), np.float32)
    (mean, _), gradients = loss_and_gradients(SUB_CLUSTER, params["centres"], stats, x, y)
    assert abs(mean) < 1e-6
    assert all(np.abs(g).max() < 1e-6 for g in gradients)


@pytest.mark.parametrize(
    "config, n_classes",
    [
        (SubClusterAdaCos(sub_clusters=1), 1),
        (SubClusterAdaCos(sub_clusters=2), 1),
        (SubClusterAdaCos(sub_clusters=1, dynamic=True, scale=10.0), 2),
        (ADACOS, 2),
    ],
)
def test_too_few_centres(config, n_classes):
    with pytest.raises(AsdjaxError, match="loss.scale.*at least 3.*sub_cluster"):
        config.init(n_classes, 8, jax.random.key(0))


def test_settings_of_other_losses_are_ignored():
    """The config.yaml of a run of an earlier version has the settings of all losses."""
    tree = "{sub_clusters: 3, trainable_centres: false, scale: 20, dynamic: false, margin: 0.3"
    for name, expected in (
        (
            "sub_cluster_adacos",
            SubClusterAdaCos(trainable_centres=False, scale=20.0, sub_clusters=3),
        ),
        ("adacos", AdaCos(trainable_centres=False, scale=20.0)),
        ("arcface", ArcFace(trainable_centres=False, scale=20.0, margin=0.3)),
    ):
        assert configs.parse(f"loss: {tree}, name: {name}}}", "x").loss == expected
