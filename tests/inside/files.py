"""Safe writing, and what the command says where the system refuses. Run by `test_inside.py`, as `release.py` is."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest
from flight_delays.ops.__main__ import (
    app,
    main,
)
from flight_delays.ops.config import (
    UnfinishedError,
)
from flight_delays.ops.contract import (
    ProjectError,
)
from flight_delays.ops.files import (
    PART,
    atomic,
    scratch,
    swept,
)

WRITER = """
import sys, time
from pathlib import Path
from flight_delays.ops import files
with files.{}(Path({!r})) as path:
    (path / "part" if path.is_dir() else path).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(kind: str, path: Path) -> subprocess.Popen[str]:
    """A process in the middle of writing."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(kind, str(path))], text=True, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def write(kind: str, path: Path) -> None:
    opened: AbstractContextManager[Path] = atomic(path) if kind == "atomic" else scratch(path)
    with opened as temporary:
        (temporary / "part" if temporary.is_dir() else temporary).write_text("whole")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["atomic", "scratch"])
def test_the_next_writer_clears_up_after_a_killed_one(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "rows.csv" if kind == "atomic" else tmp_path
    others = [".rows.csv.12.part", ".rows.csv.backup.part.csv", "rows.csv.999999999.x.part"]
    for name in others:
        (tmp_path / name).touch()
    with writer(kind, target) as process:
        process.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == len(others) + 1
    write(kind, target)
    assert set(names(tmp_path)) - set(others) == ({"rows.csv"} if kind == "atomic" else set())
    assert set(others) <= set(names(tmp_path))


@pytest.mark.parametrize("kind", ["atomic", "scratch"])
def test_a_live_writer_keeps_its_files(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "rows.csv" if kind == "atomic" else tmp_path
    with writer(kind, target) as process:
        before = names(tmp_path)
        write(kind, target)
        assert set(before) <= set(names(tmp_path))
        process.kill()


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'é' * 120}.csv"
    write("atomic", target)
    assert names(tmp_path) == [target.name]


def full(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def unreadable(_: Path) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "config/other.yaml")


@pytest.mark.parametrize(
    ("happens", "error", "told"),
    [(full, UnfinishedError, r"rows\.csv: cannot be written \(No space"), (unreadable, PermissionError, "other.yaml")],
)
def test_the_refused_file_is_named(happens: object, error: type[Exception], told: str, tmp_path: Path) -> None:
    assert callable(happens)
    with pytest.raises(error, match=told), atomic(tmp_path / "rows.csv") as temporary:
        happens(temporary)
    assert names(tmp_path) == []


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A verb of the command that raises what the list holds."""
    raised: list[BaseException] = []

    def fail() -> None:
        raise raised[0]

    with ExitStack() as undo:
        undo.callback(app.registered_commands.__setitem__, slice(None), [*app.registered_commands])
        app.command("fail")(fail)
        monkeypatch.setattr(sys, "argv", ["ops", "fail"])
        yield raised


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ProjectError("a sentence"), 1, "error: a sentence\n"),
        (PermissionError(13, "Permission denied", "data/x.csv"), 1, "error: data/x.csv: Permission denied\n"),
        (IsADirectoryError(21, "Is a directory", Path("models")), 1, "error: models: Is a directory\n"),
        (OSError(28, "No space left on device"), 75, "error: No space left on device\n"),
        (OSError("a driver's words"), 1, "error: a driver's words\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
    ],
)
def test_what_the_system_refuses_ends_in_one_sentence(
    command: list[BaseException], error: BaseException, code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.append(error)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err.strip()) == (code, told.strip())


def test_our_own_bugs_are_shown_whole(command: list[BaseException]) -> None:
    command.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        main()


def test_ctrl_c_while_the_libraries_load_is_quiet(tmp_path: Path) -> None:
    # stands for a library that is being loaded when Ctrl-C comes
    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    command = [sys.executable, "-m", "flight_delays.ops", "train"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=heard,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(sys.platform != "linux", reason="zombies are told apart on Linux")
def test_what_a_killed_process_left_is_removed_before_anybody_looked_after_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        left = tmp_path / f".page.txt.{process.pid}.abc{PART}.txt"
        left.write_text("half of it")
        swept(tmp_path / "page.txt")
        assert left.exists(), "its process lives"
        process.kill()
        while b") Z " not in Path(f"/proc/{process.pid}/stat").read_bytes():
            time.sleep(0.01)
        swept(tmp_path / "page.txt")
        assert not left.exists()
