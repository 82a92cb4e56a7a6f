"""The page of a comparison: the table, the curves with a switch of their axis, the settings. No script, no request."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fallline.charts.compare import AXES, comparison
from fallline.charts.marks import short
from fallline.charts.picture import SERIES
from fallline.errors import FalllineError
from fallline.report.html import card, drawing, folded, missing, paragraph, section, table, text
from fallline.report.style import STYLE
from fallline.report.text import metric_name, metric_value

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
SWITCH = """
.switch{border:0;margin:0;padding:0;min-width:0}.switch legend{float:left;padding:0 10px 0 0;color:var(--soft);font-size:.9rem;line-height:34px}
.switch>input{position:absolute;opacity:0;pointer-events:none}
.switch>label{display:inline-block;border:1px solid var(--line);background:var(--card);border-radius:8px;padding:4px 13px;margin:0 6px 10px 0;cursor:pointer;font-size:.9rem}
.switch>input:checked+label{border-color:var(--accent);color:var(--accent);font-weight:600}
.switch>input:focus-visible+label{outline:2px solid var(--accent);outline-offset:2px}
.pane{display:none;clear:both}
.wide figure svg{max-width:780px!important}
.tight{font-size:.9rem}.tight th,.tight td{padding-right:0;padding-left:12px}.tight th.n{white-space:normal}.tight th:first-child,.tight td:first-child{padding-left:0;white-space:nowrap}
.dot{display:inline-block;width:.72em;height:.72em;border-radius:50%;margin-right:.5em}
.lost{color:var(--bad);font-weight:600}.best{color:var(--good);font-weight:600}
.caption{color:var(--soft);max-width:85ch}
"""


def comparison_page(found: Any, path: str | os.PathLike, *, command: str = "", created: str = "") -> Path:
    """Write the page of a Comparison as one HTML file and return its path.

    Args:
        found: a `fallline.Comparison`.
        path: the file to write; it is replaced as a whole.
        command: what to type to have it again.
        created: date and time in words.
    """
    parts = [
        section("result", "The result", _lead(found), _table(found), *_notes(found)),
        section("curves", "The descents", "", _curves(found)),
        _ravine(found),
        section("settings", "What was compared", "", _settings(found)),
        section("repeat", "To repeat it", "", f"<pre>{text(command)}</pre>" if command else missing("This comparison was made from Python and kept no call."),
                paragraph("Same variants, data and seeds give the same losses to the bit; seconds are those of one machine and one day.", "soft small")),
    ]  # fmt: skip
    return write(path, shell(found.title, "".join(parts), head=f"{_name(found)}: {len(found.variants)} variants", created=created, style=SWITCH))


def shell(title: str, body: str, *, head: str, created: str = "", style: str = "", policy: str = POLICY, script: str = "") -> str:
    """The frame of a page: head, style, heading, footer."""
    runs = "runs no script" if not script else "asks nothing of any network"
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}"><meta name="generator" content="fallline">'
        f"<title>{text(head)}</title><style>{STYLE}{style}</style></head><body><main>"
        f'<div class="top"><span class="soft">{text(head)}</span><span class="soft small">{text(created)}</span></div>'
        f'<h1 class="finding" style="font-size:1.55rem;margin:10px 0 0;max-width:40em">{text(title)}</h1>{body}'
        f"<footer>Made by fallline. This file is complete: it opens without a network and {runs}.</footer></main>{script}</body></html>"
    )


def write(path: str | os.PathLike, page: str) -> Path:
    """Write a page so that a reader never sees half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(page, encoding="utf-8")
    os.replace(part, path)
    return path


def switched(name: str, legend: str, panes: Sequence[tuple[str, str]]) -> str:
    """Several panes of which the reader chooses one: radio buttons and a style, no script."""
    style, inputs, bodies = "", "", ""
    for i, (label, body) in enumerate(panes):
        mark = f"{name}-{i}"
        style += f"#{mark}:checked~.{mark}{{display:block}}"
        inputs += f'<input type="radio" name="{name}" id="{mark}"{" checked" if i == 0 else ""}><label for="{mark}">{text(label)}</label>'
        bodies += f'<div class="pane {mark}">{body}</div>'
    return f'<style>{style}</style><fieldset class="switch wide"><legend>{text(legend)}</legend>{inputs}{bodies}</fieldset>'


