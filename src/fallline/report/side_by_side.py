"""Runs side by side on one page: what differs first, then the curves over each other, then the metrics with intervals."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fallline.charts.compare import AXES, Lane, comparison
from fallline.charts.marks import PLAIN_LABEL, quantity, rows, short
from fallline.charts.picture import SERIES, Picture
from fallline.errors import InvalidValue
from fallline.metrics import METRICS
from fallline.report.comparison import SWITCH, dot, shell, switched, write
from fallline.report.html import card, charts, drawing, folded, missing, section, table, text
from fallline.report.text import metric_name, metric_value

NONE = "none"


def side_by_side(runs: Mapping[str, Any], path: str | os.PathLike, *, command: str = "", created: str = "") -> Path:
    """Write one page that shows several runs beside each other, and return its path.

    Args:
        runs: name -> Run, in the order of the page.
        path: the HTML file; it is replaced as a whole.
        command: what to type to have it again.
        created: date and time in words.

    Raises:
        InvalidValue: fewer than two runs.
    """
    if len(runs) < 2:
        raise InvalidValue(f"side by side takes two runs or more; given {', '.join(runs) or 'none'}: one run has its own report")
    parts = [
        section("settings", "What differs", "", *_settings(runs)),
        section("curves", "The descents", "", _curves(runs)),
        section("metrics", "The metrics", *_metrics(runs)),
        section("repeat", "To repeat it", "", f"<pre>{text(command)}</pre>") if command else "",
    ]
    head = f"{len(runs)} runs side by side"
    return write(path, shell(_finding(runs), "".join(parts), head=head, created=created, style=SWITCH))


# ------------------------------------------------------------------------------------------------ settings


def settings(run: Any) -> dict[str, str]:
    """Everything that was set or decided in a run, flat: name -> words."""
    plan, rule = run.plan, run.plan.optimizer
    out = {"optimizer": type(rule).__name__}
    out |= {k.replace("_", " "): _words(v) for k, v in rule.to_json().items() if k not in ("rule", "lr")}
    out["learning rate"] = short(peak_lr(plan), 4)
    out["learning rate from"] = str(run.summary.get("lr_source") or "")
    out["batch"] = "all rows" if plan.batch_size.is_full else f"{plan.batch_size.size:,} rows"
    out["batches"] = repr(plan.batch_size)
    out["epochs"] = "" if plan.epochs is None else f"{plan.epochs:g}"
    out["updates planned"] = f"{plan.steps:,}"
    out["updates made"] = f"{run.history.steps:,}"
    out["rows"] = "" if plan.rows is None else f"{plan.rows:,}"
    out["seed"] = str(plan.seed)
    out["data"] = run.problem_fingerprint[:12]
    out["source"] = str((run.summary.get("data") or {}).get("source") or "")
    out["features"] = str(run.summary.get("features") or "")
    out["outcome"] = f"{run.outcome.name}: {run.reason}"
    out["weights used"] = run.used
    engine = next((e["value"] for e in run.journal if e["what"] == "engine"), "")
    return out | {"engine": str(engine)} | {f"{k} (version)": str(v) for k, v in run.versions.items()}


def peak_lr(plan: Any) -> float:
    """The highest learning rate of a plan (of a long one, among 200,000 of its updates); NaN where it is still auto."""
    at = np.unique(np.linspace(0, plan.steps - 1, min(plan.steps, 200_000)).astype(np.int64))
    return math.nan if plan.lr_is_auto else float(plan.lr_at(at).max())


def _words(value: Any) -> str:
    if value is None or value == [] or value is False:
        return NONE
    if isinstance(value, Mapping) and "schedule" in value:
        from fallline.schedules import Schedule

        return str(Schedule.from_json(value["schedule"])) if hasattr(Schedule, "from_json") else str(value["schedule"])
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def differing(runs: Mapping[str, Any]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Settings in which the runs differ (one value for each run), and those that all share."""
    every = [settings(run) for run in runs.values()]
    names = list(dict.fromkeys(k for one in every for k in one))
    values = {name: [one.get(name, NONE) for one in every] for name in names}
    apart = {name: v for name, v in values.items() if len(set(v)) > 1}
    return apart, {name: v[0] for name, v in values.items() if len(set(v)) == 1 and v[0]}


