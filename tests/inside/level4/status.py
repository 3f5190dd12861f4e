"""The status page, from records that are made here: a story of two months, and beginnings where much is missing.

Run as a program, it writes the page of the whole story into the working folder, which has the project's config.
"""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import string
import sys
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from flight_delays.ops import status, verbs_4
from flight_delays.ops.config import PACKAGE
from flight_delays.ops.contract import ProjectError
from flight_delays.ops.log import FEEDBACK, PREDICTIONS
from flight_delays.ops.monitor import RECORDS, Record, Verdict, dump
from flight_delays.ops.monitor.alerts import ALERTS, begun
from flight_delays.ops.register.events import EVENTS
from flight_delays.ops.release.bundle import Manifest
from flight_delays.ops.release.ledger import START as FIRST
from flight_delays.ops.release.ledger import Entry, _hash, canonical
from flight_delays.ops.status.drawn import Words
from flight_delays.ops.status.facts import Facts, gather
from flight_delays.ops.status.happened import happened

START = datetime(2026, 9, 28, 8, tzinfo=UTC).timestamp()
DAY, HOUR = 86_400.0, 3600.0
NOW = START + 58 * DAY
ANA, BO = "Ana Ruiz <ana@localhost>", "Bo Li <bo@localhost>"
LEDGER = Path("releases/ledger.jsonl")


def entry(days: float, kind: str, who: str = ANA, **facts: Any) -> None:
    """Add a line to the ledger, so many days after START."""
    LEDGER.parent.mkdir(exist_ok=True)
    lines = LEDGER.read_bytes().splitlines() if LEDGER.is_file() else []
    time = datetime.fromtimestamp(START + days * DAY, UTC).isoformat(timespec="milliseconds")
    event = {"seq": len(lines) + 1, "time": time, "who": who, "kind": kind, "facts": facts}
    event["prev"] = Entry(**json.loads(lines[-1])).hash if lines else FIRST
    with LEDGER.open("ab") as ledger:
        ledger.write(canonical({**event, "hash": _hash(event)}) + b"\n")


def event(days: float, kind: str, who: str = ANA, **about: Any) -> None:
    time = datetime.fromtimestamp(START + days * DAY, UTC).isoformat()
    EVENTS.parent.mkdir(exist_ok=True)
    with EVENTS.open("a") as log:
        log.write(json.dumps({"id": f"{days}", "time": time, "kind": kind, "who": who, **about}) + "\n")


def bundle(days: float, number: int) -> str:
    """Release a version that has nothing but a manifest; return its digest."""
    metrics = {"roc_auc": {"value": 0.712, "low": 0.700, "high": 0.724}}
    made = dict.fromkeys(("commit", "data", "lock", "prediction", "fixture", "tests"), "0" * 40)
    manifest = Manifest(name="f", version=number, run=f"r{number}", dirty=False, metrics=metrics, files={}, **made)
    digest = sha256(manifest.dump()).hexdigest()
    folder = Path("releases/bundles") / digest
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(manifest.dump())
    entry(days, "bundle", digest=digest, version=number, run=f"r{number}", signature="")
    return digest


def refusal(days: float, number: int, digest: str, environment: str, **sentences: str) -> None:
    results = [{"rule": "complete", "passed": True, "figure": "14 files", "limit": "", "sentence": ""}]
    results += [
        {"rule": rule, "passed": False, "figure": "1", "limit": "2 people", "sentence": said}
        for rule, said in sentences.items()
    ]
    entry(days, "gates", environment=environment, version=number, digest=digest, results=results, passed=False)


def record(window: int, number: int, digest: str, *verdicts: Verdict, environment: str = "prod") -> Record:
    begin = START + (window + 1) * DAY
    ids = {"first": f"{window}-1", "last": f"{window}-500", "rows": 500, "known": 400, "truths": 400 * window}
    when = {"begin": begin, "end": begin + 0.9 * DAY, "looked": begin + DAY}
    made = Record(
        window=window, environment=environment, model=digest, version=number, verdicts=list(verdicts), **ids, **when
    )
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("ab") as records:
        records.write(dump(made) + b"\n")
    return made


def quality(value: float, limit: float = 0.662, subject: str = "all answers", signal: Any = "quality") -> Verdict:
    state: Any = "alarm" if value + 0.03 < limit else "quiet"
    of = "" if subject == "all answers" else f" of {subject}"
    told = (
        f"ROC AUC{of} on the latest 400 answers with known truth is {value:.3f} ({value - 0.03:.3f} to "
        f"{value + 0.03:.3f}); surely at least {limit:.3f} was promised: "
        "all but 25 % of its lead over a constant answer."
    )
    return Verdict(signal, subject, state, value, limit, told, value - 0.03, value + 0.03)


