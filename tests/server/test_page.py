"""What the page of asdjax serve asks for: by whom, how much is kept, and that it is right."""

import asyncio
import io
import json
import threading
import time

import numpy as np
import pytest
import soundfile
from support.machines import folder, sound
from support.serving import ask, running

from asdjax import Detector
from asdjax.detector.prediction import Nearest, Prediction
from asdjax.server import batches, recent, uploads
from asdjax.server.recent import Recent
from asdjax.server.uploads import Upload

TOKEN = "a-token-of-enough-letters"
PATHS = ("/recent", "/recent/1/explanation", "/recent/1/audio")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    long = np.concatenate([sound(300 + i, seconds=2.0) for i in range(3)])
    long[64_000:] += 0.01 * np.sin(2 * np.pi * 3100 * np.arange(32_000) / 16_000)
    two = np.stack([long, np.zeros_like(long)], axis=1)
    soundfile.write(root / "long.flac", two, 16_000)
    return {
        "normal": folder(root / "normal", range(24), seconds=2.0),
        "new": folder(root / "new", range(100, 103), seconds=2.0),
        "faulty": folder(root / "faulty", range(200, 203), fault="tone", seconds=2.0),
        "long": root / "long.flac",
    }


@pytest.fixture(scope="module")
def detector_file(sounds, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "pump.asd"
    Detector(level=0.95).fit(sounds["normal"]).save(path)
    return path


@pytest.fixture(scope="module")
def port(detector_file):
    with running(detector_file) as found:
        yield found


def predict(port, path, name="today.wav", headers=None):
    status, body, _ = ask(port, path=f"/predict?name={name}", body=path.read_bytes(),
                          headers=headers)  # fmt: skip
    assert status == 200
    return json.loads(body)


def recents(port, since=0):
    status, body, _ = ask(port, "GET", f"/recent?since={since}")
    assert status == 200
    return json.loads(body)


def test_the_last_predictions(port, detector_file, sounds):
    last = max((one["id"] for one in recents(port)["predictions"]), default=0)
    answers = [predict(port, path) for path in (*sounds["new"], sounds["faulty"][0])]
    found = recents(port, last)
    assert found["schema"] == "asdjax.recent/1"
    assert [one["id"] for one in found["predictions"]] == list(range(last + 1, last + 5))
    for one, answer in zip(found["predictions"], answers, strict=True):
        assert all(one[key] == answer[key] for key in answer if key in one)
        assert {*answer} - {*one} == {"schema", "window_scores"}
    assert found["alarms"][-1] == last + 4
    assert recents(port, last + 4)["predictions"] == []
    about = Detector.load(detector_file).description()
    assert found["detector"] == {"name": "pump", **about}
    for since in ("x", "-1", "1.5", "9" * 99, "%ff"):
        assert ask(port, "GET", f"/recent?since={since}")[0] == 400


def test_an_alarm_is_explained_and_heard(port, detector_file, sounds):
    """Of a long recording of two channels: its last third is unlike the others."""
    detector = Detector.load(detector_file)
    assert predict(port, sounds["long"], "long.flac")["start"] == 4.0
    number = recents(port)["alarms"][-1]
    status, body, headers = ask(port, "GET", f"/recent/{number}/explanation")
    assert status == 200 and headers["Content-Type"] == "application/json"
    found = json.loads(body)
    (why,) = detector.explain(sounds["long"])
    assert found["schema"] == "asdjax.explanation/1"
    assert found["areas"] == json.loads(json.dumps(why.document()))["areas"]
    assert np.abs(found["map"]["deviations"] - why.map.deviations).max() <= 0.00501
    assert found["map"]["seconds"] == why.map.seconds.tolist()
    assert found["prediction"]["file"] == "long.flac"
    assert b"/normal" not in body and b"tmp" not in body

    status, body, headers = ask(port, "GET", f"/recent/{number}/audio")
    assert status == 200 and headers["Content-Type"] == "audio/mpeg"
    heard, rate = soundfile.read(io.BytesIO(body))
    assert rate == 16_000 and abs(len(heard) / rate - 2.0) < 0.1
    spectrum = np.abs(np.fft.rfft(heard))
    around = spectrum[round(2900 * len(heard) / rate) : round(3300 * len(heard) / rate)]
    assert around.max() > 20 * np.median(around)  # the tone of the last third
    for path in ("/recent/999/explanation", "/recent/999/audio", f"/recent/{'9' * 5000}/audio"):
        assert ask(port, "GET", path)[0] == 404
    metrics = ask(port, "GET", "/metrics")[1].decode()
    assert f"/recent/{number}/" not in metrics  # one counter for all
    assert 'path="/recent/{number}/audio",status="200"' in metrics


def test_the_page_loads_nothing_from_elsewhere(port):
    for path, kind in (("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")):
        status, body, headers = ask(port, "GET", path)
        assert status == 200 and headers["Content-Type"].startswith(f"text/{kind}")
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        text = body.decode().replace("http://www.w3.org/", "")
        assert "http:" not in text and "https:" not in text and "innerHTML" not in text


@pytest.mark.parametrize(
    ("host", "origin", "page", "post"),
    [
        ("127.0.0.1:{}", None, 200, 200),
        ("localhost:{}", None, 200, 200),
        ("localhost:9", "http://localhost:9", 200, 200),  # a tunnel
        ("[::1]:{}", "http://[::1]:{}", 200, 200),
        ("127.0.0.1:{}", "http://127.0.0.1:{}", 200, 200),
        ("127.0.0.1:{}", "http://127.0.0.1:9", 403, 403),
        ("127.0.0.1:{}", "http://other.example", 403, 403),
        ("127.0.0.1:{}", "null", 403, 403),
        ("127.0.0.1:{}", "http://[", 403, 403),
        ("other.example:{}", "http://other.example:{}", 403, 403),  # DNS rebinding
        ("other.example:{}", None, 403, 200),  # a script, which has no Origin
        ("127.0.0.1.other.example", None, 403, 200),
        ("localhost.other.example", None, 403, 200),
        ("[", None, 403, 200),
        ("", None, 403, 200),
    ],
)
def test_pages_of_other_sites_are_refused(port, sounds, host, origin, page, post):
    headers = {"Host": host.format(port)}
    if origin is not None:
        headers["Origin"] = origin.format(port)
    assert ask(port, "GET", "/recent", headers=headers)[0] == page
    body = sounds["new"][0].read_bytes()
    assert ask(port, body=body, headers=headers)[0] == post
    assert ask(port, "GET", "/", headers=headers)[0] == 200  # has no data


def test_with_a_token(detector_file, sounds, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    right = {"Authorization": f"Bearer {TOKEN}"}
    with running(detector_file, "--token-file", str(tmp_path / "token")) as port:
        assert predict(port, sounds["faulty"][0], headers=right)["alarm"]
        for path in PATHS:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"token={TOKEN}"}):
                assert ask(port, "GET", path, headers=headers)[0] == 401
            behind = {**right, "Host": "pump.example", "Origin": "https://pump.example"}
            for headers in (right, behind):
                assert ask(port, "GET", path, headers=headers)[0] == 200
        status, page, _ = ask(port, "GET", "/")
        assert status == 200 and b"data-token" in page and b"pump" not in page


