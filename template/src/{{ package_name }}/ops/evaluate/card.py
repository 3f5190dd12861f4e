"""The model card: what the model is for, how good it is, for whom and where it ends, as Markdown and as a page.

Its chapters are those of Mitchell et al. 2019, "Model Cards for Model Reporting"; the Markdown begins with the metadata
that the Hugging Face Hub reads. All is taken from what was measured and configured; what nobody answered is said so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import yaml

from ..config import Column, Data, masked
from ..files import atomic
from ..scorer import MODEL
from . import Evaluation, plots
from .metrics import METRICS, Interval
from .plots import Row
from .report import KEPT
from .words import answers, cautions, headline, label, listed, period, rounded, target

GROUPS = 10
"""Groups of test rows that are shown, the worst first."""
LISTED = 5
"""Allowed values that are written out; more are counted."""
MARK = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")
"""What Markdown would take for a sign."""


@dataclass(frozen=True)
class Block:
    """A piece of the card in both of its forms."""

    markdown: str
    html: str


@dataclass(frozen=True)
class Part:
    """A chapter of the card."""

    title: str
    blocks: tuple[Block, ...]
    said: str = ""
    note: str = ""


def write(evaluation: Evaluation, data: Data, digest: str, path: Path) -> None:
    """Write the card as Markdown to `path` and as a page beside it; `digest` is the model file's SHA-256."""
    licence = metadata(evaluation.signature["name"])["License-Expression"]
    parts = chapters(evaluation, data, digest, licence)
    with atomic(path) as text, atomic(path.with_suffix(".html")) as page:
        text.write_text(_markdown(evaluation, data, licence, parts), encoding="utf-8")
        page.write_text(_html(evaluation, parts), encoding="utf-8")


def chapters(e: Evaluation, data: Data, digest: str, licence: str | None) -> list[Part]:
    """Return what the card says."""
    made = (
        _details(e, digest, licence),
        _use(e),
        _data(e, data),
        _quality(e),
        _groups(e, data),
        _calibration(e),
        _ethics(e, data),
        Part("Limits", (_bullets([*cautions(e), *_limits(e, data)]),)),
        _commands(e),
    )
    return [part for part in made if part is not None]


def facts(e: Evaluation, data: Data, licence: str | None) -> dict[str, Any]:
    """Return the metadata that the Hugging Face Hub reads, see its model card specification."""
    values = {metric: measured[e.kept].value for metric, measured in e.metrics.items()}
    finite = {metric: value for metric, value in values.items() if math.isfinite(value)}
    kind = f"tabular-{e.signature['task']}"
    result = {
        "task": {"type": kind},
        "dataset": {"type": e.signature["name"], "name": listed(list(data.source)), "split": "test"},
        "metrics": [{"type": name, "name": METRICS[name].label, "value": value} for name, value in finite.items()],
    }
    own = licence is not None and (licence.startswith("LicenseRef-") or " " in licence)
    named = {"license": "other", "license_name": licence, "license_link": "LICENSE"} if own else {"license": licence}
    return {
        **{key: text.lower() if key != "license_link" else text for key, text in named.items() if text},
        "library_name": "onnx",
        "pipeline_tag": kind,
        "tags": ["tabular", "onnx", e.names[e.kept].replace(" ", "-")],
        "metrics": list(finite),
        "model-index": [{"name": e.signature["name"], "results": [result]}],
    }


def _details(e: Evaluation, digest: str, licence: str | None) -> Part:
    signature, settings = e.signature, [f"{name}={value}" for name, value in e.model["parameters"].items()]
    given = f"a probability for each of {len(signature['classes'])} classes"
    candidate = f"{e.model['estimator']}({', '.join(settings)}), seed {e.model['seed']}"
    described = {
        "Predicts": f"“{signature['target']}”, {given if signature['classes'] else signature['unit'] or 'no unit'}",
        "Model": f"{e.names[e.kept]}; the candidate was {candidate}",
        "Version": signature["version"],
        "File": f"{MODEL}, one ONNX graph with its preprocessing and its signature; SHA-256 {digest}",
        "Made by": "the run whose record in runs/ holds this SHA-256; it names commit, data, settings and environment",
        "Owner": _stated(e.case["owner"], "config/case.yaml, owner"),
        "Licence": _stated(licence, "pyproject.toml, license"),
    }
    return Part("Model details", (_pairs(described),), e.sentence)


def _use(e: Evaluation) -> Part:
    costs, threshold = e.case["cost_of_errors"], e.case["threshold"]
    described = {
        "Decision": _stated(e.case["decision"], "config/case.yaml, decision"),
        "KPI": _stated(e.case["kpi"], "config/case.yaml, kpi"),
    }
    if threshold is not None:
        paid = f"a miss costs {costs['miss']:g}, a false alarm {costs['false_alarm']:g}" if costs else None
        described["Cost of errors"] = _stated(paid, "config/case.yaml, cost_of_errors")
        described["Answer"] = f"“{answers(e)[1]}” from a probability of {100 * threshold:.3g} %"
    described["Any other use"] = "not measured, so nothing in this card speaks for it"
    return Part("Intended use", (_pairs(described),))


