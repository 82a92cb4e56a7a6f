"""The laws behind a batch size: the noise estimator, the law of updates, memory, rates; and that finding one leaves no trace."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import fallline as fl
from fallline import run_folder
from fallline.advice.batch_size import capacity, choice, law, moments, throughput
from fallline.advice.batch_size.branches import Branch, sizes_around
from fallline.advice.batch_size.noise import Blocks, NoiseScale, noise_scale
from fallline.engines import choose

# ---------------------------------------------------------------------------------------------- the estimator


def gaussian(draw, square, trace, units, unit, parameters=60):
    """Gradients of units around one mean: |G|^2 and tr(S) (of a row) are as given, S far from a multiple of the identity."""
    mean = draw.standard_normal(parameters)
    spread = np.geomspace(1, 0.01, parameters)
    mean *= math.sqrt(square / (mean @ mean))
    return mean + draw.standard_normal((units, parameters)) * np.sqrt(spread * trace / spread.sum() / unit)


@pytest.mark.parametrize(("unit", "units", "scale"), [(1, 256, 30.0), (8, 64, 300.0), (1, 256, 900.0)])
def test_the_estimator_is_unbiased_on_known_gradients(unit, units, scale):
    """Numerator and denominator within 5 % of the truth over a thousand repetitions, and so is their ratio."""
    draw = np.random.default_rng(0)
    found = [Blocks.of(np.array_split(gaussian(draw, 1.0, scale, units, unit), 8), unit=unit).moments() for _ in range(1000)]
    square, trace = np.mean(found, axis=0)
    assert abs(trace / scale - 1) < 0.01
    assert abs(square - 1) < 0.05
    assert abs(trace / square / scale - 1) < 0.05


def test_the_interval_covers_and_negative_estimates_are_kept():
    draw = np.random.default_rng(1)
    found = [noise_scale(Blocks.of(np.array_split(gaussian(draw, 1.0, 2000.0, 256, 1), 8))) for _ in range(400)]
    assert any(f.square < 0 for f in found), "this much noise must sometimes put |G|^2 below zero"
    assert all(math.isinf(f.scale) and math.isinf(f.high) for f in found if f.square <= 0)
    assert np.mean([f.low <= 2000 <= f.high for f in found]) > 0.93
    assert abs(np.mean([f.square for f in found]) - 1) < 0.5  # clipping at zero would have put it near 4


def test_pooling_averages_apart_and_then_divides():
    draw = np.random.default_rng(2)
    several = [Blocks.of(np.array_split(gaussian(draw, 1.0, 400.0, 64, 1), 4)) for _ in range(50)]
    each = np.array([b.moments() for b in several])
    pooled = noise_scale(several)
    assert pooled.scale == pytest.approx(each[:, 1].mean() / each[:, 0].mean())
    assert abs(pooled.scale / 400 - 1) < 0.5 < pooled.high / pooled.low
    assert pooled.rows == 50 * 64


def test_of_a_finite_population():
    """Rows drawn without replacement; with all of them the estimate is exact and its interval a point."""
    draw = np.random.default_rng(3)
    population = gaussian(draw, 1.0, 50.0, 300, 1)
    mean = population.mean(axis=0)
    truth = ((population - mean) ** 2).sum() / 299 / (mean @ mean)
    whole = noise_scale(Blocks.of(np.array_split(population, 8), rows=300))
    assert whole.scale == pytest.approx(truth, rel=1e-9) and whole.high == pytest.approx(whole.low, rel=1e-4)
    parts = [Blocks.of(np.array_split(population[draw.permutation(300)[:150]], 8), rows=300).moments() for _ in range(800)]
    square, trace = np.mean(parts, axis=0)
    assert abs(square / (mean @ mean) - 1) < 0.03 and abs(trace / square / truth - 1) < 0.03


def test_too_few_gradients_are_refused():
    with pytest.raises(fl.InvalidValue, match="at least two blocks"):
        noise_scale(Blocks.of([np.ones((5, 2))]))


@pytest.mark.parametrize("loss", ["least_squares", "logistic", "softmax", "huber", "hinge", "poisson"])
@pytest.mark.parametrize("kind", ["dense", "csr"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_by_row_of_linear_models(loss, kind, weighted):
    """The closed form equals one gradient after the other."""
    draw = np.random.default_rng(4)
    X = np.where(draw.random((40, 5)) < 0.6, draw.standard_normal((40, 5)), 0.0)
    y = {"softmax": draw.integers(0, 3, 40), "logistic": draw.integers(0, 2, 40), "hinge": draw.integers(0, 2, 40), "poisson": draw.integers(0, 4, 40)}.get(loss, draw.standard_normal(40))
    weights = draw.random(40) + 0.5 if weighted else None
    problem = getattr(fl, loss)(sparse.csr_array(X) if kind == "csr" else X, y, weights=weights)
    w = 0.3 * draw.standard_normal(problem.layout.size)
    blocks = [np.arange(0, 15)[:, None], np.arange(15, 40)[:, None]]
    one = np.array([problem.gradient(w, [i])[1] for i in range(40)])
    expected = Blocks.of([one[:15], one[15:]])
    gram, squares, mean = problem.gradient_blocks(w, blocks)
    np.testing.assert_allclose(gram, expected.gram, rtol=1e-10)
    np.testing.assert_allclose(squares, expected.squares, rtol=1e-10)
    assert mean == pytest.approx(problem.loss(w))


def test_a_scaled_loss_has_the_same_noise_scale():
    draw = np.random.default_rng(5)
    X, y = draw.standard_normal((200, 4)), draw.standard_normal(200)
    one, ten = fl.least_squares(X, y), fl.least_squares(X * 1, y * 10.0)
    found = [moments.walk(p, choose(p), fl.Plan(p, steps=20, batch_size=8, optimizer=fl.SGD(lr=0.05)), count=4, rows=200).moments for p in (one, ten)]
    for a, b in zip(*found, strict=True):
        assert a.noise.scale == pytest.approx(b.noise.scale, rel=1e-6)
        assert 100 * a.noise.trace == pytest.approx(b.noise.trace, rel=1e-6)


# ---------------------------------------------------------------------------------------------- the law of updates


def test_a_noisy_quadratic_obeys_the_law_and_the_moments_predict_it():
    """Updates to a target counted on the engine, at a fixed share of the best rate of each size: R^2 > 0.99, B_crit within 10 %."""
    curvature, noise, share, target = np.linspace(0.9, 1.1, 10), 0.6, 0.1, 0.06
    problem = fl.quadratic(curvature, noise=noise, rows=4096, start=np.full(10, 0.5))
    sizes = [1, 2, 4, 8, 16, 32, 64, 128, 256]

    def rates(size: int, steps: int) -> list[float]:
        """The share of the rate that lowers the expected loss most, by the recursion of the weights' second moments."""
        e, out = np.full(10, 0.25), []
        for _ in range(steps):
            eta = share * (curvature**2 @ e) / (curvature**3 @ e + curvature.sum() * noise**2 / size)
            e = (1 - eta * curvature) ** 2 * e + eta**2 * noise**2 / size
            out.append(eta)
            if 0.5 * curvature @ e < 0.5 * target:
                break
        return out

    def counted(size: int) -> float:
        lrs = rates(size, 20_000)
        rule = fl.SGD(lr=fl.custom(lambda t, length: lrs[min(t, len(lrs) - 1)]))
        runs = [fl.train(problem, fl.Plan(problem, steps=len(lrs), batch_size=size, optimizer=rule, seed=s), progress=False).history.path for s in range(6)]
        mean = np.mean([0.5 * (path**2) @ curvature for path in runs], axis=0)
        return float(np.argmax(mean < target))

    steps = [counted(size) for size in sizes]
    measured, r2 = law.fitted(sizes, steps)
    assert r2 > 0.99
    lrs = rates(16, 20_000)
    rule = fl.SGD(lr=fl.custom(lambda t, length: lrs[min(t, len(lrs) - 1)]))
    plan = fl.Plan(problem, steps=int(steps[4]), batch_size=16, optimizer=rule)
    seen = moments.walk(problem, choose(problem), plan, count=9, rows=4096).moments
    predicted, _ = choice.whole_way(seen, 1.0, 16)
    assert predicted.scale == pytest.approx(measured.scale, rel=0.1)


