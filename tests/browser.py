"""A real browser without a screen, for the tests of the status page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# Debian's names; the driver comes with the package chromium-driver.
PROGRAMS = ("chromium", "chromedriver")
MISSING = "chromium and chromedriver are not on PATH: apt-get install chromium chromium-driver"

# Without a sandbox: tests run as root, and the browser sees our own page only.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--disable-dev-shm-usage",
)


def is_installed() -> bool:
    """Whether there is a browser and its driver."""
    return all(shutil.which(name) for name in PROGRAMS)


class Browser:
    """One window. ``driver`` is Selenium's."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def show(self, url: str, width: int, height: int, scheme: str) -> None:
        """Open a page in a window of that size, ``light`` or ``dark``."""
        self.resize(width, height)
        self._tell("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme}])
        self.driver.get(url)

    def resize(self, width: int, height: int) -> None:
        """Change the size of the window."""
        self._tell("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=width < 500)

    def run(self, code: str) -> Any:
        """What the JavaScript returns."""
        return self.driver.execute_script(code)

    def text(self, selector: str) -> str:
        """The text of an element; empty if there is none."""
        return str(self.run(f"return document.querySelector({selector!r})?.textContent ?? ''"))

    def complaints(self) -> list[str]:
        """What the console says: errors, warnings, violations of the page's policy."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        """Host and port of every request that pages have made; not those of the empty first window."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [
            urlsplit(message["params"]["request"]["url"]) for message in messages
            if message["method"] == "Network.requestWillBeSent"]
        return {url.netloc for url in urls if url.scheme not in ("chrome", "data")}

    def picture(self, path: Path) -> None:
        """Save the whole page, however long it is."""
        height = self.run("return document.documentElement.scrollHeight")
        width = self.run("return window.innerWidth")
        self.resize(width, height)
        self.driver.save_screenshot(str(path))

    def _tell(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in ``folder``; it is ended with the block."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which(PROGRAMS[0]) or ""
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which(PROGRAMS[1])))
    try:
        driver.set_page_load_timeout(30)
        yield Browser(driver)
    finally:
        driver.quit()
