"""Random work in random projects, then a random climb or update: every line that a user wrote is there afterwards.

It is in the result, in the user's half of a conflict, or the plan names its path and leaves the file alone. A line is
known by a word that stands nowhere else.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import git
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tiny import ANSWERS, State, project_of, state, tiny

from mlops_ladder.plan import CURRENT, RefusedError, applied, branched, planned

LEVELS = (0, 1, 2)
PATHS = [
    "list.txt",
    "core/a.py",
    "core/b.py",
    "core/deep/c d.txt",
    "empty.txt",
    "gone.py",
    "logo.bin",
    "mine.py",
    "old_name.py",
    "tool.sh",
    "windows.bat",
    "config/one.yaml",
    "ops/one/a.py",
    "ops/one/b.py",
    "ops/two.py",
    "README.md",
    ".gitignore",
    "local.env",
]
"""Files of the template, of which a project has those of its level."""
PLACES = [
    "fresh.py",
    "new_name.py",
    "core/new/n.py",
    "core/new",
    "config/one.yaml",
    "ops/one",
    "ops/two.py",
    "fresh.py/inside.txt",
    "own/ünï code.txt",
    "build.log",
    "ignored/x",
    "local.env",
    "core/a.py/below",
]
"""Where a user adds something; most are paths that a later version or a higher level wants for itself."""


@dataclass
class Work:
    """What a user does to a project, and what must be found of it."""

    project: Path
    words: set[str] = field(default_factory=set)
    """Each stands in one line that the user wrote."""

    def word(self) -> str:
        """Return a word that the user has not written yet."""
        word = f"mine-{len(self.words):03d}-x"
        self.words.add(word)
        return word

    def free(self, name: str) -> Path | None:
        """Return a path that nothing is at, its folder made; None where something is in the way."""
        path = self.project / name
        if path.is_symlink() or path.exists() or any(up.is_symlink() or up.is_file() for up in path.parents):
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _insert(work: Work, path: Path, at: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines.insert(at % (len(lines) + 1), f"{work.word()}\n".encode())
    path.write_bytes(b"".join(lines))


def _replace(work: Work, path: Path, at: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True) or [b""]
    lines[at % len(lines)] = f"{work.word()}\n".encode()
    path.write_bytes(b"".join(lines))


def _cut(_: Work, path: Path, at: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if lines:
        del lines[at % len(lines)]
    path.write_bytes(b"".join(lines))


def _rewrite(work: Work, path: Path, _: int) -> None:
    path.write_text(f"{work.word()}\n{work.word()}")


def _binary(work: Work, path: Path, _: int) -> None:
    path.write_bytes(b"\0\xff" + work.word().encode() + b"\0")


def _windows(work: Work, path: Path, _: int) -> None:
    content = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    path.write_bytes(content + f"{work.word()}\r\n".encode())


def _mode(_: Work, path: Path, __: int) -> None:
    path.chmod(path.stat().st_mode ^ 0o111)


def _link(work: Work, path: Path, _: int) -> None:
    path.unlink()
    path.symlink_to(work.word())


def _delete(_: Work, path: Path, __: int) -> None:
    path.unlink()


def _rename(work: Work, path: Path, at: int) -> None:
    target = work.free(PLACES[at % len(PLACES)])
    if target is not None:
        path.rename(target)


def _folder(work: Work, path: Path, _: int) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside.txt").write_text(f"{work.word()}\n")


def _delete_folder(_: Work, path: Path, __: int) -> None:
    if path.parent.name in {"one", "deep", "config"}:
        shutil.rmtree(path.parent)


EDITS: list[Callable[[Work, Path, int], None]] = [
    _insert,
    _insert,
    _replace,
    _replace,
    _cut,
    _rewrite,
    _binary,
    _windows,
    _mode,
    _link,
    _delete,
    _rename,
    _folder,
    _delete_folder,
]
edits = st.lists(st.tuples(st.sampled_from(EDITS), st.sampled_from(PATHS), st.integers(0, 40)), min_size=0, max_size=8)
additions = st.lists(st.sampled_from(PLACES), max_size=3, unique=True)
moves = st.lists(st.tuples(st.sampled_from(LEVELS), st.sampled_from([None, CURRENT])), min_size=1, max_size=2)


@pytest.fixture(scope="module")
def births(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Path]:
    """Committed projects of each level and version."""
    folder = tmp_path_factory.mktemp("property")
    template = tiny(folder / "template")
    return {
        (level, version): project_of(template, folder / f"{level}-{version}", version, maturity_level=level)
        for level in LEVELS
        for version in ("v1", "v2")
    }


def lived(
    births: dict[tuple[int, str], Path],
    start: tuple[int, str],
    done: list[tuple[Callable[[Work, Path, int], None], str, int]],
    added: list[str],
    unknown: list[str],
    way: list[tuple[int, str | None]],
) -> None:
    """Live one life: a birth, the user's work, and one or two climbs or updates."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(shutil.copytree(births[start], Path(folder, "project"), symlinks=True))
        work = Work(project)
        for do, name, at in done:
            path = project / name
            if path.is_file() and not path.is_symlink() and ANSWERS not in name:
                do(work, path, at)
        for name in added:
            place = work.free(name)
            if place is not None:
                place.write_text(f"{work.word()}\n")
        git(project, "add", "--all")
        git(project, "commit", "--quiet", "--allow-empty", "--message", "Work")
        for name in unknown:
            place = work.free(name)
            if place is not None:
                place.write_text(f"{work.word()}\n")
        deleted = set(git(project, "show", "--diff-filter=D", "--no-renames", "--name-only", "--format=").splitlines())
        for level, version in way:
            step(project, work, level, version, deleted)
            deleted = set()


