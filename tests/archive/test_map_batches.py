"""Batches of recordings by an engine that owns the data: as embed and predict have them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import relative
from pyarrow import parquet
from support.archives import write_noise
from support.converted_beats import convert

import asdjax
from asdjax.cli import main
from asdjax.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("compiled_fast")
SECONDS = [0.3, 0.5, 0.4, 0.2, 0.6, 0.4]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Converted weights, a detector, and stereo recordings."""
    root = tmp_path_factory.mktemp("batches")
    convert(root / "weights")
    write_noise(root / "normal", [0.5] * 12)
    assert main(["fit", str(root / "normal"), "--out", str(root / "d.asd")]) == 0
    write_noise(root / "sounds", SECONDS, rate=8000, channels=2)
    return root


def names(folder):
    return [str(path) for path in sorted(folder.iterdir())]


def as_ray_reads(paths, held=False):
    """A batch of paths, or of the contents of files."""
    batch = {"path": np.array(paths, object)}
    if held:
        batch["bytes"] = np.array([Path(path).read_bytes() for path in paths], object)
    return batch


@pytest.fixture(scope="module")
def embedded(place):
    out, options = place / "e.parquet", ["--channel", "each", "--layer", "1", "2"]
    words = ["embed", place / "weights", place / "sounds", "--out", out, *options]
    assert main([*map(str, words)]) == 0
    rows = parquet.read_table(out).to_pylist()
    return {(row["path"], row["channel"]): row["embedding"] for row in rows}


@pytest.mark.parametrize("held", [False, True])
def test_embeddings_of_embed(held, place, embedded):
    worker = asdjax.BatchWorker(place / "weights", channel="each", layers=(1, 2))
    paths = names(place / "sounds")
    for batch in (paths, paths[:1], paths[1:]):
        found = worker(as_ray_reads(batch, held))
        assert [*found] == ["path", "channel", "embedding", "error"]
        assert found["path"].tolist() == np.repeat(batch, 2).tolist()
        assert found["channel"].tolist() == [1, 2] * len(batch) and not any(found["error"])
        assert (found["channel"].dtype, found["embedding"].dtype) == (np.int32, np.float32)
        keys = zip(found["path"], found["channel"], strict=True)
        expected = np.array([embedded[key] for key in keys])
        assert relative(found["embedding"], expected) < 2e-5


def test_predictions_of_predict(place, capsys):
    out = place / "p.parquet"
    words = ["predict", place / "d.asd", place / "normal", place / "sounds", "--parquet", out]
    main([*map(str, words)])
    expected = parquet.read_table(out).to_pylist()
    worker = asdjax.BatchWorker(str(place / "d.asd"))
    for held in (False, True):
        found = worker(as_ray_reads([row["file"] for row in expected], held))
        assert found["alarm"].dtype == bool and found["score"].dtype == np.float64
        assert [*found] == [*expected[0]] and not any(found["error"])
        for name in [*found][:-1]:
            values = [np.nan if row[name] is None else row[name] for row in expected]
            np.testing.assert_array_equal(found[name], values)


@pytest.fixture
def faulty(place, tmp_path):
    """Recordings with a fault, each with words of the reason; two for a detector too."""
    content = Path(names(place / "sounds")[0]).read_bytes()
    (tmp_path / "cut.wav").write_bytes(content[:-100])
    (tmp_path / "empty.wav").write_bytes(b"")
    write_noise(tmp_path / "short", [0.001])
    return {
        str(tmp_path / "cut.wav"): "restore the file",
        str(tmp_path / "empty.wav"): "0 bytes",
        str(tmp_path / "short" / "000.wav"): "too short",
    }


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("good", [0, 2])
def test_faulty_recordings_are_rows(held, good, place, faulty):
    paths = names(place / "sounds")[:good]
    lost = [] if held else [str(place / "lost.wav")]
    reasons = [*faulty.values(), *["No such file"] * len(lost)]
    found = asdjax.BatchWorker(place / "weights")(as_ray_reads([*faulty, *paths, *lost], held))
    assert found["path"].tolist() == [*paths, *faulty, *lost]
    assert found["channel"].tolist() == [1] * good + [0] * len(reasons)
    assert np.isfinite(found["embedding"][:good]).all()
    assert np.isnan(found["embedding"][good:]).all() and found["embedding"].shape[1] > 1
    assert not any(found["error"][:good])
    for path, words, error in zip([*faulty, *lost], reasons, found["error"][good:], strict=True):
        assert error.count(path) == 1 and words in error


