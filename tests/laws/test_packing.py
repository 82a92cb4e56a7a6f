"""A state that was packed and unpacked, in another engine, goes on with the same bits: for every arrangement an engine has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

import fallline as fl
from fallline.engines import choose
from fallline.engines.reference import ReferenceEngine
from fallline.history import Packed
from fallline.run_folder import plain

draw = np.random.default_rng(0)
DENSE = draw.normal(size=(60, 5))
SPARSE = sp.random_array((60, 3000), density=0.002, rng=draw, format="csr")
LABELS = DENSE[:, 0] > 0


def linear(X: Any, rule: Any, size: int, y: Any = LABELS) -> Callable[[], tuple[Any, fl.Plan]]:
    make = fl.softmax if y.dtype.kind == "i" else fl.logistic

    def made() -> tuple[Any, fl.Plan]:
        problem = make(X, y)
        return problem, fl.Plan(problem, epochs=3, batch_size=size, optimizer=rule)

    return made


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.BatchNorm1d(6), torch.nn.Dropout(0.3), torch.nn.Linear(6, 2))
        self.register_buffer("thirds", torch.ones(2, dtype=torch.bfloat16) / 3)
        self.fixed = torch.nn.Parameter(torch.randn(2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) + self.fixed


def module(rule: Any, data: Callable[[], Any] | None = None, steps: int | None = None) -> Callable[[], tuple[Any, fl.Plan]]:
    def made() -> tuple[Any, fl.Plan]:
        torch.manual_seed(int(np.random.default_rng().integers(1 << 30)) if made.again else 0)  # type: ignore[attr-defined]
        made.again = True  # type: ignore[attr-defined]  # the second module begins elsewhere: all must come from the state
        rows = (torch.tensor(DENSE, dtype=torch.float32), torch.tensor(LABELS, dtype=torch.int64))
        problem = fl.torch.problem(Net(), torch.nn.functional.cross_entropy, rows if data is None else data())
        where = {"epochs": 3} if steps is None else {"steps": steps}
        return problem, fl.Plan(problem, batch_size=20, optimizer=rule, **where)

    made.again = False  # type: ignore[attr-defined]
    return made


def loader(generator: bool = False, workers: int = 0) -> Callable[[], Any]:
    rows = torch.utils.data.TensorDataset(torch.tensor(DENSE, dtype=torch.float32), torch.tensor(LABELS, dtype=torch.int64))
    return lambda: torch.utils.data.DataLoader(
        rows, batch_size=20, shuffle=True, generator=torch.Generator().manual_seed(3) if generator else None, num_workers=workers
    )


SCHEDULED = "warmup(20%) > cosine"
CASES: dict[str, Callable[[], tuple[Any, fl.Plan]]] = {
    "dense, one at a time, ahead": linear(DENSE, fl.SGD(0.1), 1),
    "dense, momentum, averaged": linear(DENSE, fl.SGD(0.1, momentum=0.9, average=0.1), 1),
    "dense, batches, look-ahead": linear(DENSE.astype(np.float32), fl.Nesterov(0.1), 7),
    "dense, Adam": linear(DENSE, fl.AdamW(0.01, schedule=SCHEDULED), 7),
    "dense, Schedule-Free": linear(DENSE, fl.ScheduleFree(0.1), 7),
    "sparse, one factor": linear(SPARSE, fl.SGD(0.1, weight_decay=0.1), 1),
    "sparse, lazy": linear(SPARSE, fl.SGD(0.1, momentum=0.9, weight_decay=0.1), 1),
    "sparse, lazy, scheduled": linear(SPARSE, fl.SGD(0.1, momentum=0.9, schedule=SCHEDULED), 2),
    "sparse, three classes": linear(SPARSE, fl.SGD(0.1, momentum=0.9), 2, np.arange(60) % 3),
    "sparse, every coefficient": linear(SPARSE, fl.Adam(0.01), 10),
    "module": module(fl.SGD(0.1, momentum=0.9)),
    "module, look-ahead": module(fl.Nesterov(0.05)),
    "module, Adam, averaged": module(fl.Adam(0.01, average=0.1)),
    "module, a loader": module(fl.SGD(0.1), loader(), 9),
    "module, a loader with a generator of its own": module(fl.SGD(0.1), loader(generator=True), 9),
}


def carried(engine: Any, plan: fl.Plan, state: Any, a: int, b: int) -> tuple[Any, list[np.ndarray]]:
    losses = []
    while a < b:
        stop = min(b, a + 4)
        result = engine.advance(state, plan.segment(a, stop, engine.problem.layout))
        state, a = result.state, stop
        losses.append(result.trace.loss)
    return state, losses


def bits(engine: Any, plan: fl.Plan, state: Any) -> dict[str, bytes]:
    return {k: np.ascontiguousarray(v).tobytes() for k, v in engine.problem.named(engine.answer(state, plan.optimizer.answer())).items()}


@pytest.mark.parametrize("case", CASES)
def test_a_packed_state_goes_on_with_the_same_bits(case: str):
    problem, plan = CASES[case]()
    engine = choose(problem)
    state, _ = carried(engine, plan, engine.begin(None, plan.optimizer.start()), 0, 3)
    kept: dict[int, Packed] = {}
    for at in (3, plan.steps // 3, plan.steps // 2):  # in the middle, at an epoch's edge, in the middle again
        state, _ = carried(engine, plan, state, state.step, at)
        kept[at] = as_from_a_file(engine.pack(state))
    state, rest = carried(engine, plan, state, plan.steps // 2, plan.steps)
    whole = bits(engine, plan, state)
    for at, packed in kept.items():
        other = choose(CASES[case]()[0])
        back, losses = carried(other, plan, other.unpack(packed, plan.optimizer.start()), at, plan.steps)
        assert bits(other, plan, back) == whole, f"{case}, from {at}"
        assert np.concatenate(losses)[-len(np.concatenate(rest)) :].tobytes() == np.concatenate(rest).tobytes()


def as_from_a_file(packed: Packed) -> Packed:
    """What a file would give back."""
    arrays = {k: np.frombuffer(v.tobytes(), v.dtype).reshape(v.shape) for k, v in packed.arrays.items()}
    return Packed(packed.step, arrays, json.loads(json.dumps(plain(packed.values))))


def test_packing_changes_nothing():
    problem, plan = CASES["sparse, lazy, scheduled"]()
    ends = []
    for often in (False, True):
        engine = choose(problem)
        state = engine.begin(None, plan.optimizer.start())
        for a in range(0, plan.steps, 5):
            state, _ = carried(engine, plan, state, a, min(a + 5, plan.steps))
            if often:
                engine.pack(state)
        ends.append(bits(engine, plan, state))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("case", ["dense, momentum, averaged", "sparse, lazy", "module, Adam, averaged"])
def test_a_state_of_another_problem_is_refused_and_nothing_is_touched(case: str):
    problem, plan = CASES[case]()
    engine = choose(problem)
    state, _ = carried(engine, plan, engine.begin(None, plan.optimizer.start()), 0, 3)
    packed = engine.pack(state)
    before = bits(engine, plan, state)
    name = next(k for k in sorted(packed.arrays) if k.split(".")[0] in ("w", "module"))
    with pytest.raises(fl.InvalidValue, match="is of another problem"):
        engine.unpack(Packed(3, {**packed.arrays, name: packed.arrays[name][..., :-1]}, packed.values), plan.optimizer.start())
    with pytest.raises(fl.InvalidValue, match=f"lacks the array '{name}'"):
        engine.unpack(Packed(3, {k: v for k, v in packed.arrays.items() if k != name}, packed.values), plan.optimizer.start())
    with pytest.raises(fl.InvalidValue, match="holds the array 'more', which this problem has not"):
        engine.unpack(Packed(3, {**packed.arrays, "more": np.zeros(1)}, packed.values), plan.optimizer.start())
    assert bits(engine, plan, state) == before


def test_stamps_that_reach_outside_their_table_are_refused():
    problem, plan = CASES["sparse, lazy"]()
    engine = choose(problem)
    state, _ = carried(engine, plan, engine.begin(None, plan.optimizer.start()), 0, 3)
    packed = engine.pack(state)
    wild = packed.arrays["lazy.stamps"].copy()
    wild[5] = 1 << 29
    with pytest.raises(fl.InvalidValue, match="does not lie within its block"):
        engine.unpack(Packed(3, {**packed.arrays, "lazy.stamps": wild}, packed.values), plan.optimizer.start())


def test_the_reference_packs_its_registers():
    bowl = fl.quadratic([1.0, 10.0])
    plan, engine = fl.Plan(bowl, steps=9, optimizer=fl.Adam(0.1)), ReferenceEngine(bowl)
    state, _ = carried(engine, plan, engine.begin(None, plan.optimizer.start()), 0, 4)
    packed = engine.pack(state)
    end, _ = carried(engine, plan, state, 4, 9)
    again, _ = carried(engine, plan, engine.unpack(packed, plan.optimizer.start()), 4, 9)
    assert again.w.tobytes() == end.w.tobytes()
