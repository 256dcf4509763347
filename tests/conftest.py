"""What every test shares: the strict session, the tolerances, the golden arrays.

The tolerances are the project's contract with the references; a test that fails is traced to
its cause, one level further down, and never given a wider one.
"""

import contextlib
import gc
import os
import signal
import tarfile
import tempfile
from pathlib import Path

import hypothesis
import jax
import numpy as np
import pytest

from asdjax.config.recipe import SynthConfig
from asdjax.synth import corpus as synth

pytest.register_assert_rewrite("support")
TESTS = Path(__file__).parent
ROOT, GOLDEN = TESTS.parent, TESTS / "golden"
_unpacked = tempfile.TemporaryDirectory(prefix="asdjax-")  # gone when the tests end
with tarfile.open(GOLDEN / "ckpt_variants.tar.xz") as _archive:
    if hasattr(tarfile, "data_filter"):  # from Python 3.11.4 on
        _archive.extraction_filter = tarfile.data_filter
    _archive.extractall(_unpacked.name)
VARIANTS = Path(_unpacked.name) / "ckpt_variants"
"""PyTorch checkpoints, good, faulty and malicious, and their index."""

# Largest difference over the reference's largest value, unless said.
EXACT_METRIC = 1e-12  # metrics against an independent oracle
SCORE = 1e-6  # nearest-neighbour scores
STFT = 1e-5
LAYER, BLOCK, EMBEDDING = 1e-5, 1e-4, 1e-3
COSINE = 0.99999  # and at least this cosine for a whole embedding
GRADIENT = 2e-2  # relative L2, MultiResNet in float32 (ReLU and maximum ties)
FLOAT64 = 1e-8
# BEATs: hidden states and pooled ones absolute, gradients relative L2
HIDDEN_ATOL, POOLED_ATOL, BEATS_GRADIENT = 5e-4, 2e-5, 1e-3
MULTIRESNET_EVAL_ATOL, MULTIRESNET_TRAIN_ATOL = 2e-3, 5e-4  # absolute
TRACE = [1e-5, 1e-4] + [1e-3] * 4 + [5e-3] * 5  # relative, the loss before each update
DEVICES_LOSS, DEVICES_EMBEDDING, DEVICES_GRADIENT = 1e-9, 1e-6, 1e-5  # 1 against 8 devices

# Products on several threads may differ in the last bit from one time to the next (jax 0.10.2 on a
# loaded machine), and some tests ask for equal bytes.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
# A suite that a script starts in the background ignores Ctrl-C, and so would processes that tests
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.set_threshold(50_000)  # tracing makes many objects and little garbage: 3 % of the time
hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")  # on a busy machine an example may take its time
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


ON_GPU = (
    "signal/test_stft.py", "signal/test_fbank.py", "signal/test_views.py",
    "models/test_multiresnet.py", "models/test_beats.py", "models/test_lora.py",
    "models/test_pooling.py", "models/test_operations.py", "models/test_on_accelerator.py",
    "training/test_losses.py",
)  # fmt: skip
"""Files of tests that hold on one GPU, with the tolerances of CPUs."""
NOT_ON_GPU = {
    "test_fbank.py::test_golden[full_scale_sine_1k]": "cuFFT rounds otherwise far from a pure tone",
    "test_fbank.py::test_golden[low_30hz]": "cuFFT rounds otherwise far from a pure tone",
}
"""Tests in these files that do not hold there, by the end of their names, with the reason."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what holds on one GPU."""
    for item in items:
        excluded = any(item.nodeid.endswith(name) for name in NOT_ON_GPU)
        if item.path.relative_to(TESTS).as_posix() in ON_GPU and not excluded:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def compile_once(tmp_path_factory):
    """Let tests that compile the same program share it, and processes that they start."""
    workers = "PYTEST_XDIST_WORKER" in os.environ  # each has a directory below a common one
    base = tmp_path_factory.getbasetemp()
    folder = str((base.parent if workers else base) / "compiled")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Let go of a module's compiled programs: a process may hold only so many memory maps."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def compiled_fast():
    """Optimise little in a module's programs, also of processes that it starts.

    For tests of what programs do together, or that compare two programs of our own, where compiling
    takes most of the time; never for values that a reference has computed.
    """
    with _optimising_little(True):
        yield


@pytest.fixture
def compiled_fast_here():
    """The same for one test."""
    with _optimising_little(True):
        yield


@pytest.fixture
def optimised():
    """Take that back for one test."""
    with _optimising_little(False):
        yield


@contextlib.contextmanager
def _optimising_little(chosen: bool):
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(chosen))
    jax.config.update("jax_disable_most_optimizations", chosen)
    yield
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not chosen))
    jax.config.update("jax_disable_most_optimizations", not chosen)


@pytest.fixture
def rng() -> np.random.Generator:
    """The one seeded generator for test data."""
    return np.random.default_rng(20260)


@pytest.fixture
def float64():
    """Run a test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def golden():
    """Load a reference file from tests/golden by its stem, as a dictionary of arrays.

    Waveforms are stored as 16-bit integers and come back as the reference's float32.
    """

    def array(key, value):
        stored = key.endswith("wave") and value.dtype == np.int16
        return value / np.float32(32768) if stored else value

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: array(key, value) for key, value in arrays.items()}

    return load


@pytest.fixture(scope="session")
def corpus_root(tmp_path_factory) -> Path:
    """A small synthetic corpus: two development machines, one evaluation machine."""
    root = tmp_path_factory.mktemp("corpus")
    synth.write(
        root,
        SynthConfig(
            machines=("fan", "bearingEmu", "ToothBrush"),
            train_source=13,
            train_target=3,
            test_per_cell=4,
            seconds=0.5,
        ),
    )
    return root


def relative(value, reference) -> float:
    """Largest absolute difference over the reference's largest absolute value."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, (value.shape, reference.shape)
    return float(np.max(np.abs(value - reference)) / np.max(np.abs(reference)))


def relative_l2(value, reference) -> float:
    """L2 norm of the difference over the reference's L2 norm."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    assert value.shape == reference.shape, (value.shape, reference.shape)
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))
