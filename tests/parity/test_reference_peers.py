"""The reference engine against torch.optim, schedulefree and loops written by hand, in float64, with a varying lr."""

from __future__ import annotations

import numpy as np
import pytest
from parity import (
    STEPS,
    Toy,
    assert_canary,
    assert_parity,
    columns_that_matter,
    descend,
    gradients,
    moved,
    plan_of,
)

from fallline.rules import (
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Group,
    MovingAverage,
    NAdam,
    Nesterov,
    RMSProp,
    ScheduleFree,
)
from fallline.schedules import custom, ema, linear, polyak

SCHEDULE = "warmup(10%, start=0.001) > cosine(to=0.0005)"
LR = 0.05


@pytest.fixture(autouse=True)
def float64_scalars():
    """torch keeps NAdam's running product in its default dtype, in float32 if left alone."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def torch_record(rule, make, *, clip=None, weight_decay=0.0, bias_lr=1.0, bias_decay=0.0, momentum=None):
    """Every iterate of a torch optimizer that is fed the plan's gradients and learning rates: (T, 6)."""
    torch = pytest.importorskip("torch")
    problem, plan = Toy(), plan_of(rule)
    start = problem.start()
    coef, intercept = (torch.nn.Parameter(torch.tensor(part)) for part in (start[:5], start[5:]))
    groups = [{"params": [coef], "weight_decay": weight_decay}, {"params": [intercept], "weight_decay": bias_decay}]
    optimizer = make(torch.optim, groups)
    rates, record = plan.lr_at(), []
    for t, gradient in enumerate(gradients(plan, problem)):
        w = torch.cat([coef, intercept]).detach().numpy()
        g = torch.tensor(gradient(w))
        coef.grad, intercept.grad = g[:5].clone(), g[5:].clone()
        if clip is not None:
            norm = float(g.norm())  # torch divides by norm + 1e-6: asking for this maximum undoes exactly that
            torch.nn.utils.clip_grad_norm_([coef, intercept], max(clip, clip * (norm + 1e-6) / norm))
        for group, factor in zip(optimizer.param_groups, (1.0, bias_lr), strict=True):
            group["lr"] = rates[t] * factor
            if momentum is not None:
                group["momentum"] = momentum(t)
        optimizer.step()
        record.append(torch.cat([coef, intercept]).detach().numpy().copy())
    return np.array(record)


def sgd(**options):
    return lambda optim, groups: optim.SGD(groups, lr=LR, foreach=False, **options)


