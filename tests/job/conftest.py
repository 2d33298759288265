"""Fixtures of the tests that run the whole command, and of those that open pages in Chromium."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.job import processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.job.processes import Ended


class Trained(NamedTuple):
    """A finished run named `good` of two workers and 12 steps, whose output must not be changed."""

    data: Path
    output: Path
    ended: Ended


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One good run, as it went without a terminal."""
    output = tmp_path_factory.mktemp("good") / "output"
    ended = processes.run("--data", prepared, "--output", output, "--name=good", "--workers=2", "--epochs=2")
    return Trained(prepared, output, ended)


@pytest.fixture
def loading(tmp_path: Path) -> dict[str, str]:
    """Environment variables with which TensorFlow's import does not end, so that the workers stay in their start."""
    package = tmp_path / "never" / "tensorflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import time\ntime.sleep(3600)\n")
    return {"PYTHONPATH": f"{package.parent}{os.pathsep}{processes.ROOT}"}


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    """The system's Chromium, which tells of every message and request."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("chromium and chromedriver (Debian's chromium-driver) are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@pytest.fixture
def visit(browser: webdriver.Chrome) -> Callable[..., webdriver.Chrome]:
    """Opens a page at that width, in the light or the dark scheme, with empty logs."""

    def go(page: Path, width: int = 1100, scheme: str = "light") -> webdriver.Chrome:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get("about:blank")
        for log in ("browser", "performance"):
            browser.get_log(log)  # type: ignore[no-untyped-call]
        browser.get(page.as_uri())
        return browser

    return go
