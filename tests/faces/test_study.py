"""The study of learning-rate finders in small: two cells, one seed, and nothing is measured twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def advice():
    import sys

    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        from benchmarks.advice import cells, coverage, reference, study, table  # noqa: F401  (imported while the path holds)
    finally:
        sys.path.pop(0)
    return cells, reference, study, table


@pytest.fixture(scope="module")
def found(advice, tmp_path_factory):
    import torch

    cells, _, study, _ = advice
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chosen = tuple(replace(c, epochs=c.epochs / 2) for c in cells.CELLS if c.name in cells.TINY)
    folder = tmp_path_factory.mktemp("cache")
    yield chosen, folder, study.study(chosen, (0,), None, folder)
    torch.set_num_threads(before)


def test_the_tiny_study_has_every_part_and_our_rates_learn(advice, found):
    _, reference, _, table = advice
    cells, _, results = found
    for cell in cells:
        curve = reference.Reference(results[cell.name]["reference"])
        assert curve.best < curve.initial and curve.lr[0] < curve.best_lr < curve.edge
        assert curve.regret(curve.best_lr) == (0.0, 0.0) and curve.regret(curve.edge * 100)[1] == 1.0
    worth = table.scores(results)
    for method in ("find_lr 0.5", "find_lr 2", table.DECADES):
        line = table.line(worth[method], [c.name for c in cells])
        assert line["mean"] < 0.15 and line["ruined"] == 0 and line["none"] == 0
    assert all(r["runs"] <= 2.01 for rows in worth["find_lr 2"].values() for r in rows)
    assert "| find_lr 0.5 |" in table.text(results)


def test_what_is_kept_is_not_measured_again(advice, found, monkeypatch):
    _, _, study, _ = advice
    cells, folder, results = found
    for name in ("measure", "ours", "decades"):
        monkeypatch.setattr(study, name, lambda *a, **k: pytest.fail("measured again"))
    again = study.study(cells, (0,), None, folder)
    assert json.dumps(again, default=float) == json.dumps(json.loads(json.dumps(results)), default=float)


def test_a_regret_between_two_rates_lies_on_the_line_between_them(advice):
    _, reference, _, _ = advice
    data = {"lr": [0.01, 0.1, 1.0], "loss": [[0.6], [0.2], [math.inf]], "initial": [1.0], "edge": 0.5}
    curve = reference.Reference(data)
    assert curve.loss(np.sqrt(0.001)) == pytest.approx(0.4) and curve.loss(0.3) == math.inf
    assert curve.regret(0.01) == pytest.approx((0.4, 0.5)) and curve.regret(None) == pytest.approx((0.8, 1.0))


def test_the_page_holds_the_record(advice):
    """The tables of docs/study.md are those that the record gives, by the code of today."""
    _, _, _, table = advice
    root = Path(__file__).parents[2]
    record = json.loads((root / "benchmarks/records/2026-11-24-finders/record.json").read_text())
    page = (root / "docs/study.md").read_text()
    assert all(part in page for part in table.text(record["cells"]).split("\n\n"))


@pytest.mark.parametrize("name", ["coverage", "coverage-training"])
def test_the_intervals_of_the_record_hold_as_often_as_they_claim(name, advice):
    from benchmarks.advice import coverage

    root = Path(__file__).parents[2]
    found = json.loads((root / f"benchmarks/records/2026-11-24-finders/{name}.json").read_text())
    assert coverage.text(found) in (root / "docs/study.md").read_text()
    for rows in found.values():
        for k in range(len(coverage.BUDGETS)):
            held = [i for i in (coverage.inside(r, k) for r in rows) if i is not None]
            assert np.mean(held) >= coverage.CLAIMED and len(held) >= 0.9 * len(rows)


def test_a_seed_of_the_coverage_has_a_best_rate_and_an_answer(advice):
    from benchmarks.advice import coverage

    row = coverage.searched("synthetic, logistic, batch 16, momentum", 100, budgets=(0.5,))
    assert row["best"] in coverage.GRID and row["found"][0]["lr"] > 0 and coverage.inside(row, 0) is not None
