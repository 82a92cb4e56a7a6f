"""What `fallline sweep` does: flags to a grid, the sweep, its page and its table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fallline import fitting, tables
from fallline.batches import Batches
from fallline.cli import compare_commands
from fallline.cli.compare_work import _command, _now, screen
from fallline.cli.work import OPTIMIZERS, Columns, _document, _free, _list, _say, choices
from fallline.errors import InvalidValue, RunExists, UnknownName
from fallline.plan import Plan
from fallline.rules import auto
from fallline.sweeping import Sweep
from fallline.sweeping import sweep as sweep_over
from fallline.sweeping.values import Spaced, values

PAGE = "report.html"
USUAL_ROWS = 32
"""Of a batch where --batch-size is left out (all rows where there are fewer)."""


@dataclass(frozen=True)
class Asked:
    """A sweep on data, as its flags say. `tried` maps names to values in words; None where left out."""

    data: str
    target: str | None
    tried: Mapping[str, str | None]
    optimizer: str
    over: tuple[str, ...]
    epochs: float
    seeds: int
    budget: float | None
    metric: str | None
    valid: str
    loss: str | None
    seed: int
    out: str | None
    resume: bool
    model: str
    device: str | None


def sweep(asked: Asked, columns: Columns, json: bool) -> None:
    """`fallline sweep DATA`."""
    over = _over(asked)
    told = choices(asked.epochs, "auto", None, "constant", asked.loss, None, None, asked.seed, compare_commands.read_model(asked.model), asked.device)
    options = columns.options(asked.valid, asked.seed)
    made = tables.table(asked.data, target=asked.target, options=options)
    problem, valid, network = fitting.table_problem(made, fitting.table_rows(made, told), told)
    _say(made.summary.text(), json)
    if network is not None:
        _say(f"model: {network!r}, {problem.layout.size:,} parameters on {problem.device}", json)
    plan, tried = _plan(problem, asked, over)
    for folder in _folders(asked):
        try:
            found = sweep_over(
                problem, plan, tried, seeds=asked.seeds, valid=valid, metric=asked.metric, budget=asked.budget, save=folder,
                resume=asked.resume, progress=False if json else None,
            )  # fmt: skip
        except (KeyboardInterrupt, SystemExit) as ended:
            print(f"fallline: interrupted; what was finished is in {folder}: the same command with --out {folder} --resume goes on", file=sys.stderr)
            sys.exit(130 if isinstance(ended, KeyboardInterrupt) else ended.code)
        except RunExists:
            if asked.out is not None or not folder.exists():
                raise
            continue  # --resume without --out: the folder of another sweep
        return _shown(found, folder, asked.data, json)


def _folders(asked: Asked) -> list[Path]:
    """Where the sweep may go: --out; else a free folder, before which --resume looks into those that are there, the newest first."""
    if asked.out is not None:
        return [Path(asked.out)]
    stem = f"sweep-{Path(asked.data).stem}"
    free = _free(Path("runs"), stem)
    there = [path for path in Path("runs").glob(f"{stem}*") if path.is_dir()] if asked.resume else []
    return [*sorted(there, key=lambda path: path.stat().st_mtime, reverse=True), free]


def _over(asked: Asked) -> dict[str, Any]:
    """Values by name, from the flags; read before any data."""
    over: dict[str, Any] = {}
    names = _list(asked.optimizer)
    for name in names:
        if name not in OPTIMIZERS:
            raise UnknownName.among("optimizer", name, OPTIMIZERS)
    if len(names) != 1:
        over["optimizer"] = [OPTIMIZERS[name]() for name in names]
    over |= {name: _tried(name, text) for name, text in asked.tried.items() if text is not None}
    for pair in asked.over:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidValue(f"--over {pair}: expected NAME=VALUES, such as --over nesterov=true,false")
        if name in over:
            raise InvalidValue(f"--over {pair}: {name} stands in another flag already; give it once")
        over[name.replace("-", "_")] = values(text)
    return over


def _tried(name: str, text: str) -> Any:
    """The values of a flag of its own; numbers, but of a schedule, which is words, and a batch, which may be full."""
    found = values(text)
    flag = f"--{name.replace('_', '-')} {text}"
    if name == "batch_size":
        return tuple(Batches.full() if size == "full" else size for size in _rows(flag, found))
    words = [v for v in found if isinstance(v, (str, bool)) or v is None]
    if words and name != "schedule":
        raise InvalidValue(f"{flag}: {words[0]!r} is not a number; expected numbers with commas between, or LOW..HIGH:COUNT, such as 1e-4..1:9")
    return found


def _rows(flag: str, found: Any) -> list[Any]:
    """Sizes of a batch; of a range, whole numbers near its values."""
    sizes = list(dict.fromkeys(round(v) for v in found)) if isinstance(found, Spaced) else list(found)
    for size in sizes:
        if size != "full" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise InvalidValue(f"{flag}: {size!r} is not a number of rows; expected whole numbers of at least 1, or full")
    return sizes


def _plan(problem: Any, asked: Asked, over: dict[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """The plan that all runs share, with the values of which there is only one, and what is tried."""
    rule = OPTIMIZERS[_list(asked.optimizer)[0]](lr=auto)
    if hasattr(rule, "momentum") and "momentum" not in over and "optimizer" not in over:
        over = {**over, "momentum": (0.9,)}
    sizes = over.pop("batch_size", (min(USUAL_ROWS, problem.rows),))
    tried = {**over, "batch_size": sizes} if len(sizes) > 1 else over
    return Plan(problem, epochs=asked.epochs, batch_size=sizes[0], optimizer=rule, seed=asked.seed), tried


def _shown(found: Sweep, folder: Path, data: str, json: bool) -> None:
    """The page, and the table on the screen or in a document."""
    from fallline.report.sweep import sweep_page

    page = sweep_page(found, folder / PAGE, data=data, command=_command(), created=_now())
    if json:
        return _document({"data": data, "folder": str(folder), "report": str(page), **found.to_json()})
    print(screen(found.table().shown()))
    if len(found.cells) > 20:
        print(f"... and {len(found.cells) - 20} more, in the page")
    print(found.verdict)
    print(f"{found.cost:.4g} full runs; {'; '.join(found.told.choices) or 'all of them read from the folder'}")
    for edge in found.edges:
        print(_edge(edge))
    print(f"report: {page}")


def _edge(edge: Any) -> str:
    where = ", ".join(f"{name} {word}" for name, word in zip(edge.values, edge.words, strict=True))
    low, high = edge.measured
    seen = "not seen" if high is None else f"{'below' if low is None else f'{low:.3g} to'} {high:.3g}"
    predicted = "none is known" if edge.predicted is None else f"{edge.predicted:.3g}"
    return f"edge of stability{' at ' + where if where else ''}: measured {seen}, predicted {predicted}"


__all__ = ["Asked", "sweep"]
