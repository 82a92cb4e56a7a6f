"""Where to look: the learning rate at which one step stops paying, from the curvature along it.

Law: with u the rule's first step for lr 1, the loss after it is L(w - lr*u) = L - lr*(g.u) + lr^2/2 (u'Hu) + ..., which is
back at L at lr_c = 2 (g.u)/(u'Hu). Along the top eigenvector (`fallline.curvature`), a rule without a second moment has its
edge of stability (`rules.edge`). Both bracket the search; neither is the answer: a rate that wins the step can lose the run.

Source: Kalra & Barkeshli 2024 (critical learning rate); Cohen et al. 2021 (edge); Roulet et al. 2024 (why not the answer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.curvature import differences, top_eigenvalue
from fallline.engines.reference import ReferenceEngine
from fallline.layout import start_of
from fallline.plan import Plan
from fallline.rules import edge

ITERATIONS = 6
"""Hessian products for the largest eigenvalue at most; a few find it to some per cent."""
PRODUCT = 2.0
"""What a Hessian product costs, in gradients."""
DOUBLINGS = 80


@dataclass(frozen=True)
class Bracket:
    """What the start says.

    Args:
        critical: the rate at which one step stops paying, or None where the loss has no slope (or no gradients to ask).
        curvature: the largest eigenvalue of the Hessian at the start that was found, or None.
        edge: the rule's edge of stability for it, or None.
        spent: gradients computed, in rows.
        why: in words, where there is no answer at all; else empty.
    """

    critical: float | None
    curvature: float | None
    edge: float | None
    spent: float
    why: str = ""


def bracket(problem: Any, plan: Plan, rows: np.ndarray | None, products: int = ITERATIONS, start: Any = None) -> Bracket:
    """Look at the start of a plan: 2 gradients and 1 + `products` Hessian products on the rows `rows` (None for all).

    Args:
        problem: needs `gradient(w, rows)`.
        plan: its rule's first step is taken.
        rows: rows the gradients are of.
        products: Hessian products for the largest eigenvalue, 0 for none.
        start: initial weights, or None for the problem's own.
    """
    look = _Look(problem, rows)
    w = start_of(problem, start)
    loss, g = look.gradient(w)
    if not (math.isfinite(loss) and np.isfinite(g).all()):
        return Bracket(None, None, None, look.spent, "the loss or its gradient is not finite at the start: look at the data, or start elsewhere")
    u = _first_step(look, plan, w)
    slope = float(g @ u)
    if not slope > 0:
        return Bracket(None, None, None, look.spent, "the gradient is zero at the start: there is nothing to descend")
    bend, top = look.curvature(w, u, products)
    critical = 2 * slope / bend if bend > 0 and math.isfinite(bend) else None
    if critical is None or not look.falls(w, u, loss, critical / 4):
        critical = look.doubled(w, u, loss, critical or 1.0 / max(float(np.linalg.norm(u)), 1e-300))
    return Bracket(critical, top, None if top is None else edge(plan.optimizer, top), look.spent)


def _first_step(look: _Look, plan: Plan, w: np.ndarray) -> np.ndarray:
    """The step that the rule makes first, for lr 1: linear in lr for every rule."""
    rate = 1e-3
    rule = replace(plan.optimizer, lr=rate, schedule=None, average=None, l1=0.0)
    size = Batches.full() if look.rows is None else Batches(len(look.rows), order=_Rows(look.rows))
    total = look.problem.rows
    one = Plan(rows=total, steps=1, batch_size=size, optimizer=rule, seed=plan.seed)
    engine = ReferenceEngine(look)
    state = engine.begin(w, rule.start())
    state = engine.advance(state, one.segment(0, 1, look.problem.layout)).state
    return (w - state.answer(rule.answer())) / rate


@dataclass(frozen=True)
class _Rows:
    """An order that begins with given rows."""

    chosen: np.ndarray

    def indices(self, rows: int, seed: int, epoch: int) -> np.ndarray:
        return np.resize(self.chosen, rows)


class _Look:
    """The problem at some rows, with every gradient counted."""

    def __init__(self, problem: Any, rows: np.ndarray | None):
        self.problem, self.rows, self.layout = problem, rows, problem.layout
        self.each = float(problem.rows or 1) if rows is None else float(len(rows))
        self.spent = 0.0

    def gradient(self, w: np.ndarray, batch: Any = None) -> tuple[float, np.ndarray]:
        self.spent += self.each
        with np.errstate(all="ignore"):
            return self.problem.gradient(w, self.rows)

    def curvature(self, w: np.ndarray, u: np.ndarray, products: int) -> tuple[float, float | None]:
        """u'Hu, and the largest eigenvalue where it is asked for and above zero."""
        with getattr(self.problem, "hessian", lambda w, batch: differences(self.problem, w, batch))(w, self.rows) as product:
            bend = float(u @ product(u))
            value, _, made = top_eigenvalue(product, len(w), most=products) if products else (0.0, 0.0, 0)
        self.spent += PRODUCT * self.each * (1 + made)
        return bend, value if value > 0 and math.isfinite(value) else None

    def value(self, w: np.ndarray) -> float:
        self.spent += self.each / 3
        with np.errstate(all="ignore"):
            return float(self.problem.loss(w, self.rows))

    def falls(self, w: np.ndarray, u: np.ndarray, loss: float, rate: float) -> bool:
        """Whether a step at this rate lowers the loss."""
        return self.value(w - rate * u) < loss

    def doubled(self, w: np.ndarray, u: np.ndarray, loss: float, rate: float) -> float | None:
        """The smallest rate found at which a step no longer pays, by doubling and bisection."""
        paying = self.falls(w, u, loss, rate)
        for _ in range(DOUBLINGS):
            rate *= 4.0 if paying else 0.25
            if self.falls(w, u, loss, rate) != paying:
                break
        else:
            return None
        low, high = (rate / 4, rate) if paying else (rate, rate * 4)
        for _ in range(2):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.falls(w, u, loss, middle) else (low, middle)
        return high
