"""What people and programs read about the service: the schemas of its messages, and one page that needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from shlex import quote
from string import Template
from typing import Any

from ..config import Kind
from ..release.contract import Contract, Promised

TYPES: dict[Kind, dict[str, str]] = {
    "number": {"type": "number"},
    "integer": {"type": "integer"},
    "text": {"type": "string"},
    "boolean": {"type": "boolean"},
    "time": {"type": "string"},
}
_SENTENCE = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
DETAIL = {"application/json": {"schema": _SENTENCE}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The body is not JSON, or not CSV", "content": DETAIL},
    413: {"description": "The body is too large", "content": DETAIL},
    415: {"description": "Another Content-Type than JSON or CSV", "content": DETAIL},
    422: {"description": "A value does not fit; the sentence names row and column", "content": DETAIL},
}


def example(contract: Contract) -> dict[str, Any]:
    """Return a request of one row that works."""
    return {"dataframe_records": [contract.example]}


def request_body(contract: Contract) -> dict[str, Any]:
    """Return the OpenAPI description of a request: the contract's columns in each of the forms, and as CSV."""
    row = object_of(**{name: _column(column) for name, column in contract.inputs.items()})
    names, values = {"type": "array", "items": {"type": "string"}}, {"type": "array", "items": {}}
    rows, tables = {"type": "array", "items": row, "minItems": 1}, {"type": "array", "items": values, "minItems": 1}
    columns = object_of(**dict.fromkeys(contract.inputs, values))
    split = object_of(columns=names, data=tables)
    forms = {
        "dataframe_records": rows,
        "dataframe_split": split,
        "instances": {"anyOf": [rows, tables]},
        "inputs": {"anyOf": [columns, rows, tables]},
    }
    one_of = [object_of(**{key: form}) for key, form in forms.items()]
    return {
        "required": True,
        "content": {
            "application/json": {"schema": {"oneOf": one_of}, "example": example(contract)},
            "text/csv": {"schema": {"type": "string", "description": "The first line names the columns"}},
        },
    }


def response_schema(contract: Contract) -> dict[str, Any]:
    """Return the OpenAPI schema of an answer."""
    output = contract.output
    answer: dict[str, Any] = {**TYPES[output.type], "description": _words(output.target, output.unit)}
    if not output.classes:
        return object_of(predictions={"type": "array", "items": answer})
    chances = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
    answer["enum"] = output.classes
    return object_of(predictions={"type": "array", "items": answer}, probabilities={"type": "array", "items": chances})


def page(contract: Contract, version: str, openapi: Mapping[str, Any]) -> str:
    """Return the page at `/docs` as HTML: the contract, every route, and a request to copy or to send from the page."""
    body = json.dumps(example(contract), ensure_ascii=False)
    curl = f"curl http://localhost:8080/invocations -H 'Content-Type: application/json' -d {quote(body)}"
    inputs = [
        (name, c.type, c.unit, "yes" if c.nulls else "no", _plain(c.example), c.means)
        for name, c in contract.inputs.items()
    ]
    routes = [
        (method.upper(), path, operation["summary"])
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    output = contract.output
    classes = ", ".join(map(_plain, output.classes))
    shown = json.dumps(example(contract), ensure_ascii=False, indent=2)
    return _PAGE.substitute(
        name=escape(contract.name),
        version=escape(version),
        decision=escape(contract.decision),
        owner=escape(contract.owner),
        inputs=_rows(inputs),
        output=_rows([(output.target, output.type, output.unit, classes)]),
        routes=_rows(routes),
        curl=escape(curl),
        example=escape(shown),
        lines=shown.count("\n") + 2,
    )


def _column(column: Promised) -> dict[str, Any]:
    described: dict[str, Any] = {**TYPES[column.type], "description": _words(column.means, column.unit)}
    if column.nulls:
        described["type"] = [described["type"], "null"]
    return described if column.example is None else {**described, "example": column.example}


def _words(means: str | None, unit: str | None) -> str:
    return ", in ".join(part for part in (means, unit) if part)


def object_of(**properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def _rows(cells: Sequence[Sequence[str | None]]) -> str:
    return "\n".join("<tr>" + "".join(f"<td>{escape(cell or '')}</td>" for cell in row) + "</tr>" for row in cells)


_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name $version</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#d8dee6, #3a424d); --soft: light-dark(#f4f6f9, #1c2128); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { margin: 0; font-size: 1.9rem; } h1 small, .soft { color: GrayText; font-weight: normal; }
h2 { margin: 2.2rem 0 .6rem; font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--line); }
td:first-child, code, pre, textarea { font-family: ui-monospace, monospace; }
pre, textarea { box-sizing: border-box; width: 100%; margin: 0; padding: .8rem; font-size: .85rem;
  background: var(--soft); border: 1px solid var(--line); border-radius: .5rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
button { margin: .6rem 0; padding: .4rem 1rem; font: inherit; cursor: pointer;
  color: white; background: #1a5fb4; border: 0; border-radius: .4rem; }
a { color: light-dark(#1a5fb4, #78aeed); }
</style>
<h1>$name <small>$version</small></h1>
<p>$decision<br>
<span class="soft">Owner: $owner. For programs: <a href="openapi.json">openapi.json</a></span></p>
<h2>What a request carries</h2>
<div class="wide"><table><thead><tr><th>column<th>type<th>unit<th>may be empty<th>example<th>meaning</tr></thead><tbody>
$inputs
</tbody></table></div>
<h2>What the answer says</h2>
<div class="wide"><table><thead><tr><th>target<th>type<th>unit<th>classes</tr></thead><tbody>
$output
</tbody></table></div>
<h2>Try it</h2>
<textarea id="body" rows="$lines" spellcheck="false" aria-label="body of the request">$example</textarea>
<button id="send">Send</button>
<pre id="answer" aria-live="polite">The answer appears here.</pre>
<h2>The same from a terminal</h2>
<pre id="curl">$curl</pre>
<button id="copy">Copy</button>
<p class="soft">Rows may also come as dataframe_split, instances or inputs, or as CSV with Content-Type: text/csv.
Columns that are not in the table are ignored.</p>
<h2>Routes</h2>
<table><tbody>
$routes
</tbody></table>
<script>
const at = name => document.getElementById(name);
const here = new URL("invocations", location.href).href;
at("curl").textContent = at("curl").textContent.replace("http://localhost:8080/invocations", here);
at("send").onclick = async () => {
  at("answer").textContent = "...";
  try {
    const sent = {method: "POST", headers: {"Content-Type": "application/json"}, body: at("body").value};
    const answer = await fetch(here, sent);
    at("answer").textContent = answer.status + "\\n" + JSON.stringify(await answer.json(), null, 2);
  } catch (error) { at("answer").textContent = "No answer: " + error.message; }
};
at("copy").onclick = () => { getSelection().selectAllChildren(at("curl")); document.execCommand("copy"); };
</script>
</html>
""")
