"""asdjax serve: real HTTP clients, also slow, huge, broken and many of them."""

import concurrent.futures
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.machines import RATE, folder, sound
from support.serving import ask, running

from asdjax import Detector
from asdjax.cli import main
from asdjax.commands import serve
from asdjax.errors import AsdjaxError
from asdjax.server import listening

SMALL = ["--most-bytes", "200000", "--most-seconds", "5", "--most-waiting", "4"]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    return {
        "normal": folder(root / "normal", range(24), seconds=2.0),
        "new": folder(root / "new", range(100, 110), seconds=2.0),
        "faulty": folder(root / "faulty", range(200, 203), fault="tone", seconds=2.0),
    }


@pytest.fixture(scope="module")
def detector_file(sounds, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "d.asd"
    Detector().fit(sounds["normal"]).save(path)
    return path


@pytest.fixture(scope="module")
def port(detector_file):
    with running(detector_file, *SMALL) as found:
        yield found


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
READER = 100 * HEALTH  # and the answers are not read


def raw(port, content, *, patience=30.0):
    """What the server answers to bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        with contextlib.suppress(OSError):  # it may refuse before it has read all
            connection.sendall(content)
        found = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(65536):
                found += part
        return found


def test_predictions_are_those_of_the_detector(port, detector_file, sounds):
    detector = Detector.load(detector_file)
    for path in [*sounds["new"], *sounds["faulty"]]:
        status, body, _ = ask(port, path="/predict?name=today.wav", body=path.read_bytes())
        found = json.loads(body)
        (expected,) = detector.predict_details(path)
        assert status == 200 and found["schema"] == "asdjax.prediction/1"
        assert found["file"] == "today.wav"
        assert (found["score"], found["alarm"]) == (expected.score, expected.alarm)
        assert found["threshold"] == expected.threshold
        assert found["nearest"][0]["name"] == Path(expected.nearest[0].name).name
        assert b"/normal/" not in body and b"tmp" not in body


def test_concurrent_requests_get_their_own_answers(port, detector_file, sounds):
    detector = Detector.load(detector_file)
    paths = [*sounds["new"], *sounds["faulty"]] * 4
    expected = dict(zip(paths, detector.score_samples(paths), strict=True))

    def one(path):
        while True:
            status, body, headers = ask(port, body=path.read_bytes())
            if status == 503:
                assert int(headers["Retry-After"]) > 0
                time.sleep(0.05)
                continue
            assert status == 200
            return json.loads(body)["score"]

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        for path, score in zip(paths, threads.map(one, paths), strict=True):
            assert score == -expected[path]


def test_health_and_metrics(port):
    status, body, _ = ask(port, "GET", "/health")
    assert status == 200 and json.loads(body)["status"] == "ok"
    before = counted(port)
    assert ask(port, body=b"no sound")[0] == 415
    assert counted(port) == before + 1


def counted(port):
    status, body, headers = ask(port, "GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    name = 'asdjax_requests_total{path="/predict",status="415"} '
    found = [line for line in body.decode().splitlines() if line.startswith(name)]
    return float(found[0].removeprefix(name)) if found else 0.0


def wav(seconds, path, **options):
    soundfile.write(path, sound(1, seconds=seconds), RATE, **options)
    return path.read_bytes()


def test_what_is_no_sound_has_its_own_status(port, sounds, tmp_path):
    whole = sounds["new"][0].read_bytes()
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    compressed = wav(6.0, tmp_path / "long.flac")
    assert len(compressed) < 200_000
    for body, status, word in (
        (b"", 400, "no body"),
        (b"hello", 415, "not a WAV"),
        (os.urandom(5000), 415, "not a WAV"),
        (whole[:5000], 422, "truncated"),
        (b"RIFF" + whole[4:8] + b"WAVE", 422, "request"),
        (silent.read_bytes(), 422, "silent"),
        (compressed, 413, "at most 5 s"),
        (b"x" * 200_001, 413, "200,000 bytes"),
    ):
        found, answer, _ = ask(port, body=body)
        assert (found, word in json.loads(answer)["error"]) == (status, True), answer
        assert b"/tmp" not in answer
    assert ask(port, "GET", "/predict")[0] == 405
    assert ask(port, "GET", "/nothing")[0] == 404
    assert ask(port, path=f"/predict?name={'x' * 2000}", body=whole)[0] == 400
    assert ask(port, path="/predict?name=%ff%00%1b", body=whole)[0] == 200


def test_huge_bodies_are_refused_before_they_are_read(port):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    assert b" 413 " in raw(port, head).split(b"\r\n")[0]
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in raw(port, head + 10 * chunk).split(b"\r\n")[0]


def test_broken_requests_and_clients_that_leave(port, sounds):
    whole = sounds["new"][0].read_bytes()
    for content in (b"\x00" * 100, b"GET\r\n\r\n", b"POST /predict HTTP/1.1\r\n" + b"A" * 100_000):
        assert raw(port, content)[:12] in (b"HTTP/1.1 400", b"")
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(whole)
    for content in (head, head + whole[:1000], head + whole):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(content)
    deadline = time.monotonic() + 30
    while ask(port, body=whole)[0] == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ask(port, body=whole)[0] == 200


@pytest.mark.parametrize("begin", [b"", b"POST /predict HTTP/1.1\r\nX: ", HEALTH, READER])
def test_idle_connections_keep_nobody_out(port, sounds, begin):
    """More than are allowed at once: those that send no header, half of one, or whole requests."""
    with contextlib.ExitStack() as connections:
        for _ in range(600):
            one = connections.enter_context(socket.create_connection(("127.0.0.1", port)))
            with contextlib.suppress(OSError):  # it may be closed for a later one already
                one.sendall(begin)
        assert ask(port, body=sounds["new"][0].read_bytes())[0] == 200


@pytest.mark.slow
def test_hostile_requests_leave_it_serving(port, sounds):
    rng = np.random.default_rng(0)
    whole = sounds["new"][0].read_bytes()
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"

    def one(seed):
        rng = np.random.default_rng(seed)
        body = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, min(len(body), 100), 5):
            body[place] = rng.integers(256)
        kind = seed % 4
        if kind == 0:
            return raw(port, head % len(body) + bytes(body))
        if kind == 1:
            return raw(port, rng.bytes(300) + b"\r\n\r\n")
        if kind == 2:
            return raw(port, head % 10**15 + b"x" * 1000)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head % len(body) + bytes(body)[:2000])
        return b""

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for found in threads.map(one, rng.integers(0, 2**31, 10_000)):
            status = re.match(rb"HTTP/1.1 ([0-9]+)", found)
            assert not found or status[1] in (b"200", b"400", b"413", b"415", b"422", b"503")
    assert ask(port, body=whole)[0] == 200
    assert ask(port, "GET", "/health")[0] == 200


def test_a_request_in_progress_is_finished_after_a_signal(detector_file, tmp_path):
    """Of ten minutes, which take longer than the signal needs."""
    wave = np.concatenate([sound(seed, seconds=2.0) for seed in range(290)])
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    body = (tmp_path / "long.wav").read_bytes()
    with (
        concurrent.futures.ThreadPoolExecutor(1) as threads,
        running(detector_file) as port,
    ):
        answer = threads.submit(ask, port, body=body)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # until it is being scored
            metrics = ask(port, "GET", "/metrics")[1].decode()
            if "asdjax_batch_size_count 1.0" in metrics:
                break
    assert answer.result()[0] == 200


def test_a_token_is_needed_where_it_is_asked_for(detector_file, sounds, tmp_path):
    token = tmp_path / "token"
    token.write_text("a-token-of-enough-letters\n")
    whole = sounds["new"][0].read_bytes()
    with running(detector_file, "--token-file", str(token)) as port:
        for given in (None, "Bearer wrong", "a-token-of-enough-letters", "Basic YQ==", "Bearer ü"):
            headers = {} if given is None else {"Authorization": given.encode("latin-1")}
            status, _, answered = ask(port, body=whole, headers=headers)
            assert status == 401 and answered["WWW-Authenticate"] == "Bearer"
        for scheme in ("bearer", "BEARER"):
            headers = {"Authorization": f"{scheme} a-token-of-enough-letters"}
            assert ask(port, body=whole, headers=headers)[0] == 200
        right = {"Authorization": "Bearer a-token-of-enough-letters"}
        assert ask(port, body=whole, headers=right)[0] == 200
        assert ask(port, "GET", "/metrics")[0] == 401
        assert ask(port, "GET", "/metrics", headers=right)[0] == 200
        assert ask(port, "GET", "/health")[0] == 200


def test_other_addresses_need_a_token(detector_file, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv(serve.TOKEN, raising=False)
    for host in ("0.0.0.0", "::", socket.gethostname() + ".invalid"):
        assert main(["serve", str(detector_file), "--host", host]) == 2
        assert "--token-file" in capsys.readouterr().err
    for host, local in (("127.0.0.1", True), ("localhost", True), ("127.9.9.9", True)):
        assert listening.is_local(host) == local


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64])
def test_a_host_that_is_no_name(detector_file, tmp_path, capsys, host):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    given = ["serve", str(detector_file), "--host", host, "--port", "0"]
    assert main([*given, "--token-file", str(token)]) == 1
    assert f"{host}:0: cannot listen" in capsys.readouterr().err


def test_a_killed_server_leaves_nothing(detector_file, sounds, tmp_path):
    """Killed with an alarm's sound in its keeping and a body that is still coming."""
    command = [sys.executable, "-m", "asdjax", "serve", str(detector_file), "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    with process.stderr:
        line = next(line for line in process.stderr if "listening on" in line)
        port = int(re.findall(r":([0-9]+) ", line)[0])
        status, body, _ = ask(port, body=sounds["faulty"][0].read_bytes())
        assert status == 200 and json.loads(body)["alarm"]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nRIFF"
            )
            assert ask(port, "GET", "/recent")[0] == 200
            process.kill()
            assert process.wait(timeout=60) == -9
    assert not any(tmp_path.iterdir())


def test_tokens(tmp_path, monkeypatch):
    for text in ("short", "", "with a\nnew line and more", "ümlaut-ümlaut-ümlaut"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(AsdjaxError, match="token has 16 or more"):
            serve.find_token(tmp_path / "token")
    monkeypatch.setenv(serve.TOKEN, "0123456789abcdef")
    assert serve.find_token(None) == "0123456789abcdef"


def test_a_port_in_use(detector_file, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = str(taken.getsockname()[1])
        assert main(["serve", str(detector_file), "--port", number]) == 1
    assert f"127.0.0.1:{number}: cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [("--port", "70000"), ("--most-bytes", "0"), ("--most-waiting", "0")]
)
def test_options_out_of_bounds(detector_file, option, capsys):
    assert main(["serve", str(detector_file), *option]) == 2
    assert option[0] in capsys.readouterr().err


def test_without_the_libraries(detector_file, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", str(detector_file)]) == 1
    assert "pip install 'asdjax[serve]'" in capsys.readouterr().err
