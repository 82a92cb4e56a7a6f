"""Any `nn.Module` as a problem: what `train`, `find_lr`, `fit`, judges and reports need of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from fallline.advice.probe import Apart
from fallline.errors import InvalidValue
from fallline.interrupts import undisturbed
from fallline.layout import Layout
from fallline.metrics import Metric
from fallline.torch import bending, modules
from fallline.torch.data import Indexed, Later, Resident, SparseRows, Stream, pieces, some_rows, source_of
from fallline.torch.nest import described, mapped, rows_of
from fallline.torch.objective import Contract, Loss, Objective, Value, pair
from fallline.torch.randomness import borrowed
from fallline.torch.state import Point, copies, flat, unflat, write
from fallline.torch.unsound import unsound

FIRST_BATCHES = 4
"""Batches of a stream that are set apart for scoring, at most; a quarter of a short stream, and at least one."""
MEASURED_ROWS = 1024
"""Rows of a piece when a module is measured or predicts."""
CHECKED_ROWS = 32


def problem(
    model: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    data: Any = None,
    *,
    objective: Callable[[Any, Any], Any] | None = None,
    valid: Any = None,
    autocast: torch.dtype | None = None,
    compile: bool = False,
) -> ModuleProblem:
    """A module, a loss and data as a problem.

    Law: the descended function is the mean of `loss(model(x), y)` over rows; or of `objective(model, batch)`, a scalar
    mean over rows or a pair (sum, weight), whose mean is taken over the weight (tokens, say).

    Args:
        model: trained in place, on the device where its parameters are.
        loss: f(model(x), y) -> mean over the rows of the batch (x, y). Exactly one of `loss` and `objective`.
        data: tensors or arrays (x, y), kept on the device and gathered by index; a map-style Dataset; or an iterable
            of batches, such as a DataLoader, whose own order is kept. A batch is any nest of tensors.
        objective: f(model, batch) -> scalar, or (sum, weight).
        valid: held-out data of the same form, measured once an epoch.
        autocast: torch.bfloat16 or torch.float16 arithmetic within the forward pass; parameters keep their type.
        compile: run the model through torch.compile.

    Raises:
        InvalidValue: both contracts or none, no trainable parameter, or data that cannot be read.

    >>> import torch, fallline as fl
    >>> X, y = torch.randn(100, 3), torch.randn(100, 1)
    >>> problem(torch.nn.Linear(3, 1), torch.nn.functional.mse_loss, (X, y))
    ModuleProblem(Linear, 4 parameters, 100 rows, cpu)
    """
    if (loss is None) == (objective is None):
        raise InvalidValue("give exactly one of loss=f(model(x), y) and objective=f(model, batch)")
    if data is None:
        raise InvalidValue("data is missing: give (x, y) tensors, a Dataset, or an iterable of batches")
    contract = Loss(loss) if loss is not None else Objective(objective)  # type: ignore[arg-type]
    made = ModuleProblem(model, contract, data, autocast=autocast, compile=compile)
    if valid is not None:
        made.valid = valid
    return made


class ModuleProblem:
    """A module with its objective and its training data; made by `fl.torch.problem`.

    Attributes:
        model: the module, trained in place.
        valid: held-out data, or None.
        notes: what a reader of the run should know.
    """

    name = "module"
    keeps_path = False

    def __init__(self, model: torch.nn.Module, objective: Contract, data: Any, *, autocast: torch.dtype | None = None, compile: bool = False):
        self.model, self.objective, self.autocast, self.compile = model, objective, autocast, compile
        self.valid: Any = None
        self.parameters = modules.trainable(model)
        self.layout: Layout = modules.layout_of(model, self.parameters)
        self.device = next(iter(self.parameters.values())).device
        self.source: Resident | SparseRows | Indexed | Stream = source_of(data, self.device)
        self.notes: tuple[str, ...] = tuple(modules.notes_of(model))
        if isinstance(self.source, Stream):
            self.notes += (f"data is a {type(data).__name__}: batches come in its own order and of its own size",)

    def __repr__(self) -> str:
        rows = "a stream of batches" if self.rows is None else f"{self.rows:,} rows"
        return f"ModuleProblem({type(self.model).__name__}, {self.layout.size:,} parameters, {rows}, {self.device})"

    # ----------------------------------------------------------------------------------------------- the data

    @property
    def rows(self) -> int | None:
        """Rows of the data; None where batches come in their own order."""
        return None if isinstance(self.source, Stream) else self.source.rows

    def stream(self) -> tuple[int | None, int]:
        """Of a stream: batches of one pass, None where it has no length, and rows of a batch; no random number is used up."""
        assert isinstance(self.source, Stream)
        size = getattr(self.source.batches, "batch_size", None)
        if not isinstance(size, int):
            size = rows_of(some_rows(self.source, 1))
        return self.source.per_epoch, size

    @cached_property
    def fingerprint(self) -> str:
        found = self.source.fingerprint()
        return hashlib.sha256(f"{found} {self.objective.mark}".encode()).hexdigest() if self.objective.mark else found

    @cached_property
    def call(self) -> Callable[..., Any]:
        """The module, or its compiled form."""
        return torch.compile(self.model) if self.compile else self.model

    def value(self, batch: Any) -> Value:
        """The objective on a batch, with its graph."""
        if self.autocast is None:
            return self.objective(self.call, batch)
        with torch.autocast(self.device.type, self.autocast):
            return self.objective(self.call, batch)

    def held_out(self, data: Any) -> ModuleProblem:
        """Other data for the same module and objective."""
        if isinstance(data, ModuleProblem):
            if data.model is not self.model:
                raise InvalidValue("valid= is a problem of another module: give its data, such as (X, y)")
            return data
        return ModuleProblem(self.model, self.objective, data, autocast=self.autocast, compile=self.compile)

    def part(self, rows: np.ndarray) -> ModuleProblem:
        """Some of the rows as a problem of their own, for the same module.

        Raises:
            InvalidValue: the data is a stream, whose rows cannot be taken by their index.
        """
        if isinstance(self.source, Indexed):
            data: Any = torch.utils.data.Subset(self.source.dataset, np.asarray(rows).tolist())
        else:
            data = self.source.take(torch.from_numpy(np.asarray(rows, np.int64)).to(self.device))
        return ModuleProblem(self.model, self.objective, data, autocast=self.autocast, compile=self.compile)

    def apart(self) -> tuple[ModuleProblem, Apart]:
        """A stream's problem without its first batches, and those, each a problem.

        A pass of the stream begins after them. Where the stream shuffles, their rows come again in later passes.
        """
        assert isinstance(self.source, Stream)
        count = max(1, min(FIRST_BATCHES, (self.source.per_epoch or FIRST_BATCHES * 4) // 4))
        with borrowed(self.device, True):
            taken = list(islice(self.source.passes(), count))
        make = partial(ModuleProblem, self.model, self.objective, autocast=self.autocast, compile=self.compile)
        return make(Later(self.source.batches, count)), Apart([make([batch]) for batch in taken], sum(rows_of(b) for b in taken))

    def check_chunks(self) -> None:
        """Make sure that chunks add up to the batch: the objective must be a mean over its weight, rows apart.

        Raises:
            InvalidValue: batch normalisation looks across rows, or the mean of two halves is not that of the whole.
        """
        across = modules.across_rows(self.model)
        if across:
            raise InvalidValue(
                f"{across} normalises over the rows of a batch, so the gradient of a chunk is not a part of the batch's: "
                "use batches without chunk=, GroupNorm or LayerNorm instead, or put the layer into eval()"
            )
        batch = some_rows(self.source, CHECKED_ROWS)
        n = rows_of(batch)
        if n < 3:
            return
        cut = n // 3
        parts = [_rows(batch, 0, n), _rows(batch, 0, cut), _rows(batch, cut, n)]
        with modules.mode(self.model, training=False), torch.no_grad():
            whole, one, two = (self.value(p) for p in parts)
        together = (float(one.mean) * one.weight + float(two.mean) * two.weight) / (one.weight + two.weight)
        rounding = 2e-2 if self.autocast is not None else 1e-5 if whole.mean.dtype == torch.float32 else 1e-10
        if not math.isclose(float(whole.mean), together, rel_tol=rounding, abs_tol=rounding * 1e-2):
            raise InvalidValue(
                f"the loss of {n} rows is {float(whole.mean):.6g} and that of its parts together {together:.6g}: it is not a mean over rows, "
                "so chunks do not add up; give objective=f(model, batch) -> (sum, weight), or leave chunk= out"
            )

    # ---------------------------------------------------------------------------------------------- measuring

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        """Accuracy where targets are class indices and outputs scores of classes; else the loss alone."""
        if not isinstance(self.objective, Loss):
            return getattr(self.objective, "usual_metrics", ())
        batch = some_rows(self.source, 2)
        y = pair(batch)[1]
        if not isinstance(y, torch.Tensor) or y.is_floating_point() or y.ndim != 1:
            return ()
        with modules.mode(self.model, training=False), torch.no_grad():
            outputs = self.value(batch).outputs
        return ("accuracy",) if isinstance(outputs, torch.Tensor) and outputs.ndim == 2 and outputs.shape[1] > 1 else ()

    def measure(self, point: Point, metrics: Sequence[Metric]) -> tuple[float, list[float]]:
        """The mean loss of this problem's data at a point, and its metrics, in one pass."""
        if metrics and isinstance(self.objective, Objective):
            raise InvalidValue(f"metric {metrics[0].name!r} needs predictions and an objective gives none: use loss=, or leave metrics out")
        total, weight, truths, guesses = 0.0, 0.0, [], []
        with self._at(point), modules.mode(self.model, training=False), torch.no_grad(), borrowed(self.device, False):
            for batch in pieces(self.source, MEASURED_ROWS):
                value = self.value(batch)
                total += float(value.mean) * value.weight
                weight += value.weight
                if metrics:
                    truths.append(_numpy(self.objective.truth(batch)))
                    guesses.append(_numpy(value.outputs))
        if not metrics:
            return total / weight, []
        return total / weight, self.objective.values(metrics, np.concatenate(truths), np.concatenate(guesses))

    def named(self, point: Point) -> dict[str, np.ndarray]:
        """The module's state_dict at a point, as arrays."""
        place = {id(p): k for k, p in enumerate(self.parameters.values())}
        out = {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) in place:
                tensor = point.values[place[id(tensor)]]
            elif name in point.buffers:
                tensor = point.buffers[name]
            out[name] = _numpy(tensor).copy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        return out

    @contextmanager
    def _at(self, point: Point | None) -> Iterator[None]:
        """Within: the module holds the point; after: what it held before, bit for bit."""
        if point is None or point.present:
            yield
            return
        tensors, buffers = list(self.parameters.values()), modules.buffers_of(self.model)
        before, kept = copies(tensors), {n: b.clone() for n, b in buffers.items()}
        try:
            self.put(point)
            yield
        finally:
            with undisturbed():
                write(tensors, before)
                write(list(buffers.values()), [kept[n] for n in buffers])

    def put(self, point: Point) -> None:
        """Write a point into the module."""
        buffers = modules.buffers_of(self.model)
        write(list(self.parameters.values()), point.values)
        write(list(buffers.values()), [point.buffers[n] for n in buffers])

    # ------------------------------------------------------------------------------- flat, for the reference engine

    def start(self) -> np.ndarray:
        """The module's parameters as they are, float64 [layout.size]."""
        return flat(list(self.parameters.values()))

    def gradient(self, w: np.ndarray, batch: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """Mean loss and gradient (float64) of the rows `batch` at the flat weights `w`; the module is left as it was."""
        tensors = list(self.parameters.values())
        with self._at(self._point(w)), modules.mode(self.model, training=True), borrowed(self.device, False):
            value = self.value(self.source.take(None if batch is None else torch.from_numpy(np.asarray(batch, np.int64)).to(self.device)))
            grads = torch.autograd.grad(value.mean, tensors, allow_unused=True)
        return float(value.mean.detach()), flat([torch.zeros_like(p) if g is None else g for p, g in zip(tensors, grads, strict=True)])

    def loss(self, w: np.ndarray, batch: np.ndarray | None = None) -> float:
        """Mean loss of the rows `batch` at the flat weights `w`."""
        with self._at(self._point(w)), modules.mode(self.model, training=True), torch.no_grad(), borrowed(self.device, False):
            return float(self.value(self.source.take(None if batch is None else torch.from_numpy(np.asarray(batch, np.int64)).to(self.device))).mean)

    def unsound(self, w: np.ndarray, batch: np.ndarray | None, seed: int, step: int) -> tuple[float, str, bool]:
        """The mean loss of update `step`'s rows at flat weights; the first tensor that is not finite, by its name; whether it is the data."""
        return unsound(self, w, batch, seed, step)

    curvature_rows = bending.ROWS

    def hessian(self, w: np.ndarray, batch: np.ndarray | None = None) -> Any:
        """A context whose value maps a direction u to H u, H the Hessian of the mean loss of some rows at flat weights."""
        return bending.hessian(self, w, batch)

    def _point(self, w: np.ndarray) -> Point:
        return Point(unflat(w, list(self.parameters.values())), {n: b.clone() for n, b in modules.buffers_of(self.model).items()}, False)

    # ------------------------------------------------------------------------------------------- for the loop

    def engine(self) -> Any:
        """What runs plans on this problem."""
        from fallline.torch.engine import ModuleEngine

        return ModuleEngine(self)

    def population(self, plans: Sequence[Any], start: Any, together: bool | None) -> Any:
        """What advances several runs of this problem, for `engines.population`."""
        from fallline.torch.population import runs_of

        return runs_of(self, plans, start, together)

    # ------------------------------------------------------------------------------------------- for the batch size

    @property
    def across_rows(self) -> str:
        """The layer that normalises over the rows of a batch, or nothing."""
        return modules.across_rows(self.model)

    def gradient_blocks(self, w: None, blocks: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
        """Gradients of chunks of rows where the module is, summed by block; see `torch.spread`."""
        from fallline.torch.spread import gradient_blocks

        return gradient_blocks(self, blocks)

    def peak_bytes(self, plan: Any) -> int | None:
        """The bytes that update 0 of a plan takes; see `torch.footprint`.

        Raises:
            MemoryError: they were not there.
        """
        from fallline.torch.footprint import peak_bytes

        return peak_bytes(self, plan)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Within: the module may be trained; after: parameters, buffers, modes and generators are as before, bit for bit."""
        tensors, buffers = list(self.parameters.values()), modules.buffers_of(self.model)
        before, kept = copies(tensors), {n: b.clone() for n, b in buffers.items()}
        with borrowed(self.device, True), modules.kept_mode(self.model):
            try:
                yield
            finally:
                with undisturbed():
                    write(tensors, before)
                    write(list(buffers.values()), [kept[n] for n in buffers])


def _rows(batch: Any, a: int, b: int) -> Any:
    n = rows_of(batch)
    return mapped(lambda leaf: leaf[a:b] if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == n else leaf, batch)


def _numpy(value: Any) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise InvalidValue(f"a metric needs one tensor and got a {described(value)}: measure with loss alone, or a metric of your own objective")
    value = value.detach()
    return (value.float() if value.dtype in (torch.bfloat16, torch.float16) else value).cpu().numpy()


__all__ = ["ModuleProblem", "problem"]