def step(project: Path, work: Work, level: int, version: str | None, deleted: set[str]) -> None:
    """Climb or update, by force in the end, and look for every word and for what was deleted."""
    before = state(project)
    written = work.words - missing(work.words, before)
    plan = planned(project, to=version, answers={"maturity_level": level})
    named = {change.path for change in plan.of("lost", "conflict")}
    if not plan.clean:
        with pytest.raises(RefusedError, match="Nothing was changed"):
            applied(plan)
        with pytest.raises(RefusedError):
            branched(plan, "update")
    assert state(project) == before, "a plan changes nothing"
    if not plan.of("lost"):
        quiet = {path: facts for path, facts in before.items() if path not in {c.path for c in plan.changes}}
    else:
        quiet = {}
    applied(plan, conflicts=True, keep=True)
    after = state(project)
    assert missing(written, after) == set()
    assert {path: after.get(path) for path in quiet} == quiet
    assert {path for path in deleted if path in after and path not in before} <= named
    unmerged = set(filter(None, git(project, "diff", "--name-only", "--diff-filter=U", "-z").split("\0")))
    assert unmerged == {change.path for change in plan.of("conflict")}
    for path, (kind, content) in before.items():
        if kind == "link" or (b"\0" in content and b"mine-" in content):
            now, held = after[path]
            assert held == content, "what cannot be merged stays as it is"
            assert (now == "link") == (kind == "link"), "only the right to execute may come from the template"
    for change in plan.of("lost"):
        assert after.get(change.path) == before.get(change.path)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--allow-empty", "--message", "Update")


def missing(words: set[str], found: State) -> set[str]:
    """Return the words that are in no file and in no link's target."""
    everything = b"\n".join(content for _, content in found.values())
    return {word for word in words if word.encode() not in everything}


LIFE = {
    "start": st.tuples(st.sampled_from(LEVELS), st.sampled_from(["v1", "v1", "v2"])),
    "done": edits,
    "added": additions,
    "unknown": additions,
    "way": moves,
}
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=200, deadline=None, phases=PHASES, suppress_health_check=CHECKS)
@given(**LIFE)
def test_every_line_of_the_user_is_there(births: dict[tuple[int, str], Path], **life: object) -> None:
    lived(births, **life)  # type: ignore[arg-type]


@pytest.mark.thorough
@settings(max_examples=1000, deadline=None, phases=PHASES, suppress_health_check=CHECKS)
@given(**LIFE)
def test_every_line_of_the_user_is_there_in_a_thousand_lives(
    births: dict[tuple[int, str], Path], **life: object
) -> None:
    lived(births, **life)  # type: ignore[arg-type]


def test_a_lost_line_is_noticed(births: dict[tuple[int, str], Path], tmp_path: Path) -> None:
    """The proof can fail: Copier, in place of the plan, loses a word in such a life."""
    import copier

    project = Path(shutil.copytree(births[0, "v1"], tmp_path / "project", symlinks=True))
    work = Work(project)
    _insert(work, project / "old_name.py", 5)
    git(project, "commit", "--quiet", "--all", "--message", "Work")
    copier.run_update(project, defaults=True, overwrite=True, quiet=True)
    assert missing(work.words, state(project)) == work.words
