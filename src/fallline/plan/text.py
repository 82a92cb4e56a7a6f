"""A plan in words and numbers: what `plan.explain()`, `plan.table()` and a notebook show."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.columns import Columns
from fallline.errors import InvalidValue, PlanMismatch
from fallline.rows import COLUMNS, NEUTRAL
from fallline.rules import resolve_groups, unusual_lr

if TYPE_CHECKING:
    from fallline.plan import Plan

MOST = 200_000
"""Updates at which a long plan's learning rate is read to find its peak."""


def explain(plan: Plan, problem: Any = None) -> str:
    """The text of `plan.explain(problem)`."""
    if problem is not None and plan.rows is not None and problem.rows != plan.rows:
        raise PlanMismatch(f"the plan is for {plan.rows:,} rows and the problem has {problem.rows:,}: make it with Plan(problem, ...)")
    lines = [_length(plan), _batches(plan), f"optimizer: {plan.optimizer!r}"]
    lines += ["    " + line for line in _formula(plan)]
    lines += _rates(plan)
    if problem is not None:
        lines += ["parameters:"] + ["    " + line for line in _groups(plan, problem)]
        lines += _beyond(plan, problem)
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines)


def _length(plan: Plan) -> str:
    if plan.rows is None or plan.steps_per_epoch is None:
        return f"{_count(plan.steps, 'update')} over a stream of rows"
    return (
        f"{_count(plan.steps, 'update')}: {plan.epochs:g} epoch{'' if plan.epochs == 1 else 's'} of "
        f"{_count(plan.steps_per_epoch, 'update')} over {_count(plan.rows, 'row')}"
    )


def _batches(plan: Plan) -> str:
    batches = plan.batch_size
    if batches.is_full:
        return "batch: all rows at every update (batch gradient descent)"
    size = _count(batches.size or 1, "row")
    kind = " (stochastic gradient descent)" if batches.size == 1 else ""
    order = "shuffled every epoch" if repr(batches.order) == "Shuffled()" else f"in the order {batches.order!r}"
    text = f"batch: {size}{kind}, {order}, seed {plan.seed}"
    if plan.rows is None or plan.rows % (batches.size or 1) == 0:
        return text
    rest = plan.rows % (batches.size or 1)
    return text + (f"; the last {rest} of an epoch's order are left out" if batches.last == "drop" else f"; an epoch's last batch has {rest}")


def _formula(plan: Plan) -> list[str]:
    try:
        return [line for line in str(plan.optimizer.formula()).splitlines() if line.strip()]
    except InvalidValue:  # a law whose numbers hang on an lr that is still auto
        return []


def _rates(plan: Plan) -> list[str]:
    if plan.lr_is_auto:
        return ["lr: auto, found by find_lr before training"]
    at = np.arange(plan.steps) if plan.steps <= MOST else np.unique(np.linspace(0, plan.steps - 1, MOST).astype(np.int64))
    lr = plan.lr_at(at)
    unusual = [f"    {said}" for said in [unusual_lr(plan.optimizer, float(lr.max()))] if said]
    if (lr == lr[0]).all():
        return [f"lr: {lr[0]:g} at every update"] + (["    lr 0: no update does anything"] if lr[0] == 0 else []) + unusual
    top = int(np.argmax(lr))
    lines = [f"lr: first {lr[0]:g}, peak {lr[top]:g} at update {at[top]:,}, last {lr[-1]:g} at update {at[-1]:,}"]
    if lr[0] == 0:
        lines.append("    the first update has lr 0 and does nothing: give the warmup a start above 0 to use it")
    if lr[-1] == 0:
        lines.append("    the last update has lr 0 and does nothing")
    return lines + unusual


