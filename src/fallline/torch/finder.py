"""The learning-rate range test for PyTorch code that exists already: its model, its loss, its loader, its optimizer.

Law: lr_i = low*(high/low)^(i/(n-1)), one rate after the other along one descent with the optimizer itself; the curve is read
as everywhere in fallline (`advice.reading`). All of it happens within `untouched`, so training goes on as if it had not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from fallline.advice.found import Curve, Found
from fallline.advice.lr import BUDGET, CEILING, LEAST, PER_DECADE, ROWS_PER_RATE, SWEEPS, guess
from fallline.advice.reading import decades, read
from fallline.advice.search import answer, rungs
from fallline.divergence import check_finite
from fallline.errors import InvalidValue
from fallline.plan import Plan
from fallline.torch.finder_probe import KEPT, SCORED, Updates, probe_of
from fallline.torch.groups import bare, shares
from fallline.torch.modules import mode, trainable
from fallline.torch.nest import moved, rows_of
from fallline.torch.objective import Loss, Objective
from fallline.torch.scheduler import attached
from fallline.torch.snapshot import Held, hooks_of, untouched


def find_lr(
    model: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    loader: Iterable[Any] = (),
    optimizer: Any = None,
    *,
    objective: Callable[[Any, Any], Any] | None = None,
    low: float = 1e-7,
    high: float = 1.0,
    sweeps: int | None = None,
    plan: Plan | None = None,
    valid: Iterable[Any] | None = None,
    budget: float = BUDGET,
    accumulate: int = 1,
    scaler: Any = None,
    autocast: AbstractContextManager[Any] | None = None,
    may_consume: bool = False,
) -> Found:
    """Find the learning rate for a model, by a range test that leaves no trace; with a plan, by probes on held-out batches too.

    The range test alone does not know how long the training will be, and how the rate will fall. A plan says so; then rates
    are tried with its schedule compressed, as `fallline.find_lr` does.

    Args:
        model: where it is and as it is; also compiled, or wrapped for several processes (then every process calls this).
        loss: `loss(model(x), y)`, a mean over rows, for batches (x, y).
        loader: gives batches each time it is iterated: a DataLoader, a list. Few batches are used again in their order.
        optimizer: any torch optimizer of the model; its state, groups and decay count. Left out: SGD with momentum 0.9.
        objective: in place of loss, `f(model, batch)` -> mean, or (sum, weight).
        low, high: the rates of the sweep, both above 0; where the loss has not turned up at `high`, it goes on. With several
            parameter groups they are the rates of the group with the largest; the others keep their ratio.
        sweeps: descents from the same start on further batches; the curve is their median. Left out, 3, and 1 with a plan.
        plan: the plan that `Scheduler` will drive the optimizer by; its lr is not looked at.
        valid: batches that score, 8 at most are used; left out, the loader's first ones, which the probes do not train on.
        budget: the most that the probes may cost beside the range test, as a share of the plan's updates (at least 40).
        accumulate: batches whose gradients make one update, weighted by their rows.
        scaler, autocast: those of mixed precision: a GradScaler, `torch.autocast("cuda")`.
        may_consume: take batches from a loader that is an iterator, whose position cannot be put back.

    Returns:
        Found: `lr`, `verdict`, `curve`, `cost` (updates), `plot()`; with a plan `interval` and `rungs` too.

    Raises:
        InvalidValue: an argument that cannot stand, an optimizer that needs a closure, a loader without batches.

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> model = torch.nn.Linear(1, 1)
    >>> found = find_lr(model, torch.nn.MSELoss(), [(x, 3 * x)], torch.optim.SGD(model.parameters(), lr=0.1))
    >>> 0.01 < found.lr < 2
    True
    """
    sweeps = (SWEEPS if plan is None else 1) if sweeps is None else sweeps
    _check(model, loss, loader, objective, low, high, sweeps, accumulate, may_consume)
    _check_plan(plan, valid, budget)
    optimizer = torch.optim.SGD(list(trainable(model).values()), lr=low, momentum=0.9) if optimizer is None else bare(optimizer)
    _check_optimizer(model, optimizer)
    modules = [model, loss] if isinstance(loss, torch.nn.Module) else [model]
    for name, parameter in trainable(model).items():
        if not torch.isfinite(parameter).all():
            check_finite(name, parameter.detach().double().cpu().numpy())
    driver, silenced = attached(optimizer), sum(len(hooks) for hooks in hooks_of(optimizer))
    unread = nullcontext() if valid is None else untouched([], loader=valid)
    with untouched(modules, optimizer, scaler, loader) as held, unread, torch.enable_grad():
        updates = Updates(
            model, Loss(loss) if objective is None else Objective(objective), optimizer, accumulate, scaler, autocast or nullcontext(),
            shares(optimizer) if driver is None else driver.shares, getattr(model, "process_group", None),
        )  # fmt: skip
        found = _search(updates, held, loader, low, high, sweeps)
        if plan is not None:
            found = _probed(updates, held, plan, loader, valid, budget, found)
    others = silenced - 2 * (driver is not None)
    remark = f"; {others} step hook{'s' * (others != 1)} of the optimizer did not run in the test" if others else ""
    return replace(found, verdict=found.verdict + remark)


def _probed(updates: Updates, held: Held, plan: Plan, loader: Iterable[Any], valid: Any, budget: float, swept: Found) -> Found:
    """What probes say, after a range test."""
    device = next(updates.model.parameters()).device
    scored = None if valid is None else [moved(batch, device) for batch in islice(iter(valid), SCORED)]
    held.restart()
    most = SCORED + min(KEPT, plan.steps * updates.accumulate)
    probe = probe_of(updates, held, plan, [moved(batch, device) for batch in islice(iter(loader), most)], scored)
    probe.begin()
    turn = swept.curve.lr[int(np.nanargmin(swept.curve.smooth))] if np.isfinite(swept.curve.smooth).any() else swept.curve.lr[0]
    made = rungs(probe, guess(swept.curve, 2 * float(turn)), max(budget * plan.steps, LEAST), plan.steps)
    said = answer(made, probe, plan.steps)
    cost = swept.cost + math.ceil(probe.spent)
    lost = [float(lr) for rung in made for lr, score in zip(rung.lr, rung.score, strict=True) if lr > (said.lr or 0.0) and not score <= probe.start_score]
    edge = min(lost) if lost else swept.edge
    verdict = f"{said.verdict}; it cost {cost / plan.steps:.2g} of a run"
    return Found(said.lr, said.interval, verdict, swept.curve, cost, edge, said.flat, tuple(made), cost / plan.steps, probe.start_score)


def _search(probe: Updates, held: Held, loader: Iterable[Any], low: float, high: float, sweeps: int) -> Found:
    """Sweeps, read together, up by decades until the loss turns."""
    batches = _batches(loader, held, next(probe.model.parameters()).device)
    try:
        first = next(batches)
        batches_on = chain([first], batches)
        each, top, cost = _updates_per_rate(first, loader, probe.accumulate), high, 0
        while True:
            rates = decades(low, top, PER_DECADE)
            curves = np.full((sweeps, len(rates)), np.nan)
            for curve in curves:
                with mode(probe.model, training=True):
                    cost += _sweep(probe, rates, each, batches_on, curve)
                held.rewind()
            reading = read(rates, median := _median(curves))
            if reading.edge is not None or (reading.turn is not None and reading.turn <= top / 3) or top >= CEILING:
                return Found(reading.lr, None, reading.verdict, Curve(rates, median, reading.smooth), cost, reading.edge)
            top *= 10
    finally:
        batches.close()


def _sweep(probe: Updates, rates: np.ndarray, each: int, batches: Iterator[Any], out: np.ndarray) -> int:
    """One descent along the rates, its losses into `out`, NaN from where it broke off. Returns the updates made."""
    first, done = math.nan, 0
    for i, rate in enumerate(rates):
        probe.use(float(rate))
        losses = []
        for _ in range(each):
            losses.append(probe.update(batches))
            if not math.isfinite(losses[-1]):
                return done
            done += 1
        out[i] = np.mean(losses)
        first = out[0] if math.isnan(first) else first
        if out[i] > 1e3 * max(abs(first), 1e-12):
            break
    return done


def _median(curves: np.ndarray) -> np.ndarray:
    """The median over sweeps, (rates,); NaN where half of them had broken off."""
    reached = np.isfinite(curves).sum(axis=0) * 2 > len(curves)
    out = np.full(curves.shape[1], np.nan)
    out[reached] = np.nanmedian(curves[:, reached], axis=0)
    return out


def _batches(loader: Iterable[Any], held: Held, device: torch.device) -> Iterator[Any]:
    """Batches without end, on the model's device; the loader begins again where it began, with other shuffles where it shuffles."""
    while True:
        count = 0
        for count, batch in enumerate(loader, 1):  # noqa: B007
            yield moved(batch, device)
        if count == 0:
            raise InvalidValue("the loader gave no batch: expected at least one (an iterator gives each only once: give the loader itself, or a list)")
        if isinstance(loader, Iterator):
            raise InvalidValue(f"the iterator ended after {count} batches, before the test did: give the loader itself, or a list of batches")
        held.restart()