@pytest.mark.parametrize("good", [0, 2])
def test_faulty_recordings_of_a_detector_are_rows(good, place, faulty):
    paths = names(place / "normal")[:good]
    bad = list(faulty)[:2]
    found = asdjax.BatchWorker(place / "d.asd")(as_ray_reads([*bad, *paths]))
    assert found["file"].tolist() == [*paths, *bad]
    assert found["alarm"].tolist()[good:] == [None, None]
    assert np.isnan(found["score"][good:]).all() and np.isfinite(found["score"][:good]).all()
    assert [bool(error) for error in found["error"]] == [False] * good + [True] * 2


def test_names_of_files_that_an_engine_has_read(place):
    """URLs stay as they are, also in messages."""
    content = Path(names(place / "sounds")[0]).read_bytes()
    batch = {
        "path": np.array(["s3://bucket/a.wav", "s3://bucket/b.wav"]),
        "bytes": np.array([content, content[:-1]], object),
    }
    found = asdjax.BatchWorker(place / "weights")(batch)
    assert found["path"].tolist() == batch["path"].tolist()
    assert found["error"][1].startswith("s3://bucket/b.wav: truncated")
    found = asdjax.BatchWorker(place / "d.asd")(batch)
    assert found["file"].tolist() == batch["path"].tolist()
    assert found["error"][1].startswith("s3://bucket/b.wav: truncated")


def test_what_is_refused(place):
    worker = asdjax.BatchWorker(place / "weights")
    with pytest.raises(DataError, match="without a column path .its columns: bytes"):
        worker({"bytes": np.array([b""], object)})
    with pytest.raises(DataError, match=r"a\.wav: its bytes are bytes_: give Python's bytes"):
        worker({"path": np.array(["a.wav"]), "bytes": np.array([b"RIFF\0"])})
    with pytest.raises(UsageError, match="a detector has its own settings"):
        asdjax.BatchWorker(place / "d.asd", channel=1)


@pytest.mark.slow
def test_two_workers_of_ray(place, faulty, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is large: pip install 'asdjax[ray]'")
    folder = tmp_path / "in"
    write_noise(folder, SECONDS * 3)
    for path in list(faulty)[:2]:
        Path(path).rename(folder / Path(path).name)
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)  # one reads
    read = ray.data.read_binary_files(str(folder), include_paths=True)
    paths = ray.data.from_items([{"path": name} for name in names(folder)])
    try:
        for weights, data, size, key, value in (
            ("weights", paths, 5, "path", "embedding"),
            ("d.asd", read, 1, "file", "score"),
        ):
            data.map_batches(
                asdjax.BatchWorker,
                fn_constructor_args=(place / weights,),
                batch_size=size,
                compute=ray.data.ActorPoolStrategy(size=2),
                num_cpus=1,
            ).write_parquet(str(tmp_path / value))
            rows = parquet.read_table(tmp_path / value).to_pylist()
            found = {row[key]: row for row in rows}
            assert len(rows) == len(found) and sorted(found) == names(folder)
            bad = [name for name, row in found.items() if row["error"]]
            assert sorted(Path(name).name for name in bad) == ["cut.wav", "empty.wav"]
            one = asdjax.BatchWorker(place / weights)(as_ray_reads(names(folder)))
            for name, expected in zip(one[key], one[value], strict=True):
                if name in bad:
                    assert np.isnan(found[name][value]).all()
                    assert found[name].get("alarm") is None
                else:
                    assert relative(found[name][value], expected) < 2e-5
    finally:
        ray.shutdown()
