"""The day of the time capsule moves only when everything works with the newest versions; what broke is named."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import freshen
import pytest
from conftest import ROOT, commit, must
from freshen import Change, FailureError

OLD, BETWEEN, NEW = "2026-01-01", "2026-02-01", "2026-03-01"
RELEASES = {
    "planted": {"1.0": ("2025-12-01", ""), "2.0": ("2026-02-15", "raise RuntimeError('planted fault')\n")},
    "innocent": {"1.0": ("2025-12-01", ""), "1.1": ("2026-01-15", "")},
    "quiet": {"1.0": ("2025-12-01", ""), "1.1": ("2026-02-15", "")},
}
"""What the index has: the day of each release, and what its module does."""


class Index(SimpleHTTPRequestHandler):
    """A package index that tells when a file was uploaded, as uv wants to know."""

    def guess_type(self, path: object) -> str:
        """Return what a page or a wheel is."""
        return "application/octet-stream" if str(path).endswith(".whl") else "application/vnd.pypi.simple.v1+json"

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve an index of three little packages, and return its address."""
    folder = tmp_path_factory.mktemp("index")
    for name, releases in RELEASES.items():
        (folder / "simple" / name).mkdir(parents=True)
        files = []
        for version, (day, code) in releases.items():
            wheel = folder / f"{name}-{version}-py3-none-any.whl"
            info = f"{name}-{version}.dist-info"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(f"{name}.py", code)
                archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
                archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
                archive.writestr(f"{info}/RECORD", "")
            url = f"../../{wheel.name}"
            files.append({"filename": wheel.name, "url": url, "hashes": {}, "upload-time": f"{day}T00:00:00Z"})
        page = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
        (folder / "simple" / name / "index.html").write_text(json.dumps(page))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Index, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the path of a uv: this machine's, this repository's, or one that is fetched as `make setup` does."""
    known = shutil.which("uv") or (ROOT / ".uv/bin/uv")
    if Path(known).exists():
        return str(known)
    folder = tmp_path_factory.mktemp("uv")
    must([sys.executable, "-m", "venv", folder], ROOT)
    must([folder / "bin/python", "-m", "pip", "install", "--quiet", "uv"], ROOT)
    return str(folder / "bin/uv")


@pytest.fixture
def root(tmp_path: Path, index: str) -> Path:
    """Return a template repository whose projects import three packages and do nothing else."""
    folder = tmp_path / "root"
    (folder / "template").mkdir(parents=True)
    (folder / "copier.yml").write_text("_subdirectory: template\n_templates_suffix: .jinja\n")
    (folder / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n\n- One.\n\n## 0.1\n\n- First.\n")
    (folder / freshen.CAPSULE).write_text(
        "[project]\nname = 'mini'\nversion = '1'\nrequires-python = '>=3.11'\n"
        f"dependencies = {list(RELEASES)}\n\n[tool.uv]\npackage = false\nindex-url = '{index}'\n"
        f'exclude-newer = "{OLD}T00:00:00Z" # the day on which these ranges were tested\n'
    )
    imports = "; ".join(f"import {name}" for name in RELEASES)
    (folder / "template/Makefile").write_text(
        f'setup:\n\tuv lock --quiet && uv sync --quiet\ncheck:\n\t.venv/bin/python -c "{imports}"\ntrain:\n\t@true\n'
    )
    commit(folder)
    return folder


def test_package_that_breaks_is_named_and_the_day_stays(root: Path, tmp_path: Path, uv: str) -> None:
    before = {path: path.read_text() for path in (root / freshen.CAPSULE, root / "CHANGELOG.md")}
    with pytest.raises(FailureError, match=r"^planted 2\.0 \(was 1\.0\) breaks make check:\n(?s:.*)planted fault"):
        freshen.freshened(root, tmp_path / "work", NEW, uv)
    assert {path: path.read_text() for path in before} == before


def test_day_moves_when_everything_works(root: Path, tmp_path: Path, uv: str) -> None:
    said = freshen.freshened(root, tmp_path / "work", BETWEEN, uv)
    assert said == f"The time capsule moves from {OLD} to {BETWEEN}: 1 package is newer, and everything works."
    assert f'exclude-newer = "{BETWEEN}T00:00:00Z" # the day' in (root / freshen.CAPSULE).read_text()
    assert (root / "CHANGELOG.md").read_text() == (
        f"# Changelog\n\n## Unreleased\n\n- One.\n- Versions as of {BETWEEN} (were as of {OLD}): "
        "innocent 1.1 (was 1.0).\n\n## 0.1\n\n- First.\n"
    )
    assert "stays" in freshen.freshened(root, tmp_path / "work", BETWEEN, uv)


def test_fault_that_is_no_package(root: Path, tmp_path: Path, uv: str) -> None:
    makefile = root / "template/Makefile"
    makefile.write_text(makefile.read_text().replace("@true", "@echo own fault; false"))
    with pytest.raises(FailureError, match="fails with the former versions too, so no package is to blame:\nown fault"):
        freshen.freshened(root, tmp_path / "work", BETWEEN, uv)


@pytest.mark.parametrize("bad", range(9))
def test_culprit_is_found_by_halves(bad: int) -> None:
    found = [Change(f"p{number}", "1", "2") for number in range(9)]
    tried: list[int] = []

    def breaks(kept: Sequence[Change]) -> bool:
        tried.append(len(kept))
        return found[bad] not in kept

    assert freshen.culprit(found, breaks) == found[bad]
    assert len(tried) <= 4


def test_kept_versions_stand_beside_the_day() -> None:
    text = (ROOT / freshen.CAPSULE).read_text(encoding="utf-8")
    moved = freshen.moved(text, NEW, [Change("a", "1.0", "2.0"), Change("new", "", "1.0")])
    assert freshen.day_of(moved) == NEW
    assert (
        f'{NEW}T00:00:00Z" # the day on which these ranges were tested\nconstraint-dependencies = ["a<=1.0"]\n' in moved
    )
    assert freshen.moved(moved, freshen.day_of(text)).replace('constraint-dependencies = ["a<=1.0"]\n', "") == text


def test_newest_of_several_versions_counts(tmp_path: Path) -> None:
    entries = [("numpy", "2.10.0", "registry"), ("numpy", "2.9.1", "registry"), ("mini", "1", "virtual")]
    text = "".join(f"[[package]]\nname = '{n}'\nversion = '{v}'\nsource = {{ {s} = '.' }}\n" for n, v, s in entries)
    (tmp_path / "uv.lock").write_text(text)
    assert freshen.versions(tmp_path / "uv.lock") == {"numpy": "2.10.0"}


def test_workflow_of_this_repository(tmp_path: Path) -> None:
    workflow = ROOT / ".github/workflows/freshen.yml"
    must(["actionlint", workflow], tmp_path)
    must(["zizmor", "--offline", "--pedantic", "--no-progress", workflow], tmp_path)
