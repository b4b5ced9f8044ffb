"""The report in a real browser: no error in the console, every figure drawn, phone width, dark mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from mistral_ner.config import Config
from mistral_ner.hyperopt.optuna_sweep import search
from mistral_ner.hyperopt.plan import Plan

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, toy_files: dict[str, str], tiny_model: dict[str, Any]) -> Path:
    folder = tmp_path_factory.mktemp("report")
    plan = Plan.of(
        {
            "output_dir": str(folder),
            "model": tiny_model,
            "data": {"source": "files", **toy_files},
            "training": {"reports": 3, "threads": 1},
            "search_space": {
                "learning_rate": {"type": "loguniform", "low": 1e-5, "high": 1e-1},
                "lora_r": {"type": "choice", "choices": [2, 4, 8]},
            },
            "hyperopt": {
                "strategy": "optuna",
                "num_trials": 8,
                "max_concurrent": 1,
                "optuna_pruner": "median",
                "results_dir": str(folder),
                "study_name": "a_study_with_a_name_that_a_phone_has_no_room_for",
            },
        }
    )

    def learn(config: Config, tell: Any) -> None:
        for number in (1, 2, 3):
            if tell(number, {"eval_f1": number / (3 + 100 * config.training.learning_rate)}):
                return

    search(plan, learn)
    return plan.folder / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if not (BROWSER and DRIVER):
        if os.environ.get("CI"):
            pytest.fail("CI must have chromium and chromedriver: apt-get install chromium chromium-driver")
        pytest.skip("NOT TESTED: the report in a browser; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def opened(browser: webdriver.Chrome, page: Path, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    drawn = "return document.querySelectorAll('.figure:not([data-drawn])').length === 0"
    WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(drawn))


def test_all_figures_are_drawn_without_an_error(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page, 1280)
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []
    assert browser.execute_script("return document.querySelectorAll('.figure .main-svg').length") >= 6
    points = "return document.querySelectorAll('#figure-history .scatterlayer .point').length"
    assert browser.execute_script(points) == 8


def test_the_check_for_errors_can_fail(browser: webdriver.Chrome, page: Path) -> None:
    broken = page.with_name("broken.html")
    broken.write_text(page.read_text(encoding="utf-8").replace("Plotly.react(", "Plotly.reakt("), encoding="utf-8")
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever selenium says when nothing gets drawn
        WebDriverWait(browser, 2).until(lambda driver: opened_at_once(driver, broken))
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def opened_at_once(browser: webdriver.Chrome, page: Path) -> bool:
    browser.get(page.as_uri())
    return bool(browser.execute_script("return document.querySelectorAll('.figure[data-drawn]').length > 0"))


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(browser: webdriver.Chrome, page: Path, width: int) -> None:
    opened(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_dark_mode_reaches_the_figures(browser: webdriver.Chrome, page: Path) -> None:
    found = {}
    for scheme in ("light", "dark"):
        opened(browser, page, 1280, scheme)
        script = (
            "return [getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('#figure-history .xtick text')).fill]"
        )
        found[scheme] = [_lightness(colour) for colour in browser.execute_script(script)]
    assert found["light"][0] > 200 > 80 > found["dark"][0]
    assert found["light"][1] < 80 < 200 < found["dark"][1]


def _lightness(colour: str) -> float:
    parts = [float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")]
    return sum(parts) / 3
