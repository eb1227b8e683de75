"""Pages as a person meets them: drawn, without an error, usable by mouse and keyboard, legible in light and dark."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bayesprune.comparison import Plan, Row
from bayesprune.comparison.result import ComparisonResult
from bayesprune.reports import write_report
from tests.reports.told import EPOCHS, SIZES, history, told

pytestmark = pytest.mark.browser

PATIENCE = 120.0
"""Seconds for which a page is waited for."""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    "--disable-dev-shm-usage",
)
WIDE, NARROW = 1200, 390


class Browser:
    """Chromium, at one page at a time."""

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, path: Path, *, width: int = WIDE, theme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())

    def js(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def press(self, selector: str, key: str) -> None:
        self.driver.find_element("css selector", selector).send_keys(key)

    def verify_drawn(self) -> None:
        """The script has come to its end, every chart is there and has an extent, and the console holds no error."""
        end = time.monotonic() + PATIENCE
        errors: list[str] = []
        while (drawn := self.js("return document.documentElement.dataset.drawn")) is None:
            errors += self.errors()
            assert not errors and time.monotonic() < end, errors or "the script has not come to its end"
            time.sleep(0.1)
        charts = "[...document.querySelectorAll('.chart svg')]"
        sizes = self.js(f"return {charts}.map((svg) => svg.getBoundingClientRect().width)")
        marks = self.js(f"return {charts}.map((svg) => svg.querySelectorAll('.role-mark path').length)")
        assert len(sizes) == int(drawn) > 0 and min(sizes) > 100 and min(marks) > 0
        assert self.errors() == []

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def verify_accessible(self) -> None:
        from axe_core_python.selenium import Axe

        found = Axe().run(self.driver)
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found["violations"]] == []
        assert any(rule["id"] == "color-contrast" for rule in found["passes"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from selenium import webdriver

    where = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert where, "no Chromium: .ci/chromium gets it"
    options = webdriver.ChromeOptions()
    options.binary_location = where
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.set_page_load_timeout(PATIENCE)
    driver.set_script_timeout(PATIENCE)
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    write_report([told("mine", 0), told("other", 1)], path)
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "comparison.html"
    rows = [
        Row("test", "lenet300-digits", method, "macs", left, 1.0, seed=0, accuracy=0.9 + left / 100, macs_left=left)
        for method in ("svi", "magnitude")
        for left in (0.5, 0.25)
    ]
    ComparisonResult(Plan.read("quick"), rows).html(path)
    return path


def test_a_report_is_drawn_without_an_error_and_asks_for_nothing_else(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.verify_drawn()
    assert browser.js("return performance.getEntriesByType('resource').map((entry) => entry.name)") == []


def test_a_page_whose_script_is_broken_is_noticed(browser: Browser, page: Path, tmp_path: Path) -> None:
    whole, broken = page.read_text(encoding="utf-8"), tmp_path / "broken.html"
    assert whole.count("class Network {") == 1
    broken.write_text(whole.replace("class Network {", "class Network {{"), encoding="utf-8")
    browser.open(broken)
    with pytest.raises(AssertionError, match="SyntaxError"):
        browser.verify_drawn()
    broken.write_text(whole.replace('"marks":', '"nothing":'), encoding="utf-8")  # charts without anything in them
    browser.open(broken)
    with pytest.raises(AssertionError):
        browser.verify_drawn()


def test_the_arrow_keys_go_along_a_layer_and_tell_of_each_structure(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    browser.verify_drawn()
    slider = '.layers[data-run="0"] .layer:nth-child(2) [role=slider]'
    browser.press(slider, Keys.HOME)
    assert browser.text("#pointed-0 .title") == "module 2, structure 0"
    browser.press(slider, Keys.ARROW_RIGHT)
    assert browser.text("#pointed-0 .title") == "module 2, structure 1"
    browser.press(slider, Keys.END)
    last = SIZES["2"] - 1
    assert browser.text("#pointed-0 .title") == f"module 2, structure {last}"
    gone = {removal.index: removal.step for removal in history().removals if removal.gate == "2"}
    said = f"removed after step {gone[last]}" if last in gone else "stays"
    assert said in browser.text("#pointed-0 dl") and "0.01" in browser.text("#pointed-0 dl")
    assert said in browser.js("return document.querySelector(arguments[0]).getAttribute('aria-valuetext')", slider)


def test_pointing_at_a_structure_shows_its_path(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.verify_drawn()
    path = "return document.querySelector('#chart-0-theta .mark-line path').getAttribute('d')"
    before = browser.js(path)
    gone = next(removal.index for removal in history().removals if removal.gate == "1")
    browser.js(
        "const canvas = document.querySelector('.layers[data-run=\"0\"] canvas'), box = canvas.getBoundingClientRect();"
        "const size = box.width / 4, x = arguments[0] % 4, y = Math.floor(arguments[0] / 4);"
        "const at = {clientX: box.x + (x + .5) * size, clientY: box.y + (y + .5) * size};"
        "canvas.dispatchEvent(new PointerEvent('pointermove', at));",
        gone,
    )
    assert browser.text("#pointed-0 .title") == f"input row {gone // 4}, column {gone % 4}"
    assert "removed after step" in browser.text("#pointed-0 dl")
    end = time.monotonic() + PATIENCE
    while browser.js(path) == before:
        assert time.monotonic() < end, "the chart has not changed"


def test_what_a_budget_forced_is_said_where_one_points_at_it(browser: Browser, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    run = told()
    first = run.history.removals[0]
    run.history.removals[0] = dataclasses.replace(first, forced=True)
    write_report([run], tmp_path / "report.html")
    browser.open(tmp_path / "report.html")
    browser.verify_drawn()
    slider = '.layers[data-run="0"] .layer:nth-child(1) [role=slider]'
    for key in (Keys.HOME, *[Keys.ARROW_RIGHT] * first.index):
        browser.press(slider, key)
    assert f"removed after step {first.step}, forced by the budget" in browser.text("#pointed-0 dl")


def test_no_table_is_cut_off_in_print(browser: Browser, page: Path, comparison: Path) -> None:
    for path in (page, comparison):
        browser.open(path, width=720)  # the paper's, in pixels of CSS
        try:
            browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
            tables = "[...document.querySelectorAll('table:not(details table)')]"
            rights = browser.js(f"return {tables}.map((table) => table.getBoundingClientRect().right)")
            assert rights and max(rights) <= 720
        finally:
            browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_paper_has_the_settings_and_nothing_to_point_at(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.verify_drawn()
    settings = "return document.querySelector('#run-0 .settings').checkVisibility()"
    pointed = "return document.querySelector('#pointed-0').checkVisibility()"
    assert (browser.js(settings), browser.js(pointed)) == (False, True)
    try:
        browser.js("dispatchEvent(new Event('beforeprint'))")
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert (browser.js(settings), browser.js(pointed)) == (True, False)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.js("dispatchEvent(new Event('afterprint'))")
    assert (browser.js(settings), browser.js(pointed)) == (False, True)


def test_the_results_of_a_comparison_fit_into_a_laptop_window(browser: Browser, comparison: Path) -> None:
    browser.open(comparison, width=1280)
    wide = browser.js("return document.querySelector('[aria-label=Results]').scrollWidth")
    assert wide == browser.js("return document.querySelector('[aria-label=Results]').clientWidth") > 1100


def test_the_picture_of_a_comparison_stays_legible_in_a_narrow_window(browser: Browser, comparison: Path) -> None:
    browser.open(comparison, width=NARROW)
    labels = "return [...document.querySelectorAll('.picture text')].map((text) => text.getBoundingClientRect().height)"
    assert min(browser.js(labels)) > 8


def test_the_slider_shows_the_network_as_it_was(browser: Browser, page: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page)
    browser.verify_drawn()
    assert f"{EPOCHS} of {EPOCHS}" in browser.text(".moment output")
    browser.press("#moment-0", Keys.HOME)
    total = sum(SIZES.values())
    assert browser.text(".moment output") == f"0 of {EPOCHS}, {total} structures on"
    assert browser.text(".layer .name output") == "12 of 12 on"


def test_the_theme_follows_the_system_and_can_be_chosen(browser: Browser, page: Path) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(page, theme="dark")
    dark = browser.js(ground)
    browser.js("document.getElementById('theme-light').click()")
    light = browser.js(ground)
    assert (dark, light) == ("rgb(20, 24, 29)", "rgb(255, 255, 255)")
    browser.open(page, theme="light")
    assert browser.js(ground) == light
    browser.js("document.getElementById('theme-dark').click()")
    assert browser.js(ground) == dark


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_pass_axe(browser: Browser, page: Path, comparison: Path, theme: str) -> None:
    browser.open(page, theme=theme)
    browser.verify_drawn()
    browser.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    browser.verify_accessible()
    browser.open(comparison, theme=theme)
    browser.verify_accessible()


def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, page: Path, comparison: Path) -> None:
    for path in (page, comparison):
        browser.open(path, width=NARROW)
        if path == page:
            browser.verify_drawn()
        assert browser.js("return document.documentElement.scrollWidth") <= NARROW
