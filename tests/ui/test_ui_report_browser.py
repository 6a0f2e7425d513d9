"""The report in a real browser: it fits on a phone, its tables say that they scroll, and on paper it takes two pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest

from chromium import Browser, Page, browser, chromium
from ways import config, trace, trained_run
from windfall.ui.page.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium (Debian: chromium), which is not here"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    trace(folder)
    return write_report(trained_run(folder, config(folder))).as_uri()


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile") / "p") as found:
        yield found


def opened(driven: Browser, url: str, **how: int | bool) -> Page:
    page = driven.page(url, **how)  # type: ignore[arg-type]
    page.until("document.readyState === 'complete' && document.querySelector('footer')")
    return page


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_page_and_tables_that_are_say_so(driven: Browser, url: str, width: int, dark: bool) -> None:
    page = opened(driven, url, width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    # A table that does not fit scrolls within itself, and the words above it are there to be seen.
    wide = "[...document.querySelectorAll('.scroll')].filter(s => s.offsetParent && s.scrollWidth > s.clientWidth + 1)"
    told = f"{wide}.every(s => s.previousElementSibling?.classList.contains('moves') && s.previousElementSibling.offsetHeight > 0)"
    assert page.run(f"{wide}.length") > 0 or width > 640
    assert page.run(told)
    assert page.run("[...document.querySelectorAll('figure svg')].filter(s => s.getBoundingClientRect().width > 0).length") == 4
    assert page.errors() == []


def test_on_paper_it_takes_two_pages_and_is_light(driven: Browser, url: str) -> None:
    page = opened(driven, url, dark=True)
    for size in ({"paperWidth": 8.27, "paperHeight": 11.69}, {"paperWidth": 8.5, "paperHeight": 11.0}):
        data = page.call("Page.printToPDF", preferCSSPageSize=False, printBackground=True, **size)["data"]
        assert len(re.findall(rb"/Type\s*/Page[^s]", base64.b64decode(data))) == 2
    page.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).color") == "rgb(27, 39, 51)"
