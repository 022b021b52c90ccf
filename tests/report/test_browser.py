"""Pages in a real browser: nothing is loaded, nothing goes wrong, the switch works, phones and printers too."""

from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip("the browser test needs /usr/bin/chromium", allow_module_level=True)
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=["cells_report", "fracture_report"])
def page(request, browser):
    path = request.getfixturevalue(request.param)
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    yield page
    page.close()
    assert problems == []
    assert [url for url in requests if not url.startswith(("data:", path.as_uri()))] == []


def test_a_page_in_a_browser(page, tmp_path):
    broken = "Array.from(document.images).filter(i => !i.complete || i.naturalWidth == 0).length"
    assert page.evaluate(broken) == 0
    layer, switch = page.locator(".layer").first, page.locator(".switch")
    box = page.locator(".view, .stack").first
    layer.scroll_into_view_if_needed()
    assert layer.is_visible()
    shown = box.screenshot()
    switch.uncheck()
    assert not any(each.is_visible() for each in page.locator(".layer").all())
    hidden = box.screenshot()
    assert shown != hidden
    switch.check()
    assert box.screenshot() == shown
    for width in (1100, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    printed = page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert printed.startswith(b"%PDF")
