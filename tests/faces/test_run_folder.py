"""A saved run: the same after loading, whole or absent, and damage is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fallline import run_folder
from fallline.engines.reference import ReferenceEngine
from fallline.errors import InvalidValue, RunDamaged, RunExists
from fallline.plan import Plan
from fallline.problems import function, huber, least_squares, logistic, poisson, rosenbrock, softmax
from fallline.rules import SGD
from fallline.runs import Run, load
from fallline.training import train

X = np.random.default_rng(0).normal(size=(60, 3))
SIGN = (X[:, 0] > 0).astype(int)
LABELS = {
    "text": np.array(["no", "yes"]),
    "int32": np.array([3, 5], np.int32),
    "bool": np.array([False, True]),
    "bytes": np.array([b"no", b"yes"]),
    "dates": np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"),
    "objects": np.array(["no", "yes"], object),
}


def run_of(problem: Any, valid: Any = None, **options: Any) -> Run:
    plan = Plan(problem, epochs=2, batch_size=10, optimizer=SGD(lr=0.05, average=0.1))
    return train(problem, plan, valid=valid, engine=ReferenceEngine(problem), progress=False, **options)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return run_of(logistic(X, SIGN), valid=(X, SIGN)).save(tmp_path / "a")


@pytest.mark.parametrize(
    "problem",
    [least_squares(X, X[:, 0]), least_squares(X, X[:, :2]), huber(X, X[:, 0]), poisson(X, np.abs(X[:, 0])), softmax(X, np.arange(60) % 3)],
    ids=lambda p: f"{p.name}-{p.outputs}",
)
def test_predictions_after_loading_are_the_same_bits(problem: Any, tmp_path: Path):
    run = run_of(problem)
    back = load(run.save(tmp_path / "a"))
    assert back.predict(X).tobytes() == run.predict(X).tobytes()
    for mine, theirs in [(run.weights, back.weights), (run.averaged, back.averaged)]:
        assert mine is not None and theirs is not None
        assert {k: (v.shape, v.dtype, v.tobytes()) for k, v in mine.items()} == {k: (v.shape, v.dtype, v.tobytes()) for k, v in theirs.items()}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type_come_back(kind: str, tmp_path: Path):
    y = LABELS[kind][SIGN]
    run = run_of(logistic(X, y))
    before, after = run.predict(X), load(run.save(tmp_path / "a")).predict(X)
    assert before.dtype == after.dtype and before.tolist() == after.tolist()


def test_all_of_a_run_comes_back(saved: Path):
    run, back = run_of(logistic(X, SIGN), valid=(X, SIGN)), load(saved)
    assert (back.plan, back.outcome, back.reason, back.used) == (run.plan, run.outcome, run.reason, run.used)
    assert back.history.loss.tobytes() == run.history.loss.tobytes()
    assert back.problem_fingerprint == run.problem_fingerprint
    drop = {"seconds"}
    assert [{k: v for k, v in e.items() if k not in drop} for e in back.history.evaluations] == [
        {k: v for k, v in e.items() if k not in drop} for e in run.history.evaluations
    ]
    assert back.journal == run.journal


def test_a_function_comes_back_with_its_path_and_shapes(tmp_path: Path):
    bowl = function(lambda w: float(w**2), start=3.0)
    for name, problem in (("valley", rosenbrock()), ("bowl", bowl)):
        run = train(problem, Plan(problem, steps=5, optimizer=SGD(lr=1e-3)), progress=False)
        back = load(run.save(tmp_path / name))
        assert back.history.path is not None and run.history.path is not None
        assert back.history.path.tobytes() == run.history.path.tobytes()
        assert back.weights["w"].shape == run.weights["w"].shape
        with pytest.raises(InvalidValue, match="nothing to predict"):
            back.predict(X)


def test_not_a_number_stays_not_a_number(tmp_path: Path):
    run = run_of(logistic(X, SIGN))
    run.history.evaluations[0]["loss"] = float("nan")
    assert np.isnan(load(run.save(tmp_path / "a")).history.evaluations[0]["loss"])


@pytest.mark.parametrize("name", ["plan.json", "run.json", "model.json", "history.jsonl", "model.safetensors", "history.safetensors"])
def test_one_flipped_bit_anywhere_is_refused_by_name(saved: Path, name: str):
    whole = (saved / name).read_bytes()
    for position in np.linspace(0, len(whole) - 1, 12).astype(int):
        broken = bytearray(whole)
        broken[position] ^= 1 << int(position) % 8
        (saved / name).write_bytes(bytes(broken))
        with pytest.raises(RunDamaged, match=name):
            load(saved)


def test_files_that_are_missing_or_not_listed_are_refused_by_name(saved: Path):
    manifest = json.loads((saved / "manifest.json").read_text())
    for name in manifest["files"]:
        fewer = {k: v for k, v in manifest["files"].items() if k != name}
        (saved / "manifest.json").write_text(json.dumps(manifest | {"files": fewer}))
        with pytest.raises(RunDamaged, match=name):
            load(saved)
    (saved / "manifest.json").write_text(json.dumps(manifest))
    (saved / "model.safetensors").unlink()
    with pytest.raises(RunDamaged, match=r"model\.safetensors is missing"):
        load(saved)


def test_a_manifest_cannot_reach_outside_its_folder(saved: Path):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"bytes": 0, "sha256": []}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunDamaged, match="outside of its folder"):
        load(saved)


def test_a_folder_that_holds_something_is_never_overwritten(saved: Path):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    with pytest.raises(RunExists):
        run_of(logistic(X, SIGN)).save(saved)
    with pytest.raises(RunExists):  # before any training, not after hours of it
        run_of(logistic(X, SIGN), save=saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


def test_a_save_that_fails_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run_of(logistic(X, SIGN)).save(tmp_path / "a")
    monkeypatch.undo()
    assert not (tmp_path / "a").exists()
    assert run_of(logistic(X, SIGN)).save(tmp_path / "a").is_dir()


def test_a_place_without_a_run_says_so(tmp_path: Path):
    with pytest.raises(InvalidValue, match="holds no run"):
        load(tmp_path)


def test_nothing_in_the_folder_is_code(saved: Path):
    assert {p.suffix for p in saved.iterdir()} == {".json", ".jsonl", ".safetensors"}
    assert not any(b"\x80\x04" == p.read_bytes()[:2] for p in saved.iterdir())