def _updates_per_rate(batch: Any, loader: Any, accumulate: int) -> int:
    """Updates for each point of the curve: as many as see ROWS_PER_RATE rows, and at most a pass over the loader."""
    rows = rows_of(batch) * accumulate
    passes = math.ceil(len(loader) / accumulate) if hasattr(loader, "__len__") else math.inf
    return max(1, int(min(math.ceil(ROWS_PER_RATE / rows), passes)))


def _check(model: Any, loss: Any, loader: Any, objective: Any, low: float, high: float, sweeps: int, accumulate: int, may_consume: bool) -> None:
    if not isinstance(model, torch.nn.Module):
        raise InvalidValue(f"model is a {type(model).__name__}: expected a torch.nn.Module")
    if (loss is None) == (objective is None):
        given = "neither" if loss is None else "both"
        raise InvalidValue(f"find_lr was given {given} of loss and objective: expected loss, called as loss(model(x), y), or objective=f(model, batch)")
    if not (0 < low < high < math.inf):
        raise InvalidValue(f"find_lr(low={low!r}, high={high!r}): expected 0 < low < high")
    for name, value in (("sweeps", sweeps), ("accumulate", accumulate)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidValue(f"find_lr({name}={value!r}): expected a whole number of at least 1")
    if not isinstance(loader, Iterable):
        raise InvalidValue(f"loader is a {type(loader).__name__}: expected a DataLoader, or a list of batches")
    if isinstance(loader, Iterator) and not may_consume:
        raise InvalidValue(
            f"loader is a {type(loader).__name__}, an iterator, and its position cannot be put back: give the loader itself, a list of "
            "batches, or may_consume=True to lose what is taken"
        )
    split = [n for n, p in model.named_parameters() if type(p).__name__ in ("DTensor", "FlatParameter") or hasattr(p, "device_mesh")]
    if split:
        raise InvalidValue(f"parameter {split[0]!r} is split over processes (FSDP, DTensor), which this test cannot put back: test the model before it is split")


def _check_plan(plan: Any, valid: Any, budget: Any) -> None:
    if plan is not None and not isinstance(plan, Plan):
        raise InvalidValue(f"plan is a {type(plan).__name__}: expected the fl.Plan that Scheduler will be given")
    if plan is None and valid is not None:
        raise InvalidValue("valid= scores probes, which need the plan that the training will follow: give plan= too")
    if isinstance(valid, Iterator):
        raise InvalidValue(f"valid is a {type(valid).__name__}, an iterator, and its position cannot be put back: give the loader itself, or a list of batches")
    if isinstance(budget, bool) or not isinstance(budget, (int, float)) or not 0 < budget < math.inf:
        raise InvalidValue(f"find_lr(budget={budget!r}): expected a number above 0, a share of the plan's updates")


def _check_optimizer(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if isinstance(optimizer, torch.optim.LBFGS) or (closure is not None and closure.default is inspect.Parameter.empty):
        raise InvalidValue(f"{type(optimizer).__name__} evaluates a closure several times in one step, so a range test says nothing about it: test SGD or Adam")
    own = {id(p) for p in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise InvalidValue("the optimizer holds none of the model's parameters: make it from model.parameters() of this very model")
