"""The edge of stability: read off the rows it is theory's, and descents below it converge and above it blow up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fallline as fl
from fallline.curvature import Curvature, differences, measured, top_eigenvalue
from fallline.engines.reference import ReferenceEngine
from fallline.history import State
from fallline.rules.stability import borne, parts_of, radius

FORMS = {
    "plain": (lambda lr, b: fl.SGD(lr), lambda b: 2.0),
    "heavy ball": (lambda lr, b: fl.SGD(lr, momentum=b), lambda b: 2 + 2 * b),
    "PyTorch's Nesterov": (lambda lr, b: fl.SGD(lr, momentum=b, nesterov=True), lambda b: (2 + 2 * b) / (1 + 2 * b)),
    "look-ahead": (lambda lr, b: fl.Nesterov(lr, momentum=b), lambda b: (2 + 2 * b) / (1 + 2 * b)),
    "moving average": (lambda lr, b: fl.MovingAverage(lr, momentum=b), lambda b: (2 + 2 * b) / (1 - b)),
}
eigenvalues = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=5)


@pytest.mark.parametrize("form", FORMS)
@given(b=st.floats(0.05, 0.98), values=eigenvalues)
@settings(max_examples=25)
def test_a_plans_edge_is_theorys_for_the_largest_eigenvalue(form: str, b: float, values: list[float]):
    make, law = FORMS[form]
    bowl = fl.quadratic(values)
    plan = fl.Plan(bowl, steps=7, optimizer=make(0.1, b))
    found = plan.stability(bowl)
    assert found.safe_lr == pytest.approx(law(b) / max(values), rel=0.01)
    np.testing.assert_allclose(found.edge, found.safe_lr, rtol=1e-9)
    assert found.stable == (found.safe_lr >= 0.1)
    assert plan.stability(curvature=max(values)).safe_lr == pytest.approx(law(b) / max(values), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
@given(b=st.floats(0.05, 0.95), h=st.floats(0.5, 50.0), decay=st.sampled_from([0.0, 0.3]), decoupled=st.booleans())
@settings(max_examples=8)
def test_below_the_edge_a_descent_converges_and_above_it_blows_up(form: str, b: float, h: float, decay: float, decoupled: bool):
    rule = _decayed(FORMS[form][0](1.0, b), decay, decoupled)
    top = fl.Plan(rows=1, steps=1, optimizer=rule).stability(curvature=h).safe_lr
    assume(top is not None and np.isfinite(top))
    assert _end(rule.with_lr(0.98 * top), h) < 1e-3 < 1e3 < _end(rule.with_lr(1.02 * top), h)


def _decayed(rule, decay: float, decoupled: bool):
    return replace(rule, weight_decay=decay, decoupled=decoupled, groups={"*": fl.Group(weight_decay=1)}) if decay else rule


def _end(rule, h: float, steps: int = 600) -> float:
    """How far from the minimum a descent of h*w^2/2 from 1 ends; it stops once it is clear."""
    bowl = fl.quadratic([h], start=[1.0])
    plan, state = fl.Plan(bowl, steps=steps, optimizer=rule), State.begin(np.ones(1))
    for t in range(0, steps, 100):
        state = ReferenceEngine(bowl).advance(state, plan.segment(t, t + 100, bowl.layout)).state
        size = float(np.hypot(state.w[0], 0.0 if state.v is None else rule.lr * state.v[0]))
        if not 1e-6 < size < 1e6:
            break
    return size


@given(
    columns=st.fixed_dictionaries({
        "l2": st.floats(0, 1), "look": st.floats(0, 0.5), "momentum": st.floats(0, 0.99), "intake": st.floats(0.05, 1), "direct": st.floats(0, 1),
        "through": st.floats(0, 1), "shrink": st.floats(0.5, 1), "lr": st.floats(0.01, 1),
    }),
    h=st.floats(0.01, 100),
)  # fmt: skip
@settings(max_examples=200)
def test_what_a_row_bears_is_where_its_spectral_radius_passes_one(columns: dict[str, float], h: float):
    row = {name: np.array(value) for name, value in (columns | {"second_intake": 0.0}).items()}
    limit, r = float(borne(row)), columns
    d_w, d_v = h + r["l2"], -h * r["look"]
    u = np.array([r["direct"] * d_w + r["through"] * r["intake"] * d_w, r["direct"] * d_v + r["through"] * (r["momentum"] + r["intake"] * d_v)])
    matrix = np.array([[r["shrink"] - r["lr"] * u[0], -r["lr"] * u[1]], [r["intake"] * d_w, r["momentum"] + r["intake"] * d_v]])
    largest = float(np.abs(np.linalg.eigvals(matrix)).max())
    assert float(radius(row, h)) == pytest.approx(largest, rel=1e-6, abs=1e-6)
    assume(abs(h - limit) > 1e-6 * h and abs(largest - 1) > 1e-7)
    assert largest < 1 or h > limit
    if limit > 0 and np.isfinite(limit):
        assert float(radius(row, limit)) == pytest.approx(1.0, abs=1e-6)


def test_a_schedule_is_above_the_edge_just_where_its_rate_is():
    plan = fl.Plan(rows=10, epochs=20, batch_size=1, optimizer=fl.SGD(0.5, momentum=0.9, schedule="warmup(20%) > cosine"))
    found = plan.stability(curvature=10.0)
    np.testing.assert_array_equal(found.above, plan.lr_at() > 0.38)
    assert np.isnan(found.edge[0]) and found.lr[0] == 0
    np.testing.assert_allclose(found.edge[1:], 0.38, rtol=1e-9)
    assert found.growth > 1 and plan.with_lr(0.99 * found.safe_lr).stability(curvature=10.0).stable


def test_a_scheduled_momentum_moves_the_edge():
    rule = fl.SGD(0.1, momentum=fl.linear(start=0.9, to=0.5), nesterov=True)
    found = fl.Plan(rows=1, steps=101, batch_size=1, optimizer=rule).stability(curvature=1.0)
    b = 0.9 - 0.4 * np.arange(101) / 101
    np.testing.assert_allclose(found.edge, (2 + 2 * b) / (1 + 2 * b), rtol=1e-9)


def test_multipliers_of_groups_are_in_the_metric():
    """Two axes, the flat one at a hundred times the rate: the edge is that of sqrt(D) H sqrt(D)."""

    class TwoParts:
        rows, layout = 1, fl.logistic([[0.0], [1.0]], [0, 1]).layout  # coef and intercept
        start = staticmethod(lambda: np.ones(2))
        gradient = staticmethod(lambda w, batch=None: (float(5 * w[0] ** 2 + 0.5 * w[1] ** 2), np.array([10.0, 1.0]) * w))

    plan = fl.Plan(rows=1, steps=5, batch_size=1, optimizer=fl.SGD(0.03, groups={"intercept": fl.Group(lr=100)}))
    found = plan.stability(TwoParts())
    assert found.curvature.value == pytest.approx(100.0) and found.safe_lr == pytest.approx(0.02) and not found.stable


def test_no_edge_is_claimed_where_the_curvature_does_not_tell_it():
    adam = fl.Plan(rows=4, steps=9, optimizer=fl.Adam(10.0)).stability(curvature=1e6)
    assert not adam.known and adam.safe_lr is None and adam.stable and "second moment" in adam.verdict
    hill = fl.function(lambda w: float(-w @ w), start=[1.0, 2.0])
    found = fl.Plan(hill, steps=3, optimizer=fl.SGD(1.0)).stability(hill)
    assert found.stable and found.curvature.value == pytest.approx(-2.0, rel=1e-4) and "does not curve upwards" in found.verdict
    still = fl.Plan(rows=4, steps=3, optimizer=fl.SGD(0.0)).stability(curvature=1.0)
    assert still.safe_lr is None and "nothing moves" in still.verdict


def test_a_long_plan_is_sampled_with_its_peak():
    plan = fl.Plan(rows=1, steps=3_000_000, batch_size=1, optimizer=fl.SGD(0.03, schedule="warmup(50%) > linear"))
    found = plan.stability(curvature=100.0)
    assert len(found.steps) <= 2001 and found.lr.max() == plan.lr_at().max() and found.safe_lr == pytest.approx(0.02)


@pytest.mark.parametrize("kind", ["least_squares", "logistic", "softmax", "poisson", "huber", "squared_hinge"])
def test_the_curvature_of_linear_models_is_that_of_their_hessian(kind: str):
    draw = np.random.default_rng(3)
    X = draw.normal(size=(80, 4)) * [1, 2, 3, 4]
    y = {"softmax": np.arange(80) % 3, "poisson": np.abs(X[:, 0]), "least_squares": X[:, 1], "huber": X[:, 1]}.get(kind, X[:, 0] > 0)
    make = {"squared_hinge": lambda X, y, **o: fl.hinge(X, y, squared=True, **o)}.get(kind) or getattr(fl, kind)
    problem = make(X, y, weights=np.arange(1.0, 81.0))
    w = 0.1 * draw.normal(size=problem.layout.size)
    with differences(problem, w, None) as product:
        hessian = np.array([product(e) for e in np.eye(len(w))])
    assert measured(problem, w).value == pytest.approx(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1], rel=0.01)


@pytest.mark.parametrize("compiled", [False, True], ids=["second derivatives", "differences"])
def test_the_curvature_of_a_module_is_that_of_its_hessian_and_leaves_no_trace(compiled: bool, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    x, y = torch.randn(50, 3, dtype=torch.float64), torch.arange(50) % 2
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, (x, y))
    if compiled:  # stands for what cannot be differentiated twice
        real = torch.autograd.grad
        monkeypatch.setattr(torch.autograd, "grad", lambda *a, create_graph=False, retain_graph=None, **k: _no_second() if create_graph else real(*a, **k))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = measured(problem)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and torch.equal(state, torch.random.get_rng_state())
    monkeypatch.undo()
    w = problem.start()
    with differences(problem, w, None) as product:
        hessian = np.array([product(e) for e in np.eye(len(w))])
    assert found.value == pytest.approx(np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1], rel=0.01)


def _no_second():
    raise RuntimeError("does not currently support double backward")


def test_lanczos_finds_the_largest_not_the_largest_in_magnitude():
    values = np.array([-50.0, 3.0, 2.0, 1.0])
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    value, error, _ = top_eigenvalue(lambda u: turned.T @ (values * (turned @ u)), 4)
    assert value == pytest.approx(3.0, abs=max(error, 1e-9))
    assert np.isnan(top_eigenvalue(lambda u: u * np.nan, 3)[0])


def test_the_result_shows_itself():
    found = fl.Plan(rows=10, epochs=20, batch_size=1, optimizer=fl.SGD(0.5, momentum=0.9, schedule="warmup(20%) > cosine")).stability(curvature=10.0)
    assert repr(found).startswith("Stability(stable=False, lr=0.5, safe_lr=0.38, curvature=10, above=") and "\n" not in repr(found)
    table = found.table()
    assert list(table) == ["step", "lr", "edge", "lr / edge"] and (table["lr / edge"] > 1).any()
    assert "above the edge" in found.plot().title and "<table>" in found._repr_html_()
    assert repr(Curvature(2.0)) == "Curvature(2, error=0, products=0, where='at the start')"


def test_rows_carry_the_parts_that_decide():
    rows = fl.Plan(rows=1, steps=3, batch_size=1, optimizer=fl.Nesterov(0.1, momentum=0.5)).rows_between(0, 3)[0]
    assert {k: v.shape for k, v in parts_of(rows).items()}["look"] == (3, 1)
