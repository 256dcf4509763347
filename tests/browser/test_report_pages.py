"""The pages of `asdjax report` in a browser: sounds decode, figures show, nothing overflows."""

import pytest
from conftest import TESTS
from support import browser as browsers
from support.machines import folder

from asdjax import Detector
from asdjax.cli import main

pytestmark = [pytest.mark.slow, browsers.needed]


@pytest.fixture(scope="module")
def browser():
    with browsers.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def run_page(corpus_root, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    run = root / "run"
    tiny = ["run", str(TESTS / "tiny.yaml"), "--data", str(corpus_root), "--run", str(run)]
    assert main([*tiny, "--train.epochs", "2"]) == 0
    assert main(["report", str(run), "--out", str(root / "run.html")]) == 0
    return root / "run.html"


@pytest.fixture(scope="module")
def detector_page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    normal = folder(root / "normal", range(20))
    normal[0].rename(root / "normal" / "<img src=x onerror=alert(1)>.wav")
    normal[1].rename(root / "normal" / f"{'long' * 40}.wav")
    Detector().fit(root / "normal").save(root / "d.asd")
    assert main(["report", str(root / "d.asd"), "--out", str(root / "d.html")]) == 0
    return root / "d.html"


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_the_page_of_a_run(browser, run_page, width):
    with browsers.opened(browser, run_page.as_uri(), width) as page:
        sounds, pictures, _ = browsers.require_shown(page)
        assert sounds > 2 and pictures > 5


@pytest.mark.parametrize("width", browsers.WIDTHS)
def test_the_page_of_a_detector(browser, detector_page, width):
    with browsers.opened(browser, detector_page.as_uri(), width) as page:
        assert browsers.require_shown(page)[1] == 1
        assert "<img src=x onerror" in page.inner_text("body")
