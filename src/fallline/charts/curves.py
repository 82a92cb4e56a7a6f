"""Charts over steps: learning rate, loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fallline.charts.marks import (
    MOST_POINTS,
    Thinned,
    gaps,
    hover,
    label_x,
    log_scale,
    log_wanted,
    numbers,
    quantity,
    rows,
    rule_x,
    same_length,
    sentence,
    short,
    thin,
    time_axis,
)  # fmt: skip
from fallline.charts.picture import BLUE, DASHES, ORANGE, RED, SERIES, Picture
from fallline.errors import InvalidValue


def lr_curve(steps: Any, lr: Any, *, steps_per_epoch: int | None = None, name: str = "learning rate") -> Picture:
    """The learning rate (or any other hyperparameter) by step.

    Args:
        steps: (T,) update indices.
        lr: (T,) value at each update.
        steps_per_epoch: given, the axis counts epochs.
        name: what the values are.

    >>> lr_curve([0, 1, 2, 3], [0.1, 0.2, 0.1, 0.05]).title
    'Learning rate starts at 0.1, peaks at 0.2 and ends at 0.05'
    """
    x, y = numbers(steps, "steps"), numbers(lr, "lr")
    same_length(steps=x, lr=y)
    keep = _telling(y)
    time, unit = _time(x, steps_per_epoch)
    x, y, time = x[keep], y[keep], time[keep]
    data = rows(x=time, y=y)
    marks, missing = gaps(time, y, name)
    spec = {"layer": [
        {"data": data, "mark": {"type": "line", "color": BLUE, "interpolate": "linear" if _smooth(y) else "step-after"},
         "encoding": {"x": time_axis(unit), "y": _value_axis(y, name)}},
        hover(*_sampled(time, y, lambda i: f"{unit} {short(time[i], 5)}: {name} {short(y[i], 4)}")),
        *marks,
    ]}  # fmt: skip
    total = int(numbers(steps, "steps")[-1] - numbers(steps, "steps")[0]) + 1 if np.size(steps) else 0
    thinned = f"{len(keep):,} of {total:,} steps drawn, peak and jumps kept" if len(keep) < total else ""
    return Picture(_lr_title(y, name), spec, sentence(thinned, missing), height=200)


def plan_curves(curves: Mapping[str, Any], *, steps: Any = None, steps_per_epoch: int | None = None, apart: bool = False) -> Picture:
    """Several curves by step: one hyperparameter of several plans, or (`apart`) several of one plan in panels.

    Args:
        curves: name -> (T,) values; the lengths may differ where `steps` is not given.
        steps: (T,) update indices; counted from 0 where not given.
        steps_per_epoch: given, the axis counts epochs.
        apart: one panel per curve, each with its own scale.

    >>> plan_curves({"cosine": [1.0, 0.5, 0.0], "constant": [1.0, 1.0, 1.0]}).title
    'cosine: 1 to 0; constant: 1 to 1'
    """
    if not curves:
        raise InvalidValue("plan_curves({}): expected at least one curve")
    tables = []
    unit = "step"
    for name, values in curves.items():
        y = numbers(values, name)
        x = np.arange(len(y), dtype=np.float64) if steps is None else numbers(steps, "steps")
        same_length(**{"steps": x, name: y})
        keep = _telling(y)
        time, unit = _time(x, steps_per_epoch)
        tables.append((name, time[keep], y[keep]))
    title = "; ".join(f"{n}: {short(y[0])} to {short(y[-1])}" for n, _, y in tables if len(y))
    if apart and len(tables) > 1:
        return _panels(tables, unit, title)
    everything = np.concatenate([y for _, _, y in tables])
    data = {"values": [row for n, x, y in tables for row in rows(x=x, y=y, name=[n] * len(x))["values"]]}
    spec = {"data": data, "mark": {"type": "line", "interpolate": "linear"}, "encoding": {
        "x": time_axis(unit), "y": _value_axis(everything, None),
        **by_name([n for n, _, _ in tables]),
    }}  # fmt: skip
    return Picture(title, spec)


def loss_curves(
    step: Any, loss: Any, valid_step: Any = None, valid: Any = None, *, best_step: float | None = None,
    steps_per_epoch: int | None = None, valid_name: str = "validation loss", title: str | None = None, went_back: Any = (),
) -> Picture:  # fmt: skip
    """Training loss by step, with validation beside it.

    Args:
        step: (T,) update indices.
        loss: (T,) mean batch loss before each update.
        valid_step, valid: (E,) update index and value of each evaluation, or None.
        best_step: update index of the evaluation whose weights were kept, or None.
        steps_per_epoch: given, the axis counts epochs.
        valid_name: what `valid` holds, in the unit of the loss.
        title: another title.
        went_back: update indices to which the run went back after it had diverged.

    >>> loss_curves([0, 1, 2, 3], [4.0, 2.0, 1.0, 0.5], [2, 4], [1.5, 1.0], best_step=4).title
    'Training loss fell from 4 to 0.5; validation loss was lowest, 1, at step 4'
    """
    x, y = numbers(step, "step"), numbers(loss, "loss")
    same_length(step=x, loss=y)
    time, unit = _time(x, steps_per_epoch)
    train = _readable(time, y, steps_per_epoch)
    ev_x, ev_y = numbers([] if valid_step is None else valid_step, "valid_step"), numbers([] if valid is None else valid, "valid")
    same_length(valid_step=ev_x, valid=ev_y)
    ev_time, _ = _time(ev_x, steps_per_epoch)
    logarithmic = log_wanted(np.concatenate([train.mean, ev_y]))
    solid = train.mean[np.isfinite(train.mean)]
    low = np.maximum(train.low, solid.min() / 10) if logarithmic and len(solid) else train.low
    xs, ys = time_axis(unit), quantity("y", "loss", **log_scale(logarithmic, np.concatenate([train.low, train.high, ev_y])))
    names = ["training loss", *([valid_name] if len(ev_y) else [])]
    color = {"color": {"field": "name", "scale": {"domain": names, "range": [BLUE, ORANGE]}, "legend": {} if len(names) > 1 else None}}
    layers: list[dict] = []
    if train.per > 1:
        layers.append({"data": rows(x=train.x, y=low, y2=train.high), "mark": {"type": "area", "color": BLUE, "opacity": 0.18},
                       "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}})  # fmt: skip
    layers.append({"data": rows(x=train.x, y=train.mean, name=[names[0]] * len(train.x)),
                   "mark": {"type": "line", "point": len(y) <= 30 and {"size": 25}}, "encoding": {"x": xs, "y": ys, **color}})  # fmt: skip
    layers.append(hover(*_sampled(train.x, train.mean, lambda i: f"{unit} {short(train.x[i], 4)}: training loss {short(train.mean[i], 4)}")))
    if len(ev_y):
        notes = [f"{unit} {short(a, 4)}: {valid_name} {short(b, 4)}" for a, b in zip(ev_time, ev_y, strict=True)]
        layers.append({"data": rows(x=ev_time, y=ev_y, name=[names[1]] * len(ev_y), note=notes),
                       "mark": {"type": "line", "point": {"size": 28, "filled": True} if len(ev_y) <= 60 else False, "strokeDash": list(DASHES[0])},
                       "encoding": {"x": xs, "y": ys, **color, "description": {"field": "note"}}})  # fmt: skip
    for where, what, name in ((time, y, "training loss"), (ev_time, ev_y, valid_name)):
        layers += gaps(where, what, name)[0]
    if best_step is not None:
        best = float(_time(np.array([float(best_step)]), steps_per_epoch)[0][0])
        layers.append(rule_x(best, f"best: {unit} {short(best)}", color=ORANGE))
        far = len(train.x) and best > 0.5 * float(np.nanmax(np.concatenate([train.x, ev_time])))
        layers.append(label_x(best, "best", align="right" if far else "left", color=ORANGE))
    for at in _time(numbers(went_back, "went_back"), steps_per_epoch)[0].tolist():
        layers.append(rule_x(at, f"diverged, and went back to {unit} {short(at, 4)}", color=RED))
    found = title or _loss_title(y, train.mean, ev_time, ev_y, unit, valid_name)
    back = f"red: diverged and went back, {len(went_back)} times" if len(went_back) > 1 else "red: diverged and went back" if len(went_back) else ""
    clipped = "the band is cut at a tenth of the lowest mean" if logarithmic and np.any(train.low < low) else ""
    return Picture(found, {"layer": layers}, sentence(train.caption, clipped, back, gaps(time, y, "training loss")[1], gaps(ev_time, ev_y, valid_name)[1]))


def by_name(names: list[str]) -> dict:
    """Colour and dash by the field `name`, in the order given."""
    dashes = [list(DASHES[i // len(SERIES) % len(DASHES)] if len(names) > len(SERIES) else DASHES[i % len(DASHES)]) for i in range(len(names))]
    colors = [SERIES[i % len(SERIES)] for i in range(len(names))]
    legend = {"columns": min(len(names), 3)}
    return {
        "color": {"field": "name", "type": "nominal", "scale": {"domain": names, "range": colors}, "legend": legend},
        "strokeDash": {"field": "name", "type": "nominal", "scale": {"domain": names, "range": dashes}, "legend": legend},
    }


def _panels(tables: list, unit: str, title: str) -> Picture:
    """One small panel per curve, one under the other, on one time axis."""
    panels = []
    for i, (name, x, y) in enumerate(tables):
        last = i == len(tables) - 1
        panels.append({
            "data": rows(x=x, y=y), "width": 380, "height": 110, "mark": {"type": "line", "color": SERIES[i % len(SERIES)]},
            "encoding": {"x": time_axis(unit if last else None, labels=last, ticks=last), "y": _value_axis(y, name)},
        })  # fmt: skip
    return Picture(title, {"vconcat": panels, "spacing": 12})


def _readable(time: np.ndarray, y: np.ndarray, steps_per_epoch: int | None) -> Thinned:
    """The training loss in 300 points; where batches make it jump more than it falls, in about 50 or one an epoch."""
    fine = thin(time, y, 300)
    mean = fine.mean[np.isfinite(fine.mean)]
    if len(mean) < 100:
        return fine
    low, high = np.percentile(mean, [5, 95])
    if np.mean(np.abs(np.diff(mean))) < 0.1 * (high - low):
        return fine
    enough = steps_per_epoch is not None and len(y) >= 12 * steps_per_epoch
    return thin(time, y, 300, steps_per_epoch if enough and steps_per_epoch else math.ceil(len(y) / 50))


def _time(steps: np.ndarray, steps_per_epoch: int | None) -> tuple[np.ndarray, str]:
    return (steps / steps_per_epoch, "epoch") if steps_per_epoch else (steps, "step")


def _telling(y: np.ndarray) -> np.ndarray:
    """Indices that tell a curve of hyperparameters: an even spread, both ends, extremes, both sides of each large jump."""
    if len(y) <= MOST_POINTS:
        return np.arange(len(y))
    jumps = np.argsort(np.abs(np.diff(np.nan_to_num(y))))[-200:]
    even = np.linspace(0, len(y) - 1, MOST_POINTS - 410).astype(int)
    finite = np.flatnonzero(np.isfinite(y))
    peaks = [finite[np.argmax(y[finite])], finite[np.argmin(y[finite])]] if len(finite) else []
    return np.unique(np.concatenate([even, jumps, jumps + 1, np.asarray(peaks, dtype=int)]))


def _smooth(y: np.ndarray) -> bool:
    """Whether neighbours are joined by a line; a curve of few levels is drawn in steps."""
    return len(y) < 2 or len(np.unique(y)) > max(8, len(y) // 20)


def _value_axis(y: np.ndarray, name: str | None) -> dict:
    finite = y[np.isfinite(y)]
    logarithmic = log_wanted(y, 300)
    pinned = len(finite) and finite.min() >= 0 and finite.min() < 0.5 * finite.max() and not logarithmic
    options = log_scale(logarithmic, y)
    options["scale"] = {**options.get("scale", {}), **({"zero": True} if pinned else {})}
    if len(finite) and finite.min() == finite.max() and not logarithmic:
        around = abs(finite[0]) or 1.0
        options["scale"]["domain"] = [float(finite[0] - around), float(finite[0] + around)] if finite[0] <= 0 else [0.0, float(2 * finite[0])]
    return quantity("y", name, **options)


def _sampled(x: np.ndarray, y: np.ndarray, note: Any, most: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """At most `most` points of a curve with a tooltip each."""
    good = np.flatnonzero(np.isfinite(y))
    shown = good if len(good) <= most else good[np.linspace(0, len(good) - 1, most).astype(int)]
    return x[shown], y[shown], [note(i) for i in shown]


def _lr_title(y: np.ndarray, name: str) -> str:
    name = name[0].upper() + name[1:]
    finite = y[np.isfinite(y)]
    if not len(finite):
        return f"{name}: no value is finite"
    first, last, peak = finite[0], finite[-1], finite.max()
    if finite.min() == peak:
        return f"{name} stays at {short(first)}"
    if peak > max(first, last) * (1 + 1e-9):
        return f"{name} starts at {short(first)}, peaks at {short(peak)} and ends at {short(last)}"
    return f"{name} goes from {short(first)} to {short(last)}"


def _loss_title(y: np.ndarray, mean: np.ndarray, ev_x: np.ndarray, ev_y: np.ndarray, unit: str, valid_name: str) -> str:
    finite = mean[np.isfinite(mean)]
    if not len(finite):
        return "No training loss was finite"
    first, last = float(y[np.isfinite(y)][0]), float(finite[-1])
    verb = "fell" if last < first else "rose" if last > first else "stayed,"
    text = f"Training loss {verb} from {short(first)} to {short(last)}"
    if np.isfinite(ev_y).any():
        i = int(np.nanargmin(ev_y))
        text += f"; {valid_name} was lowest, {short(ev_y[i])}, at {unit} {short(ev_x[i], 4)}"
    return text
