"""The engine of modules: forward, backward and one update pass a step, and nothing else.

The module's own memory holds the gradient point while a segment runs. On the CPU every step ends with one pass of the
compiled row over parameters and registers; random numbers of a step are a function of (seed, step).
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline import compiled
from fallline.errors import InvalidValue
from fallline.history import Advance, Packed, Trace
from fallline.layout import as_flat
from fallline.rows import Answer, Start
from fallline.torch import modules, packing
from fallline.torch.data import Resident, SparseRows, Stream, pieces
from fallline.torch.gradients import gradients
from fallline.torch.memory import out_of_memory, release
from fallline.torch.randomness import borrowed, seeded, step_seed
from fallline.torch.state import ModuleState, Point, Tensors, unflat, write
from fallline.torch.update import Updater, updater_of

if TYPE_CHECKING:
    from fallline.plan.segment import Segment
    from fallline.torch.module_problem import ModuleProblem

LARGE = 8192
"""Rows of a batch from which it is computed in chunks of this many unless `Batches(..., chunk=)` says otherwise."""
FIRST_SCALE, GROWTH = 2.0**16, 2000
"""float16: what the loss is multiplied by at first, and the good updates after which it doubles."""
RECALIBRATION = 64
"""Batches behind the statistics of normalisation layers at an averaged answer."""

Grads = list[torch.Tensor | None]


class ModuleEngine:
    """Runs segments of a plan on a module.

    Args:
        problem: a `ModuleProblem`.
        splits: whether a batch that does not fit into memory is computed in pieces; else the error is passed on.

    Attributes:
        learnt_chunk: rows of a piece that memory has taught; None while nothing ran out of it.
        notes: what the engine decided on the way, as (what, value, why), until the loop has written it into the journal.
    """

    name = "torch"

    def __init__(self, problem: ModuleProblem, splits: bool = True):
        self.problem, self.splits = problem, splits
        self.parameters: Tensors = list(problem.parameters.values())
        self.notes: list[tuple[str, int, str]] = []
        self._updater: Updater | None = None
        self._chunks_checked = False
        self.learnt_chunk: int | None = None

    def begin(self, start: Any, rule_start: Start) -> ModuleState:
        """The state before update 0, from where the module is, or from weights by name or flat."""
        if start is not None:
            write(self.parameters, unflat(as_flat(self.problem.layout, start), self.parameters))
        return ModuleState(0, self.parameters, rule_start)

    def advance(self, state: ModuleState, segment: Segment) -> Advance:
        """Run a segment from a state, which is consumed; stops before an update whose loss or gradient is not finite."""
        if self.problem.autocast is torch.float16 and state.step == 0:
            state.scale = FIRST_SCALE
        walk = _Walk(self, state, segment)
        with compiled.announced(), borrowed(self.problem.device, walk.also_python), modules.mode(self.problem.model, training=True):
            walk.run()
        losses = walk.close()
        stopped = None if len(losses) == segment.steps else segment.start + len(losses)
        state.step = segment.start + len(losses)
        return Advance(state, Trace(losses), stopped, "" if stopped is None else "the loss or the gradient was not finite")

    def updater(self, segment: Segment) -> Updater:
        """What applies rows to this module's tensors."""
        if self._updater is None or self._updater.group_of.tolist() != list(segment.group_of):
            self._updater = updater_of(self.problem.parameters, segment.group_of)
        return self._updater

    def answer(self, state: ModuleState, answer: Answer, recalibrate: bool = True) -> Point:
        """The parameters of the answer and the buffers that belong to them."""
        here = answer == Answer() and state.w is None
        point = Point(state.reading(answer), {n: b.clone() for n, b in modules.buffers_of(self.problem.model).items()}, here)
        if here or not recalibrate or not modules.averaging_layers(self.problem.model):
            return point
        return Point(point.values, self._recalibrated(point), False)

    def numerics(self) -> dict[str, Any]:
        """What of PyTorch decides about bits."""
        device, cuda = self.problem.device, torch.backends.cuda
        out: dict[str, Any] = {"torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads(), "compiled": self.problem.compile}
        if device.type == "cuda":
            out |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "tf32": cuda.matmul.allow_tf32}
        return out | {"deterministic": torch.are_deterministic_algorithms_enabled()}

    def pack(self, state: ModuleState) -> Packed:
        """Parameters, registers, buffers, and what else a state is."""
        return packing.pack(self, state)

    def unpack(self, packed: Packed, rule_start: Start) -> ModuleState:
        """The state that was packed, written into the module."""
        return packing.unpack(self, packed, rule_start)

    def settle(self, state: ModuleState, answer: Answer) -> None:
        """Leave the answer in the module."""
        point = self.answer(state, answer)
        if not point.present:
            self.problem.put(point)

    def large_chunk(self, segment: Segment, rows: int | None) -> int | None:
        """Rows of a piece of a batch, or None where a batch is computed in one go."""
        wanted = segment.chunk
        if wanted is None and rows is not None and rows > LARGE and not modules.across_rows(self.problem.model):
            wanted = LARGE
        if self.learnt_chunk is not None:  # what memory has taught is remembered
            wanted = min(wanted or self.learnt_chunk, self.learnt_chunk)
        if wanted is None or (rows is not None and rows <= wanted):
            return None
        self._check_chunks()
        return wanted

    def _check_chunks(self) -> None:
        if not self._chunks_checked:
            self.problem.check_chunks()
            self._chunks_checked = True

    def smaller_chunk(self, rows: int, step: int, error: BaseException) -> int:
        """Half as many rows at a time, after `rows` at a time did not fit into memory.

        Raises:
            InvalidValue: the batch cannot be taken apart: one row, a stream, or rows that depend on each other.
        """
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        what = f"update {step} ran out of memory with {rows:,} rows at a time on {self.problem.device} ({said})"
        if isinstance(self.problem.source, Stream):
            raise InvalidValue(f"{what}: batches come from an iterable, which decides their size; make them smaller there") from error
        if rows <= 1:
            raise InvalidValue(f"{what}: not even one row fits; make the model smaller, or use a device with more memory") from error
        try:
            self._check_chunks()
        except InvalidValue as reason:
            raise InvalidValue(f"{what}, and the batch cannot be computed in pieces: {reason}; or use smaller batches") from error
        self.learnt_chunk = -(-rows // 2)
        self.notes.append(("chunk", self.learnt_chunk, f"{what}; the batch and the trajectory stay the same, in pieces of {self.learnt_chunk:,} rows"))
        release(self.problem.device)
        return self.learnt_chunk

    def _recalibrated(self, point: Point) -> dict[str, torch.Tensor]:
        """Buffers with the statistics of normalisation layers gathered anew at a point, as an even mean over batches."""
        problem, layers = self.problem, modules.averaging_layers(self.problem.model)
        with problem.untouched(), torch.no_grad():
            write(self.parameters, point.values)
            problem.model.train()
            before = [layer.momentum for layer in layers]
            for layer in layers:
                layer.reset_running_stats()  # type: ignore[operator]
                layer.momentum = None  # type: ignore[assignment]  # PyTorch's word for an even mean
            try:
                seeded(0, problem.device, False)
                for _, batch in zip(range(RECALIBRATION), pieces(problem.source, 256), strict=False):
                    problem.value(batch)
                return {n: b.clone() for n, b in modules.buffers_of(problem.model).items()}
            finally:
                for layer, momentum in zip(layers, before, strict=True):
                    layer.momentum = momentum  # type: ignore[assignment]


class _Walk:
    """One segment on its way: batches, gradients, updates."""

    def __init__(self, engine: ModuleEngine, state: ModuleState, segment: Segment):
        self.engine = engine
        self.problem, self.parameters, self.state, self.segment = engine.problem, engine.parameters, state, segment
        self.updater: Updater = engine.updater(segment)
        self.source = self.problem.source
        self.also_python = not isinstance(self.source, (Resident, SparseRows))
        self.indices = self._indices()
        self.chunk = engine.large_chunk(segment, segment.nominal or self.problem.rows)
        self.buffers = list(modules.buffers_of(self.problem.model).values())
        self.kept = [b.clone() for b in self.buffers]
        self.scaled = self.problem.autocast is torch.float16
        self.losses: list[Any] = []

    def run(self) -> None:
        """Every step, with the groups that stand still taken out of the graph."""
        self.updater.begin(self.state, self.segment.rows)
        until = self.segment.frozen_until or (0,)
        for frozen, steps in groupby(range(self.segment.steps), key=lambda t: tuple(self.segment.start + t < u for u in until)):
            still = [p for p, g in zip(self.parameters, self.segment.group_of, strict=True) if any(frozen) and frozen[g]]
            with modules.standing_still(self.problem.model, still):
                active = [p for p in self.parameters if p.requires_grad]
                for t in steps:
                    if not self._step(t, active):
                        return

    def close(self) -> np.ndarray:
        """The losses of the updates that were made, float64."""
        return self.updater.close()

    def _step(self, t: int, active: Tensors) -> bool:
        """One update; False where it was not made because loss or gradient were not finite."""
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)
        loss, grads, factor = self._gradient_that_fits(t, active)
        if self.updater.step(t, loss, grads, factor):
            self._scale_up()
            return True
        if self.buffers:  # a batch that broke the loss may have broken the running statistics too
            torch._foreach_copy_(self.buffers, self.kept)
        return self.scaled and self._scale_down(loss)

    # ------------------------------------------------------------------------------------------- the gradient

    def _gradient_that_fits(self, t: int, active: Tensors) -> tuple[torch.Tensor, Grads, float]:
        """`_gradient`; where memory runs out, of the same step anew, in pieces half as large."""
        step = self.segment.start + t
        while True:
            seeded(step_seed(self.segment.seed, step), self.problem.device, self.also_python)
            try:
                return self._gradient(t, active)
            except (RuntimeError, MemoryError) as error:
                if not (self.engine.splits and out_of_memory(error)):
                    raise
                rows = self.chunk or (self.source.rows if self.indices is None else len(self.indices[t]))
                self.chunk = self.engine.smaller_chunk(rows, step, error)
            if self.buffers:
                torch._foreach_copy_(self.buffers, self.kept)

    def _gradient(self, t: int, active: Tensors) -> tuple[torch.Tensor, Grads, float]:
        """The mean loss, the gradients of all parameters (None: no part in it), and what to multiply them by."""
        if self.chunk is None:
            value = self.problem.value(self._batch(t))
            mean = value.mean * self.state.scale if self.scaled else value.mean
            return value.mean.detach(), self._all(gradients(mean, active), active), 1 / self.state.scale
        total, weight = torch.zeros((), dtype=torch.float64, device=self.problem.device), 0.0
        sums: list[torch.Tensor | None] = [None] * len(active)
        for piece in self._pieces(t):
            value = self.problem.value(self.source.take(piece))
            part = value.mean * value.weight
            total += part.detach()
            weight += value.weight
            for k, g in enumerate(gradients(part * self.state.scale if self.scaled else part, active)):
                if g is not None:
                    sums[k] = g if (before := sums[k]) is None else before.add_(g)
        return total / weight, self._all(sums, active), 1 / (self.state.scale * weight)

    def _all(self, grads: Sequence[torch.Tensor | None], active: Tensors) -> Grads:
        """Gradients in the layout's order, None for parameters that stand still."""
        if len(active) == len(self.parameters):
            return list(grads)
        given = iter(grads)
        return [next(given) if p.requires_grad else None for p in self.parameters]

    def _indices(self) -> Any:
        """Row indices of every step, or None where every step takes all rows (or a stream decides)."""
        if self.segment.indices is None:
            return None
        rows = torch.from_numpy(np.ascontiguousarray(self.segment.indices, np.int64)).to(self.problem.device)
        return rows.split(np.diff(self.segment.bounds).tolist())

    def _batch(self, t: int) -> Any:
        step = self.segment.start + t
        if isinstance(self.source, Stream):
            return self.source.batch(step, lambda first: seeded(step_seed(self.segment.seed, first), self.problem.device, True))
        return self.source.take(None if self.indices is None else self.indices[t])

    def _pieces(self, t: int) -> Sequence[torch.Tensor]:
        rows = torch.arange(self.source.rows, device=self.problem.device) if self.indices is None else self.indices[t]
        return rows.split(self.chunk)

    # ---------------------------------------------------------------------------------- float16's loss scale

    def _scale_up(self) -> None:
        if self.scaled:
            self.state.good += 1
            if self.state.good >= GROWTH:
                self.state.scale, self.state.good = self.state.scale * 2, 0

    def _scale_down(self, loss: torch.Tensor) -> bool:
        """Halve the scale and go on, the step used up; False where the loss itself broke, or no scale is left to halve."""
        self.state.scale, self.state.good = self.state.scale / 2, 0
        return bool(torch.isfinite(loss)) and self.state.scale >= 1 and self.updater.skip(loss)