def alarm(size, name="a.wav"):
    upload = Upload()
    upload.write(b"x" * size)
    near = (Nearest("n.wav", 0.0, 1.0),)
    return Prediction(name, 0.0, 1.0, 1, (2.0,), 2.0, 1.0, 2.0, 0.1, True, near), upload


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(recent, "MOST_ALARMS", 3)
    monkeypatch.setattr(recent, "MOST_BYTES", 1000)
    kept, all_of_them = Recent(), []

    def add(size):
        found, upload = alarm(size)
        all_of_them.append(upload)
        return kept.add(found, upload)

    def open_sizes():
        return [one.size for one in all_of_them if not one.closed]

    for _ in range(recent.MOST + 50):
        assert add(10)
    found = kept.since(0)
    assert [one["id"] for one in found["predictions"]] == list(range(51, recent.MOST + 51))
    assert found["alarms"] == [248, 249, 250] and open_sizes() == [10, 10, 10]
    assert add(985)
    assert kept.since(0)["alarms"] == [250, 251]
    assert not add(1001)  # too large to be kept; the others stay
    assert kept.since(0)["alarms"] == [250, 251] and open_sizes() == [10, 985, 1001]
    assert [one["id"] for one in kept.since(251)["predictions"]] == [252]
    all_of_them.pop().close()
    for _ in range(2):
        assert add(400)
    one = kept.alarm(254)
    assert one is not None and kept.alarm(252) is None
    kept.replace(one, 700)  # its explanation is larger than its sound
    assert kept.since(0)["alarms"] == [254] and open_sizes() == []
    quiet, upload = alarm(5)
    assert not kept.add(Prediction(quiet.file, score=0.0, threshold=1.0, alarm=False), upload)
    assert not upload.closed and kept.since(0)["alarms"] == [254]
    upload.close()