def _settings(runs: Mapping[str, Any]) -> list[str]:
    apart, alike = differing(runs)
    heads = ["setting", *runs]
    lines = [[f"<b>{text(name)}</b>", *map(text, values)] for name, values in apart.items()]
    for column, _ in enumerate(runs):
        for line in lines:
            line[column + 1] = f'<span class="soft">{NONE}</span>' if line[column + 1] == NONE else line[column + 1]
    colours = ['<span class="soft small">colour</span>', *(dot(i) for i in range(len(runs)))]
    body = table(heads, [colours, *lines]) if lines else missing("Nothing: the runs were made alike.")
    same = folded(f"{len(alike)} settings that all share", table(("setting", "value"), [(text(k), text(v)) for k, v in alike.items()]))
    warn = ""
    if len({run.problem_fingerprint for run in runs.values()}) > 1:
        warn = '<p class="alert">These runs are not of the same training rows: their curves and metrics are not of one problem.</p>'
    return [warn, card(body), same]


# -------------------------------------------------------------------------------------------------- curves


def lanes(runs: Mapping[str, Any], measure: str) -> list[Lane]:
    """The evaluations of each run as the chart takes them; a run without this measure has none."""
    out = []
    for name, run in runs.items():
        entries = [e for e in run.history.evaluations if isinstance(e.get(measure), (int, float)) and e.get("step") is not None]
        if not entries:
            continue
        updates = np.array([e["step"] for e in entries], np.int64)
        value = np.array([float(e[measure]) for e in entries])
        value = np.where(np.isfinite(value), value, np.inf)
        read = updates if run.plan.rows is None else run.plan.visits.position(updates)
        seconds = np.array([float(e.get("seconds") or 0.0) for e in entries])
        gone = int(run.outcome.name == "Diverged")
        if gone and len(value) > 1:
            value = np.append(value[:-1], np.inf) if not np.isfinite(value[-1]) else value
        out.append(Lane(name, read, updates, seconds, value, value, value, 1, gone))
    return out


def _curves(runs: Mapping[str, Any]) -> str:
    panes: list[tuple[str, str]] = []
    left: list[str] = []
    for measure, what in (("valid_loss", "validation loss"), ("loss", "training loss since the evaluation before")):
        found = lanes(runs, measure)
        without = [name for name in runs if name not in [lane.name for lane in found]]
        if without:
            left.append(f"Without {what}: {', '.join(without)}.")
        if not found:
            continue
        for across in AXES:
            draw = partial(comparison, found, across=across, what=what, title=f"{what[0].upper()}{what[1:]} by {AXES[across]}", width=560)
            panes.append((f"{what.split(' since')[0]} by {AXES[across].removesuffix(' of descent')}", drawing(draw)))
    notes = "".join(f'<p class="soft small">{text(note)}</p>' for note in left)
    if not panes:
        return missing("None of these runs kept evaluations: there is no curve to draw.")
    seconds = '<p class="soft small">Seconds are those of each run where it ran, evaluations included.</p>'
    return switched("curve", "", panes) + notes + seconds


# ------------------------------------------------------------------------------------------------- metrics


def metrics(run: Any) -> dict[str, dict[str, Any]]:
    """The test metrics of a run: name -> value, interval, baseline."""
    return dict((run.summary.get("test") or {}).get("metrics") or {})


def _metrics(runs: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for run in runs.values() for name in metrics(run)))
    if not names:
        return ["", missing("None of these runs kept rows aside as a test: nothing says how well they do on new rows.")]
    lines = []
    for i, (who, run) in enumerate(runs.items()):
        found = metrics(run)
        lines.append([f"{dot(i)}<b>{text(who)}</b>", *(_cell(name, found.get(name)) for name in names)])
    body = card(table(["run", *(f"test {metric_name(n)}" for n in names)], lines, numeric=range(1, len(names) + 1)))
    lead = "On each run's own test rows, which training and choosing never saw; in brackets the 95 % interval, whose overlap means that the runs cannot be told apart by it."
    return [lead, body, charts(*(partial(intervals, name, runs) for name in names[:4]))]


