"""The ravine to play with: one page with sliders, whose every path the engine computed beforehand."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fallline.charts.picture import INK, SERIES
from fallline.charts.ravine import MARGIN, backdrop, view
from fallline.engines import choose
from fallline.errors import InvalidValue
from fallline.plan import Plan
from fallline.report.comparison import shell, write
from fallline.report.html import card, section, text
from fallline.rules import SGD, Nesterov, Rule, edge

NAMES = ("plain", "momentum", "Nesterov")
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
RATES = 15
"""Learning rates on the slider, from a 30th of the plain step's edge to twice that edge."""
SIZE = (780, 380)
REACH, KEPT = 3.0, 8000
"""Positions are kept within so many widths of the drawing, as whole numbers of 1/KEPT of its width; int16."""
LOG_KEPT = 1000
GONE = -32768

CONTROLS = """
.board{display:grid;grid-template-columns:minmax(0,1fr);gap:12px;margin-top:16px}
.board svg{width:100%;height:auto;display:block;max-width:none}
.controls{display:grid;grid-template-columns:repeat(auto-fit,minmax(230px,1fr));gap:10px 26px}
.controls label{display:block}.controls .name{display:flex;justify-content:space-between;gap:8px}
.controls b{font-variant-numeric:tabular-nums}
.controls input[type=range]{width:100%;accent-color:var(--accent);height:28px;margin:0}
button{font:inherit;font-weight:600;color:var(--card);background:var(--accent);border:0;border-radius:8px;padding:6px 20px;cursor:pointer;min-width:6.5em}
button:focus-visible{outline:3px solid var(--line)}
.methods{display:flex;flex-wrap:wrap;gap:6px 26px;align-items:baseline}
.methods label{display:inline-flex;gap:8px;align-items:baseline;cursor:pointer;font-variant-numeric:tabular-nums}
.choices{display:flex;flex-wrap:wrap;gap:6px 18px;align-items:center}
.dot{display:inline-block;width:.72em;height:.72em;border-radius:50%}
"""


@dataclass(frozen=True, eq=False)
class Grid:
    """Paths over learning rates and momenta, for one or several ways of taking the gradient.

    Attributes:
        rates, momenta: what the sliders offer, rising; the first momentum is 0.
        paths: float64 (ways, rates, 1 + 2*(momenta - 1), updates + 1, 2): the plain step, then for each momentum the
            heavy ball and Nesterov's look-ahead. NaN from where a path has left the numbers.
        values: the function along them, (ways, rates, ..., updates + 1).
    """

    rates: np.ndarray
    momenta: np.ndarray
    paths: np.ndarray
    values: np.ndarray


def grid(ways: Sequence[tuple[Any, int]], rates: Sequence[float], momenta: Sequence[float], steps: int) -> Grid:
    """Compute every path by the engine.

    Args:
        ways: (problem, rows of a batch) for each way of taking the gradient; the problems differ in their noise alone.
        rates, momenta: of the grid, rising; the first momentum is 0.
        steps: updates.
    """
    rules: list[Any] = [lambda lr: SGD(lr=lr)]
    for b in momenta[1:]:
        rules += [lambda lr, b=b: SGD(lr=lr, momentum=b), lambda lr, b=b: Nesterov(lr=lr, momentum=b)]
    paths = np.full((len(ways), len(rates), len(rules), steps + 1, 2), np.nan)
    values = np.full(paths.shape[:-1], np.nan)
    for n, (problem, size) in enumerate(ways):
        for i, lr in enumerate(rates):
            for k, rule in enumerate(rules):
                way = one_path(problem, rule(float(lr)), steps, size)
                paths[n, i, k, : len(way)] = way
                with np.errstate(all="ignore"):
                    values[n, i, k, : len(way)] = [problem.loss(w) for w in way]
    return Grid(np.asarray(rates, float), np.asarray(momenta, float), paths, values)


def one_path(problem: Any, rule: Rule, steps: int, batch_size: int) -> np.ndarray:
    """The positions of one descent, (updates made + 1, 2); it ends where it has left the finite numbers or is far away."""
    plan = Plan(problem, steps=steps, batch_size=batch_size, optimizer=rule)
    engine = choose(problem)
    state: Any = engine.begin(None, rule.start())
    way = [np.array(engine.answer(state, rule.answer()))]
    far = 1e3 * max(1.0, float(np.abs(way[0]).max()))
    for k in range(steps):
        result = engine.advance(state, plan.segment(k, k + 1, problem.layout))
        if result.stopped_at is not None:
            break
        state = result.state
        way.append(np.array(engine.answer(state, rule.answer())))
        if not np.abs(way[-1]).max() < far:
            break
    return np.array(way)


