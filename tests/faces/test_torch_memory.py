"""Running out of memory: smaller pieces, the same batch, the same trajectory, said once."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402

r = np.random.default_rng(0)
X, y = torch.tensor(r.normal(size=(96, 6))), torch.tensor(r.integers(0, 3, 96))


class Narrow(torch.nn.Module):
    """A network on a device with room for so many rows at once."""

    def __init__(self, room: int, says: Exception | None = None, norm: bool = False):
        super().__init__()
        torch.manual_seed(1)
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8) if norm else torch.nn.Tanh(), torch.nn.Dropout(0.0), torch.nn.Linear(8, 3)).double()
        self.room, self.says, self.seen = room, says or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(len(x))
            if len(x) > self.room:
                raise self.says
        return self.net(x)


def trained(model: torch.nn.Module, data: object = (X, y), **batches: object) -> fl.Run:
    problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, data)
    length = {"epochs": 3} if isinstance(data, tuple) else {"steps": 3}
    rows = {"batch_size": batches.get("batch_size", 32)} if isinstance(data, tuple) else {}
    return fl.train(problem, fl.Plan(problem, **length, **rows, optimizer=fl.SGD(lr=0.1, momentum=0.9)), progress=False)


def chunks(run: fl.Run) -> list[dict]:
    return [e for e in run.journal if e["what"] == "chunk"]


@pytest.mark.parametrize("says", [None, MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")])
@pytest.mark.parametrize("size", [32, fl.Batches.full()])
def test_the_batch_and_the_trajectory_stay_the_same(says, size):
    free, narrow = Narrow(10**9), Narrow(10, says)
    expected, got = trained(free, batch_size=size), trained(narrow, batch_size=size)
    for name, value in expected.weights.items():
        np.testing.assert_allclose(got.weights[name], value, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(got.history.loss, expected.history.loss, rtol=1e-12)
    whole = 32 if size == 32 else 96
    said = chunks(got)
    assert [e["value"] for e in said] == ([16, 8] if whole == 32 else [48, 24, 12, 6]) and chunks(expected) == []
    assert f"update 0 ran out of memory with {whole} rows at a time on cpu" in said[0]["why"] and "the trajectory stay the same" in said[0]["why"]
    assert max(narrow.seen[len(said) :]) <= 10, "what memory has taught is remembered"


def test_pieces_that_were_asked_for_shrink_too():
    run = trained(Narrow(10), batch_size=fl.Batches(32, chunk=16))
    assert [e["value"] for e in chunks(run)] == [8]


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="a bug of the user's"):
        trained(Narrow(10, RuntimeError("a bug of the user's")))


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (Narrow(0), (X, y), r"update 0 ran out of memory with 1 rows at a time on cpu \(CUDA out of memory. Tried to allocate 2.00 GiB\): not even one row fits; make the model smaller"),
        (Narrow(10, norm=True), (X, y), "ran out of memory with 32 rows at a time.*cannot be computed in pieces: .*BatchNorm1d.*or use smaller batches"),
        (Narrow(10), [(X[:32], y[:32])], "batches come from an iterable, which decides their size; make them smaller there"),
    ],
)
def test_what_cannot_be_taken_apart_says_so(model, data, says):
    with pytest.raises(fl.InvalidValue, match=says):
        trained(model, data)