def test_stretches_add_up():
    made = law.along([10.0, 100.0], [20.0, 60.0], 10)
    assert float(made.steps(10)) == pytest.approx(80)
    assert made.fewest == pytest.approx(20 / 2 + 60 / 11)
    assert float(made.rows_seen(made.scale)) == pytest.approx(2 * made.fewest * made.scale)


def test_the_textbooks_bands():
    assert [law.band(s) for s in (8, 16)] == ["very limited memory"] * 2
    assert [law.band(s) for s in (32, 64)] == ["standard for research"] * 2
    assert [law.band(s) for s in (128, 256)] == ["production, large models"] * 2
    assert [law.band(s) for s in (512, 1024)] == ["distributed training"] * 2
    assert law.band(1) == "below the textbook's table" and law.band(2048) == "beyond the textbook's table"


# ---------------------------------------------------------------------------------------------- memory and rates


@given(limit=st.integers(1, 5000), first=st.integers(1, 64), top=st.integers(64, 4096))
@settings(max_examples=60)
def test_the_largest_that_fits_was_tried(limit, first, top):
    tried: list[int] = []

    def fits(size: int) -> int:
        tried.append(size)
        if size > limit:
            raise MemoryError
        return 10 * size

    found = capacity.search(fits, first, top, None, top, 1.0)
    assert found.largest in tried and found.largest <= limit
    assert found.peak == 10 * found.largest
    if found.refused is None:
        assert found.largest == top
    else:
        assert limit < found.refused <= found.largest + max(1, found.largest // capacity.FINE)
    assert len(tried) <= 2 * math.log2(top) + 8


def test_a_budget_decides_where_bytes_are_counted():
    found = capacity.search(lambda size: 100 * size, 8, 4096, 100 * 700, 4096, 1.0)
    assert 700 - 700 // 16 <= found.largest <= 700 < found.refused
    nothing = capacity.search(lambda size: 100, 8, 4096, 50, 4096, 1.0)
    assert nothing.largest is None and "not even" in nothing.why


def test_free_memory_is_some_or_unknown():
    free = capacity.free_memory()
    assert free is None or free > 1 << 20


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=20))
def test_smoothed_rates_never_fall_and_keep_their_sum(values):
    made = throughput.rising(np.array(values))
    assert (np.diff(made) >= -1e-9 * np.abs(made[1:])).all()
    assert made.sum() == pytest.approx(sum(values))
    if (np.diff(values) >= 0).all():
        np.testing.assert_array_equal(made, values)


