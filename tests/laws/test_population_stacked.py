"""Modules stacked: run k is the run alone, for every rule; what cannot be stacked is said; one that diverges disturbs nothing."""

from __future__ import annotations

import numpy as np
import pytest

import fallline as fl
from fallline.engines.population import Population

torch = pytest.importorskip("torch")

RULES = {
    "plain": fl.SGD(lr=0.1),
    "heavy ball, scheduled": fl.SGD(lr=0.1, momentum=0.9, schedule="warmup(20%) > cosine"),
    "nesterov, decayed": fl.SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01),
    "look-ahead": fl.Nesterov(lr=0.05, momentum=0.9),
    "clipped": fl.SGD(lr=0.5, clip=0.1),
    "l1": fl.SGD(lr=0.1, l1=0.01),
    "averaged": fl.SGD(lr=0.1, average=0.1),
    "adam": fl.Adam(lr=0.01),
    "adamw": fl.AdamW(lr=0.01, weight_decay=0.1),
    "rmsprop": fl.RMSProp(lr=0.01),
    "adagrad": fl.AdaGrad(lr=0.1),
    "schedule-free": fl.ScheduleFree(lr=0.1),
    "groups": fl.SGD(lr=0.1, groups={"2.*": fl.Group(lr=0.1), "*.bias": fl.Group(lr=2)}),
}


def problem_of(*more, dtype=torch.float64, loss=torch.nn.functional.cross_entropy):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(90, 6, generator=generator, dtype=dtype)
    y = (X.sum(1) > 0).long()
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2), *more).to(dtype)
    return fl.torch.problem(model, loss, (X, y))


def plans_of(problem, rules=RULES, batch=16):
    return [fl.Plan(problem, epochs=3, batch_size=batch, optimizer=rule, seed=2) for rule in rules.values()]


@pytest.mark.parametrize(
    ("dtype", "close", "batch"),
    [(torch.float64, 1e-11, 16), (torch.float64, 1e-11, 1), (torch.float64, 1e-11, fl.Batches.full()), (torch.float32, 1e-5, 16), (torch.float32, 1e-5, fl.Batches.full())],
)
def test_all_rules_at_once_are_each_the_run_alone(dtype, close, batch):
    problem = problem_of(dtype=dtype)
    plans = plans_of(problem, batch=batch)
    together, apart = (Population(problem, plans, together=which) for which in (True, False))
    assert together.choice.startswith("together: the module's parameters stacked")
    for stop in (1, 2, plans[0].steps):
        for runs in (together, apart):
            runs.advance(stop)
    np.testing.assert_allclose(together.answers(), apart.answers(), rtol=close, atol=close)
    for a, b in zip(together.losses, apart.losses, strict=True):
        np.testing.assert_allclose(a, b, rtol=close * 10)
    np.testing.assert_allclose(together.measure(problem, ["accuracy"]), apart.measure(problem, ["accuracy"]), rtol=close * 10)


@pytest.mark.parametrize("name", RULES)
def test_a_kind_of_rule_alone_and_the_comparison_notices(name):
    problem = problem_of()
    plan = plans_of(problem, {name: RULES[name]})[0]
    moved = plan.with_lr(fl.times(1 + 1e-6))
    together, apart = Population(problem, [plan, moved, plan], together=True), Population(problem, [plan], together=False)
    together.advance(plan.steps)
    apart.advance(plan.steps)
    np.testing.assert_allclose(together.answers()[[0, 2]], apart.answers()[[0, 0]], rtol=1e-11, atol=1e-11)
    assert np.abs(together.answers()[1] - apart.answers()[0]).max() > 1e-9


