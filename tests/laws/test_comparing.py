"""Laws of a comparison: looking changes nothing, seeds decide everything, divergence spoils nobody, rows are counted right."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.charts.ravine import place, view
from fallline.comparing.compare import _Work
from fallline.comparing.contenders import VARIANTS, draws_nothing, rows_read
from fallline.comparing.measuring import MeasuringEngine, points
from fallline.engines import choose
from fallline.report.ravine_page import GONE, KEPT, LOG_KEPT, Grid, one_path, packed


def line(rows: int = 60, features: int = 3) -> fl.Table:
    """A small least-squares problem with noise."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, features))
    return fl.least_squares(X, X @ np.arange(1.0, features + 1) + rng.standard_normal(rows))


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("rule", [fl.SGD(lr=0.02, momentum=0.5, average=fl.ema(0.9)), fl.Nesterov(lr=0.01, schedule="cosine")], ids=["averaged", "look-ahead"])
def test_a_run_that_is_looked_at_is_the_run_that_is_not(size: int | None, rule: fl.SGD) -> None:
    problem = line()
    plan = fl.Plan(problem, epochs=3, batch_size=fl.Batches.full() if size is None else size, optimizer=rule)
    plain = fl.train(problem, plan, progress=False)
    engine = MeasuringEngine(choose(problem), plan, problem.layout, points(plan.steps, 12), lambda point: (problem.loss(point),))
    engine.warm(None)
    seen = fl.train(problem, plan, engine=engine, progress=False)
    assert np.array_equal(plain.answer["coef"], seen.answer["coef"]) and np.array_equal(plain.history.loss, seen.history.loss)
    assert engine.seen.updates == [0, *points(plan.steps, 12).tolist()]
    assert engine.seen.values[-1][0] == problem.loss(problem.layout.join(seen.answer))


def test_each_look_is_the_run_that_ends_there() -> None:
    problem = line()
    found = fl.compare(problem, {"a": fl.SGD(lr=0.02, momentum=0.5)}, steps=20, batch_size=8, seeds=1, progress=False)
    curve = found["a"].curve
    assert curve is not None
    for k, updates in enumerate(curve.updates.tolist()[1:6], 1):
        shorter = fl.train(problem, fl.Plan(problem, steps=updates, batch_size=8, optimizer=fl.SGD(lr=0.02, momentum=0.5)), progress=False)
        assert curve.loss[0, k] == problem.loss(problem.layout.join(shorter.weights))
    assert curve.loss[0, 0] == problem.loss(problem.start())


def test_the_same_comparison_gives_the_same_bits() -> None:
    problem = line()
    variants = {"sgd": "sgd", "m": fl.SGD(lr=fl.auto, momentum=0.9)}
    one, two = (fl.compare(problem, variants, epochs=2, seeds=2, progress=False) for _ in range(2))
    for name in variants:
        a, b = one[name], two[name]
        assert a.lr == b.lr and a.curve is not None and b.curve is not None
        assert np.array_equal(a.curve.loss, b.curve.loss) and np.array_equal(a.curve.rows, b.curve.rows)
    timing = {"seconds", "seconds_to_target"}
    assert [{k: v for k, v in r.items() if k not in timing} for r in one.table.rows()] == [{k: v for k, v in r.items() if k not in timing} for r in two.table.rows()]


def test_seeds_are_the_plans_and_those_after_it() -> None:
    problem = line()
    plan = fl.Plan(problem, epochs=1, batch_size=8, seed=7, optimizer=fl.SGD(lr=0.02))
    found = fl.compare(problem, {"p": plan}, seeds=3, progress=False)
    assert [run.plan.seed for run in found.runs["p"]] == [7, 8, 9]
    alone = fl.train(problem, plan._with(seed=8), progress=False)
    assert np.array_equal(found.runs["p"][1].weights["coef"], alone.weights["coef"])


def test_a_variant_that_diverges_spoils_nobody() -> None:
    problem = line()
    good = {"a": fl.SGD(lr=0.02), "b": fl.SGD(lr=0.02, momentum=0.9)}
    without = fl.compare(problem, good, epochs=2, seeds=2, batch_size=8, progress=False)
    beside = fl.compare(problem, {"wild": fl.SGD(lr=1e300), **good}, epochs=2, seeds=2, batch_size=8, progress=False)
    for name in good:
        a, b = without[name].curve, beside[name].curve
        assert a is not None and b is not None and np.array_equal(a.loss, b.loss)
    assert beside.target == without.target
    row = beside.table.row("wild")
    assert row["loss"] == np.inf and row["diverged"] == 2 and row["rows_to_target"] is None and "diverged" in row["note"]


