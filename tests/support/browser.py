"""A real browser without a window, and what has to hold of every page that it shows."""

import contextlib
import importlib.util
import shutil

import pytest

CHROMIUM = shutil.which("chromium")
needed = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="Chromium or playwright is missing: scripts/browser installs them",
)
WIDTHS = (1400, 390)
EVIL = "other.example"
"""A name of this machine that is not the server's own, as in DNS rebinding."""


@contextlib.contextmanager
def chromium():
    """A browser; the tests' end closes it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as library:
        browser = library.chromium.launch(
            executable_path=CHROMIUM, args=[f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"]
        )
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, width, *, allowed=(), **options):
    """A page; at the end it must have said nothing on the console but what is `allowed`."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **options)
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"exception: {error}"))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.goto(address)
    yield page
    allowed = [*allowed, "Canvas2D: Multiple readback"]  # by the checks themselves
    assert [text for text in said if not any(part in text for part in allowed)] == []
    context.close()


def require_shown(page):
    """No sideways scrolling, every sound decodes, every figure is drawn; returns their numbers."""
    wide, room = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide <= room
    sounds = page.evaluate(_SOUNDS)
    assert all(not error and duration > 0 for error, duration in sounds), sounds
    pictures = page.evaluate(_PICTURES)
    assert all(width > 0 for width in pictures), pictures
    drawn = page.evaluate(_DRAWN)
    assert all(count > 10 for count in drawn), drawn
    return len(sounds), len(pictures), len(drawn)


_PICTURES = """() => Promise.all([...document.images].map(
  (image) => image.decode().then(() => image.naturalWidth)))"""
_SOUNDS = """() => Promise.all([...document.querySelectorAll("audio")].filter(
  (audio) => audio.checkVisibility()).map(async (audio) => {
    if (!(audio.duration > 0)) {
      const done = new Promise((resolve) => {
        audio.onloadedmetadata = audio.onerror = resolve;
      });
      audio.preload = "auto";
      audio.load();
      await done;
    }
    return [audio.error && audio.error.message, audio.duration];
  }))"""
# colours on each canvas that is shown
_DRAWN = """() => [...document.querySelectorAll("canvas")].filter(
  (canvas) => canvas.checkVisibility()).map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return new Set(new Uint32Array(data.buffer)).size;
  })"""