@pytest.mark.parametrize("named", [False, True])
def test_an_upload_is_gone_when_it_is_closed(named, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if named:  # where the system has no other way
        monkeypatch.setattr(uploads, "_DESCRIPTORS", tmp_path / "none")
    upload = Upload()
    upload.write(b"12")
    upload.write(b"3" * 100_000)
    assert upload.path.read_bytes() == b"12" + b"3" * 100_000 and upload.size == 100_002
    assert len([*tmp_path.iterdir()]) == named
    upload.close()
    assert not any(tmp_path.iterdir())


def test_a_request_waits_for_one_explanation_at_most(tmp_path):
    """Other work is done between batches, one at a time, and never during one."""
    done, busy = [], threading.Lock()

    def record(what):
        assert busy.acquire(blocking=False), "two at the same time"
        time.sleep(0.02)
        done.append(what)
        busy.release()
        return what

    class Scoring:
        def iter_predictions(self, paths, faulty):
            record("batch")
            return (Prediction(str(path), score=0.0) for path in paths)

    async def use():
        queue = batches.Batches(Scoring(), 64, lambda size: None)  # type: ignore[arg-type]
        worker = asyncio.create_task(queue.run())
        other = [asyncio.create_task(queue.between(record, f"other {i}")) for i in range(5)]
        await asyncio.sleep(0)
        for i in range(4):
            await queue.score(tmp_path / f"{i}")
        assert await asyncio.gather(*other) == [f"other {i}" for i in range(5)]
        worker.cancel()

    asyncio.run(use())
    first, last = done.index("batch"), len(done) - done[::-1].index("batch")
    for before, after in zip(done[first:last], done[first + 1 : last], strict=False):
        assert "batch" in (before, after)


def test_a_defect_is_logged_once_and_told_to_all_requests(tmp_path, caplog):
    class Broken:
        broken = True

        def iter_predictions(self, paths, faulty):
            if self.broken:
                raise KeyError("a defect")
            return (Prediction(str(path), score=0.0) for path in paths)

    async def use():
        detector = Broken()
        queue = batches.Batches(detector, 64, lambda size: None)  # type: ignore[arg-type]
        worker = asyncio.create_task(queue.run())
        waiting = [asyncio.create_task(queue.score(tmp_path / f"{i}")) for i in range(3)]
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in found] == [batches.NotScored] * 3
        detector.broken = False
        assert (await queue.score(tmp_path / "next")).score == 0.0
        worker.cancel()

    asyncio.run(use())
    (record,) = caplog.records
    assert record.exc_info is not None and "a defect" in str(record.exc_info[1])
