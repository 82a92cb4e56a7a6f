"""What `compare`, `runs` and `report RUN RUN` do: flags to library values, results to a screen, a page or JSON."""

from __future__ import annotations

import math
import os
import shlex
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from fallline import fitting, problems, rules, tables
from fallline.cli.work import Columns, _document, _list, _say, choices
from fallline.comparing import compare as compare_variants
from fallline.comparing import contenders, folders
from fallline.comparing.comparison import Comparison, lowest_point
from fallline.comparing.folders import Listed
from fallline.errors import InvalidValue, UnknownName
from fallline.runs import load


@dataclass(frozen=True)
class Asked:
    """A comparison on data, as its flags say."""

    data: str
    target: str | None
    variants: str
    epochs: float
    seeds: int
    batch_size: int
    loss: str | None
    seed: int
    out: str | None
    model: str = "linear"
    device: str | None = None


@dataclass(frozen=True)
class Look:
    """A landscape's flags; None where left out."""

    lr: float | None
    momentum: float | None
    noise: float | None
    steps: int | None


@dataclass(frozen=True)
class Landscape:
    """A function of two parameters to look at: how it is made, the curvature that sets the edge, and what it begins with."""

    start: tuple[float, float]
    curvature: float
    lr: float
    steps: int

    def problem(self, name: str, noise: float = 0.0) -> Any:
        if name == "ravine":
            return problems.quadratic([1.0, 100.0], noise=noise, start=list(self.start))
        return problems.rosenbrock(start=self.start)


LANDSCAPES = {
    "ravine": Landscape((-4.0, 1.5), 100.0, 0.012, 100),
    "rosenbrock": Landscape((-1.2, 1.0), 1506.0, 0.0005, 400),
}
"""Curvatures at the start, the largest: 100 of the bowl, 1506 of Rosenbrock's valley at (-1.2, 1)."""
NOISE = 10.0


def _command() -> str:
    return "fallline " + shlex.join(sys.argv[1:])


def _now() -> str:
    return datetime.now().isoformat(" ", "minutes")


def _page(out: str | None, stem: str, kinds: tuple[str, ...] = (".html",)) -> Path:
    path = Path(out or f"{stem}.html")
    if path.suffix.lower() not in kinds:
        raise InvalidValue(f"--out {path}: expected a file that ends in {' or '.join(kinds)}")
    return path


def only_for_landscapes(data: str, given: dict[str, Any]) -> None:
    """Refuse flags that belong to the functions, where data are given."""
    flags = [flag for flag, value in given.items() if value is not None]
    if flags:
        raise InvalidValue(f"{', '.join(flags)}: for ravine and rosenbrock only; on {data} every variant runs at the rate that find_lr finds for it")


# ----------------------------------------------------------------------------------------------------- data


def compare(asked: Asked, columns: Columns, json: bool) -> None:
    """`fallline compare DATA`."""
    names = _list(asked.variants)
    for name in names:  # before anything is read
        if name not in contenders.VARIANTS:
            raise UnknownName.among("variant", name, contenders.VARIANTS)
    if len(set(names)) < len(names):
        raise InvalidValue(f"--variants {asked.variants}: a name stands there twice")
    path = _page(asked.out, f"{Path(asked.data).stem}-compared")
    told = choices(asked.epochs, str(asked.batch_size), None, "constant", asked.loss, None, None, asked.seed, asked.model, asked.device)
    options = columns.options("0.15", asked.seed)
    made = tables.table(asked.data, target=asked.target, options=options)
    problem, valid, network = fitting.table_problem(made, fitting.table_rows(made, told), told)
    _say(made.summary.text(), json)
    if network is not None:
        _say(f"model: {network!r}, {problem.layout.size:,} parameters on {problem.device}", json)
    size = min(asked.batch_size, problem.rows)
    plans = {name: _seeded(problem, name, asked, size) for name in names}
    found = compare_variants(problem, plans, seeds=asked.seeds, valid=valid, progress=False if json else None)
    _shown(found, path, json, {"data": asked.data, "rows": problem.rows, "held_out_rows": valid.rows})


def _seeded(problem: Any, name: str, asked: Asked, size: int) -> Any:
    plan = contenders.planned(problem, name, name, contenders.Common(epochs=asked.epochs, batch_size=size))
    return plan._with(seed=asked.seed)


def _shown(found: Comparison, path: Path, json: bool, more: dict[str, Any]) -> None:
    """The page, and the table on the screen or in a document."""
    from fallline.report.comparison import comparison_page

    comparison_page(found, path, command=_command(), created=_now())
    if json:
        target = found.table.target
        return _document({**more, "report": str(path), "finding": found.title, "how": found.caption, "target": target, "variants": found.table.rows()})
    print(screen(found.table.shown()))
    for v in found.variants:
        if v.note:
            print(f"{v.name}: {v.note}")
    print(found.title)
    print(found.caption)
    print(f"report: {path}")


def screen(cells: dict[str, list[str]]) -> str:
    """A table of words for the terminal: as wide as its words, or, where the window is narrower, a few lines for each row."""
    width = {name: max(len(name), *map(len, column)) for name, column in cells.items()}
    first = next(iter(cells))
    window = int(os.environ.get("COLUMNS") or 0) or (os.get_terminal_size().columns if sys.stdout.isatty() else 10**6)
    count = len(cells[first])
    if sum(width.values()) + 2 * len(width) <= window:
        left = {first, "lr from", "how it ended"}

        def line(values: list[str]) -> str:
            return "  ".join(f"{v:<{width[n]}}" if n in left else f"{v:>{width[n]}}" for n, v in zip(cells, values, strict=True)).rstrip()

        return "\n".join([line(list(cells)), *(line([column[i] for column in cells.values()]) for i in range(count))])
    blocks = []
    for i in range(count):
        parts = [f"{name} {column[i]}" for name, column in cells.items() if name != first and column[i]]
        lines, at = [], ""
        for part in parts:
            if at and len(at) + len(part) + 4 > window:
                lines.append(at)
                at = ""
            at = f"{at}, {part}" if at else part
        blocks.append("\n".join([cells[first][i], *(f"  {text}" for text in (*lines, at) if text)]))
    return "\n".join(blocks)


