"""From a Run to what a report shows.

`run.summary` is a mapping that `fit` leaves on the run; every key may be missing.
All of it may be plain values, as they come back from a saved run:

    title, command, versions, notes, created
    found       the result of find_lr: lr, interval, verdict, rungs, curve {lr, loss, smooth, diverged}
    evidence    what the choices of fit rest on: weight_decay {values, score, error, chosen}, batch_size {table, moments, batch_size}
    table       the Table: summary, feature_names, target
    headline    metric, value, interval, baseline, baseline_name, better, part, rows
    test        y, prediction, proba, classes, metrics {name: {value, interval, baseline}}, part

What is not there is left out, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fallline.report import data as d

_MANY_STEPS = 200_000


def report_data(run: Any) -> d.ReportData:
    """All that a report can show of `run`."""
    summary = _get(run, "summary") or {}
    table = _get(summary, "table") or _get(run, "table")
    outcome = _get(run, "outcome")
    return d.ReportData(
        title=str(_get(summary, "title") or _title(run, table)),
        outcome=_outcome(run, outcome),
        failed=_get(outcome, "name") in {"Diverged", "Interrupted"},
        headline=_headline(_get(summary, "headline")),
        decisions=_decisions(run),
        range_test=_range_test(_get(run, "found") or _get(summary, "found")),
        weight_decay=_decay(_get(_get(summary, "evidence"), "weight_decay")),
        batch_size=_size(_get(_get(summary, "evidence"), "batch_size")),
        descent=_descent(run),
        evaluation=_evaluation(run, _get(summary, "test"), table),
        coefficients=_coefficients(run, table),
        data=_data(_get(table, "summary") or _get(summary, "data"), table),
        command=str(_get(summary, "command") or _get(run, "command") or ""),
        versions={str(k): str(v) for k, v in dict(_get(summary, "versions") or _get(run, "versions") or {}).items()},
        notes=tuple(str(n) for n in _notes(run, summary)),
        created=str(_get(summary, "created") or _get(run, "created") or ""),
    )


def _get(thing: Any, name: str, default: Any = None) -> Any:
    """A key of a mapping or an attribute of an object; `default` where there is none."""
    if thing is None:
        return default
    if isinstance(thing, Mapping):
        return thing.get(name, default)
    return getattr(thing, name, default)


def _model(run: Any) -> Any:
    """What knows the classes and the features' names: a loaded run has no problem, a function no model."""
    model = _get(run, "model")
    return _get(run, "problem") if model is None else model


def _title(run: Any, table: Any) -> str:
    problem = _get(run, "problem")
    source = _get(table, "name") or _get(_get(table, "summary"), "source") or _get(problem, "name") or "run"
    target = _get(table, "target_name") or _get(_get(table, "target"), "name")
    return f"{source}: predicting {target!r}" if target else str(source)


def _outcome(run: Any, outcome: Any) -> str:
    if outcome is None:
        return ""
    words = str(outcome)
    detail = _get(run, "reason") or _get(run, "message") or ""
    steps = _get(_get(run, "history"), "steps")
    count = f"{int(steps):,} updates were made" if isinstance(steps, (int, np.integer)) else ""
    text = ". ".join(part[0].upper() + part[1:] for part in dict.fromkeys((words, str(detail), count)) if part)
    return text.rstrip(".") + "."


def _headline(found: Any) -> d.Headline | None:
    if found is None or isinstance(found, d.Headline):
        return found
    low, high = _interval(found)
    return d.Headline(
        metric=str(_get(found, "metric") or _get(found, "name")), value=float(_get(found, "value", np.nan)), low=low, high=high,
        baseline=_float(_get(found, "baseline")), baseline_name=str(_get(found, "baseline_name") or ""),
        better=str(_get(found, "better") or "higher"), part=str(_get(found, "part") or "test"), rows=_get(found, "rows"),
    )  # fmt: skip


