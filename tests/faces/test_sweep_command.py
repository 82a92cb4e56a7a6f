"""`fallline sweep` as a person meets it, and sweeps of modules."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fallline as fl

REQUEST = re.compile(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!["']?(?:#|data:))|@import|https?://(?!www\.w3\.org/)|<script""")
SHORT = ("sweep", "digits", "--epochs", 2, "--seeds", 2, "--lr", "1e-3..1:4")


def test_the_command(run) -> None:
    first = run(*SHORT, "--momentum", "0,0.9")
    assert first.code == 0 and first.out.count("finished") == 8
    assert re.search(r"^lr [\d.e-]+, momentum [\d.]+: valid loss [\d.]+ \+- [\d.e-]+ over 2 seeds", first.out, re.M)
    assert "16 full runs; together: one pass over a batch's rows for all runs" in first.out
    assert "edge of stability at momentum 0.9: measured not seen, predicted" in first.out
    page = Path("runs/sweep-digits/report.html").read_text()
    assert not REQUEST.search(page) and "The edge of stability" in page and "<svg" in page
    again = run(*SHORT, "--momentum", "0,0.9", "--out", "runs/sweep-digits")
    assert again.code == 0 and "all of them read from the folder" in again.out
    assert run(*SHORT, "--momentum", "0,0.9").code == 0 and Path("runs/sweep-digits-2").is_dir()
    other = run(*SHORT, "--out", "runs/sweep-digits")
    assert other.code == 6 and "holds another sweep (over, rungs differ): choose another folder, or remove it" in other.err


@pytest.mark.parametrize("words", [("compare", "--variants", "minibatch", "--seeds", 1, "--epochs", 1), ("sweep", "--lr", "0.01,0.1", "--seeds", 1, "--epochs", 1), ("find-batch-size", "--epochs", 1)])
def test_columns_are_told_alike_everywhere(run, words: tuple[object, ...]) -> None:
    rows = (f"s{i % 70},{'ab'[i % 2]},{'yes' if i % 7 < 3 else 'no'}" for i in range(300))
    Path("t.csv").write_text("\n".join(("site,side,click", *rows)) + "\n")
    done = run(words[0], "t.csv", "--target", "click", "--type", "site=hash:2^10", "--cross", "site,side", "--json", *words[1:])
    assert done.code == 0, done.err
    wrong = run(words[0], "t.csv", "--target", "click", "--cross", "site,sides", *words[1:])
    assert wrong.code == 3 and "did you mean 'side'?" in wrong.err


def test_what_a_kill_left_goes_on(run) -> None:
    assert run(*SHORT).code == 0
    lines = Path("runs/sweep-digits/runs.jsonl")
    whole = lines.read_text()
    lines.write_text(whole.splitlines(keepends=True)[0])
    half = run(*SHORT, "--out", "runs/sweep-digits")
    assert half.code == 8 and "holds this sweep, with 4 of its 8 runs: continue it with resume=True (--resume)" in half.err
    rest = run(*SHORT, "--resume", "--json")
    assert rest.code == 0 and lines.read_text() == whole
    told = json.loads(rest.out)
    assert told["folder"] == "runs/sweep-digits" and len(told["combinations"]) == 4 and told["best"]["values"].keys() == {"lr", "momentum"}


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from fallline.cli import main; main()", "sweep", "digits", "--lr", "1e-3..1:40", "--epochs", "50", "--seeds", "60", "--out", "s"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = tmp_path / "s" / "runs.jsonl"
        while process.poll() is None and not lines.exists():
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "fallline: interrupted; what was finished is in s: the same command with --out s --resume goes on" in err
    assert len(json.loads(lines.read_text().splitlines()[0])["runs"]) == 40


