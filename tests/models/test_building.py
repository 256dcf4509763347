"""Networks of a plugin's encoders: layers of flax, frozen and pretrained weights."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import TESTS, relative
from flax import nnx
from support.plugins import plugins_of_the_test as plugins_of_the_test  # a fixture

from asdjax.cli import main
from asdjax.config import recipe as configs
from asdjax.config import registry
from asdjax.config.interfaces import Encoder
from asdjax.errors import AsdjaxError
from asdjax.models import building, parameters
from asdjax.models.layers import Linear
from asdjax.store.checkpoint import Checkpoints, digest
from asdjax.store.runs import Run
from asdjax.training.learner import Learner

TINY = TESTS / "tiny.yaml"
LOUDNESS = '''
import dataclasses
import jax.numpy as jnp
from flax import nnx
import asdjax

@asdjax.register
@dataclasses.dataclass(frozen=True)
class Loudness(asdjax.Encoder):
    """The mean power of successive parts of a clip."""

    name: str = "loudness"
    parts: int = 8
    """Parts of a clip."""

    def build(self, n_samples, sample_rate, rng):
        return Network(self.parts, nnx.Rngs(int(rng.integers(2**31))))

    def sentences(self):
        return f"loudness of {self.parts} parts", "4 values", "linear"

class Network(nnx.Module):
    def __init__(self, parts, rngs):
        self.parts, self.embedding_size = parts, 4
        self.norm = nnx.BatchNorm(parts, axis_name="clips", rngs=rngs)
        self.linear = nnx.Linear(parts, 4, rngs=rngs)

    def __call__(self, waveform, *, train=False, axis_name=None):
        cut = waveform[:, : waveform.shape[1] // self.parts * self.parts]
        power = jnp.mean(jnp.square(cut.reshape(len(cut), self.parts, -1)), axis=2)
        return self.linear(self.norm(jnp.log(power + 1e-6), use_running_average=not train))
'''


@pytest.mark.usefixtures("plugins_of_the_test", "compiled_fast_here")
def test_an_encoder_of_flaxs_own_layers(corpus_root, tmp_path, capsys):
    plugin, run, out = tmp_path / "loudness.py", Run(tmp_path / "run"), tmp_path / "e.npz"
    plugin.write_text(LOUDNESS)
    registry.load_plugin(plugin)
    command = ["run", str(TINY), "--data", str(corpus_root), "--run", str(run.path)]
    assert main([*command, "--model.parts", "5", "--model", "loudness"]) == 0
    step = run.finished_training()["step"]
    learner = Learner(run.config(), n_classes=3, n_samples=6400)
    checkpoints = Checkpoints(run.checkpoints)
    weights = checkpoints.restore(step, {"weights": learner.shapes().weights})["weights"]
    assert weights["stats"]["model"]["norm"]["mean"].any()  # BatchNorm's, in training

    embed = ["embed", str(run.path), str(corpus_root / "fan"), "--out", str(out)]
    assert main(embed) == 0
    with np.load(out) as found:
        own = run.read_embeddings("raw", "fan").embedding
        assert found["embedding"].shape[1] == 4 and relative(found["embedding"], own) < 1e-5
        about = json.loads(str(found["about"]))
    assert about["compute_dtype"] == "float32" and about["layers"] == []
    for words, *options in [
        ("compute_dtype bfloat16: loudness", "--compute-dtype", "bfloat16"),
        ("loudness has none", "--pool", "mean"),
    ]:
        capsys.readouterr()
        assert main([*embed, "--overwrite", *options]) == 1
        assert words in capsys.readouterr().err
    assert main(["convert", "torch", str(run.path), str(tmp_path / "weights.npz")]) == 1
    assert "ASDKit has no loudness" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Stored:
    """Weights that lie in memory."""

    path: Path
    kernel: np.ndarray
    digest: str = "of the kernel"


@dataclasses.dataclass(frozen=True)
class Chained(Encoder):
    """Two linear maps, of which some stay as they are."""

    name: str = "chained"
    fixed: tuple[str, ...] = ("one",)
    weights: str = "here"

    def build(self, n_samples, sample_rate, rng):
        return Chain(n_samples, rng)

    def sentences(self):
        return "waveform", "2 values", "chain"

    def trains(self, path):
        return path[0] not in self.fixed

    def pretrained(self, weights, params):
        return {"one": {"kernel": weights.kernel}}


class Chain(nnx.Module):
    def __init__(self, n_samples, rng):
        self.one, self.two = Linear(n_samples, 3, rng=rng), Linear(3, 2, rng=rng)
        self.embedding_size = 2

    def __call__(self, waveform, *, train=False, axis_name=None):
        return self.two(self.one(waveform))


def learner(*fixed):
    config = dataclasses.replace(configs.Config(), model=Chained(fixed=fixed))
    return Learner(config, n_classes=2, n_samples=5)


@pytest.mark.parametrize("fixed", [("one",), ("two",), ("one", "two")])
def test_frozen_weights_are_drawn_or_pretrained(fixed, rng):
    work = learner(*fixed)
    kernel = rng.standard_normal((5, 3)).astype(np.float32)
    drawn = work.start()
    assert drawn.frozen.keys() == {*fixed}
    for weights in None, Stored(Path("here"), kernel):
        state = work.start(weights)
        trained = state.params["model"]
        assert digest(work.frozen(weights)) == digest(state.frozen)
        whole = parameters.join(trained, state.frozen)
        expected = parameters.join(drawn.params["model"], drawn.frozen)
        if weights is not None:
            expected["one"]["kernel"] = kernel
        jax.tree.map(np.testing.assert_array_equal, whole, expected)
    assert work.freezes and not learner().freezes


def test_a_skeleton_has_the_shapes_of_the_network():
    made, shapes = (
        parameters.split(make)[1]
        for make in (
            building.build(Chained(), 5, 16000, seed=3),
            building.skeleton(Chained(), 5, 1),
        )
    )
    assert jax.tree.map(lambda a: (a.shape, a.dtype), made) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )


def test_the_type_of_products_can_be_chosen_where_it_is_a_setting():
    @dataclasses.dataclass(frozen=True)
    class Rounding(Chained):
        compute_dtype: str = "float32"

    assert Rounding().computing_in("bfloat16") == Rounding(compute_dtype="bfloat16")
    assert Chained().computing_in("float32") == Chained()
    with pytest.raises(AsdjaxError, match="chained.*float32"):
        Chained().computing_in("bfloat16")


def test_a_network_with_randomness_of_its_own_is_refused():
    class Dropping(nnx.Module):
        def __init__(self):
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    with pytest.raises(AsdjaxError, match=r"^Dropping: drop\..* is neither nnx.Param nor .*draws$"):
        parameters.split(Dropping())
