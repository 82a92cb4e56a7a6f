"""The report: one file, no request, every part present or said to be missing, user text inert."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from fallline import report
from fallline.report import sections
from fallline.report.text import line_chart, sparkline

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vl_convert") is None, reason="vl-convert is of the extra [report]")

EVIL = "<script>alert(1)</script>"
QUOTE = '" onload="alert(2)'
RNG = np.random.default_rng(0)


def descent(steps: int = 600, per: int = 30) -> report.Descent:
    k = np.arange(steps)
    at = np.arange(per, steps + 1, per)
    loss = 2.3 * np.exp(-k / 100) + 0.1 * RNG.random(steps)
    return report.Descent(k, loss, 0.1 * (1 - k / steps), at, 2.3 * np.exp(-at / 100) + 0.1, best_step=int(at[-2]), steps_per_epoch=per, formula="w = w - lr g")


def binary() -> report.Evaluation:
    y = np.where(RNG.random(200) < 0.2, EVIL, "no")
    p = np.clip(0.6 * (y == EVIL) + 0.4 * RNG.random(200), 0, 1)
    lines = (report.MetricLine("accuracy", 0.95, 0.92, 0.97, 0.8), report.MetricLine("log_loss", 0.1))
    return report.Evaluation("classification", y, np.where(p > 0.5, EVIL, "no"), p, ("no", EVIL), lines)


def full() -> report.ReportData:
    rates = np.logspace(-7, 1, 100)
    return report.ReportData(
        title=f"table.csv: predicting {EVIL}",
        outcome="Finished: 20 epochs.",
        headline=report.Headline("accuracy", 0.95, 0.92, 0.97, 0.8, f"always predicting {QUOTE}", rows=200),
        decisions=(report.Decision("learning rate", "0.047", f"steepest descent {EVIL}"),),
        range_test=report.RangeTest(rates, 2.3 - 2 * rates / (rates + 0.02), chosen=0.047, verdict="Falls fastest at 0.047."),
        descent=descent(),
        evaluation=binary(),
        coefficients=report.Coefficients((EVIL, QUOTE, "age"), [1.0, -2.0, 0.5]),
        data=report.DataSummary(
            f"table.csv {EVIL}", (("read", 1001), ("used", 1000), ("reported", 1)),
            (report.Column(EVIL, "number", "standardised", QUOTE),), (f"table.csv:7: {EVIL}",),
        ),
        command=f"fallline fit table.csv --target '{EVIL}'",
        versions={"fallline": "0.1.0", "numpy": "2.3"},
        notes=(EVIL,),
        created="2026-11-23",
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


PAGE = report.render(full()) if importlib.util.find_spec("vl_convert") else ""


def test_makes_no_request_and_runs_no_script():
    read = Reader(PAGE)
    assert not set(read.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use", "foreignobject"}
    for name, value in read.attributes:
        assert not name.startswith("on"), f"{name}={value}"
        if name in {"src", "href", "xlink:href", "action", "srcset", "data"}:
            assert value and value.startswith("#")
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/|@import|url\((?!#)|fetch\(", PAGE)
    assert any(value and value.startswith("default-src 'none'") for _, value in read.attributes)


def test_ids_of_the_drawings_do_not_meet():
    ids = [value for name, value in Reader(PAGE).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_user_text_is_shown_and_inert():
    assert "<script" not in PAGE.lower()
    words = "".join(Reader(PAGE).words)
    assert words.count(EVIL) >= 8
    assert QUOTE in words


def test_everything_of_the_run_is_on_the_page():
    words = " ".join(" ".join(Reader(PAGE).words).split())
    for what in ("test accuracy on 200 rows", "95.0 %", "95 % interval 92.0 % to 97.0 %", "Better than the baseline", "80.0 %", "Finished: 20 epochs.",
                 "learning rate", "Chosen learning rate: 0.047", "Falls fastest at 0.047.", "Training loss fell", "validation loss was lowest",
                 "Learning rate goes from 0.1", "w = w - lr g", "Average precision", "Predicted probabilities are off", "precision", "Raises the prediction most",
                 "1,001", "reported", "standardised", "table.csv:7", "fallline fit table.csv", "numpy 2.3"):  # fmt: skip
        assert what in words, what
    assert "could not be drawn" not in words


def test_headline_comes_first_and_parts_in_order():
    places = [PAGE.index(f'id="{name}"') for name in ("decisions", "descent", "results", "coefficients", "data", "repeat")]
    assert places == sorted(places) and PAGE.index('class="hero"') < places[0]


def test_is_wellformed_and_small():
    assert len(PAGE.encode()) < 600_000
    opened = re.findall(r"<(section|figure|table|div|svg|details|pre|ul|li|p|g)\b", PAGE)
    closed = re.findall(r"</(section|figure|table|div|svg|details|pre|ul|li|p|g)>", PAGE)
    selfclosed = re.findall(r"<(?:section|figure|table|div|svg|details|pre|ul|li|p|g)\b[^<>]*/>", PAGE)
    assert len(opened) - len(selfclosed) == len(closed)


def test_light_dark_narrow_and_print_are_styled():
    for rule in ("prefers-color-scheme:dark", "max-width:720px", "@media print", "data-theme=dark"):
        assert rule in PAGE
    assert 'name="viewport"' in PAGE


def test_a_run_with_nothing_says_what_is_missing():
    words = " ".join(Reader(report.render(report.ReportData("empty"))).words)
    for what in ("No test metric", "no decisions", "No learning rate was searched", "No step was made", "No rows were evaluated",
                 "no coefficients", "not on a table", "command is not known", "versions were not recorded"):  # fmt: skip
        assert what in words, what


def test_a_diverged_run_is_told_with_its_loss():
    loss = np.exp(np.arange(50.0))
    loss[45:] = [np.inf, np.nan, np.nan, np.nan, np.nan]
    html = report.render(report.ReportData("x", outcome="Diverged at step 45.", failed=True, descent=report.Descent(np.arange(50), loss)))
    words = " ".join(Reader(html).words)
    assert 'class="alert">Diverged at step 45.' in html
    assert "5 of 50 losses are not finite" in words and "No validation rows" in words and "could not be drawn" not in words


def test_regression_shows_error_pictures():
    y = RNG.normal(size=300)
    html = report.render(report.ReportData("x", evaluation=report.Evaluation("regression", y, y + 0.1 * RNG.normal(size=300), target="price",
                                                                             metrics=(report.MetricLine("r2", 0.97),))))  # fmt: skip
    words = " ".join(Reader(html).words)
    assert "Predictions follow the truth" in words and "Half of the errors" in words and "predicted price" in words and "R2" in words


def test_many_classes_coefficients_and_columns_stay_readable():
    y = RNG.integers(0, 30, 600)
    proba = RNG.dirichlet(np.ones(30), 600)
    coefficients = report.Coefficients(tuple(f"f{i}" for i in range(5000)), RNG.normal(size=(5000, 30)), tuple(range(30)))
    columns = tuple(report.Column(f"c{i}", "number", "standardised") for i in range(300))
    data = report.ReportData("wide", evaluation=report.Evaluation("classification", y, proba.argmax(1), proba, tuple(range(30))),
                             coefficients=coefficients, data=report.DataSummary("x", (), columns))  # fmt: skip
    html = report.render(data)
    assert "All 300 columns" in html and "Each of the 30 classes" in html and "could not be drawn" not in html
    assert "The 12 largest of 7" in html
    assert len(html) < 900_000


def test_a_chart_that_fails_does_not_lose_the_report():
    broken = report.Descent(np.arange(3), np.arange(4.0))
    words = " ".join(Reader(report.render(report.ReportData("x", descent=broken))).words)
    assert "A chart could not be drawn: a chart needs arrays of one length; given step: 3, loss: 4" in words


@pytest.mark.parametrize(
    ("headline", "says"),
    [
        (report.Headline("accuracy", 0.9, 0.85, 0.94, 0.5), "Better than the baseline"),
        (report.Headline("accuracy", 0.55, 0.45, 0.65, 0.5), "Not clearly better"),
        (report.Headline("accuracy", 0.4, 0.3, 0.5, 0.5), "No better than"),
        (report.Headline("rmse", 3.0, 2.5, 3.4, 5.0, better="lower"), "Better than the baseline"),
        (report.Headline("rmse", 4.9, 4.0, 5.5, 5.0, better="lower"), "Not clearly better"),
        (report.Headline("rmse", 6.0, 5.0, 7.0, 5.0, better="lower"), "No better than"),
        (report.Headline("r2", float("nan"), None, None, 0.0), "No better than"),
        (report.Headline("rmse", 6.0), "No baseline was computed"),
    ],
)
def test_headline_is_honest_about_the_baseline(headline, says):
    assert says in sections.hero(headline)


def test_page_replaces_the_file_and_takes_overrides(tmp_path):
    path = report.page(report.ReportData("the older one"), tmp_path / "deep" / "r.html")
    assert report.page(report.ReportData("second"), str(path), notes=("told",)) == path
    html = path.read_text(encoding="utf-8")
    assert "second" in html and "told" in html and "older" not in html
    assert [p.name for p in path.parent.iterdir()] == ["r.html"]


def test_page_without_the_drawing_package_still_says_everything(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "vl_convert", None)
    words = " ".join(Reader(report.render(replace(full(), evaluation=None))).words)
    assert "pip install 'fallline[report]'" in words and "95 % interval" in words


def test_terminal_curves():
    assert sparkline([]) == "" and sparkline([2, 2]) == "▁▁" and sparkline([np.nan]) == "x"
    assert len(sparkline(np.arange(1000), width=30)) == 30
    text = line_chart(np.exp(-np.arange(100) / 8), width=40, height=6)
    assert text.endswith("(logarithmic heights)") and max(map(len, text.splitlines())) <= 50
    marked = line_chart([3, 2, 1, 2, 9], x=[1e-4, 1e-3, 1e-2, 1e-1, 1], log_x=True, mark=1e-2, width=41, height=4)
    assert re.search(r"^ {1,8}\|?.*\n? *\^ 0.01", marked, re.MULTILINE)
    assert line_chart([np.nan, np.nan]) == "(no finite value to draw)"


def test_runs_of_train_are_reported_fresh_and_loaded(tmp_path):
    import fallline as fl
    from fallline.engines.reference import ReferenceEngine
    from fallline.report.adapter import report_data

    x = RNG.normal(size=(300, 3))
    y = np.where(x[:, 0] > 0, EVIL, "no")
    problem = fl.logistic(x, y, feature_names=("a", EVIL, "c"))
    plan = fl.Plan(problem, epochs=3, batch_size=16, optimizer=fl.SGD(lr=0.1, momentum=0.9))
    run = fl.train(problem, plan, valid=(x[:50], y[:50]), engine=ReferenceEngine(problem), progress=False)
    run.summary.update(
        headline={"metric": "accuracy", "value": 0.9, "interval": [0.85, 0.94], "baseline": 0.5, "baseline_name": "always 'no'", "rows": 300},
        test={"y": y, "prediction": run.predict(x), "proba": run.predict_proba(x), "metrics": {"accuracy": {"value": 0.9, "interval": [0.85, 0.94]}, "log_loss": 0.2}},
        found={"lr": 0.1, "interval": None, "verdict": "told", "curve": {"lr": [0.01, 0.1, 1.0], "loss": [3.0, 2.0, 9.0]}},
    )  # fmt: skip
    words = " ".join(Reader(run.report(tmp_path / "a.html").read_text(encoding="utf-8")).words)
    for what in ("Better than the baseline", "validation loss was lowest", "Chosen learning rate: 0.1", "told", "w = w - lr", "Lowers the prediction most: a", "By class", f"Above zero speaks for '{max(EVIL, 'no')}'"):
        assert what in words, what
    assert "could not be drawn" not in words
    run.summary = {}
    run.save(tmp_path / "run")
    again = report_data(fl.load(tmp_path / "run"))
    assert again.coefficients is not None and again.coefficients.names == ("a", EVIL, "c")
    assert again.descent is not None and len(again.descent.valid) == 3 and again.evaluation is None
