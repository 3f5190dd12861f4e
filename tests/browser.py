"""A headless Chromium that a test drives: it opens pages, clicks, types, picks files, downloads and looks.

It speaks the DevTools protocol over two pipes, so it needs no port and no library.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60
"""Seconds that a page may take."""
QUIET = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]


class LeftError(Exception):
    """The page that was asked is no more."""


class Browser:
    """One page of a browser."""

    def __init__(self, asks: int, hears: int) -> None:
        """Open a page, through the pipes of a browser that has just started."""
        self.asks, self.hears, self.number, self.rest = asks, hears, 0, b""
        self.session = ""
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Page.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for something, and return the answer."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.asks, json.dumps(asked).encode() + b"\0")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            said = self._heard()
            if said.get("id") == self.number:
                if "navigated" in said.get("error", {}).get("message", ""):
                    raise LeftError
                assert "error" not in said, said
                answer: dict[str, Any] = said["result"]
                return answer
        raise AssertionError(f"the browser does not answer {method}")

    def _heard(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.hears, 2**20)
            assert part, "the browser is gone"
            self.rest += part
        whole, _, self.rest = self.rest.partition(b"\0")
        said: dict[str, Any] = json.loads(whole)
        return said

    def value(self, script: str) -> Any:
        """Return what an expression is in the page."""
        found = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address: str) -> None:
        """Go to a page."""
        self._leave()
        self("Page.navigate", url=address)
        self._arrive()

    def press(self, button: str) -> None:
        """Press what fits a selector, and wait for the page that follows."""
        self._leave()
        with suppress(LeftError):
            self.value(f"document.querySelector({json.dumps(button)}).click()")
        self._arrive()

    def _leave(self) -> None:
        self.value("window.left = true")

    def _arrive(self) -> None:
        end, there = time.monotonic() + PATIENCE, False
        while not there:
            assert time.monotonic() < end, "the page does not come"
            time.sleep(0.05)
            with suppress(LeftError):
                there = self.value("document.readyState == 'complete' && !window.left")

    def fill(self, **fields: str) -> None:
        """Write into the fields of these ids."""
        for key, text in fields.items():
            self.value(f"document.getElementById({json.dumps(key)}).value = {json.dumps(text)}")

    def pick(self, key: str, file: Path) -> None:
        """Choose a file in the field of this id."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        node = self("DOM.querySelector", nodeId=root, selector=f"#{key}")["nodeId"]
        self("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def downloads(self, folder: Path) -> None:
        """Put what is downloaded into a folder."""
        self("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def width(self, pixels: int, height: int = 900) -> None:
        """Let the window be so wide."""
        self("Emulation.setDeviceMetricsOverride", width=pixels, height=height, deviceScaleFactor=1, mobile=False)

    def text(self, selector: str = "body") -> str:
        """Return the words that are seen in what fits a selector, whatever their spaces."""
        found = self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")
        return " ".join(str(found).split())

    def screenshot(self, file: Path) -> None:
        """Save how the whole page looks."""
        shot = self("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(shot))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Start a browser, whose profile is in a folder, and end it; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; install it: apt-get install chromium")
    theirs_in, asks = os.pipe()
    hears, theirs_out = os.pipe()
    # the protocol wants the pipes as 3 and 4; a shell gives them
    command = [
        found,
        "--headless",
        "--no-sandbox",
        "--no-first-run",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
        *QUIET,
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "about:blank"]
    given = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"'
    with subprocess.Popen(
        ["bash", "-c", given, "browser", *command],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            browser = Browser(asks, hears)
            yield browser
        finally:
            process.kill()
            os.close(asks)
            os.close(hears)
