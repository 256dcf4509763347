"""asdjax serve: real HTTP clients, also slow, huge, broken and many of them."""

import concurrent.futures
import contextlib
import gzip
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.machines import RATE, folder, sound
from support.serving import ask, running, started

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
READER = 20 * HEALTH  # and the answers are not read


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


def first_of(port, content):
    """The beginning of the server's answer to bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(OSError):  # it may refuse before it has read all
            connection.sendall(content)
        return connection.recv(65536)


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
    assert b" 413 " in first_of(port, head).split(b"\r\n")[0]
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in first_of(port, head + 10 * chunk).split(b"\r\n")[0]


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


TOKEN = b"a-token-of-enough-letters"
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer %s\r\n"


def post(body, more=b"", token=TOKEN, length=None):
    stated = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return POST % token + more + stated + b"\r\n" + body


def chunked(*chunks):
    head = POST % TOKEN + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in chunks)


def lying(whole, place, number):
    """A WAV file with another number in its header."""
    return whole[:place] + struct.pack("<I", number) + whole[place + 4 :]


HOSTILE = {  # requests, given a whole recording, a part of one with wrong bytes, and a generator
    "damaged": lambda whole, bad, rng: post(bad),
    "no HTTP": lambda whole, bad, rng: rng.bytes(300) + b"\r\n\r\n",
    "huge": lambda whole, bad, rng: post(b"x" * 1000, length=10**15),
    "shorter than stated": lambda whole, bad, rng: post(bad[:2000], length=len(whole)),
    "longer than stated": lambda whole, bad, rng: post(whole, length=len(bad)),
    "length that is no number": lambda whole, bad, rng: post(bad, b"Content-Length: -5\r\n"),
    "two lengths": lambda whole, bad, rng: post(bad, b"Content-Length: 7\r\n"),
    "chunks without an end": lambda whole, bad, rng: chunked(whole[:3000], bad),
    "chunks and an end": lambda whole, bad, rng: chunked(bad, b""),
    "a chunk whose size is no number": lambda whole, bad, rng: chunked(bad) + b"zz\r\n\r\n",
    "a chunk of 2^63 bytes": lambda whole, bad, rng: chunked() + b"8000000000000000\r\nx",
    "chunks and a length": lambda whole, bad, rng: post(bad, b"Transfer-Encoding: chunked\r\n"),
    "another format": lambda whole, bad, rng: post(b"\x89PNG\r\n\x1a\n" + bad),
    "without a token": lambda whole, bad, rng: post(whole, token=b""),
    "a wrong token": lambda whole, bad, rng: post(whole, token=rng.bytes(20).hex().encode()),
    "another path": lambda whole, bad, rng: post(bad).replace(b"/predict", b"/../../etc/passwd"),
    "a broken path": lambda whole, bad, rng: post(bad).replace(b"/predict", b"/%00%ff/\xff?name=%"),
    "another method": lambda whole, bad, rng: post(bad).replace(b"POST", b"DELETE"),
    "an unknown explanation": lambda whole, bad, rng: (
        b"GET /recent/%d/explanation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % (rng.integers(10**9), TOKEN)
    ),
    "a long header": lambda whole, bad, rng: post(whole, b"X: " + b"a" * 100_000 + b"\r\n"),
    "many headers": lambda whole, bad, rng: post(whole, b"X: a\r\n" * 5000),
    "multipart": lambda whole, bad, rng: post(
        b"--b\r\nContent-Disposition: form-data; name=f; filename=../a\r\n\r\n" + bad,
        b"Content-Type: multipart/form-data; boundary=b\r\n",
    ),
    "a bomb in gzip": lambda whole, bad, rng: post(BOMB, b"Content-Encoding: gzip\r\n"),
    "a size that lies": lambda whole, bad, rng: post(lying(whole, 40, 2**32 - 1)),
    "a rate that lies": lambda whole, bad, rng: post(lying(whole, 24, rng.integers(2**32))),
    "channels that lie": lambda whole, bad, rng: post(lying(whole, 22, 0x1000FFFF)),
    "a socket is wanted": lambda whole, bad, rng: post(
        b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    ),
    "asked whether to go on": lambda whole, bad, rng: post(bad, b"Expect: 100-continue\r\n"),
}
BOMB = gzip.compress(bytes(50_000_000))
STATUSES = {b"200", b"400", b"401", b"404", b"405", b"413", b"415", b"422", b"431", b"503", b"100"}


@pytest.mark.slow
def test_hostile_requests_leave_it_serving(detector_file, sounds, tmp_path):
    """Ten thousand of all kinds: memory, files and open descriptors stay what they were."""
    whole = sounds["new"][0].read_bytes()
    kinds = list(HOSTILE.values())

    def one(seed):
        rng = np.random.default_rng(seed)
        bad = bytearray(whole[: rng.integers(1, len(whole))])
        for place in rng.integers(0, min(len(bad), 100), 5):
            bad[place] = rng.integers(256)
        content = kinds[seed % len(kinds)](whole, bytes(bad), rng)
        if rng.random() < 0.2:  # the client leaves before it has an answer
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(content[: rng.integers(1, len(content) + 1)])
            return b""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            with contextlib.suppress(OSError):  # it may refuse before it has read all
                connection.sendall(content)
                if rng.random() < 0.5:
                    time.sleep(0.1)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                return connection.recv(65536)
        return b""

    def memory():
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+([0-9]+) kB", text)[0])

    token = tmp_path / "token"
    token.write_bytes(TOKEN)
    (tmp_path / "temporary").mkdir()
    env = {"TMPDIR": str(tmp_path / "temporary")}
    options = [*SMALL, "--token-file", str(token)]
    right = {"Authorization": b"Bearer " + TOKEN}
    with (
        started(detector_file, *options, env=env) as (process, port),
        concurrent.futures.ThreadPoolExecutor(8) as threads,
    ):
        for begin in range(0, 10_000, 1000):
            for found in threads.map(one, range(begin, begin + 1000)):
                status = re.match(rb"HTTP/1.1 ([0-9]+)", found)
                assert not found or status[1] in STATUSES, found
            print(f"{begin + 1000} requests: {memory()} kB")
            if begin == 2000:
                before = memory()
        assert memory() < before + 20_000
        status, body, _ = ask(port, body=whole, headers=right)
        (expected,) = Detector.load(detector_file).predict_details(sounds["new"][0])
        assert status == 200 and json.loads(body)["score"] == expected.score
        assert ask(port, "GET", "/health")[0] == 200
        deadline = time.monotonic() + 60
        descriptors = Path(f"/proc/{process.pid}/fd")
        while time.monotonic() < deadline and len([*descriptors.iterdir()]) > 60:
            time.sleep(0.5)
        assert len([*descriptors.iterdir()]) <= 60
        assert not any((tmp_path / "temporary").iterdir())


def test_a_request_in_progress_is_finished_after_a_signal(detector_file, tmp_path):
    """Of ten minutes, which take longer than the signal needs."""
    wave = np.tile(np.concatenate([sound(seed, seconds=2.0) for seed in range(29)]), 10)
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
