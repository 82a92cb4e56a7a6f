"""Probes with the user's own optimizer and loader: rates from the same weights, on the same batches, along a plan's schedule.

All of it happens within `snapshot.untouched`, which puts everything back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import torch

from fallline.advice.compressed import compressed
from fallline.advice.probe import FORWARD, Rung, clearly
from fallline.plan import Plan
from fallline.torch.groups import put
from fallline.torch.modules import mode
from fallline.torch.nest import rows_of
from fallline.torch.objective import Loss, Objective
from fallline.torch.snapshot import Held

SCORED, KEPT = 8, 256
"""Batches that score, and batches that are kept to train on, at most: a longer probe takes them again."""


@dataclass(frozen=True)
class Updates:
    """One's own updates: the model, the loss, the optimizer, and what belongs to them."""

    model: Any
    value: Loss | Objective
    optimizer: torch.optim.Optimizer
    accumulate: int
    scaler: Any
    autocast: AbstractContextManager[Any]
    shares: list[float]
    group: Any

    def use(self, rate: float) -> None:
        """Set the learning rate."""
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            put(group, "lr", rate * share)

    def update(self, batches: Iterator[Any]) -> float:
        """One update, or none where the loss is not finite; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        total, weight, expected = 0.0, 0.0, None
        for _ in range(self.accumulate):
            with self.autocast:
                value = self.value(self.model, next(batches))
            expected = value.weight * self.accumulate if expected is None else expected
            part = value.mean if self.accumulate == 1 else value.mean * (value.weight / expected)
            (part if self.scaler is None else self.scaler.scale(part)).backward()
            total, weight = total + float(value.mean.detach()) * value.weight, weight + value.weight
        if weight != expected:
            self._divide(weight / (expected or 1.0))
        loss = self.everywhere(total / weight)
        if math.isfinite(loss):
            if self.scaler is None:
                self.optimizer.step()
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        return loss

    def _divide(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.div_(factor)

    def everywhere(self, loss: float) -> float:
        """The mean over the processes of a distributed model, so that each comes to the same answer."""
        if self.group is None:
            return loss
        device = next(self.model.parameters()).device
        both = torch.tensor([loss, 1.0], dtype=torch.float64, device=device)
        torch.distributed.all_reduce(both, group=self.group)
        return float(both[0] / both[1])


@dataclass
class LoaderProbe:
    """Tries rates, as `advice.search` asks.

    Args:
        updates: one's own updates.
        held: puts model and optimizer back between two rates.
        plan: whose schedule and length count.
        batches: to train on, in this order.
        scored: held-out batches.
        told: what they are, in words.
    """

    updates: Updates
    held: Held
    plan: Plan
    batches: list[Any]
    scored: list[Any]
    told: str
    spent: float = 0.0
    exact: bool = False
    convex: bool = False
    first: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def pass_cost(self) -> float:
        """Updates that one scoring is worth."""
        return FORWARD * len(self.scored) / self.updates.accumulate

    @property
    def start_score(self) -> float:
        """The score before any update."""
        return float(self.first.mean())

    def begin(self) -> None:
        """Score the start."""
        self.first = self._score()

    def falls(self, rung: Rung, k: int) -> bool:
        """Whether rate k of a rung gained clearly."""
        return clearly(self.first - rung.folds[k], self.start_score)

    def try_rates(self, rates: Sequence[float], steps: int) -> Rung:
        """Run every rate for `steps` updates, and score it."""
        lr = np.array(sorted(float(r) for r in rates))
        folds = np.stack([self._run(rate, steps) for rate in lr])
        return Rung(steps, lr, folds.mean(axis=1), folds)

    def _run(self, rate: float, steps: int) -> np.ndarray:
        """The scores of one rate by batch; +inf where it broke off."""
        values = compressed(self.plan, rate, steps).lr_at()
        batches = cycle(self.batches)
        torch.manual_seed(0)  # the same dropout for every rate; the generators are put back in the end
        try:
            with mode(self.updates.model, training=True):
                for value in values:
                    self.updates.use(float(value))
                    self.spent += 1
                    if not math.isfinite(self.updates.update(batches)):
                        return np.full(len(self.scored), np.inf)
            return self._score()
        finally:
            self.held.rewind()

    def _score(self) -> np.ndarray:
        self.spent += self.pass_cost
        with mode(self.updates.model, training=False), torch.no_grad(), self.updates.autocast:
            out = [self.updates.everywhere(float(self.updates.value(self.updates.model, b).mean)) for b in self.scored]
        return np.where(np.isfinite(out), out, np.inf)


def probe_of(updates: Updates, held: Held, plan: Plan, one_pass: list[Any], valid: list[Any] | None) -> LoaderProbe:
    """A probe that scores `valid`, or the first batches of a pass over the loader, which it then does not train on."""
    if valid is not None:
        rows = sum(rows_of(b) for b in valid)
        return LoaderProbe(updates, held, plan, one_pass, valid, f"the loss on {rows:,} validation rows")
    apart = max(1, min(SCORED, len(one_pass) // 5))
    scored, kept = one_pass[:apart], one_pass[apart:]
    rows = sum(rows_of(b) for b in scored)
    if not kept:
        return LoaderProbe(updates, held, plan, scored, scored, f"the loss on the loader's one batch of {rows:,} rows, trained on too,")
    return LoaderProbe(updates, held, plan, kept, scored, f"the loss on {rows:,} rows, the loader's first batches,")


__all__ = ["LoaderProbe", "Updates", "probe_of"]