TORCH = {
    "plain": (SGD(LR, schedule=SCHEDULE), sgd(), {}),
    "heavy ball": (SGD(LR, momentum=0.9, schedule=SCHEDULE), sgd(momentum=0.9), {}),
    "heavy ball, l2": (SGD(LR, momentum=0.9, weight_decay=0.02, schedule=SCHEDULE), sgd(momentum=0.9), {"weight_decay": 0.02}),
    "plain, l2": (SGD(LR, weight_decay=0.02, schedule=SCHEDULE), sgd(), {"weight_decay": 0.02}),
    "nesterov": (SGD(LR, momentum=0.9, nesterov=True, schedule=SCHEDULE), sgd(momentum=0.9, nesterov=True), {}),
    "nesterov, l2": (
        SGD(LR, momentum=0.9, nesterov=True, weight_decay=0.02, schedule=SCHEDULE),
        sgd(momentum=0.9, nesterov=True), {"weight_decay": 0.02},
    ),
    "dampening": (SGD(LR, momentum=0.9, dampening=0.4, schedule=SCHEDULE), sgd(momentum=0.9, dampening=0.4), {}),
    "full dampening": (SGD(LR, momentum=0.9, dampening=1.0, schedule=SCHEDULE), sgd(momentum=0.9, dampening=1.0), {}),
    "clip": (SGD(LR, momentum=0.9, clip=0.3, schedule=SCHEDULE), sgd(momentum=0.9), {"clip": 0.3}),
    "groups": (
        SGD(LR, momentum=0.8, weight_decay=0.02, schedule=SCHEDULE, groups={"inter*": Group(lr=3, weight_decay=0.5)}),
        sgd(momentum=0.8), {"weight_decay": 0.02, "bias_lr": 3.0, "bias_decay": 0.01},
    ),
    "adam": (Adam(LR, schedule=SCHEDULE), lambda o, g: o.Adam(g, LR, foreach=False), {}),
    "adam, l2": (Adam(LR, weight_decay=0.02, schedule=SCHEDULE), lambda o, g: o.Adam(g, LR, foreach=False), {"weight_decay": 0.02}),
    "adamw": (
        AdamW(LR, betas=(0.8, 0.99), weight_decay=0.1, schedule=SCHEDULE),
        lambda o, g: o.AdamW(g, LR, betas=(0.8, 0.99), foreach=False), {"weight_decay": 0.1},
    ),
    "nadam": (NAdam(LR, schedule=SCHEDULE), lambda o, g: o.NAdam(g, LR, foreach=False), {}),
    "nadam, l2": (
        NAdam(LR, betas=(0.95, 0.99), weight_decay=0.02, momentum_decay=0.1, schedule=SCHEDULE),
        lambda o, g: o.NAdam(g, LR, betas=(0.95, 0.99), momentum_decay=0.1, foreach=False), {"weight_decay": 0.02},
    ),
    "rmsprop": (RMSProp(LR, schedule=SCHEDULE), lambda o, g: o.RMSprop(g, LR, foreach=False), {}),
    "rmsprop, l2": (
        RMSProp(LR, alpha=0.9, weight_decay=0.02, schedule=SCHEDULE),
        lambda o, g: o.RMSprop(g, LR, alpha=0.9, foreach=False), {"weight_decay": 0.02},
    ),
    "adagrad": (AdaGrad(LR, schedule=SCHEDULE), lambda o, g: o.Adagrad(g, LR, foreach=False), {}),
    "adagrad, start, l2": (
        AdaGrad(LR, initial=0.5, weight_decay=0.02, schedule=SCHEDULE),
        lambda o, g: o.Adagrad(g, LR, initial_accumulator_value=0.5, foreach=False), {"weight_decay": 0.02},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_torch_optimizers_take_the_same_path(name):
    rule, make, options = TORCH[name]
    theirs = torch_record(rule, make, **options)
    assert_parity(descend(rule).w, theirs)
    assert_canary(rule, theirs)


def test_a_scheduled_momentum_is_torchs_with_its_momentum_set_each_step():
    rule = SGD(LR, momentum=linear(start=0.95, to=0.6), schedule=SCHEDULE)
    theirs = torch_record(rule, sgd(momentum=0.9), momentum=lambda t: 0.95 + (0.6 - 0.95) * t / STEPS)
    assert_parity(descend(rule).w, theirs)


def test_torchs_own_clipping_differs_by_its_millionth_and_no_more():
    rule = SGD(LR, clip=0.3, schedule=SCHEDULE)
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))
    g = Toy().gradient(Toy().start(), None)[1]
    p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_([p], rule.clip)
    norm = np.linalg.norm(g)
    np.testing.assert_allclose(p.grad.numpy(), g * 0.3 / (norm + 1e-6), rtol=1e-14)


def schedulefree_record(rule, *, weight_decay=0.0, **options):
    """(iterates y, answers x) of the published optimizer on the plan's gradients and learning rates."""
    torch, schedulefree = pytest.importorskip("torch"), pytest.importorskip("schedulefree")
    problem, plan = Toy(), plan_of(rule)
    p = torch.nn.Parameter(torch.tensor(problem.start()))
    optimizer = schedulefree.SGDScheduleFree([p], lr=LR, momentum=rule.momentum, weight_decay=weight_decay, foreach=False, **options)
    rates, points, answers = plan.lr_at(), [], []
    optimizer.train()
    for t, gradient in enumerate(gradients(plan, problem)):
        if not options:
            optimizer.param_groups[0]["lr"] = rates[t]
        p.grad = torch.tensor(gradient(p.detach().numpy()))
        optimizer.step()
        points.append(p.detach().numpy().copy())
        optimizer.eval()
        answers.append(p.detach().numpy().copy())
        optimizer.train()
    return np.array(points), np.array(answers)


ramp = custom(lambda t, total: LR * min((t + 1) / 40, 1.0))


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (ScheduleFree(LR), {}),
        (ScheduleFree(LR, momentum=0.7, schedule=SCHEDULE), {}),
        (ScheduleFree(ramp), {"warmup_steps": 40}),
        (ScheduleFree(LR, weight_decay=0.02, groups={"*": Group(weight_decay=1)}), {"weight_decay": 0.02}),
    ],
    ids=["constant", "scheduled", "warmup", "decay"],
)
def test_schedule_free_is_the_published_optimizer(rule, options):
    decay = {"weight_decay": options.pop("weight_decay")} if "weight_decay" in options else {}
    points, answers = schedulefree_record(rule, **decay, **options)
    ours = descend(rule)
    # The published code switches between x and y by interpolation, which rounds: its own path is good to about 1e-12.
    assert_parity(ours.w, points, 4e-12)
    assert_parity(ours.answers, answers, 4e-12)
    assert_canary(rule, points, tolerance=4e-12)


