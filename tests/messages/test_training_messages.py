"""What `train` says when something cannot be done: what was given, what was expected, what to do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fallline import history, logs
from fallline.batches import Batches
from fallline.engines.reference import ReferenceEngine
from fallline.errors import Diverged, InvalidValue, PlanMismatch, UnknownName
from fallline.judges import EarlyStop, TimeBudget
from fallline.lengths import epochs
from fallline.plan import Plan
from fallline.problems import least_squares, logistic, rosenbrock
from fallline.rules import SGD
from fallline.training import Validation, train

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.where(X[:, 0] > 0, "yes", "no")
PROBLEM = logistic(X, Y)
PLAN = Plan(PROBLEM, epochs=1, batch_size=10, optimizer=SGD(lr=0.1))
NO_LENGTH: Any = 5
ROOT = Path(__file__).parents[2]
OTHER = logistic(X, np.where(Y == "yes", "a", "b"))


def attempt(plan: Plan = PLAN, problem: Any = PROBLEM, **options: Any) -> Any:
    return train(problem, plan, engine=ReferenceEngine(problem), progress=False, **options)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"plan": Plan(rows=7, epochs=1, optimizer=SGD(lr=0.1))}, PlanMismatch, "for 7 rows and the problem has 60"),
        ({"plan": Plan(steps=7, optimizer=SGD(lr=0.1))}, PlanMismatch, "does not know its rows and the problem has 60"),
        ({"resume": True}, InvalidValue, "resume=True without save="),
        ({"stop": EarlyStop(patience=epochs(1))}, InvalidValue, r"EarlyStop needs a validation score: give train\(..., valid="),
        ({"stop": 5}, InvalidValue, "stop=5: expected judges"),
        ({"stop": ["5m"]}, InvalidValue, "stop='5m': expected judges, such as EarlyStop"),
        ({"valid": X}, InvalidValue, r"valid= is a ndarray: expected \(X, y\)"),
        ({"valid": (X[:, :2], Y)}, InvalidValue, "X has 2 features and the model was trained with 3"),
        ({"valid": logistic(X[:, :2], Y)}, InvalidValue, "does not fit"),
        ({"valid": OTHER}, InvalidValue, r"classes \['a', 'b'\] and the problem \['no', 'yes'\]"),
        ({"valid": Validation((X, Y), metrics=["acuracy"])}, UnknownName, "did you mean 'accuracy'"),
        ({"valid": Validation((X, Y), every=NO_LENGTH)}, InvalidValue, r"every=5\): expected a length with its unit"),
        ({"start": np.zeros(3)}, InvalidValue, r"start has 3 numbers and the problem 4 parameters \(coef, intercept\)"),
        ({"start": {"coef": np.zeros(3)}}, InvalidValue, r"start\['intercept'\] is missing"),
        ({"start": {"coef": np.zeros(2), "intercept": 0.0}}, InvalidValue, r"start\['coef'\] has shape \(2,\): expected shape \(3,\)"),
        ({"start": {"coeff": np.zeros(3), "intercept": 0.0}}, UnknownName, "did you mean 'coef'"),
        ({"start": [0, 0, np.nan, 0]}, InvalidValue, "start holds nan at position 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anything_is_done(options: dict[str, Any], kind: type, words: str):
    with pytest.raises(kind, match=words):
        attempt(**options)


def test_a_function_has_no_validation():
    with pytest.raises(InvalidValue, match="needs a problem with data; this one is rosenbrock"):
        attempt(Plan(rosenbrock(), steps=3, optimizer=SGD(lr=1e-3)), rosenbrock(), valid=(X, Y))


@pytest.mark.parametrize("value", ["5 parsecs", 0, -1, float("nan")])
def test_a_time_budget_that_is_none(value: Any):
    with pytest.raises(InvalidValue, match="TimeBudget"):
        TimeBudget(value)


def test_patience_needs_a_unit_and_a_metric_a_name():
    with pytest.raises(InvalidValue, match=r"patience=3\): expected a length with its unit"):
        EarlyStop(patience=3)  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="did you mean 'rmse'"):
        EarlyStop(patience=epochs(3), metric="rmsee")


def test_an_extra_that_is_named_brings_its_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {pair for file in (history, logs) for pair in re.findall(r'MissingExtra\("([^"]+)", "([^"]+)"', Path(file.__file__).read_text())}
    assert {("pandas", "pandas"), ("tensorboardX", "tensorboard"), ("mlflow-skinny", "mlflow")} == named
    for package, extra in named:
        assert any(re.match(rf"{re.escape(package)}\b", requirement) for requirement in extras[extra]), (package, extra)


def diverged(problem: Any, plan: Plan) -> Any:
    with pytest.raises(Diverged) as caught:
        attempt(plan, problem)
    return caught.value


def test_divergence_names_the_edge_when_lr_is_above_it():
    problem = least_squares(X, X[:, 0])
    error = diverged(problem, Plan(problem, epochs=500, batch_size=Batches.full(), optimizer=SGD(lr=3.2)))
    assert "lr 3.2 was above the edge" in str(error) and "curvature" in str(error) and "try lr" in str(error)
    assert error.rows == () and "all rows" in str(error)
    assert error.run.outcome.name == "Diverged" and len(error.run.history.loss) == error.step
    assert np.isfinite(error.run.weights["coef"]).all()


def test_divergence_names_the_column_that_is_not_scaled_and_the_rows():
    wide = X * [1.0, 1.0, 4e4]
    problem = least_squares(wide, X[:, 0], feature_names=["age", "height", "income"])
    error = diverged(problem, Plan(problem, epochs=50, batch_size=20, optimizer=SGD(lr=0.1)))
    assert "or standardise 'income' (scale 3.8e+04)." in str(error)
    assert len(error.rows) == 10 and all(0 <= r < 60 for r in error.rows) and "..." in str(error)


def test_the_lr_that_is_advised_does_not_diverge():
    problem = least_squares(X, X[:, 0])
    error = diverged(problem, Plan(problem, epochs=500, batch_size=Batches.full(), optimizer=SGD(lr=3.2)))
    advised = float(str(error).rsplit("try lr ", 1)[1].rstrip("."))
    assert attempt(Plan(problem, epochs=500, batch_size=Batches.full(), optimizer=SGD(lr=advised)), problem).outcome.name == "Finished"
