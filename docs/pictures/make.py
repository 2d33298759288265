"""Makes the pictures in README from a real run: `make pictures`.

It needs Debian's packages tmux, chromium and chromium-driver.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text
from selenium import webdriver

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = 'make train ARGS="--name first"'
COLUMNS, ROWS = 100, 20
LIMIT_S = 300.0
PAGE = (1180, 1000)  # pixels of the report that the picture shows


def main() -> None:
    """Train, and write terminal.svg, report-light.png and report-dark.png beside this file."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # A folder like a fresh clone: the run leaves nothing in this one, and the paths that it prints are short.
        for name in ("Makefile", "pyproject.toml", "requirements", "job", "k8s", "data", ".venv"):
            (folder / name).symlink_to(ROOT / name)
        (HERE / "terminal.svg").write_text(svg(screen_of(COMMAND, folder)), encoding="utf-8")
        for scheme in ("light", "dark"):
            screenshot(folder / "output/models/first/report.html", scheme, HERE / f"report-{scheme}.png")


def screen_of(command: str, folder: Path) -> str:
    """The screen of a terminal, with its colours as ANSI sequences, after a command has ended in a folder.

    Raises:
        SystemExit: the command has not ended within LIMIT_S.
    """
    tmux = ("tmux", "-L", f"pictures-{folder.name}", "-f", "/dev/null")
    size = ("-x", str(COLUMNS), "-y", str(ROWS))
    ended = folder / "ended"
    shell = f"clear; printf '$ %s\\n' '{command}'; {command}; touch {ended}; sleep {LIMIT_S:.0f}"
    subprocess.run([*tmux, "new-session", "-d", *size, "-c", folder, shell], check=True)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not ended.exists():
            if time.monotonic() > deadline:
                raise SystemExit(f"`{command}` has not ended within {LIMIT_S:.0f} s")
            time.sleep(0.2)
        time.sleep(0.5)  # until tmux has drawn the last lines
        shown = subprocess.run([*tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True, check=True)
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)
    return shown.stdout.rstrip() + "\n"


def svg(screen: str) -> str:
    """A drawing of a terminal's screen; it names no font that a browser would have to load."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(screen), end="", soft_wrap=True)
    return re.sub(r"@font-face\s*{[^}]*}", "", console.export_svg(title="mnist-job"))


def screenshot(page: Path, scheme: str, picture: Path) -> None:
    """Write a picture of a page's beginning, in the light or the dark scheme."""
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={PAGE[0]},{PAGE[1]}"):
        options.add_argument(argument)
    # Without a path, Selenium looks for a driver on the network first.
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        emulated = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        browser.get(page.as_uri())
        browser.save_screenshot(str(picture))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
