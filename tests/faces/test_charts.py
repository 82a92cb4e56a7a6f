"""Charts: every description is valid, finite JSON; thinning keeps what matters; nothing not finite is hidden."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree as xml
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline import charts
from fallline.charts.marks import MOST_POINTS, log_scale, short, thin
from fallline.charts.paths import contour
from fallline.charts.picture import RED, SERIES, dumps
from fallline.errors import InvalidValue, MissingExtra

needs_converter = pytest.mark.skipif(importlib.util.find_spec("vl_convert") is None, reason="vl-convert is of the extra [report]")
needs_altair = pytest.mark.skipif(importlib.util.find_spec("altair") is None, reason="Altair is of the extra [report]")
T = 4000
STEP = np.arange(T)
LR = np.where(STEP < 200, 0.1 * STEP / 200, 0.05 * (1 + np.cos(np.pi * (STEP - 200) / (T - 200))))


def noisy(seed: int = 0) -> np.ndarray:
    return 2.3 * np.exp(-STEP / 800) + 0.05 + 0.1 * np.random.default_rng(seed).random(T)


def some_pictures() -> dict[str, charts.Picture]:
    rng = np.random.default_rng(0)
    rates = np.logspace(-7, 1, 120)
    y = rng.integers(0, 2, 300)
    p = np.clip(0.5 * y + 0.5 * rng.random(300), 0, 1)
    broken = noisy()
    broken[3000:] = np.nan
    value, guess = rng.normal(size=2000), rng.normal(size=2000)
    evaluated = STEP[199::200] + 1
    return {
        "lr": charts.lr_curve(STEP, LR, steps_per_epoch=200),
        "plans": charts.plan_curves({"cosine": LR, "constant": np.full(T, 0.1)}),
        "panels": charts.plan_curves({"lr": LR, "momentum": 0.95 - LR}, apart=True),
        "range": charts.range_test(rates, 2.3 - 2 * rates / (rates + 0.02), np.full(120, 1.0), chosen=0.02, low=0.01, high=0.1, diverged=5.0),
        "no rate": charts.range_test(rates, np.full(120, np.nan)),
        "loss": charts.loss_curves(STEP, noisy(), evaluated, 2.3 * np.exp(-evaluated / 800) + 0.1, best_step=3000, steps_per_epoch=200),
        "broken": charts.loss_curves(STEP, broken),
        "nothing finite": charts.loss_curves([0, 1], [np.nan, np.inf]),
        "ravine": charts.path({"a": [[-4, 1], [0.1, 0.2]], "b": [[-4, 1], [np.inf, 0]]}, lambda w: w[0] ** 2 + 9 * w[1] ** 2, minimum=[0, 0]),
        "confusion": charts.confusion(y, 1 - y),
        "many classes": charts.confusion(rng.integers(0, 40, 900), rng.integers(0, 40, 900)),
        "pr": charts.pr(y, p),
        "calibration": charts.calibration(y, p),
        "predicted": charts.predicted(value, guess),
        "residuals": charts.residuals(value, guess),
        "coefficients": charts.coefficients([f"x{i}" for i in range(50)], rng.normal(size=50)),
        "bars": charts.bars(["a", "b", "b"], [1.0, np.nan, -3.0]),
        "batch size": charts.batch_size(
            [8, 16, 32], chosen=16, steps=[400, 250, 180], seconds=[0.4, 0.3, None], measured=([1, 2, 4, 8], [1e5, 2e5, 1.9e5, 4e5], [1e5, 1.95e5, 1.95e5, 4e5]),
            knee=8, noise=([2.3, 1.0, 0.5], [30.0, np.inf, 900.0], [20.0, 300.0, 500.0], [50.0, np.inf, 1500.0]),
        ),
        "batch size, little known": charts.batch_size([8], chosen=8, steps=[None]),
        "flat": charts.lr_curve([0, 1], [0.1, 0.1]),
    }


PICTURES = some_pictures()


@pytest.mark.parametrize("name", PICTURES)
@needs_converter
def test_draws_as_wellformed_inline_svg_in_the_pages_own_colour(name):
    svg = PICTURES[name].inline_svg()
    xml.fromstring(svg)
    assert "NaN" not in re.sub(r">[^<]*<", "><", svg), "a coordinate is not a number"
    assert "currentColor" in svg and "#1b2028" not in svg
    assert "http" not in svg and 'fill="white"' not in svg
    assert len(svg) < 200_000


@pytest.mark.parametrize("name", PICTURES)
def test_description_is_strict_json_with_few_rows(name):
    text = dumps(PICTURES[name].full_spec())
    assert len(text) < 400_000
    assert text.count('"x":') < 5000


@pytest.mark.parametrize("name", PICTURES)
@needs_altair
def test_altair_accepts_the_description(name):
    import altair

    def shortened(part):
        if isinstance(part, list):
            return [shortened(p) for p in part[:30]]
        return {k: shortened(v[:3] if k == "values" else v) for k, v in part.items()} if isinstance(part, dict) else part

    altair.Chart.from_dict(shortened(PICTURES[name].full_spec()))  # checks against the schema
    assert type(PICTURES[name].chart).__name__ in {"Chart", "LayerChart", "VConcatChart"}


@needs_converter
def test_saves_svg_png_and_a_page_that_fetches_nothing(tmp_path):
    picture = charts.lr_curve([0, 1, 2], [0.3, 0.2, 0.1])
    svg = picture.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg") and "Learning rate goes from 0.3 to 0.1" in svg
    assert picture.save(tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    html = picture.save(str(tmp_path / "a.html")).read_text(encoding="utf-8")
    outside = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r"\b(src|href)=|url\(|@import", outside)
    assert not re.search(r"<script[^>]+src", html[:2000])
    with pytest.raises(InvalidValue, match=r"'a.pdf'.*\.svg, \.png or \.html"):
        picture.save(tmp_path / "a.pdf")


@needs_converter
def test_user_text_in_a_figure_is_escaped():
    picture = charts.coefficients(["<script>alert(1)</script>", 'a" onload="b'], [1.0, 2.0])
    seen: list[tuple] = []
    reader = HTMLParser()
    reader.handle_starttag = lambda tag, attrs: seen.append((tag, [name for name, _ in attrs]))  # type: ignore[method-assign]
    reader.feed(picture.figure())
    assert len(seen) > 20
    assert not [t for t, names in seen if t == "script" or any(n.startswith("on") for n in names)]


@needs_converter
def test_user_text_cannot_end_the_script_of_an_interactive_page(tmp_path):
    name = "</script><script>alert(1)</script>"
    html = charts.coefficients([name], [1.0]).save(tmp_path / "a.html").read_text(encoding="utf-8")
    assert "alert(1)" in html and "<script>alert(1)" not in html


def test_missing_converter_names_the_line_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fallline\[report\]'"):
        PICTURES["lr"].inline_svg()
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtra, match=r"pip install 'fallline\[report\]'"):
        _ = PICTURES["lr"].chart


def test_import_is_light():
    code = "import sys, fallline.charts, fallline.report; print([m for m in ('altair', 'vl_convert', 'scipy', 'pandas') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=1, max_size=300), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_thinning_keeps_extremes_and_every_bad_bin(values, most):
    y = np.array(values, dtype=np.float64)
    t = thin(np.arange(len(y), dtype=float), y, most)
    assert len(t.x) <= most and len(t.x) == len(t.mean) == len(t.low) == len(t.high)
    finite = y[np.isfinite(y)]
    if len(finite) and t.per > 1:
        assert np.nanmin(t.low) == finite.min() and np.nanmax(t.high) == finite.max()
    bad = [not np.isfinite(y[i : i + t.per]).all() for i in range(0, len(y), t.per)]
    assert (~np.isfinite(t.mean)).tolist() == bad


def test_thinned_mean_is_the_mean_of_its_steps_and_says_so():
    y = np.arange(7.0)
    t = thin(y, y, 3)
    assert t.mean.tolist() == [1.0, 4.0, 6.0] and t.per == 3
    assert "mean of 3 steps" in t.caption
    assert "Each point is the mean of 14 steps" in PICTURES["loss"].caption


def test_lr_peak_and_jumps_survive_thinning():
    t = 1_000_000
    lr = np.full(t, 0.1)
    lr[123_457] = 0.7
    lr[500_000:] = 0.01
    drawn = charts.lr_curve(np.arange(t), lr).spec["layer"][0]["data"]["values"]
    assert len(drawn) <= MOST_POINTS
    assert {"x": 123457, "y": 0.7} in drawn
    assert {"x": 499999, "y": 0.1} in drawn and {"x": 500000, "y": 0.01} in drawn


def test_values_that_are_not_finite_are_gaps_with_a_mark_and_a_word():
    picture = PICTURES["broken"]
    text = dumps(picture.full_spec())
    assert "1,000 values of training loss not finite" in picture.caption
    assert '"y": null' in text and RED in text
    assert "training loss is NaN at 3000" in text
    assert PICTURES["nothing finite"].title == "No training loss was finite"


def test_titles_state_the_finding():
    assert PICTURES["lr"].title == "Learning rate starts at 0, peaks at 0.1 and ends at 1.71e-08"
    assert PICTURES["range"].title == "Chosen learning rate: 0.02 (between 0.01 and 0.1)"
    assert PICTURES["no rate"].title == "The range test found no learning rate"
    assert "validation loss was lowest" in PICTURES["loss"].title
    assert PICTURES["many classes"].caption.startswith("The 14 classes with most mistakes of 40")


def test_confusion_counts_every_row_even_when_classes_are_grouped():
    cells = PICTURES["many classes"].spec["data"]["values"]
    assert sum(c["count"] for c in cells) == 900


def test_log_axis_where_losses_are_far_apart():
    far = charts.loss_curves([0, 1, 2], [100.0, 1.0, 0.01]).spec["layer"][0]["encoding"]["y"]["scale"]
    near = charts.loss_curves([0, 1, 2], [3.0, 2.0, 1.0]).spec["layer"][0]["encoding"]["y"]["scale"]
    assert far["type"] == "log" and "type" not in near
    assert log_scale(True, np.array([0.01, 100.0]))["axis"]["values"][:2] == [0.01, 0.1]


def test_pr_and_calibration_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 500)
    p = np.round(rng.random(500), 1)  # many ties
    assert charts.pr(y, p).title.startswith(f"Average precision {short(metrics.average_precision_score(y, p))};")


def test_contour_of_a_circle_has_its_radius():
    axis = np.linspace(-2, 2, 81)
    grid = axis[:, None] ** 2 + axis[None, :] ** 2
    lines = contour(grid, 1.0)
    assert len(lines) == 1
    position = -2 + lines[0] * 0.05
    assert np.abs(np.hypot(*position.T) - 1).max() < 2e-3
    assert np.allclose(position[0], position[-1])


def test_colours_keep_their_contrast_on_white_and_on_near_black():
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for colour in SERIES:
        assert 1.05 / (light(colour) + 0.05) > 3.4
        assert (light(colour) + 0.05) / (light("#181c22") + 0.05) > 3.4


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: charts.lr_curve([0, 1], [0.1]), "steps: 2, lr: 1"),
        (lambda: charts.path({"a": [1, 2, 3]}), r"path 'a' has shape \(3,\): expected \(steps, 2\)"),
        (lambda: charts.confusion(["a"], ["b"], ["a"]), "label 'b' is not among the classes a"),
        (lambda: charts.coefficients(["a"], [1.0, 2.0]), "1 names for 2 values"),
        (lambda: charts.plan_curves({}), "at least one curve"),
        (lambda: charts.pr([0, 0], [0.1, 0.2]), "no row is of the positive class"),
        (lambda: charts.lr_curve([[0]], [[1]]), r"steps has shape \(1, 1\)"),
    ],
)
def test_errors_say_what_was_given_and_expected(call, says):
    with pytest.raises(InvalidValue, match=says):
        call()


floats = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(floats, min_size=1, max_size=40), st.booleans(), st.sampled_from([None, 3]))
@settings(max_examples=80, deadline=None)
def test_any_history_can_be_described(values, with_valid, per_epoch):
    y = np.array(values)
    x = np.arange(len(y))
    more = (x, y[::-1]) if with_valid else (None, None)
    for picture in (
        charts.loss_curves(x, y, *more, best_step=float(x[-1]), steps_per_epoch=per_epoch),
        charts.lr_curve(x, y, steps_per_epoch=per_epoch),
        charts.plan_curves({"a": y, "b": y[::-1]}),
        charts.range_test(np.logspace(-7, 1, len(y)), y, y, chosen=1e-3, diverged=1.0),
        charts.bars([str(i) for i in x], y),
        charts.predicted(x, y),
        charts.residuals(x, y),
    ):
        dumps(picture.full_spec())
        assert picture.title
