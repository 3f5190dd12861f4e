"""What a level asks of the team, and the first command to run there; what it adds is told by the template itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

ASKS = {
    0: "one person who reads the notebook and owns config/case.yaml",
    1: "a review of every change, a green `make check`, and a look at config/contract.yaml when inputs change",
    2: "commits of dvc.lock, data/raw.dvc and runs/ after a training, and a person who decides what is promoted",
    3: "limits and approvals in config/policy.yaml, a signing key kept out of git, and a person who can roll back",
    4: "an owner of the alerts and of config/monitor.yaml, truth that is fed back, and a person who may freeze",
}
"""By level, what people have to do that no machine does."""
FIRST = {0: "make train", 1: "make check", 2: "make pipeline", 3: "make ship", 4: "make monitor ENV=prod"}
"""By level, the command that shows what is new, once `make setup` has run."""


def told(question: Mapping[str, Any], levels: Iterable[int]) -> list[str]:
    """Return what each level adds (the question's labels say it) and what it asks of the team."""
    labels = {level: label for label, level in question["choices"].items()}
    lines = []
    for level in levels:
        name = re.sub(r"^\d+\s+", "", labels[level])
        asks = f" It asks of the team {ASKS[level]}." if level in ASKS else ""
        lines.append(f"Level {level}, {name}.{asks}")
    return lines
