"""`fallline fit - --stream`: killed and resumed it is the same run; what it says of streams that cannot be learnt."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fallline as fl
from fallline.errors import RunExists, TableError
from fallline.runs.live import LiveFolder
from fallline.streaming import Asked, learn

COMMAND = [sys.executable, "-c", "from fallline.cli import main; main()", "fit", "-", "--stream", "--target", "y"]


def csv(n: int, seed: int = 0, missing: bool = True) -> str:
    draw = np.random.default_rng(seed)
    X, town = draw.standard_normal((n, 3)) * [1e-6, 1.0, 1e6], draw.choice(["Rome", "Oslo", "Lima"], n)
    y = np.where(X[:, 0] * 1e6 + X[:, 1] + (town == "Oslo") > 0.3, "yes", "no")
    y[n // 2 :: 7] = "may"  # a class that appears later
    cells = [[f"{v:.6g}" for v in row] for row in X]
    if missing:
        for i in range(3, n, 11):
            cells[i][1] = "" if i % 2 else "NA"
    return "a,b,c,town,y\n" + "".join(",".join((*cells[i], town[i], y[i])) + "\n" for i in range(n))


def streamed(text: str | bytes, folder: Path, *, resume: bool = False, **asked) -> fl.Run:
    data = io.BufferedReader(io.BytesIO(text if isinstance(text, bytes) else text.encode()))
    return learn(data, "standard input", LiveFolder.claim(folder, resume=resume), Asked(**({"target": "y"} | asked)), lambda said: None)


def same(a: fl.Run, b: fl.Run) -> bool:
    return all(a.weights[k].shape == b.weights[k].shape and (a.weights[k] == b.weights[k]).all() for k in a.weights)


def test_killed_and_resumed_it_has_the_same_weights_bit_for_bit(tmp_path):
    text = csv(20_000)
    whole = streamed(text, tmp_path / "whole")
    out = str(tmp_path / "cut")
    child = subprocess.Popen([*COMMAND, "--out", out, "--save-every", "1000"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert child.stdin is not None
    at, kept = 0, Path(out, "checkpoints")
    while not kept.is_dir() or not any(not n.startswith(".") for n in os.listdir(kept)):
        assert child.poll() is None and at < len(text) // 2
        at += child.stdin.write(text[at : at + 50_000]) if at < len(text) // 2 - 60_000 else 0
        child.stdin.flush()
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdin.close()
    done = subprocess.run([*COMMAND, "--out", out, "--resume"], input=text, text=True, capture_output=True, check=True)
    assert "goes on after" in done.stdout and "20,000 rows" in done.stdout
    run = fl.load(out)
    assert same(run, whole)
    assert run.history.loss.tobytes() == whole.history.loss.tobytes()
    final = [{k: v for k, v in e.items() if k != "seconds"} for e in run.history.evaluations]
    assert final == [{k: v for k, v in e.items() if k != "seconds"} for e in whole.history.evaluations]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_with_its_code(tmp_path, number):
    text, out = csv(3000), str(tmp_path / "run")
    child = subprocess.Popen([*COMMAND, "--out", out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    half = text.index("\n", len(text) // 2) + 1
    child.stdin.write(text[:half])
    child.stdin.flush()
    while "1,024" not in child.stdout.readline():
        assert child.poll() is None
    time.sleep(0.2)
    child.send_signal(number)  # it waits for bytes
    _, said = child.communicate(timeout=60)
    assert child.returncode == (143 if number == signal.SIGTERM else 130), said
    assert "interrupted after" in said and fl.load(out).outcome.name == "Interrupted"
    assert same(streamed(text, Path(out), resume=True), streamed(text, tmp_path / "whole"))


@pytest.mark.parametrize("cut", [1, 70, 777, 1999])
def test_a_stream_that_goes_on_is_one_stream(tmp_path, cut):
    text = csv(2000)
    lines = text.splitlines(keepends=True)
    streamed("".join(lines[: 1 + cut]), tmp_path / "cut", task="classification", types={"b": "number", "town": "category"})
    told = {"task": "classification", "types": {"b": "number", "town": "category"}}
    second = streamed("".join([lines[0], *lines[1 + cut :]]), tmp_path / "cut", resume=True, from_here=True, **told)
    assert same(second, streamed(text, tmp_path / "whole", **told))


def test_where_bytes_are_cut_changes_no_bit(tmp_path, monkeypatch):
    from fallline.streaming import parts

    text, runs = csv(1500), []
    for size in (1 << 20, 4096, 571):
        monkeypatch.setattr(parts, "CHUNK", size)
        monkeypatch.setattr(parts.Stream._more, "__defaults__", (size,))
        runs.append(streamed(text, tmp_path / str(size)))
    assert same(runs[0], runs[1]) and same(runs[0], runs[2])


def test_three_formats_are_one_stream(tmp_path):
    text = csv(500, missing=False)
    names, *rows = [line.split(",") for line in text.splitlines()]
    objects = "".join(json.dumps({n: (v if n in ("town", "y") else float(v)) for n, v in zip(names, row, strict=True)}) + "\n" for row in rows)
    assert same(streamed(text, tmp_path / "a"), streamed(objects, tmp_path / "b"))
    sparse = "".join(f"{int(row[4] == 'yes')} 1:{row[0]} 7:{row[1]}\n" for row in rows)
    run = streamed(sparse, tmp_path / "c", target=None)
    assert run.weights["coef"].shape == (8, 2) and np.count_nonzero(run.weights["coef"]) == 4


def test_what_it_leaves_predicts_reports_and_is_listed(tmp_path, run):
    text = csv(2000)
    (tmp_path / "rows.csv").write_text(text)
    assert "each before it was learnt" in run("fit", tmp_path / "rows.csv", "--stream", "--target", "y", "--out", tmp_path / "runs" / "a").out
    loaded = fl.load(tmp_path / "runs" / "a")
    predicted = loaded.predict(tmp_path / "rows.csv")
    truth = np.array([line.rsplit(",", 1)[1] for line in text.split()[1:]])
    assert (predicted == truth).mean() > 0.75 and loaded.model.classes.tolist() == ["may", "no", "yes"]
    assert run("predict", tmp_path / "runs" / "a", tmp_path / "rows.csv", "-o", tmp_path / "p.csv").code == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2001
    assert "each row before it was learnt" in (tmp_path / "runs" / "a" / "report.html").read_text()
    assert run("report", tmp_path / "runs" / "a").code == 0
    assert "test accuracy" in run("runs", tmp_path / "runs").out


@pytest.mark.parametrize("loss", ["hinge", "modified_huber", "perceptron", "quantile", "epsilon_insensitive", "huber", "poisson"])
def test_every_loss_has_a_stream(loss, tmp_path):
    draw = np.random.default_rng(0)
    x, classes = draw.uniform(0, 1e6, 600), loss in ("hinge", "modified_huber", "perceptron")
    run = streamed("x,y\n" + "".join(f"{v:.6g},{('no', 'yes')[int(v > 5e5)] if classes else round(v / 1e5)}\n" for v in x), tmp_path / "run", loss=loss)
    (tmp_path / "one.csv").write_text("x\n9e5\n")
    (found,) = run.predict(tmp_path / "one.csv")
    assert found == "yes" if classes else 6.5 < float(found) < 11


def test_numbers_and_rows_without_a_target(tmp_path):
    draw = np.random.default_rng(0)
    x = draw.standard_normal(3000) * 1e5
    y = 3e-4 * x + 7 + draw.standard_normal(3000)
    lines = [f"{a:.6g},{'' if i % 10 == 9 else f'{b:.6g}'},{1 + i % 3}\n" for i, (a, b) in enumerate(zip(x, y, strict=True))]
    run = streamed("x,y,w\n" + "".join(lines), tmp_path / "run", sample_weight="w")
    head = run.summary["headline"]
    assert head["rows"] == 2700 and head["value"] < 3 < 20 < head["baseline"]
    assert run.predict({"x": [1e5, 0.0]}) == pytest.approx([37, 7], abs=1.5)


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        ("", {}, "standard input: no rows: the stream is empty"),
        ("a,y\n", {}, "standard input: a header and no rows: expected at least one row below it"),
        ("a,y\n1,2\n", {"target": "z"}, "no column 'z'; columns: a, y"),
        ("a,y\n1,2\n3\n", {}, "standard input:3: 1 cell where the header has 2 columns: quote cells that hold ',', or complete the row"),
        ("a,y\n" + "1,2.5\n" * 70 + "x,2\n", {}, "standard input:72: column 'a' holds numbers, but here 'x': correct the cell, or read the column as categories: --type a=category"),
        ("a,y\n" + "1,2.5\n" * 70 + "inf,2\n", {}, "standard input:72: column 'a': 'inf' is too large for a number, or infinite: correct the cell"),
        ("a,y\n" + "1,u\n2,v\n" * 40 + "1,w\n", {"classes": ("u", "v")}, "standard input:82: the target 'y' is 'w', which is none of the classes (u, v): add it to --classes"),
        ('{"a": 1, "y": 2}\n{"a": \n', {}, "standard input:2: not JSON (Expecting value): expected one object a line, or one list of objects"),
        ("1 2:3\n1 x\n", {"target": None}, "standard input:2: expected 'label index:value ...', found '1 x'"),
        ("[1]\n", {}, "a list of objects is no stream of rows: give one JSON object a line (jq -c '.[]')"),
        ("a,y\n1,2\n", {"format": "xml"}, "no format 'xml'; formats: csv, jsonl, svmlight"),
        ("a,y\n1,2\n", {"from_here": True}, "--from-here goes on with a run, and there is no checkpoint to go on from: leave it out"),
        ("a,y\n1,2\n", {"loss": "poison"}, "no loss 'poison'; did you mean 'poisson'?"),
    ],
)  # fmt: skip
def test_what_it_says(tmp_path, text, asked, words):
    with pytest.raises(fl.InvalidValue) as caught:
        streamed(text, tmp_path / "run", **asked)
    assert str(caught.value).startswith(words)


def test_a_bad_row_loses_nothing_of_those_before_it(tmp_path):
    text = csv(1000)
    with pytest.raises(TableError) as caught:
        streamed(text + "1,2\n", tmp_path / "run")
    assert caught.value.line == 1002 and "1,000 rows before it are learnt" in caught.value.__notes__[0]
    run = streamed(text + csv(200, 1).split("\n", 1)[1], tmp_path / "run", resume=True)
    assert same(run, streamed(text + csv(200, 1).split("\n", 1)[1], tmp_path / "whole"))


@pytest.mark.parametrize("rows", [0, 500, 40_000])
def test_a_file_that_breaks_says_so_once_and_keeps_what_came(tmp_path, rows):
    """The system's own error, after what was whole before it is learnt (not the last row, which might have gone on); no thread is left."""

    class Broken(io.BytesIO):
        def read1(self, size=-1):
            data = super().read1(size)
            if not data:
                raise OSError(5, "Input/output error")
            return data

    text = csv(rows, missing=False) if rows else ""
    with pytest.raises(OSError, match="Input/output error") as caught:
        learn(Broken(text.encode()), "a cable", LiveFolder.claim(tmp_path / "run"), Asked(target="y", save_every=1), lambda said: None)
    assert not [t for t in threading.enumerate() if t.name == "fallline-ahead"]
    if rows:
        assert f"{rows - 1:,} rows before it are learnt" in caught.value.__notes__[0]
        assert same(streamed(text, tmp_path / "run", resume=True), streamed(text, tmp_path / "whole"))


