"""What a comparison found: variants, curves, table, picture, page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fallline.charts.compare import Lane, comparison
from fallline.charts.marks import short
from fallline.comparing.contenders import draws_nothing
from fallline.comparing.table import ComparisonTable
from fallline.errors import InvalidValue, UnknownName
from fallline.metrics import Metric
from fallline.plan import Plan
from fallline.problems import FunctionProblem
from fallline.runs import Run


@dataclass(frozen=True, eq=False)
class Curve:
    """What was measured along the runs of one variant.

    Attributes:
        updates, rows: (K,) updates made and rows read at each measurement; the first is before any update.
        seconds: (K,) seconds of descent, the median over seeds; measuring is not counted.
        loss: (seeds, K) loss over all training rows; infinite where a run had diverged.
        valid: (seeds, K) the same on the held-out rows, or None.
    """

    updates: np.ndarray
    rows: np.ndarray
    seconds: np.ndarray
    loss: np.ndarray
    valid: np.ndarray | None = None

    @property
    def median(self) -> np.ndarray:
        """(K,) the median loss over seeds."""
        return np.median(self.loss, axis=0)


@dataclass(frozen=True, eq=False, repr=False)
class Variant:
    """One line of a comparison.

    Attributes:
        name, plan: what ran; the plan's seed is the first one's.
        lr: the learning rate (a schedule's peak), or None where none was found.
        lr_source: "given", "find_lr" with its cost, or why there is none.
        runs: one `Run` a seed.
        curve: what was measured, or None where nothing ran.
        score: the metric on the held-out rows, the median over seeds, or None.
        paths: (updates + 1, 2) positions of each seed, for a function of two parameters.
        note: what went wrong, or an empty string.
    """

    name: str
    plan: Plan
    lr: float | None
    lr_source: str
    runs: tuple[Run, ...]
    curve: Curve | None
    score: float | None = None
    paths: tuple[np.ndarray, ...] = ()
    note: str = ""

    @property
    def diverged(self) -> int:
        """Runs that diverged: stopped for it, or ended at a loss that is not finite."""
        return 0 if self.curve is None else int(np.sum(~np.isfinite(self.curve.loss[:, -1])))

    @property
    def final(self) -> float:
        """The median of the last loss; infinite where the runs diverged, NaN where none ran."""
        return math.nan if self.curve is None else float(self.curve.median[-1])

    def __repr__(self) -> str:
        return f"Variant({self.name!r}, loss={self.final:.4g}, lr={self.lr}, runs={len(self.runs)})"


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Variants that descended the same problem. Made by `compare`.

    Attributes:
        problem: what was descended.
        variants: in the order given.
        metric: the held-out rows' metric, or None without them.
    """

    problem: Any
    variants: tuple[Variant, ...]
    metric: Metric | None = field(default=None)

    @property
    def names(self) -> list[str]:
        return [v.name for v in self.variants]

    @property
    def runs(self) -> dict[str, tuple[Run, ...]]:
        """The runs of each variant, one for each seed."""
        return {v.name: v.runs for v in self.variants}

    def __getitem__(self, name: str) -> Variant:
        if name not in self.names:
            raise UnknownName.among("variant", name, self.names)
        return self.variants[self.names.index(name)]

    @cached_property
    def target(self) -> float | None:
        """The best common target: the lowest loss that every variant whose median got below its start has reached."""
        curves = [v.curve.median for v in self.variants if v.curve is not None]
        lowest = [float(c[np.isfinite(c)].min()) for c in curves if np.isfinite(c).any() and c[-1] < c[0]]
        return max(lowest) if len(lowest) > 1 else None

    def reached(self, loss: float) -> dict[str, dict[str, float] | None]:
        """Where the median of each variant was first measured at or below a loss: updates, rows, seconds; None for never."""
        out: dict[str, dict[str, float] | None] = {}
        for v in self.variants:
            at = [] if v.curve is None else np.flatnonzero(v.curve.median <= loss).tolist()
            out[v.name] = None
            if v.curve is not None and at:
                k = at[0]
                out[v.name] = {"updates": int(v.curve.updates[k]), "rows": int(v.curve.rows[k]), "seconds": float(v.curve.seconds[k])}
        return out

    @cached_property
    def table(self) -> ComparisonTable:
        """One line a variant; see `ComparisonTable`."""
        hit = {} if self.target is None else self.reached(self.target)
        lines = [_line(v, hit.get(v.name), self.metric) for v in self.variants]
        return ComparisonTable({name: [line[name] for line in lines] for name in lines[0]}, self.target)

    def lanes(self, *, valid: bool = False) -> list[Lane]:
        """The curves as the chart takes them."""
        out = []
        for v in self.variants:
            if v.curve is None:
                continue
            loss = v.curve.valid if valid and v.curve.valid is not None else v.curve.loss
            low, high = loss.min(axis=0), loss.max(axis=0)
            out.append(Lane(v.name, v.curve.rows, v.curve.updates, v.curve.seconds, np.median(loss, axis=0), low, high, len(v.runs), v.diverged))
        return out

    @property
    def data(self) -> bool:
        """Whether there are rows to read: for a function without noise, a row is an update."""
        return (self.problem.rows or 1) > 1

    @property
    def measured(self) -> str:
        """What the vertical axis shows."""
        return "value of the function" if isinstance(self.problem, FunctionProblem) else "training loss"

    @property
    def title(self) -> str:
        """The finding in one sentence."""
        return _finding(self.variants)

    @property
    def caption(self) -> str:
        """How the numbers were made."""
        return " ".join(_account(self))

    def plot(self) -> Any:
        """The picture: the ravine with each path, where the function has two parameters, and the loss by rows read.

        Saved as HTML, the chart has a switch from rows read to updates and seconds.
        """
        if self.paths:
            from fallline.charts.ravine import ravine

            return ravine(
                self.paths, self.problem.loss, self.lanes(), minimum=self.lowest, data=self.data,
                title=self.title, caption=self.caption,
            )  # fmt: skip
        return comparison(self.lanes(), data=self.data, what=self.measured, title=self.title, caption=self.caption, switch=True)

    @property
    def paths(self) -> dict[str, np.ndarray]:
        """The path of each variant's first seed, (updates + 1, 2), where the function has two parameters."""
        return {v.name: way for v in self.variants for way in v.paths[:1]}

    @property
    def lowest(self) -> np.ndarray | None:
        """Where the function is known to be lowest, or None."""
        return lowest_point(self.problem) if self.paths else None

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: table, picture with a switch of its axis, settings, how it was made."""
        from fallline.report.comparison import comparison_page

        return comparison_page(self, path)

    def animate(self, path: str | Path, *, seconds: float = 6.0) -> Path:
        """Write the descent over the contours as an animated GIF.

        Args:
            path: a name that ends in .gif.
            seconds: how long one round takes.

        Raises:
            InvalidValue: the function has not two parameters, or the name does not end in .gif.
            MissingExtra: Pillow is not installed.
        """
        if not self.paths:
            raise InvalidValue("animate draws paths over contours: it needs a function of two parameters, such as fl.quadratic([1, 100]) or fl.rosenbrock()")
        from fallline.charts.ravine import animation

        return animation(path, self.paths, self.problem.loss, minimum=self.lowest, seconds=seconds)

    def __repr__(self) -> str:
        inside = ", ".join(f"{v.name}={'not run' if v.curve is None else short(v.final, 4) if math.isfinite(v.final) else 'diverged'}" for v in self.variants)
        return f"Comparison({inside})"

    def _repr_html_(self) -> str:
        try:
            picture = self.plot()._repr_html_()
        except ImportError:
            picture = ""
        return self.table._repr_html_() + picture


def lowest_point(problem: Any) -> np.ndarray | None:
    """Where the gradient is known to vanish: the origin of a bowl, (1, 1) of Rosenbrock's valley; None elsewhere."""
    for point in (np.zeros(problem.layout.size), np.ones(problem.layout.size)):
        if not np.any(problem.gradient(point)[1]):
            return point
    return None


def _line(v: Variant, hit: dict[str, float] | None, which: Metric | None) -> dict[str, Any]:
    """One line of the table, plain values."""
    c = v.curve
    last = None if c is None else c.loss[:, -1]
    line: dict[str, Any] = {
        "variant": v.name,
        "loss": None if last is None else float(np.median(last)),
        "loss_low": None if last is None else float(last.min()),
        "loss_high": None if last is None else float(last.max()),
    }
    if which is not None:
        held = None if c is None or c.valid is None else float(np.median(c.valid[:, -1]))
        line |= {"valid_loss": held, "metric_name": which.name, "metric": v.score}
    return line | {
        "rows": 0 if c is None else int(c.rows[-1]),
        "updates": 0 if c is None else int(c.updates[-1]),
        "seconds": None if c is None else float(c.seconds[-1]),
        "rows_to_target": None if hit is None else int(hit["rows"]),
        "seconds_to_target": None if hit is None else hit["seconds"],
        "lr": v.lr,
        "lr_source": v.lr_source,
        "runs": len(v.runs),
        "diverged": v.diverged,
        "note": v.note,
    }


def _finding(variants: tuple[Variant, ...]) -> str:
    good = sorted((v for v in variants if math.isfinite(v.final)), key=lambda v: v.final)
    lost = [v.name for v in variants if v.curve is not None and not math.isfinite(v.final)]
    unrun = [v.name for v in variants if v.curve is None]
    parts = []
    if good:
        best = good[0]
        assert best.curve is not None
        level = [v.name for v in good[1:] if v.curve is not None and v.curve.loss[:, -1].min() <= best.curve.loss[:, -1].max()]
        who = best.name if not level else f"{', '.join([best.name, *level[:-1]])} and {level[-1]}"
        parts.append(f"{who} {'ends' if not level else 'end'} lowest{', their ranges overlapping,' if level else ','} at a loss of {short(best.final)}")
        if len(good) > 1 + len(level):
            parts.append(f"{good[-1].name} highest, at {short(good[-1].final)}")
    if lost:
        parts.append(f"{' and '.join(lost)} diverged")
    if unrun:
        parts.append(f"{' and '.join(unrun)} not run")
    return "; ".join(parts)


def _account(c: Comparison) -> list[str]:
    """The caption's sentences."""
    ran = [v for v in c.variants if v.runs]
    many = [v for v in ran if len(v.runs) > 1]
    data = c.data
    out = [
        "The function's value without its noise, measured outside of the clock." if data and isinstance(c.problem, FunctionProblem)
        else f"Loss over all {c.problem.rows:,} training rows, measured outside of the clock." if data else "The function's value after each update."
    ]  # fmt: skip
    if many:
        out.append(f"Line: median of {len(many[0].runs)} seeds; band: their smallest to largest.")
    single = [v.name for v in ran if len(v.runs) == 1 and v not in many]
    if many and single:
        out.append(f"One seed where nothing is drawn: {', '.join(single)}.")
    elif not many and all(len(v.runs) == 1 for v in ran):
        alike = all(draws_nothing(c.problem, v.plan) for v in ran)
        out.append(("One run" if len(ran) == 1 else "One run each") + (": nothing is drawn at random." if alike else ", as asked for: no range over seeds."))
    found = [v.name for v in ran if v.lr_source.startswith("find")]
    if found:
        who = "Each runs" if len(found) == len(ran) else f"{', '.join(found)} {'runs' if len(found) == 1 else 'run'}"
        out.append(f"{who} at the rate that find_lr found for it, whose updates are not counted.")
    averaged = [v.name for v in ran if v.plan.optimizer.average is not None]
    if averaged:
        out.append(f"{', '.join(averaged)}: the loss of the running average.")
    lost = [f"{v.name} in {v.diverged} of {len(v.runs)}" for v in ran if v.diverged and len(v.runs) > 1]
    if lost:
        out.append(f"Diverged: {', '.join(lost)} runs.")
    out += [f"{v.name} {v.note}." for v in ran if v.diverged and len(v.runs) == 1 and v.note.startswith("diverged at")]
    return out


__all__ = ["Comparison", "Curve", "Variant", "lowest_point"]
