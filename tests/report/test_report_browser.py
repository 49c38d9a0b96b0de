"""The page as a user meets it: in a browser, from a file, with nothing to reach."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_files import LENGTH
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from pipeline.report.experiment import Experiment

CHROMIUM = Path("/usr/bin/chromium")
DRIVER = Path("/usr/bin/chromedriver")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()),
    reason="needs Debian's chromium and chromium-driver packages",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, html: str, tmp_path: Path) -> webdriver.Chrome:
    """The browser with the page open, at 64 steps; logs hold this page's lines only."""
    path = tmp_path / "index.html"
    path.write_text(html, encoding="utf-8")
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def states(page: webdriver.Chrome) -> list[str]:
    rows = page.find_elements(By.CSS_SELECTOR, "#states li")
    return [row.get_property("textContent") for row in rows]


def test_slider_shows_the_states_of_the_chosen_step_count(
    page: webdriver.Chrome, experiment: Experiment
) -> None:
    slider = page.find_element(By.ID, "state")
    time = page.find_element(By.ID, "time")
    slider.send_keys(Keys.HOME)
    assert states(page) == ["░" * LENGTH] * 6
    assert time.text == "t = 1.000, state 0 of 64"
    slider.send_keys(Keys.ARROW_RIGHT * 20)
    expected = [sample[20].text for sample in experiment.by_steps[64].trace.samples]
    assert states(page) == expected != ["░" * LENGTH] * 6
    assert time.text == "t = 0.688, state 20 of 64"

    Select(page.find_element(By.ID, "steps")).select_by_visible_text("4")
    assert time.text == "t = 0.750, state 1 of 4"
    slider.send_keys(Keys.END)
    assert time.text == "t = 0.000, state 4 of 4"
    assert states(page) == [sample[4].text for sample in experiment.by_steps[4].trace.samples]


def test_play_runs_to_the_end(page: webdriver.Chrome) -> None:
    Select(page.find_element(By.ID, "steps")).select_by_visible_text("16")
    slider = page.find_element(By.ID, "state")
    slider.send_keys(Keys.END + Keys.ARROW_LEFT * 3)
    button = page.find_element(By.ID, "play")
    button.click()
    assert button.text == "Pause"
    WebDriverWait(page, 10).until(lambda _: button.text == "Play")
    assert slider.get_property("value") == "16"


def test_page_asks_for_nothing_and_complains_of_nothing(page: webdriver.Chrome) -> None:
    slider = page.find_element(By.ID, "state")
    slider.send_keys(Keys.ARROW_RIGHT)
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    requests = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert requests[0].startswith("file:///")
    assert not [url for url in requests[1:] if not url.startswith("data:")]
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert page.get_log("browser") == []
    assert page.execute_script("return document.getElementsByTagName('svg').length") == 4


@pytest.mark.parametrize("width", [360, 1280])
def test_page_fits_a_phone_and_a_wide_screen(page: webdriver.Chrome, width: int) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
