"""`Optimizer` reads addresses anew at each update: whatever happens to a module between two updates, the law is the same."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import fallline as fl
from fallline.torch import addresses, held
from fallline.torch.kernel import CHUNK, pieces, shares

STEPS = 8


@pytest.fixture(params=["compiled", "python"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both ways of asking where tensors lie; one thread, because these nets are tiny."""
    if request.param == "python":
        monkeypatch.setattr(held, "walk", lambda: None)
    elif addresses.walk() is None:
        pytest.skip("PyTorch does not answer the compiled pass on this platform")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    ).to(dtype)


def batch(k: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(k)
    return torch.randn(6, 3, 4, 4, generator=draw, dtype=dtype), torch.randint(0, 5, (6,), generator=draw)


def pair(**changes: Any) -> tuple[Any, Any, Any, Any]:
    """The same net twice, under our optimizer and PyTorch's."""
    ours, theirs = net(), net()
    rule = fl.SGD(0.05, momentum=0.9, nesterov=True)
    mine = fl.torch.Optimizer(ours, fl.Plan(rows=48, epochs=1, batch_size=6, optimizer=rule), **changes)
    return ours, mine, theirs, torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def step(model: Any, optimizer: Any, k: int, **zero: Any) -> None:
    X, y = batch(k)
    optimizer.zero_grad(**zero)
    F.cross_entropy(model(X), y).backward()
    optimizer.step()


def moved(model: Any) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def swapped(model: Any) -> None:
    for name, p in list(model.named_parameters()):
        torch.utils.swap_tensors(p, torch.nn.Parameter(p.detach().clone()))
        assert dict(model.named_parameters())[name] is p


def channels_last(model: Any) -> None:
    model.to(memory_format=torch.channels_last)


def loaded(model: Any) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=False)


def gradients_laid_out_otherwise(model: Any) -> None:
    for p in model.parameters():
        if p.grad is not None and p.ndim == 4:
            p.grad = p.grad.to(memory_format=torch.channels_last)


def to_and_back(model: Any) -> None:
    model.float()
    model.double()


@pytest.mark.parametrize("happens", [moved, swapped, channels_last, loaded, to_and_back, lambda m: None], ids=lambda f: f.__name__.strip("<>"))
@pytest.mark.parametrize("zero", [{}, {"set_to_none": False}], ids=["none", "zeros"])
def test_whatever_happens_between_two_updates_the_law_holds(happens: Any, zero: dict[str, Any]):
    ours, mine, theirs, peer = pair()
    for k in range(STEPS):
        step(ours, mine, k, **zero)
        step(theirs, peer, k, **zero)
        if k == 3:
            happens(ours)
            happens(theirs)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_a_gradient_in_another_order_in_memory_is_read_in_its_parameters_order():
    ours, mine, theirs, peer = pair()
    for k in range(STEPS):
        for model, optimizer in ((ours, mine), (theirs, peer)):
            X, y = batch(k)
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            gradients_laid_out_otherwise(model)
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_a_parameter_without_a_gradient_stands_still_and_comes_back():
    ours, mine, theirs, peer = pair()
    for k in range(STEPS):
        for model, optimizer in ((ours, mine), (theirs, peer)):
            X, y = batch(k)
            optimizer.zero_grad()
            F.cross_entropy(model(X), y).backward()
            if k in (0, 3):
                model[4].weight.grad = None
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.detach(), q.detach(), rtol=0, atol=1e-12)


def test_states_loaded_twice_without_an_update_between_leave_no_old_address():
    ours, mine, _, _ = pair()
    step(ours, mine, 0)
    kept = copy.deepcopy(mine.state_dict())
    for _ in range(3):
        mine.load_state_dict(copy.deepcopy(kept))
    before = {n: s["velocity"].clone() for n, s in mine.state_dict()["state"].items()}
    step(ours, mine, 1)
    after = mine.state_dict()["state"]
    assert all(not torch.equal(before[n], after[n]["velocity"]) for n in before)