def drifts(temp: float, state: Any) -> list[Verdict]:
    told = "temp is 12.4 degrees Fahrenheit lower than in training (median 44.1 instead of 56.5)."
    quiet = "wind_speed tends to be higher than in training: above 12 miles per hour in 41 % of the rows, was in 38 %."
    answers = "the probability of late true is 0.02 higher than in training (median 0.21 instead of 0.19)."
    return [
        Verdict("data drift", "temp", state, 4.4 * temp, 4.4, told),
        Verdict("data drift", "wind_speed", "quiet", 1.1, 4.4, quiet),
        Verdict("prediction drift", "the probability of late true", "quiet", 1.0, 4.4, answers),
        Verdict("skew", "features", "quiet", 0.0, 0.0, "The features of 500 answers are the same."),
        Verdict("numbers", "answers", "quiet", 0.0, 0.0, "All 500 answers are probabilities."),
        Verdict("numbers", "variety", "quiet", 480.0, 1.0, "500 answers have 480 values."),
        Verdict(
            "freshness",
            "answers",
            "quiet",
            0.1,
            24.0,
            "The last answer was given 6 minutes ago; at most 24 hours is wanted.",
        ),
        Verdict(
            "freshness", "model", "quiet", 90.0, 2160.0, "The model was made 3.7 days ago; at most 90 days is wanted."
        ),
    ]


def parts(bad: bool) -> list[Verdict]:
    names = [*(f"origin {name}" for name in ("EWR", "JFK", "LGA")), *(f"carrier {name}" for name in ("UA", "B6", "DL"))]
    values = [0.69, 0.70, 0.58 if bad else 0.68, 0.71, 0.66, 0.70]
    limits = [0.66, 0.65, 0.65, 0.66, 0.64, 0.66]
    return [quality(*one, signal="slices") for one in zip(values, limits, names, strict=True)]


def answers(digest: str, since: float, days: float, truths: bool) -> None:
    """Log answers, more by day than by night; most have a truth."""
    PREDICTIONS.mkdir(parents=True, exist_ok=True)
    FEEDBACK.mkdir(parents=True, exist_ok=True)
    begin = START + since * DAY
    lines, told = [], []
    for place in range(int(days * 60)):
        time = begin + place * DAY / 60
        if math.sin(time / DAY * 2 * math.pi) > 0.6:
            continue
        key = f"{digest[:6]}{place}-1"
        about = {"id": key, "time": time, "model": digest, "version": 1, "variant": "champion", "entity": None}
        given = {"inputs": {}, "numbers": [], "text": [], "prediction": "true", "probabilities": [0.4, 0.6]}
        lines.append(json.dumps({**about, **given}))
        if truths and place % 5:
            told.append(json.dumps({"id": key, "truth": "true", "observed": None, "arrived": time + DAY}))
    begun = f"{datetime.fromtimestamp(begin, UTC):%Y%m%dT%H%M%S}"
    (PREDICTIONS / f"{begun}-{digest[:6]}-000001.jsonl").write_text("\n".join(lines) + "\n")
    (FEEDBACK / f"{begun}-{digest[:6]}-000001.jsonl").write_text("".join(f"{line}\n" for line in told))


def deploy(days: float, number: int, digest: str, before: str | None, why: str, who: str = ANA) -> None:
    entry(days, "deploy", who, environment="prod", digest=digest, previous=before, version=number, why=why)


