"""A run folder while its run is under way: what a kill leaves, what a signal saves, what a second command is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fallline as fl
from fallline import run_folder
from fallline.errors import InvalidValue, RunExists, RunUnfinished
from fallline.history import History
from fallline.plan import Plan
from fallline.runs import live as living
from fallline.training import train

pytest.importorskip("typer")

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.where(X[:, 0] > 0, "up", "down")
FIT = """
import sys
from fallline.cli import main
main(sys.argv[1:])
"""


def small(steps_of: int = 3) -> tuple[Any, Plan]:
    problem = fl.logistic(X, Y)
    return problem, Plan(problem, epochs=steps_of, batch_size=10, optimizer=fl.SGD(lr=0.1))


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [e for e in run_folder.lines(folder / "history.jsonl") if e["kind"] == "evaluation"]


def whole_page(path: Path) -> bool:
    """Whether an HTML file has all its ends."""
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "hr", "img", "line", "circle", "path", "rect"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            while open_tags and open_tags.pop() != tag:
                pass

    text = path.read_text()
    Reader().feed(text)
    return not open_tags and text.rstrip().endswith("</html>")


@contextmanager
def long_fit(out: Path) -> Iterator[subprocess.Popen[str]]:
    """`fallline fit` in a process of its own, caught after some evaluations; it would take hours."""
    words = [sys.executable, "-c", FIT, "fit", "diabetes", "--lr", "0.01", "--epochs", "10000000", "--out", str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while len(evaluations(out)) < 3 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        if len(evaluations(out)) < 3:
            process.kill()
            pytest.fail(f"no evaluation was written down: {process.communicate()[1]}")
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_kill_leaves_the_plan_the_history_and_a_page_that_opens(tmp_path: Path):
    out = tmp_path / "a"
    with long_fit(out) as process:
        with pytest.raises(RunUnfinished, match="under way"):
            fl.load(out)
        with pytest.raises(RunExists, match="under way"):
            living.LiveFolder.claim(out, replace=True)
        process.kill()
        process.wait()
    plan = Plan.from_json(json.loads((out / "plan.json").read_text()))
    seen = evaluations(out)
    assert plan.steps > 1e6 and [e["epoch"] for e in seen] == list(range(1, len(seen) + 1)) and "valid_loss" in seen[-1]
    assert whole_page(out / "report.html") and "diabetes: predicting" in (out / "report.html").read_text()
    assert json.loads((out / "run.json").read_text())["status"] == "running"
    with pytest.raises(RunUnfinished, match=r"its process is gone; last evaluated after step .* valid loss") as left:
        fl.load(out)
    assert left.value.step == seen[-1]["step"] and left.value.evaluation["valid_loss"] == seen[-1]["valid_loss"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_run_so_far_and_a_second_command_is_told(number: int, code: int, tmp_path: Path):
    out = tmp_path / "a"
    with long_fit(out) as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code and f"are in {out}" in err and "Traceback" not in err
    run = fl.load(out)
    assert run.outcome.name == "Interrupted" and len(run.history.loss) == run.history.steps > 0
    assert np.isfinite(run.weights["coef"]).all() and len(run.predict("diabetes")) == 442
    assert whole_page(out / "report.html") and "did not come to its end (Interrupted)" in run.summary["notes"][0]
    again = subprocess.run(
        [sys.executable, "-c", FIT, "fit", "diabetes", "--lr", "0.01", "--epochs", "10000000", "--out", str(out)], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 8 and "Interrupted" in again.stderr and "--overwrite" in again.stderr


def test_an_unfinished_folder_has_its_exit_code_and_overwrite_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from fallline.cli import main

    problem, plan = small()
    left = living.LiveFolder.claim(tmp_path / "d")
    left.open(plan, problem, History())
    left.close()  # as a kill would
    for words, code in ((["--resume"], 6), ([], 8), (["--overwrite"], 0)):
        try:
            main(["fit", "diabetes", "--epochs", "2", "--out", str(tmp_path / "d"), *words])
            ended = 0
        except SystemExit as stopped:
            ended = int(stopped.code or 0)
        assert ended == code, capsys.readouterr()
    assert fl.load(tmp_path / "d").outcome.name == "Finished" and os.listdir(tmp_path) == ["d"]


def test_every_line_is_on_disk_when_it_is_known_and_the_page_is_whole_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(living, "PAGE_EVERY", 0.0)
    problem, plan = small(5)
    out, pages = tmp_path / "a", []

    def look(entry: dict[str, Any]) -> None:
        seen = evaluations(out)
        assert seen[-1]["step"] == entry["step"] and len(seen) == len(pages) + 1
        assert json.loads((out / "run.json").read_text())["status"] == "running" and not (out / "manifest.json").exists()
        assert whole_page(out / "report.html")
        pages.append((out / "report.html").read_text())

    live = living.LiveFolder.claim(out, report=True)
    run = train(problem, plan, valid=(X, Y), save=live, log=look, progress=False)
    assert not (out / "manifest.json").exists()  # who opened it finishes it
    live.finish(run)
    assert len(pages) == 5 and "18 of 30 updates (60%)" in pages[2] and "valid loss" in pages[2]
    assert not any(wrong in pages[2] for wrong in ("No step was made", "kept no rows aside", "No learning-rate range test"))
    assert json.loads((out / "run.json").read_text())["status"] == "Finished" and whole_page(out / "report.html")
    assert fl.load(out).history.evaluations == run.history.evaluations
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


def test_the_live_history_is_the_final_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, list[dict[str, Any]]] = {}
    complete = run_folder.complete

    def looked(folder: Path, documents: Any, tensors: Any) -> None:
        seen["live"] = list(run_folder.lines(folder / "history.jsonl"))
        complete(folder, documents, tensors)

    monkeypatch.setattr(run_folder, "complete", looked)
    fl.fit("breast-cancer", epochs=2, save=tmp_path / "a", progress=False)
    final = list(run_folder.lines(tmp_path / "a" / "history.jsonl"))
    for kind in ("decision", "evaluation"):
        assert [e for e in seen["live"] if e["kind"] == kind] == [e for e in final if e["kind"] == kind] != []


def test_two_runs_cannot_share_a_folder(tmp_path: Path):
    problem, plan = small()
    one, two = (living.LiveFolder.claim(tmp_path / "a") for _ in range(2))
    one.open(plan, problem, History())
    with pytest.raises(RunExists, match="under way"):
        two.open(plan, problem, History())
    one.close()
    with pytest.raises(RunExists, match="holds a run already"):
        two.open(plan, problem, History())


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "history.jsonl").write_text('{"kind": "evaluation", "step": 7, "valid_loss": 0.5}\n{"kind": "evalu')
    with pytest.raises(RunUnfinished, match="after step 7") as found:
        fl.load(tmp_path)
    assert found.value.step == 7


def test_a_full_disk_at_the_end_leaves_an_unfinished_folder_not_half_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    problem, plan = small()
    put = run_folder.put

    def full(folder: Path, name: str, data: bytes, **how: bool) -> None:
        if name == "run.json" and b"Finished" in data:
            raise OSError(28, "No space left on device")
        put(folder, name, data, **how)

    monkeypatch.setattr(run_folder, "put", full)
    with pytest.raises(OSError, match="No space left"):
        train(problem, plan, save=tmp_path / "a", progress=False)
    with pytest.raises(RunUnfinished):
        fl.load(tmp_path / "a")


def test_what_was_found_comes_back_and_draws(tmp_path: Path):
    run = fl.fit("breast-cancer", epochs=2, save=tmp_path / "a", progress=False)
    back = fl.load(tmp_path / "a").found
    assert (back.rate, back.interval, back.verdict, back.cost, back.edge) == (run.found.rate, run.found.interval, run.found.verdict, run.found.cost, run.found.edge)
    for part in ("lr", "loss", "smooth"):
        assert getattr(back.curve, part).tobytes() == getattr(run.found.curve, part).tobytes()
    pytest.importorskip("vl_convert")
    assert "<svg" in back.plot().svg()


def test_fit_measures_held_out_data_of_any_problem(tmp_path: Path):
    problem = fl.logistic(X[:40], Y[:40])
    run = fl.fit(problem, epochs=3, valid=(X[40:], Y[40:]), save=tmp_path / "a", progress=False)
    assert run.best is not None and "valid_log_loss" in run.history.evaluations[-1]
    assert run.found is not None and (tmp_path / "a" / "report.html").exists()
    with pytest.raises(InvalidValue, match="TableOptions"):
        fl.fit(X, Y, valid=(X, Y), progress=False)
    with pytest.raises(InvalidValue, match="needs a problem with data"):
        fl.fit(fl.rosenbrock(), valid=(X, Y), optimizer=fl.SGD(lr=1e-3), progress=False)