def ravine_page(
    path: str | os.PathLike, problem: Any, *, lr: float, momentum: float, curvature: float, steps: int = 100, minimum: Any = None,
    noisy: Sequence[tuple[str, Any, int]] = (), command: str = "", created: str = "",
) -> Path:  # fmt: skip
    """Write the page: contours, the paths of plain descent, momentum and Nesterov, sliders for lr and momentum.

    Args:
        path: the HTML file to write.
        problem: a function of two parameters.
        lr, momentum: where the sliders stand first; both are among the values of the grid.
        curvature: the largest one, from which the slider's rates and the edges follow.
        steps: updates of each path.
        minimum: where the function is lowest, or None.
        noisy: (name, problem with noise, rows of a batch): further ways to take the gradient.
        command, created: as on every page.

    Raises:
        InvalidValue: a function of more than two parameters, or a momentum outside [0, 1).
    """
    if problem.layout.size != 2:
        raise InvalidValue(f"the ravine is drawn over two parameters; {problem!r} has {problem.layout.size}")
    if not 0 <= momentum < 1 or not 0 < lr < math.inf:
        raise InvalidValue(f"lr={lr!r}, momentum={momentum!r}: expected lr above 0 and momentum in [0, 1)")
    top = 2 / curvature
    rates = _with(np.geomspace(top / 30, 2 * top, RATES), lr)
    momenta = _with(np.array(MOMENTA), momentum)
    ways = [("exact gradient", problem, 1), *noisy]
    found = grid([(p, size) for _, p, size in ways], rates.tolist(), momenta.tolist(), steps)
    at = {"lr": int(np.argmin(abs(rates - lr))), "momentum": int(np.argmin(abs(momenta - momentum)))}
    box = view({"plain": _first(found, at, 0), "momentum": _first(found, at, 1)}, minimum)
    edges = [[_rounded(edge(rule(b), curvature)) for b in momenta.tolist()] for rule in (lambda b: SGD(), lambda b: SGD(momentum=b), lambda b: Nesterov(momentum=b))]
    inner = [MARGIN["left"], MARGIN["top"], SIZE[0] - MARGIN["left"] - MARGIN["right"], SIZE[1] - MARGIN["top"] - MARGIN["bottom"]]
    data = {
        "names": NAMES, "steps": steps, "lr": [_rounded(v) for v in rates.tolist()], "momentum": momenta.tolist(), "edges": edges, "inner": inner,
        "at": at, "scale": KEPT, "logscale": LOG_KEPT, "paths": packed(found, box),
    }  # fmt: skip
    script = Path(__file__).with_name("ravine.js").read_text(encoding="utf-8")
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{mark}'; base-uri 'none'; form-action 'none'"
    told = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    scripts = f'<script type="application/json" id="data">{told}</script><script>{script}</script>'
    body = _board(backdrop(problem.loss, box, minimum, *SIZE), ways, rates, momenta, at, steps) + _words(problem, ways, found)
    body += section("repeat", "To repeat it", "", f"<pre>{text(command)}</pre>") if command else ""
    title = "The ravine: steep across, flat along"
    return write(path, shell(title, body, head=f"{problem!r}", created=created, style=CONTROLS, policy=policy, script=scripts))


def _with(values: np.ndarray, one: float) -> np.ndarray:
    """The values with one more among them, in the place of its equal where there is one."""
    return np.sort(np.append(values[~np.isclose(values, one, rtol=1e-6, atol=1e-12)], one))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _first(found: Grid, at: dict[str, int], method: int) -> np.ndarray:
    """A path where the sliders stand first: 0 plain, 1 heavy ball."""
    k = 0 if method == 0 or at["momentum"] == 0 else 2 * (at["momentum"] - 1) + 1
    way = found.paths[0, at["lr"], k]
    return way[np.isfinite(way).all(axis=1)]


def packed(found: Grid, box: list[list[float]]) -> str:
    """Positions as shares of the drawing and the value's logarithm, as int16 in base64; GONE where there is none."""
    low, high = np.array(box).T
    share = (found.paths - low) / (high - low)
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log10(np.maximum(found.values, 1e-32))
    near = (np.isfinite(share) & (abs(share - 0.5) <= REACH)).all(axis=-1) & np.isfinite(log)
    gone = np.maximum.accumulate(~near, axis=-1)  # what has left does not come back: its path would be torn
    three = np.concatenate([share * KEPT, (log * LOG_KEPT)[..., None]], axis=-1)
    whole = np.where(gone[..., None], GONE, np.clip(np.nan_to_num(three, posinf=0, neginf=0), -32767, 32767))
    return base64.b64encode(np.rint(whole).astype("<i2").tobytes()).decode()


