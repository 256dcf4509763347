"""Batches: what an epoch holds, in which order, on any number of processes, and resumed."""

import numpy as np
import pytest
import soundfile

from asdjax.config.recipe import AudioConfig
from asdjax.data import batches
from asdjax.errors import AsdjaxError

N, T = 11, 50
FRAMES = [[30, 50, 80][c % 3] for c in range(N)]


@pytest.fixture
def clips(tmp_path):
    """Clips of mixed lengths whose samples tell clip and place: value = 100 clip + place."""
    paths = []
    for c in range(N):
        samples = (100 * c + np.arange(FRAMES[c])).astype(np.int16)
        path = tmp_path / f"{c}.wav"
        soundfile.write(path, np.stack([samples, -samples], 1), 16000, "PCM_16")
        paths.append(path)
    return paths


def pipeline(clips, *, batch_size=4, devices=1, drop_last=False, process=(0, 1), seed=0, **audio):
    plan = batches.plan_epoch(N, batch_size, devices, drop_last)
    return batches.TrainingBatches(
        clips,
        FRAMES,
        np.arange(N, dtype=np.int32),
        AudioConfig(**audio),
        plan,
        n_samples=T,
        pcm16=True,
        epochs=3,
        seed=seed,
        process=process,
    )


def test_every_epoch_is_a_new_permutation(clips):
    epochs = [[], [], []]
    for step, batch in enumerate(pipeline(clips)):
        assert batch["waveform"].dtype == np.int16 and batch["label"].dtype == np.int32
        epochs[step // 3].append(batch["label"])
    assert [[len(b) for b in epoch] for epoch in epochs] == [[4, 4, 3]] * 3
    orders = [np.concatenate(epoch) for epoch in epochs]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])


def test_crops_stay_inside_and_vary(clips):
    starts = set()
    for batch in pipeline(clips):
        for row, clip in zip(batch["waveform"], batch["label"], strict=True):
            values = row - 100 * clip
            if clip % 3 == 0:  # 30 samples: repeated, then cut
                assert np.array_equal(values, np.arange(T) % 30)
            else:
                assert np.array_equal(values, values[0] + np.arange(T)) and 0 <= values[0] <= 30
            starts.add(int(values[0]))
    assert len(starts) > 3
    for batch in pipeline(clips, train_crop="start"):
        assert np.array_equal(batch["waveform"][:, 0], 100 * batch["label"])


def test_order_and_crops_follow_the_seed_not_the_threads(clips):
    def content(**settings):
        return [batch["waveform"] for batch in pipeline(clips, **settings)]

    def same(a, b):
        return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    assert same(content(), content(read_threads=0))
    assert same(content(), content(read_threads=4, prefetch_batches=1))
    assert not same(content(), content(seed=1))
    assert same([-w for w in content()], content(channel="far"))


def test_processes_share_each_global_batch(clips):
    whole = list(pipeline(clips, batch_size=4, devices=2))
    halves = [list(pipeline(clips, batch_size=4, devices=2, process=(i, 2))) for i in range(2)]
    for batch, first, second in zip(whole, *halves, strict=True):
        for key in batch:
            assert np.array_equal(batch[key], np.concatenate([first[key], second[key]]))


def test_resumed_pipeline_continues_exactly(clips):
    through = list(pipeline(clips))
    for stop in (1, 3, 5, 9):
        first = pipeline(clips)
        for _ in range(stop):
            next(first)
        second = pipeline(clips)
        second.restore(first.state())
        rest = list(second)
        assert len(rest) == 9 - stop
        for a, b in zip(through[stop:], rest, strict=True):
            assert np.array_equal(a["waveform"], b["waveform"])


@pytest.mark.parametrize(
    ("clips", "batch", "devices", "drop", "steps", "tail"),
    [
        (11, 4, 1, False, 3, 3),
        (11, 4, 2, False, 3, 2),
        (11, 4, 4, False, 2, 0),
        (11, 4, 1, True, 2, 0),
        (12, 4, 4, False, 3, 0),
        (9, 4, 1, False, 2, 0),  # a single clip has no batch statistics
        (3, 64, 1, False, 1, 3),
        (34, 64, 8, False, 1, 32),
    ],
)
def test_plan(clips, batch, devices, drop, steps, tail):
    check_plan(batches.plan_epoch(clips, batch, devices, drop), clips, batch, steps, tail)


