"""The page of a case in a real browser, from the disk: the mask where it belongs, keys, flags, no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from chromium import chromium, requests_of
from pages import box_of, open_page, picture, prefer, save_figure, violations, wait, write_page
from result_series import centred, ellipse, photo_series, volume_series
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver

from convformer_monai.outputs.drawing.contours import upright
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom
from convformer_monai.readers import read_series

SHAPE = (60, 50, 8)
SPACING = (2.0, 2.0, 6.0)
SLICE = 4  # the one with most mask


def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axial slices stored LPS, so that X runs to the right of the picture and Y downwards; mask with no symmetry."""
    values = np.full((1, *SHAPE), -1000.0)
    values[0, 10:50, 8:42] = 30
    labels = np.zeros((1, *SHAPE), np.uint8)
    labels[0, 30:44, 12:18, 3:6] = 1
    labels[0, 30:36, 12:30, SLICE] = 1
    return values, labels, centred(np.diag([-1.0, -1.0, 1.0]) * SPACING, SHAPE)


def stored(order: tuple[int, int, int], flips: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same head with its axes in another order, some of them backwards."""
    values, labels, affine = head()
    values, labels = (np.transpose(one, (0, *(axis + 1 for axis in order))) for one in (values, labels))
    affine = affine[:, [*order, 3]]
    for axis in flips:
        values, labels = (np.flip(one, axis + 1) for one in (values, labels))
        affine[:, 3] += affine[:, axis] * (labels.shape[axis + 1] - 1)
        affine[:, axis] *= -1
    return np.ascontiguousarray(values), np.ascontiguousarray(labels), affine


def coloured(page: np.ndarray) -> np.ndarray:
    """Where the window shows the red of the mask, and not grey."""
    red, green, blue = np.moveaxis(page.astype(int), -1, 0)
    return (red - green > 25) & (red - blue > 25)


def slice_mm(driver: WebDriver) -> tuple[tuple[int, int, int, int], np.ndarray, np.ndarray]:
    """The viewer's part of the window, and where its pixels lie: mm to the left and upwards on the screen."""
    left, top, right, bottom = box_of(driver, "document.getElementById('canvas')")
    first, lowest, wide, high = driver.execute_script(
        "const one = report.viewer.screenSlices[0]; return [...one.leftTopMM, ...one.fovMM];"
    )
    rows, columns = np.mgrid[top:bottom, left:right] + 0.5
    x = first + (columns - left) / (right - left) * wide
    return (left, top, right, bottom), x, lowest + (bottom - rows) / (bottom - top) * high


def where(driver: WebDriver) -> str:
    return driver.find_element(By.ID, "where").text


def press(driver: WebDriver, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cine of which the mask touches the first slice, with probabilities."""
    folder = tmp_path_factory.mktemp("heart")
    phantom = cardiac_phantom(shape=(80, 80, 6), spacing=(2.2, 2.2, 12.0), num_phases=6)
    image, truth = phantom.save(folder, "heart")
    series = read_series(image, phase="all")
    labels = read_series(truth, phase="all").image.numpy().astype(np.uint8)
    labels[0, 0, 40, 2] = 3  # touches the border
    likely = np.where(labels > 0, 250, 0).astype(np.uint8)
    likely[:, :, :, 3] //= 3
    return write_page(folder / "heart_report.html", series, labels, "cardiac", likely)


@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), (1,)), ((2, 0, 1), (0,))])
def test_mask_lies_where_it_belongs(
    driver: WebDriver, tmp_path: Path, order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    values, labels, affine = stored(order, flips)
    series = volume_series(values.shape, affine, values)
    open_page(driver, write_page(tmp_path / "head_report.html", series, labels, "hemorrhage"))
    _, truth, _ = head()
    (left, top, right, bottom), x, y = slice_mm(driver)
    found = coloured(picture(driver))
    column, row = (np.round(-mm / size).astype(int) for mm, size in ((x, SPACING[0]), (y, SPACING[1])))
    padded = np.pad(truth[0, :, :, SLICE], 1) > 0
    expected = padded[np.clip(column, -1, SHAPE[0]) + 1, np.clip(row, -1, SHAPE[1]) + 1]
    inside = found[top:bottom, left:right]
    assert expected.sum() > 1000
    assert 2 * (inside & expected).sum() / (inside.sum() + expected.sum()) > 0.97


@pytest.mark.parametrize(("axcodes", "rotation"), [("RPS", (0, 0, 0)), ("LPS", (40, 30, 45)), ("PSR", (-30, 40, 60))])
def test_heart_is_magnified_in_its_place(
    driver: WebDriver, tmp_path: Path, axcodes: str, rotation: tuple[float, float, float]
) -> None:
    """As radiologists see it, however oblique, and in whichever order it is stored."""
    stacked = "RPS" if axcodes != "PSR" else "PRS"
    size = {axis: (n, mm) for axis, n, mm in zip(stacked, (96, 80, 4), (2.5, 2.5, 15.0), strict=True)}
    codes = axcodes.replace("L", "R")
    shape, spacing = ([size[axis][place] for axis in codes] for place in (0, 1))
    phantom = cardiac_phantom(shape=shape, spacing=spacing, axcodes=axcodes, rotation=rotation)
    image, truth = (read_series(path) for path in phantom.save(tmp_path, "heart"))
    labels = truth.image.numpy().astype(np.uint8)
    open_page(driver, write_page(tmp_path / "heart_report.html", image, labels, "cardiac"))
    maps, affine = upright(labels, image.affine)
    middle = driver.execute_script(
        "const {centre, step, start} = report.settings.volume; return centre[2] + start[1] * step[2];"
    )
    plane = maps[0, ..., round(middle / np.linalg.norm(affine[:3, 2]))]
    (left, top, right, bottom), x, y = slice_mm(driver)
    found = coloured(picture(driver)[top:bottom, left:right])
    column, row = (np.round(-mm / np.linalg.norm(affine[:3, axis])).astype(int) for axis, mm in ((0, x), (1, y)))
    inside = (column >= 0) & (column < plane.shape[0]) & (row >= 0) & (row < plane.shape[1])
    expected = np.zeros_like(inside)
    expected[inside] = plane[column[inside], row[inside]] == 3
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.95
    rows, columns = np.nonzero(found)
    assert abs(columns.mean() / found.shape[1] - 0.5) < 0.17 and abs(rows.mean() / found.shape[0] - 0.5) < 0.17
    assert driver.execute_script("return report.settings.volume.focus.zoom") > 1.2


def test_structures_and_the_mask_can_be_hidden(driver: WebDriver, heart: Path) -> None:
    open_page(driver, heart)

    def shown() -> int:
        (left, top, right, bottom), _, _ = slice_mm(driver)
        return int(coloured(picture(driver)[top:bottom, left:right]).sum())

    everything = shown()
    assert everything > 300
    press(driver, "3")  # the LV, the only red one
    assert shown() == 0 and not driver.find_element(By.CSS_SELECTOR, "[data-structure='3']").is_selected()
    driver.find_element(By.CSS_SELECTOR, "[data-structure='3']").click()
    assert shown() == everything
    press(driver, "m")
    assert shown() == 0
    press(driver, "m")
    driver.execute_script(
        "const range = document.getElementById('opacity'); range.value = 0; range.dispatchEvent(new Event('input'));"
    )
    assert shown() == 0


def test_keys_lead_through_slices_and_phases(driver: WebDriver, heart: Path) -> None:
    open_page(driver, heart)
    driver.find_element(By.TAG_NAME, "body").click()
    first = where(driver)
    assert "phase 0, 0 ms, ED" in first
    number = int(first.split()[1])
    press(driver, Keys.ARROW_UP)
    assert where(driver).startswith(f"slice {number + 1} of 6")
    press(driver, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert where(driver).startswith(f"slice {max(1, number - 1)} of 6")
    press(driver, Keys.ARROW_LEFT)
    assert "phase 5" in where(driver)
    press(driver, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "phase 1" in where(driver)
    frames = driver.execute_script("return report.viewer.volumes.map(one => one.frame4D)")
    assert frames == [1, 1]
    press(driver, " ")
    wait(lambda: "phase 1," not in where(driver), "another phase of the cine")
    press(driver, " ")
    stopped = where(driver)
    assert driver.find_element(By.ID, "play").text == "Play" and where(driver) == stopped


def test_flag_and_doubt_stand_beside_their_slice(driver: WebDriver, heart: Path) -> None:
    open_page(driver, heart)
    button = driver.find_element(By.CSS_SELECTOR, ".flags [data-go]")
    assert button.text == "slice 3, phase 0"
    button.click()
    assert where(driver).startswith("slice 3 of 6")
    current = driver.find_element(By.CSS_SELECTOR, "[aria-current]")
    assert "slice 3, end diastole" in current.text and "MASK_AT_BORDER" in current.text
    doubts = {one.text.split("\n")[0]: one.text for one in driver.find_elements(By.CSS_SELECTOR, ".strip button")}
    assert "doubt 51%" in doubts["slice 4, end diastole"] and "doubt 1%" in doubts["slice 3, end diastole"]
    high = driver.find_elements(By.CSS_SELECTOR, ".doubt.high")
    assert {one.text for one in high} == {"doubt 51%"}


def test_three_planes_and_three_dimensions_show_the_mask(driver: WebDriver, heart: Path) -> None:
    open_page(driver, heart)
    left, top, right, bottom = box_of(driver, "document.getElementById('canvas')")
    for view, drawn in (("planes", {0, 1, 2}), ("render", {4})):
        driver.find_element(By.CSS_SELECTOR, f"[data-view={view}]").click()
        assert coloured(picture(driver)[top:bottom, left:right]).sum() > 100
        assert driver.find_element(By.CSS_SELECTOR, f"[data-view={view}]").get_attribute("aria-pressed") == "true"
        planes = driver.execute_script("return report.viewer.screenSlices.map(one => one.axCorSag)")
        assert set(planes) >= drawn


def test_numbers_can_be_read_by_everybody_and_nothing_is_asked_for(
    driver: WebDriver, repository: Path, heart: Path
) -> None:
    requests_of(driver)
    prefer(driver, "light")
    open_page(driver, heart)
    save_figure(driver, "report_heart.png")
    tile = driver.find_element(By.CSS_SELECTOR, ".tiles div")
    assert tile.text.startswith("Left ventricular ejection fraction\n") and tile.text.endswith("%")
    titles = [one.text for one in driver.find_elements(By.TAG_NAME, "figcaption")]
    assert titles[0] == "Volume of left ventricle cavity" and sum("AHA segments" in one for one in titles) == 2
    foot = driver.find_element(By.TAG_NAME, "footer").text
    assert "fingerprint" in foot and "MiB, loads nothing" in foot
    asked = {request["url"] for request in requests_of(driver)}
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert [url for url in asked if url.startswith("file:")] == [heart.as_uri()]
    assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert violations(driver, repository) == []
    prefer(driver, "dark")
    assert violations(driver, repository) == []
    driver.find_element(By.TAG_NAME, "figure").location_once_scrolled_into_view  # noqa: B018 (it scrolls)
    save_figure(driver, "report_heart_figures.png")
    prefer(driver, "light")


def test_contour_lies_on_the_lesion(driver: WebDriver, repository: Path, tmp_path: Path) -> None:
    size = (300, 200)
    mask = np.zeros(size, np.uint8)
    mask[190:250, 20:80] = ellipse((60, 60), 28, 20, 30)
    photo = photo_series(size, known=False)
    open_page(driver, write_page(tmp_path / "photo_report.html", photo, mask, "dermoscopy"), "still")
    left, top, right, bottom = box_of(driver, "document.querySelector('svg.photo image')")
    found = box_of(driver, "document.querySelector('[data-contour]')")
    scale = (right - left) / size[0]
    columns, rows = np.nonzero(mask)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert [(one - first) / scale for one, first in zip(found, (left, top, left, top), strict=True)] == pytest.approx(
        expected, abs=2.5
    )
    assert violations(driver, repository) == []
    press(driver, "1")
    assert not driver.find_element(By.CSS_SELECTOR, "[data-contour]").is_displayed()


def test_photograph_for_the_documents(driver: WebDriver, tmp_path: Path) -> None:
    phantom = dermoscopy_phantom(size=(480, 360))
    image, _ = phantom.save(tmp_path, "lesion")
    series = read_series(image)
    labels = np.asarray(phantom.label).T.astype(np.uint8)
    path = write_page(tmp_path / "lesion_report.html", series, labels, "dermoscopy")
    assert path.stat().st_size < 400_000  # photographs need no NiiVue
    open_page(driver, path, "still")
    save_figure(driver, "report_lesion.png")


def test_without_webgl_the_slices_are_shown(tmp_path: Path, heart: Path) -> None:
    with chromium(tmp_path / "plain", webgl=False) as plain:
        open_page(plain, heart, "still")
        assert "WebGL2" in plain.find_element(By.ID, "without").text
        assert not plain.find_element(By.ID, "canvas").is_displayed()
        still = plain.find_element(By.ID, "still")
        first = still.get_attribute("src")
        plain.find_element(By.TAG_NAME, "body").send_keys(Keys.ARROW_UP)
        assert still.get_attribute("src") != first and still.get_attribute("alt").startswith("slice ")
        left, top, right, bottom = box_of(plain, "document.getElementById('still')")
        assert coloured(picture(plain)[top:bottom, left:right]).sum() > 100
