"""The report's look: its style, and figures as inline SVG that stretch with the page and follow its colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .metrics import Bin, Errors, Interval

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 320, 60, 24, 12, 48
"""Size and margins of a square figure, in its own units."""


STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5c6670; --line: #e3e6e9; --page: #f6f7f8; --card: #fff;
  --model: #0067a8; --worse: #b84a00; --wash: 0, 103, 168; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5af; --line: #333a41; --page: #14171a; --card: #1d2125;
    --model: #5cb8f0; --worse: #f5a352; --wash: 92, 184, 240; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1, h2 { line-height: 1.2; margin: 0 0 .5rem; text-wrap: balance; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.2rem); letter-spacing: -.015em; }
h2 { font-size: 1.2rem; }
p { margin: 0 0 .9rem; max-width: 46rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.3rem 1.5rem; }
main > * { margin-bottom: 1.1rem; }
small, .note, figcaption, .eyebrow { color: var(--soft); font-size: .875rem; }
.note, figcaption { margin: .7rem 0 0; }
.grid { display: grid; gap: 1.1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); }
.card { padding: 1rem 1.1rem; font-size: .92rem; line-height: 1.4; }
.card b { display: block; font-size: 1.4rem; line-height: 1.3; color: var(--model); }
dl { margin: 0; display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 1.1rem; }
li { margin-bottom: .45rem; }
figure { margin: 0; min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; }
small { display: block; line-height: 1.35; font-weight: 400; }
.facts { margin-top: .9rem; }
.facts th, .facts td { padding: .45rem .9rem .45rem 0; border-top: 1px solid var(--line); vertical-align: top; }
.facts th:first-child { min-width: 9rem; }
.numbers th:first-child { min-width: 14rem; }
.numbers td { white-space: nowrap; }
.facts thead th { border: 0; color: var(--soft); font-size: .875rem; vertical-align: bottom; }
.facts .kept { font-weight: 650; color: var(--model); }
.plot th { width: 12rem; padding: .38rem .9rem .38rem 0; line-height: 1.25; overflow-wrap: anywhere; }
.plot .number { width: 14rem; padding-left: 1rem; font-size: .9rem; color: var(--soft); white-space: nowrap; }
.plot .model th, .plot .model .number { font-weight: 650; color: var(--ink); }
.plot .worse th, .plot .worse .number { font-weight: 650; color: var(--worse); }
.track { position: relative; height: 2.1rem; padding: 0; }
.track > svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.axis .track { height: 1.4rem; }
svg text { fill: var(--soft); font-size: 12.5px; }
svg .label { fill: var(--ink); font-size: 13.5px; }
.tick { stroke: var(--line); }
.reference { stroke: var(--soft); stroke-dasharray: 4 4; }
.range { stroke: var(--soft); stroke-width: 2.5; }
.dot { fill: var(--soft); stroke: var(--card); stroke-width: 1.5; }
.model .range, .square .range { stroke: var(--model); }
.model .dot, .square .dot { fill: var(--model); }
.worse .range { stroke: var(--worse); }
.worse .dot { fill: var(--worse); }
.bar, .faint { fill: var(--soft); opacity: .4; }
.model .bar, .square .bar, .faint { fill: var(--model); }
.square { display: block; width: 100%; max-width: 25rem; }
.matrix th, .matrix td { padding: .7rem .8rem; border: 3px solid var(--card); }
.matrix td { border-radius: 10px; background: rgba(var(--wash), calc(.06 + .5 * var(--share))); }
.matrix td b { font-size: 1.25rem; }
.matrix td small { color: inherit; }
@media (max-width: 40rem) {
  main { padding: 1.5rem .8rem 3rem; }
  section:not(.card) { padding: 1.1rem 1rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  .plot tr { display: grid; grid-template-columns: 1fr auto; align-items: baseline; }
  .plot th, .plot .number { width: auto; padding: .35rem 0 0; }
  .plot .track { grid-column: 1 / -1; grid-row: 2; }
  .plot .axis .track { grid-row: 1; } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Row:
    """One line of an interval figure."""

    label: str
    measured: Interval
    text: str
    note: str = ""
    look: str = "plain"
    """plain, model (the one that the page is about) or worse."""


class Axis:
    """A scale with round ticks around the given values."""

    def __init__(self, values: Iterable[float], percent: bool = False) -> None:
        """Choose about five ticks that enclose the values; `percent` says that they are shares."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        span = (high - low) or abs(high) or 1.0
        power = 10.0 ** math.floor(math.log10(span / 4))
        self.step = min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(span / step - 4))
        first, last = math.floor(low / self.step + 1e-9), math.ceil(high / self.step - 1e-9)
        self.ticks = [place * self.step for place in range(first, max(last, first + 1) + 1)]
        self.percent = percent

    def share(self, value: float) -> float:
        """Place of a value between the first tick (0) and the last (1); outside ones are moved to the edge."""
        return min(max((value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]), 0.0), 1.0)

    def at(self, value: float) -> str:
        """Place of a value as a percentage of the figure's width."""
        return f"{100 * self.share(value):.2f}%"

    def name(self, tick: float) -> str:
        """A tick's text."""
        step, value = (self.step * 100, tick * 100) if self.percent else (self.step, tick)
        text = f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}".replace("-", "\N{MINUS SIGN}")
        return f"{text} %" if self.percent else text


