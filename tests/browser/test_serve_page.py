"""The page of `asdjax serve` in a browser, while recordings come."""

import contextlib
import functools
import http.server
import json
import threading
import time
from urllib.parse import quote

import pytest
from support import browser as browsers
from support.machines import folder
from support.serving import ask, running

from asdjax import Detector
from asdjax.server.recent import MOST_ALARMS

pytestmark = [pytest.mark.slow, browsers.needed]
TOKEN = "a-token-of-enough-letters"
HOSTILE = (
    "<img src=x onerror=alert(1)>.wav",
    "</title><script>alert(1)</script>.wav",
    "javascript:alert(1)//\u202egnp.wav",
    "line\nbreak\t&amp;\"'`${7*7}{{7*7}}.wav",
    "long" * 240,
)


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    return {
        "normal": folder(root / "normal", range(24), seconds=2.0),
        "new": folder(root / "new", range(100, 104), seconds=2.0),
        "faulty": folder(root / "faulty", range(200, 202), fault="tone", seconds=2.0),
    }


@pytest.fixture(scope="module")
def detector_file(sounds, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "<b>pump & fan.asd"
    Detector().fit(sounds["normal"]).save(path)
    return path


def post(port, path, name, headers=None):
    status, body, _ = ask(port, path=f"/predict?name={quote(name)}", body=path.read_bytes(),
                          headers=headers)  # fmt: skip
    assert status == 200
    return json.loads(body)


def require_alarm(page, name):
    """The details show an alarm, its sound plays, and both maps are drawn."""
    page.wait_for_selector("#explanation:not([hidden])")
    assert page.inner_text("#facts bdi") == name
    assert page.locator("#areas li").count() >= 1
    sounds, _, maps = browsers.require_shown(page)
    assert (sounds, maps) == (1, 2)
    page.evaluate("document.getElementById('audio').play()")
    page.wait_for_function("() => document.getElementById('audio').currentTime > 0.3")
    assert page.locator(".playhead").first.is_visible()
    page.evaluate("document.getElementById('audio').pause()")


_DROP = """(content) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([new Uint8Array(content)], "dropped.wav"));
  document.getElementById("drop").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_while_recordings_come(browser, detector_file, sounds, width, scheme):
    no_sound, address = "status of 415", "http://127.0.0.1:{}/"
    with (
        running(detector_file) as port,
        browsers.opened(
            browser, address.format(port), width, allowed=[no_sound], color_scheme=scheme
        ) as page,
    ):
        page.wait_for_selector("#chart svg")
        assert page.inner_text("#name") == "<b>pump & fan"
        assert "No recording" in page.inner_text("#latest")
        browsers.require_shown(page)
        for i, path in enumerate([*sounds["new"], sounds["faulty"][0], *sounds["new"]]):
            post(port, path, f"take {i}.wav")
        page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 9")
        circles = page.locator("#chart circle").count()
        diamonds = page.locator("#chart path.alarm").count()
        assert circles + diamonds == 9 and diamonds >= 1
        assert page.locator("#chart path.threshold").count() == 1
        require_alarm(page, page.inner_text("#rows tr.alarm button >> nth=0"))
        page.check("#only")
        assert page.locator("#rows tr:visible").count() == diamonds
        page.uncheck("#only")

        page.set_input_files("#file", sounds["faulty"][1])  # an upload, which is then shown
        page.wait_for_selector("#results .badge.alarm")
        for word in ("score", "threshold", "p-value", "nearest"):
            assert word in page.inner_text("#results")
        require_alarm(page, sounds["faulty"][1].name)
        assert page.title().startswith("ALARM")

        page.evaluate(_DROP, [*sounds["new"][0].read_bytes()])
        page.wait_for_function("() => document.querySelectorAll('#results .badge').length === 2")
        assert "dropped.wav" in page.inner_text("#results")
        assert page.inner_text("#facts bdi") == "dropped.wav"

        page.set_input_files("#file", __file__)
        page.wait_for_selector("#results .error")
        assert "not a WAV" in page.inner_text("#results .error")
        browsers.require_shown(page)


def test_a_recording_that_is_too_long_for_a_p_value(browser, detector_file, tmp_path):
    (path,) = folder(tmp_path, range(300, 301), seconds=60.0)
    with (
        running(detector_file) as port,
        browsers.opened(browser, f"http://127.0.0.1:{port}/", 1400) as page,
    ):
        assert post(port, path, "long.wav")["p_value"] is None
        page.wait_for_selector("#rows tr")
        assert "long.wav" in page.inner_text("#rows") and "-" in page.inner_text("#rows")
        page.set_input_files("#file", path)
        page.wait_for_selector("#results .badge")
        browsers.require_shown(page)


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_hostile_names_are_text(browser, detector_file, sounds, width):
    with (
        running(detector_file) as port,
        browsers.opened(browser, f"http://127.0.0.1:{port}/", width) as page,
    ):
        for name in HOSTILE:
            assert post(port, sounds["faulty"][0], name)["alarm"]
            page.wait_for_function(
                "name => document.querySelector('#rows button')?.title === name", arg=name
            )
            page.wait_for_selector("#explanation:not([hidden])")
            browsers.require_shown(page)
        assert page.evaluate("document.querySelectorAll('img, script:not([src])').length") == 0
        assert "<img src=x onerror=alert(1)>.wav" in page.inner_text("#rows")


def test_with_a_keyboard(browser, detector_file, sounds):
    with (
        running(detector_file) as port,
        browsers.opened(browser, f"http://127.0.0.1:{port}/", 1400) as page,
    ):
        post(port, sounds["faulty"][0], "first.wav")
        post(port, sounds["new"][0], "second.wav")
        page.wait_for_selector("#explanation:not([hidden])")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.title"))
        assert {"file", "audio", "only", "first.wav", "second.wav"} <= reached
        page.focus("#rows button[title='second.wav']")
        page.keyboard.press("Enter")
        assert page.inner_text("#facts bdi") == "second.wav"
        page.focus("#follow")
        page.keyboard.press("Enter")
        assert page.inner_text("#facts bdi") == "first.wav"


def test_a_new_alarm_does_not_end_what_is_heard(browser, detector_file, sounds):
    with (
        running(detector_file) as port,
        browsers.opened(browser, f"http://127.0.0.1:{port}/", 1400) as page,
    ):
        post(port, sounds["faulty"][0], "first.wav")
        page.wait_for_selector("#explanation:not([hidden])")
        page.evaluate("document.getElementById('audio').play()")
        for _ in range(MOST_ALARMS):  # the first sound is not kept any more, but is here
            post(port, sounds["faulty"][1], "second.wav")
        page.wait_for_function(
            "most => document.querySelectorAll('#rows tr').length > most", arg=MOST_ALARMS
        )
        assert page.inner_text("#facts bdi") == "first.wav"
        assert page.is_visible("#explanation")
        page.click("#follow")
        page.wait_for_selector("#explanation:not([hidden])")
        assert page.inner_text("#facts bdi") == "second.wav"
        assert page.inner_text("#details-title") == "Latest alarm"
        page.click("#rows button[title='first.wav']")
        page.wait_for_function(
            "() => document.getElementById('explanation-note').textContent.includes('not kept')"
        )
        assert not page.is_visible("#explanation")


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_with_a_token(browser, detector_file, sounds, width, tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    refused = "error: Failed to load resource: the server responded with a status of 401"
    with (
        running(detector_file, "--token-file", str(tmp_path / "token")) as port,
        browsers.opened(browser, f"http://127.0.0.1:{port}/", width, allowed=[refused]) as page,
    ):
        post(port, sounds["faulty"][0], "secret.wav", headers)
        assert page.is_visible("#login") and not page.is_visible("#content")
        page.fill("#token", "another-token-of-letters")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.getElementById('login-error').textContent !== ''")
        assert "secret" not in page.content() and "pump" not in page.content()
        browsers.require_shown(page)
        page.fill("#token", TOKEN)
        page.keyboard.press("Enter")
        require_alarm(page, "secret.wav")
        page.set_input_files("#file", sounds["new"][0])
        page.wait_for_selector("#results .badge")
        page.reload()
        page.wait_for_selector("#content:not([hidden])")  # it is kept for the tab
        assert TOKEN not in page.url and not page.context.cookies()
        other = page.context.new_page()
        other.goto(page.url)
        assert other.is_visible("#login")


def test_a_server_that_is_started_again(browser, detector_file, sounds):
    with contextlib.ExitStack() as stack:
        with running(detector_file) as port:
            shown = browsers.opened(
                browser, f"http://127.0.0.1:{port}/", 1400, allowed=["ERR_CONNECTION"]
            )
            page = stack.enter_context(shown)
            for i in range(3):
                post(port, sounds["faulty"][0], f"before {i}.wav")
            page.wait_for_function("() => document.querySelectorAll('#rows tr').length === 3")
        page.wait_for_selector("#status.lost")
        with running(detector_file, port=port):
            page.wait_for_selector("#status.live")
            assert page.locator("#rows tr").count() == 0
            post(port, sounds["faulty"][0], "after.wav")
            page.wait_for_selector("#explanation:not([hidden])")
            assert page.inner_text("#facts bdi") == "after.wav"
            assert page.locator("#rows tr").count() == 1
            stack.close()


@pytest.fixture
def foreign(tmp_path):
    """The port of another server on this machine, with an empty page."""
    (tmp_path / "index.html").write_text("<!doctype html><title>other</title>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_pages_of_other_sites_can_neither_read_nor_post(browser, detector_file, sounds, foreign):
    expected = ["CORS", "ERR_FAILED", "ERR_BLOCKED", "status of 403", "favicon", "404"]
    with running(detector_file) as port:
        own = f"http://127.0.0.1:{port}"
        post(port, sounds["faulty"][0], "secret.wav")
        for address in (f"http://127.0.0.1:{foreign}/", f"http://{browsers.EVIL}:{foreign}/"):
            with browsers.opened(browser, address, 1400, allowed=expected) as page:
                read = "address => fetch(address).then(r => r.text(), () => 'blocked')"
                assert page.evaluate(read, f"{own}/recent") == "blocked"
                for body in ("new Uint8Array(9)", "new Blob(['a=b'], {type: 'text/plain'})"):
                    page.evaluate(
                        f"address => fetch(address, {{method: 'POST', mode: 'no-cors', body: {body}"
                        "})", f"{own}/predict?name=posted",
                    )  # fmt: skip
                sound = """address => new Promise((resolve) => {
                    const audio = new Audio(address);
                    audio.onloadedmetadata = () => resolve("loaded");
                    audio.onerror = () => resolve("blocked");
                })"""
                assert page.evaluate(sound, f"{own}/recent/1/audio") == "blocked"
        rebound = f"http://{browsers.EVIL}:{port}/"
        with browsers.opened(browser, rebound, 1400, allowed=expected) as page:
            page.wait_for_selector("#status.lost")
            assert "another site" in page.inner_text("#status")
            assert not page.is_visible("#content")
            status = "path => fetch(path, {method: 'POST', body: 'x'}).then(r => r.status)"
            assert page.evaluate(status, "predict") == 403
        found = json.loads(ask(port, "GET", "/recent")[1])
        assert [one["file"] for one in found["predictions"]] == ["secret.wav"]
        deadline = time.monotonic() + 10
        wanted = 'asdjax_requests_total{path="/predict",status="403"} 5.0'
        while wanted not in ask(port, "GET", "/metrics")[1].decode():
            assert time.monotonic() < deadline
