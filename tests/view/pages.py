"""Pages of images whose mask is known, made without a network, and a browser that looks at them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver.remote.webdriver import WebDriver

from convformer_monai.bundle import Bundle
from convformer_monai.measurements.measure import measure
from convformer_monai.outputs.page import case_view
from convformer_monai.outputs.writer import Options, Result
from convformer_monai.readers.series import ImageSeries
from convformer_monai.view.assets import NIIVUE
from convformer_monai.view.page import make_page

WAIT_S = 60
FIGURES = os.environ.get("CONVFORMER_FIGURES")  # a folder: screenshots for the documents are put there
RUN = {"weights_sha256": "0" * 64, "device": "cpu", "seconds": {"network": 1.0}, "notes": (), "evidence": {}}


def need_viewer() -> None:
    """Skips where NiiVue is not bundled."""
    if not NIIVUE.is_file():
        pytest.skip("needs NiiVue: run scripts/viewer")


def result_of(
    series: ImageSeries, labels: NDArray[np.uint8], bundle: str, probabilities: NDArray[np.uint8] | None = None
) -> Result:
    """A case whose mask is given, and how probable it is that a voxel belongs to any structure."""
    loaded = Bundle(bundle)
    measurements = measure(labels, series, loaded.task, case="x", bundle=loaded.name)
    run = {**RUN, "weights_sha256": loaded.metadata["weights_sha256"]}
    return Result(
        series,
        labels,
        measurements,
        loaded,
        Options(),
        series,
        run,
        None if probabilities is None else probabilities[None],
    )


def write_page(path: Path, *given: Any) -> Path:
    """Writes the page of :func:`result_of`."""
    path.write_text(make_page(case_view(path.name.removesuffix("_report.html"), result_of(*given))), encoding="utf-8")
    return path


def wait(condition: Callable[[], Any], what: str) -> Any:
    """Waits until a condition holds, and returns what it gave."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.03)
    raise AssertionError(f"{what} did not come within {WAIT_S} s")


def open_page(driver: WebDriver, path: Path, how: str = "viewer") -> None:
    """Opens a page from the disk and waits until its script has done its work."""
    driver.get(path.as_uri())
    ready = wait(lambda: driver.execute_script("return document.documentElement.dataset.ready"), "the page")
    assert ready == how, driver.execute_script("return (document.getElementById('without') || {}).textContent")


def picture(driver: WebDriver) -> NDArray[np.uint8]:
    """The window, (rows, columns, 3), once it stays as it is."""
    seen: list[NDArray[np.uint8]] = []

    def is_still() -> bool:
        seen.append(np.asarray(Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")))
        return len(seen) > 1 and np.array_equal(seen[-2], seen[-1])

    wait(is_still, "a still picture")
    return seen[-1]


def box_of(driver: WebDriver, script: str) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in the window of what a script returns as an element."""
    left, top, wide, high = driver.execute_script(
        f"const box = ({script}).getBoundingClientRect(); return [box.left, box.top, box.width, box.height];"
    )
    return round(left), round(top), round(left + wide), round(top + high)


def save_figure(driver: WebDriver, name: str) -> None:
    """Keeps a screenshot for the documents, if it is asked for: `CONVFORMER_FIGURES=docs/figures pytest tests/view`."""
    if FIGURES:
        shot = Image.fromarray(picture(driver))
        small = shot.resize((1060, round(1060 * shot.height / shot.width)), Image.Resampling.LANCZOS)
        few = small.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # rare colours are kept
        few.save(Path(FIGURES) / name, optimize=True)


def violations(driver: WebDriver, repository: Path) -> list[str]:
    """What axe-core finds wrong with a page: each rule with the first element."""
    axe = repository / "convformer_monai" / "view" / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip("needs axe-core: run scripts/viewer")
    driver.execute_script(axe.read_text(encoding="utf-8"))
    driver.set_script_timeout(WAIT_S)
    found = driver.execute_async_script(
        "const done = arguments[0];"
        "axe.run(document, {iframes: false}).then(result => done(result.violations.map("
        "one => one.id + ': ' + one.help + ' ' + one.nodes[0].html.slice(0, 160))), error => done([String(error)]));"
    )
    return list(found)


def prefer(driver: WebDriver, scheme: str) -> None:
    """Has the browser prefer ``light`` or ``dark``."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})  # type: ignore[attr-defined]
