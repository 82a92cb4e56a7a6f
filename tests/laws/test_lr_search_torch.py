"""Laws of the search on modules: no trace, also when it is interrupted; every source of rows; streams with batches set apart."""

from __future__ import annotations

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402
from fallline.torch.data import Later  # noqa: E402

N = 160


@pytest.fixture(autouse=True)
def one_thread():
    """Models this small lose by a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0).long()


def model():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(6, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(12, 2))


def noisy():
    return fl.torch.problem(model(), torch.nn.functional.cross_entropy, data())


def plan_for(problem, rule=None):
    return fl.Plan(problem, epochs=6, batch_size=8, seed=3, optimizer=rule or fl.SGD(lr=0.05, momentum=0.9, schedule="linear(to=0)"))


def bits(problem):
    state = [t.detach().numpy().tobytes() for t in problem.model.state_dict().values()]
    return [*state, problem.model.training, torch.random.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), repr(random.getstate())]


def test_training_after_a_search_is_bitwise_training_without_it():
    problem = noisy()
    alone = fl.train(noisy(), plan_for(problem), progress=False)
    before = bits(problem)
    found = fl.find_lr(problem, plan_for(problem))
    assert found.lr > 0 and bits(problem) == before
    after = fl.train(problem, plan_for(problem), progress=False)
    assert all(after.weights[n].tobytes() == alone.weights[n].tobytes() for n in alone.weights)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, Stopped])
@pytest.mark.parametrize("calls", [1, 3, 9, 40, 55])
def test_an_interrupted_search_leaves_no_trace(error, calls):
    """The loss breaks off at its n-th call: within the bracket, the range test, or a probe."""
    problem, made = noisy(), 0

    def loss(outputs, y):
        nonlocal made
        made += 1
        if made == calls:
            raise error
        return torch.nn.functional.cross_entropy(outputs, y)

    problem = fl.torch.problem(problem.model, loss, data())
    before = bits(problem)
    with pytest.raises(error):
        fl.find_lr(problem, plan_for(problem))
    assert bits(problem) == before


class Rows(torch.utils.data.Dataset):
    def __init__(self):
        self.x, self.y = data()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def test_a_dataset_gives_the_answer_of_its_tensors():
    asked = [fl.torch.problem(model(), torch.nn.functional.cross_entropy, d) for d in (data(), Rows())]
    a, b = (fl.find_lr(p, plan_for(p)) for p in asked)
    assert a.lr == pytest.approx(b.lr, rel=1e-4)


def test_a_stream_sets_its_first_batches_apart():
    loader = torch.utils.data.DataLoader(Rows(), batch_size=8, shuffle=True)
    problem = fl.torch.problem(model(), torch.nn.functional.cross_entropy, loader)
    before = bits(problem)
    plan = fl.Plan(steps=90, batch_size=8, optimizer=fl.SGD(momentum=0.9))
    found = fl.find_lr(problem, plan)
    assert "the loss on 32 rows, the stream's first batches, falls" in found.verdict
    assert bits(problem) == before and 1e-4 < found.lr < 10


def test_later_leaves_out_the_first_of_every_pass_and_keeps_what_is_all():
    assert [list(Later([1, 2, 3, 4], 1)), list(Later([1, 2], 2)), list(Later([], 2))] == [[2, 3, 4], [1, 2], []]


def test_validation_rows_score_where_they_are_given():
    problem = noisy()
    x, y = data()
    found = fl.find_lr(problem, plan_for(problem), valid=(x[:40], y[:40]))
    assert "the loss on 40 validation rows falls" in found.verdict


@pytest.mark.parametrize("rule", [fl.AdamW(), fl.SGD(groups={"0.*": fl.Group(frozen=fl.epochs(2))}), fl.Nesterov(momentum=0.9), fl.SGD(average=fl.ema(0.9), momentum=0.9)], ids=repr)
def test_rules_on_modules(rule):
    problem = noisy()
    found = fl.find_lr(problem, plan_for(problem, rule))
    start = fl.train(noisy(), plan_for(problem, rule).with_lr(1e-9), progress=False).history.loss[-40:].mean()
    assert fl.train(noisy(), plan_for(problem, rule).with_lr(found), progress=False).history.loss[-40:].mean() < 0.8 * start
