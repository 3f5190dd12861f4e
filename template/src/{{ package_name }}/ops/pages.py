"""A page of settings as a person writes it: YAML in which a key stands once, and mistakes told in plain sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ValidationError

from .contract import ProjectError

SHOWN = 60
"""Characters of a wrong value that a sentence repeats."""
LINES = "`key: value` lines"
WANTED = {
    "bool": "true or false",
    "dataclass": LINES,
    "date": "a day such as 2013-01-31",
    "datetime": "a time such as 2013-01-31T17:45:00",
    "dict": LINES,
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "list[float]": "a list of numbers",
    "list[str]": "a list of words",
    "model": LINES,
    "str": "text",
    "string": "text",
}
"""What is wanted, by the beginning of Pydantic's name of the mistake, or by its name of one of several kinds."""
BOUNDS = {"ge": "at least", "le": "at most", "gt": "more than", "lt": "less than"}
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
Place: TypeAlias = tuple[str | int, ...]


class Loader(yaml.SafeLoader):
    """Plain YAML keeps the last of two equal keys and says nothing; here they are refused."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Read the keys and values of one mapping."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise ProjectError(f"line {line}: '{key.value}' is given already in line {lines[name]}; keep one")
            lines[name] = line
        return node


def read(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises ProjectError naming the file, and the line where it is not YAML or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ProjectError(f"{path}: not found; run the command in the project's folder") from None
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise ProjectError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        return Loader(text).get_single_data()
    except ProjectError as error:
        raise ProjectError(f"{path}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}" if mark else f"{path}"
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise ProjectError(f"{where}: not valid YAML: {reason}") from None
    except (yaml.YAMLError, ValueError) as error:  # such as a day that no calendar has
        raise ProjectError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def laid_out(page: Mapping[str, Any], comments: str = "") -> str:
    """Write a page as the bundled ones look: comments, then a line a key, and below `columns` a line a column."""
    lines = [line for line in comments.splitlines() if line.startswith("#")]
    for key, value in page.items():
        if key in ("columns", "source"):
            lines += [f"{key}:", *(f"  {_flow({name: inner})}" for name, inner in value.items())]
        else:
            lines.append(_flow({key: value}))
    return "\n".join(lines) + "\n"


def _flow(pair: dict[str, Any]) -> str:
    """Write `name: value` in one line, so that it reads as the very same."""
    form: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": float("inf")}
    text: str = yaml.safe_dump(pair, default_flow_style=True, **form).strip().removeprefix("{").removesuffix("}")
    if not text.startswith("? "):
        return text
    name, inner = next(iter(pair.items()))
    quoted: str = yaml.safe_dump(name, default_style='"', **form).strip()  # it is long, or has several lines
    return quoted + _flow({"_": inner})[1:]


def beyond(end: float, farther: float) -> int | float:
    """Return a round limit that lies farther out than the end of a range; numbers of one sign keep it."""
    limit = end + farther
    if min(end, limit) <= 0 <= max(end, limit):
        return 0
    step = 10.0 ** (math.floor(math.log10(abs(limit))) - 1)
    rounded = (math.ceil if farther > 0 else math.floor)(limit / step) * step
    return int(rounded) if rounded == int(rounded) else float(f"{rounded:.3g}")


def hint(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that offers the closest known name, or nothing."""
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def mistakes(path: Path, kind: type[BaseModel], content: Any, error: ValidationError) -> str:
    """Return one line for each place of the page that is wrong: file, key, what is wanted, and the value."""
    lines: list[str] = []
    choices: dict[Place, list[Any]] = {}
    for mistake in error.errors():
        loc = mistake["loc"]
        place = _place(loc, content)
        rest = loc[len(place) :]
        if rest in ((), ("[key]",)) or (len(rest) == 1 and mistake["type"] == "missing"):
            lines.append(_sentence(kind, mistake, loc))
        else:  # one of several kinds that a value may be of; the first part of the rest names it
            choices.setdefault(place, []).append(mistake)
    for place, refusals in choices.items():
        lines += _no_choice(kind, refusals, place)
    return "\n  ".join(f"{path}, {line}" for line in lines)


def _place(loc: Place, content: Any) -> Place:
    """Return the part of a location that the page itself has."""
    for position, part in enumerate(loc):
        inside = part in content if isinstance(content, dict) else isinstance(content, list) and isinstance(part, int)
        if not inside:
            return loc[:position]
        content = content[part]
    return loc


def _no_choice(kind: type[BaseModel], refusals: list[Any], place: Place) -> list[str]:
    depth = len(place)
    inner = [mistake for mistake in refusals if len(mistake["loc"]) > depth + 1]
    if len({mistake["loc"][depth] for mistake in inner}) == 1 and isinstance(inner[0]["loc"][-1], str):
        return [_sentence(kind, mistake, place + mistake["loc"][depth + 1 :]) for mistake in inner]
    wanted = " or ".join(dict.fromkeys(_wanted(kind, mistake, str(mistake["loc"][depth])) for mistake in refusals))
    outer = [mistake for mistake in refusals if mistake not in inner]
    return [f"{_dotted(place)}: should be {wanted}{_given(outer[0]['input']) if outer else ''}"]


def _wanted(kind: type[BaseModel], mistake: Any, choice: str) -> str:
    fields = dict(_models(kind)).get(choice)
    if fields:
        return "`{" + ", ".join(f"{name}: ..." for name in fields) + "}`"
    return WANTED.get(choice) or WANTED.get(mistake["type"].partition("_")[0]) or choice


def _sentence(kind: type[BaseModel], mistake: Any, loc: Place) -> str:
    what, given, context = mistake["type"], mistake["input"], mistake.get("ctx", {})
    if loc[-1:] == ("[key]",) and not isinstance(given, str):
        return f"{_dotted(loc[:-2])}: {_plain(given)} is no text, and a name should be; put it in quotes"
    where = _dotted(tuple(part for part in loc if part != "[key]"))
    if what in UNKNOWN or loc[-1:] == ("[key]",):
        known = list(kind.model_fields) if len(loc) == 1 else [n for _, names in _models(kind) for n in names]
        return f"{where}: unknown key{hint(str(given if '[key]' in loc else loc[-1]), _allowed(context) or known)}"
    if what == "missing":
        return f"{where}: missing"
    if what == "literal_error":
        return f"{where}: should be {context['expected']}{_given(given)}{hint(str(given), _allowed(context))}"
    bound = next((f"should be {BOUNDS[key]} {context[key]}" for key in BOUNDS if key in context), None)
    wanted = WANTED.get(what.partition("_")[0])
    reason = bound or (f"should be {wanted}" if wanted else mistake["msg"])
    reason = "should not be empty" if what == "too_short" else reason.removeprefix("Value error, ")
    return f"{where}: {reason}{_given(given)}" if where else reason


def _models(kind: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield name and fields of every page of settings inside another one."""
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    for inner in (part for field in fields.values() for part in _parts(getattr(field, "annotation", None))):
        names = getattr(inner, "model_fields", None) or getattr(inner, "__dataclass_fields__", None)
        if names and isinstance(inner, type):
            yield inner.__name__, list(names)
            yield from _models(inner)


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _allowed(context: dict[str, Any]) -> list[str]:
    return re.findall("'([^']+)'", str(context.get("expected", "")))


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _given(value: Any) -> str:
    return "" if isinstance(value, dict) else f" ({_plain(value)} is given)"


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