def _board(base: str, ways: list, rates: np.ndarray, momenta: np.ndarray, at: dict[str, int], steps: int) -> str:
    """The drawings and what moves them."""
    width, height = SIZE
    drawn = re.sub(r"^<svg[^>]*>|</svg>\s*$", "", base.strip()).replace(f'"{INK}"', '"currentColor"')
    left, top = MARGIN["left"], MARGIN["top"]
    wide, high = width - left - MARGIN["right"], height - top - MARGIN["bottom"]
    paths = "".join(
        f'<polyline id="path-{m}" fill="none" stroke="{SERIES[m]}" stroke-width="1.8" stroke-linejoin="round" stroke-opacity=".8"/>'
        f'<path id="dots-{m}" stroke="{SERIES[m]}" stroke-width="5" stroke-linecap="round" stroke-opacity=".8"/>'
        f'<circle id="ball-{m}" r="7" fill="{SERIES[m]}" stroke="var(--card)" stroke-width="2"/>' for m in range(3)
    )  # fmt: skip
    ravine = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="contours of the function and the paths of three methods">{drawn}'
        f'<clipPath id="frame"><rect x="{left}" y="{top}" width="{wide}" height="{high}"/></clipPath><g clip-path="url(#frame)">{paths}</g></svg>'
    )
    curves = "".join(f'<polyline id="curve-{m}" fill="none" stroke="{SERIES[m]}" stroke-width="2" stroke-linejoin="round"/>' for m in range(3))
    value = (
        f'<svg viewBox="0 0 {width} 186" role="img" aria-label="value of the function by update"><g id="grid"></g>'
        f'<clipPath id="band"><rect x="{left}" y="0" width="{wide}" height="170"/></clipPath><g clip-path="url(#band)">{curves}</g>'
        f'<line id="now" y1="4" y2="166" stroke="currentColor" stroke-opacity=".5" stroke-dasharray="3 3"/>'
        f'<text x="{left + wide / 2}" y="183" text-anchor="middle" font-size="12" fill="currentColor" opacity=".8">value by update</text></svg>'
    )
    methods = "".join(
        f'<label><input type="checkbox" id="show-{m}" checked><span class="dot" style="background:{SERIES[m]}"></span>{name} '
        f'<b id="value-{m}"></b><span id="edge-{m}" class="soft small"></span></label>' for m, name in enumerate(NAMES)
    )  # fmt: skip
    noise = "".join(f'<label><input type="radio" name="noise" value="{n}"{" checked" if n == 0 else ""}> {text(name)}</label>' for n, (name, _, _) in enumerate(ways))
    sliders = (
        _slider("lr", "learning rate", len(rates) - 1, at["lr"]) + _slider("momentum", "momentum", len(momenta) - 1, at["momentum"])
        + _slider("step", "update", steps, steps)
    )  # fmt: skip
    return (
        '<noscript><p class="alert">The paths are drawn by this page\'s own script, which is switched off here.</p></noscript><div class="board">'
        + card(f'<div class="methods">{methods}</div>', ravine)
        + card(f'<div class="controls">{sliders}</div><div class="choices"><button id="play" type="button">Play</button>{noise if len(ways) > 1 else ""}</div>')
        + card(value) + "</div>"
    )  # fmt: skip


def _slider(name: str, words: str, most: int, value: int) -> str:
    return (
        f'<label><span class="name">{words} <b id="{name}-value"></b></span>'
        f'<input type="range" id="{name}" min="0" max="{most}" step="1" value="{value}" aria-label="{words}"></label>'
    )


def _words(problem: Any, ways: list, found: Grid) -> str:
    """What to look for, and what the page is made of."""
    count = int(np.prod(found.paths.shape[:3]))
    noise = " Noise: each row's gradient differs from the true one by a fixed vector; a batch averages some of them." if len(ways) > 1 else ""
    bent = "" if problem.name == "quadratic" else ", as the curvature at the start has it"
    return section(
        "look", "What to look for", "",
        "<ul><li><b>Plain descent</b> must keep its step below what the steep direction bears, so it zigzags across and creeps along.</li>"
        "<li><b>Momentum</b> adds up steps that agree and cancels those that alternate: it goes faster along, and bears a larger learning rate.</li>"
        "<li><b>Nesterov's look-ahead</b> takes the gradient where the velocity is about to lead: it swings less, but its edge is lower. "
        "The edge beside each method is the learning rate at which it blows up{at_start}; it turns red where the slider is beyond.</li></ul>".replace("{at_start}", bent),
        f'<p class="soft small">{count:,} paths of {found.paths.shape[3] - 1} updates on {text(repr(problem))}, computed by the engine that trains models; '
        f"the page only draws them.{noise}</p>",
    )  # fmt: skip


__all__ = ["Grid", "grid", "one_path", "packed", "ravine_page"]