@pytest.mark.parametrize("m", [1.0, 0.5])
def test_schedule_free_is_the_papers_three_sequences(m):
    x = z = Toy().start()
    answers, rule = [], ScheduleFree(LR, momentum=m)
    for t, gradient in enumerate(gradients(plan_of(rule), Toy())):
        z = z - LR * gradient((1 - m) * z + m * x)
        x = x + (z - x) / (t + 1)
        answers.append(x)
    assert_parity(descend(rule).answers, np.array(answers))


def by_hand(rule, step):
    """A loop in plain NumPy: step(t, w, memory, gradient, lr) -> (w, memory); every w, (T, 6)."""
    problem, plan = Toy(), plan_of(rule)
    w, memory, record = problem.start(), np.zeros(6), []
    rates = plan.lr_at()
    for t, gradient in enumerate(gradients(plan, problem)):
        w, memory = step(t, w, memory, gradient, rates)
        record.append(w)
    return np.array(record)


def test_the_velocity_is_the_expanded_sum_of_past_gradients():
    b, seen = 0.9, []

    def step(t, w, memory, gradient, rates):
        seen.append(gradient(w))
        v = sum(b**k * seen[t - k] for k in range(t + 1))
        return w - rates[t] * v, v

    rule = SGD(LR, momentum=b, schedule=SCHEDULE)
    theirs = by_hand(rule, step)
    assert_parity(descend(rule).w, theirs)
    assert_canary(rule, theirs)


def test_the_moving_average_is_the_weighted_mean_of_past_gradients():
    b, seen = 0.9, []

    def step(t, w, memory, gradient, rates):
        seen.append(gradient(w))
        return w - rates[t] * sum((1 - b) * b**k * seen[t - k] for k in range(t + 1)), memory

    rule = MovingAverage(LR, momentum=b, schedule=SCHEDULE)
    theirs = by_hand(rule, step)
    assert_parity(descend(rule).w, theirs)
    assert_canary(rule, theirs)
    # The same descent as the heavy ball at lr * (1 - b).
    assert_parity(descend(SGD(LR * (1 - b), momentum=b, schedule="warmup(10%, start=0.0001) > cosine(to=0.00005)")).w, theirs)


def look_ahead(b):
    def step(t, w, v, gradient, rates):
        v = b * v + gradient(w - rates[t] * b * v)
        return w - rates[t] * v, v

    return step


def test_nesterov_is_the_textbooks_look_ahead_loop():
    rule = Nesterov(LR, momentum=0.9, schedule=SCHEDULE)
    theirs = by_hand(rule, look_ahead(0.9))
    assert_parity(descend(rule).w, theirs)
    assert_canary(rule, theirs)


def bengio(b):
    """Learning rate inside the velocity, the gradient at the carried point: V = bV - lr*g;  p = p + bV - lr*g."""

    def step(t, p, V, gradient, rates):
        g = gradient(p)
        V = b * V - rates[t] * g
        return p + b * V - rates[t] * g, V

    return step


def sutskever(b):
    """Learning rate inside the velocity, true look-ahead: V = bV - lr*gradient(w + bV);  w = w + V."""

    def step(t, w, V, gradient, rates):
        V = b * V - rates[t] * gradient(w + b * V)
        return w + V, V

    return step


def test_bengios_form_is_the_look_ahead_point_under_any_learning_rates():
    b, rule = 0.9, SGD(LR, schedule=SCHEDULE)
    w = by_hand(rule, sutskever(b))
    V = np.diff(np.vstack([Toy().start(), w]), axis=0)
    assert_parity(by_hand(rule, bengio(b)), w + b * V)


def test_at_a_constant_lr_the_two_nesterovs_are_one_descent_seen_from_two_points():
    b = 0.9
    textbook, pytorch = Nesterov(LR, momentum=b), SGD(LR, momentum=b, nesterov=True)
    ahead = by_hand(textbook, sutskever(b))
    assert_parity(descend(textbook).w, ahead)
    V = np.diff(np.vstack([Toy().start(), ahead]), axis=0)
    assert_parity(descend(pytorch).w, ahead + b * V)


