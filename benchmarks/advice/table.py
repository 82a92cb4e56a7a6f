"""From what was measured to the table, the lines by cell, and the picture of regret against cost."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.advice import cells as c
from benchmarks.advice.reference import RUINED, Reference
from benchmarks.advice.study import BUDGETS, fallback

CLOSE = 0.02
CELL = {cell.name: cell for cell in c.CELLS}
CONSTANTS = {"SGD 0.1, AdamW 1e-3, untuned": 0.1, "SGD 0.01, AdamW 1e-3, untuned": 0.01}
DECADES = "five full runs at decades, the best kept"


def scores(found: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By method and cell, what each seed's answer is worth: regret in nats and as a share, cost in runs, seconds."""
    out: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, entry in found.items():
        reference, steps = Reference(entry["reference"]), entry["steps"]
        said: list[tuple[str, list[dict[str, Any]]]] = [(m, [s[m] for s in entry["ours"]]) for m in entry["ours"][0]]
        said += [(m, [s[m] for s in entry.get("finders", [])]) for m in entry.get("finders", [{}])[0]]
        adam = CELL[name].rule == "adamw"
        said += [(m, [{"lr": 1e-3 if adam else lr, "updates": 0, "seconds": 0.0}]) for m, lr in CONSTANTS.items()]
        said += [(DECADES, entry["decades"])]
        for method, answers in said:
            out.setdefault(method, {})[name] = [_worth(reference, steps, CELL[name], a) for a in answers]
    return out


def _worth(reference: Reference, steps: int, cell: c.Cell, answer: dict[str, Any]) -> dict[str, Any]:
    lr = answer["lr"]
    usable = lr is not None and math.isfinite(lr) and lr > 0
    nats, share = reference.regret(lr if usable else fallback(cell))
    between = answer.get("interval")
    return {
        "lr": lr, "none": not usable, "nats": nats, "share": share, "runs": answer["updates"] / steps, "seconds": answer["seconds"],
        "inside": None if between is None else bool(between[0] <= reference.best_lr <= between[1]),
    }  # fmt: skip


def line(by_cell: dict[str, list[dict[str, Any]]], names: Iterable[str]) -> dict[str, float]:
    """The numbers of one method over some cells."""
    cells = [by_cell[n] for n in names if n in by_cell]
    runs = [r for rows in cells for r in rows]
    shares = [float(np.mean([r["share"] for r in rows])) for rows in cells]
    return {
        "mean": float(np.mean(shares)), "worst": max(shares), "worst run": max(r["share"] for r in runs), "nats": float(np.mean([r["nats"] for r in runs])),
        "close": float(np.mean([r["share"] <= CLOSE for r in runs])), "ruined": float(np.mean([r["share"] > RUINED for r in runs])),
        "none": float(np.mean([r["none"] for r in runs])), "cost": float(np.mean([r["runs"] for r in runs])), "seconds": float(np.mean([r["seconds"] for r in runs])),
    }  # fmt: skip


def text(found: dict[str, Any]) -> str:
    """The tables, in Markdown."""
    worth = scores(found)
    tuned = [n for n, e in found.items() if e["tuned"]]
    others = [n for n in found if n not in tuned]
    parts = [_table(worth, list(found), "all cells")]
    if tuned and others:
        parts += [_halves(worth, tuned, others), _cells(worth, found), _coverage(worth)]
    return "\n\n".join(parts)


def _table(worth: dict[str, Any], names: list[str], title: str) -> str:
    head = f"| {title} | mean regret | worst cell | worst run | nats | within 2 % | ruined | no answer | cost, runs | seconds |\n|---|---|---|---|---|---|---|---|---|---|"
    rows = []
    for method, by_cell in worth.items():
        v = line(by_cell, names)
        rows.append(
            f"| {method} | {v['mean']:.3f} | {v['worst']:.3f} | {v['worst run']:.3f} | {v['nats']:.3f} | {v['close']:.0%} | {v['ruined']:.0%} | "
            f"{v['none']:.0%} | {v['cost']:.2f} | {v['seconds']:.2f} |"
        )
    return "\n".join([head, *rows])


def _halves(worth: dict[str, Any], tuned: list[str], others: list[str]) -> str:
    head = "| | mean, tuned half | worst cell | mean, other half | worst cell |\n|---|---|---|---|---|"
    rows = []
    for method, by_cell in worth.items():
        a, b = line(by_cell, tuned), line(by_cell, others)
        rows.append(f"| {method} | {a['mean']:.3f} | {a['worst']:.3f} | {b['mean']:.3f} | {b['worst']:.3f} |")
    return "\n".join([head, *rows])


