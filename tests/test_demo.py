"""The demo ends at a step that fails, with its output; `make demo` itself is the proof that all steps pass."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import demo
import pytest
from conftest import copied_tree, must


def test_a_failing_step_ends_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = [sys.executable, "-c", "print('what went wrong'); raise SystemExit(3)"]
    steps = {
        "first": lambda: "fine",
        "second": lambda: demo.run(broken, tmp_path),
        "third": lambda: pytest.fail("went on"),
    }
    monkeypatch.setattr(demo, "STEPS", steps)
    monkeypatch.setattr(demo, "CLOSED", {})
    assert demo.main() == 1
    said = capsys.readouterr().out
    assert "[1/3] first" in said
    assert "second  failed" in said
    assert "what went wrong" in said
    assert "ended with 3" in said


def test_a_service_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Makefile").write_text("serve:\n\t@echo no model yet; exit 1\n")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "unseen.csv").write_text("a,b\n1,\n")
    monkeypatch.setattr(demo, "DEMO", tmp_path)
    with pytest.raises(demo.StepError, match="no model yet"):
        demo.Loop().serve()


def test_the_outcome_of_the_training_is_told() -> None:
    said = "training the baselines\nThe random forest is kept: its ROC AUC is 0.679.\nwrote models/model.onnx\n\n"
    assert demo.sentence(said) == "The random forest is kept: its ROC AUC is 0.679."
    assert demo.sentence("evaluate: The ridge is kept.\nrun 1 is version 1") == "The ridge is kept."
    assert demo.sentence("all 12 trials are done; no gain\nwrote reports/tuning.json").startswith("all 12 trials")
    assert demo.sentence("no such line\nwrote models/model.onnx\n") == "wrote models/model.onnx"


SAID = "1000 rows sent, 1000 answered, at last by version 3; ROC AUC {} (0.1 to 0.9)"


@pytest.mark.parametrize(("after", "share"), [(0.8, "100%"), (0.79, "97%"), (0.76, "")])
def test_the_demo_wants_the_loss_made_good(monkeypatch: pytest.MonkeyPatch, after: float, share: str) -> None:
    figures = iter([0.8, 0.5, after])

    def make(verb: str, *_: str) -> str:
        return f"sending\n{SAID.format(next(figures))}\n" if verb == "simulate" else "  quiet  quality\n"

    monkeypatch.setattr(demo, "make", make)
    loop = demo.Loop()
    assert "no alarm" in loop.quiet()
    loop.change()
    if share:
        assert f"{share} of the loss is made good" in loop.recovered()
        return
    with pytest.raises(demo.StepError, match="at least 90% was wanted"):
        loop.recovered()


def test_the_demo_ends_at_an_alarm_where_nothing_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    says = {"simulate": SAID.format(0.8), "monitor": "prod:\n  alarm     data drift: temp is higher\n"}
    monkeypatch.setattr(demo, "make", lambda verb, *_: says[verb])
    with pytest.raises(demo.StepError, match="temp is higher"):
        demo.Loop().quiet()


@pytest.mark.parametrize("fails", [True, False])
def test_a_request_that_fails_meanwhile_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    def answer(address: str, rows: list[dict[str, str]]) -> tuple[dict[str, list[bool]], str]:
        if fails:
            raise OSError(f"{address} hung up")
        return {"predictions": [True for _ in rows]}, "id"

    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "unseen.csv").write_text("a,b\n1,\n")
    for name, value in (("DEMO", tmp_path), ("PAUSE", 0.01), ("send", answer)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "make", lambda *_: "a release\nthe retraining because of quality is over: deployed\n")
    if not fails:
        assert "0 failed" in demo.Loop(address="here").repair()
        return
    with pytest.raises(demo.StepError, match="here hung up"):
        demo.Loop(address="here").repair()


@pytest.mark.parametrize("present", [True, False])
def test_uv_is_used_where_it_is_and_fetched_where_it_is_not(tmp_path: Path, present: bool) -> None:
    clone, folder = copied_tree(tmp_path / "my clone"), tmp_path / "my programs"
    folder.mkdir()
    for name in ("git", "make", "python3", "sh", *(["uv"] if present else [])):
        (folder / name).symlink_to(shutil.which(name) or "")
    said = must([folder / "make", "--dry-run", "demo"], clone, PATH=str(folder))
    assert f'"{folder}/uv" run --no-sync python scripts/demo.py' in said or not present
    assert ("pip install --quiet uv" in said) != present