def _data(e: Evaluation, data: Data) -> Part:
    asked = {name: source if isinstance(source, str) else source.database for name, source in data.source.items()}
    described = {"Sources": listed([f"{name} ({masked(source)})" for name, source in asked.items()])}
    for part, title in (("learn", "Learned from"), ("test", "Tested on")):
        described[title] = "; ".join(filter(None, (f"{e.rows[part]:,} rows", period(e, part), target(e, part))))
    described["Split"] = "the test rows are later than those learned from" if e.periods else "drawn at random"
    head = ("input", "meaning", "type", "unit", "allowed", "missing when learning", "and testing")
    lines = []
    for name, column in data.inputs.items():
        missing = [f"{100 * e.missing[name][part]:.1f} %" for part in ("learn", "test")]
        lines.append((name, column.means or "", column.type, column.unit or "", _allowed(column), *missing))
    silent = [name for name, column in data.inputs.items() if not column.means]
    note = f"Meaning not stated (config/data.yaml, means): {listed(silent)}." if silent else ""
    return Part("Training and evaluation data", (_pairs(described), _table(head, lines)), note=note)


def _quality(e: Evaluation) -> Part:
    lines, kept = [], list(e.names).index(e.kept) + 1
    for metric, measured in e.metrics.items():
        known = METRICS[metric]
        named = f"{label(e, metric)} ({known.means}; {'more' if known.higher else 'less'} is better)"
        lines.append((named, *(known.write(measured[role]) for role in e.names)))
    table = _table(("metric", *e.names.values()), lines, kept)
    said, gains = "", METRICS[e.model["metric"]].gains
    if e.kept in e.lesson:
        later, random = (gains.write(e.lesson[e.kept][split], e.signature["unit"]) for split in ("later", "random"))
        said = f"Its gain in {label(e)} over guessing is {later} on later rows; a split at random shows {random}."
    note = f"On the {e.rows['test']:,} test rows; in brackets the 95 % interval. Kept is the {e.names[e.kept]}."
    return Part("Metrics", (table,), said, note)


def _groups(e: Evaluation, data: Data) -> Part:
    if not e.slices:
        why = "too few test rows in each" if data.slices else "not stated: config/data.yaml, slices"
        return Part("Groups", (), f"No group of rows was measured ({why}).")
    known, overall = METRICS[e.model["metric"]], e.metrics[e.model["metric"]][e.kept]
    worst = sorted(e.slices, key=lambda part: part.measured.value, reverse=not known.higher)[:GROUPS]
    shown = [("all test rows", overall, e.rows["test"], "model")]
    shown += [(f"{p.column} {p.value}", p.measured, p.rows, "worse" if p.worse else "plain") for p in worst]
    rows = [Row(name, one, known.write(one), f"{count:,} rows", look) for name, one, count, look in shown]
    behind = sum(part.worse for part in e.slices)
    clearly = f"{behind} clearly worse than the whole" if behind else "none clearly worse than the whole"
    said = f"{len(e.slices)} groups of {listed(data.slices)} were measured, {clearly}; the worst {len(worst)}:"
    left = [f"{count} of {column}" for column, count in e.unmeasured.items() if count]
    note = f"Values with too few test rows to be measured: {listed(left)}." if left else ""
    lines = [(row.label, row.text, row.note, "yes" if row.look == "worse" else "") for row in rows]
    table = _table(("group", label(e), "rows", "clearly worse"), lines)
    return Part("Groups", (Block(table.markdown, plots.interval_rows(rows, overall.value)),), said, note)


def _calibration(e: Evaluation) -> Part:
    kind, unit = METRICS["accuracy" if e.confusion else "mae"], e.signature["unit"]
    what, happened = f"predicted {e.signature['target']}", f"mean actual {e.signature['target']}"
    if e.confusion:
        two = len(e.confusion) == 2
        what = f"probability of {answers(e)[1]}" if two else "probability of the answer"
        happened = f"share that is {answers(e)[1]}" if two else "share of right answers"
    lines = []
    for part in e.calibration:
        spread = Interval(part.predicted, part.observed.low, part.observed.high)
        predicted, observed = kind.write(spread, unit, span=False), kind.write(part.observed, unit)
        lines.append((predicted, observed, f"{part.rows:,}"))
    drawn = plots.calibration(e.calibration, what, happened, percent=bool(e.confusion))
    table = _table((what, f"{happened} (95 % interval)", "rows"), lines)
    said = "Test rows of similar prediction, and what happened to them."
    if e.errors is not None:
        half, most = (rounded(e, size) for size in (e.errors.half_within, e.errors.nine_tenths_within))
        said += f" Half of the errors are within ± {half}, nine in ten within ± {most}."
    return Part("Calibration", (Block(table.markdown, drawn),), said)