@pytest.mark.parametrize(
    ("clips", "devices", "accumulate", "steps", "tail"),
    [(15, 1, 2, 2, 6), (15, 2, 2, 2, 4), (11, 1, 4, 1, 0), (12, 2, 4, 1, 0), (10, 1, 2, 1, 0)],
)
def test_plan_of_batches_in_parts(clips, devices, accumulate, steps, tail):
    plan = batches.plan_epoch(clips, 8, devices, False, accumulate)
    check_plan(plan, clips, 8, steps, tail)
    assert plan.largest == 8


def check_plan(plan, clips, batch, steps, tail):
    assert (plan.steps, plan.tail) == (steps, tail)
    used = (plan.steps - (tail > 0)) * batch + tail
    assert bool(plan.notes) == (used < clips)
    if plan.notes:
        assert f" {clips - used} of {clips} clips" in plan.notes[0]


@pytest.mark.parametrize(
    ("clips", "devices", "drop"), [(1, 1, False), (7, 8, False), (63, 1, True)]
)
def test_plan_without_a_step_is_refused(clips, devices, drop):
    with pytest.raises(AsdjaxError, match=f"train.batch_size: {clips} .*64.*at most {clips}"):
        batches.plan_epoch(clips, 64, devices, drop)


@pytest.mark.parametrize(("two_channels", "room"), [(False, 80), (True, 80), (False, 40)])
def test_inference_reads_whole_clips_in_order(clips, two_channels, room):
    found = list(
        batches.inference_batches(
            clips,
            FRAMES,
            AudioConfig(),
            batch_size=4,
            room=room,
            two_channels=two_channels,
            pcm16=True,
        )
    )
    assert [size for _, size in found] == [4, 4, 3]
    rows = [(w, n) for batch, _ in found for w, n in zip(*batch.values(), strict=True)]
    assert all(waveform.shape == (1 + two_channels, room) for waveform, _ in rows)
    for c, (waveform, length) in enumerate(rows[:N]):
        samples = 100 * c + np.arange(min(FRAMES[c], room))
        assert length == len(samples) and not waveform[:, length:].any()
        expected = [samples, -samples] if two_channels else [samples]
        assert np.array_equal(waveform[:, :length], expected)
    assert not rows[N][0].any() and rows[N][1] == room  # no clip


@pytest.mark.parametrize(
    ("processes", "turns"), [(1, [[0], [1], [2]]), (2, [[0, 1], [2, 2]]), (4, [[0, 1, 2, 2]])]
)
def test_processes_take_inference_batches_in_turn(clips, processes, turns):
    """The last turn fills up with the last batch: none waits idle for the others."""
    options = {"batch_size": 4, "room": 80, "two_channels": False, "pcm16": True}
    found = [
        batches.inference_batches(
            clips, FRAMES, AudioConfig(), process=(index, processes), **options
        )
        for index in range(processes)
    ]
    read = [
        [(int(batch["waveform"][0, 0, 0]) // 400, size) for batch, size in turn]
        for turn in zip(*found, strict=True)
    ]
    assert read == [[(batch, 3 if batch == 2 else 4) for batch in turn] for turn in turns]
    assert batches.batch_count(clips, 4) == 3


def test_float_files_become_float_batches(tmp_path, rng):
    samples = rng.uniform(-1, 1, T).astype(np.float32)
    soundfile.write(tmp_path / "float.wav", samples, 16000, "FLOAT")
    pcm = np.arange(T, dtype=np.int16) * 600
    soundfile.write(tmp_path / "pcm.wav", pcm, 16000, "PCM_16")
    paths = [tmp_path / "float.wav", tmp_path / "pcm.wav"]
    ((batch, _),) = batches.inference_batches(
        paths, [T, T], AudioConfig(), batch_size=2, room=T, two_channels=False, pcm16=False
    )
    assert batch["waveform"].dtype == np.float32
    assert np.array_equal(batch["waveform"][0, 0], samples)
    assert np.array_equal(batch["waveform"][1, 0], pcm / np.float32(32768))


def test_a_file_that_changed_while_in_use_is_refused(clips):
    found = pipeline(clips, read_threads=0)
    soundfile.write(clips[4], np.zeros((7, 2), np.int16), 16000, "PCM_16")
    with pytest.raises(AsdjaxError, match=r"4\.wav: 7 samples.* 50 "):
        list(found)
