"""The review in a real browser: 200 cases, keys, filters, decisions, corrected masks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import requests_of
from pages import prefer, save_figure, violations, wait, write_page
from result_series import centred
from results_folder import write_mask, write_result
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select

from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers import read_series
from convformer_monai.review.server import ReviewServer

CASES = 200
FLAGS = {3: ("EF_IMPLAUSIBLE",), 50: ("MASK_AT_BORDER", "MANY_PARTS"), 51: ("MANY_PARTS",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of 200 cases; the first two in the list have a page, one of a volume, one of nothing but text."""
    out = tmp_path_factory.mktemp("review") / "out"
    for number in range(CASES):
        fraction = 38.5 if number == 50 else 20.0 + number % 60  # as the page of that one says
        write_result(out, f"case{number:03d}", flags=FLAGS.get(number, ()), doubt=number / 400, fraction=fraction)
    image, truth = cardiac_phantom(shape=(64, 64, 5), spacing=(2.4, 2.4, 14.0), num_phases=3).save(out.parent, "heart")
    series, labels = (read_series(path, phase="all") for path in (image, truth))
    mask = labels.image.numpy().astype(np.uint8)
    write_page(out / "case050_report.html", series, mask, "cardiac", np.where(mask > 0, 240, 0).astype(np.uint8))
    return out


@pytest.fixture
def server(folder: Path) -> Iterator[ReviewServer]:
    for path in folder.glob("review.sqlite3*"):
        path.unlink()
    with ReviewServer(folder) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def page(driver: WebDriver, server: ReviewServer) -> WebDriver:
    prefer(driver, "light")
    requests_of(driver)
    driver.get_log("browser")
    driver.get(server.address)
    wait(lambda: driver.execute_script("return document.documentElement.dataset.ready"), "the list")
    assert server.access.token not in driver.current_url
    return driver


def press(driver: WebDriver, *keys: str) -> None:
    ActionChains(driver).send_keys(*keys).perform()


def names(driver: WebDriver) -> list[str]:
    """The cases in the order of the list."""
    buttons = "[...document.querySelectorAll('#cases tbody button')]"
    return list(driver.execute_script(f"return {buttons}.map(one => one.textContent)"))


def listed(driver: WebDriver, *expected: str) -> None:
    """Waits until the list has these cases."""
    wait(lambda: names(driver) == list(expected), f"the list of {expected}")


def current(driver: WebDriver) -> str:
    return driver.find_element(By.ID, "title").text


def said(driver: WebDriver, words: str) -> None:
    wait(lambda: words in driver.find_element(By.ID, "message").text, words)


def decisions(server: ReviewServer) -> dict[str, tuple[str, str]]:
    return {name: (made.decision, made.reason) for name, made in server.store.all().items()}


def test_keys_decide_and_lead_on(page: WebDriver, server: ReviewServer) -> None:
    first = names(page)
    assert len(first) == CASES and first[:3] == ["case050", "case003", "case051"]  # those with most flags
    assert current(page) == "case050"
    press(page, "j", "j", "k")
    assert current(page) == "case003"
    press(page, "a")
    said(page, "case003: accepted")
    assert current(page) == "case051"
    press(page, "r")
    press(page, 'the apex, is "missing"', Keys.ENTER)
    said(page, "case051: rejected")
    assert decisions(server) == {"case003": ("accepted", ""), "case051": ("rejected", 'the apex, is "missing"')}
    press(page, "k")
    assert page.find_element(By.ID, "reason").get_attribute("value") == 'the apex, is "missing"'
    assert "198 open" in page.find_element(By.ID, "count").text
    page.find_element(By.ID, "reopen").click()
    said(page, "case051: open")
    assert decisions(server)["case051"] == ("open", "")