def test_the_knee_of_a_machine_with_a_price_by_the_update():
    """Seconds = 1 ms an update and 10 us a row: 80 % of the best rate is first reached at 512 of the ladder."""
    found = throughput.measured([1 << k for k in range(11)], lambda size, updates: updates * (1e-3 + 1e-5 * size), 100.0)
    assert found is not None and found.knee == 512
    assert found.at(100) == pytest.approx(100 / 2e-3, rel=0.03)
    few = throughput.measured([1, 2, 4, 8], lambda size, updates: updates * 1.0, 0.5)
    assert few is not None and len(few.sizes) == 1


# ---------------------------------------------------------------------------------------------- the choice


def test_the_quickest_size_is_the_geometric_mean():
    """rate = r*B/(B + h): the least time is at sqrt(scale*h), here 64; the smallest within 10 % of it is taken."""
    rate = throughput.Throughput(np.array([1 << k for k in range(12)]), *[np.array([1e3 * (1 << k) / ((1 << k) + 16) for k in range(12)])] * 2, np.zeros(12))
    price = choice.Price(rate, 1.0)
    made = law.BatchLaw(1e4, 256.0)
    seconds = {s: float(made.rows_seen(s)) * price.row(s) for s in choice.doubling(512)}
    assert min(seconds, key=seconds.__getitem__) == 64
    assert choice.quickest(choice.doubling(512, 8), made, price) == 32
    assert choice.quickest(choice.doubling(512, 8), law.BatchLaw(1e-6, 256.0), price) == 8  # nobody waits for a microsecond


