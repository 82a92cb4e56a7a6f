"""Networks on tables: `fl.fit(..., model=...)` and `fallline fit --model`, from the words to the predictions of a loaded run."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402
from fallline.model_spec import model_spec  # noqa: E402
from fallline.problems.network import NetworkModel  # noqa: E402
from fallline.torch.network import TableLoss, built, network_of  # noqa: E402

FACTORY = """
import torch

def make(features, outputs):
    return torch.nn.Sequential(torch.nn.Linear(features, 16), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(16, outputs))

def flat(features, outputs):
    return torch.nn.Sequential(torch.nn.Linear(features, 1), torch.nn.Flatten(0))

def narrow(features, outputs):
    return torch.nn.Linear(features, outputs + 1)

def deaf(features, outputs):
    return torch.nn.Linear(features + 2, outputs)

def broken(features, outputs):
    return torch.nn.Linear(features, outputs) + 1

def number(features, outputs):
    return 7

def alone(features):
    return torch.nn.Linear(features, 1)

word = "not a function"
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with factories in it, that is the current one; nothing of the user's own cache is seen or changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FALLLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "nets_of_mine.py").write_text(FACTORY)
    yield tmp_path
    sys.modules.pop("nets_of_mine", None)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def columns(rows: int = 200, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    a, b = draw.standard_normal(rows), draw.standard_normal(rows)
    return {"a": a, "b": b, "price": np.exp(a * b / 2 + 3), "weight": draw.integers(1, 4, rows).astype(float), "kind": np.where(a * b > 0, "up", "down")}


# ------------------------------------------------------------------------------------------------------- the library


def test_an_mlp_on_real_digits_predicts_saves_and_loads(tmp_path):
    run = fl.fit("digits", model="mlp:64", epochs=4, progress=False)
    assert run.summary["headline"]["value"] > 0.93 and isinstance(run.model, NetworkModel)
    whats = {e["what"]: e for e in run.journal}
    assert "4,618 parameters on cpu" in whats["model"]["why"] and "AdamW" in whats["optimizer"]["value"] and "quick prototype" in whats["optimizer"]["why"]
    run.save(tmp_path / "run")
    loaded = fl.load(tmp_path / "run")
    assert str(loaded.model.spec) == "mlp:64"
    source = fl.table("digits").test.X
    assert np.array_equal(loaded.model.predict(loaded.answer, source), run.model.predict(run.answer, source))
    assert np.array_equal(loaded.predict("digits"), run.predict("digits")) and set(loaded.predict("digits")) <= set(range(10))
    assert np.allclose(loaded.predict_proba("digits").sum(axis=1), 1)
    held = json.loads((tmp_path / "run" / "model.json").read_text())
    assert held["network"]["spec"] == "mlp:64" and held["model"] is None


def test_what_a_linear_model_cannot_learn_a_network_does():
    data = columns(300)
    table = fl.table({k: data[k] for k in ("a", "b", "kind")}, target="kind")
    line, net = (fl.fit(table, model=model, epochs=20, progress=False).summary["headline"]["value"] for model in ("linear", "mlp:32"))
    assert line < 0.7 < 0.8 < net


def test_regression_learns_the_log_and_answers_in_the_user_s_terms():
    data = columns(400)
    options = fl.TableOptions(log_target=True)
    run = fl.fit({k: data[k] for k in ("a", "b", "price")}, target="price", options=options, model="mlp:32", epochs=20, progress=False)
    guess = run.predict({k: data[k] for k in ("a", "b")})
    assert guess.shape == (400,) and np.corrcoef(np.log(guess), np.log(data["price"]))[0, 1] > 0.9
    assert run.summary["headline"]["metric"] == "rmse" and run.summary["headline"]["value"] < run.summary["headline"]["baseline"]


def test_the_same_seed_is_the_same_run_and_another_another():
    one, two, three = (fl.fit("diabetes", choices=fl.Choices(epochs=2, model="mlp:8", seed=s), progress=False) for s in (0, 0, 1))
    assert all(np.array_equal(one.weights[k], two.weights[k]) for k in one.weights)
    assert not np.array_equal(one.weights["0.weight"], three.weights["0.weight"])
    state = torch.get_rng_state()
    built(model_spec("mlp:8"), 3, 1, 0)
    assert torch.equal(torch.get_rng_state(), state)


ALSO = {"each_against_the_rest": "modified_huber"}


def _problems(loss: str, weighted: bool, kind: type) -> tuple[fl.problems.LinearProblem, fl.torch.ModuleProblem]:
    draw = np.random.default_rng(1)
    X = draw.standard_normal((40, 5)).astype(np.float32)
    classes = 3 if loss in ("softmax", "each_against_the_rest") else 2
    y = draw.integers(0, classes, 40) if fl.problems.Loss(ALSO.get(loss, loss)).classifies else draw.integers(0, 5, 40).astype(np.float64)
    make = {
        "squared_hinge": lambda *a, **k: fl.hinge(*a, squared=True, **k), "each_against_the_rest": fl.modified_huber,
        "squared_epsilon_insensitive": lambda *a, **k: fl.epsilon_insensitive(*a, squared=True, **k),
    }.get(loss) or getattr(fl, loss)  # fmt: skip
    rows = make(kind(X), y, weights=draw.uniform(0.2, 3, 40) if weighted else None)
    problem, _ = network_of(rows, model_spec(lambda features, outputs: torch.nn.Linear(features, outputs)))
    return rows, problem


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("loss", [*fl.problems.losses.NAMES, "each_against_the_rest"])
def test_a_dense_layer_has_the_loss_gradient_and_metrics_of_the_linear_model(loss: str, weighted: bool, kind: type):
    """Loss, classes, sample weights and sparse rows mean the same in both."""
    rows, problem = _problems(loss, weighted, kind)
    w = np.random.default_rng(2).standard_normal(rows.layout.size)
    outputs = rows.outputs
    coef, intercept = w[: rows.features * outputs].reshape(rows.features, outputs), w[rows.features * outputs :]
    theirs = np.concatenate([coef.T.reshape(-1), intercept])
    for batch in (None, np.array([3, 1, 30, 8])):
        (one, g), (two, h) = rows.gradient(w, batch), problem.gradient(theirs, batch)
        back = np.concatenate([h[: coef.size].reshape(outputs, rows.features).T.reshape(-1), h[coef.size :]])
        assert two == pytest.approx(one, rel=1e-5) and np.abs(back - g).max() < 1e-5 * max(1, np.abs(g).max())
    metrics = [fl.metrics.metric(m) for m in rows.usual_metrics]
    assert problem.usual_metrics == rows.usual_metrics
    ours, linear = problem.measure(problem._point(theirs), metrics), rows.measure(w, metrics)
    assert ours[0] == pytest.approx(linear[0], rel=1e-5) and ours[1] == pytest.approx(linear[1], rel=1e-4)


def test_class_and_sample_weights_reach_the_network():
    data = columns(300)
    table = {k: data[k] for k in ("a", "b", "kind", "weight")}
    heavy = fl.table(table, target="kind", options=fl.TableOptions(sample_weight="weight", class_weight={"up": 5.0, "down": 1.0}))
    problem, _ = network_of(heavy.problem("softmax"), model_spec("mlp:8"))
    assert isinstance(problem.objective, TableLoss) and len(problem.source.nest) == 3
    assert float(problem.source.nest[2].mean()) == pytest.approx(1, abs=1e-6)
    shares = []
    for weights in (None, {"up": 20.0, "down": 1.0}):
        options = fl.TableOptions(class_weight=weights)
        run = fl.fit({k: data[k] for k in ("a", "b", "kind")}, target="kind", options=options, model="mlp:4", epochs=1, progress=False)
        shares.append(np.mean(run.predict({k: data[k] for k in ("a", "b")}) == "up"))
    assert shares[1] > shares[0]


def test_text_columns_stay_sparse_until_they_are_batches():
    draw = np.random.default_rng(0)
    good = draw.integers(0, 2, 120)
    words = np.array(["dull", "fine"])
    texts = [f"a {words[g]} film, {' '.join(draw.choice(['long', 'short', 'old', 'new'], 3))}" for g in good]
    run = fl.fit({"review": texts, "stars": np.where(good, "many", "few")}, target="stars", options=fl.TableOptions(types={"review": "text"}), model="mlp:8", epochs=6, progress=False)
    assert run.model.features == 16384 and run.summary["headline"]["value"] > 0.9
    assert run.predict({"review": ["a fine film", "a dull film"]}).tolist() == ["many", "few"]


def test_a_module_or_a_function_of_one_s_own(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(61, 10))
    run = fl.fit("digits", model=module, epochs=2, progress=False)
    assert run.model.module is module
    run.save(tmp_path / "own")
    with pytest.raises(fl.InvalidValue, match="no name leads to"):
        fl.load(tmp_path / "own").predict("digits")
    again = fl.load(tmp_path / "own", model=torch.nn.Sequential(torch.nn.Linear(61, 10)))
    assert np.array_equal(again.predict("digits"), run.predict("digits"))
    with pytest.raises(fl.InvalidValue, match=r"'0.bias' has shape \(3,\) in the module and \(10,\) in the run"):
        fl.load(tmp_path / "own", model=torch.nn.Sequential(torch.nn.Linear(61, 3)))


def test_a_linear_run_takes_no_model_and_a_problem_brings_its_own(tmp_path):
    fl.fit("diabetes", epochs=1, save=tmp_path / "line", progress=False)
    with pytest.raises(fl.InvalidValue, match=r"runs of an nn\.Module"):
        fl.load(tmp_path / "line", model="mlp:3")
    with pytest.raises(fl.InvalidValue, match="a problem has its model already"):
        fl.fit(fl.least_squares([[1.0], [2.0]], [1.0, 2.0]), model="mlp:3")


def test_a_run_of_a_network_without_torch_still_shows_what_it_has(tmp_path, monkeypatch):
    run = fl.fit("diabetes", epochs=1, model="mlp:4", save=tmp_path / "run", progress=False)
    monkeypatch.setitem(sys.modules, "fallline.torch.network", None)
    loaded = fl.load(tmp_path / "run")
    assert loaded.history.steps == run.history.steps and "mlp:4" in repr(loaded.model)


# -------------------------------------------------------------------------------------------------- the command line


def test_the_command_line_fits_predicts_reports_and_ranks_a_network(run, place):
    done = run("fit", "digits", "--model", "mlp:64", "--epochs", 3, "--out", "runs/net")
    assert done.code == 0 and "NetworkModel(mlp:64" in done.out and "test accuracy" in done.out and "runs/net/report.html" in done.out
    assert "NetworkModel(mlp:64" in Path("runs/net/report.html").read_text()
    done = run("predict", "runs/net", "digits", "-o", "p.csv", "--proba")
    assert done.code == 0
    with open("p.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 1797 and "probability of 3" in lines[0]
    assert [int(line["target"]) for line in lines] == fl.load("runs/net").predict("digits").tolist()
    again = run("fit", "digits", "--model", "mlp:64", "--epochs", 3, "--out", "runs/net")
    assert again.code == 0 and "holds this run, finished" in again.out
    assert run("fit", "digits", "--model", "mlp:32", "--epochs", 3, "--out", "runs/net").code == 6
    assert run("report", "runs/net").code == 0
    assert "net" in run("runs", "runs").out


def test_find_lr_and_compare_take_a_network(run):
    done = run("find-lr", "digits", "--model", "mlp:16", "--optimizer", "adamw", "--json")
    assert done.code == 0 and 1e-4 < json.loads(done.out)["lr"] < 0.3
    words = ("compare", "diabetes", "--model", "mlp:8", "--variants", "minibatch,adamw", "--epochs", 2, "--seeds", 2, "--json")
    done = run(*words)
    assert done.code == 0 and len(json.loads(done.out)["variants"]) == 2


def test_a_factory_of_one_s_own_by_name(run, place):
    done = run("fit", "digits", "--model", "nets_of_mine:make", "--epochs", 2, "--out", "runs/own")
    assert done.code == 0 and "nets_of_mine:make" in done.out
    done = run("predict", "runs/own", "digits", "-o", "p.csv")
    assert done.code == 0 and "made by nets_of_mine:make, which is imported" in done.err
    regression = run("fit", "diabetes", "--model", "nets_of_mine:flat", "--epochs", 1, "--out", "runs/flat")
    assert regression.code == 0


def test_a_name_in_a_file_runs_nothing_that_was_not_used_here(run, place):
    """Another machine, or another module of the same name: nothing is imported before the user says so."""
    run("fit", "diabetes", "--model", "nets_of_mine:make", "--epochs", 1, "--out", "runs/own")
    (place / "cache" / "fallline" / "factories.txt").unlink()
    sys.modules.pop("nets_of_mine")
    done = run("predict", "runs/own", "diabetes", "-o", "p.csv")
    assert done.code == 3 and "if you trust it" in done.err and "--model nets_of_mine:make" in done.err
    assert "nets_of_mine" not in sys.modules
    assert fl.load("runs/own").history.steps > 0, "what needs no module needs no import"
    assert run("predict", "runs/own", "diabetes", "-o", "p.csv", "--model", "nets_of_mine:make").code == 0
    assert run("predict", "runs/own", "diabetes", "-o", "p.csv").code == 0, "the name is known now"
    (place / "elsewhere").mkdir()
    (place / "nets_of_mine.py").rename(place / "elsewhere" / "nets_of_mine.py")
    sys.modules.pop("nets_of_mine")
    sys.path.insert(0, str(place / "elsewhere"))
    assert run("predict", "runs/own", "diabetes", "-o", "p.csv").code == 3, "the same name, another file"


def test_a_factory_that_has_changed_is_refused(run, place):
    run("fit", "diabetes", "--model", "nets_of_mine:make", "--epochs", 1, "--out", "runs/own")
    (place / "nets_of_mine.py").write_text(FACTORY.replace("16", "17 "))
    sys.modules.pop("nets_of_mine")
    done = run("predict", "runs/own", "diabetes", "-o", "p.csv")
    assert done.code == 3 and "build the module as it was" in done.err


def test_without_torch_the_extra_is_named(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in [n for n in sys.modules if n.startswith("fallline.torch.")]:
        monkeypatch.delitem(sys.modules, name)
    done = run("fit", "digits", "--model", "mlp:8")
    assert done.code == 7 and "pip install 'fallline[torch]'" in done.err
