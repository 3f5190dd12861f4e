"""The console in a browser, as people use it: in two languages, wide and narrow, from a case to a rollback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ask import user_environment
from browser import Browser, browsing
from conftest import must

pytestmark = pytest.mark.life
INSIDE = Path(__file__).parent / "inside" / "level4" / "console.py"
TOKEN = "only the tests know this"
SHOTS = os.environ.get("CONSOLE_SHOTS")
"""A folder for screenshots, for whoever wants to look."""
WORDS = {
    "en": {
        "status": "Version 2 is in production",
        "answer": "late: ",
        "truth": "counts as what really happened",
        "approve": "Version 3 may enter production once enough people have approved",
        "refuse": "Version 3 waits no more",
        "rollback": "production answers with version 1 instead of version 2",
        "freeze": "Nothing is retrained or deployed by itself",
        "thaw": "The autopilot may retrain and deploy again",
        "wrong": "This is not the token",
        "done": "It is done",
    },
    "fr": {
        "status": "La version 2 est en production",
        "answer": "late : ",
        "truth": "compte pour ce qui est arrivé",
        "approve": "La version 3 pourra entrer en production",
        "refuse": "La version 3 n'attend plus",
        "rollback": "la version 1 répond en production à la place de la version 2",
        "freeze": "Plus rien n'est réappris ni déployé",
        "thaw": "Le pilote automatique peut de nouveau",
        "wrong": "Ce n'est pas le jeton",
        "done": "C'est fait",
    },
}
FAULTS = r"""(() => {
  const shown = (one) => one.getClientRects().length > 0 && !one.closest("details:not([open])");
  const all = [...document.querySelectorAll("body *")].filter(shown), found = [];
  const tell = (what, one) => found.push(what + ": " + one.outerHTML.slice(0, 90));
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title) found.push("no title");
  if (all.filter((one) => one.tagName == "H1").length != 1) found.push("not one h1");
  if (document.documentElement.scrollWidth > innerWidth) found.push("too wide");
  let level = 1;
  for (const one of all) {
    const depth = /^H[1-6]$/.test(one.tagName) ? +one.tagName[1] : 0;
    if (depth > level + 1) tell("skipped heading", one);
    level = depth || level;
    if (one.matches("input:not([type=hidden]), select, textarea") && !one.labels.length) tell("no label", one);
    if (one.matches("a, button") && !one.textContent.trim()) tell("no name", one);
    if (one.matches("[role=img]") && !one.ariaLabel) tell("no words", one);
    if (one.tabIndex > 0) tell("own order", one);
    if (one.id && document.querySelectorAll("#" + CSS.escape(one.id)).length > 1) tell("id twice", one);
    for (const name of (one.getAttribute("aria-describedby") ?? "").split(" "))
      if (name && !document.getElementById(name)) tell("note missing", one);
    const own = [...one.childNodes].some((node) => node.nodeType == 3 && node.data.trim());
    if (!own || one.closest("svg, legend")) continue;
    if (parseFloat(getComputedStyle(one).fontSize) < 12) tell("small", one);
    const ratio = contrast(one);
    if (ratio < 4.5) tell("contrast " + ratio.toFixed(1), one);
  }
  function rgb(text) { return text.match(/[\d.]+/g).map(Number); }
  function light(colour) {
    const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = colour.map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  function behind(one) {
    if (!one) return [255, 255, 255];
    const [r, g, b, a = 1] = rgb(getComputedStyle(one).backgroundColor);
    if (a == 1) return [r, g, b];
    const under = behind(one.parentElement);
    return [r, g, b].map((part, place) => a * part + (1 - a) * under[place]);
  }
  function contrast(one) {
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }
  return found;
})()"""
"""What a page lacks for those who do not see it, see it badly, or see it on a telephone (contrast: WCAG 2.2, 1.4.3)."""


class Desk:
    """A console in a browser, and the project behind it."""

    def __init__(self, folder: Path, browser: Browser, port: int, language: str) -> None:
        """Prepare to use a console."""
        self.folder, self.browser, self.language, self.words = folder, browser, language, WORDS[language]
        self.home, self.shots = f"http://127.0.0.1:{port}", 0

    def lines(self, path: str, kind: str) -> list[dict[str, Any]]:
        """Return what a log holds of a kind."""
        content = (self.folder / path).read_text(encoding="utf-8") if (self.folder / path).exists() else ""
        return [line for line in map(json.loads, content.splitlines()) if line["kind"] == kind]

    def go(self, path: str) -> None:
        """Open a page in the language."""
        self.browser.open(f"{self.home}{path}?lang={self.language}")
        self.look()

    def press(self, button: str) -> None:
        """Press a button."""
        self.browser.press(button)
        self.look()

    def look(self) -> None:
        """Find nothing that somebody would miss."""
        if SHOTS:
            self.shots += 1
            self.browser.screenshot(Path(SHOTS) / f"{self.language}-{self.shots:02}.png")
        assert self.browser.value(FAULTS) == []

    def begin(self, action: str) -> None:
        """Look at what an action leads to."""
        self.go("/console")
        self.press(f"form:has([name=action][value={action}]) button")
        assert self.words[action] in self.browser.text()

    def confirm(self, why: str, token: str = TOKEN) -> None:
        """Say yes."""
        self.browser.fill(why=why, token=token)
        self.press("form button")

    def do(self, action: str, why: str) -> None:
        """Do something that stands in the records afterwards."""
        self.begin(action)
        self.confirm(why)
        assert self.words["done"] in self.browser.text("h1")
        noted = self.lines("logs/events.jsonl", "console")[-1]
        assert (noted["action"], noted["why"]) == (action, why)
        assert noted["who"]


@pytest.fixture(scope="module")
def history(lived: Callable[[int, str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a project with versions in production and one that waits, and its Python."""
    project, place = lived(4, "classification"), tmp_path_factory.mktemp("console") / "place"
    for name in ("config", "docs"):
        shutil.copytree(project / name, place / name)
    for name in ("models/model.onnx", "outputs/unseen.csv", "reports/report.html"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(project / name, place / name)
    python = project / ".venv/bin/python"
    must([python, INSIDE], place)
    return place, python


@contextmanager
def answering(python: Path, folder: Path, *words: str) -> Iterator[int]:
    """Run a verb that serves, and give its port."""
    command = [str(python), "-m", "flight_delays.ops", *words, "--port", "0"]
    environment = {**user_environment(), "CONSOLE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://127.0.0.1:(\d+)", process.stdout.readline())
            assert found
            yield int(found[1])
        finally:
            process.terminate()
            process.wait(60)


@pytest.fixture(params=[("en", 1200), ("fr", 390)], ids=["English, wide", "French, narrow"])
def desk(request: pytest.FixtureRequest, history: tuple[Path, Path], tmp_path: Path) -> Iterator[Desk]:
    (source, python), folder = history, tmp_path / "place"
    language, width = request.param
    shutil.copytree(source, folder)
    with (
        browsing(tmp_path) as browser,
        answering(python, folder, "serve", "--env", "prod") as service,
        answering(python, folder, "console", "--url", f"http://127.0.0.1:{service}") as port,
    ):
        browser.width(width)
        browser.downloads(tmp_path)
        yield Desk(folder, browser, port, language)


def test_people_try_and_decide(desk: Desk, tmp_path: Path) -> None:
    browser, words = desk.browser, desk.words
    desk.go("/reports/status.html")
    assert words["status"] in browser.text("main[lang=" + desk.language + "] h1")

    desk.go("/console")
    desk.press("#to-try button")
    assert words["answer"] in browser.text(".answer")
    assert not (desk.folder / "logs" / "predictions").exists()
    browser.value("document.querySelector('[name=by][value=service]').checked = true")
    desk.press("#to-try button")
    assert words["wrong"] in browser.text("[role=alert]")
    browser.value("document.querySelector('[name=by][value=service]').checked = true")
    browser.fill(token=TOKEN)
    desk.press("#to-try button")
    assert browser.text(".answer code").endswith("-1")

    key = browser.text(".answer code")
    desk.press(".answer a")
    browser.fill(truth="true")
    desk.press("#to-truth button")
    assert words["truth"] in browser.text()
    desk.confirm("seen at the gate")
    assert words["done"] in browser.text("h1")
    (told,) = (desk.folder / "logs" / "feedback").glob("*.jsonl")
    assert json.loads(told.read_text(encoding="utf-8"))["id"] == key

    desk.go("/console")
    browser.pick("file", desk.folder / "outputs" / "unseen.csv")
    browser.value("document.querySelector('#to-score button').click()")
    answers, end = tmp_path / "answers.csv", time.monotonic() + 60
    while not answers.exists() and time.monotonic() < end:
        time.sleep(0.1)
    lines = [path.read_text(encoding="utf-8").splitlines() for path in (answers, desk.folder / "outputs/unseen.csv")]
    assert len(lines[0]) == len(lines[1]) > 1000
    assert lines[0][0].endswith('"prediction","probability_false","probability_true"')

    desk.begin("freeze")
    desk.confirm("a look", token="not this one")
    assert words["wrong"] in browser.text("[role=alert]")
    assert not desk.lines("logs/events.jsonl", "freeze")
    desk.do("freeze", "an audit")
    desk.do("thaw", "it is over")
    assert [desk.lines("logs/events.jsonl", kind)[0]["why"] for kind in ("freeze", "thaw")] == [
        "an audit",
        "it is over",
    ]

    word = "approve" if desk.language == "en" else "refuse"
    desk.do(word, "read its card")
    (said,) = desk.lines("releases/ledger.jsonl", word)
    assert (said["facts"]["version"], said["facts"]["why"]) == (3, "read its card")
    desk.do("rollback", "too many alarms")
    moved = desk.lines("releases/ledger.jsonl", "rollback")[-1]["facts"]
    assert (moved["version"], moved["why"]) == (1, "too many alarms")
    desk.go("/reports/status.html")
    shown = browser.text(f"main[lang={desk.language}]")
    for why in ("an audit", "it is over", "read its card", "too many alarms"):
        assert why in shown


@pytest.mark.parametrize("desk", [("en", 1200)], indirect=True, ids=["English, wide"])
def test_a_page_that_lacks_something_is_seen(desk: Desk) -> None:
    plants = {
        "document.querySelector('label').remove()": "no label",
        "document.querySelector('h1').remove()": "not one h1",
        "document.querySelector('h1 ~ *, p').style.color = '#ccc'": "contrast",
        "document.querySelector('main').style.minWidth = '2000px'": "too wide",
        "document.querySelector('button').textContent = ''": "no name",
    }
    for plant, fault in plants.items():
        desk.go("/console")
        desk.browser.value(plant)
        assert any(found.startswith(fault) for found in desk.browser.value(FAULTS)), fault