def _groups(plan: Plan, problem: Any) -> list[str]:
    groups, group_of = resolve_groups(plan.optimizer, problem.layout)
    decay = getattr(plan.optimizer, "weight_decay", 0)
    names = [f"{p.name} {p.shape}" for p in problem.layout.parameters]
    width = max((len(n) for n in names), default=0)
    lines = []
    for name, number in zip(names, group_of, strict=True):
        group, said = groups[number], []
        if group.lr != 1:
            said.append(f"lr x {group.lr:g}")
        if group.weight_decay == 0:
            said.append("no weight decay")
        else:
            amount = f"{decay * group.weight_decay:g}" if isinstance(decay, (int, float)) else f"{decay} x {group.weight_decay:g}"
            said.append("no weight decay" if decay == 0 else f"weight decay {amount}")
        if group.frozen is not None:
            said.append(f"frozen for {group.frozen!r}")
        lines.append(f"{name:{width}}  group {number}: {', '.join(said)}")
    return lines


def _beyond(plan: Plan, problem: Any) -> list[str]:
    """A warning where the learning rate is above the edge of stability, as measured; nothing where it is not."""
    if plan.lr_is_auto:
        return []
    try:
        found = plan.stability(problem)
    except InvalidValue:  # a curvature that is not finite: training will say so
        return []
    return [] if found.stable else [f"warning: {found.verdict}"]


def _count(n: int, unit: str) -> str:
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


@dataclass(frozen=True, eq=False, repr=False)
class PlanTable(Columns):
    """Columns of a plan at some updates: `table["lr"]` is an array, printing shows the table.

    Attributes:
        columns: name -> array; "step", "epoch" and "lr" (the schedule's) first, then the row's columns that matter.
    """

    columns: dict[str, np.ndarray]

    def __repr__(self) -> str:
        cells = {name: [f"{v:,}" if name == "step" else f"{v:g}" for v in values.tolist()] for name, values in self.columns.items()}
        width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
        head = "  ".join(f"{name:>{width[name]}}" for name in cells)
        body = ["  ".join(f"{cells[name][i]:>{width[name]}}" for name in cells) for i in range(len(self))]
        return "\n".join([head, *body])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{values[i]:g}</td>" for values in self.columns.values()) + "</tr>" for i in range(len(self))
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(plan: Plan, steps: Any = None) -> PlanTable:
    """The table of `plan.table(steps)`: the first group's columns that differ from the neutral row or vary."""
    if steps is None:
        at = np.unique(np.linspace(0, plan.steps - 1, min(12, plan.steps)).round().astype(np.int64))
    else:
        at = np.atleast_1d(np.asarray(list(steps) if not np.isscalar(steps) else steps, np.int64))
    if at.size == 0 or at.min() < 0 or at.max() >= plan.steps:
        raise InvalidValue(f"table(steps={steps!r}): expected updates between 0 and {plan.steps - 1}")
    columns: dict[str, np.ndarray] = {"step": at}
    if plan.steps_per_epoch:
        columns["epoch"] = at / plan.steps_per_epoch
    if plan.lr_is_auto:
        return PlanTable(columns)
    columns["lr"] = plan.lr_at(at)
    for name, values in _row_columns(plan, at).items():
        if name == "lr" and np.array_equal(values, columns["lr"]):
            continue
        if (values != NEUTRAL[name]).any():
            columns["row lr" if name == "lr" else name] = values
    return PlanTable(columns)


def _row_columns(plan: Plan, at: np.ndarray) -> dict[str, np.ndarray]:
    """Every column at those updates; a dense stretch is written at once, scattered updates one by one."""
    first, last = int(at.min()), int(at.max())
    if last - first < 4 * len(at) + 64:
        rows, _ = plan.rows_between(first, last + 1)
        return {name: rows.column(name)[at - first, 0].copy() for name in COLUMNS}
    single = [plan.rows_between(t, t + 1)[0] for t in at.tolist()]
    return {name: np.array([rows.column(name)[0, 0] for rows in single]) for name in COLUMNS}


def html(plan: Plan) -> str:
    """What a notebook shows: the text, the table, and the picture where the charts are installed."""
    text = f"<pre>{escape(explain(plan))}</pre>{table(plan)._repr_html_()}"
    if plan.lr_is_auto:
        return text
    try:
        return text + plan.plot()._repr_html_()
    except ImportError:
        return text
