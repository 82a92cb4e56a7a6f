"""Charts of predictions beside the truth, and of coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fallline.charts.marks import PLAIN_LABEL, numbers, quantity, rows, same_length, sentence, short
from fallline.charts.picture import BLUE, GREY, INK, ORANGE, Picture
from fallline.errors import InvalidValue

MOST_CLASSES = 15
MOST_DOTS = 800


def confusion(y_true: Any, y_pred: Any, classes: Sequence[Any] | None = None) -> Picture:
    """How often each class was taken for which.

    Args:
        y_true, y_pred: (n,) labels.
        classes: the order of the classes; sorted labels where not given. Beyond 15, those with most mistakes are shown.

    >>> confusion(["a", "a", "b"], ["a", "b", "b"]).title
    '2 of 3 right; most often a was taken for b (1 of 2)'
    """
    truth, guess = [str(v) for v in np.asarray(y_true).tolist()], [str(v) for v in np.asarray(y_pred).tolist()]
    if len(truth) != len(guess):
        raise InvalidValue(f"confusion: {len(truth)} labels and {len(guess)} predictions; expected as many")
    given = np.unique(np.concatenate([np.asarray(y_true), np.asarray(y_pred)])).tolist() if classes is None else list(classes)
    names = [str(c) for c in given]
    place = {name: i for i, name in enumerate(names)}
    unknown = sorted({v for v in truth + guess if v not in place})
    if unknown:
        raise InvalidValue(f"confusion: label {unknown[0]!r} is not among the classes {', '.join(names[:20])}")
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(table, ([place[v] for v in truth], [place[v] for v in guess]), 1)
    title = _confusion_title(table, names)
    table, names, note = _fewer(table, names)
    return Picture(title, _confusion_spec(table, names), note, height=min(460, 90 + 30 * len(names)))


def _confusion_spec(table: np.ndarray, names: list[str]) -> dict:
    size = len(names)
    totals = np.maximum(table.sum(axis=1, keepdims=True), 1)
    share = table / totals
    i, j = (a.ravel() for a in np.indices(table.shape))
    data = rows(
        truth=[names[a] for a in i], guess=[names[b] for b in j], count=table.ravel(), share=share.ravel(),
        text=[f"{c:,}" if c else "" for c in table.ravel().tolist()], right=(i == j),
        note=[f"{names[a]} taken for {names[b]}: {table[a, b]:,} of {totals[a, 0]:,} ({share[a, b]:.1%})" for a, b in zip(i, j, strict=True)],
    )  # fmt: skip
    axis = {"domain": False, "ticks": False, "labelLimit": 90, "labelAngle": -40 if max(map(len, names)) * size > 60 else 0}
    x = {"field": "guess", "type": "nominal", "sort": names, "title": "predicted", "axis": axis}
    y = {"field": "truth", "type": "nominal", "sort": names, "title": "true", "axis": {**axis, "labelAngle": 0}}
    color = {"condition": {"test": "datum.right", "value": BLUE}, "value": ORANGE}
    fade = {"field": "share", "type": "quantitative", "scale": {"domain": [0, 1], "range": [0.05, 0.75], "type": "pow", "exponent": 0.6}, "legend": None}
    return {"data": data, "layer": [
        {"mark": {"type": "rect", "cornerRadius": 2, "stroke": INK, "strokeOpacity": 0.08},
         "encoding": {"x": x, "y": y, "color": color, "opacity": fade, "description": {"field": "note"}}},
        {"mark": {"type": "text", "fontSize": 11 if size <= 12 else 9}, "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
    ]}  # fmt: skip


def _confusion_title(table: np.ndarray, names: list[str]) -> str:
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    text = f"{int(np.trace(table)):,} of {int(table.sum()):,} right"
    if not wrong.any():
        return text
    i, j = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
    return f"{text}; most often {names[i]} was taken for {names[j]} ({wrong[i, j]:,} of {table[i].sum():,})"


def _fewer(table: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str], str]:
    """The classes with most mistakes and one row and column for all others, where there are too many to read."""
    if len(names) <= MOST_CLASSES:
        return table, names, ""
    mistakes = table.sum(axis=0) + table.sum(axis=1) - 2 * np.diag(table)
    kept = np.sort(np.argsort(-mistakes, kind="stable")[: MOST_CLASSES - 1])
    group = np.full(len(names), len(kept))
    group[kept] = np.arange(len(kept))
    small = np.zeros((len(kept) + 1, len(kept) + 1), dtype=np.int64)
    np.add.at(small, (group[:, None].repeat(len(names), 1), group[None, :].repeat(len(names), 0)), table)
    rest = f"{len(names) - len(kept)} others"
    return small, [*(names[i] for i in kept), rest], f"The {len(kept)} classes with most mistakes of {len(names)}; the others stand together, their mix-ups on the diagonal."


def pr(y: Any, score: Any, *, positive: Any = None) -> Picture:
    """Precision against recall over all thresholds.

    Args:
        y: (n,) 1 or True where the row is of the positive class.
        score: (n,) larger means more positive.
        positive: the name of the positive class, for the title.

    >>> pr([0, 1, 1], [0.1, 0.8, 0.9]).title
    'Average precision 1; a random order would give 0.667'
    """
    truth, value = numbers(y, "y") > 0.5, numbers(score, "score")
    same_length(y=truth, score=value)
    if not truth.any():
        raise InvalidValue("pr: no row is of the positive class; a precision-recall curve needs some")
    order = np.argsort(-value, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(value[order])), len(value) - 1)
    hits = np.cumsum(truth[order])[ends]
    precision, recall = hits / (ends + 1), hits / truth.sum()
    average = float(np.sum(np.diff(recall, prepend=0.0) * precision))
    keep = np.unique(np.linspace(0, len(ends) - 1, 400).astype(int))
    base = float(truth.mean())
    notes = [f"threshold {short(t)}: precision {p:.3f}, recall {r:.3f}" for t, p, r in zip(value[order][ends][keep], precision[keep], recall[keep], strict=True)]
    xs = quantity("x", "recall: share of the positive rows found", scale={"domain": [0, 1]}, axis={"format": ".0%", "grid": False, "tickCount": 5})
    ys = quantity("y", "precision", scale={"domain": [0, 1]}, axis={"format": ".0%", "tickCount": 5})
    spec = {"layer": [
        {"data": rows(y=[base], note=[f"random order: precision {base:.3f}"]), "mark": {"type": "rule", "color": GREY, "strokeDash": [4, 3]},
         "encoding": {"y": ys, "description": {"field": "note"}}},
        {"data": rows(x=np.append(0.0, recall[keep]), y=np.append(precision[0], precision[keep])), "mark": {"type": "line", "color": BLUE, "interpolate": "step-before"},
         "encoding": {"x": xs, "y": ys}},
        {"data": rows(x=recall[keep], y=precision[keep], note=notes), "mark": {"type": "circle", "opacity": 0, "size": 80},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
    ]}  # fmt: skip
    of = f" for {positive}" if positive is not None else ""
    return Picture(f"Average precision {short(average)}{of}; a random order would give {short(base)}", spec, "Dashed: a random order.")


def calibration(y: Any, probability: Any, *, bins: int = 10, positive: Any = None) -> Picture:
    """Predicted probability beside the share that came true.

    Args:
        y: (n,) 1 or True where the row is of the positive class.
        probability: (n,) predicted probability of that class, 0 .. 1.
        bins: bins with about as many rows each.
        positive: the name of the positive class, for the axis.

    >>> calibration([0, 0, 1, 1], [0.0, 0.0, 1.0, 1.0], bins=2).title
    'Predicted probabilities are off by 0 % points on average'
    """
    truth, p = numbers(y, "y") > 0.5, numbers(probability, "probability")
    same_length(y=truth, probability=p)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    said, came = np.array([p[k].mean() for k in parts]), np.array([truth[k].mean() for k in parts])
    counts = np.array([len(k) for k in parts])
    spans = [_wilson(c, n) for c, n in zip(came, counts, strict=True)]
    gap = float(np.sum(counts * np.abs(said - came)) / counts.sum())
    notes = [f"said {s:.1%}, came true {c:.1%} ({n:,} rows)" for s, c, n in zip(said, came, counts, strict=True)]
    of = f" of {positive}" if positive is not None else ""
    unit = {"scale": {"domain": [0, 1]}}
    xs, ys = quantity("x", f"predicted probability{of}", axis={"format": ".0%", "grid": False, "tickCount": 5}, **unit), quantity("y", "share that came true", axis={"format": ".0%", "tickCount": 5}, **unit)
    spec = {"layer": [
        {"data": rows(x=[0.0, 1.0], y=[0.0, 1.0]), "mark": {"type": "line", "color": GREY, "strokeDash": [4, 3], "strokeWidth": 1.5}, "encoding": {"x": xs, "y": ys}},
        {"data": rows(x=said, y=[a for a, _ in spans], y2=[b for _, b in spans]), "mark": {"type": "rule", "color": BLUE, "opacity": 0.55, "strokeWidth": 2},
         "encoding": {"x": xs, "y": ys, "y2": {"field": "y2"}}},
        {"data": rows(x=said, y=came), "mark": {"type": "line", "color": BLUE, "opacity": 0.7}, "encoding": {"x": xs, "y": ys}},
        {"data": rows(x=said, y=came, note=notes), "mark": {"type": "circle", "color": BLUE, "size": 55, "opacity": 1},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
    ]}  # fmt: skip
    caption = f"{len(parts)} bins of about {int(counts.mean()):,} rows; bars: 95 % intervals; dashed: perfect."
    return Picture(f"Predicted probabilities are off by {short(100 * gap, 2)} % points on average", spec, caption)


@np.errstate(over="ignore", invalid="ignore")
def predicted(y: Any, prediction: Any, *, name: str = "value") -> Picture:
    """Prediction against truth, with the diagonal where both agree.

    >>> predicted([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).title
    'Predictions follow the truth: R2 1'
    """
    truth, guess = numbers(y, "y"), numbers(prediction, "prediction")
    same_length(y=truth, prediction=guess)
    keep, note = _dots(truth, np.abs(guess - truth))
    r2 = 1 - np.sum((truth - guess) ** 2) / np.sum((truth - truth.mean()) ** 2) if np.ptp(truth) else math.nan
    every = np.concatenate([truth, guess])
    every = every[np.isfinite(every)]
    ends = np.array([every.min(), every.max()] if len(every) else [0.0, 1.0])
    notes = [f"true {short(a)}, predicted {short(b)}" for a, b in zip(truth[keep], guess[keep], strict=True)]
    xs = quantity("x", f"true {name}", axis={"labelExpr": PLAIN_LABEL, "grid": False, "tickCount": 6})
    ys = quantity("y", f"predicted {name}", axis={"labelExpr": PLAIN_LABEL, "tickCount": 6})
    spec = {"layer": [
        {"data": rows(x=truth[keep], y=guess[keep], note=notes), "mark": {"type": "circle", "color": BLUE, "size": 18, "opacity": _ink(len(keep))},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
        {"data": rows(x=ends, y=ends), "mark": {"type": "line", "color": ORANGE, "strokeDash": [5, 3], "strokeWidth": 1.5}, "encoding": {"x": xs, "y": ys}},
    ]}  # fmt: skip
    words = "follow the truth" if r2 > 0.8 else "follow the truth in part" if r2 > 0.2 else "say little about the truth"
    return Picture(f"Predictions {words}: R2 {short(r2)}", spec, sentence("dashed: prediction equals truth", note))


@np.errstate(over="ignore", invalid="ignore")
def residuals(y: Any, prediction: Any, *, name: str = "value") -> Picture:
    """Truth minus prediction against prediction, with the median of each tenth of the rows.

    >>> residuals([1.0, 2.0, 4.0], [1.5, 2.0, 3.0]).title
    'Half of the errors are within 0.5; the median error is 0'
    """
    truth, guess = numbers(y, "y"), numbers(prediction, "prediction")
    same_length(y=truth, prediction=guess)
    error = truth - guess
    keep, note = _dots(guess, np.abs(error))
    notes = [f"predicted {short(a)}, error {short(b)}" for a, b in zip(guess[keep], error[keep], strict=True)]
    xs = quantity("x", f"predicted {name}", axis={"labelExpr": PLAIN_LABEL, "grid": False, "tickCount": 6})
    ys = quantity("y", "true minus predicted", axis={"labelExpr": PLAIN_LABEL, "tickCount": 6})
    layers = [
        {"data": rows(x=guess[keep], y=error[keep], note=notes), "mark": {"type": "circle", "color": BLUE, "size": 18, "opacity": _ink(len(keep))},
         "encoding": {"x": xs, "y": ys, "description": {"field": "note"}}},
        {"data": rows(y=[0.0]), "mark": {"type": "rule", "color": GREY, "strokeDash": [4, 3]}, "encoding": {"y": ys}},
    ]  # fmt: skip
    if len(error) >= 50:
        parts = np.array_split(np.argsort(guess, kind="stable"), 10)
        middle = rows(x=[float(np.median(guess[k])) for k in parts], y=[float(np.median(error[k])) for k in parts])
        layers.append({"data": middle, "mark": {"type": "line", "color": ORANGE, "point": {"color": ORANGE, "size": 25}}, "encoding": {"x": xs, "y": ys}})
        note = sentence("orange: median error in each tenth of the rows; far from zero means a bend the model misses", note)
    title = f"Half of the errors are within {short(float(np.median(np.abs(error))))}; the median error is {short(float(np.median(error)))}"
    return Picture(title, {"layer": layers}, sentence(note))


def coefficients(names: Sequence[str], values: Any, *, most: int = 20, count: int | None = None, title: str | None = None) -> Picture:
    """The largest coefficients by name, with their sign.

    Args:
        names: (p,) feature names.
        values: (p,) coefficients, on the scale of standardised features where they were standardised.
        most: how many bars.
        count: how many coefficients there are, where only the largest are given.

    >>> coefficients(["age", "income"], [0.5, -2.0]).title
    'Largest coefficient: income (-2)'
    """
    sizes = numbers(values, "values")
    if len(names) != len(sizes):
        raise InvalidValue(f"coefficients: {len(names)} names for {len(sizes)} values; expected one name each")
    order = np.argsort(-np.abs(sizes), kind="stable")[:most]
    top = f"Largest coefficient: {names[order[0]]} ({short(sizes[order[0]])})" if len(order) else "No coefficients"
    total = len(sizes) if count is None else count
    caption = f"The {len(order)} largest of {total:,} by absolute value." if len(order) < total else ""
    return bars([str(names[i]) for i in order.tolist()], sizes[order], name="coefficient", title=title or top, caption=caption)


def bars(names: Sequence[str], values: Any, *, name: str = "value", title: str = "", caption: str = "") -> Picture:
    """Horizontal bars in the order given; negative ones in another colour.

    >>> bars(["plain", "momentum"], [140, 38], name="epochs").title
    'epochs: largest for plain (140)'
    """
    sizes = numbers(values, "values")
    plain = [str(n) for n in names]
    labels = [_unique(n, i, plain) for i, n in enumerate(plain)]
    data = rows(name=labels, value=sizes, text=[short(v) for v in sizes], note=[f"{n}: {short(v, 4)}" for n, v in zip(labels, sizes, strict=True)])
    finite = sizes[np.isfinite(sizes)]
    low, high = (min(0.0, finite.min()), max(0.0, finite.max())) if len(finite) else (0.0, 1.0)
    room = 0.16 * ((high - low) or 1.0)
    domain = [float(low - room) if low < 0 else 0.0, float(high + room) if high > 0 or low == 0 else 0.0]
    y = {"field": "name", "type": "nominal", "sort": labels, "title": None, "axis": {"labelLimit": 190, "ticks": False, "domain": False}}
    x = quantity("value", name, scale={"domain": domain, "zero": True}, axis={"tickCount": 5, "labelExpr": PLAIN_LABEL})
    color = {"condition": {"test": "datum.value < 0", "value": ORANGE}, "value": BLUE}
    side = {"type": "text", "fontSize": 10, "opacity": 0.85}
    spec = {"data": data, "layer": [
        {"mark": {"type": "bar", "cornerRadius": 2, "height": {"band": 0.7}}, "encoding": {"x": x, "y": y, "color": color, "description": {"field": "note"}}},
        {"transform": [{"filter": "datum.value >= 0"}], "mark": {**side, "align": "left", "dx": 4}, "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
        {"transform": [{"filter": "datum.value < 0"}], "mark": {**side, "align": "right", "dx": -4}, "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
    ]}  # fmt: skip
    found = title or (f"{name}: largest for {plain[int(np.flatnonzero(sizes == finite.max())[0])]} ({short(finite.max())})" if len(finite) else name)
    return Picture(found, spec, caption, height=60 + 19 * max(len(labels), 2))


def _unique(label: str, i: int, names: Sequence[str]) -> str:
    """Bars of one name would fall on each other: a repeated name gets its place in the list."""
    return label if list(names).index(names[i]) == i else f"{label} (#{i + 1})"


def _dots(order_by: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, str]:
    """Indices of the rows to draw as dots and what was left out: an even spread plus the largest errors."""
    n = len(order_by)
    if n <= MOST_DOTS:
        return np.arange(n), ""
    order = np.argsort(order_by, kind="stable")
    even = order[np.linspace(0, n - 1, MOST_DOTS - 100).astype(int)]
    keep = np.union1d(even, np.argsort(-size, kind="stable")[:100])
    return keep, f"{len(keep):,} of {n:,} rows drawn: an even spread and the 100 largest errors"


def _ink(count: int) -> float:
    return 0.75 if count < 200 else 0.4


def _wilson(share: float, n: int) -> tuple[float, float]:
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half
