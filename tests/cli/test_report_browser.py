"""The report in a real browser: no error in the console, every figure drawn, phone width, dark mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import Select, WebDriverWait

from mistral_ner import files
from mistral_ner.config.schema import Config
from mistral_ner.hyperopt.dispatch import run_search
from mistral_ner.hyperopt.report import write_report
from mistral_ner.hyperopt.results.final import Final, Result
from mistral_ner.hyperopt.spec.plan import Plan

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

    run_search(plan, learn)
    _write_final(plan.folder / "final")
    return write_report([plan.folder], None)


def _write_final(folder: Path) -> None:
    """Write what final trainings leave: their outcome, and predictions with errors."""
    folder.mkdir()
    values: dict[str, Any] = {"dev": {"43": 0.7, "44": 0.72}, "dev_mean": 0.71, "dev_std": 0.0141, "dev_f1": 0.71234}
    values |= {"dev_f1_interval": (0.69, 0.73), "test_f1": 0.65, "test_f1_interval": (0.6, 0.7)}
    winner = Result(2, False, {"learning_rate": 1e-3, "lora_r": 4}, 0.75, **values)
    default = Result(None, True, {}, None, **values)
    files.write_json(folder / "final.json", asdict(Final("eval_f1", [43, 44], 44, [winner, default], {})))
    words = ["Ada", "Lovelace", "saw", "Oslo", "a_word_that_is_longer_than_the_screen_of_a_phone_" * 3]
    gold, found = ["B-PER", "I-PER", "O", "B-LOC", "O"], ["B-PER", "O", "O", "B-ORG", "B-LOC"]
    right = {"tokens": words, "ner_tags": gold, "predicted_ner_tags": gold}
    rows = [right, {**right, "predicted_ner_tags": found}, {**right, "predicted_ner_tags": ["O"] * 5}]
    files.write_json_lines(folder / "predictions_test.jsonl", rows)


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


@pytest.mark.parametrize("width", [320, 500])
def test_the_winner_and_all_axes_fit_into_a_phone(browser: webdriver.Chrome, page: Path, width: int) -> None:
    """Each row of the winner's table becomes a list, and parallel axes stand closer: nothing lies out of sight."""
    opened(browser, page, width)
    script = "return [...document.querySelectorAll('table.cards')].map(t => [t.scrollWidth, t.parentNode.clientWidth])"
    tables = browser.execute_script(script)
    script = "const f = document.getElementById('figure-parallel'); return [f.offsetWidth, f.parentNode.clientWidth]"
    tables += [browser.execute_script(script)]
    assert len(tables) == 2
    assert all(inner <= outer for inner, outer in tables)


def test_figures_stay_whole_when_a_phone_is_turned(browser: webdriver.Chrome, page: Path) -> None:
    """They were cut to 120 pixels by any change of the window's width, such as that of a scroll bar."""
    script = "return [...document.querySelectorAll('.figure')].map(f => [f.id, f.offsetHeight, f.offsetWidth])"
    opened(browser, page, 390)
    before = {name: (height, width) for name, height, width in browser.execute_script(script)}
    metrics = {"width": 640, "height": 390, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    drawn = "return document.querySelector('#figure-history .main-svg').getBoundingClientRect().width"
    WebDriverWait(browser, 10).until(lambda driver: driver.execute_script(drawn) > before["figure-history"][1] + 50)
    after = {name: (height, width) for name, height, width in browser.execute_script(script)}
    assert {name: height for name, (height, _) in after.items()} == {
        name: height for name, (height, _) in before.items()
    }
    assert min(height for height, _ in after.values()) > 120


@pytest.mark.parametrize("width", [320, 500])
def test_commands_are_read_without_scrolling(browser: webdriver.Chrome, page: Path, width: int) -> None:
    opened(browser, page, width)
    script = "return [...document.querySelectorAll('pre')].map(p => [p.scrollWidth, p.clientWidth])"
    assert all(inner <= outer for inner, outer in browser.execute_script(script))


def test_trials_are_counted_in_whole_numbers(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page, 390)
    script = "return [...document.querySelectorAll('#figure-history .xtick text')].map(t => t.textContent)"
    assert browser.execute_script(script) == [str(number) for number in range(8)]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_the_errors_fit_into_a_phone(browser: webdriver.Chrome, page: Path, width: int) -> None:
    opened(browser, page.with_name("errors.html"), width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_errors_are_filtered_by_kind_by_type_and_by_a_press_on_a_number(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page, 1280)
    browser.execute_script("document.querySelector('#errors a').click()")
    WebDriverWait(browser, 10).until(lambda driver: driver.current_url.endswith("errors.html"))

    def shown() -> tuple[list[str], str]:
        script = "return [...document.querySelectorAll('article:not([hidden])')].map(a => a.textContent.slice(0, 10))"
        return browser.execute_script(script), browser.find_element("id", "shown").text

    def choose(name: str, option: str) -> None:
        Select(browser.find_element("id", name)).select_by_visible_text(option)

    assert shown() == (["sentence 2", "sentence 3"], "2 shown")
    choose("kind", "wrong border (1)")
    assert shown() == (["sentence 2"], "1 shown")
    choose("type", "LOC")
    assert shown() == ([], "0 shown")
    browser.find_element("css selector", "button[title='gold PER, predicted nothing']").click()
    assert shown() == (["sentence 3"], "1 shown")
    browser.find_element("id", "cell").click()
    assert shown() == (["sentence 2", "sentence 3"], "2 shown")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


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
