"""How a team's repositories stand, as one page without a script or an address, and as cells for a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from .standing import Row

COLUMNS = ("repository", "version", "behind", "level", "proved", "last update", "drift", "open branch", "to look at")
STYLE = """
:root { color-scheme: light dark; --line: #d8dde3; --soft: #5b6672; --bad: #b3261e; --warn: #8a5a00; --good: #1a6b3c }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a424b; --soft: #a3adb8; --bad: #ff8a80; --warn: #f0b95b; --good: #7ed3a0 }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } p { color: var(--soft); margin: .3rem 0 1.2rem }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .92rem }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem; border-bottom: 1px solid var(--line) }
th { white-space: nowrap; font-weight: 600 } td.number { text-align: right; font-variant-numeric: tabular-nums }
.bad { color: var(--bad) } .warn { color: var(--warn) } .good { color: var(--good) } td small { color: var(--soft) }
td.tight { white-space: nowrap }
"""


def cells(row: Row) -> tuple[str, ...]:
    """Return a row's cells in the order of COLUMNS; what is not known is a hyphen."""
    return (
        row.name,
        row.version or "-",
        row.late or "-",
        _number(row.level),
        _number(row.proved),
        datetime.fromtimestamp(row.updated, UTC).strftime("%Y-%m-%d") if row.updated else "-",
        "-" if row.drift is None else f"{row.drift} file{'' if row.drift == 1 else 's'}" if row.drift else "none",
        ", ".join(row.branches) or "-",
        "; ".join(filter(None, (row.problem, *row.deviations))) or "-",
    )


def summary(rows: Sequence[Row]) -> str:
    """Say in one sentence how many repositories need what."""
    known = [row for row in rows if row.version]
    late = sum(row.late not in ("", "up to date", "ahead") for row in known)
    parts = [
        f"{len(rows)} repositor{'y' if len(rows) == 1 else 'ies'}",
        f"{sum(row.late == 'up to date' for row in known)} up to date",
        f"{late} behind",
        f"{sum(bool(row.branches) for row in known)} with an open branch",
    ]
    drifting = sum(bool(row.drift) for row in known)
    deviating, broken = sum(bool(row.deviations) for row in known), sum(bool(row.problem) for row in rows)
    parts += [f"{drifting} with changed files of the template"] if drifting else []
    parts += [f"{deviating} not as the team agreed"] if deviating else []
    parts += [f"{broken} with a problem"] if broken else []
    return ", ".join(parts)


def page(rows: Sequence[Row], now: datetime) -> str:
    """Return the page, which needs nothing but itself."""
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    body = "\n".join(_line(row) for row in rows)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The team's repositories</title>
<style>{STYLE}</style>
</head>
<body>
<h1>The team's repositories</h1>
<p>{escape(summary(rows))}. As of {now:%Y-%m-%d %H:%M} UTC.</p>
<div class="wide"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table></div>
<p><small>Behind: releases, or commits where none was released, between the project's version of the template and the
newest. Level: what the project declares; proved: the highest level of which its history holds a proof. Drift: files of
the template that the project changed or removed. A hyphen: not known, or nothing.</small></p>
</body>
</html>
"""


def _line(row: Row) -> str:
    name, version, behind, level, proved, when, drift, branch, problem = map(escape, cells(row))
    late = "good" if row.late == "up to date" else "warn" if row.late else ""
    told = "bad" if row.problem else "warn" if row.deviations else ""
    place = f"<td>{name}<br><small>{escape(row.folder)}</small></td>"
    distance = f'<td>{version}</td><td class="tight {late}">{behind}</td>'
    numbers = "".join(f'<td class="number">{value}</td>' for value in (level, proved))
    changed = f'<td>{when}</td><td class="{"warn" if row.drift else ""}">{drift}</td>'
    return (
        f'<tr>{place}{distance}{numbers}{changed}<td class="tight">{branch}</td><td class="{told}">{problem}</td></tr>'
    )


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)
