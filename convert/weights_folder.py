"""Writing and verifying a folder of converted weights, whatever the encoder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from asdjax._version import __version__
from asdjax.config import registry, schema
from asdjax.convert import state_dict, torch_file
from asdjax.convert.state_dict import Table
from asdjax.errors import ArtifactError
from asdjax.files import atomic, documents
from asdjax.models import building, parameters
from asdjax.models.parameters import Tree
from asdjax.models.poolings import Mean
from asdjax.store import checkpoint, converted_weights
from asdjax.store.checkpoint_files import checkpoint_files
from asdjax.store.converted_weights import Pretrained

TOLERANCE = 1e-4
"""Allowed difference of the probe's embedding on another version or device, relative to its largest
value."""
Dtype = Literal["float32", "bfloat16"]

_RATE = 16000


class Network:
    """An encoder followed by the mean over the tokens of its last layer.

    Args:
        name: the encoder's registered name.
        encoder: its architecture.

    Attributes:
        like: names and shapes of the encoder's arrays.
    """

    def __init__(self, name: str, encoder: Any):
        self.name, self.encoder = name, encoder
        self.settings = registry.find("encoder", name)(
            encoder=encoder,
            random_init=True,
            adaptation="frozen",
            pooling=Mean(),
            embedding_size=0,
        )
        self._graphdef, self.like, _ = parameters.split(
            building.skeleton(self.settings, None, _RATE)
        )

    def probe(self, weights: Tree) -> Float32[np.ndarray, " D"]:
        """The embedding of a fixed sound of 10 s, or of the shortest clip if that is longer.

        In 10 s, distances between tokens fall into most of BEATs' relative-position buckets.
        """
        i = np.arange(max(10 * _RATE, self.settings.shortest))
        chirp = np.sin(2 * np.pi * (100 / _RATE * i + 300 / _RATE**2 * i**2))  # 100 to 6100 Hz
        noise = i**2 * 7919 % 65537 / 65537 - 0.5
        waveform = np.round(2**15 * (0.3 * chirp + 0.1 * noise)) / 2**15

        @jax.jit
        def embed(params: Tree, waveform: jax.Array) -> jax.Array:
            return parameters.apply(self._graphdef, params, {}, waveform, train=False)[0]

        return np.asarray(embed(weights, waveform[None].astype(np.float32)))[0]


class Checkpoint(NamedTuple):
    """What is read from a file: the network, the arrays for it, and what the description says."""

    network: Network
    weights: Tree
    document: dict[str, Any]


def rounded(weights: Tree, dtype: Dtype) -> Tree:
    """The arrays, rounded in place to `dtype`."""
    if dtype == "bfloat16":
        for leaf in jax.tree.leaves(weights):
            leaf[...] = leaf.astype(jnp.bfloat16)
    return weights


def description(
    encoder: Any, weights: Tree, dtype: Dtype, names: Table, state: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """What every description says: the architecture, and each array's name and shape."""
    shapes = state_dict.flatten(weights)
    tensors = [
        {
            "name": name,
            "shape": list(state[name].shape),
            "dtype": state[name].dtype.name,
            "place": path,
            "place_shape": list(shapes[path].shape),
        }
        for name, (path, _) in names.items()
    ]
    return {
        "encoder": schema.to_tree(encoder),
        "dtype": dtype,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
        "tensors": tensors,
    }


def write(
    source: Path,
    folder: Path,
    read: Callable[[], Checkpoint],
    *,
    file: str,
    dtype: Dtype,
    overwrite: bool,
    known: Mapping[str, str],
) -> dict[str, Any]:
    """Write the folder of a checkpoint.

    Args:
        source: the checkpoint.
        folder: the folder to create.
        read: reads the checkpoint, arrays rounded to `dtype`.
        file: name of the description, one of `converted_weights.SCHEMAS`.
        dtype: type of the stored arrays.
        overwrite: whether to replace an earlier conversion.
        known: names of published files by their SHA-256.

    Returns:
        The content of the description.

    Raises:
        AsdjaxError: the checkpoint cannot be read or its embeddings are not finite, or the folder
            exists or cannot be written.
    """
    sha256 = torch_file.sha256(source)
    described = converted_weights.SCHEMAS[file]

    def converted_before(folder: Path) -> bool:
        if not documents.present(folder / file):
            return False
        document = documents.read_json(folder / file, "choose another folder")
        family = described.partition("/")[0]
        return isinstance(document, dict) and str(document.get("schema")).startswith(f"{family}/")

    def check() -> None:
        atomic.require_result(folder, overwrite, ours=converted_before)
        written = {folder / file}
        for part in converted_weights.WEIGHTS, converted_weights.PREDICTOR:
            written |= checkpoint_files(folder / part)
        atomic.refuse_foreign(atomic.foreign(folder, written), "--overwrite")

    with atomic.whole_folder(folder, check) as partial:
        network, weights, document = read()
        weights = jax.device_put(weights)  # no copy on a CPU; the probe would copy NumPy arrays
        values = network.probe(weights)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{source}: its embeddings are not finite: download it again")
        predictor = weights["encoder"].pop("predictor", None)
        _save(partial / converted_weights.WEIGHTS, weights, dtype)
        if predictor is not None:
            predictor = {"predictor": predictor}
            _save(partial / converted_weights.PREDICTOR, predictor, dtype)
        document |= {
            "source": source.name,
            "sha256": sha256,
            "recognised": known.get(sha256),
            "digest": checkpoint.digest(weights),
            "predictor_digest": predictor and checkpoint.digest(predictor),
            "probe": [float(value) for value in values],
            "version": __version__,
        }
        converted_weights.write_description(partial / file, {"schema": described, **document})
    return document


def verify(folder: Path) -> float:
    """Load a folder of converted weights and compare the embedding of the probe.

    Returns:
        The largest difference from the stored embedding, relative to its largest value.

    Raises:
        AsdjaxError: the folder is damaged, its weights have changed, or the embedding differs by
            more than `TOLERANCE`.
    """
    weights = converted_weights.read(folder)
    network = Network(weights.name, weights.encoder)
    stored = weights.document.get("probe")
    numbers = isinstance(stored, list) and all(type(value) is float for value in stored)
    expected = np.array(stored if numbers else [], np.float32)
    values = network.probe(checkpoint.load_pretrained(weights, network.like))
    if expected.shape != values.shape or not expected.any():
        raise ArtifactError(
            f"{folder}: {weights.file} has no embedding of the probe: convert again"
        )
    difference = float(np.max(np.abs(values - expected)) / np.max(np.abs(expected)))
    if not difference <= TOLERANCE:
        raise ArtifactError(
            f"{folder}: the probe's embedding differs by {difference:.1e} of its largest value, "
            f"more than {TOLERANCE:g}: convert again with the installed version of jax"
        )
    return difference


def load(weights: Pretrained) -> Tree:
    """All arrays, {"encoder": ...}, of a folder of converted weights: float32, digest verified."""
    return checkpoint.load_pretrained(weights, Network(weights.name, weights.encoder).like)


def _save(folder: Path, weights: Tree, dtype: Dtype) -> None:
    if dtype == "bfloat16":
        weights = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    checkpoint.save_weights(folder, weights)
