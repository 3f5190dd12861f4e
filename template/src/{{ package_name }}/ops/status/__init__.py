"""The room of status: one page for people who run nothing, in two languages, made from the records on disk alone.

It answers five questions: is it on, is it good, for whom is it bad, what changed and why, what waits for a decision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..evaluate.metrics import METRICS, Interval
from ..evaluate.plots import Row, interval_rows, section, table
from ..files import atomic
from ..monitor import SIGNALS, Verdict
from .drawn import LANGUAGES, SYMBOLS, Words, bars, document, first, localised, series
from .facts import PAGE, SEVERITY, Facts, whole
from .happened import Happening

SHOWN, LATEST = 12, 60
"""Lines of a list, and points of a plot, at most."""
GROUPS = ("slices", "bias")
UNUSUAL = [signal for signal in SIGNALS if signal not in ("quality", *GROUPS)]


def write(facts: Facts, language: str) -> Path:
    """Write the page, which opens in a language and holds all; return where it is."""
    with atomic(PAGE) as file:
        file.write_text(page(facts, language), encoding="utf-8")
    return PAGE


def page(facts: Facts, language: str) -> str:
    """Return the whole HTML document."""
    words = {name: Words(name) for name in LANGUAGES}
    parts = (_header, _cards, _waiting, _good, _whom, _changed, _unusual, _traffic, _purpose, _links)
    mains = {name: "\n".join(part(facts, one) for part in parts) for name, one in words.items()}
    return document(words[language]("title", name=facts.name), language, words, mains)


def _header(facts: Facts, words: Words) -> str:
    measured, verdict = facts.measured, "none"
    if facts.on in ("on", "silent"):
        is_even = whole(facts.verdicts(*GROUPS))[0] != "alarm"
        of = {"alarm": "bad", "quiet": "good" if is_even else "uneven"}
        verdict = "unknown" if measured is None else of[measured.said.state]
    version = None if facts.live is None else facts.live.version
    headline = words("headline", facts.on, version=version, environment=_where(facts, words))
    banners = ""
    if notes := "".join(f"<li>{words.told(trouble)}</li>" for trouble in facts.troubles):
        banners += f'<div class="banner"><b>? {escape(words("troubles"))}</b><ul>{notes}</ul></div>'
    if facts.frozen is not None:
        of = {"who": facts.frozen.who, "moment": words.moment(facts.frozen.time), "why": facts.frozen.why}
        banners += f'<p class="banner"><span aria-hidden="true">❄</span> {_code(words("frozen", **of))}</p>'
    eyebrow = words("eyebrow", name=facts.name, environment=_where(facts, words))
    made = _code(words("made", moment=words.moment(facts.made)))
    title = escape(headline + words("verdict", verdict))
    return (
        f'<header><p class="eyebrow">{escape(eyebrow)}</p><h1>{title}</h1><p class="note">{made}</p></header>{banners}'
    )


def _cards(facts: Facts, words: Words) -> str:
    """Return the questions with their shortest answers, each of which leads to its part of the page."""
    traffic, measured = facts.traffic, facts.measured
    is_on, is_good = words("cards", "on", "never"), words("cards", "good", "none")
    if traffic is not None:
        is_on = words("cards", "on", "answers", moment=words.moment(traffic.last), answers=traffic.answers)
        is_good = words("cards", "good", "few", known=traffic.known, answers=traffic.answers)
    if measured is not None:
        is_good = first(words("cards", "good", "told", **_figures(facts, measured.said, words)))
    state = {"nothing": "unknown", "unasked": "suspected", "silent": "alarm", "on": "quiet"}[facts.on]
    shown = [_card(words, "on", facts.on, state, is_on, "traffic")]
    state = "unknown" if measured is None else measured.said.state
    shown.append(_card(words, "good", state, state, is_good))
    for name, signals in (("whom", GROUPS), ("unusual", UNUSUAL)):
        said = facts.verdicts(*signals)
        state, grave = whole(said)
        told = words("cards", name, "well" if said else "none", count=len(said))
        if grave:
            told = words("cards", name, "told", names=words.listed(_names(grave, words)))
        shown.append(_card(words, name, state, state, told, count=len(grave), whole=len(said)))
    state, told = ("suspected", "told") if facts.waiting else ("quiet", "well")
    shown.append(_card(words, "waiting", state, state, words("cards", "waiting", told), count=len(facts.waiting)))
    return f'<nav class="grid" style="--least: 10.5rem">{"".join(shown)}</nav>'


def _card(words: Words, name: str, answer: str, state: str, told: str, leads: str = "", **counts: int) -> str:
    big = f'<span aria-hidden="true">{SYMBOLS[state]}</span> {escape(words("cards", name, answer, **counts))}'
    ask = f'<span class="ask">{escape(words("cards", name, "ask"))}</span>'
    return f'<a class="card {state}" href="#{leads or name}-{words.language}">{ask}<b>{big}</b>{escape(told)}</a>'


def _waiting(facts: Facts, words: Words) -> str:
    items = "".join(f"<li>{_code(_wait(one, words))}{_reasons(one, words)}</li>" for one in facts.waiting)
    said = words("waiting", "said" if items else "nothing")
    return _part(words, "waiting", said, f"<ul>{items}</ul>" if items else "")


def _wait(one: Happening, words: Words) -> str:
    named = str(one.about.get("environment") or "prod")
    about = {**one.about, "env": named, "environment": words("environments", named)}
    if "share" in about:
        about["percent"] = words.figures(f"{100 * float(about['share']):g} %")
    return f"{words('waiting', one.kind, **about)} ({words('waiting', 'since', moment=words.moment(one.time))})"


def _good(facts: Facts, words: Words) -> str:
    measured, label = facts.measured, words("metrics", facts.metric, "label")
    if measured is None:
        counts = {} if facts.traffic is None else {"answers": facts.traffic.answers, "known": facts.traffic.known}
        said, drawn, note = words("good", "unknown" if counts else "none", **counts), "", ""
    else:
        figures = _figures(facts, measured.said, words)
        said = words("good", measured.said.state, **{**figures, "bound": first(figures["bound"])})
        means = words("metrics", facts.metric, "means")
        way = words("more" if METRICS[facts.metric].higher else "less")
        note = words("good", "note", label=first(label), means=words.figures(means), way=way)
        look = "worse" if measured.said.state == "alarm" else "model"
        text = f"{SYMBOLS[measured.said.state]} {figures['value']}"
        rows = [Row(words("good", "measured"), _span(measured.said), text, words("good", "measured_note"), look)]
        if facts.live is not None and (promised := facts.live.promised) is not None:
            of_test = words("good", "promised_note")
            rows.insert(0, Row(words("good", "promised"), promised, _written(facts, promised, words), of_test))
        drawn = localised(interval_rows(rows, measured.said.limit), words)
    points = [point for point in facts.quality if point.said.figure is not None][-LATEST:]
    if len(points) > 1:
        unit = f" ({facts.unit})" if METRICS[facts.metric].kind == "unit" and facts.unit else ""
        title, caption = words("good", "plot", label=f"{first(label)}{unit}"), words("good", "caption")
        is_share = METRICS[facts.metric].kind == "share"
        drawn += series(points, words, title, caption, lambda one: _exactly(facts, one, words), is_share)
    return _part(words, "good", said, drawn, note)


def _whom(facts: Facts, words: Words) -> str:
    said = facts.verdicts(*GROUPS)
    state, grave = whole(said)
    of = {"names": ", ".join(one.subject for one in grave), "count": len(said)}
    told = words("whom", state if facts.is_grouped else "none", **of)
    shown = sorted(facts.verdicts("slices"), key=lambda one: (SEVERITY.index(one.state), facts.spare(one)))
    rows = [_row(facts, one, words) for one in shown[:SHOWN] if one.figure is not None]
    drawn = localised(interval_rows(rows), words) if rows else ""
    if len(shown) > SHOWN:
        drawn += f'<p class="note">{escape(words("whom", "more", count=len(shown) - SHOWN))}</p>'
    if beside := facts.verdicts("bias"):
        lines = [_state(one.subject, one.state, words.told(one.sentence), words) for one in beside]
        head = (words("whom", "group"), words("head", "state"), words("unusual", "head", 2))
        drawn += f"<h3>{escape(words('whom', 'groups'))}</h3>{table('facts stack', head, lines)}"
    return _part(words, "whom", told, drawn, words("whom", "note") if drawn else "")


def _row(facts: Facts, one: Verdict, words: Words) -> Row:
    figures = _figures(facts, one, words)
    text, note = f"{SYMBOLS[one.state]} {figures['value']}", words("whom", "limit", **figures)
    return Row(one.subject, _span(one), text, note, "worse" if one.state == "alarm" else "model")


def _changed(facts: Facts, words: Words) -> str:
    if not facts.happened:
        return _part(words, "changed", words("changed", "nothing"), "")
    items = [_item(one, words) for one in facts.happened[:LATEST]]
    drawn = f'<ol class="past">{"".join(items[:SHOWN])}</ol>'
    if older := items[SHOWN:]:
        past = f'<ol class="past">{"".join(older)}</ol>'
        drawn += f"<details><summary>{escape(words('changed', 'older'))}</summary>{past}</details>"
    more = words("changed", "more", count=len(facts.happened) - LATEST) if len(facts.happened) > LATEST else ""
    return _part(words, "changed", words("changed", "said"), drawn, more)


def _item(one: Happening, words: Words) -> str:
    about = {**one.about, "environment": words("environments", str(one.about.get("environment") or "prod"))}
    if "rules" in about:
        about["rules"] = ", ".join(words.name("rules", rule) for rule in about["rules"])
    if one.kind == "alarm":
        about["signal"] = words("signals", about["signal"], "name")
        about["subjects"] = words.listed([words.name("subjects", subject) for subject in about["subjects"]])
    if "cause" in about:
        about["cause"] = _cause(str(about["cause"]), words)
    what, kind = words("happened", one.kind, **about), one.kind.partition(" ")[0]
    by = f", {words('changed', 'by', who=one.who)}" if one.who else ""
    when = f"<small>{escape(words.moment(one.time))}{escape(by)}</small>"
    sign = f'<span class="sign" aria-hidden="true">{words("signs", kind)}</span>'
    return f'<li class="{kind}">{sign}<div><b>{escape(what)}</b>{when}{_reasons(one, words)}</div></li>'


def _cause(name: str, words: Words) -> str:
    """Say an episode, such as `data drift since window 3 of version 2`, in the language."""
    found = re.fullmatch(r"(.+) since window (\d+) of version (\d+)", name)
    if found is None:
        return name
    signal = words("signals", found[1], "name")
    return words("changed", "cause", signal=signal, window=int(found[2]), version=int(found[3]))


def _reasons(one: Happening, words: Words) -> str:
    reasons = [words.told(sentence) for sentence in one.told]
    if one.why:
        reasons.insert(0, words.why(one.why))
    return "".join(f"<p>{reason}</p>" for reason in reasons)


def _unusual(facts: Facts, words: Words) -> str:
    said = facts.verdicts(*UNUSUAL)
    state, grave = whole(said)
    lines = []
    for signal in UNUSUAL:
        own = facts.verdicts(signal)
        graver, odd = whole(own)
        told = "<br>".join(words.told(one.sentence) for one in odd[:SHOWN])
        if own and not odd:
            told = escape(words("unusual", "well", count=len(own)))
        lines.append(_state(words("signals", signal, "ask"), graver, told, words))
    head = [words("unusual", "head", place) for place in range(3)]
    drawn = table("facts stack", head, lines) if said else ""
    if len(points := facts.drift[-LATEST:]) > 1:
        title, caption = words("unusual", "plot"), words("unusual", "caption")
        drawn += series(points, words, title, caption, lambda one: words.figures(f"{one:.2f}"))
    return _part(words, "unusual", words("unusual", "said", state, count=len(grave)), drawn)


def _state(name: str, state: str, told: str, words: Words) -> str:
    sign = f'<span class="state {state}">{SYMBOLS[state]} {escape(words("states", state))}</span>'
    return f'<th scope="row">{escape(name)}</th><td>{sign}</td><td>{told}</td>'


def _traffic(facts: Facts, words: Words) -> str:
    traffic = facts.traffic
    if traffic is None:
        return _part(words, "traffic", words("traffic", "nothing"), "")
    share = words.figures(f"{100 * traffic.known / traffic.answers:.0f} %")
    of = {"answers": traffic.answers, "moment": words.moment(traffic.last), "known": traffic.known, "percent": share}
    title = words("traffic", "plot", step=words("traffic", "steps", int(traffic.step)))
    drawn = bars(traffic, words, title, words("traffic", "caption", environment=_where(facts, words)))
    return _part(words, "traffic", words("traffic", "said", **of), drawn)


def _purpose(facts: Facts, words: Words) -> str:
    case, live = facts.case, facts.live
    lines = {"decision": case.decision, "kpi": case.kpi, "owner": case.owner}
    lines["version"] = words("live", "nothing", environment=_where(facts, words))
    if live is not None:
        of = {"version": live.version, "moment": words.moment(live.since), "who": live.who}
        lines["version"] = words("live", "since", **of)
        lines["bundle"] = live.digest[:12]
    described = {key: _code(text) for key, text in lines.items()}
    if live is not None and live.why:
        described["why"] = words.why(live.why)
    terms = "".join(f"<dt>{escape(words('live', key))}</dt><dd>{text}</dd>" for key, text in described.items())
    return _part(words, "live", "", f"<dl>{terms}</dl>")


def _links(facts: Facts, words: Words) -> str:
    items = "".join(f'<li><a href="{link}">{escape(words("links", link))}</a></li>' for link in facts.links)
    return _part(words, "links", "" if items else words("links", "none"), f"<ul>{items}</ul>" if items else "")


def _part(words: Words, name: str, said: str, content: str, note: str = "") -> str:
    lead = f"<p>{_code(said)}</p>" if said else ""
    framed = section(words(name, "title"), "", lead + content, note)
    return framed.replace("<section>", f'<section id="{name}-{words.language}">', 1)


def _where(facts: Facts, words: Words) -> str:
    return words("environments", facts.environment)


def _names(said: Sequence[Verdict], words: Words) -> list[str]:
    """Return what verdicts are about: columns and groups by name, all else by what it was looked at for."""
    named = ("slices", "bias", "data drift")
    return list(
        dict.fromkeys(one.subject if one.signal in named else words("signals", one.signal, "name") for one in said)
    )


def _figures(facts: Facts, said: Verdict, words: Words) -> dict[str, str]:
    return {
        "label": words("metrics", facts.metric, "label"),
        "value": _written(facts, _span(said), words),
        "limit": "?" if said.limit is None else _exactly(facts, said.limit, words),
        "bound": words("at_least" if METRICS[facts.metric].higher else "at_most"),
    }


def _span(said: Verdict) -> Interval:
    value = float("nan") if said.figure is None else said.figure
    return Interval(value, value if said.low is None else said.low, value if said.high is None else said.high)


def _written(facts: Facts, measured: Interval, words: Words) -> str:
    return words.figures(METRICS[facts.metric].write(measured, facts.unit))


def _exactly(facts: Facts, value: float, words: Words) -> str:
    return _written(facts, Interval(value, value, value), words)


def _code(text: str) -> str:
    """Return text as HTML in which commands, written between backticks, look so."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
