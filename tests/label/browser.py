"""A real viewer for the tests: OHIF, as MONAI Label serves it, in a headless Chromium."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from chromium import requests_of
from numpy.typing import NDArray
from PIL import Image
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

WAIT_S = 180
LABELMAP = "1"  # the one segmentation that the panel makes and fills
Found = TypeVar("Found")
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """Where one viewport shows what.

    Attributes:
        box: left, top, right and bottom of its canvas on the page, in pixels.
        corners: (3, 3) LPS mm at the page's pixels (left, top), (left + 1, top) and (left, top + 1).
    """

    box: tuple[int, int, int, int]
    corners: NDArray[np.float64]

    def cut(self, page: Picture) -> Picture:
        """The viewport's part of a picture of the page."""
        left, top, right, bottom = self.box
        return page[top:bottom, left:right]

    def points(self) -> NDArray[np.float64]:
        """LPS mm of the middle of each of its pixels, (rows, columns, 3)."""
        left, top, right, bottom = self.box
        rows, columns = np.mgrid[0.5 : bottom - top, 0.5 : right - left]
        origin, along_row, down_column = self.corners
        return origin + columns[..., None] * (along_row - origin) + rows[..., None] * (down_column - origin)


class Ohif:
    """OHIF with MONAI Label's panel.

    Args:
        driver: of :func:`chromium`.
        server: address of MONAI Label, without a slash at the end.
    """

    def __init__(self, driver: WebDriver, server: str) -> None:
        self.driver = driver
        self.server = server

    def open(self, study: str) -> None:
        """Opens a study and waits until its slices are there."""
        self.driver.get(f"{self.server}/ohif/monai-label?StudyInstanceUIDs={study}")
        # only a browser that has no such cookie yet shows this
        self._element("//button[contains(., 'Confirm and Hide')]").click()
        self._wait("the slices", lambda: self._script(SLICES_ARE_LOADED))

    def connect(self) -> None:
        """Connects the panel to the server and waits until it offers its models."""
        address = self._element("//input[@id='monailabelServerURL']")
        # typed over, never emptied: the panel falls over an empty address
        address.send_keys(Keys.CONTROL, "a")
        address.send_keys(f"{self.server}/")
        self._element("//table[@class='settingsTable']//button").click()
        self._element(RUN)
        # the panel gives the segments their colours one second after it has made them
        self._wait("the colours", lambda: self._script(COLOURS_ARE_SET, LABELMAP))

    def models(self) -> list[str]:
        """The models that can be chosen for automatic segmentation."""
        return [option.get_attribute("value") or "" for option in self._models().options]

    def segment(self, model: str) -> None:
        """Runs a model and waits until the viewer has its mask."""
        self._models().select_by_value(model)
        self._element(RUN).click()
        self._wait("the mask", lambda: self._script(MASK_IS_THERE, LABELMAP))

    def segments(self) -> dict[str, tuple[int, int, int]]:
        """Name and colour of each segment that the viewer knows."""
        return {name: tuple(colour[:3]) for name, colour in self._script(SEGMENTS, LABELMAP)}

    def view(self, name: str = "mpr-axial") -> View:
        """Where a viewport, ``mpr-axial``, ``mpr-sagittal`` or ``mpr-coronal``, shows what."""
        left, top, width, height, *corners = self._script(VIEW, name)
        box = (round(left), round(top), round(left + width), round(top + height))
        return View(box, np.array(corners))

    def picture(self) -> Picture:
        """The page once its messages are gone and it stays as it is, RGB of shape (rows, columns, 3)."""
        self._wait("the end of its messages", lambda: not self._script(MESSAGES))
        seen: list[Picture] = [self._picture()]

        def is_still() -> bool:
            seen.append(self._picture())
            return np.array_equal(seen.pop(0), seen[0])

        self._wait("a still picture", is_still)
        return seen[0]

    def requests(self) -> list[dict[str, Any]]:
        """What the page has asked for since the last call: method, url, headers and, if sent, postData."""
        return requests_of(self.driver)

    def _picture(self) -> Picture:
        return np.asarray(Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB"))

    def _models(self) -> Select:
        return Select(self._element(f"{RUN}/ancestor::table//select"))

    def _element(self, path: str) -> WebElement:
        return self._wait(path, lambda: self.driver.find_element(By.XPATH, path))

    def _script(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def _wait(self, what: str, condition: Callable[[], Found]) -> Found:
        # OHIF's parts come one after the other: until they are there, asking for them is an error
        waiting = WebDriverWait(self.driver, WAIT_S, ignored_exceptions=[WebDriverException])
        return waiting.until(lambda _: condition(), f"OHIF did not show {what} within {WAIT_S} s")


# "Run Segmentation VISTA" is the button of another tab
RUN = "//button[@title='Run Segmentation']"

SLICES_ARE_LOADED = """
const views = cornerstone.getRenderingEngines()[0].getViewports();
return views.length === 3 && views.every(view => cornerstone.cache.getVolume(view.getVolumeId()).loadStatus.loaded);
"""

COLOURS_ARE_SET = """
const segmentation = services.segmentationService.getSegmentation(arguments[0]);
const view = cornerstone.getRenderingEngines()[0].getViewport("mpr-axial").id;
const colour = index => cornerstoneTools.segmentation.config.color.getSegmentIndexColor(view, arguments[0], index);
const segments = Object.values(segmentation.config.segments);
return segments.every(segment => String(colour(segment.segmentIndex)) === String(segment.color));
"""

MASK_IS_THERE = """
const labelmap = services.segmentationService.getLabelmapVolume(arguments[0]);
return labelmap.voxelManager.getCompleteScalarDataArray().some(value => value > 0);
"""

MESSAGES = "return document.querySelectorAll('[data-sonner-toast]').length;"

SEGMENTS = """
const segmentation = services.segmentationService.getSegmentation(arguments[0]);
return Object.values(segmentation.config.segments).map(segment => [segment.label, segment.color]);
"""

VIEW = """
const view = cornerstone.getRenderingEngines()[0].getViewport(arguments[0]);
const box = view.canvas.getBoundingClientRect();
const corners = [[0, 0], [1, 0], [0, 1]].map(pixel => Array.from(view.canvasToWorld(pixel)));
return [box.left, box.top, box.width, box.height, ...corners];
"""
