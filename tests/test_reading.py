"""A project whose files are written in another way learns the very same, and scores and serves files of that way."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from urllib.request import Request

import ask
import pytest
from conftest import commit, make, must, share_environment, well

pytestmark = pytest.mark.life

TO_OTHER_DIALECT = """
from pathlib import Path
import pyarrow as pa, pyarrow.compute as pc, pyarrow.csv, pyarrow.parquet as pq
for name in ("flights", "weather"):
    table = pq.read_table(f"data/{name}.parquet")
    made = {}
    for column in table.column_names:
        values = table[column]
        if pa.types.is_floating(values.type):
            values = pc.replace_substring(values.cast(pa.string()), ".", ",")
        elif pa.types.is_timestamp(values.type):
            form = "%d/%m/%Y %H:%M" if column == "scheduled" else "%Y-%m-%d %H:%M:%S"
            values = pc.strftime(values.cast(pa.timestamp("s")), form)
        made[column] = values
    pyarrow.csv.write_csv(pa.table(made), f"data/{name}.csv", pyarrow.csv.WriteOptions(delimiter=";"))
    text = Path(f"data/{name}.csv").read_text(encoding="utf-8").replace(";;", ";NA;")
    Path(f"data/{name}.csv").write_text(text, encoding="utf-16")
"""


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def predictions(said: str) -> str:
    found = re.search(r"predictions ([0-9a-f]{12})", said)
    assert found, said
    return found[1]


def test_another_dialect_gives_the_same_model(home: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(home, project, ignore=shutil.ignore_patterns(".venv", ".git", "raw"), symlinks=True)
    share_environment(home, project)
    commit(project, "Start the project")
    usual = well(make(project, "train"))
    must([project / ".venv/bin/python", "-c", TO_OTHER_DIALECT], project)
    dialect = "csv: {separator: ';', decimal: ',', encoding: utf-16, missing: [NA]}\nsource:"
    other = ("flights.parquet", "flights.csv"), ("weather.parquet", "weather.csv"), ("\nsource:", f"\n{dialect}")
    edit(project / "config/data.yaml", *other, ("{type: time,", "{type: time, format: '%d/%m/%Y %H:%M',"))
    assert predictions(well(make(project, "train"))) == predictions(usual)
    unseen = (project / "outputs/unseen.csv").read_text(encoding="utf-16")
    assert re.search(r';"\d\d/\d\d/2013 \d\d:\d\d";.*;"\d+,\d+";', unseen)
    well(make(project, "predict", "INPUT=outputs/unseen.csv", "OUTPUT=outputs/scored.csv"))
    with (project / "outputs/scored.csv").open(encoding="utf-8", newline="") as file:
        scored = [row["prediction"] for row in csv.DictReader(file)][:5]
    body = "\n".join(unseen.splitlines()[:6]).encode("utf-16")
    with ask.service(project) as address:
        request = Request(f"{address}/invocations", body, {"Content-Type": "text/csv"})
        with ask.direct.open(request, timeout=30) as reply:
            answers = json.load(reply)
    assert [str(answer).lower() for answer in answers["predictions"]] == scored