def test_another_stream_is_not_gone_on_with(tmp_path):
    streamed(csv(200), tmp_path / "run")
    with pytest.raises(fl.InvalidValue, match="does not begin with the rows that were learnt"):
        streamed(csv(300, 1), tmp_path / "run", resume=True)
    with pytest.raises(fl.InvalidValue, match="give the stream from its start, or --from-here"):
        streamed(csv(20), tmp_path / "run", resume=True)
    with pytest.raises(RunExists, match="predicts 'y', not 'a'"):
        streamed(csv(200), tmp_path / "run", resume=True, target="a")


def test_flags_that_are_not_for_a_stream(tmp_path, run):
    for words, said in (
        (("fit", "-", "--stream", "--lr", "0.1", "--epochs", "3"), "--lr, --epochs: not for --stream"),
        (("fit", "-", "--stream", "--cross", "a,b"), "--cross: not for --stream"),
        (
            ("fit", "-", "--stream", "--type", "town=hash:2^10"),
            "--type town=hash:2^10: not for --stream, which hashes every category to 4,096 columns: give --type town=category",
        ),
        (("fit", "digits", "--format", "csv"), "--format: for --stream only"),
        (("fit", "-"), "give --stream"),
        (("fit", "nothing.csv", "--stream"), "no file 'nothing.csv': expected a file, or - for standard input"),
    ):
        done = run(*words)
        assert done.code == 3 and said in done.err