WORDS = [
    (("--lr", "auto"), 3, "fallline: --lr auto: 'auto' is not a number; expected numbers with commas between, or LOW..HIGH:COUNT, such as 1e-4..1:9"),
    (("--lr", "1e-4..1"), 3, "fallline: values '1e-4..1': expected LOW..HIGH:COUNT, such as 1e-4..1:9 (log scale), or 0.1..0.9:5:linear"),
    (("--batch-size", "0"), 3, "fallline: --batch-size 0: 0 is not a number of rows; expected whole numbers of at least 1, or full"),
    (("--batch-size", "5000"), 3, "fallline: a batch of 5000 rows was asked for, but the data have only 1438 rows; use a batch size of at most 1438, or Batches.full() for all rows"),
    (("--optimizer", "adamm"), 3, "fallline: no optimizer 'adamm'; did you mean 'adam'?"),
    (("--optimizer", "adam", "--momentum", "0.9"), 3, "fallline: no Adam hyperparameter 'momentum'; Adam hyperparameters: lr, "),
    (("--over", "nesterof=true"), 3, "fallline: no SGD hyperparameter 'nesterof'; did you mean 'nesterov'?"),
    (("--over", "nesterov"), 3, "fallline: --over nesterov: expected NAME=VALUES, such as --over nesterov=true,false"),
    (("--over", "lr=0.1"), 3, "fallline: --over lr=0.1: lr stands in another flag already; give it once"),
    (("--schedule", "cosin"), 3, "fallline: the combination lr=0.001, schedule='cosin', momentum=0.9 cannot stand: no schedule 'cosin'; did you mean 'cosine'?"),
    (("--budget", "0.5"), 3, "fallline: budget=0.5 full runs is too little for 4 combinations x 2 seeds: expected at least 2.13, or fewer values"),
    (("--momentun", "0.5"), 2, "fallline: No such option: --momentun"),
]


@pytest.mark.parametrize(("words", "code", "message"), WORDS)
def test_words(run, words, code, message) -> None:
    found = run(*SHORT, *words)
    assert found.code == code and found.err.startswith(message)
    assert not Path("runs").exists()


def test_optimizers_sizes_and_other_names(run) -> None:
    found = run("sweep", "diabetes", "--lr", "1e-3,1e-2", "--optimizer", "sgd,adamw", "--batch-size", "16,full", "--epochs", 2, "--seeds", 1, "--over", "weight-decay=0,1e-3", "--json")
    told = json.loads(found.out)
    assert found.code == 0 and len(told["combinations"]) == 16
    assert {line["optimizer"] for line in told["combinations"]} == {"SGD(lr=auto)", "AdamW(lr=auto)"}


# ---- modules


def module_problem():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    r = np.random.default_rng(0)
    X = r.standard_normal((160, 6)).astype(np.float32)
    y = (X[:, 0] > X[:, 1]).astype(np.int64)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return model, fl.torch.problem(model, torch.nn.CrossEntropyLoss(), (X[:120], y[:120])), (X[120:], y[120:])


def test_a_module_is_swept_and_left_as_it_was() -> None:
    model, problem, valid = module_problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = fl.Plan(problem, epochs=2, batch_size=16, optimizer=fl.SGD(momentum=0.9))
    found = fl.sweep(problem, plan, {"lr": [0.01, 0.1, 1.0]}, seeds=2, valid=valid, progress=False)
    assert len(found.runs) == 6 and all(np.isfinite(cell.mean) for cell in found.cells)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for cell in found.cells:
        for s, run in enumerate(cell.runs):
            model.load_state_dict(before)
            alone = fl.train(problem, cell.plan._with(seed=cell.plan.seed + s), valid=valid, progress=False)
            assert run.scores["valid_loss"] == pytest.approx(alone.history.evaluations[-1]["valid_loss"], rel=1e-5)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_child_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = fl.quadratic([1, 10], start=[1.0, 1.0])
    plan = fl.Plan(problem, steps=5, optimizer=fl.SGD())
    from fallline.sweeping.work import Work

    monkeypatch.setattr(Work, "alone", lambda self, job: os._exit(9))
    with pytest.raises(fl.FalllineError, match="a process of the sweep was killed"):
        fl.sweep(problem, plan, {"lr": [0.1, 0.2]}, processes=2, progress=False)
