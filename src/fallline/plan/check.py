"""What a plan accepts: every argument checked, with what to do instead."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fallline.batches import Batches
from fallline.errors import InvalidValue, PlanMismatch
from fallline.rules import SGD, auto


def checked_rows(problem: Any, rows: int | None) -> int | None:
    if problem is None:
        return None if rows is None else checked_whole("rows", rows, 1)
    if isinstance(problem, (int, np.integer)) and not isinstance(problem, bool):
        raise InvalidValue(f"Plan({problem}): expected a problem; for a number of rows write Plan(rows={problem}, ...)")
    count = getattr(problem, "rows", None)
    if count is None and hasattr(problem, "layout"):  # a stream of batches: its rows are not known
        return rows
    if count is None:
        raise InvalidValue(f"Plan({type(problem).__name__}): expected a problem with .rows; or write Plan(rows=N, ...)")
    if rows is not None and rows != count:
        raise PlanMismatch(f"rows={rows} and the problem has {count:,} rows: leave rows out")
    return int(count)


def checked_batches(batch_size: Any, rows: int | None, problem: Any = None) -> Batches:
    """The batches; a size alone has the order that the problem prefers, where it has one."""
    if isinstance(batch_size, Batches):
        return batch_size
    size = (64 if rows is None else min(64, rows)) if batch_size is None else checked_whole("batch_size", batch_size, 1)
    order = getattr(problem, "order", None)
    return Batches(size) if order is None else Batches(size, order=order)


def checked_steps(epochs: Any, steps: Any, per_epoch: int | None) -> int:
    if (epochs is None) == (steps is None):
        given = "neither" if epochs is None else f"epochs={epochs} and steps={steps}"
        raise InvalidValue(f"Plan was given {given}: expected one of epochs= (passes over the rows) and steps= (updates)")
    if steps is not None:
        return checked_whole("steps", steps, 1, "; to evaluate without training use the problem's loss and predict")
    if isinstance(epochs, bool) or not isinstance(epochs, (int, float, np.number)) or not (math.isfinite(epochs) and epochs > 0):
        raise InvalidValue(f"epochs={epochs!r}: expected a finite number above 0; to evaluate without training use the problem's loss and predict")
    if per_epoch is None:
        raise InvalidValue(f"epochs={epochs} of a plan that does not know its rows: give rows=, a problem, or steps=")
    count = math.floor(float(epochs) * per_epoch + 0.5)
    if count == 0:
        raise InvalidValue(f"epochs={epochs} is no update at all ({per_epoch} updates an epoch): expected at least {1 / per_epoch:.2g}")
    return count


def checked_optimizer(optimizer: Any) -> Any:
    if optimizer is None:
        return SGD(lr=auto, momentum=0.9)
    if isinstance(optimizer, type) or not all(hasattr(optimizer, name) for name in ("rows", "answer", "with_lr", "lr")):
        raise InvalidValue(f"optimizer={optimizer!r}: expected a rule such as fl.SGD(lr=0.1, momentum=0.9)")
    return optimizer


def checked_whole(name: str, value: Any, least: int, hint: str = "") -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise InvalidValue(f"{name}={value!r}: expected a whole number of at least {least}{hint}")
    return int(value)
