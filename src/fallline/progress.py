"""Progress of a run: live in a terminal and in Jupyter, else one plain line every 30 seconds on stderr."""

from __future__ import annotations

import html
import math
import sys
import time
from typing import Any, Protocol

from fallline.interrupts import interactive, notebook

EVERY = 30.0
"""Seconds between plain lines."""
REDRAW = 0.2
"""Seconds between two pictures of a notebook's bar."""


class Progress(Protocol):
    """What shows how far a run is."""

    def show(self, step: int, loss: float, evaluation: dict[str, Any] | None) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Shows nothing."""

    def show(self, step: int, loss: float, evaluation: dict[str, Any] | None) -> None:
        pass

    def close(self) -> None:
        pass


class Plain:
    """One line every 30 seconds: for logs."""

    def __init__(self, total: int):
        self.total, self._last = total, time.monotonic()

    def show(self, step: int, loss: float, evaluation: dict[str, Any] | None) -> None:
        now = time.monotonic()
        if now - self._last >= EVERY:
            self._last = now
            print(f"fallline: step {step:,} of {self.total:,} ({step / self.total:.0%}), loss {loss:.6g}{_scores(evaluation)}", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class Notebook:
    """A bar under a notebook's cell, redrawn at most five times a second; it goes away in the end."""

    def __init__(self, total: int):
        from IPython.display import HTML, display  # type: ignore[import-not-found]

        self.total, self._page, self._scores, self._last, self._began = total, HTML, "", -math.inf, time.monotonic()
        self._handle = display(HTML(""), display_id=True)

    def show(self, step: int, loss: float, evaluation: dict[str, Any] | None) -> None:
        self._scores = _scores(evaluation) or self._scores
        now = time.monotonic()
        if now - self._last < REDRAW and step < self.total:
            return
        self._last = now
        left = (now - self._began) * (self.total - step) / max(step, 1)
        words = f"{step:,} of {self.total:,}, {left:.0f} s left, loss {loss:.5g}{self._scores}"
        self._handle.update(self._page(f'<progress value="{step}" max="{self.total}"></progress> {html.escape(words)}'))

    def close(self) -> None:
        self._handle.update(self._page(""))


class Live:
    """A bar that moves in a terminal, by Rich."""

    def __init__(self, total: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = TextColumn("descending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}")
        self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task("", total=total, note="")
        self._scores = ""
        self._bar.start()

    def show(self, step: int, loss: float, evaluation: dict[str, Any] | None) -> None:
        self._scores = _scores(evaluation) or self._scores
        self._bar.update(self._task, completed=step, note=f"loss {loss:.5g}{self._scores}")

    def close(self) -> None:
        self._bar.stop()


def _scores(evaluation: dict[str, Any] | None) -> str:
    kept = [(k, v) for k, v in (evaluation or {}).items() if k.startswith("valid_")]
    return "".join(f", {k.replace('_', ' ')} {v:.4g}" for k, v in kept[:3])


def progress_for(wanted: bool | None, total: int) -> Progress:
    """Live where a person watches, plain lines elsewhere, nothing for False."""
    if wanted is False:
        return Silent()
    if notebook():
        return Notebook(total)
    if sys.stderr.isatty() or interactive():
        try:
            return Live(total)
        except ImportError:
            pass
    return Plain(total)