def test_when_the_lr_drops_the_two_nesterovs_part():
    b, drop = 0.9, custom(lambda t, total: LR if t < 20 else LR / 10)
    w = by_hand(SGD(drop), look_ahead(b))
    assert_parity(descend(Nesterov(drop, momentum=b)).w, w)
    pytorch = descend(SGD(drop, momentum=b, nesterov=True)).w
    v = -np.diff(np.vstack([Toy().start(), w]), axis=0) / np.where(np.arange(STEPS) < 20, LR, LR / 10)[:, None]
    # PyTorch's w is the textbook's look-ahead point for as long as lr stands still ...
    assert_parity(pytorch[:19], (w - LR * b * v)[:19])
    # ... and no point of the textbook's line after it changed.
    assert np.abs(pytorch[21] - (w - LR / 10 * b * v)[21]).max() > 1e-3


def test_polyaks_average_is_the_mean_of_the_iterates_and_ema_its_recursion():
    rule = SGD(LR, momentum=0.9, average=polyak(), schedule=SCHEDULE)
    run = descend(rule)
    means = np.cumsum(run.w, axis=0) / np.arange(1, STEPS + 1)[:, None]
    assert_parity(run.answers, means)
    assert_canary(rule, means, answers=True)
    rule = SGD(LR, momentum=0.9, average=ema(0.97), schedule=SCHEDULE)
    run, a, averages = descend(rule), Toy().start(), []
    for w in run.w:
        a = 0.97 * a + 0.03 * w
        averages.append(a)
    assert_parity(run.answers, np.array(averages))
    assert_canary(rule, np.array(averages), answers=True)


def test_decoupled_decay_and_l1_are_their_loops():
    weight = np.array([1, 1, 1, 1, 1, 0.0])

    def shrinking(t, w, v, gradient, rates):
        v = 0.9 * v + gradient(w)
        return w - rates[t] * 0.2 * weight * w - rates[t] * v, v

    def thresholding(t, w, v, gradient, rates):
        v = 0.9 * v + gradient(w)
        w = w - rates[t] * v
        return np.sign(w) * np.maximum(np.abs(w) - rates[t] * 0.1 * weight, 0), v

    for rule, loop in (
        (SGD(LR, momentum=0.9, weight_decay=0.2, decoupled=True, schedule=SCHEDULE), shrinking),
        (SGD(LR, momentum=0.9, l1=0.1, schedule=SCHEDULE), thresholding),
    ):
        theirs = by_hand(rule, loop)
        assert_parity(descend(rule).w, theirs)
        assert_canary(rule, theirs)


def test_decay_alone_shrinks_geometrically():
    class Flat(Toy):
        def gradient(self, w, batch):
            return 0.0, np.zeros(6)

    start = Flat().start()
    for rule in (SGD(0.1, weight_decay=0.5), SGD(0.1, weight_decay=0.5, decoupled=True), AdamW(0.1, weight_decay=0.5)):
        last = descend(rule, Flat(), steps=100).w[-1]
        np.testing.assert_allclose(last, np.append(start[:5] * 0.95**100, start[5]), rtol=1e-12)


# ---- the helper itself


def test_the_canary_fails_on_a_comparison_that_sees_nothing():
    rule = SGD(LR, momentum=0.9, schedule=SCHEDULE)
    with pytest.raises(AssertionError, match="nothing was noticed"):
        assert_canary(rule, descend(rule).w, tolerance=1.0)


def test_the_comparison_reports_the_update_and_refuses_records_that_are_not_finite():
    run = descend(SGD(LR)).w
    other = run.copy()
    other[17, 2] += 1e-6
    with pytest.raises(AssertionError, match="update 17 differs by"):
        assert_parity(run, other)
    other[3, 0] = np.nan
    with pytest.raises(AssertionError, match="not finite"):
        assert_parity(other, other)
    with pytest.raises(AssertionError):
        assert_parity(run[:5], run)


def test_every_column_of_the_law_is_watched_by_some_canary():
    watched = {c for rule, _, _ in TORCH.values() for c in columns_that_matter(rule)}
    watched |= {c for r in (Nesterov(LR), SGD(LR, l1=0.1), SGD(LR, average=polyak())) for c in columns_that_matter(r)}
    # eps itself is held by `test_eps_stands_outside_the_root`.
    assert watched == {
        "look", "clip", "l2", "momentum", "intake", "direct", "through", "second_keep", "second_intake", "unbias",
        "shrink", "lr", "threshold", "average",
    }  # fmt: skip


def test_eps_stands_outside_the_root():
    torch = pytest.importorskip("torch")
    assert torch is not None
    rule = Adam(LR, eps=0.1, schedule=SCHEDULE)
    theirs = torch_record(rule, lambda o, g: o.Adam(g, LR, eps=0.1, foreach=False))
    assert_parity(descend(rule).w, theirs)
    with pytest.raises(AssertionError, match="differs"):
        assert_parity(descend(rule, change=moved("eps")).w, theirs)