def test_branches_move_the_size_where_they_contradict_the_noise_scale():
    price, made = choice.Price(None, 1e6), law.BatchLaw(1e4, 1e4)
    branch = lambda size, efficiency: Branch(size, 0.1, 0.5, 0.01, efficiency, 1.0)
    assert choice.checked(32, [branch(8, 1.0), branch(32, 0.4), branch(128, 0.1)], made, price, 512)[0] == 8
    assert choice.checked(32, [branch(8, 1.0), branch(32, 1.0), branch(128, 0.9)], made, price, 512)[0] == 32
    up, why = choice.checked(8, [branch(8, 1.0), branch(32, 1.0)], made, price, 512)
    assert up == 32 and "lost nothing" in why
    assert choice.checked(8, [branch(8, 1.0), branch(32, 1.0)], made, price, 16)[0] == 8
    assert choice.checked(32, [branch(8, None), branch(32, None)], made, price, 512) == (32, "")
    assert sizes_around(32, 1, 1000) == [8, 32, 128]


# ---------------------------------------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def digits():
    return fl.table("digits").problem()


def planned(problem, **changes):
    given = {"epochs": 10, "batch_size": 16, "optimizer": fl.SGD(lr=0.03, momentum=0.9, weight_decay=1e-4, schedule="warmup(5%) > linear(to=0)")}
    return fl.Plan(problem, **(given | changes))


def test_found(digits):
    plan = planned(digits)
    found = fl.find_batch_size(digits, plan)
    assert found.batch_size in found.table()["batch_size"] and found.plan.batch_size.size == found.batch_size
    assert found.plan == (plan if found.batch_size == 16 else plan.with_batch_size(found.batch_size))
    assert len(found.moments) >= 5 and found.moments[0].noise.scale < found.moments[-1].noise.scale
    assert found.moments[0].noise.loss == pytest.approx(math.log(10), rel=1e-6)
    assert found.interval[0] <= found.noise_scale <= found.interval[1]
    assert float(found.law.steps(16)) == pytest.approx(plan.steps, rel=1e-6)  # the plan's own size takes the plan's own updates
    assert found.throughput is not None and found.throughput.knee in found.throughput.sizes
    assert found.capacity.largest == digits.rows
    assert len(found.branches) >= 2 and found.branches[0].efficiency in (1.0, None)
    assert "\n" not in repr(found) and repr(found).startswith(f"FoundBatchSize(batch_size={found.batch_size}, ")
    assert json.loads(json.dumps(run_folder.plain(found.to_json())))["batch_size"] == found.batch_size
    assert "<table" in found._repr_html_()


def test_without_timings_the_answer_is_the_same_every_time(digits):
    a, b = (fl.find_batch_size(digits, planned(digits), timing=False) for _ in range(2))
    assert a.to_json() | {"cost": None} == b.to_json() | {"cost": None}
    assert a.throughput is None and a.cost == b.cost