# ------------------------------------------------------------------------------------------------ functions


def landscape(name: str, look: Look, out: str | None, json: bool) -> None:
    """`fallline compare ravine`: a page to play with, or an animation or a picture."""
    place = LANDSCAPES[name]
    path = _page(out, name, (".html", ".gif", ".png", ".svg"))
    lr = place.lr if look.lr is None else look.lr
    momentum = 0.9 if look.momentum is None else look.momentum
    steps = place.steps if look.steps is None else look.steps
    if steps < 1 or steps > 2000:
        raise InvalidValue(f"--steps {steps}: expected between 1 and 2,000 updates")
    if look.noise is not None and name != "ravine":
        raise InvalidValue(f"--noise belongs to ravine, not to {name}")
    if not 0 < momentum < 1:
        raise InvalidValue(f"--momentum {momentum:g}: expected a number above 0 and below 1; plain descent is drawn beside it anyway")
    problem = place.problem(name)
    variants = {"plain": rules.SGD(lr=lr), "momentum": rules.SGD(lr=lr, momentum=momentum), "Nesterov": rules.Nesterov(lr=lr, momentum=momentum)}
    found = compare_variants(problem, variants, steps=steps, progress=False)
    if path.suffix == ".html":
        from fallline.report.ravine_page import ravine_page

        noise = NOISE if look.noise is None else look.noise
        rough = place.problem(name, noise) if name == "ravine" and noise > 0 else None
        noisy = [] if rough is None else [("noisy: batches of 16", rough, 16), ("noisy: one row", rough, 1)]
        print("fallline: computing the paths for every position of the sliders (some seconds) ...", file=sys.stderr)
        ravine_page(
            path, problem, lr=lr, momentum=momentum, curvature=place.curvature, steps=min(steps, 400), minimum=lowest_point(problem),
            noisy=noisy, command=_command(), created=_now(),
        )  # fmt: skip
    elif path.suffix == ".gif":
        found.animate(path)
    else:
        found.plot().save(path)
    if json:
        return _document({"function": repr(problem), "file": str(path), "finding": found.title, "variants": found.table.rows()})
    print(found.table)
    print(found.title)
    print(f"{'page' if path.suffix == '.html' else 'picture'}: {path}")


# ----------------------------------------------------------------------------------------------------- runs


def list_runs(folder: str, sort: str | None, json: bool) -> None:
    """`fallline runs`."""
    listed = folders.listing(folder)
    if not listed:
        raise InvalidValue(f"no run folder below {folder}: `fallline fit DATA --out {Path(folder) / 'NAME'}` makes one")
    name = folders.chosen(listed, sort)
    order = folders.ranked(listed, name)
    data = {one.told["data"] for one in listed if one.told}
    note = f"these runs are of {len(data)} different training data: their metrics are not of the same rows" if len(data) > 1 else ""
    if json:
        lines = [{"rank": rank, "run": one.name, "state": one.state, "why": one.why, "value": one.values.get(name), "interval": one.intervals.get(name),
                  "values": one.values, **one.told} for rank, one in order]  # fmt: skip
        return _document({"folder": folder, "sort": name, "better": folders.better(name), "note": note, "runs": lines})
    print(screen(_columns(order, name)))
    print(f"ranked by {name}, {folders.better(name)} is better" + (f"; {note}" if note else ""))


def _columns(order: list[tuple[int | None, Listed]], name: str) -> dict[str, list[str]]:
    ones = [one for _, one in order]
    out = {"run": [one.name for one in ones], "rank": ["" if rank is None else str(rank) for rank, _ in order]}
    out[name] = [_number(one.values.get(name)) for one in ones]
    if any(name in one.intervals for one in ones):
        out["95 % interval"] = ["" if name not in one.intervals else f"{one.intervals[name][0]:.4g} to {one.intervals[name][1]:.4g}" for one in ones]
    out["lr"] = [_number(one.told.get("lr")) for one in ones]
    out["batch"] = [str(one.told.get("batch", "")) for one in ones]
    out["optimizer"] = [str(one.told.get("optimizer", "")) for one in ones]
    out["updates"] = ["" if "updates" not in one.values else f"{one.values['updates']:,.0f}" for one in ones]
    out["how it ended"] = [one.state if one.state == "Finished" else f"{one.state}: {one.why}" for one in ones]
    return out


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if math.isfinite(value) else "NaN" if np.isnan(value) else "infinite"


def together(folders: list[str], out: str | None, json: bool) -> None:
    """`fallline report RUN RUN ...`."""
    from fallline.report.side_by_side import side_by_side

    above = Path(os.path.commonpath([os.path.abspath(Path(f).parent) for f in folders]))
    above = Path(os.path.relpath(above)) if above.is_relative_to(Path.cwd()) else above
    path = _page(out, str(above / "side-by-side"))
    if len({os.path.abspath(f) for f in folders}) < len(folders):
        raise InvalidValue(f"report {' '.join(folders)}: a run stands there twice")
    side_by_side({name: load(folder) for name, folder in zip(_short_names(folders), folders, strict=True)}, path, command=_command(), created=_now())
    if json:
        return _document({"runs": folders, "report": str(path)})
    print(path)


def _short_names(folders: list[str]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [Path(os.path.abspath(f)).parts for f in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return folders