def _ethics(e: Evaluation, data: Data) -> Part:
    sensitive = [name for name, column in data.columns.items() if column.sensitive]
    risk = None if e.case["risk_class"] == "not classified" else e.case["risk_class"]
    described = {
        "Risk class": _stated(risk, "config/case.yaml, risk_class"),
        "Columns about people": listed(sensitive) or "none is marked (config/data.yaml, sensitive)",
    }
    if sensitive:
        described["Of them, seen by the model"] = listed([c for c in sensitive if c in data.inputs]) or "none"
        unmeasured = [name for name in sensitive if name not in data.slices]
        described["Quality not compared by"] = listed(unmeasured) or "each is compared under Groups"
    return Part("Ethical considerations", (_pairs(described),))


def _limits(e: Evaluation, data: Data) -> list[str]:
    bounded = [name for name, column in data.inputs.items() if _allowed(column)]
    text = [name for name, column in data.inputs.items() if column.type == "text"]
    needed = [name for name, column in data.inputs.items() if not column.nulls]
    unlearned = [name for name in data.inputs if name not in needed and e.missing[name]["learn"] == 0]
    said = {
        f"Scoring refuses a row without a value for {listed(needed)}.": needed,
        f"A missing value is allowed in {listed(unlearned)}, but none was among the rows learned from.": unlearned,
        "Training refuses values that are not allowed (see the table); scoring answers, but unmeasured.": bounded,
        f"Values of {listed(text)} that are not among the rows learned from were not measured apart.": text,
        f"It was tested on {period(e, 'test')}; nothing is known of other times.": e.periods,
    }
    return [sentence for sentence, holds in said.items() if holds]


def _commands(e: Evaluation) -> Part:
    lines = "make predict INPUT=rows.csv OUTPUT=predictions.csv\nmake serve   # POST /invocations; its page is at /docs"
    shown = Block(f"```bash\n{lines}\n```", f"<pre>{escape(lines)}</pre>")
    names = listed([column["name"] for column in e.signature["inputs"]])
    return Part("How to use it", (shown,), f"A row has the columns {names}; types and units stand above.")


def _allowed(column: Column) -> str:
    if column.values is not None:
        many = len(column.values) > LISTED
        return f"{len(column.values)} values" if many else ", ".join(str(value) for value in column.values)
    low, high = (f"{bound:g}" if isinstance(bound, float) else bound for bound in (column.min, column.max))
    if low is None or high is None:
        return f"from {low}" if low is not None else f"up to {high}" if high is not None else ""
    return f"{low} to {high}"


def _stated(answer: str | None, where: str) -> str:
    return answer if answer and answer.strip() else f"not stated: {where}"


def _pairs(described: Mapping[str, str]) -> Block:
    lines = [f"- **{name}:** {_plain(text)}" for name, text in described.items()]
    terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in described.items())
    return Block("\n".join(lines), f"<dl>{terms}</dl>")


def _bullets(sentences: Iterable[str]) -> Block:
    shown = [(f"- {_plain(line)}", f"<li>{escape(line)}</li>") for line in sentences]
    return Block("\n".join(line for line, _ in shown), f"<ul>{''.join(item for _, item in shown)}</ul>")


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], kept: int = 0) -> Block:
    """Set a table; the column `kept` (from 1 on) is the one that the card is about."""
    rows = [[_plain(cell) for cell in line] for line in (head, *lines)]
    rows.insert(1, ["---"] * len(head))
    cells = [
        f'<th scope="row">{escape(first)}</th>'
        + "".join(f"<td{KEPT if place == kept else ''}>{escape(cell)}</td>" for place, cell in enumerate(rest, 1))
        for first, *rest in lines
    ]
    look = "facts numbers" if kept else "facts"
    return Block("\n".join(f"| {' | '.join(row)} |" for row in rows), plots.table(look, head, cells))


def _plain(text: str) -> str:
    """Write text so that Markdown shows it as it is, in one line."""
    return MARK.sub(lambda sign: "\\" + sign.group(), " ".join(text.split()))


def _markdown(e: Evaluation, data: Data, licence: str | None, parts: Iterable[Part]) -> str:
    pieces = [f"# {_plain(_title(e))}", _plain(headline(e))]
    for part in parts:
        pieces += [f"## {part.title}", _plain(part.said), *(block.markdown for block in part.blocks), _plain(part.note)]
    head = yaml.safe_dump(facts(e, data, licence), sort_keys=False, allow_unicode=True, width=math.inf)
    return f"---\n{head}---\n\n" + "\n\n".join(filter(None, pieces)) + "\n"


def _html(e: Evaluation, parts: Iterable[Part]) -> str:
    top = f'<header><p class="eyebrow">{escape(_title(e))}</p><h1>{escape(headline(e))}</h1></header>'
    sections = (plots.section(p.title, p.said, "".join(block.html for block in p.blocks), p.note) for p in parts)
    return plots.document(_title(e), (top, *sections))


def _title(e: Evaluation) -> str:
    return f"Model card: {e.signature['name']} {e.signature['version']}"