def test_a_module_that_became_another_type_is_refused():
    ours, mine, _, _ = pair()
    step(ours, mine, 0)
    ours.float()
    X, y = batch(1, torch.float32)
    F.cross_entropy(ours(X), y).backward()
    with pytest.raises(fl.InvalidValue) as told:
        mine.step()
    assert str(told.value) == (
        "parameter '0.weight' is torch.float32 [4, 3, 3, 3] and was torch.float64 [4, 3, 3, 3] when the optimizer was made: "
        "make the optimizer after such changes"
    )


def test_a_gradient_of_another_type_is_refused():
    ours, mine, _, _ = pair()
    weight = ours[4].weight
    weight.data = weight.data.float()
    weight.grad = torch.ones_like(weight)
    weight.data = weight.data.double()
    with pytest.raises(fl.InvalidValue) as told:
        mine.step()
    assert str(told.value) == (
        "parameter '4.weight' is torch.float64 [5, 64] and its gradient torch.float32 [5, 64]: call zero_grad() and backward() again"
    )


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_sparse_gradient_is_refused_by_name():
    table = torch.nn.Embedding(10, 3, sparse=True)
    optimizer = fl.torch.Optimizer(table, fl.Plan(steps=3, batch_size=1, optimizer=fl.SGD(0.1)))
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(fl.InvalidValue, match="parameter 'weight' has a sparse gradient: build its layer with sparse=False"):
        optimizer.step()


def test_an_update_raises_the_version_that_autograd_watches():
    ours, mine, _, _ = pair()
    X, y = batch(0)
    F.cross_entropy(ours(X), y).backward()
    kept = ours[4].weight * ours[4].weight
    mine.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        kept.sum().backward()


@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=6), data=st.data())
def test_the_pass_says_what_python_says(shapes: list[list[int]], data: st.DataObject):
    made = addresses.walk()
    if made is None:
        return
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    tensors = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    for p in tensors:
        if data.draw(st.booleans()):
            p.grad = torch.zeros_like(p)
    module, grads = np.zeros((2, len(tensors)), np.int64)
    found = addresses.Places(tensors, module, grads, made).read()
    assert found == sum(p.grad is not None for p in tensors)
    assert module.tolist() == [p.data_ptr() for p in tensors]
    assert grads.tolist() == [0 if p.grad is None else p.grad.data_ptr() for p in tensors]


@pytest.mark.parametrize("rule", [fl.SGD(0.1, momentum=0.9, clip=1.0), fl.AdamW(0.01, average=fl.ema(0.9))], ids=lambda r: type(r).__name__)
def test_any_number_of_threads_gives_the_same_bits(rule: Any):
    """Ten thousand numbers in small tensors and a hundred thousand in a large one: shares of many pieces, pieces of many shares."""
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        draw = torch.Generator().manual_seed(0)
        made = [torch.randn(n, generator=draw) for n in [100_001, *[97] * 100]]
        model = torch.nn.ParameterList(torch.nn.Parameter(t) for t in made)
        optimizer = fl.torch.Optimizer(model, fl.Plan(steps=3, batch_size=1, optimizer=rule))
        for _ in range(3):
            for p in model:
                p.grad = torch.randn(p.shape, generator=draw)
            optimizer.step()
        results.append(torch.cat([p.detach() for p in model]))
    assert all(torch.equal(results[0], r) for r in results[1:])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 3 * CHUNK), max_size=40))
def test_shares_hold_every_element_once_and_none_is_too_large(sizes: list[int]):
    chunks = pieces(sizes)
    starts = shares(chunks).tolist()
    assert starts[0] == 0 and starts[-1] == len(chunks) and starts == sorted(set(starts))
    assert [int(chunks[chunks[:, 0] == k, 2].sum()) for k in range(len(sizes))] == sizes
    assert all(chunks[a:b, 2].sum() <= CHUNK for a, b in itertools.pairwise(starts))
