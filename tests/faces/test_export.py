"""Runs as ONNX files: what onnxruntime says of raw columns is what the run says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fallline as fl

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pd = pytest.importorskip("pandas")


def frame(rows: int = 300, seed: int = 0) -> Any:
    draw = np.random.default_rng(seed)
    when = np.datetime64("1969-06-01") + draw.integers(-30_000, 30_000, rows).astype("timedelta64[D]")
    made = pd.DataFrame({"size": draw.normal(1e3, 20, rows), "town": draw.choice(["A", "B", "ü b"], rows), "when": when, "steady": draw.random(rows)})
    score = (made["size"] - 1e3) / 20 + (made["town"] == "A") + draw.normal(size=rows)
    made["no"], made["three"], made["price"] = np.where(score > 0, "yes", "no"), np.digitize(score, [-1, 1]), np.exp(score)
    for column, every in (("size", 7), ("town", 11), ("when", 13)):
        made.loc[made.index % every == 0, column] = None
    return made


def told(path: Path, table: Any) -> dict[str, np.ndarray]:
    """What onnxruntime makes of a frame's raw columns."""
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    feeds = {}
    for wanted in session.get_inputs():
        column = table[wanted.name]
        values = column.to_numpy().astype("datetime64[us]").astype(np.int64) if column.dtype.kind == "M" else column.to_numpy()
        feeds[wanted.name] = (column.fillna("").to_numpy(object) if "string" in wanted.type else values)[:, None]
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


INPUTS = ["size", "town", "when", "steady"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "two classes": ("no", {}),
    "three classes, numbers": ("three", {"options": fl.TableOptions(task="classification")}),
    "numbers": ("price", {}),
    "numbers, log": ("price", {"options": fl.TableOptions(log_target=True)}),
    "counts": ("three", {"options": fl.TableOptions(task="regression"), "choices": fl.Choices(epochs=2, loss="poisson", optimizer=fl.SGD(0.01))}),
    "a hinge": ("no", {"choices": fl.Choices(epochs=2, loss="hinge")}),
    "a network": ("three", {"options": fl.TableOptions(task="classification"), "model": "mlp:8,4"}),
    "a network, numbers": ("price", {"model": "mlp:8"}),
}


@pytest.mark.parametrize("case", CASES)
def test_raw_columns_in_the_run_s_predictions_out(case: str, tmp_path: Path):
    if "network" in case:
        pytest.importorskip("torch")
    target, options = CASES[case]
    run = fl.fit(frame()[[*INPUTS, target]], target=target, epochs=2, progress=False, **options)
    checked = run.export(tmp_path / "deep" / "model.onnx")
    assert checked.rows == 64 and checked.difference < 1e-5
    new = frame(seed=5)
    new.loc[3, "town"] = "a town that nobody has seen"
    found, mine = told(tmp_path / "deep" / "model.onnx", new), run.predict(new)
    if mine.dtype.kind == "f":
        np.testing.assert_allclose(found["prediction"], mine, rtol=1e-6 if "network" not in case else 1e-4, atol=1e-6)
    else:
        assert (found["prediction"] == mine).mean() > 0.99
    assert ("probabilities" in found) == (run.model.loss.has_probabilities)
    if "probabilities" in found:
        np.testing.assert_allclose(found["probabilities"], run.predict_proba(new), rtol=1e-5, atol=1e-6)


def test_arrays_and_a_loaded_run(tmp_path: Path, run: Any):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(100, 3))
    fl.fit(X, X[:, 0] > 0, epochs=2, save=tmp_path / "kept", progress=False)
    done = run("export", tmp_path / "kept", tmp_path / "a.onnx")
    assert done.code == 0 and re.search(r"a\.onnx: checked with onnxruntime: 64 made-up rows, the same predictions", done.out)
    problem = fl.logistic(X, np.where(X[:, 1] > 0, "up", "down"))
    other = fl.train(problem, fl.Plan(problem, epochs=2, batch_size=10, optimizer=fl.SGD(0.1)), progress=False)
    other.export(tmp_path / "b.onnx")
    session = runtime.InferenceSession((tmp_path / "b.onnx").read_bytes())
    assert session.run(["prediction"], {"X": X})[0].tolist() == other.predict(X).tolist()
    assert session.get_modelmeta().custom_metadata_map["weights"] == "last"