def test_one_that_diverges_disturbs_no_bit_of_the_others_and_the_module_is_untouched():
    problem = problem_of(dtype=torch.float32)
    before = {n: t.clone() for n, t in problem.model.state_dict().items()}
    state = torch.get_rng_state()
    good = plans_of(problem, {n: RULES[n] for n in ("plain", "adam", "clipped")})
    wild = [plan.with_lr(3e38) for plan in plans_of(problem, {n: RULES[n] for n in ("plain", "heavy ball, scheduled")})]
    mixed = Population(problem, [wild[0], *good, wild[1]], together=True)
    calm = Population(problem, [good[0], *good, good[0]], together=True)
    for stop in (5, good[0].steps):
        mixed.advance(stop)
        calm.advance(stop)
    assert np.array_equal(mixed.answers()[1:4], calm.answers()[1:4])
    assert mixed.stopped_at[1:4] == [None] * 3 and mixed.stopped_at[0] is not None and mixed.stopped_at[4] is not None
    alone = Population(problem, [wild[0]], together=False)
    alone.advance(good[0].steps)
    assert alone.stopped_at[0] == mixed.stopped_at[0] == len(mixed.losses[0])
    assert all(torch.equal(t, before[n]) for n, t in problem.model.state_dict().items()) and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in problem.model.parameters())


def test_some_go_on_alone():
    problem = problem_of()
    plans = plans_of(problem)
    runs = Population(problem, plans, together=True)
    runs.advance(6)
    some = runs.keep([12, 2, 7])
    some.advance(plans[0].steps)
    runs.advance(plans[0].steps)
    np.testing.assert_allclose(some.answers(), runs.answers()[[12, 2, 7]], rtol=1e-11)
    assert [len(loss) for loss in some.losses] == [plans[0].steps] * 3


@pytest.mark.parametrize(
    ("problem", "why"),
    [
        (lambda: problem_of(torch.nn.BatchNorm1d(2)), "the module has buffers"),
        (lambda: problem_of(torch.nn.Dropout(0.1)), "torch.func cannot stack the module"),
        (lambda: problem_of(loss=lambda z, y: torch.nn.functional.cross_entropy(z, y) * float(z.detach().sum() > -1e9)), "torch.func cannot stack the module"),
    ],
)
def test_what_cannot_be_stacked_is_said(problem, why):
    made = problem()
    plans = plans_of(made, {"plain": RULES["plain"]}) * 2
    with pytest.raises(fl.InvalidValue, match=f"together=True: {why}"):
        Population(made, plans, together=True)
    many = Population(made, plans * 200)
    assert many.choice.startswith(f"one after another: {why}")


def test_the_choice_is_by_runs_and_work(monkeypatch):
    from fallline.torch import stacked

    monkeypatch.setattr(stacked.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    problem = problem_of()
    plans = plans_of(problem, {"plain": RULES["plain"]})
    assert Population(problem, plans * 11).choice.endswith("11 runs are fewer than the 12 from which one program is faster on 2 cores")
    assert Population(problem, plans * 12).together
    monkeypatch.setattr(stacked, "PARAMETERS", 46)
    assert Population(problem, plans * 12).choice == "one after another: 47 parameters are more than the 46 up to which one program is faster"
    monkeypatch.setattr(stacked, "PARAMETERS", 47)
    monkeypatch.setattr(stacked, "WORK", 100)
    assert Population(problem, plans * 12).choice == "one after another: 47 parameters x 16 rows leave nothing to gain"


def test_frozen_groups_and_streams_are_refused():
    problem = problem_of()
    frozen = fl.SGD(lr=0.1, groups={"0.*": fl.Group(frozen=fl.epochs(1))})
    with pytest.raises(fl.InvalidValue, match="a group stands still for a while"):
        Population(problem, plans_of(problem, {"frozen": frozen}) * 2, together=True)
    stream = fl.torch.problem(problem.model, torch.nn.functional.cross_entropy, torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*problem.source.nest), 16))
    with pytest.raises(fl.InvalidValue, match="together=True: rows are not tensors in memory"):
        Population(stream, [fl.Plan(stream, steps=3, optimizer=RULES["plain"])], together=True)


def test_tied_and_fixed_parameters():
    problem = problem_of()
    model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.Linear(6, 6), torch.nn.Linear(6, 2)).double()
    model[2].weight = model[0].weight
    model[3].bias.requires_grad_(False)
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, problem.source.nest)
    plans = plans_of(problem, {n: RULES[n] for n in ("plain", "adam")})
    together, apart = (Population(problem, plans, together=which) for which in (True, False))
    for runs in (together, apart):
        runs.advance(plans[0].steps)
    np.testing.assert_allclose(together.answers(), apart.answers(), rtol=1e-11, atol=1e-11)