def interval_rows(rows: Sequence[Row], reference: float | None = None, bars: bool = False) -> str:
    """Draw values with their intervals, one a line, and a dashed line at `reference`; `bars` start at zero."""
    values = [value for row in rows for value in (row.measured.value, row.measured.low, row.measured.high)]
    axis = Axis(values if reference is None else [*values, reference])
    lines = "".join(_line(row, axis, reference, bars) for row in rows)
    last = len(axis.ticks) - 1
    ticks = "".join(
        f'<text x="{axis.at(tick)}" y="15" text-anchor="{_anchor(place, last)}">{axis.name(tick)}</text>'
        for place, tick in enumerate(axis.ticks)
    )
    axis_line = f'<tr class="axis" aria-hidden="true"><th></th><td class="track"><svg>{ticks}</svg></td><td></td></tr>'
    return f'<table class="plot"><tbody>{lines}{axis_line}</tbody></table>'


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Draw rows by truth and answer, the darker the larger the share of the truth's rows."""
    lines = []
    for name, row in zip(names, counts, strict=True):
        cells = ""
        for count in row:
            share = count / max(sum(row), 1)
            cells += f'<td style="--share: {share:.2f}"><b>{count:,}</b><small>{100 * share:.0f} %</small></td>'
        lines.append(f'<th scope="row">really {escape(name)}</th>{cells}')
    drawing = table("matrix", ["", *(f"answered {name}" for name in names)], lines)
    return figure(drawing, "Test rows by truth and answer, with their share of each truth.")


def calibration(bins: Sequence[Bin], x_label: str, y_label: str, percent: bool) -> str:
    """Draw what happened against what was predicted, with the diagonal where both agree."""
    values = [value for part in bins for value in (part.predicted, part.observed.low, part.observed.high)]
    axis = Axis([*values, 0.0] if percent else values, percent)
    marks = _diagonal(axis)
    for part in bins:
        x, y = across(axis, part.predicted), up(axis, part.observed.value)
        if math.isfinite(part.observed.low):
            low, high = up(axis, part.observed.low), up(axis, part.observed.high)
            marks += f'<line class="range" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>'
        text = f"predicted {axis.name(part.predicted)}, happened {axis.name(part.observed.value)} ({part.rows:,} rows)"
        marks += f'<circle class="dot" cx="{x}" cy="{y}" r="5"><title>{text}</title></circle>'
    drawing = square(axis, axis, x_label, y_label, marks, f"{y_label} against {x_label}, in {len(bins)} bins")
    return figure(drawing, "Test rows of similar prediction. Dashed: it is what happens; above: it says too little.")


def pairs(errors: Errors, x_label: str, y_label: str) -> str:
    """Draw truth against prediction for a sample of rows; extreme truths stand at the edge."""
    ordered = sorted(errors.actual)
    cut = len(ordered) // 100
    axis = Axis([*errors.predicted, ordered[cut], ordered[-1 - cut]])
    marks = _diagonal(axis) + "".join(
        f'<circle class="faint" cx="{across(axis, predicted)}" cy="{up(axis, actual)}" r="2.5"/>'
        for predicted, actual in zip(errors.predicted, errors.actual, strict=True)
    )
    drawing = square(axis, axis, x_label, y_label, marks, f"{y_label} against {x_label} for {len(ordered)} rows")
    return figure(drawing, "A sample of the test rows. Dashed: exact. Extreme values stand at the edge.")