def _interval(found: Any) -> tuple[float | None, float | None]:
    pair = _get(found, "interval")
    if pair is not None:
        return _float(pair[0]), _float(pair[1])
    return _float(_get(found, "low")), _float(_get(found, "high"))


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _decisions(run: Any) -> tuple[d.Decision, ...]:
    journal = _get(run, "journal") or _get(_get(run, "history"), "journal") or ()
    lines: list[d.Decision] = []
    for entry in journal:
        what, value, why = _get(entry, "what"), _words(_get(entry, "value")), str(_get(entry, "why") or "")
        told = any(line.what == _plain(what) and line.value == value for line in lines)  # `train` notes as given what `fit` has found
        if what is not None and what != "outcome" and not (told and why in ("", "given")):
            lines.append(d.Decision(_plain(what), value, why))
    return tuple(lines)


def _plain(what: Any) -> str:
    return "learning rate" if what == "lr" else str(what)


def _words(value: Any) -> str:
    """A journal's value as a person reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(v) for v in value)
    return str(value)


def _range_test(found: Any) -> d.RangeTest | None:
    curve = _get(found, "curve")
    if curve is None:
        return None
    lr, loss = _get(curve, "lr"), _get(curve, "loss")
    if lr is None and isinstance(curve, Sequence):
        lr, loss = curve[0], curve[1]
    if lr is None or loss is None:
        return None
    chosen = _float(_get(found, "rate") if hasattr(found, "rate") else _get(found, "lr"))  # `found.lr` raises where there is none
    low, high = _interval(found)
    smooth = _get(curve, "smooth")
    return d.RangeTest(
        lr, loss, smooth, chosen, low, high, _float(_get(curve, "diverged") or _get(found, "edge")), str(_get(found, "verdict") or ""),
        tuple((r.steps, r.lr, r.score) for r in _get(found, "rungs") or ()),
    )  # fmt: skip


def _decay(found: Any) -> d.DecayPath | None:
    if found is None or not len(_get(found, "values") or ()):
        return None
    score = np.array([np.nan if v is None else float(v) for v in _get(found, "score")])
    return d.DecayPath(np.asarray(_get(found, "values"), float), score, np.asarray(_get(found, "error"), float), _float(_get(found, "chosen")))


def _size(found: Any) -> d.SizeChoice | None:
    table = _get(found, "table")
    if not table:
        return None
    moments, timed = _get(found, "moments") or (), any(_get(row, "seconds") is not None for row in table)
    noise = tuple(np.array([float(_get(m, name)) for m in moments]) for name in ("loss", "noise_scale", "low", "high"))
    return d.SizeChoice(
        [_get(row, "batch_size") for row in table], int(_get(found, "batch_size")),
        [_get(row, "steps") for row in table] if timed or not moments else None, [_get(row, "seconds") for row in table],
        noise if moments else None,  # type: ignore[arg-type]
    )  # fmt: skip


def _descent(run: Any) -> d.Descent | None:
    history, plan = _get(run, "history"), _get(run, "plan")
    loss = _get(history, "loss")
    if loss is None or not len(loss):
        return None
    step = np.arange(len(loss))
    lr_step = step if len(step) <= _MANY_STEPS else np.unique(np.linspace(0, len(step) - 1, _MANY_STEPS).astype(np.int64))
    lr = _rates(plan, lr_step)
    at, values, name = _validation(_get(history, "evaluations") or ())
    rule = _get(plan, "optimizer")
    formula = rule.formula() if hasattr(rule, "formula") else ""
    best = _get(run, "best_step")
    if best is None and len(values) and np.isfinite(values).any() and _get(run, "best") is not None:
        best = at[int(np.nanargmin(values))]
    return d.Descent(
        step, loss, lr, at if len(at) else None, values if len(at) else None, name, _float(best), _get(plan, "steps_per_epoch"), formula, lr_step,
    )  # fmt: skip


def _rates(plan: Any, steps: np.ndarray) -> Any:
    if not hasattr(plan, "lr_at"):
        return None
    try:
        return plan.lr_at(steps)
    except (ValueError, IndexError):  # a plan whose rate is still `auto` has none to draw
        return None


def _validation(evaluations: Sequence[Any]) -> tuple[list[float], list[float], str]:
    """Steps and losses of the evaluations on validation rows."""
    for key in ("valid_loss", "valid loss", "valid/loss", "validation_loss"):
        some = [e for e in evaluations if _get(e, key) is not None and _get(e, "step") is not None]
        if some:
            return [float(_get(e, "step")) for e in some], [float(_get(e, key)) for e in some], "validation loss"
    return [], [], "validation loss"


def _evaluation(run: Any, test: Any, table: Any) -> d.Evaluation | None:
    if test is None or isinstance(test, d.Evaluation):
        return test
    classes = _get(test, "classes")
    classes = _get(_model(run), "classes") if classes is None else classes
    target = _get(table, "target_name") or _get(_get(table, "target"), "name") or "target"
    kind = _get(test, "kind") or ("classification" if classes is not None else "regression")
    y = _get(test, "y")
    return d.Evaluation(
        str(kind), y if y is not None else _get(test, "y_true"), _get(test, "prediction", _get(test, "y_pred")), _get(test, "proba"),
        None if classes is None else tuple(np.asarray(classes).tolist()), _metrics(_get(test, "metrics") or {}), str(_get(test, "part") or "test"), str(target),
    )  # fmt: skip


def _metrics(found: Any) -> tuple[d.MetricLine, ...]:
    if not isinstance(found, Mapping):
        return tuple(found)
    lines = []
    for name, value in found.items():
        if isinstance(value, (Mapping, tuple, list)) or hasattr(value, "value"):
            held = value if not isinstance(value, (tuple, list)) else dict(zip(("value", "low", "high"), value, strict=False))
            low, high = _interval(held)
            lines.append(d.MetricLine(str(name), float(_get(held, "value", np.nan)), low, high, _float(_get(held, "baseline"))))
        elif value is not None:
            lines.append(d.MetricLine(str(name), float(value)))
    return tuple(lines)


def _coefficients(run: Any, table: Any) -> d.Coefficients | None:
    weights = _get(run, "answer") or _get(run, "best") or _get(run, "averaged") or _get(run, "weights")
    coef = _get(weights, "coef")
    if coef is None:
        return None
    coef = np.asarray(coef, dtype=np.float64)
    names = _get(_model(run), "feature_names")
    names = _get(table, "feature_names") if names is None else names
    names = tuple(names) if names is not None else tuple(f"x{i}" for i in range(len(coef)))
    classes = _get(_model(run), "classes")
    outputs = tuple(np.asarray(classes).tolist()) if classes is not None else None
    note = "Effect on the score of one unit of each input as the model sees it" + (" (numbers are standardised, so sizes compare)." if table is not None or _get(run, "reader") is not None else ".")
    if outputs is not None and coef.ndim == 1:
        note = f"Above zero speaks for {outputs[-1]!r}. {note}"
    return d.Coefficients(names, coef, outputs if coef.ndim == 2 else None, note)


def _data(summary: Any, table: Any) -> d.DataSummary | None:
    if summary is None or isinstance(summary, d.DataSummary):
        return summary
    columns = tuple(
        d.Column(str(_get(c, "name")), str(_get(c, "type") or _get(c, "kind") or ""), str(_get(c, "treatment") or _get(c, "use") or ""), _words(_get(c, "reason") or _get(c, "note")))
        for c in (_get(summary, "columns") or ())
    )
    rows = _get(summary, "rows") or ()
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    counted = tuple((str(k), int(v)) for k, v in pairs) if not isinstance(rows, int) else (("rows", rows),)
    reports = _get(summary, "reports") or _get(summary, "reported") or ()
    return d.DataSummary(str(_get(summary, "source") or _get(table, "source") or ""), counted, columns, tuple(_words(r) for r in reports))


def _notes(run: Any, summary: Any) -> list[Any]:
    plan = _get(run, "plan")
    notes: list[Any] = list(_get(summary, "notes") or ()) + list(_get(_get(run, "problem"), "notes") or ())
    mark = _get(plan, "fingerprint")
    if mark:
        notes.append(f"Plan {str(mark)[:16]}, seed {_get(plan, 'seed')}: the same plan, engine and number of threads give the same bits.")
    return notes


__all__ = ["report_data"]
