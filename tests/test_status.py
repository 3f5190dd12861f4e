"""The status page in a browser: one language at a time, wide and narrow; nothing sticks out, nothing is too small."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from conftest import must

pytestmark = pytest.mark.life
INSIDE = Path(__file__).parent / "inside" / "level4" / "status.py"
QUIET = [f"--disable-{what}" for what in ("gpu", "quic", "background-networking", "component-update", "sync")]
WIDTHS = (390, 1200)
LOOK = """<!doctype html><title>look</title>
<script>
function look(frame) {
  const page = frame.contentDocument, found = [];
  for (const language of ["en", "fr"]) {
    page.getElementById(language).click();
    const shown = [...page.querySelectorAll("main")].filter((main) => getComputedStyle(main).display != "none");
    const parts = [...shown[0].querySelectorAll("*")].filter((part) => part.getClientRects().length);
    const apart = (part) => part.closest("details:not([open]), .scroll, svg, legend");
    const wide = parts.filter((part) => !apart(part) && part.getBoundingClientRect().right > frame.clientWidth + 1);
    const small = parts.filter((part) => part.textContent.trim() && parseFloat(getComputedStyle(part).fontSize) < 12);
    const plots = [...shown[0].querySelectorAll("svg.series")].map((plot) => plot.getBoundingClientRect());
    found.push({
      language, width: frame.clientWidth, mains: shown.map((main) => main.lang),
      title: shown[0].querySelector("h1").textContent,
      overflow: page.documentElement.scrollWidth - page.documentElement.clientWidth,
      wide: wide.map((part) => part.outerHTML.slice(0, 80)),
      small: small.map((part) => part.outerHTML.slice(0, 80)), plots: plots.map((plot) => [plot.width, plot.height]),
    });
  }
  return found;
}
addEventListener("load", () => {
  const seen = [...document.querySelectorAll("iframe")].flatMap(look);
  document.body.innerHTML = "<pre>" + JSON.stringify(seen).replaceAll("<", "&lt;") + "</pre>";
});
</script>
<body>"""


@pytest.fixture
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine; install it: apt-get install chromium")


def test_the_page_reads_well_in_a_browser(lived: Callable[[int, str], Path], browser: str, tmp_path: Path) -> None:
    project, place = lived(4, "classification"), tmp_path / "place"
    shutil.copytree(project / "config", place / "config")
    must([project / ".venv/bin/python", INSIDE, "en"], place)
    looks = looked(browser, place / "reports" / "status.html", tmp_path)
    assert [(look["width"], look["mains"]) for look in looks] == [
        (width, [language]) for width in WIDTHS for language in ("en", "fr")
    ]
    for look in looks:
        assert look["title"].startswith("Version 5" if look["language"] == "en" else "La version 5")
        assert (look["overflow"], look["wide"], look["small"]) == (0, [], [])
        assert len(look["plots"]) == 3
        assert all(width > 0.7 * look["width"] and height > 200 for width, height in look["plots"])


def looked(browser: str, page: Path, folder: Path) -> list[dict[str, Any]]:
    """Open a page in frames of some widths, and return what a script sees in them, in each language."""
    frames = "".join(
        f'<iframe src="{page.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>' for width in WIDTHS
    )
    frame = folder / "look.html"
    frame.write_text(LOOK + frames, encoding="utf-8")
    own = ["--headless", "--no-sandbox", "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}"]
    shown = must(
        [browser, *own, "--no-first-run", *QUIET, "--virtual-time-budget=10000", "--dump-dom", frame.as_uri()], folder
    )
    found = re.search(r"<pre>(\[.*)</pre>", shown)
    assert found, shown
    seen: list[dict[str, Any]] = json.loads(unescape(found[1]))
    return seen
