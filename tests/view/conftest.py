"""Fixtures of the tests that look at pages."""

from collections.abc import Iterator

import pytest
from chromium import chromium, need_chromium, requests_of
from pages import FIGURES, need_viewer
from selenium.webdriver.remote.webdriver import WebDriver


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """A browser, which the tests of a file share."""
    need_chromium()
    need_viewer()
    size = "1280,900" if FIGURES else "1060,820"  # without a graphics card each pixel costs time
    with chromium(tmp_path_factory.mktemp("browser"), f"--window-size={size}") as running:
        requests_of(running)  # those of its start page
        yield running