def story() -> None:
    """Write two months of records: three versions, a drift, a refused and an accepted retraining, an experiment."""
    first = bundle(0.1, 1)
    deploy(0.5, 1, first, None, "the first one, reviewed by the operations team")
    answers(first, 0.6, 20, truths=True)
    for window in range(1, 20):
        wave = 0.012 * math.sin(window)
        record(window, 1, first, quality(0.705 + wave), *parts(bad=False), *drifts(0.3 + 0.1 * abs(wave) * 50, "quiet"))
    third = bundle(20, 3)
    lost = "gains \N{MINUS SIGN}0.021 (\N{MINUS SIGN}0.034 to \N{MINUS SIGN}0.008) over the champion"
    wanted = "surely at least \N{MINUS SIGN}0.011 (10 % of the lead) is wanted"
    refusal(
        19,
        2,
        bundle(18.9, 2),
        "dev",
        champion=f"on 6740 of 6740 test rows ROC AUC {lost}; {wanted}",
        slices="origin LGA (1,801 rows) gains \N{MINUS SIGN}0.05",
    )
    entry(20.3, "approve", BO, environment="prod", version=3, digest=third, why="read its card; the slices hold")
    deploy(20.5, 3, third, first, "better on winter mornings")
    answers(third, 20.6, 27, truths=True)
    records = []
    for window in range(20, 48):
        fall = max(0, window - 34) * 0.011 if window < 44 else 0.09
        shift = 0.35 if window < 36 else 1.2 + 0.1 * (window - 36)
        state = "quiet" if window < 36 else "suspected" if window == 36 else "alarm"
        records.append(record(window, 3, third, quality(0.708 - fall), *parts(bad=window > 40), *drifts(shift, state)))
    cause, episode = "data drift since window 36 of version 3", drifts(1.3, "alarm")[0].sentence
    event(38.2, "retrain", outcome="begun", attempt="a", cause=cause, sentence=episode, signal="data drift")
    fourth = bundle(38.4, 4)
    refusal(
        38.5,
        4,
        fourth,
        "dev",
        quality="ROC AUC on 6740 test rows is 0.49 (0.47 to 0.51); surely above 0.500 of a constant answer is wanted",
    )
    event(39, "freeze", BO, why="labels look wrong, looking into it")
    event(41, "thaw", BO, why="labels mended")
    fifth = bundle(47.5, 5)
    told = "retrained because of quality since window 40 of version 3"
    deploy(48, 5, fifth, third, told, "autopilot <autopilot@localhost>")
    answers(fifth, 48.1, 9.8, truths=True)
    for window in range(48, 57):
        records.append(
            record(window, 5, fifth, quality(0.701 + 0.004 * (window % 3)), *parts(window > 52), *drifts(0.4, "quiet"))
        )
    sixth = bundle(54, 6)
    facts = {"challenger": sixth, "share": 0.1, "shadow": False, "experiment": "e1", "rows": 2000, "level": 0.025}
    entry(55, "experiment", environment="prod", digest=fifth, version=6, metric="roc_auc", **facts)
    seventh = bundle(55.5, 7)
    entry(55.8, "approve", ANA, environment="prod", version=7, digest=seventh, why="its slices hold")
    refusal(56, 7, seventh, "prod", approvals="1 of 2 people have approved of it for prod")
    alerts = list(begun(records, "en"))
    alerts.append({**alerts[-1], "id": "retrain-a-refused", "signal": "retrain", "subjects": ["refused"]})
    ALERTS.write_text("".join(json.dumps(alert) + "\n" for alert in alerts))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty working folder with the project's config."""
    shutil.copytree("config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELEASE_STORE", raising=False)
    return tmp_path