def test_seeds_that_diverge_count_as_infinite() -> None:
    """Two of three runs lost: the median is lost; one of three: it is not, and the range says so."""
    from fallline.comparing.compare import _curve

    problem = line()
    plan = fl.Plan(problem, steps=4, batch_size=8, optimizer=fl.SGD(lr=0.02))
    for lost in (1, 2):
        engines = []
        for seed in range(3):
            engine = MeasuringEngine(choose(problem), plan._with(seed=seed), problem.layout, np.arange(1, 5), lambda point: (problem.loss(point),))
            fl.train(problem, plan._with(seed=seed), engine=engine, progress=False)
            if seed < lost:
                del engine.seen.updates[2:], engine.seen.seconds[2:], engine.seen.values[2:]
            engines.append(engine)
        last = _curve(plan, engines).loss[:, -1]
        assert np.isinf(np.median(last)) == (lost == 2) and last.max() == np.inf


def test_rows_read_are_those_of_the_batches() -> None:
    for rows, batches, epochs in ((10, fl.Batches(4), 2.5), (10, fl.Batches(4, last="drop"), 2), (10, fl.Batches.full(), 3), (5, fl.Batches.single(), 2)):
        plan = fl.Plan(rows=rows, epochs=epochs, batch_size=batches, optimizer=fl.SGD(lr=0.1))
        counted = np.concatenate([[0], np.cumsum([len(batch) for batch in plan.batches()])])
        assert np.array_equal(rows_read(plan, np.arange(plan.steps + 1)), counted)


def test_one_seed_where_nothing_is_drawn() -> None:
    data, bowl, rough = line(), fl.quadratic([1, 10]), fl.quadratic([1, 10], noise=1.0, rows=8)
    rule = fl.SGD(lr=0.01)
    for problem, batches, nothing in (
        (data, fl.Batches.full(), True), (data, fl.Batches(60), True), (data, fl.Batches(8, order=fl.InFile()), True), (data, fl.Batches(8), False),
        (bowl, None, True), (rough, fl.Batches.full(), True), (rough, fl.Batches(2), False), (fl.quadratic([1, 10], rows=8), fl.Batches(2), True),
    ):  # fmt: skip
        plan = fl.Plan(problem, steps=3, batch_size=batches, optimizer=rule)
        assert draws_nothing(problem, plan) == nothing
        assert len(fl.compare(problem, {"p": plan}, seeds=2, progress=False).runs["p"]) == (1 if nothing else 2)
        seeds = [fl.train(problem, plan._with(seed=s), progress=False).weights for s in (0, 1)]
        same = all(np.allclose(seeds[0][k], seeds[1][k], rtol=1e-12, atol=1e-15) for k in seeds[0])
        assert same == nothing  # the claim itself: a second seed would show nothing else


def test_the_target_is_the_lowest_loss_that_all_have_reached() -> None:
    found = fl.compare(line(), {"slow": fl.SGD(lr=0.002), "fast": fl.SGD(lr=0.05)}, epochs=3, batch_size=8, seeds=3, progress=False)
    medians = {v.name: v.curve.median for v in found.variants if v.curve is not None}
    assert found.target == max(m.min() for m in medians.values()) == medians["slow"].min()
    for name, median in medians.items():
        curve, row = found[name].curve, found.table.row(name)
        assert curve is not None
        first = int(np.flatnonzero(median <= found.target)[0])
        assert row["rows_to_target"] == curve.rows[first] and (first == 0 or median[first - 1] > found.target)
    assert found.table.row("fast")["rows_to_target"] < found.table.row("slow")["rows_to_target"]
    assert found.reached(-1.0) == {"slow": None, "fast": None}


def test_auto_rates_are_those_of_each_variants_own_range_test() -> None:
    problem = line()
    found = fl.compare(problem, {"batch": "batch", "sgd": "sgd"}, epochs=2, seeds=1, progress=False)
    for variant in found.variants:
        own = fl.find_lr(problem, variant.plan.with_lr(fl.auto))
        assert variant.lr == own.lr and variant.lr_source == f"find_lr, {own.cost:,} updates"
    given = fl.compare(problem, {"batch": "batch"}, epochs=2, find=lambda problem, plan: 0.03, progress=False)
    assert given["batch"].lr == 0.03 and given["batch"].lr_source == "find"