def histogram(errors: Errors, x_label: str) -> str:
    """Draw how many test rows have which error."""
    x_axis, y_axis = Axis([*errors.edges, 0.0]), Axis([0.0, *errors.counts])
    marks = ""
    for count, low, high in zip(errors.counts, errors.edges, errors.edges[1:], strict=False):
        left, right, top = across(x_axis, low), across(x_axis, high), up(y_axis, count)
        size = f'width="{max(right - left - 1, 1):.1f}" height="{up(y_axis, 0) - top:.1f}"'
        marks += f'<rect class="bar" x="{left}" y="{top}" {size}/>'
    zero = across(x_axis, 0)
    marks += f'<line class="reference" x1="{zero}" x2="{zero}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    drawing = square(x_axis, y_axis, x_label, "test rows", marks, f"number of test rows by {x_label}")
    return figure(drawing, "All test rows but the most extreme hundredth. Dashed: exact.")


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole HTML page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, said: str, content: str, note: str = "") -> str:
    """Frame a part of the page: its title, what it says in a sentence, the figure, and how to read it."""
    lead = f"<p>{escape(said)}</p>" if said else ""
    below = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{lead}{content}{below}</section>"


def table(look: str, head: Sequence[str], lines: Iterable[str]) -> str:
    """Frame a table from its headings and its finished rows; it scrolls by itself where the page is narrow."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    content = f"<thead><tr>{names}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table class="{look}">{content}</table></div>'


def figure(drawing: str, caption: str) -> str:
    """Frame a drawing with its caption."""
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


def _line(row: Row, axis: Axis, reference: float | None, bars: bool) -> str:
    marks = "".join(f'<line class="tick" x1="{axis.at(t)}" x2="{axis.at(t)}" y1="0" y2="100%"/>' for t in axis.ticks)
    if reference is not None:
        marks += f'<line class="reference" x1="{axis.at(reference)}" x2="{axis.at(reference)}" y1="0" y2="100%"/>'
    value = row.measured.value
    if bars:
        left, right = sorted((axis.share(0), axis.share(value)))
        size = f'x="{100 * left:.2f}%" width="{100 * (right - left):.2f}%" y="50%" height="12"'
        marks += f'<rect class="bar" {size} transform="translate(0 -6)"/>'
    if row.measured.low < row.measured.high:
        low, high = axis.at(row.measured.low), axis.at(row.measured.high)
        marks += f'<line class="range" x1="{low}" x2="{high}" y1="50%" y2="50%"/>'
    if math.isfinite(value) and not bars:
        shape = '<path d="M0-7 7 0 0 7-7 0z"/>' if row.look == "worse" else '<circle r="6"/>'
        marks += f'<svg class="dot" x="{axis.at(value)}" y="50%" overflow="visible">{shape}</svg>'
    note = f"<small>{escape(row.note)}</small>" if row.note else ""
    picture = f'<svg role="img" aria-label="{escape(f"{row.label}: {row.text}")}">{marks}</svg>'
    return (
        f'<tr class="{row.look}"><th scope="row">{escape(row.label)}{note}</th>'
        f'<td class="track">{picture}</td><td class="number">{escape(row.text)}</td></tr>'
    )


def _anchor(place: int, last: int) -> str:
    return "start" if place == 0 else "end" if place == last else "middle"


def across(axis: Axis, value: float) -> float:
    """Place of a value from left to right in a square figure."""
    return round(LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT), 1)


def up(axis: Axis, value: float) -> float:
    """Place of a value from top to bottom in a square figure; large values are at the top."""
    return round(HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM), 1)


def _diagonal(axis: Axis) -> str:
    low, high = axis.ticks[0], axis.ticks[-1]
    ends = f'x1="{across(axis, low)}" y1="{up(axis, low)}" x2="{across(axis, high)}" y2="{up(axis, high)}"'
    return f'<line class="reference" {ends}/>'


def square(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str, marks: str, description: str) -> str:
    """Draw marks, placed by `across` and `up`, over a grid with two named axes."""
    bottom, middle = HEIGHT - BOTTOM, (LEFT + WIDTH - RIGHT) / 2
    grid = "".join(
        f'<line class="tick" x1="{across(x_axis, t)}" x2="{across(x_axis, t)}" y1="{TOP}" y2="{bottom}"/>'
        f'<text x="{across(x_axis, t)}" y="{bottom + 18}" text-anchor="middle">{x_axis.name(t)}</text>'
        for t in x_axis.ticks
    ) + "".join(
        f'<line class="tick" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(y_axis, t)}" y2="{up(y_axis, t)}"/>'
        f'<text x="{LEFT - 8}" y="{up(y_axis, t) + 4}" text-anchor="end">{y_axis.name(t)}</text>'
        for t in y_axis.ticks
    )
    labels = (
        f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="label" transform="translate(12 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    title = f"<title>{escape(description)}</title>"
    return f'<svg class="square" role="img" viewBox="0 0 {WIDTH} {HEIGHT}">{title}{grid}{marks}{labels}</svg>'
