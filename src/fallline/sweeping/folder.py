"""A sweep on disk: what it is, a line for every run that came to its end, and the weights, in parts.

    sweep.json                the plan, what is tried, how it is measured; a sweep that continues must be this one
    runs.jsonl                a line for the runs that came to their end together; with it, at a rung of successive halving, which go on
    part-0001.safetensors     weights of line 1's runs, with their length and hash in the line

A line is there or is not: a kill loses the runs that were under way, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fallline import run_folder
from fallline.durable import Damaged, described, read_file
from fallline.errors import InvalidValue, RunDamaged, RunExists, RunUnfinished
from fallline.sweeping.jobs import SweepRun
from fallline.tensors import packed, unpacked

SWEEP, RUNS = "sweep.json", "runs.jsonl"
FORMAT = 1


@dataclass
class SweepFolder:
    """A folder that a sweep is written to while it runs; made by `claim`.

    Attributes:
        path: the folder.
        runs: those that it held when it was claimed.
        rungs: the rungs of successive halving that had been decided, each the combinations that go on.
    """

    path: Path
    runs: list[SweepRun] = field(default_factory=list)
    rungs: list[list[int]] = field(default_factory=list)
    _held: int | None = None
    _lines: int = 0

    @classmethod
    def claim(cls, folder: str | Path, definition: Mapping[str, Any], total: int, *, resume: bool) -> SweepFolder:
        """A folder for this sweep of `total` runs: a new one, one that holds it whole, or with `resume` one that holds a part of it.

        Raises:
            RunExists: it holds something else, or another process is at it.
            RunUnfinished: it holds a part of this sweep, and `resume` is not set.
        """
        path = Path(folder)
        if not (path / SWEEP).is_file():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RunExists(f"{path} exists already and holds no sweep: choose another folder, or remove it")
            path.mkdir(parents=True, exist_ok=True)
            made = cls(path, _held=run_folder.hold(path))
            run_folder.put(path, SWEEP, run_folder.document(definition))
            return made
        found, wanted = read_definition(path), json.loads(run_folder.document(definition))
        other = [name.replace("_", " ") for name in wanted if found.get(name) != wanted[name]]
        if other:
            differ = "differs" if len(other) == 1 else "differ"
            raise RunExists(f"{path} holds another sweep ({', '.join(other)} {differ}): choose another folder, or remove it")
        made = cls(path, _held=run_folder.hold(path))
        try:
            made._mend()
            made.runs, made.rungs = read_runs(path)
            if len(made.runs) < total and not resume:
                held = f"{len(made.runs):,} of its {total:,} runs"
                raise RunUnfinished(f"{path} holds this sweep, with {held}: continue it with resume=True (--resume), or choose another folder")
        except BaseException:
            made.close()
            raise
        return made

    def add(self, runs: Sequence[SweepRun], rung: Sequence[int] | None = None) -> None:
        """Write runs down, their weights first, then their line; with them, the combinations that a rung lets go on."""
        line: dict[str, Any] = {"runs": [run.to_json() for run in runs]}
        self._lines += 1
        arrays = {f"{run.cell}.{run.seed}.{name}": value for run in runs if run.weights is not None for name, value in run.weights.items()}
        if arrays:
            name, data = f"part-{self._lines:04d}.safetensors", packed(arrays)
            run_folder.put(self.path, name, data)
            line["weights"] = {"file": name, **described(data)}
        if rung is not None:
            line["rung"] = list(rung)
        self._append(line)

    def close(self) -> None:
        """Let go of the folder."""
        if self._held is not None:
            os.close(self._held)
        self._held = None

    def _append(self, line: Mapping[str, Any]) -> None:
        descriptor = os.open(self.path / RUNS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            left = memoryview((json.dumps(run_folder.plain(line)) + "\n").encode())
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _mend(self) -> None:
        """Take away a last line that a kill cut short, so that the next one does not stand behind it."""
        file = self.path / RUNS
        if file.is_file() and not (data := file.read_bytes()).endswith(b"\n"):
            run_folder.put(self.path, RUNS, data[: data.rfind(b"\n") + 1])
        self._lines = file.read_bytes().count(b"\n") if file.is_file() else 0


def read_definition(path: Path) -> dict[str, Any]:
    """The definition of the sweep in a folder.

    Raises:
        InvalidValue: one of a newer format.
        RunDamaged: it cannot be read.
    """
    try:
        found = json.loads((path / SWEEP).read_text())
        version = found["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunDamaged(f"{path / SWEEP} is not a sweep's ({type(error).__name__}): restore it from a copy, or sweep again") from None
    if version != FORMAT:
        raise InvalidValue(f"{path} has format {version!r} and this version reads {FORMAT}: use a newer fallline")
    return found


def read_runs(path: Path) -> tuple[list[SweepRun], list[list[int]]]:
    """The runs of a folder, with their weights, and the rungs.

    Raises:
        RunDamaged: a line or a part is not what was written.
    """
    runs, rungs = [], []
    try:
        for line in run_folder.lines(path / RUNS):
            weights = _weights(path, line.get("weights"))
            for entry in line["runs"]:
                begin = f"{entry['cell']}.{entry['seed']}."
                own = {key.removeprefix(begin): value for key, value in weights.items() if key.startswith(begin)}
                runs.append(SweepRun.from_json(entry, own or None))
            if "rung" in line:
                rungs.append([int(k) for k in line["rung"]])
    except (Damaged, ValueError, KeyError, TypeError, AttributeError, RecursionError) as flaw:
        what = str(flaw) if isinstance(flaw, Damaged) else f"{RUNS} has a line that is not of runs ({type(flaw).__name__})"
        raise RunDamaged(f"{path}: {what}; restore the folder from a copy, or sweep again") from None
    return runs, rungs


def _weights(path: Path, told: Any) -> dict[str, np.ndarray]:
    """The weights that a line tells of; none where it tells of none.

    Raises:
        Damaged: the file is not what was written.
    """
    if told is None:
        return {}
    name = str(told["file"])
    if Path(name).name != name:
        raise Damaged(f"{RUNS} names a file outside of its folder: {name[:80]!r}")
    return unpacked(read_file(path / name, told))