def _cell(name: str, found: Mapping[str, Any] | None) -> str:
    if not found:
        return '<span class="soft">not measured</span>'
    low, high = (_number(v) for v in found.get("interval") or (math.nan, math.nan))
    span = f'<div class="soft small">{text(metric_value(name, low))} to {text(metric_value(name, high))}</div>' if math.isfinite(low) and math.isfinite(high) else ""
    return f"{text(metric_value(name, _number(found.get('value'))))}{span}"


def _number(value: Any) -> float:
    """A saved number: NaN and infinities stand in files by their names."""
    return math.nan if value is None else float(value)


def intervals(name: str, runs: Mapping[str, Any]) -> Picture:
    """A metric of each run as a dot on its 95 % interval."""
    found = {who: metrics(run)[name] for who, run in runs.items() if name in metrics(run)}
    who = list(found)
    value = [_number(m.get("value")) for m in found.values()]
    span = [tuple(_number(v) for v in (m.get("interval") or (m.get("value"), m.get("value")))) for m in found.values()]
    notes = [f"{w}: {metric_value(name, v)} ({metric_value(name, a)} to {metric_value(name, b)})" for w, v, (a, b) in zip(who, value, span, strict=True)]
    data = rows(run=who, value=value, low=[a for a, _ in span], high=[b for _, b in span], note=notes)
    colors = [SERIES[list(runs).index(w) % len(SERIES)] for w in who]
    ys = {"field": "run", "type": "nominal", "sort": who, "axis": {"title": None, "labelLimit": 150, "ticks": False}}
    xs = quantity("value", metric_name(name), scale={"padding": 14}, axis={"labelExpr": PLAIN_LABEL, "tickCount": 5})
    color = {"field": "run", "type": "nominal", "scale": {"domain": who, "range": colors}, "legend": None}
    layers = [
        {"data": data, "mark": {"type": "rule", "strokeWidth": 7, "opacity": 0.35, "strokeCap": "round"},
         "encoding": {"y": ys, "x": {**xs, "field": "low"}, "x2": {"field": "high"}, "color": color, "description": {"field": "note"}}},
        {"data": data, "mark": {"type": "circle", "size": 110, "opacity": 1}, "encoding": {"y": ys, "x": xs, "color": color, "description": {"field": "note"}}},
    ]  # fmt: skip
    order = METRICS[name].better if name in METRICS else "higher"
    return Picture(f"Test {metric_name(name)}, {order} is better", {"layer": layers}, "Dot: value. Bar: 95 % interval.", height=70 + 26 * len(who))


def _finding(runs: Mapping[str, Any]) -> str:
    """Who is best by the headline's metric, and whether the intervals let one say so."""
    heads = {who: run.summary.get("headline") or {} for who, run in runs.items()}
    names = {h.get("metric") for h in heads.values() if h.get("metric")}
    if len(names) != 1 or any(not h.get("metric") for h in heads.values()):
        return f"{', '.join(runs)}: no test metric that all of them have"
    name = str(names.pop())
    up = (METRICS[name].better if name in METRICS else "higher") == "higher"
    order = sorted(heads, key=lambda who: _number(heads[who].get("value")) * (-1 if up else 1))
    best, second = order[0], order[1]
    a, b = (heads[w].get("interval") or (None, None) for w in (best, second))
    near, far = (_number(a[0]), _number(b[1])) if up else (_number(b[0]), _number(a[1]))
    told = f"{best} has the best test {metric_name(name)}, {metric_value(name, _number(heads[best]['value']))}"
    return told + (f", beyond the interval of {second}" if near > far else f"; its interval overlaps with that of {second}")


__all__ = ["differing", "intervals", "lanes", "metrics", "peak_lr", "settings", "side_by_side"]