def test_filters_and_order(page: WebDriver) -> None:
    Select(page.find_element(By.ID, "flag")).select_by_visible_text("MANY_PARTS")
    listed(page, "case050", "case051")
    Select(page.find_element(By.ID, "flag")).select_by_visible_text("any")
    page.find_element(By.ID, "doubt").send_keys("49")
    wait(lambda: set(names(page)) == {"case196", "case197", "case198", "case199"}, "the doubtful ones")
    page.find_element(By.ID, "doubt").clear()
    page.find_element(By.ID, "low").send_keys("30")
    page.find_element(By.ID, "high").send_keys("30.5")
    listed(page, "case010", "case070", "case130", "case190")
    page.find_element(By.CSS_SELECTOR, "[data-sort=doubt]").click()
    listed(page, "case190", "case130", "case070", "case010")
    press(page, "j")
    page.find_element(By.ID, "low").clear()
    page.find_element(By.ID, "high").clear()
    page.find_element(By.CSS_SELECTOR, "[data-sort=value]").click()
    cells = page.find_elements(By.CSS_SELECTOR, "#cases tbody tr td:nth-child(2)")
    assert cells[0].text == "79" and cells[-1].text == "20"
    press(page, Keys.ESCAPE, "/")
    press(page, "199", Keys.ESCAPE, "j")
    listed(page, "case199")
    assert current(page) == "case199"


def test_page_of_the_case_is_alive_in_its_frame_and_passes_keys_on(page: WebDriver, server: ReviewServer) -> None:
    frame = page.find_element(By.ID, "page")
    page.switch_to.frame(frame)
    assert wait(lambda: page.execute_script("return document.documentElement.dataset.ready"), "the page") == "viewer"
    canvas = page.find_element(By.ID, "canvas")
    canvas.click()
    before = page.find_element(By.ID, "where").text
    press(page, Keys.ARROW_RIGHT)
    assert page.find_element(By.ID, "where").text != before
    page.switch_to.default_content()
    save_figure(page, "review.png")
    page.switch_to.frame(frame)
    press(page, "a")
    page.switch_to.default_content()
    said(page, "case050: accepted")
    assert decisions(server) == {"case050": ("accepted", "")}


def test_corrected_mask_is_checked_and_kept(page: WebDriver, server: ReviewServer, tmp_path: Path) -> None:
    shifted = centred(np.diag([-1.5, -1.5, 8.0]), (12, 10, 3))
    file = page.find_element(By.ID, "file")
    file.send_keys(str(write_mask(tmp_path / "elsewhere.nii.gz", affine=shifted)))
    said(page, "error[LABEL_MISALIGNED]: elsewhere.nii.gz does not lie on the grid of its image")
    assert "bad" in page.find_element(By.ID, "message").get_attribute("class") and decisions(server) == {}
    file.send_keys(str(write_mask(tmp_path / "right.nii.gz")))
    said(page, "case050: corrected")
    assert (server.folder / "case050_corrected_label.nii.gz").is_file()
    assert current(page) == "case003", "on to the next"
    press(page, "k")
    assert current(page) == "case050" and not page.find_element(By.ID, "accept").is_enabled()
    press(page, "a")  # would take the mask that was corrected
    assert current(page) == "case050" and decisions(server) == {"case050": ("corrected", "")}


def test_a_held_key_decides_once(page: WebDriver, server: ReviewServer) -> None:
    held = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'a', repeat: %s, bubbles: true}))"
    page.execute_script(held % "false")
    for _ in range(5):
        page.execute_script(held % "true")
    said(page, "case050: accepted")
    assert current(page) == "case003" and list(decisions(server)) == ["case050"]


def test_a_case_decided_elsewhere_is_shown_as_it_is(page: WebDriver, server: ReviewServer) -> None:
    case = next(case for case in server.cases.values() if case.name == "case050")
    server.decide(case, "rejected", "motion")
    press(page, "a")
    said(page, "decided elsewhere meanwhile (rejected)")
    assert page.find_element(By.ID, "reason").get_attribute("value") == "motion"
    assert decisions(server) == {"case050": ("rejected", "motion")}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it_and_no_request_leaves(
    page: WebDriver, server: ReviewServer, repository: Path, scheme: str
) -> None:
    prefer(page, scheme)
    assert violations(page, repository) == []
    asked = {request["url"] for request in requests_of(page)}
    own = f"http://127.0.0.1:{server.server_port}/"
    assert own in asked and not [url for url in asked if not url.startswith((own, "data:", "blob:"))]
    assert not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_tablet(page: WebDriver) -> None:
    size = {"width": 768, "height": 1024, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)  # type: ignore[attr-defined]
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= 768
        accept = page.find_element(By.ID, "accept").rect
        assert accept["height"] >= 36 and accept["y"] + accept["height"] <= 1024
        assert page.find_element(By.ID, "page").rect["height"] > 300
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})  # type: ignore[attr-defined]
