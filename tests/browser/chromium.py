"""
The browser: Debian's chromium through Playwright, and the pictures that it takes.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

MISSING = "These tests need chromium: apt-get install chromium (or set CHROMIUM=/path/to/it)."
#: No sandbox: CI is root. The others keep it from asking the network for anything but Airflow.
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
#: Milliseconds for one step in the page; most take a few hundred.
PATIENCE_MS = 20_000
SIZE = {"width": 1280, "height": 800}


def find_chromium() -> str | None:
    """Return the program's path, ``None`` if it is not installed."""
    return shutil.which(os.environ.get("CHROMIUM") or "chromium")


@contextmanager
def started(program: str) -> Iterator[Browser]:
    """Run a browser with an empty profile of its own, and end it."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


class Windows:
    """
    The windows that are open: what they show is kept when a test fails.

    :param url: Airflow.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._url = url
        self._open: list[BrowserContext] = []

    def open(self, *, state: Path | None = None, dark: bool = False) -> Page:
        """
        Open a window without a memory of others, and return its tab.

        :param state: Cookies of somebody who has logged in.
        """
        context = self._browser.new_context(
            base_url=self._url,
            viewport=SIZE,
            locale="en-US",
            timezone_id="UTC",
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            storage_state=state,
        )
        context.set_default_timeout(PATIENCE_MS)
        self._open.append(context)
        return context.new_page()

    def close(self, page: Page) -> None:
        """Close a tab's window."""
        self._open.remove(page.context)
        page.context.close()

    def keep(self, folder: Path) -> None:
        """Write picture and HTML of every tab."""
        folder.mkdir(parents=True, exist_ok=True)
        pages = [page for context in self._open for page in context.pages]
        for number, page in enumerate(pages):
            page.screenshot(path=folder / f"{number}.png")
            (folder / f"{number}.html").write_text(f"<!-- {page.url} -->\n{page.content()}")


def take_picture(page: Page, file: Path) -> Path:
    """
    Write a small PNG of what the window shows, and return it.

    A user interface gets along with 256 colours, covers do not.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    if page.locator("img[src*=cover]").count() == 0:
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    return file
