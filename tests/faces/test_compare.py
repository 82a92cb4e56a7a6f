"""`fl.compare` and `fallline compare | runs | report RUN RUN` as a person meets them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import fallline as fl
from fallline.charts.picture import dumps
from fallline.cli import compare_commands, compare_work
from fallline.comparing import folders
from fallline.comparing.contenders import VARIANTS
from fallline.report.side_by_side import differing

LECTURE = {"plain": fl.SGD(lr=0.018), "momentum": fl.SGD(lr=0.018, momentum=0.9), "look-ahead": fl.Nesterov(lr=0.018, momentum=0.9)}
REQUEST = re.compile(r"""(?:src|href)\s*=\s*["'](?!#|data:)|url\((?!["']?(?:#|data:))|@import|https?://(?!www\.w3\.org/)""")


@pytest.fixture(scope="module")
def lecture() -> fl.Comparison:
    return fl.compare(fl.quadratic([1, 100]), LECTURE, start=[-4, 1.5], steps=60, progress=False)


@pytest.fixture(scope="module")
def data() -> fl.Comparison:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((80, 3))
    y = np.where(X @ [1.0, -2.0, 0.5] + 0.3 * rng.standard_normal(80) > 0, "</script>yes", "no")
    problem = fl.logistic(X[:60], y[:60])
    return fl.compare(problem, {"batch": "batch", "<b>sgd": "sgd", "m": fl.SGD(lr=0.1, momentum=0.9)}, epochs=3, seeds=2, batch_size=8, valid=(X[60:], y[60:]), progress=False)


def test_the_lecture_as_it_stands(lecture: fl.Comparison, tmp_path: Path) -> None:
    picture = lecture.plot()
    assert "look-ahead diverged" in picture.title and "momentum ends lowest" in picture.title
    assert picture.save(tmp_path / "x.png").stat().st_size > 20_000
    assert repr(lecture) == f"Comparison(plain={lecture['plain'].final:.4g}, momentum={lecture['momentum'].final:.4g}, look-ahead=diverged)"
    page = lecture._repr_html_()
    assert page.count("<svg") == 1 and "diverged" in page
    assert len(picture.spec["vconcat"]) == 4  # a panel for each path, and the values
    assert fl.Nesterov(lr=0.1, momentum=0.9).formula().startswith("g = gradient at (w - lr*0.9*v)")


def test_the_picture_on_data_has_a_switch_of_its_axis(data: fl.Comparison, tmp_path: Path) -> None:
    picture = data.plot()
    (switch,) = picture.spec["params"]
    assert switch["bind"]["options"] == ["rows", "updates", "seconds"] and switch["value"] == "rows"
    lines = next(layer for layer in picture.spec["layer"] if layer["mark"]["type"] == "line")
    assert lines["transform"] == [{"calculate": "datum[across]", "as": "at"}] and lines["encoding"]["x"]["field"] == "at"
    first = lines["data"]["values"][-1]
    assert first["rows"] == 180 and first["updates"] == 24 and first["seconds"] > 0
    assert len([layer for layer in picture.spec["layer"] if layer["mark"]["type"] == "area"]) == 2  # batch needs one seed
    html = picture.save(tmp_path / "x.html").read_text()
    assert "across" in html and "</script>yes" not in html
    assert picture.chart.to_dict(validate=False)["params"][0]["name"] == "across"
    assert "One seed where nothing is drawn: batch." in picture.caption and "median of 2 seeds" in picture.caption
    dumps(picture.full_spec())


def test_the_table_in_all_its_forms(data: fl.Comparison) -> None:
    table = data.table
    assert len(table) == 3 and next(iter(table)) == "variant" and table.keys() == list(table)
    row = table.row("batch")
    assert row["updates"] == 3 and row["rows"] == 180 and row["runs"] == 1 and row["loss"] == row["loss_low"] == row["loss_high"]
    row = table.row("m")
    assert row["loss_low"] <= row["loss"] <= row["loss_high"] and row["lr"] == 0.1 and row["lr_source"] == "given"
    assert row["metric_name"] == "accuracy" and 0.5 <= row["metric"] <= 1 and row["valid_loss"] > 0
    frame = table.to_pandas()
    assert list(frame["variant"]) == ["batch", "<b>sgd", "m"] and frame["loss"].tolist() == table["loss"]
    text = repr(table)
    assert text.splitlines()[0].split()[:2] == ["variant", "loss"] and "one seed" in text and "find_lr" in text
    assert "&lt;b&gt;sgd" in table._repr_html_() and "<b>sgd" not in table._repr_html_()
    json.dumps(table.rows())


def test_a_page_stands_alone_and_escapes(data: fl.Comparison, lecture: fl.Comparison, tmp_path: Path) -> None:
    page = data.report(tmp_path / "deep" / "x.html").read_text()
    assert not REQUEST.search(page) and "<script" not in page and "default-src &#x27;none&#x27;" in page
    assert "&lt;b&gt;sgd" in page and "<b><b>sgd" not in page
    assert page.count('type="radio"') == 6 and page.count("<figure") == 6 and page.count(" checked>") == 1
    assert "held-out loss" in page and "lowest loss that every variant reached" in page
    other = lecture.report(tmp_path / "y.html").read_text()
    assert "above its edge" in other and "The paths" in other and not REQUEST.search(other)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_animation(lecture: fl.Comparison, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    fast = fl.compare(fl.quadratic([1, 100]), LECTURE, start=[-4, 1.5], steps=6, progress=False)
    with image.open(fast.animate(tmp_path / "r.gif", seconds=2)) as picture:
        assert picture.n_frames == 7 and picture.size == (720, 400)
        first = np.asarray(picture.convert("RGB"))
        picture.seek(6)
        last = np.asarray(picture.convert("RGB"))
    assert tuple(last[-1, 0]) == (255, 255, 255)
    assert (first != last).any(axis=2).mean() > 0.002
    assert (np.abs(last.astype(int) - [0xD9, 0x69, 0x1E]).sum(axis=2) < 100).sum() > 100  # momentum's own colour


def test_compare_on_data(run) -> None:
    done = run("compare", "diabetes", "--variants", "batch,sgd,momentum", "--epochs", 2, "--seeds", 2)
    assert done.code == 0 and "report: diabetes-compared.html" in done.out and "end" in done.out
    assert re.search(r"^batch .* find_lr", done.out, re.M) and Path("diabetes-compared.html").stat().st_size > 50_000
    told = run("compare", "diabetes", "--variants", "sgd,cosine", "--epochs", 2, "--seeds", 2, "--out", "x.html", "--json")
    document = json.loads(told.out)
    assert [v["variant"] for v in document["variants"]] == ["sgd", "cosine"] and document["report"] == "x.html"
    assert document["rows"] == 376 and document["held_out_rows"] == 66 and document["variants"][0]["runs"] == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("diabetes", "--variants", "batch,momentun"), 3, "no variant 'momentun'; did you mean 'momentum'?"),
        (("diabetes", "--variants", "sgd,sgd"), 3, "a name stands there twice"),
        (("diabetes", "--lr", "0.1"), 3, "--lr: for ravine and rosenbrock only"),
        (("diabetes", "--out", "x.pdf"), 3, "expected a file that ends in .html"),
        (("ravin",), 3, "no file or built-in data set 'ravin'"),
        (("ravine", "--momentum", "1"), 3, "--momentum 1: expected a number above 0 and below 1"),
        (("ravine", "--steps", "0"), 3, "--steps 0"),
        (("rosenbrock", "--noise", "1"), 3, "--noise belongs to ravine"),
        (("ravine", "--out", "x.mp4"), 3, ".html or .gif or .png or .svg"),
        (("diabetes", "--target", "prise"), 3, "no column 'prise'"),
        (("ravine", "--moment", "1"), 2, "No such option"),
    ],
)
def test_compare_says_what_is_wrong(run, words: tuple, code: int, message: str) -> None:
    done = run("compare", *words)
    assert (done.code, done.out) == (code, "") and message in done.err and "Traceback" not in done.err