def dot(i: int) -> str:
    """A spot in the colour that a variant has in the drawings."""
    return f'<span class="dot" style="background:{SERIES[i % len(SERIES)]}"></span>'


def _name(found: Any) -> str:
    rows = f", {found.problem.rows:,} rows" if found.data else ""
    return f"{found.problem.name}{rows}"


def _lead(found: Any) -> str:
    if found.target is None:
        return found.caption
    return f"{found.caption} {short(found.target)} is the lowest loss that every variant reached whose loss fell; the last columns say where it was first measured."


def _table(found: Any) -> str:
    """The table, with the colours of the drawing, the best line marked and lost ones too."""
    shown = found.table.shown()
    best = min((v.final for v in found.variants if math.isfinite(v.final)), default=math.nan)
    place = {name: i for i, name in enumerate(v.name for v in found.variants if v.curve is not None)}
    lines = []
    for i, v in enumerate(found.variants):
        cells = [text(column[i]) for column in shown.values()]
        cells[0] = f"{dot(place[v.name]) if v.name in place else ''}<b>{cells[0]}</b>"
        kind = "best" if v.final == best else "lost" if not math.isfinite(v.final) else ""
        cells[1] = f'<span class="{kind}">{cells[1]}</span>' if kind else cells[1]
        if "held out loss" in shown and found.metric is not None and v.score is not None:
            at = list(shown).index("held out loss") + 1
            cells[at] = text(metric_value(found.metric.name, v.score))
        lines.append(cells)
    heads = [metric_name(found.metric.name) if found.metric is not None and h == found.metric.name.replace("_", " ") else h for h in shown]
    heads, lines = heads[:-1], [line[:-1] for line in lines]  # where the lr comes from stands below, with the rest of the settings
    numeric = tuple(i for i, h in enumerate(shown) if h not in ("variant", "lr from"))
    return card(table([h.replace("held out", "held-out") for h in heads], lines, kind="tight", numeric=numeric))


def _notes(found: Any) -> list[str]:
    return [f'<p class="alert"><b>{text(v.name)}</b>: {text(v.note)}</p>' for v in found.variants if v.note]


def _curves(found: Any) -> str:
    """The loss by rows read, by updates and by seconds; of the held-out rows too where there are any."""
    data = found.data
    panes = []
    for valid in (False, *((True,) if found.metric is not None else ())):
        what = found.measured if not valid else "held-out loss"
        for across, words in AXES.items():
            if across == "rows" and not data:
                continue
            label = words if not valid else f"{what} by {words}"

            def draw(across: str = across, valid: bool = valid, what: str = what) -> Any:
                return comparison(found.lanes(valid=valid), across=across, data=data, what=what, title=f"{what[0].upper()}{what[1:]} by {AXES[across]}", width=560)

            panes.append((label, drawing(draw)))
    return switched("axis", "across:", panes)


def _ravine(found: Any) -> str:
    if not found.paths:
        return ""
    try:
        from fallline.charts.ravine import ravine

        shown = lambda: ravine(found.paths, found.problem.loss, minimum=found.lowest, title="Each path over the same contours")
        return section("paths", "The paths", "", f'<div class="wide">{drawing(shown)}</div>')
    except FalllineError as error:
        return section("paths", "The paths", "", missing(str(error)))


def _settings(found: Any) -> str:
    """Each variant's batches, length, law and seeds."""
    lines = []
    for i, v in enumerate(found.variants):
        law = ""
        if v.lr is not None:
            law = f"<pre>{text(v.plan.optimizer.formula())}</pre>"
        batches = "all rows in every update" if v.plan.batch_size.is_full else f"{v.plan.batch_size.size} row{'s' if v.plan.batch_size.size != 1 else ''} an update"
        per = f" ({v.plan.epochs:g} epochs)" if found.data and v.plan.epochs is not None else ""
        seeds = f"seeds {v.runs[0].plan.seed} to {v.runs[-1].plan.seed}" if len(v.runs) > 1 else "one seed" if v.runs else "no run"
        told = f'{text(batches)}; {v.plan.steps:,} updates{text(per)}; {text(seeds)}<div class="soft small">lr {text(v.lr_source)}</div>'
        lines.append((f"{dot(i)}{text(v.name)}", told, folded("its law", law) if law else ""))
    return card(table(("variant", "how", ""), lines, kind="stack"))


__all__ = ["comparison_page", "dot", "shell", "switched", "write"]
