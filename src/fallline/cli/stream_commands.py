"""`fallline fit - --stream`: which flags it takes, where the rows come from, and what it prints."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from fallline.errors import InvalidValue

TAKES = {
    "data", "target", "loss", "task", "sample_weight", "drop", "only", "type", "out", "resume", "overwrite", "json", "stream", "format",
    "classes", "save_every", "from_here",
}  # fmt: skip
"""What of `fit` a stream understands."""


def only_for_streams(**given: Any) -> None:
    """Refuse a stream's flags where there is none."""
    flags = [_flag(name) for name, value in given.items() if value]
    if flags:
        raise InvalidValue(f"{', '.join(flags)}: for --stream only")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def fit(given: Mapping[str, Any], command: Callable[..., Any]) -> None:
    """`fallline fit DATA --stream`."""
    usual = {name: p.default for name, p in inspect.signature(command).parameters.items()}
    odd = [_flag(name) for name, value in usual.items() if name not in TAKES and given[name] != value]
    if odd:
        raise InvalidValue(f"{', '.join(odd)}: not for --stream, which learns from each row once, in the order in which rows come, by steps that need no learning rate; every row tests the model before it is learnt")
    if not given["stream"]:
        raise InvalidValue("DATA is -, standard input: give --stream to learn row by row, or a file")
    if given["save_every"] is not None and given["save_every"] < 1:
        raise InvalidValue(f"--save-every {given['save_every']}: expected a number of rows of at least 1")
    from fallline.cli import work
    from fallline.streaming.columns import WIDTH

    place = work.Place(given["out"], given["resume"], given["overwrite"])
    options = work.table_options(given["drop"], given["only"], given["type"], "0", "0", None, None, None, None, False, given["task"], 0)
    if options.task not in (None, "classification", "regression"):
        raise InvalidValue(f"task={options.task!r}: expected 'classification' or 'regression'")
    for name in options.widths:
        raise InvalidValue(f"--type {name}={options.types[name]}: not for --stream, which hashes every category to {WIDTH:,} columns: give --type {name}=category")
    from fallline.streaming import Asked

    asked = Asked(
        given["target"], given["sample_weight"], options.drop, options.only, options.types, given["loss"], options.task, given["format"],
        tuple(p.strip() for p in given["classes"].split(",") if p.strip()), given["save_every"], given["from_here"],
    )  # fmt: skip
    _learn(given["data"], asked, place, given["json"])


def _learn(data: str, asked: Any, place: Any, json: bool) -> None:
    from fallline.cli import work
    from fallline.streaming import learn

    live, screen = _claimed(data, place), _Screen(json)
    try:
        if data == "-":
            run = learn(sys.stdin.buffer, "standard input", live, asked, screen)
        else:
            if not Path(data).is_file():
                raise InvalidValue(f"no file {data!r}: expected a file, or - for standard input")
            with open(data, "rb") as file:
                run = learn(file, data, live, asked, screen)
    except (KeyboardInterrupt, SystemExit) as ended:
        work._partial(ended, live.path)
        raise
    head, page = run.summary["headline"], live.path / "report.html"
    if json:
        return work._document({"run": str(live.path), "report": str(page), "outcome": run.outcome.name, "rows": run.plan.rows, "headline": head, "metrics": run.summary["test"]["metrics"]})
    print(run.reason)
    print(_headline(head))
    print(f"run: {live.path}   report: {page}")


def _claimed(data: str, place: Any) -> Any:
    """The folder that the run goes to."""
    from fallline import run_folder
    from fallline.cli import work
    from fallline.errors import RunExists
    from fallline.runs.live import LiveFolder, only_a_run

    folder = Path(place.out) if place.out else work._free(Path("runs"), "stream" if data == "-" else Path(data).stem)
    taken = any(folder.iterdir()) if folder.is_dir() else folder.exists()
    if taken:
        only_a_run(folder)
        if not place.resume and not place.overwrite:
            if (folder / run_folder.MANIFEST).is_file():
                raise RunExists(f"{folder} holds a run: give --resume to go on with its stream, --overwrite to start anew, or choose another --out")
            raise work._to_be_ended(run_folder.unfinished(folder))
    about = {"command": "fallline " + shlex.join(sys.argv[1:]), "created": datetime.now().isoformat(" ", "minutes")}
    return LiveFolder.claim(folder, replace=taken and not place.resume, resume=taken and place.resume, about=about)


def _headline(head: Mapping[str, Any] | None) -> str:
    if head is None:
        return "no row had a target: nothing was learnt"
    span = "" if head["interval"] is None else f" (95 % interval {head['interval'][0]:.4g} to {head['interval'][1]:.4g})"
    return f"{head['metric']} of {head['rows']:,} rows, each before it was learnt: {head['value']:.4g}{span}; {head['baseline_name']}: {head['baseline']:.4g}"


class _Screen:
    """Lines of text as they are, evaluations as the rows of a table; nothing where a document is wanted."""

    def __init__(self, json: bool):
        self._json, self._begun = json, False

    def __call__(self, said: dict[str, Any] | str) -> None:
        if self._json:
            return
        if isinstance(said, str):
            print(said, flush=True)
            return
        names = [n for n in said if n.startswith("valid_")]
        if not self._begun:
            self._begun = True
            print("".join(f"{word:>12}" for word in ("rows", "since", *(n.removeprefix("valid_") for n in names), "seconds")))
        values = [said["loss"], *(said[n] for n in names)]
        print(f"{said['step']:>12,}" + "".join(f"{v:>12.4g}" for v in values) + f"{said['seconds']:>12.2f}", flush=True)