def test_every_named_variant_runs() -> None:
    found = fl.compare(line(), list(VARIANTS), epochs=3, batch_size=8, seeds=1, find=lambda problem, plan: 0.01, progress=False)
    assert found.names == list(VARIANTS)
    for variant in found.variants:
        assert variant.curve is not None and variant.final < variant.curve.loss[0, 0], variant


def test_the_start_is_that_of_all_and_of_their_range_tests() -> None:
    problem = fl.quadratic([1, 100])
    found = fl.compare(problem, {"a": fl.SGD(), "b": fl.SGD(lr=0.01)}, start=[-4, 1.5], steps=5, progress=False)
    assert all(np.array_equal(way[0], [-4, 1.5]) for way in found.paths.values())
    moved = fl.quadratic([1, 100], start=[-4, 1.5])
    assert found["a"].lr == fl.find_lr(moved, fl.Plan(moved, steps=5, optimizer=fl.SGD())).lr
    assert np.array_equal(problem.start(), [1, 1])


def test_paths_are_those_of_the_engine() -> None:
    problem = fl.quadratic([1, 100], start=[-4, 1.5])
    found = fl.compare(problem, {"m": fl.SGD(lr=0.01, momentum=0.9)}, steps=30, progress=False)
    run = fl.train(problem, fl.Plan(problem, steps=30, optimizer=fl.SGD(lr=0.01, momentum=0.9)), progress=False)
    assert np.array_equal(found.paths["m"], run.history.path)
    assert np.array_equal(one_path(problem, fl.SGD(lr=0.01, momentum=0.9), 30, 1), run.history.path)
    w, v = np.array([-4, 1.5]), np.zeros(2)
    for expected in found.paths["m"]:  # the textbook's law, by hand
        assert np.allclose(w, expected, rtol=0, atol=1e-12)
        v = 0.9 * v + np.array([1, 100]) * w
        w = w - 0.01 * v


def test_a_page_holds_the_engines_paths_to_a_thousandth_of_the_drawing() -> None:
    problem = fl.quadratic([1, 100], start=[-4, 1.5])
    way = np.stack([one_path(problem, fl.SGD(lr=lr), 40, 1) for lr in (0.001, 0.019)])
    values = np.array([[problem.loss(w) for w in one] for one in way])
    box = view({"a": way[0]}, np.zeros(2))
    gone = way.copy()
    gone[1, 20:] = np.nan
    import base64

    whole = np.frombuffer(base64.b64decode(packed(Grid(np.ones(2), np.zeros(1), gone[None, :, None], values[None, :, None]), box)), "<i2").reshape(2, 41, 3)
    low, high = np.array(box).T
    assert (whole[1, 20:, 0] == GONE).all() and (whole[1, :20, 0] != GONE).all()
    assert np.abs(whole[0, :, :2] / KEPT * (high - low) + low - way[0]).max() <= 1e-3 * (high - low).max()
    assert np.abs(whole[0, :, 2] / LOG_KEPT - np.log10(values[0])).max() <= 1e-3
    corners = place(np.array([[low[0], low[1]], [high[0], high[1]]]), box, 780, 380)
    assert np.allclose(corners, [[46, 340], [768, 10]])


def test_a_module_is_left_as_it_was_and_every_run_begins_there() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 3)).astype(np.float32)
    y = (X @ np.array([[1.0], [2.0], [3.0]], np.float32)).astype(np.float32)
    model = torch.nn.Linear(3, 1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    problem = fl.torch.problem(model, torch.nn.functional.mse_loss, (torch.from_numpy(X), torch.from_numpy(y)))
    found = fl.compare(problem, {"a": fl.SGD(lr=0.05), "b": fl.SGD(lr=0.05, momentum=0.5)}, epochs=2, batch_size=8, seeds=2, progress=False)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    starts = {float(loss) for v in found.variants if v.curve is not None for loss in v.curve.loss[:, 0]}
    assert len(starts) == 1 and all(v.final < min(starts) for v in found.variants)


def test_measurements_are_fewer_on_large_data() -> None:
    class Large:
        sparse, rows, features, outputs, layout = False, 1_000_000, 100, 10, line().layout

    assert len(points(10_000, 100)) > 80
    assert _Work.most(fl.quadratic([1, 2])) == 100 and _Work.most(line()) == 100
    assert _Work.most(Large()) == 20  # type: ignore[arg-type]
