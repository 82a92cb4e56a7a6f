"""`find_batch_size` on modules: what fits, what noise there is, and that nothing has happened to the module afterwards."""

from __future__ import annotations

import random

import numpy as np
import pytest

import fallline as fl
from fallline.advice.batch_size.noise import Blocks

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def rows():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(600, 6, generator=draw)
    return X, (X[:, 0] + 0.5 * torch.randn(600, generator=draw) > 0).long()


def network(norm: bool = False, wrapped=None):
    torch.manual_seed(1)
    middle = [torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2)] if norm else []
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), *middle, torch.nn.Linear(16, 2))
    return model if wrapped is None else wrapped(model)


class Bounded(torch.nn.Module):
    """Runs out of memory, in the device's words, at batches above `most`."""

    def __init__(self, inner, most: int):
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.inner(x)


def asked(model, rows, **options):
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows)
    plan = fl.Plan(problem, epochs=4, batch_size=32, optimizer=fl.SGD(lr=0.1, momentum=0.9, schedule="warmup(5%) > linear(to=0)"))
    return fl.find_batch_size(problem, plan, **({"timing": False} | options))


def everything(model):
    """Parameters, buffers, modes and every generator, as bytes."""
    state = [t.detach().numpy().tobytes() for t in (*model.parameters(), *model.buffers())]
    return state, [m.training for m in model.modules()], torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()


def test_gradients_of_chunks_are_those_of_the_reference(rows):
    problem = fl.torch.problem(network(), torch.nn.functional.cross_entropy, rows)
    blocks = [np.arange(24).reshape(3, 8), np.arange(24, 56).reshape(4, 8)]
    each = [np.array([problem.gradient(problem.start(), unit)[1] for unit in block]) for block in blocks]
    expected = Blocks.of(each, unit=8)
    gram, squares, loss = problem.gradient_blocks(None, blocks)
    np.testing.assert_allclose(gram, expected.gram, rtol=1e-5)
    np.testing.assert_allclose(squares, expected.squares, rtol=1e-5)
    assert loss == pytest.approx(np.mean([problem.loss(problem.start(), unit) for block in blocks for unit in block]), rel=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_nothing_has_happened(rows, norm):
    model = network(norm)
    before = everything(model)
    found = asked(model, rows, timing=True)
    assert everything(model) == before
    assert 8 <= found.batch_size <= 512 and len(found.moments) >= 5
    assert found.throughput is not None and found.capacity.peak is not None


@pytest.mark.parametrize("norm", [False, True])
def test_training_afterwards_is_the_same_to_the_bit(rows, norm):
    ends = []
    for advised in (False, True):
        model = network(norm)
        problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, rows)
        plan = fl.Plan(problem, epochs=1, batch_size=32, optimizer=fl.SGD(lr=0.1, momentum=0.9))
        if advised:
            fl.find_batch_size(problem, plan, timing=False)
        ends.append(fl.train(problem, plan, progress=False).weights)
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("at", [3, 40, 90, 160])
def test_an_interrupt_leaves_no_trace(rows, at):
    """Ctrl-C wherever it strikes: while memory is tried, on the short run, while noise is measured, in a branch."""

    class Struck(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.left = inner, at

        def forward(self, x):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return self.inner(x)

    model = network(True, Struck)
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        asked(model, rows)
    assert everything(model) == before


@pytest.mark.parametrize("most", [100, 37, 8])
def test_what_fits_is_found_by_running_out_of_memory(rows, most):
    model = network(wrapped=lambda inner: Bounded(inner, most))
    before = everything(model)
    found = asked(model, rows)
    assert everything(model) == before
    assert most - max(1, most // 16) <= found.capacity.largest <= most < found.capacity.refused
    assert found.capacity.largest in model.seen and found.batch_size <= most
    assert f"{found.capacity.largest:,} rows fit" in found.verdict
    assert any("does not fit" in w for w in found.warnings) == (most < 32)


def test_not_even_one_row(rows):
    with pytest.raises(fl.InvalidValue, match="not even a batch of one row fits"):
        asked(network(wrapped=lambda inner: Bounded(inner, 0)), rows)


def test_other_errors_are_passed_on(rows):
    class Broken(Bounded):
        def forward(self, x):
            raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        asked(network(wrapped=lambda inner: Broken(inner, 1)), rows)


def test_a_budget_of_memory_on_the_cpu(rows):
    """The bytes of an update grow with its rows; a budget between two sizes' needs is kept."""
    problem = fl.torch.problem(network(), torch.nn.functional.cross_entropy, rows)
    need = {n: problem.peak_bytes(fl.Plan(problem, steps=1, batch_size=n, optimizer=fl.SGD(lr=0.0))) for n in (64, 128, 256)}
    activations = 4 * (6 + 16 + 16 + 2)  # what a row leaves behind for the backward pass, about
    assert need[256] - need[128] > 128 * activations / 2
    found = asked(network(), rows, memory=need[128])
    assert 120 <= found.capacity.largest < 256 and found.capacity.peak <= need[128]
    assert asked(network(), rows, memory="1GB").capacity.refused is None


def test_sizes_that_leave_one_row_over_are_left_out_with_batch_normalisation(rows):
    """513 rows in batches of 8, 16, ... end with a batch of one row, which BatchNorm refuses."""
    X, y = rows
    model = network(True)
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, (X[:513], y[:513]))
    plan = fl.Plan(problem, epochs=2, batch_size=27, optimizer=fl.SGD(lr=0.05))
    assert 513 % fl.find_batch_size(problem, plan, timing=False).batch_size != 1


def test_a_stream_has_no_size_to_choose(rows):
    X, y = rows
    problem = fl.torch.problem(network(), torch.nn.functional.cross_entropy, [(X[:10], y[:10]), (X[10:20], y[10:20])])
    with pytest.raises(fl.InvalidValue, match="batches of its own"):
        fl.find_batch_size(problem, fl.Plan(steps=10, batch_size=10, optimizer=fl.SGD(lr=0.1)))
