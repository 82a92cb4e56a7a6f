"""The runs of a small module in one program: parameters stacked, forward passes by `torch.func.vmap`, one update for all.

Run k is slice k of every tensor. Numbers of different runs never meet, so one that is not finite stays where it is.
"""

# pyright: reportPrivateImportUsage=false
from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fallline import compiled
from fallline.engines.population.serial import Pace
from fallline.layout import as_flat
from fallline.rows import INDEX
from fallline.torch import modules
from fallline.torch.data import Resident
from fallline.torch.device import STILL, Grads
from fallline.torch.engine import LARGE
from fallline.torch.objective import Loss
from fallline.torch.randomness import borrowed
from fallline.torch.state import Point, unflat

if TYPE_CHECKING:
    from fallline.plan import Plan
    from fallline.plan.segment import Segment
    from fallline.torch.module_problem import ModuleProblem

RUNS_PER_CORE, PARAMETERS, WORK = 6, 10_000, 1_000_000
"""From so many runs for each core, and up to so many parameters and parameters x rows of a batch, one program is no slower than a run
on each core: measured on two cores, benchmarks/stacked.py. 9,610 parameters gain; 50,890 lose, and
nothing between was measured."""
ROW_NUMBERS = 1 << 21
"""Numbers of a segment's rows at most."""


def not_stacked(problem: ModuleProblem, plans: Sequence[Plan]) -> str:
    """Why the runs of a module cannot be one program, or an empty string; what cannot be seen from outside is tried on a batch."""
    batches = plans[0].batch_size
    if not isinstance(problem.source, Resident):
        return "rows are not tensors in memory"
    if not isinstance(problem.objective, Loss):
        return "an objective may look into the module"
    if problem.autocast is not None or problem.compile:
        return "the module is compiled or in half precision"
    if modules.buffers_of(problem.model):
        return "the module has buffers (running statistics), which each run would change"
    if batches.chunk is not None or (batches.size or problem.source.rows) > LARGE:
        return "batches are computed in chunks"
    if any(any(plan.segment(0, min(1, plan.steps), problem.layout).frozen_until or ()) for plan in plans):
        return "a group stands still for a while"
    try:
        Stack(problem, 2).try_out()
    except Exception as error:  # whatever vmap, or the user's own code within it, cannot do
        return f"torch.func cannot stack the module ({str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__})"
    return ""


def too_few(problem: ModuleProblem, plans: Sequence[Plan]) -> str:
    """Why one program would be slower, or an empty string."""
    if problem.device.type != "cpu":
        return "stacking was not measured on this device"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if len(plans) < RUNS_PER_CORE * cores:
        return f"{len(plans)} runs are fewer than the {RUNS_PER_CORE * cores} from which one program is faster on {cores} cores"
    size, rows = problem.layout.size, plans[0].batch_size.size or problem.source.rows  # type: ignore[union-attr]
    if size > PARAMETERS:
        return f"{size:,} parameters are more than the {PARAMETERS:,} up to which one program is faster"
    return "" if size * rows <= WORK else f"{size:,} parameters x {rows:,} rows leave nothing to gain"


class Stack:
    """The forward passes of K copies of a module's parameters on one batch.

    Args:
        problem: whose module and loss.
        runs: K.
    """

    def __init__(self, problem: ModuleProblem, runs: int):
        self.problem, self.names, self.runs = problem, list(problem.parameters), runs
        self._losses = torch.func.vmap(self._loss, in_dims=(0, None))

    def _loss(self, values: dict[str, torch.Tensor], batch: Any) -> torch.Tensor:
        return self.problem.objective(lambda *x, **more: torch.func.functional_call(self.problem.model, values, x, more), batch).mean

    def gradients(self, points: Sequence[torch.Tensor], batch: Any) -> tuple[torch.Tensor, Grads]:
        """The loss of each run, [K], and the gradients [K, ...] at leaves [K, ...]; None of what takes no part."""
        losses = self._losses(dict(zip(self.names, points, strict=True)), batch)
        return losses.detach(), torch.autograd.grad(losses.sum(), list(points), allow_unused=True)

    def try_out(self) -> None:
        """A step's gradients on one or two rows, which go nowhere.

        Raises:
            Exception: whatever stands against it.
        """
        source = self.problem.source
        with borrowed(self.problem.device, True), modules.mode(self.problem.model, training=True):
            batch = source.take(torch.arange(min(2, source.rows or 1), device=self.problem.device))  # type: ignore[union-attr]
            points = [p.detach().expand(self.runs, *p.shape).clone().requires_grad_() for p in self.problem.parameters.values()]
            _, grads = self.gradients(points, batch)
        if any(g is None for g in grads):
            raise ValueError("a parameter takes no part in the loss")