@pytest.mark.parametrize("loss", ["log_loss", "hinge", "modified_huber", "squared_error"])
@pytest.mark.parametrize("classes", [2, 3])
def test_classifiers_of_scikit_learn_s_kind(loss: str, classes: int, tmp_path: Path):
    draw = np.random.default_rng(0)
    X = draw.normal(size=(300, 4))
    y = np.array(["a", "b", "c"])[np.digitize(X[:, 0], [-0.5, 0.5]) % classes]
    model = fl.sklearn.GDClassifier(loss=loss, random_state=0, max_iter=20, tol=None).fit(X, y)
    assert model.export(tmp_path / "a.onnx").difference < 1e-9
    found = runtime.InferenceSession((tmp_path / "a.onnx").read_bytes()).run(None, {"X": X})
    assert found[0].tolist() == model.predict(X).tolist()
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(found[1], model.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "quantile"])
def test_regressors_of_scikit_learn_s_kind(loss: str, tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(300, 4))
    model = fl.sklearn.GDRegressor(loss=loss, random_state=0, max_iter=20, tol=None).fit(X, np.exp(X[:, 0]))
    assert model.export(tmp_path / "a.onnx").difference < 1e-9
    found = runtime.InferenceSession((tmp_path / "a.onnx").read_bytes()).run(None, {"X": X})
    np.testing.assert_allclose(found[0], model.predict(X), rtol=1e-9)


def test_dates_are_exact_over_all_of_history():
    """Year, month, weekday and days of every kind of date, by the operators and by the encoder."""
    from fallline.export.columns import features
    from fallline.export.graph import Graph
    from fallline.tables.cells import Cells
    from fallline.tables.columns import Column
    from fallline.tables.encoders import Encoder

    days = np.concatenate([np.arange(-800, 800), np.random.default_rng(0).integers(-4_000_000, 4_000_000, 3000)])
    dates = days.astype("datetime64[D]").astype("datetime64[us]") + np.random.default_rng(1).integers(0, 86_400_000_000, len(days))
    dates[5] = np.datetime64("NaT")
    column = Column("when", "date", np.array([[0.0, 0, 0, 0], [1, 1, 1, 1]]), marks_missing=True)
    graph = Graph()
    graph.output("X", features(graph, Encoder((column,))), np.float32, 5)
    session = runtime.InferenceSession(graph.model({}).SerializeToString())
    found = session.run(None, {"when": dates.astype(np.int64)[:, None]})[0]
    assert np.array_equal(found, column.dense(Cells("when", "date", dates), np.arange(len(dates))).T)


def test_what_onnx_has_no_words_for_is_refused_by_name(tmp_path: Path):
    many = pd.DataFrame({"zip": [f"z{i % 90}" for i in range(400)], "x": np.arange(400.0), "y": [i % 2 for i in range(400)]})
    run = fl.fit(many, target="y", epochs=1, progress=False, options=fl.TableOptions(types={"zip": "category"}, task="classification"))
    with pytest.raises(fl.InvalidValue, match=r"'zip' is hashed \(hashed to 512 columns\), and ONNX has no such hash; .*--drop zip"):
        run.export(tmp_path / "a.onnx")
    with pytest.raises(fl.InvalidValue, match=r"'a\.bin': expected a file that ends in \.onnx"):
        run.export("a.bin")
    quadratic = fl.quadratic([1.0, 2.0])
    with pytest.raises(fl.InvalidValue, match="its model is code of your own"):
        fl.train(quadratic, fl.Plan(quadratic, steps=3, optimizer=fl.SGD(0.1)), progress=False).export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import sys

    run = fl.fit(frame()[["size", "no"]], target="no", epochs=1, progress=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(fl.MissingExtra, match=r"exporting to ONNX needs the package 'onnx', which is not installed: pip install 'fallline\[onnx\]'"):
        run.export(tmp_path / "a.onnx")