def test_the_textbooks_limit_is_kept_unless_lifted(monkeypatch: pytest.MonkeyPatch):
    """Where an update costs the same at every size, a larger batch is worth it up to the noise; above 512 it says so."""
    monkeypatch.setattr("fallline.advice.batch_size.throughput.engine_timer", lambda problem, engine, plan: lambda size, updates: 1e-3 * updates)
    problem = fl.quadratic(np.ones(4), noise=30.0, rows=1 << 15)
    plan = fl.Plan(problem, epochs=40, batch_size=64, optimizer=fl.SGD(lr=0.02))
    found = fl.find_batch_size(problem, plan, budget=0.05)
    assert found.batch_size <= 512
    larger = fl.find_batch_size(problem, plan, budget=0.05, most=2048)
    assert larger.batch_size > 512 and any("above 512" in w for w in larger.warnings)
    assert any("above 512" in note for note in larger.plan.notes)


@pytest.mark.parametrize("rule", [fl.SGD(lr=0.05), fl.Adam(lr=0.01), fl.SGD(momentum=0.9), fl.ScheduleFree(lr=0.5), fl.SGD(lr=0.05, average=fl.ema(0.9)), fl.AdaGrad(lr=0.1)], ids=repr)
@pytest.mark.parametrize("size", [1, 50, None])
def test_every_kind_of_plan(rule, size):
    draw = np.random.default_rng(0)
    X = draw.standard_normal((300, 4))
    problem = fl.logistic(X, X[:, 0] + 0.5 * draw.standard_normal(300) > 0)
    plan = fl.Plan(problem, epochs=4, batch_size=fl.Batches.full() if size is None else size, optimizer=rule)
    found = fl.find_batch_size(problem, plan, timing=False)
    assert 8 <= found.batch_size <= 300
    assert fl.train(problem, found.plan, progress=False).outcome.name == "Finished"


@pytest.mark.parametrize("rows", [2, 3, 7, 13])
def test_tiny_data(rows):
    problem = fl.least_squares(np.arange(rows, dtype=float)[:, None], np.arange(rows, dtype=float) * 2)
    found = fl.find_batch_size(problem, fl.Plan(problem, epochs=3, batch_size=1, optimizer=fl.SGD(lr=0.001)), timing=False)
    assert 1 <= found.batch_size <= rows


def test_sparse_rows_may_be_taken_one_at_a_time():
    draw = np.random.default_rng(0)
    X = sparse.random_array((400, 300), density=0.02, rng=draw, format="csr")
    problem = fl.logistic(X, np.asarray(X.sum(axis=1)).ravel() > np.median(np.asarray(X.sum(axis=1))))
    found = fl.find_batch_size(problem, fl.Plan(problem, epochs=5, batch_size=4, optimizer=fl.SGD(lr=0.5)), timing=False)
    assert 1 in found.table()["batch_size"]


def test_a_plan_that_diverges_is_measured_until_then():
    draw = np.random.default_rng(0)
    problem = fl.least_squares(draw.standard_normal((300, 4)), draw.standard_normal(300))
    found = fl.find_batch_size(problem, fl.Plan(problem, epochs=10, batch_size=16, optimizer=fl.SGD(lr=1e3, momentum=0.9)), timing=False)
    assert any("diverged" in w for w in found.warnings) and found.batch_size >= 1


def test_refusals(digits):
    plan = planned(digits)
    for bad in ({"most": 0}, {"most": True}, {"budget": 0}, {"budget": math.inf}, {"memory": "lots"}, {"memory": -1}):
        with pytest.raises(fl.InvalidValue, match=f"{next(iter(bad))}="):
            fl.find_batch_size(digits, plan, **bad)
    with pytest.raises(fl.PlanMismatch, match="1,000 rows"):
        fl.find_batch_size(digits, fl.Plan(rows=1000, epochs=1))
    with pytest.raises(fl.InvalidValue, match="one row"):
        fl.find_batch_size(fl.rosenbrock(), fl.Plan(fl.rosenbrock(), steps=10, optimizer=fl.SGD(lr=0.1)))


def test_the_noise_scale_prints_an_unknown_end():
    assert math.isinf(NoiseScale(-1.0, 10.0, 3.0, math.inf, 5).scale)
