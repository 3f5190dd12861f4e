"""The console's own pages, in one language each: forms that need no script, and what each of them would change."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from ..evaluate.plots import STYLE, table
from ..log.truth import word
from ..register.events import who
from ..release.bundle import Bundle
from ..release.contract import Promised
from .drawn import LANGUAGES, OWN, Words
from .happened import Happening, Step, name_of

NUMBER = 'type="number" step="any"'
KINDS = {"number": NUMBER, "integer": NUMBER, "text": 'type="text"', "time": 'type="datetime-local" step="1"'}
INPUT = "input-"
"""What the names of the fields of a case begin with, so that no column is taken for something else."""
FORMS = """
.desk { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; margin: 0; font-size: .95rem; }
.desk a { padding: .35rem 0; }
.desk a[aria-current] { color: inherit; font-weight: 650; text-decoration-thickness: 2px; }
.desk a[hreflang] { margin-left: auto; }
form { margin: 0; } section h2 { margin-top: 0; }
.fields { display: grid; gap: 1rem 1.4rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.field label, legend { display: block; font-weight: 650; overflow-wrap: anywhere; }
.field small { min-height: 1.35em; }
input, select, button, textarea { font: inherit; color: inherit; }
.field input, .field select { width: 100%; min-height: 2.6rem; padding: .3rem .6rem; background: var(--page);
  border: 1px solid var(--soft); border-radius: 8px; }
fieldset.who { border: 0; padding: 0; margin: 1.2rem 0 0; } .who label { display: block; padding: .25rem 0; }
.row { display: grid; gap: 1rem; max-width: 30rem; margin-bottom: 1.2rem; }
.acts { display: flex; flex-wrap: wrap; gap: .7rem 1rem; align-items: center; margin: 1.1rem 0 0; }
button, .button { min-height: 2.75rem; padding: .5rem 1.2rem; border-radius: 8px; border: 1px solid var(--model);
  background: var(--model); color: var(--card); font-weight: 650; cursor: pointer; text-decoration: none; }
button.other, .button { background: transparent; color: var(--model); }
:focus-visible { outline: 3px solid var(--model); outline-offset: 2px; }
.answer { border-left: 6px solid var(--model); padding: .2rem 0 .2rem 1rem; margin: 1.2rem 0 1.6rem; }
.answer b { font-size: 1.3rem; } .answer .facts { max-width: 26rem; }
.choose { list-style: none; padding: 0; } .choose > li { border-top: 1px solid var(--line); padding: .9rem 0; }
.choose p { margin: 0 0 .6rem; } .choose form { display: inline-block; margin: .2rem .9rem .2rem 0; }
"""


@dataclass(frozen=True)
class Answer:
    """What the model said to a case."""

    target: str
    said: str
    chances: Mapping[str, float] = field(default_factory=dict)
    """Probability of each class, if there are classes."""
    key: str = ""
    """Its id in the prediction log; empty where nothing was logged."""


@dataclass(frozen=True)
class View:
    """What the page of trying and deciding shows."""

    environment: str
    bundle: Bundle | None
    """What answers; None where nothing does."""
    address: str
    """Of the running service."""
    body_mb: float
    waiting: Sequence[Happening]
    before: int | None
    """The version that a rollback leads to, if there is one."""
    frozen: Mapping[str, Any] | None
    given: Mapping[str, str]
    """What was filled in last."""
    answer: Answer | None = None
    wrong: str = ""
    """Why there is no answer, as HTML."""


def told(words: Words, *keys: str | int, **facts: Any) -> str:
    """Return words of the console as HTML."""
    return coded(escape(words("console", *keys, **facts)))


def coded(text: str) -> str:
    """Return HTML in which commands, written between backticks, look so."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def linked(words: Words, current: str) -> str:
    """Return the links to the console's two pages, on one of them."""
    places = {"status": f"/reports/status.html?lang={words.language}", "console": f"/console?lang={words.language}"}
    shown = ""
    for name, link in places.items():
        mark = ' aria-current="page"' if name == current else ""
        shown += f'<a href="{link}"{mark}>{told(words, "nav", name)}</a>'
    if current != "status":  # the status page holds both languages
        other = next(name for name in LANGUAGES if name != words.language)
        shown += f'<a href="/console?lang={other}" lang="{other}" hreflang="{other}">{Words(other)("name")}</a>'
    return f'<nav class="desk" aria-label="{told(words, "nav", "label")}">{shown}</nav>'


def with_links(page: str, words: Sequence[Words]) -> str:
    """Return the status page with the links of the console in each language."""
    page = page.replace("</style>", f"{FORMS}</style>", 1)
    for one in words:
        start = f'<main lang="{one.language}">'
        page = page.replace(start, f"{start}\n{linked(one, 'status')}", 1)
    return page


def frame(words: Words, name: str, title: str, content: str, current: str = "") -> str:
    """Return a whole page."""
    return (
        f'<!doctype html>\n<html lang="{words.language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title} · {escape(name)}</title>\n<style>{STYLE}{OWN}{FORMS}</style>\n</head>\n<body>\n<main>\n"
        f'{linked(words, current)}\n<header><p class="eyebrow">{escape(name)}</p><h1>{title}</h1></header>\n'
        f"{content}\n</main>\n</body>\n</html>\n"
    )


def desk(words: Words, name: str, view: View) -> str:
    """Return the page on which cases are tried and decisions begin."""
    bundle, of = view.bundle, {"environment": words("environments", view.environment)}
    lead = told(words, "lead", version=bundle.manifest.version, **of) if bundle else told(words, "nothing", **of)
    parts = [] if bundle is None else [_case(words, view, bundle), _file(words, view)]
    parts += [_truth(words, view), _decisions(words, view)]
    return frame(words, name, told(words, "title"), f"<p>{lead}</p>" + "\n".join(parts), "console")


def confirm(words: Words, name: str, step: Step, given: Mapping[str, str], wrong: str = "") -> str:
    """Return the page that shows what an action leads to, and asks for reason and token."""
    of, places = _about(words, step), range(len(words.words["console"]["consequences"][step.action]))
    lines = "".join(f"<li>{told(words, 'consequences', step.action, one, **of)}</li>" for one in places)
    reason = f'<input value="{escape(given.get("why", ""))}" required>'
    form = (
        f'<form method="post" action="/do">{_hidden(lang=words.language, action=step.action, **step.fields)}'
        f'<div class="row">{_field("why", told(words, "why"), reason, told(words, "why_note"))}{_token(words)}</div>'
        f'<p class="note">{told(words, "by", who=name_of(who()))}</p>'
        f'<p class="acts"><button>{told(words, "yes", step.action, **of)}</button></p>{_back(words, "no")}</form>'
    )
    content = f"{alert(words, wrong)}<section><h2>{told(words, 'consequence')}</h2><ul>{lines}</ul></section>"
    content += f"<section><h2>{told(words, 'sure')}</h2>{form}</section>"
    return frame(words, name, told(words, "ask", step.action, **of), content)


def outcome(words: Words, name: str, step: Step, said: Sequence[str]) -> str:
    """Return the page that says what was done; what the commands said is in English."""
    lines = "".join(f'<p class="note" lang="en">{escape(line)}</p>' for line in said)
    noted = told(words, "noted", "ledger" if step.action in ("approve", "refuse", "rollback") else "events")
    content = f"<p>{told(words, 'done', step.action, **_about(words, step))}</p><p>{noted}</p>{lines}"
    return frame(words, name, told(words, "over"), f'<section role="status">{content}{_back(words, "back")}</section>')


def mistaken(words: Words, name: str, wrong: str) -> str:
    """Return the page that says why something was not done."""
    return frame(words, name, told(words, "failed"), f"{alert(words, wrong)}{_back(words, 'back')}")


def alert(words: Words, wrong: str) -> str:
    """Return why something was not done, which is HTML, framed so that a screen reader says it at once."""
    return f'<p class="banner" role="alert"><b>▲ {told(words, "failed")}.</b> {coded(wrong)}</p>' if wrong else ""


def _about(words: Words, step: Step) -> dict[str, Any]:
    """Return what a step's words are filled with, as the language writes it."""
    about, where = dict(step.about), step.about.get("environment", "")
    if "moment" in about:
        about["moment"] = words.moment(about["moment"])
    return {**about, "env": where, "environment": words.name("environments", where)}


def _back(words: Words, name: str) -> str:
    return f'<p class="acts"><a class="button" href="/console?lang={words.language}">{told(words, name)}</a></p>'


def _case(words: Words, view: View, bundle: Bundle) -> str:
    fields = "".join(_value(view, words, column, promised) for column, promised in bundle.contract.inputs.items())
    of = {"environment": words("environments", view.environment), "address": view.address}
    choices = "".join(
        f'<label><input type="radio" name="by" value="{one}"{" checked" * (one == view.given.get("by", "bundle"))}> '
        f"{told(words, 'try', one, **of)}</label>"
        for one in ("bundle", "service")
    )
    who = f'<fieldset class="who"><legend>{told(words, "try", "who")}</legend>{choices}</fieldset>'
    form = (
        f'<form method="post" action="/try#to-try">{_hidden(lang=words.language)}<div class="fields">{fields}</div>'
        f'{who}<div class="row">{_token(words, "")}</div>'
        f'<p class="acts"><button>{told(words, "try", "send")}</button></p></form>'
    )
    return _part(words, "try", (_answered(words, view.answer) if view.answer else alert(words, view.wrong)) + form)


def _answered(words: Words, answer: Answer) -> str:
    content = f"<b>{told(words, 'try', 'answered', target=answer.target, said=answer.said)}</b>"
    if answer.chances:
        lines = [
            f'<th scope="row">{escape(name)}</th><td>{words.figures(f"{100 * share:.1f} %")}</td>'
            for name, share in answer.chances.items()
        ]
        content += table("facts", [told(words, "try", "case"), told(words, "try", "chance")], lines)
    if answer.key:
        link = f"/console?lang={words.language}&amp;id={escape(answer.key)}#to-truth"
        later = f'<a href="{link}">{told(words, "try", "later")}</a>'
        content += f"<p>{told(words, 'try', 'key')} <code>{escape(answer.key)}</code>. {later}</p>"
    return f'<div class="answer" role="status">{content}</div>'


def _value(view: View, words: Words, column: str, promised: Promised) -> str:
    """Return the field of one column, filled with what was given or a typical value."""
    name, usual = f"{INPUT}{column}", "" if promised.example is None else word(promised.example)
    value, wanted = view.given.get(name, usual), "" if promised.nulls else " required"
    noted = [promised.means, promised.unit, words("console", "try", "empty") if promised.nulls else None]
    note = escape(", ".join(part for part in noted if part))
    if promised.type == "boolean":
        names = {key: told(words, "try", key) for key in ("true", "false")}
        return _field(name, escape(column), _select({"": "-", **names}, value, wanted), note)
    return _field(name, escape(column), f'<input {KINDS[promised.type]} value="{escape(value)}"{wanted}>', note)


def _file(words: Words, view: View) -> str:
    file = '<input type="file" accept=".csv,text/csv" required>'
    form = (
        f'<form method="post" action="/score" enctype="multipart/form-data">{_hidden(lang=words.language)}'
        f'<div class="row">{_field("file", told(words, "score", "file"), file)}</div>'
        f'<p class="acts"><button>{told(words, "score", "send")}</button></p></form>'
    )
    return _part(words, "score", form, size=f"{view.body_mb:g}")


def _truth(words: Words, view: View) -> str:
    classes = view.bundle.contract.output.classes if view.bundle is not None else []
    options = {"": "-"} | {word(one): escape(word(one)) for one in classes}
    value = _select(options, "", "required") if classes else '<input autocomplete="off" required>'
    key = f'<input value="{escape(view.given.get("id", ""))}" required autocomplete="off">'
    form = (
        f'<form action="/confirm">{_hidden(lang=words.language, action="feedback")}<div class="row">'
        f"{_field('id', told(words, 'truth', 'id'), key, told(words, 'truth', 'id_note'))}"
        f"{_field('truth', told(words, 'truth', 'truth'), value)}</div>"
        f'<p class="acts"><button class="other">{told(words, "truth", "send")}</button></p></form>'
    )
    return _part(words, "truth", form)


def _decisions(words: Words, view: View) -> str:
    items = [] if view.waiting else [f"<p>{told(words, 'decide', 'nothing')}</p>"]
    for one in view.waiting:
        about = {"version": f"{one.about['version']}", "environment": f"{one.about['environment']}"}
        shown = {**one.about, **about, "environment": words("environments", about["environment"])}
        since = words("waiting", "since", moment=words.moment(one.time))
        buttons = [_begun(words, name, about, shown) for name in ("approve", "refuse")[one.kind == "approved" :]]
        items.append(f"<p>{told(words, 'decide', one.kind, **shown)} ({escape(since)})</p>{''.join(buttons)}")
    if view.before is not None:
        of = {"environment": words("environments", view.environment), "version": f"{view.before}"}
        items.append(_begun(words, "rollback", {}, of))
    if (frost := view.frozen) is None:
        items.append(_begun(words, "freeze", {}, {}))
    else:
        said = told(words, "decide", "frozen", who=name_of(frost["who"]), why=frost["why"])
        items.append(f"<p>❄ {said}</p>{_begun(words, 'thaw', {}, {})}")
    return _part(words, "decide", f'<ul class="choose"><li>{"</li><li>".join(items)}</li></ul>')


def _begun(words: Words, action: str, fields: Mapping[str, str], about: Mapping[str, Any]) -> str:
    """Return a button that leads to the consequence of an action; it changes nothing."""
    hidden = _hidden(lang=words.language, action=action, **fields)
    button = f'<button class="other">{told(words, "begin", action, **about)}</button>'
    return f'<form action="/confirm" class="acts">{hidden}{button}</form>'


def _part(words: Words, name: str, content: str, **facts: Any) -> str:
    lead = told(words, name, "said", **facts)
    return f'<section id="to-{name}"><h2>{told(words, name, "title")}</h2><p>{lead}</p>{content}</section>'


def _token(words: Words, wanted: str = " required") -> str:
    note = told(words, "token_note" if wanted else "token_if")
    return _field("token", told(words, "token"), f'<input type="password" autocomplete="off"{wanted}>', note)


def _field(name: str, label: str, control: str, note: str = "") -> str:
    """Return an input or a selection with its label; what is to be known of it is read out with it."""
    key, (tag, _, rest) = escape(name), control.partition(" ")
    about, below = (f' aria-describedby="{key}-note"', f'<small id="{key}-note">{note}</small>') if note else ("", "")
    shown = f'<label for="{key}">{label}</label>{tag} id="{key}" name="{key}"{about} {rest}{below}'
    return f'<div class="field">{shown}</div>'


def _select(options: Mapping[str, str], value: str, more: str = "") -> str:
    shown = "".join(
        f'<option value="{escape(key)}"{" selected" * (key == value)}>{text}</option>' for key, text in options.items()
    )
    return f"<select {more}>{shown}</select>"


def _hidden(**fields: str) -> str:
    return "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in fields.items())
