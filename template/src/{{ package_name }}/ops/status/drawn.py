"""The look of the status page: its words in a language, its frame, and plots over time as inline SVG."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from ..evaluate.plots import STYLE, Axis, table
from .facts import Point, Traffic

LANGUAGES = ("en", "fr")
NUMBER = r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\.?\d)"  # no part of a name, an address or a version
NAMED = 3
"""Names in a sentence, at most."""
SYMBOLS = {"quiet": "✓", "suspected": "◆", "alarm": "▲", "unknown": "?"}
SHAPES = {"alarm": "M0-7 7 6-7 6z", "suspected": "M0-6 6 0 0 6-6 0z"}
OWN = """
.choice { border: 0; margin: 0 auto; padding: 1rem 1.25rem 0; max-width: 62rem; text-align: right; font-size: .875rem; }
.choice legend { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.choice label { margin-left: .9rem; cursor: pointer; }
main { padding-top: 1rem; }
body:has(#en:checked) main[lang=fr], body:has(#fr:checked) main[lang=en] { display: none; }
section { scroll-margin-top: 1rem; } a { color: var(--model); }
section > p:last-child { margin-bottom: 0; }
a.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; color: inherit;
  text-decoration: none; border-top: 4px solid var(--soft); overflow-wrap: anywhere; hyphens: auto; }
a.card:hover, a.card:focus-visible { border-color: var(--model); }
a.card .ask { display: block; color: var(--soft); }
a.card b { margin: .25rem 0 .35rem; line-height: 1.15; }
a.card.quiet { border-top-color: var(--model); }
a.card.alarm, a.card.suspected, .banner { border-top-color: var(--worse); }
a.card.alarm b, a.card.suspected b, .alarm > .sign { color: var(--worse); }
a.card.unknown b { color: var(--soft); }
.banner { max-width: none; background: var(--card); border: 1px solid var(--worse); border-left-width: 6px;
  border-radius: 12px; padding: .9rem 1.1rem; }
code { font-size: .9em; overflow-wrap: anywhere; background: rgba(var(--wash), .1); padding: 0 .3em; }
.past { list-style: none; padding: 0; max-width: 46rem; }
.past > li { display: grid; grid-template-columns: 1.6rem 1fr; padding: .55rem 0; margin: 0;
  border-top: 1px solid var(--line); }
.past .sign { font-weight: 700; color: var(--model); }
.past .refused .sign, .past .alarm .sign, .past .rollback .sign { color: var(--worse); }
.past p { margin: .2rem 0 0; font-size: .92rem; }
.state { white-space: nowrap; }
.state.alarm, .state.suspected { font-weight: 650; color: var(--worse); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.plot { margin-top: .4rem; }
.series { display: block; width: 100%; height: 250px; padding: 26px 10px 26px 52px; overflow: visible; }
.series path, .series .tick { vector-effect: non-scaling-stroke; }
.series .course { fill: none; stroke: var(--model); stroke-width: 2; } .series .band { fill: rgba(var(--wash), .18); }
.series .limit { fill: none; stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; }
.series .change { stroke: var(--soft); }
.series .dot, .series .part { fill: var(--model); } .series .dot.alarm, .series .dot.suspected { fill: var(--worse); }
details { margin-top: .7rem; font-size: .9rem; } summary { cursor: pointer; color: var(--soft); }
@media (max-width: 40rem) { .grid > a.card:last-child:nth-child(odd) { grid-column: 1 / -1; }
  .choice { padding: .8rem .8rem 0; } .series { padding-left: 44px; }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack tr { display: block; border-top: 1px solid var(--line); padding: .5rem 0; }
  .stack th, .stack td { display: block; border: 0; padding: .1rem 0; } }
@media print { .choice { display: none; } }
"""


@cache
def _page() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))
    return content


def _meant(table: str, text: str) -> str | None:
    """Return what a text of the records means in French; None for one that no pattern of a table knows."""
    for pattern, meant in _page()[table].items():
        if found := re.fullmatch(pattern, text):
            groups = [group or "" for group in found.groups()]
            return str(meant).format(*(_meant("fragments", group) or group for group in groups))
    return None


class Words:
    """What the page says in one language."""

    def __init__(self, language: str) -> None:
        """Read the words of `en` or `fr`."""
        self.language, self.words = language, _page()[language]

    def __call__(self, *keys: str | int, **facts: Any) -> str:
        """Return the words at a place, filled with facts; numbers are written as the language does."""
        found: Any = self.words
        for key in keys:
            found = found[key]
        shown = {name: self.figures(f"{value:,}") if isinstance(value, int) else value for name, value in facts.items()}
        return self.spaced(str(found).format(**shown))

    def figures(self, text: str) -> str:
        """Return numbers, written in English, as the language writes them."""
        if self.language == "en":
            return text
        marks = str.maketrans({",": "\N{NARROW NO-BREAK SPACE}", ".": ","})
        text = re.sub(NUMBER, lambda number: number[0].translate(marks), text)
        return re.sub(r" to (?=[\d\N{MINUS SIGN}])", " à ", text)

    def moment(self, time: float) -> str:
        """Return a time in words."""
        when = datetime.fromtimestamp(time, UTC)
        named = {"month": self.words["months"][when.month - 1], "year": f"{when.year}", "time": f"{when:%H:%M}"}
        return self("moment", day=f"{when.day}", **named)

    def short(self, time: float, span: float) -> str:
        """Return a time on an axis that is so many seconds long."""
        when = datetime.fromtimestamp(time, UTC)
        if span < 2 * 86_400:
            return f"{when:%H:%M}"
        return self("date", day=f"{when.day}", short=self.words["shorts"][when.month - 1])

    def told(self, sentence: str) -> str:
        """Return sentences of the records as HTML; they are written in English, and some have no other words."""
        if self.language == "en":
            return escape(sentence)
        parts = [(part, _meant("sentences", part)) for part in re.split(r"(?<=\.) (?=[A-Z])", sentence)]
        return " ".join(
            f'<span lang="en">{escape(part)}</span>' if said is None else escape(self.spaced(self.figures(said)))
            for part, said in parts
        )

    def why(self, reason: str) -> str:
        """Return a reason as HTML: what a machine gave in the language, what a person said as they said it."""
        if _meant("sentences", reason) is None:
            return escape(self("quoted", said=reason))
        return self.told(reason)

    def name(self, table: str, key: str) -> str:
        """Return what a name of the records is called; what a table does not know is called so itself."""
        return str(self.words[table].get(key, key))

    def spaced(self, text: str) -> str:
        """Return text with the spaces at which French does not break a line."""
        if self.language == "en":
            return text
        return re.sub(r"(?<=«) | (?=[:;?!%»])", "\N{NO-BREAK SPACE}", text)

    def listed(self, names: Sequence[str]) -> str:
        """Return the first names, and how many more there are."""
        more = f" +{len(names) - NAMED}" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more


def document(title: str, language: str, words: Mapping[str, Words], mains: Mapping[str, str]) -> str:
    """Return a whole HTML page with one main part for each language; the switch between them needs no script."""
    choices = "".join(
        f'<label lang="{name}"><input type="radio" name="language" id="{name}"{" checked" * (name == language)}> '
        f"{escape(one('name'))}</label>"
        for name, one in words.items()
    )
    legend = " / ".join(escape(one("switch")) for one in words.values())
    shown = "\n".join(f'<main lang="{name}">\n{main}\n</main>' for name, main in mains.items())
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{OWN}</style>\n</head>\n<body>\n"
        f'<nav aria-label="{legend}"><fieldset class="choice"><legend>{legend}</legend>{choices}</fieldset></nav>\n'
        f"{shown}\n</body>\n</html>\n"
    )


def first(text: str) -> str:
    """Return text that begins a sentence."""
    return text[:1].upper() + text[1:]


def localised(drawing: str, words: Words) -> str:
    """Return a drawing whose ticks are written as the language writes numbers."""
    return re.sub(r"(<text[^>]*>)([^<]+)", lambda tick: tick[1] + words.figures(tick[2]), drawing)


def series(
    points: Sequence[Point],
    words: Words,
    title: str,
    caption: str,
    write: Callable[[float], str],
    is_share: bool = False,
) -> str:
    """Draw what looks found, one beside the other, with their intervals and limits; the numbers in a table below."""
    said = [point.said for point in points]
    ends = [(one.figure or 0.0, one.low, one.high, one.limit) for one in said]
    axis = Axis([value for parts in ends for value in parts if value is not None], is_share)

    def at(place: float, value: float) -> str:
        return f"{100 * (place + 0.5) / len(points):.2f} {100 - 100 * axis.share(value):.2f}"

    course = [at(place, figure) for place, (figure, *_) in enumerate(ends)]
    low, high = ([at(place, one[side] or one[0] or 0.0) for place, one in enumerate(ends)] for side in (1, 2))
    limits = [at(place + side, limit) for place, (*_, limit) in enumerate(ends) if limit for side in (-0.5, 0.5)]
    lines = {"band": [*low, *reversed(high)], "limit": limits, "course": course}
    paths = "".join(f'<path class="{name}" d="M{" L".join(places)}"/>' for name, places in lines.items() if places)
    marks = "".join(_dot(place, point.said.state) for place, point in zip(course, points, strict=True))
    for place, (before, after) in enumerate(pairwise(points), 1):
        if before.version != after.version:
            marks += _change(place / len(points), after.version, words)
    times = [point.time for point in points]
    about = {"title": title, "count": len(points), "first": words.moment(times[0]), "last": words.moment(times[-1])}
    value, state = write(said[-1].figure or 0.0), words("states", said[-1].state)
    described = words("described", **about, value=value, state=state)
    drawn = _frame(
        axis,
        paths,
        marks,
        _times([(place + 0.5) / len(points) for place in range(len(points))], times, words),
        described,
        words,
    )
    names = [
        words("head", name) for name in ("window", "version", "time", "value", "interval", "limit", "state", "subject")
    ]
    return _figure(
        title, drawn, caption, table("facts", names, [_numbers(point, words, write) for point in points]), words
    )


def bars(traffic: Traffic, words: Words, title: str, caption: str) -> str:
    """Draw how many answers each part of the time saw."""
    axis, count = Axis([0, *(rows for _, rows in traffic.counts)]), len(traffic.counts)
    parts = "".join(
        f'<rect class="part" x="{100 * (place + 0.1) / count:.2f}" y="{100 - 100 * axis.share(rows):.2f}" '
        f'width="{80 / count:.2f}" height="{100 * axis.share(rows):.2f}"/>'
        for place, (_, rows) in enumerate(traffic.counts)
    )
    times = [time for time, _ in traffic.counts]
    about = {"title": title, "count": count, "first": words.moment(times[0]), "last": words.moment(times[-1])}
    described = words("bars", **about, most=max(rows for _, rows in traffic.counts))
    labels = _times([(place + 0.5) / count for place in range(count)], times, words)
    lines = [
        f"<td>{escape(words.moment(time))}</td><td>{words.figures(f'{rows:,}')}</td>" for time, rows in traffic.counts
    ]
    numbers = table("facts", [words("head", "time"), words("head", "answers")], lines)
    return _figure(title, _frame(axis, parts, "", labels, described, words), caption, numbers, words)


def _frame(axis: Axis, paths: str, marks: str, labels: str, described: str, words: Words) -> str:
    grid = ""
    for tick in axis.ticks:
        down = f"{100 - 100 * axis.share(tick):.2f}%"
        grid += f'<line class="tick" x1="0" x2="100%" y1="{down}" y2="{down}"/>'
        grid += f'<text x="-8" y="{down}" dy="4" text-anchor="end">{words.figures(axis.name(tick))}</text>'
    whole = 'viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="100%" overflow="visible"'
    inner = f"<svg {whole}>{paths}</svg>"
    return f'<svg class="series" role="img" aria-label="{escape(described)}">{grid}{inner}{marks}{labels}</svg>'


def _dot(place: str, state: str) -> str:
    across, down = place.split()
    shape = f'<path d="{SHAPES[state]}"/>' if state in SHAPES else '<circle r="4"/>'
    return f'<svg class="dot {state}" x="{across}%" y="{down}%" overflow="visible">{shape}</svg>'


def _change(share: float, version: int, words: Words) -> str:
    name = escape(f"{words('head', 'version')} {version}")
    line = f'<line class="change" x1="{100 * share:.2f}%" x2="{100 * share:.2f}%" y1="-10" y2="100%"/>'
    side = 'dx="-4" text-anchor="end"' if share > 0.8 else 'dx="4"'
    return f'{line}<text x="{100 * share:.2f}%" {side} y="-4">{name}</text>'


def _times(places: Sequence[float], times: Sequence[float], words: Words) -> str:
    """Name the first, the last and the middle place."""
    span = times[-1] - times[0]
    shown = sorted({0, len(times) // 2, len(times) - 1})
    anchors = {0: "start", len(times) - 1: "end"}
    return "".join(
        f'<text x="{100 * places[one]:.2f}%" y="100%" dy="20" text-anchor="{anchors.get(one, "middle")}">'
        f"{escape(words.short(times[one], span))}</text>"
        for one in shown
    )


def _numbers(point: Point, words: Words, write: Callable[[float], str]) -> str:
    said = point.said
    span = [write(value) for value in (said.low, said.high) if value is not None]
    cells = (
        f"{point.version}",
        words.moment(point.time),
        "" if said.figure is None else write(said.figure),
        " … ".join(span),
        "" if said.limit is None else write(said.limit),
        f"{SYMBOLS[said.state]} {words('states', said.state)}",
        said.subject,
    )
    window = f"{point.window}" if point.rows else f"{point.window} ({words('between')})"
    return f'<th scope="row">{escape(window)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells)


def _figure(title: str, drawn: str, caption: str, numbers: str, words: Words) -> str:
    below = f"<details><summary>{escape(words('numbers'))}</summary>{numbers}</details>"
    return f"<h3>{escape(title)}</h3><figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>{below}"
