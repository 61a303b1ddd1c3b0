"""A headless Chromium for the tests of pages, which reaches nothing but this machine."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

# WebGL without a graphics card
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
FLAGS = (
    "--headless=new",
    "--window-size=1600,1000",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    # nothing but this machine: OHIF asks Google for its letters
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def need_chromium() -> None:
    """Skips where there is no browser to drive."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt-get install chromium chromium-driver")


@contextlib.contextmanager
def chromium(folder: Path, *flags: str, webgl: bool = True) -> Iterator[WebDriver]:
    """Runs a browser that nobody has used before until the block ends.

    Args:
        folder: for its profile and home; made if missing.
        flags: further ones.
        webgl: whether it draws with WebGL.
    """
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    drawing = SOFTWARE_WEBGL if webgl else ("--disable-gpu", "--disable-3d-apis")
    for flag in (*FLAGS, *drawing, *flags, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # the driver is named, so that selenium does not look for one on the network
    service = Service(shutil.which("chromedriver"), env={**os.environ, "HOME": str(home)})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def requests_of(driver: WebDriver) -> list[dict[str, Any]]:
    """What the pages have asked for since the last call: method, url, headers and, if sent, postData."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"] for m in messages if m["method"] == "Network.requestWillBeSent"]