@pytest.fixture
def facts(place: Path) -> Facts:
    story()
    for name in ("reports/report.html", "docs/using.md"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    return gather("prod", NOW)


class Page(HTMLParser):
    """What a page is made of; every element has to be closed by itself."""

    def __init__(self, text: str) -> None:
        """Read the page."""
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = {"en": "", "fr": ""}
        self.main = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that is to be closed."""
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)
        if tag == "main":
            self.main = dict(attrs)["lang"] or ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element."""
        assert self.open.pop() == tag
        self.main = "" if tag == "main" else self.main

    def handle_data(self, data: str) -> None:
        """Note the words of a language, whatever their spaces."""
        if self.main:
            self.words[self.main] += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def shown(facts: Facts, language: str = "en") -> Page:
    return Page(status.page(facts, language))


def leaves(content: Any, *keys: Any) -> dict[tuple[Any, ...], Any]:
    if not isinstance(content, dict):
        return {keys: content}
    return {place: leaf for key, value in content.items() for place, leaf in leaves(value, *keys, key).items()}


def blanks(text: str) -> set[str]:
    return {part[1] for part in string.Formatter().parse(text) if part[1]}


def test_both_languages_say_everything_with_the_same_facts() -> None:
    words = yaml.safe_load((PACKAGE / "ops" / "status" / "words.yaml").read_text(encoding="utf-8"))
    english, french = leaves(words["en"]), leaves(words["fr"])
    assert english.keys() == french.keys()
    for key, said in english.items():
        assert type(said) is type(french[key])
        if isinstance(said, str):
            assert blanks(said) == blanks(french[key]), key
        else:
            assert len(said) == len(french[key])


def test_every_pattern_of_a_sentence_is_filled_with_what_it_finds() -> None:
    words = yaml.safe_load((PACKAGE / "ops" / "status" / "words.yaml").read_text(encoding="utf-8"))
    for pattern, meant in {**words["sentences"], **words["fragments"]}.items():
        used = {int(blank) for blank in blanks(meant)}
        assert max(used, default=-1) < re.compile(pattern).groups, pattern


def test_the_facts_of_a_story(facts: Facts) -> None:
    assert facts.live is not None
    assert facts.live.promised is not None
    assert facts.traffic is not None
    assert facts.measured is not None
    assert (facts.live.version, facts.live.who, facts.on) == (5, "autopilot", "on")
    assert facts.live.since == START + 48 * DAY
    assert facts.live.promised.low == 0.7
    assert (facts.measured.window, facts.measured.said.state) == (56, "quiet")
    assert facts.traffic.answers == sum(rows for _, rows in facts.traffic.counts) > 2000
    assert 0 < facts.traffic.known < facts.traffic.answers
    assert [one.subject for one in facts.verdicts("slices") if one.state == "alarm"] == ["origin LGA"]
    assert len(facts.quality) == len(facts.drift) == 56
    assert [point.window for point in facts.drift if point.said.state == "suspected"] == [36]
    kinds = [one.kind for one in facts.happened]
    assert {"deploy", "refused", "experiment", "approve", "freeze", "thaw", "retrain begun", "alarm"} == set(kinds)
    assert [one.about["version"] for one in facts.happened if one.kind == "refused"] == [4, 2]
    assert sorted(one.time for one in facts.happened) == [one.time for one in reversed(facts.happened)]
    assert {one.kind for one in facts.waiting} == {"approval", "experiment"}
    assert (facts.frozen, facts.troubles) == (None, [])
    assert facts.links == ["report.html", "../docs/using.md"]


def test_the_page_needs_nothing_else_and_each_language_answers_the_five_questions(facts: Facts) -> None:
    page = shown(facts, "fr")
    assert [about["lang"] for tag, about in page.elements if tag in ("html", "main")] == ["fr", "en", "fr"]
    names = [about["id"] for _, about in page.elements if "id" in about]
    assert len(names) == len(set(names))
    for tag, about in page.elements:
        assert tag not in ("script", "link", "img")
        assert not {"src", "style"} & about.keys() or about.get("style", "").startswith("--least")
        if about.get("href", "").startswith("#"):
            assert about["href"][1:] in names
        if about.get("role") == "img":
            assert about["aria-label"]
    assert [about["id"] for tag, about in page.elements if tag == "input" and "checked" in about] == ["fr"]
    for language, found in {
        "en": [
            "Version 5 answers and is as good as promised, but not for everybody.",
            "1 of 6",
            "Version 4 was refused for development, by the gates: quality",
            "1 of 2 have",
            "10 % of the requests",
            "temp is 12.4 degrees Fahrenheit lower than in training",
        ],
        "fr": [
            "La version 5 répond et tient sa promesse de qualité, mais pas pour tout le monde.",
            "1 sur 6",
            "La version 4 a été refusée en développement, par les contrôles : qualité",
            "1 sur 2 l'ont fait",
            "10 % des requêtes",
            "temp est plus bas de 12,4 degrees Fahrenheit que dans l'apprentissage",
            "0,709 (0,679 à 0,739)",
        ],
    }.items():
        for words in found:
            assert words in page.words[language]


@pytest.mark.usefixtures("place")
def test_a_fresh_project_gets_an_honest_page() -> None:
    facts = gather("prod", NOW)
    assert (facts.live, facts.on, facts.traffic, facts.measured, facts.happened, facts.waiting) == (
        *(None, "nothing", None, None),
        *([], []),
    )
    page = shown(facts)
    assert "Nothing is in production yet." in page.words["en"]
    assert "Rien n'est encore en production." in page.words["fr"]
    assert page.words["en"].count("Not known yet") >= 5


@pytest.mark.usefixtures("place")
def test_what_is_not_known_is_not_called_good() -> None:
    first = bundle(0, 1)
    deploy(1, 1, first, None, "the first one")
    assert "nobody has asked it anything yet" in shown(gather("prod", NOW)).words["en"]
    answers(first, 2, 10, truths=False)
    facts = gather("prod", START + 12 * DAY)
    assert (facts.on, facts.measured) == ("on", None)
    assert "Version 1 answers; how good its answers are is not known yet." in shown(facts).words["en"]
    assert gather("prod", START + 20 * DAY).on == "silent"
    record(3, 1, first, Verdict("quality", "all answers", "unknown", None, None, "The truth of 3 answers is known."))
    assert gather("prod", NOW).measured is None
    record(4, 1, first, quality(0.55))
    facts = gather("prod", START + 12 * DAY)
    assert "Version 1 answers but is worse than promised." in shown(facts).words["en"]


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("windows", [(1, 2), (2, 1)])
def test_an_alarm_is_told_in_its_own_words_where_one_look_judged_several_windows(windows: tuple[int, int]) -> None:
    """Neither what an earlier window made one suspect, nor what a later one found, is what was told."""
    suspected, alarmed = (
        Verdict("data drift", "temp", state, 5.0, 4.4, f"temp is {state}.") for state in ("suspected", "alarm")
    )
    found: dict[int, Verdict] = dict(zip(windows, (suspected, alarmed), strict=True))
    digest = bundle(0, 1)
    records = [replace(record(window, 1, digest, found[window]), looked=START) for window in (1, 2)]
    alert = next(begun(records, "en"))
    (told,) = happened("prod", [], [], [alert], records)
    assert told.told == ["temp is alarm."]
    assert alert["sentence"].endswith("temp is alarm.")


def test_a_freeze_and_a_held_back_retraining_stand_on_top(facts: Facts) -> None:
    event(57, "freeze", BO, why="<b>holiday</b> & rest")
    cause = "quality since window 55 of version 5"
    told = "No retraining: Bo froze what changes by itself on 2026-11-24 (a holiday); `make thaw` lets it go on."
    event(57.1, "trigger", cause=cause, reason="frozen", sentence=told)
    assert "trigger" not in {one.kind for one in gather("prod", NOW).waiting}, "its signal is quiet"
    assert facts.live is not None
    record(57, 5, facts.live.digest, quality(0.55))
    facts = gather("prod", NOW)
    assert facts.frozen is not None
    assert "trigger" in {one.kind for one in facts.waiting}
    page = shown(facts)
    assert "“<b>holiday</b> & rest”" in page.words["en"]
    assert "Pas de réapprentissage : Bo a gelé" in page.words["fr"]
    event(57.5, "thaw", BO, why="back")
    assert gather("prod", NOW).frozen is None


def test_what_is_damaged_is_told_and_the_rest_is_shown(facts: Facts) -> None:
    with LEDGER.open("ab") as ledger:
        ledger.write(b"{}\n")
    damaged = gather("prod", NOW)
    assert "ledger.jsonl, line" in damaged.troubles[0]
    assert damaged.quality == facts.quality
    assert "Some records could not be read" in shown(damaged).words["en"]


def test_a_line_that_is_being_written_is_left_out(facts: Facts) -> None:
    for path in (LEDGER, RECORDS, EVENTS, ALERTS):
        with path.open("ab") as log:
            log.write(b'{"half')
    assert gather("prod", NOW) == facts


def test_an_approved_deployment_waits_no_more(facts: Facts) -> None:
    seventh = next(one.about["digest"] for one in facts.waiting if one.kind == "approval")
    entry(57, "decision", environment="prod", digest=facts.live.digest, version=5, outcome="keep", figures={})
    deploy(57.2, 7, seventh, facts.live.digest, "approved")
    assert gather("prod", NOW).waiting == []


def test_what_a_person_refused_waits_no_more(facts: Facts) -> None:
    seventh = next(one.about["digest"] for one in facts.waiting if one.kind == "approval")
    about = {"environment": "prod", "version": 7, "digest": seventh}
    entry(56.5, "approve", BO, why="read its card", **about)
    assert {one.kind for one in gather("prod", NOW).waiting} == {"approved", "experiment"}
    entry(56.6, "refuse", BO, why="it forgets the winter", **about)
    refused = gather("prod", NOW)
    assert {one.kind for one in refused.waiting} == {"experiment"}
    page = shown(refused)
    assert "Version 7 was refused for production, by a person" in page.words["en"]
    assert "La version 7 a été refusée par quelqu'un pour : production" in page.words["fr"]
    refusal(56.7, 7, seventh, "prod", person="Bo Li refused it for prod")
    assert {one.kind for one in gather("prod", NOW).waiting} == {"experiment"}


@pytest.mark.parametrize("maker", [False, True])
def test_an_approval_counts_as_the_gate_counts_it(facts: Facts, maker: bool) -> None:
    """A second one of the same person, or one of whoever made the version, is none more."""
    before = next(one for one in facts.waiting if one.kind == "approval")
    if maker:
        event(55.4, "train", BO, run="r7")
    policy = Path("config/policy.yaml")
    page = yaml.safe_load(policy.read_text(encoding="utf-8")) | {"approvals": {"prod": 2}}
    policy.write_text(yaml.safe_dump(page), encoding="utf-8")
    about = {"environment": "prod", "version": 7, "digest": before.about["digest"], "why": "read its card"}
    entry(56.5, "approve", BO if maker else "Ana <ana@localhost>", **about)
    found = gather("prod", NOW)
    (after,) = (one for one in found.waiting if one.about["version"] == 7)
    assert (after.kind, after.about["figure"], after.about["limit"]) == ("approval", "1", "2")
    assert "1 of 2 have" in shown(found).words["en"]
    assert "1 sur 2 l'ont fait" in shown(found).words["fr"]


def test_a_retraining_that_is_over_waits_no_more(facts: Facts) -> None:
    event(57, "retrain", outcome="waits", attempt="b", version=8)
    assert {one.about["version"] for one in gather("prod", NOW).waiting if one.kind == "approval"} == {7, 8}
    event(57.5, "retrain", outcome="refused", attempt="b", version=8, told="prod: person")
    assert {one.about["version"] for one in gather("prod", NOW).waiting if one.kind == "approval"} == {7}
    assert facts.waiting


def test_another_environment_has_its_own_page(facts: Facts) -> None:
    record(60, 4, "0" * 64, quality(0.4), environment="dev")
    assert gather("prod", NOW) == facts
    other = gather("dev", NOW)
    assert (other.live, other.traffic, len(other.quality)) == (None, None, 1)


def test_figures_are_written_as_french_does_and_names_as_they_are() -> None:
    words = Words("fr")
    shown = {
        "PM2.5 is 1,161 km higher than in training (median 2,045.5 instead of 884).": "PM2.5 est plus haut de 1 161 km",
        "numpy is 2.1.3 where the service runs, 2.4.6 in the release's parts list.": "numpy est en version 2.1.3",
        "http://127.0.0.1:8080 does not answer it (refused); `make serve` starts a service": "http://127.0.0.1:8080 ne",
        "hour is 12 in 15.7 % of the rows, in training in 4.79 %.": "hour est 12 dans 15,7 % des lignes",
        "x is above 3.902, the greatest value of the test, in 4 % of the rows, in the test in 0 %.": "x est au-dessus "
        "de 3,902",
    }
    for sentence, begin in shown.items():
        told = (
            html.unescape(words.told(sentence))
            .replace("\N{NARROW NO-BREAK SPACE}", " ")
            .replace("\N{NO-BREAK SPACE}", " ")
        )
        assert told.startswith(begin), told


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("verb", [verbs_4.status, verbs_4.console])
def test_an_environment_that_does_not_exist_is_told(verb: Any) -> None:
    with pytest.raises(ProjectError, match="ENV is 'qa': choose dev, staging, prod"):
        verb("qa")


def test_the_sentences_of_the_drift_rule_are_said_in_french() -> None:
    from flight_delays.ops.monitor.cells import counted, summarise
    from flight_delays.ops.monitor.drift import judge

    rng, words = np.random.default_rng(1), Words("fr")

    def rows(count: int, **change: Any) -> dict[str, Any]:
        usual = {
            "level": rng.normal(0, 1, count),
            "spread": rng.normal(0, 1, count),
            "kind": rng.choice(["a", "b", "c"], count),
            "gone": np.where(rng.random(count) < 0.01, np.nan, rng.normal(0, 1, count)),
            "small": rng.integers(0, 3, count).astype(float),
        }
        return {**usual, **change}

    reference = summarise(rows(20_000))
    odd = {
        "level": rng.normal(2, 1, 500),
        "spread": rng.normal(0, 4, 500),
        "kind": rng.choice(["a", "b", "new"], 500, p=[0.8, 0.1, 0.1]).astype(object),
        "gone": np.full(500, np.nan),
        "small": rng.choice([0.0, 2.0], 500),
    }
    seen = counted(reference, rows(500, **odd))
    findings = judge(reference, seen, seen, {"level": "km"}).findings
    assert {found.state for found in findings} == {"drift"}
    for found in findings:
        assert 'lang="en"' not in words.told(found.sentence), found.sentence


if __name__ == "__main__":
    story()
    print(status.write(gather("prod", NOW), sys.argv[1]))
