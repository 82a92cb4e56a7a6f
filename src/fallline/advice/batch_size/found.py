"""What `find_batch_size` found: one size, and everything it rests on."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fallline.advice.batch_size.branches import Branch
from fallline.advice.batch_size.capacity import Capacity
from fallline.advice.batch_size.law import BatchLaw, band
from fallline.advice.batch_size.moments import Moment
from fallline.advice.batch_size.throughput import Throughput
from fallline.charts.marks import short
from fallline.columns import Columns

if TYPE_CHECKING:
    from fallline.plan import Plan


@dataclass(frozen=True, eq=False, repr=False)
class SizeTable(Columns):
    """One line a batch size: `table["steps"]` is a column, printing shows the whole.

    Attributes:
        columns: name -> values. `steps`, `epochs` and `seconds` are predicted, for the loss that the plan reaches;
            `efficiency` was measured by branches.
        chosen: the size that was chosen.
    """

    columns: dict[str, list[Any]]
    chosen: int

    def shown(self) -> dict[str, list[str]]:
        """The columns in words."""
        heads = {"rows_per_second": "rows/s", "batch_size": "batch size"}
        return {heads.get(name, name): [_cell(name, v) for v in values] for name, values in self.columns.items() if any(v is not None for v in values)}

    def __repr__(self) -> str:
        cells = self.shown()
        width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
        line = lambda values: "  ".join(f"{v:<{width[n]}}" if n == "use" else f"{v:>{width[n]}}" for n, v in zip(cells, values, strict=True)).rstrip()
        body = [line([c[i] for c in cells.values()]) + ("  <" if self["batch_size"][i] == self.chosen else "") for i in range(len(self))]
        return "\n".join([line(list(cells)), *body])

    def _repr_html_(self) -> str:
        cells = self.shown()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in cells)
        style = [" style='font-weight:600'" if size == self.chosen else "" for size in self["batch_size"]]
        body = "".join(f"<tr{style[i]}>" + "".join(f"<td>{html.escape(c[i])}</td>" for c in cells.values()) + "</tr>" for i in range(len(self)))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "efficiency":
        return f"{100 * value:.0f} %"
    if name in ("use", "lr_rule"):
        return str(value)
    if name in ("batch_size", "steps"):
        return f"{value:,.0f}"
    return short(value)


@dataclass(frozen=True, eq=False, repr=False)
class FoundBatchSize:
    """What was found; `batch_size` is the recommendation.

    Attributes:
        batch_size: rows of a batch.
        plan: the plan with it, its learning rate rescaled by the rule; `plan.notes` say what was done.
        verdict: a sentence.
        capacity: how large a batch may be, and how that is known.
        throughput: rows a second by size, with its knee; None where it was not timed.
        moments: the noise scale along a short run of the plan.
        law: updates by size, from those moments.
        interval: (low, high) of the law's noise scale, in rows.
        begin: the loss that the branches started from, or None.
        branches: the check, short runs in several sizes from one state.
        warnings: sentences to heed.
        cost: rows whose gradient was taken, all in all; `share` of those that the plan itself takes; `seconds`.
    """

    batch_size: int
    plan: Plan
    verdict: str
    capacity: Capacity
    throughput: Throughput | None
    moments: tuple[Moment, ...]
    law: BatchLaw
    interval: tuple[float, float]
    begin: float | None
    branches: tuple[Branch, ...]
    warnings: tuple[str, ...]
    sizes: tuple[int, ...]
    rates: tuple[float, ...]
    cost: int
    share: float
    seconds: float

    @property
    def noise_scale(self) -> float:
        """The noise scale of the whole way, in rows."""
        return self.law.scale

    def table(self) -> SizeTable:
        """Each size with its rate, its use, and what the noise scale predicts for it."""
        per_epoch, branch = self.plan.rows or 1, {b.size: b for b in self.branches}
        columns: dict[str, list[Any]] = {"batch_size": list(self.sizes), "use": [band(size) for size in self.sizes]}
        columns["rows_per_second"] = [None if self.throughput is None else self.throughput.at(size) for size in self.sizes]
        known = self.law.known
        steps = [float(self.law.steps(size)) if known else None for size in self.sizes]
        columns["steps"] = steps
        columns["epochs"] = [None if s is None else s * size / per_epoch for s, size in zip(steps, self.sizes, strict=True)]
        columns["seconds"] = [
            None if s is None or self.throughput is None else s * size / self.throughput.at(size) for s, size in zip(steps, self.sizes, strict=True)
        ]
        columns["lr"] = list(self.rates) if self.rates else [None] * len(self.sizes)
        columns["efficiency"] = [branch[size].efficiency if size in branch else None for size in self.sizes]
        return SizeTable(columns, self.batch_size)

    def plot(self) -> Any:
        """Three panels: rows a second, the noise scale along the descent, and the predicted cost of each size."""
        from fallline import charts

        seen = [m.noise for m in self.moments]
        table = self.table()
        return charts.batch_size(
            np.array(self.sizes), chosen=self.batch_size, steps=table["steps"], seconds=table["seconds"],
            measured=None if self.throughput is None else (self.throughput.sizes, self.throughput.rate, self.throughput.smooth),
            knee=None if self.throughput is None else self.throughput.knee,
            noise=(np.array([n.loss for n in seen]), np.array([n.scale for n in seen]), np.array([n.low for n in seen]), np.array([n.high for n in seen])),
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain values: everything the recommendation rests on."""
        cap = self.capacity
        return {
            "batch_size": self.batch_size, "verdict": self.verdict, "warnings": list(self.warnings),
            "noise_scale": self.law.scale, "interval": list(self.interval), "fewest_steps": self.law.fewest,
            "moments": [
                {"update": m.update, "loss": m.noise.loss, "noise_scale": m.noise.scale, "low": m.noise.low, "high": m.noise.high, "square": m.noise.square, "trace": m.noise.trace, "rows": m.noise.rows}
                for m in self.moments
            ],
            "memory": {"largest": cap.largest, "refused": cap.refused, "peak": cap.peak, "budget": cap.budget, "why": cap.why},
            "throughput": None if self.throughput is None else {
                "sizes": self.throughput.sizes.tolist(), "rate": self.throughput.rate.tolist(), "smooth": self.throughput.smooth.tolist(),
                "spread": self.throughput.spread.tolist(), "knee": self.throughput.knee,
            },
            "branches": {"begin": self.begin, "runs": [vars(b) for b in self.branches]},
            "table": self.table().rows(),
            "cost": {"rows": self.cost, "share": self.share, "seconds": self.seconds},
            "plan": self.plan.to_json(),
        }  # fmt: skip

    def __repr__(self) -> str:
        scale = "beyond the data" if not math.isfinite(self.law.scale) else f"{self.law.scale:.3g}"
        return f"FoundBatchSize(batch_size={self.batch_size}, noise_scale={scale}, cost={self.share:.2g} of a run, verdict={self.verdict!r})"

    def _repr_html_(self) -> str:
        told = "".join(f"<p><b>{html.escape(w)}</b></p>" for w in self.warnings)
        text = f"<p>{html.escape(self.verdict)} ({self.share:.2g} of a run, {self.seconds:.2g} s)</p>{told}{self.table()._repr_html_()}"
        try:
            return text + self.plot()._repr_html_()
        except ImportError:
            return text