def _cells(worth: dict[str, Any], found: dict[str, Any]) -> str:
    """By cell: ours at two prices, the five runs, and the best of the sweeps, with the reference's own error."""
    sweeps = [m for m in worth if m.startswith(("fastai", "Lightning", "torch-lr", "Ignite"))]
    shown = ["find_lr 0.5", "find_lr 2", DECADES]
    head = "| cell | best lr | edge | error of the reference | find_lr 0.5 | find_lr 2 | five runs | best sweep there |\n|---|---|---|---|---|---|---|---|"
    rows = []
    for name, entry in found.items():
        r = Reference(entry["reference"])
        means = [np.mean([x["share"] for x in worth[m][name]]) for m in shown]
        best = min(((float(np.mean([x["share"] for x in worth[m][name]])), m) for m in sweeps if name in worth[m]), default=(math.nan, "-"))
        numbers = " | ".join(f"{m:.3f}" for m in means)
        rows.append(f"| {name}{'' if entry['tuned'] else ' *'} | {r.best_lr:.2g} | {r.edge:.2g} | {r.error:.3f} | {numbers} | {best[0]:.3f}, {best[1]} |")
    return "\n".join([head, *rows])


def _coverage(worth: dict[str, Any]) -> str:
    rows = []
    for budget in BUDGETS:
        inside = [r["inside"] for rows_ in worth[f"find_lr {budget:g}"].values() for r in rows_ if r["inside"] is not None]
        rows.append(f"| {budget:g} | {np.mean(inside):.0%} | {len(inside)} |")
    return "\n".join(["| budget | best rate of the grid within the interval | answers |\n|---|---|---|", *rows])


def picture(worth: dict[str, Any], names: list[str]) -> Any:
    """Mean regret against cost, both on log axes."""
    from fallline.charts.marks import quantity
    from fallline.charts.picture import BLUE, GREY, ORANGE, RED, Picture

    points = []
    for method, by_cell in worth.items():
        v = line(by_cell, names)
        kind, label = _kind(method)
        if label is not None:
            points.append({"x": max(v["cost"], 0.02), "y": max(v["mean"], 1e-3), "text": label, "kind": kind})
    _apart(points)
    kinds = ["find_lr", "sweeps", "constants", "full runs"]
    color = {"field": "kind", "type": "nominal", "scale": {"domain": kinds, "range": [BLUE, ORANGE, GREY, RED]}, "legend": {"columns": 4}}
    log: Callable[..., dict] = lambda field, title, ticks: quantity(field, title, scale={"type": "log"}, axis={"values": ticks})
    xs, ys = log("x", "cost, in full runs", [0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 5]), log("y", "mean regret, a share of what can be gained", [0.003, 0.01, 0.03, 0.1, 0.3, 1])
    layers = [
        {"transform": [{"filter": "datum.kind == 'find_lr'"}], "mark": {"type": "line", "color": BLUE}, "encoding": {"x": xs, "y": ys}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1}, "encoding": {"x": xs, "y": ys, "color": color}},
        {"mark": {"type": "text", "align": "left", "dx": 7, "fontSize": 10}, "encoding": {"x": xs, "y": {**ys, "field": "label"}, "text": {"field": "text"}}},
    ]
    title = f"Regret against cost over {len(names)} cells: a sweep of 100 updates does not know how long the run is"
    return Picture(title, {"data": {"values": points}, "layer": layers}, "Cost 0 (constants) stands at 0.02.", width=620, height=360)


def _apart(points: list[dict[str, Any]], least: float = 1.17) -> None:
    """The height of each point's words: its own, or where those of a neighbour would lie over them, a line's height (a factor of y) below."""
    below: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: -p["y"]):
        lowest = min((p["label"] for p in below if max(p["x"] / point["x"], point["x"] / p["x"]) < 1.5), default=math.inf)
        point["label"] = min(point["y"], lowest / least)
        below.append(point)


def _kind(method: str) -> tuple[str, str | None]:
    if method.startswith("find_lr"):
        return "find_lr", None if "held out" in method else method.removeprefix("find_lr ")
    if method == DECADES:
        return "full runs", "five runs"
    return ("constants", method.split(",")[0]) if method in CONSTANTS else ("sweeps", method)


def write(found: dict[str, Any], folder: Path) -> None:
    """The record: all that was measured, the tables, the picture, and where it was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    worth = scores(found)
    (folder / "table.md").write_text(text(found) + "\n")
    drawn = picture(worth, list(found))
    drawn.save(folder / "regret.svg")
    packages = {n: version(n) for n in ("fallline", "numpy", "numba", "torch")}
    record = {"machine": platform.platform(), "python": platform.python_version(), "packages": packages, "cells": found}
    (folder / "record.json").write_text(json.dumps(record) + "\n")