@dataclass(frozen=True)
class _Part:
    """Parameters whose rows are alike in every run: columns a .. b, and the group of each run."""

    a: int
    b: int
    groups: tuple[int, ...]


class Stacked:
    """Runs of a small module, advanced together.

    Args:
        problem, plans, start: as of a population.
        choice: why together.
    """

    def __init__(self, problem: ModuleProblem, plans: Sequence[Plan], start: Any, choice: str):
        self.problem, self.plans, self.choice = problem, list(plans), choice
        self.losses: list[list[np.ndarray]] = [[] for _ in plans]
        self.stopped_at: list[int | None] = [None for _ in plans]
        self.step = 0
        self._pace = Pace()
        begin = torch.from_numpy(problem.start() if start is None else as_flat(problem.layout, start))
        first = next(iter(problem.parameters.values()))
        self._w = begin[self._columns].to(first).expand(len(plans), -1).clone()
        self._v: torch.Tensor | None = None
        self._s: torch.Tensor | None = None
        self._a: torch.Tensor | None = None

    # ------------------------------------------------------------------------------------------------ arrangement

    @cached_property
    def _group_of(self) -> list[tuple[int, ...]]:
        """By parameter: the group of each run."""
        layout = self.problem.layout
        return list(zip(*(plan.rows_between(0, 0, layout)[1] for plan in self.plans), strict=True))

    @cached_property
    def _order(self) -> list[int]:
        """Parameters in the order of their columns: those of the same groups side by side."""
        return sorted(range(len(self._group_of)), key=lambda p: self._group_of[p])

    @cached_property
    def _bounds(self) -> list[int]:
        """Where each parameter's columns begin and end, in `_order`."""
        return [0, *np.cumsum([self.problem.layout.parameters[p].size for p in self._order]).tolist()]

    @cached_property
    def _columns(self) -> torch.Tensor:
        """Places in a flat vector of the layout, by column."""
        starts = np.cumsum([0, *(p.size for p in self.problem.layout.parameters)])
        return torch.from_numpy(np.concatenate([np.arange(starts[p], starts[p + 1]) for p in self._order]))

    @cached_property
    def _parts(self) -> list[_Part]:
        out: list[_Part] = []
        for p, (a, b) in zip(self._order, pairwise(self._bounds), strict=True):
            if out and out[-1].groups == self._group_of[p]:
                out[-1] = replace(out[-1], b=b)
            else:
                out.append(_Part(a, b, self._group_of[p]))
        return out

    def _views(self, columns: torch.Tensor) -> list[torch.Tensor]:
        """Leaves that share the memory of [K, columns], one for each parameter in the layout's order."""
        out: list[Any] = [None] * len(self._order)
        for p, (a, b) in zip(self._order, pairwise(self._bounds), strict=True):
            out[p] = columns[:, a:b].unflatten(1, self.problem.layout.parameters[p].shape or (1,)).detach()
            if not self.problem.layout.parameters[p].shape:
                out[p] = out[p].squeeze(1)
            out[p].requires_grad_()
        return out

    # -------------------------------------------------------------------------------------------------- going on

    def advance(self, stop: int) -> None:
        """All runs that have not diverged, up to update `stop`."""
        numbers = len(self.plans) * len(INDEX) * max(2, len(self._parts))
        with compiled.announced(), borrowed(self.problem.device, True), modules.mode(self.problem.model, training=True):
            self._pace.segments(self.step, stop, self._segment, max(1, ROW_NUMBERS // numbers))

    def _segment(self, a: int, b: int) -> bool:
        if all(at is not None for at in self.stopped_at):
            return False
        segment, rows = self.plans[0].segment(a, b, self.problem.layout), self._rows(a, b)
        stack, points, look = Stack(self.problem, len(self.plans)), self._views(self._w), bool((rows[..., INDEX["look"]] != 0).any())
        still = torch.tensor([STILL[name] for name in INDEX], dtype=torch.float64, device=self.problem.device)
        alive = torch.tensor([at is None for at in self.stopped_at], device=self.problem.device)
        found = []
        for t, batch in enumerate(self._batches(segment)):
            if look:
                points = self._views(self._looked(rows[t]))
            losses, grads = stack.gradients(points, batch)
            with torch.no_grad():
                alive = self._update(rows[t], still, torch.cat([g.flatten(1) for p in self._order if (g := grads[p]) is not None], 1), losses, alive)
            found.append(torch.where(alive, losses.double(), torch.nan))
        self._note(torch.stack(found).cpu().numpy(), a)
        self.step = b
        return True

    def _note(self, found: np.ndarray, a: int) -> None:
        """Losses [steps, K] of a segment, NaN from where a run stopped."""
        for k, at in enumerate(self.stopped_at):
            if at is None:
                made = int(np.isfinite(found[:, k]).sum())
                self.losses[k].append(found[:made, k].copy())
                self.stopped_at[k] = None if made == len(found) else a + made

    def _batches(self, segment: Segment) -> Iterator[Any]:
        source = self.problem.source
        if segment.indices is None:
            return (source.take(None) for _ in range(segment.steps))  # type: ignore[union-attr]
        rows = torch.from_numpy(np.ascontiguousarray(segment.indices, np.int64)).to(self.problem.device)
        return (source.take(part) for part in rows.split(np.diff(segment.bounds).tolist()))  # type: ignore[union-attr]

    def _rows(self, a: int, b: int) -> torch.Tensor:
        """The rows of a stretch, float64 [steps, parts, K, columns of a row]; what they need and is not there yet is made."""
        written = [plan.rows_between(a, b, self.problem.layout)[0] for plan in self.plans]
        needs = [rows.registers for rows in written]
        starts = [plan.optimizer.start() for plan in self.plans]
        if self._v is None and any(n.v or s.v_from_w for n, s in zip(needs, starts, strict=True)):
            copies = torch.tensor([s.v_from_w for s in starts], device=self._w.device)[:, None]
            self._v = torch.where(copies, self._w, torch.zeros_like(self._w))
        if self._s is None and any(n.s for n in needs):
            self._s = torch.tensor([s.s for s in starts], dtype=self._w.dtype, device=self._w.device)[:, None].expand_as(self._w).clone()
        if self._a is None and any(n.a for n in needs):
            self._a = self._w.clone()
        self._l1, dense = any(n.threshold for n in needs), [rows.dense() for rows in written]
        parts = [np.stack([d[:, g] for d, g in zip(dense, part.groups, strict=True)], 1) for part in self._parts]
        return torch.from_numpy(np.stack(parts, 1)).to(self.problem.device)

    def _looked(self, rows: torch.Tensor) -> torch.Tensor:
        """The points w - look*v."""
        out = self._w.clone()
        for part, row in zip(self._parts, rows, strict=True):
            if self._v is not None:
                out[:, part.a : part.b] -= row[:, INDEX["look"], None].to(out.dtype) * self._v[:, part.a : part.b]
        return out

    def _update(self, rows: torch.Tensor, still: torch.Tensor, g: torch.Tensor, losses: torch.Tensor, alive: torch.Tensor) -> torch.Tensor:
        """The law for every run whose loss and gradient are finite; which those are."""
        norm = torch.linalg.vector_norm(g, dim=1, dtype=torch.float64)
        alive = alive & torch.isfinite(losses) & torch.isfinite(norm)
        clip = rows[0, :, INDEX["clip"]]
        g = torch.where(alive[:, None], g * torch.where(norm > clip, clip / norm, 1.0).to(g.dtype)[:, None], 0)
        for part, row in zip(self._parts, rows, strict=True):
            r = torch.where(alive[:, None], row, still).to(g.dtype)
            cut = (None if x is None else x[:, part.a : part.b] for x in (self._v, self._s, self._a))
            _law(r.T[..., None], g[:, part.a : part.b], self._w[:, part.a : part.b], *cut, l1=self._l1)
        return alive

    # --------------------------------------------------------------------------------------------------- reading

    def answers(self) -> np.ndarray:
        """The answer of each run, flat float64 [runs, size]."""
        out = np.empty(self._w.shape)
        read = [plan.optimizer.answer() for plan in self.plans]
        zero = torch.zeros((), dtype=torch.float64)
        parts = [zero if x is None else x.cpu().double() for x in (self._w, self._v, self._w if self._a is None else self._a)]
        factors = (torch.tensor([getattr(answer, name) for answer in read], dtype=torch.float64)[:, None] for name in ("w", "v", "a"))
        out[:, self._columns.numpy()] = sum(torch.where(f == 0, zero, f * x) for f, x in zip(factors, parts, strict=True)).numpy()  # type: ignore[union-attr]
        return out

    def measure(self, held_out: Any, metrics: Sequence[Any]) -> np.ndarray:
        """The mean loss and the metrics of each run's answer, float64 [runs, 1 + metrics]."""
        like = list(self.problem.parameters.values())
        points = [Point(unflat(answer, like), {}, False) for answer in self.answers()]
        return np.array([[loss, *values] for loss, values in (held_out.measure(point, metrics) for point in points)], np.float64)

    def keep(self, indices: Sequence[int]) -> Stacked:
        """Some of the runs, with a state of their own."""
        chosen = [self.plans[k] for k in indices]
        some = Stacked(self.problem, chosen, None, self.choice)
        back = torch.argsort(self._columns)[some._columns]  # other runs may put parameters in another order
        for name in ("_w", "_v", "_s", "_a"):
            register = getattr(self, name)
            setattr(some, name, None if register is None else register[list(indices)][:, back].clone())
        some.losses, some.stopped_at, some.step = [list(self.losses[k]) for k in indices], [self.stopped_at[k] for k in indices], self.step
        return some


def _law(
    r: torch.Tensor, g: torch.Tensor, w: torch.Tensor, v: torch.Tensor | None, s: torch.Tensor | None, a: torch.Tensor | None, *, l1: bool
) -> None:
    """The law of `fallline.rows` on some columns of all runs, [K, columns]; `r` holds their rows, [columns of a row, K, 1]."""
    c = dict(zip(INDEX, r, strict=True))
    d = torch.addcmul(g, w, c["l2"])
    u = d * c["direct"]
    if v is not None:
        v.mul_(c["momentum"]).addcmul_(d, c["intake"])
        u.addcmul_(v, c["through"])
    if s is not None:
        on = c["second_intake"] > 0  # a row without a second moment keeps s, and divides by sqrt(0) + 1
        s.mul_(torch.where(on, c["second_keep"], 1)).addcmul_(d * d, c["second_intake"])
        u /= (s * torch.where(on, c["unbias"], 0)).sqrt_().add_(torch.where(on, c["eps"], 1))
    w.mul_(c["shrink"]).sub_(u.mul_(c["lr"]))
    if l1:
        w.copy_(w.sign() * (w.abs() - c["threshold"]).clamp_min_(0))
    if a is not None:
        a.addcmul_(w - a, c["average"])


__all__ = ["Stacked", "not_stacked", "too_few"]
