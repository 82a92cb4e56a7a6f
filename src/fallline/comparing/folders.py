"""The run folders below a directory, ranked by a metric; unfinished and damaged ones stand in the list as what they are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fallline import run_folder, runs
from fallline.errors import FalllineError, InvalidValue, UnknownName
from fallline.metrics import METRICS
from fallline.report.side_by_side import peak_lr

MARKS = ("plan.json", "run.json", "history.jsonl", "checkpoints", "model.safetensors")
"""What a folder holds that was to be a run and has no manifest yet, or no longer."""
STAGING = re.compile(r"\.(.+)\.\d+\.tmp")
DEPTH = 4
"""How far below the directory runs are looked for."""
LOWER = {"loss", "seconds", "updates", "epochs"}


@dataclass(frozen=True)
class Listed:
    """One folder of the list.

    Args:
        name: the folder, as seen from the directory that was asked.
        state: "finished" (also: stopped early, diverged, ...: the outcome in words), "unfinished" or "damaged".
        why: what is wrong, or how it ended.
        values: name -> number: "test accuracy", "valid loss", "loss", "seconds", "updates".
        intervals: name -> (low, high) of the test metrics.
        told: settings for a reader: optimizer, lr, batch, data, created.
    """

    name: str
    state: str
    why: str
    values: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    told: dict[str, Any] = field(default_factory=dict)


def listing(folder: str | Path) -> list[Listed]:
    """Every run folder at or below a directory, by name.

    Raises:
        InvalidValue: no such directory.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InvalidValue(f"{root} is not a directory: give the one that holds run folders, such as runs/")
    found = [_one(path, root) for path in sorted(_folders(root, 0))]
    return found


def _folders(path: Path, depth: int) -> Iterator[Path]:
    """Folders that are, were or were to be a run."""
    if (path / run_folder.MANIFEST).exists() or any((path / mark).exists() for mark in MARKS) or STAGING.fullmatch(path.name):
        yield path
    elif depth < DEPTH:
        for inside in path.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                yield from _folders(inside, depth + 1)


def _one(path: Path, root: Path) -> Listed:
    name = str(path.relative_to(root)) if path != root else str(path)
    staged = STAGING.fullmatch(path.name)
    if staged:
        return Listed(name, "unfinished", f"the writing of {staged[1]!r} was cut off")
    if not (path / run_folder.MANIFEST).exists():
        return Listed(name, "unfinished", f"no {run_folder.MANIFEST}: it has not ended, or was cut off")
    try:
        run = runs.load(path)
    except FalllineError as error:
        return Listed(name, "damaged", str(error))
    except (ValueError, KeyError, TypeError, OSError) as error:
        return Listed(name, "damaged", f"{type(error).__name__}: {error}")
    values, spans = _values(run)
    told = {
        "optimizer": type(run.plan.optimizer).__name__, "lr": peak_lr(run.plan), "batch": run.plan.batch_size.size or "full",
        "data": run.problem_fingerprint[:12], "created": run.summary.get("created", ""), "headline": (run.summary.get("headline") or {}).get("metric"),
    }  # fmt: skip
    return Listed(name, run.outcome.name, run.reason, values, spans, told)


def _values(run: Any) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """The numbers by which a run can be ranked, and their intervals."""
    values: dict[str, float] = {}
    spans: dict[str, tuple[float, float]] = {}
    for name, found in ((run.summary.get("test") or {}).get("metrics") or {}).items():
        key = f"test {name.replace('_', ' ')}"
        values[key] = float(found["value"])
        if found.get("interval"):
            spans[key] = (float(found["interval"][0]), float(found["interval"][1]))
    entries = run.history.evaluations
    best = next((e["value"] for e in run.journal if e["what"] == "best"), None)
    at = next((e for e in entries if e.get("step") == best), entries[-1] if entries else {})
    for key, value in at.items():
        if isinstance(value, (int, float)) and key.startswith("valid_"):
            values[key.replace("_", " ")] = float(value)
    if len(run.history.loss):
        values["loss"] = float(run.history.loss[-1])
    if entries and isinstance(entries[-1].get("seconds"), (int, float)):
        values["seconds"] = float(entries[-1]["seconds"])
    values["updates"] = float(run.history.steps)
    return values, spans


def chosen(listed: Sequence[Listed], sort: str | None) -> str:
    """The name of what the runs are ranked by: as asked (with or without "test"), else the headline of most runs.

    Raises:
        UnknownName: no run has it.
    """
    known = list(dict.fromkeys(k for one in listed for k in one.values))
    if sort is None:
        heads = [f"test {str(one.told['headline']).replace('_', ' ')}" for one in listed if one.told.get("headline")]
        return max(dict.fromkeys(heads), key=heads.count) if heads else "valid loss" if "valid loss" in known else "loss"
    wanted = " ".join(sort.casefold().replace("_", " ").split())
    for name in (wanted, f"test {wanted}", f"valid {wanted}"):
        if name in known:
            return name
    raise UnknownName.among("metric", sort, known or ["none: no finished run here"])


def better(name: str) -> str:
    """Whether "higher" or "lower" is better.

    >>> better("test accuracy"), better("valid loss"), better("test rmsle")
    ('higher', 'lower', 'lower')
    """
    bare = name.removeprefix("test ").removeprefix("valid ").replace(" ", "_")
    return "lower" if bare in LOWER else METRICS[bare].better if bare in METRICS else "higher"


def ranked(listed: Sequence[Listed], name: str) -> list[tuple[int | None, Listed]]:
    """(rank, run): the best first; what has no such number, is unfinished or damaged comes last, without a rank."""
    sign = -1.0 if better(name) == "higher" else 1.0
    able = sorted((one for one in listed if math.isfinite(one.values.get(name, math.nan))), key=lambda one: sign * one.values[name])
    places = {id(one): 1 + next(i for i, other in enumerate(able) if other.values[name] == one.values[name]) for one in able}
    return [(places[id(one)], one) for one in able] + [(None, one) for one in listed if id(one) not in places]


__all__ = ["Listed", "better", "chosen", "listing", "ranked"]
