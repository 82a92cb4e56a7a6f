"""What `compare`, its pages and the listing of runs say when they cannot."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

import fallline as fl
from fallline.charts.compare import Lane, comparison
from fallline.charts.ravine import ravine
from fallline.comparing import folders
from fallline.report.ravine_page import ravine_page
from fallline.report.side_by_side import side_by_side

BOWL = fl.quadratic([1, 100])
RULE = fl.SGD(lr=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fl.compare(BOWL, {}), "at least one variant"),
        (lambda: fl.compare(BOWL, 3), 'expected {"name": optimizer or plan}'),
        (lambda: fl.compare(BOWL, ["momentun"]), "no variant 'momentun'; did you mean 'momentum'?"),
        (lambda: fl.compare(BOWL, {"a": fl.SGD}), "variant 'a' is the class SGD; write SGD(...)"),
        (lambda: fl.compare(BOWL, {"a": 0.1}), "variant 'a' is a float: expected an optimizer"),
        (lambda: fl.compare(BOWL, {"a": RULE}, seeds=0), "seeds=0: expected a whole number of at least 1"),
        (lambda: fl.compare(BOWL, {"a": RULE}, seeds=True), "seeds=True"),
        (lambda: fl.compare(BOWL, {"a": RULE}, epochs=1, steps=2), "give one of them"),
        (lambda: fl.compare(BOWL, {"a": RULE}, start=[1.0]), "start=[1.0]: expected 2 finite numbers"),
        (lambda: fl.compare(BOWL, {"a": RULE}, start=[1.0, np.nan]), "expected 2 finite numbers"),
        (lambda: fl.compare(BOWL, {"a": RULE}, valid=([[1.0]], [1.0])), "leave valid out"),
        (lambda: fl.compare(BOWL, {"a": fl.SGD()}, find=lambda p, plan: fl.auto), "find= gave"),
        (lambda: fl.compare(BOWL, {"a": fl.Plan(rows=9, steps=1, optimizer=RULE)}), "variant 'a': its plan is for 9 rows and the problem has 1"),
        (lambda: comparison([]), "expected at least one descent"),
        (lambda: comparison([_lane()], across="row"), "no scale 'row'; did you mean 'rows'? scales: rows, updates, seconds"),
        (lambda: ravine({}, BOWL.loss), "expected at least one path"),
    ],
)
def test_what_cannot_stand_is_said(call, words: str) -> None:
    with pytest.raises(fl.InvalidValue) as caught:
        call()
    assert words in str(caught.value)


def _lane() -> Lane:
    k = np.arange(2.0)
    return Lane("a", k, k, k, k, k, k)


@pytest.fixture(scope="module")
def found() -> fl.Comparison:
    return fl.compare(BOWL, {"plain": RULE, "m": fl.SGD(lr=0.01, momentum=0.9)}, steps=5, progress=False)


def test_unknown_names_are_met_with_the_nearest(found: fl.Comparison) -> None:
    for call, words in (
        (lambda: found["plane"], "no variant 'plane'; did you mean 'plain'?"),
        (lambda: found.table["los"], "no column 'los'; did you mean 'loss'?"),
        (lambda: found.table.row("plian"), "did you mean 'plain'?"),
    ):
        with pytest.raises(fl.UnknownName) as caught:
            call()
        assert words in str(caught.value)


def test_no_rate_at_all_is_an_error_and_one_without_is_a_line() -> None:
    def refuse(problem, plan):
        if plan.optimizer.momentum:
            raise fl.NoLearningRate("the loss never fell")
        return 0.01

    mixed = fl.compare(BOWL, {"plain": fl.SGD(), "m": fl.SGD(momentum=0.9)}, steps=5, find=refuse, progress=False)
    assert mixed["m"].note == "not run: the loss never fell" and mixed["m"].curve is None and mixed.runs["m"] == ()
    assert "m not run" in mixed.title and "not run" in repr(mixed.table) and repr(mixed) == f"Comparison(plain={mixed['plain'].final:.4g}, m=not run)"
    assert mixed.plot() and mixed.table.row("m")["loss"] is None
    with pytest.raises(fl.NoLearningRate, match="m: the loss never fell"):
        fl.compare(BOWL, {"m": fl.SGD(momentum=0.9)}, steps=5, find=refuse, progress=False)


def test_a_divergence_says_which_edge_was_passed() -> None:
    """The textbook's lecture: at one rate for all three, the look-ahead is beyond its own edge."""
    lecture = fl.compare(
        BOWL, {"plain": fl.SGD(lr=0.018), "look-ahead": fl.Nesterov(lr=0.018, momentum=0.9)}, start=[-4, 1.5], steps=60, progress=False
    )
    assert "lr 0.018 is above its edge 0.01357 (curvature 100 at the start)" in lecture["look-ahead"].note
    assert lecture.title.endswith("look-ahead diverged") and np.isfinite(lecture["plain"].final)


def test_animations_need_two_parameters_a_gif_and_pillow(found: fl.Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = fl.compare(fl.quadratic([1, 2, 3]), {"a": RULE}, steps=2, progress=False)
    with pytest.raises(fl.InvalidValue, match="needs a function of two parameters"):
        long.animate(tmp_path / "x.gif")
    with pytest.raises(fl.InvalidValue, match=r"ends in \.gif"):
        found.animate(tmp_path / "x.mp4")
    with pytest.raises(fl.InvalidValue, match=r"between 0\.5 and 120"):
        found.animate(tmp_path / "x.gif", seconds=0)
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *a, **k: (_ for _ in ()).throw(ImportError(name)) if name == "PIL" else real(name, *a, **k))
    with pytest.raises(fl.MissingExtra, match=r"pip install 'fallline\[report\]'"):
        found.animate(tmp_path / "x.gif")


def test_pages_refuse_what_they_cannot_show(tmp_path: Path) -> None:
    with pytest.raises(fl.InvalidValue, match="two runs or more"):
        side_by_side({"a": None}, tmp_path / "x.html")
    with pytest.raises(fl.InvalidValue, match="drawn over two parameters"):
        ravine_page(tmp_path / "x.html", fl.quadratic([1, 2, 3]), lr=0.1, momentum=0.9, curvature=3)
    with pytest.raises(fl.InvalidValue, match=r"momentum in \[0, 1\)"):
        ravine_page(tmp_path / "x.html", BOWL, lr=0.1, momentum=1.0, curvature=100)


def test_a_listing_names_the_nearest_metric(tmp_path: Path) -> None:
    fl.train(BOWL, fl.Plan(BOWL, steps=2, optimizer=RULE), progress=False).save(tmp_path / "a")
    listed = folders.listing(tmp_path)
    with pytest.raises(fl.UnknownName, match="no metric 'los'; did you mean 'loss'"):
        folders.chosen(listed, "los")
    with pytest.raises(fl.InvalidValue, match="is not a directory"):
        folders.listing(tmp_path / "nothing")