def test_the_ravine_as_a_page(run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fallline.report import ravine_page

    monkeypatch.setattr(ravine_page, "RATES", 3)
    monkeypatch.setattr(ravine_page, "MOMENTA", (0.0, 0.9))
    done = run("compare", "ravine", "--lr", 0.013, "--steps", 20)
    assert done.code == 0 and "page: ravine.html" in done.out
    page = Path("ravine.html").read_text()
    outside = page.replace(page[page.index("<script>") : page.rindex("</script>")], "")
    assert not REQUEST.search(outside) and "script-src &#x27;sha256-" in page and "fetch(" not in page and "XMLHttpRequest" not in page
    held = json.loads(page[page.index('id="data">') + 10 : page.index("</script>")])
    assert 0.013 in held["lr"] and held["lr"][held["at"]["lr"]] == 0.013 and held["momentum"] == [0.0, 0.9]
    assert held["edges"][2][1] == 0.01357 and held["edges"][0] == [0.02, 0.02]  # the table of docs/momentum.md, over 100
    ways, rates, methods = 3, 4, 3
    import base64

    assert len(base64.b64decode(held["paths"])) == ways * rates * methods * 21 * 3 * 2
    quiet = run("compare", "ravine", "--noise", 0, "--steps", 20, "--out", "q.html")
    assert quiet.code == 0 and 'name="noise"' not in Path("q.html").read_text().split("<script")[0]


def test_the_ravine_as_a_picture(run) -> None:
    done = run("compare", "ravine", "--steps", 5, "--out", "r.png", "--json")
    assert json.loads(done.out)["file"] == "r.png" and Path("r.png").read_bytes()[:4] == b"\x89PNG"


def test_help_names_every_variant() -> None:
    assert compare_commands.VARIANT_NAMES.split(", ") == list(VARIANTS)
    assert set(compare_work.LANDSCAPES) == {"ravine", "rosenbrock"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three finished runs, one in a folder below, one damaged and two unfinished."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 2))
    table = {"a": X[:, 0], "b": X[:, 1], "y": np.where(X[:, 0] + 0.5 * rng.standard_normal(120) > 0, "yes", "no")}
    for name, rule in (("one", fl.SGD(lr=0.1)), ("two", fl.SGD(lr=0.1, momentum=0.9)), ("deep/three", fl.SGD(lr=1e-4))):
        fl.fit(table, target="y", choices=fl.Choices(epochs=3, optimizer=rule, batch_size=8), save=root / name, progress=False)
    shutil.copytree(root / "one", root / "hurt")
    (root / "hurt" / "plan.json").write_text("{}")
    (root / "half").mkdir()
    shutil.copy(root / "one" / "plan.json", root / "half")
    (root / ".five.77.tmp").mkdir()
    (root / "notes").mkdir()
    (root / "notes" / "words.txt").write_text("not a run")
    return root


def test_runs_are_ranked_and_none_is_dropped(run, folder: Path) -> None:
    done = run("runs", folder, "--sort", "valid_loss")
    assert done.code == 0 and "ranked by valid loss, lower is better" in done.out
    listed = json.loads(run("runs", folder, "--sort", "valid loss", "--json").out)
    by_name = {r["run"]: r for r in listed["runs"]}
    assert set(by_name) == {"one", "two", "deep/three", "hurt", "half", ".five.77.tmp"}
    assert by_name["hurt"]["state"] == "damaged" and "plan.json has 2 bytes where" in by_name["hurt"]["why"] and by_name["hurt"]["rank"] is None
    assert by_name["half"]["state"] == by_name[".five.77.tmp"]["state"] == "unfinished"
    ranked = [r for r in listed["runs"] if r["rank"]]
    assert [r["rank"] for r in ranked] == [1, 2, 3] and [r["value"] for r in ranked] == sorted(r["value"] for r in ranked)
    assert ranked[-1]["run"] == "deep/three"
    for name in ("one", "two", "deep/three"):
        held = fl.load(folder / name)
        assert by_name[name]["values"]["test accuracy"] == held.summary["test"]["metrics"]["accuracy"]["value"]


def test_runs_rank_by_what_is_better(folder: Path) -> None:
    listed = folders.listing(folder)
    assert folders.chosen(listed, None) == "test accuracy" == folders.chosen(listed, "Accuracy")
    values = [one.values["test accuracy"] for rank, one in folders.ranked(listed, "test accuracy") if rank]
    assert values == sorted(values, reverse=True)
    assert folders.listing(folder / "one")[0].state == "Finished"


def test_runs_says_what_is_wrong(run, folder: Path, tmp_path: Path) -> None:
    wrong = run("runs", folder, "--sort", "acuracy")
    assert wrong.code == 3 and "did you mean 'test accuracy'?" in wrong.err
    assert run("runs", tmp_path / "none").code == 3
    empty = run("runs", tmp_path)
    assert empty.code == 3 and "no run folder below" in empty.err


def test_runs_side_by_side(run, folder: Path) -> None:
    done = run("report", folder / "one", folder / "two", folder / "deep" / "three", "--out", "x.html")
    assert done.code == 0 and done.out.strip() == "x.html"
    page = Path("x.html").read_text()
    assert not REQUEST.search(page) and "<script" not in page
    places = [page.index(f'id="{part}"') for part in ("settings", "curves", "metrics")]
    assert places == sorted(places)
    shown = page[places[0] : page.index("<details>")]
    assert "momentum" in shown and "learning rate" in shown and "seed" not in shown
    assert "validation loss by rows read" in page and "test accuracy" in page and " to " in page[places[2] :]
    told = json.loads(run("report", folder / "one", folder / "two", "--json", "--out", "y.html").out)
    assert told["report"] == "y.html" and len(told["runs"]) == 2
    beside = run("report", folder / "one", folder / "two")
    assert beside.code == 0 and (folder / "side-by-side.html").exists()


def test_what_differs_is_what_differs(folder: Path) -> None:
    held = {name: fl.load(folder / name) for name in ("one", "two")}
    apart, alike = differing(held)
    assert apart["momentum"] == ["0", "0.9"] and alike["seed"] == "0" and alike["learning rate"] == "0.1"
    assert "updates made" in alike and not set(apart) & set(alike)


def test_side_by_side_says_what_is_wrong(run, folder: Path) -> None:
    assert run("report", folder / "one", folder / "one").code == 3
    assert run("report", folder / "one", "--out", "x.html").code == 2
    hurt = run("report", folder / "one", folder / "hurt")
    assert hurt.code == 6 and "plan.json has 2 bytes where" in hurt.err
    assert run("report", folder / "one", folder / "nothing").code == 3
