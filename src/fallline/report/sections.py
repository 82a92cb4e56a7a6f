"""The parts of the page, in order. Each takes its piece of `ReportData`, or None, and says what is missing."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fallline import charts as draw
from fallline.charts.picture import BLUE, GREY
from fallline.report import data as d
from fallline.report.html import card, charts, drawing, folded, missing, paragraph, section, table, text
from fallline.report.text import metric_name, metric_value

_MANY = 40  # longer tables fold


def hero(headline: d.Headline | None) -> str:
    """The first line: metric, interval, baseline, as words and on a scale."""
    if headline is None:
        return missing("No test metric: this run kept no rows aside as a test. What follows describes training only.")
    name, part = metric_name(headline.metric), headline.part
    value = metric_value(headline.metric, headline.value)
    rows = f" on {headline.rows:,} {part} rows" if headline.rows is not None else f" on {part} rows"
    span = ""
    if headline.low is not None and headline.high is not None:
        span = f"95 % interval {metric_value(headline.metric, headline.low)} to {metric_value(headline.metric, headline.high)}"
    return (
        f'<div class="hero"><div><p class="what">{text(part)} {text(name)}{text(rows.replace(f" {part}", "", 1))}</p><p class="value">{text(value)}</p>'
        f'{paragraph(span, "beside")}{_verdict(headline)}</div><div>{_scale(headline)}</div></div>'
    )


def _verdict(headline: d.Headline) -> str:
    """One sentence that compares with the baseline."""
    if headline.baseline is None or math.isnan(headline.baseline):
        return paragraph("No baseline was computed.", "beside soft")
    guess = headline.baseline_name or "a guess"
    name, base = headline.metric, headline.baseline
    up = headline.better == "higher"
    gain = (headline.value - base) * (1 if up else -1)
    near = headline.low if up else headline.high
    sure = near is not None and ((near - base) * (1 if up else -1) > 0)
    if not gain > 0:
        word, kind = "No better than the baseline", "bad"
    elif near is not None and not sure:
        word, kind = "Not clearly better than the baseline", "bad"
    else:
        word, kind = "Better than the baseline", "good"
    return f'<p class="beside"><b class="{kind}">{word}</b>: {text(guess)} gives {text(metric_value(name, base))}.</p>'


def _scale(headline: d.Headline) -> str:
    """The interval and the baseline on one line, drawn by hand."""
    spots = [v for v in (headline.value, headline.low, headline.high, headline.baseline) if v is not None and math.isfinite(v)]
    if len(spots) < 2:
        return ""
    low, high = (0.0, 1.0) if 0 <= min(spots) and max(spots) <= 1 and headline.better == "higher" else (min(0.0, *spots), max(spots) * 1.12)
    width = (high - low) or 1.0

    def at(v: float) -> float:
        return round(10 + 420 * (v - low) / width, 1)

    def words(v: float, y: int, label: str, kind: str) -> str:
        side = "start" if at(v) < 70 else "end" if at(v) > 370 else "middle"
        return f'<text x="{at(v)}" y="{y}" text-anchor="{side}" font-size="13" fill="currentColor" class="{kind}">{text(label)}</text>'

    marks = ['<line x1="10" x2="430" y1="45" y2="45" stroke="currentColor" stroke-opacity=".25" stroke-width="2"/>']
    if headline.baseline is not None and math.isfinite(headline.baseline):
        x = at(headline.baseline)
        marks.append(f'<line x1="{x}" x2="{x}" y1="33" y2="57" stroke="{GREY}" stroke-width="3"/>')
        marks.append(words(headline.baseline, 76, f"baseline {metric_value(headline.metric, headline.baseline)}", "soft"))
    if headline.low is not None and headline.high is not None:
        x, far = at(headline.low), max(at(headline.high), at(headline.low) + 2)
        marks.append(f'<line x1="{x}" x2="{far}" y1="45" y2="45" stroke="{BLUE}" stroke-opacity=".45" stroke-width="12" stroke-linecap="round"/>')
    if math.isfinite(headline.value):
        marks.append(f'<circle cx="{at(headline.value)}" cy="45" r="7" fill="{BLUE}"/>')
        marks.append(words(headline.value, 25, f"this model {metric_value(headline.metric, headline.value)}", ""))
    ends = f'<text x="10" y="98" font-size="11" fill="currentColor" opacity=".6">{text(metric_value(headline.metric, low))}</text>'
    ends += f'<text x="430" y="98" text-anchor="end" font-size="11" fill="currentColor" opacity=".6">{text(metric_value(headline.metric, high))}</text>'
    return f'<svg class="scale" viewBox="0 0 440 104" role="img" aria-label="the value, its interval and the baseline">{"".join(marks)}{ends}</svg>'


def decisions(
    lines: tuple[d.Decision, ...], test: d.RangeTest | None, *, tested: bool = True, decay: d.DecayPath | None = None, size: d.SizeChoice | None = None
) -> str:  # fmt: skip
    """What was decided and why, with a picture of each search (or without a word on them, where it is not `tested` for)."""
    if lines:
        told = [(text(x.what), f'{text(x.value)}<div class="soft small">{text(x.why)}</div>') for x in lines]
        body = card(table(("decided", "value, and why"), told, kind="decisions"))
    else:
        body = missing("The run's journal holds no decisions.")
    if not tested:
        return section("decisions", "What was decided, and why", "", body)
    pictures: list = []
    if decay is not None:
        pictures.append(partial(draw.decay_path, decay.values, decay.score, decay.error, chosen=decay.chosen))
    if size is not None:
        pictures.append(partial(draw.batch_size, size.sizes, chosen=size.chosen, steps=size.steps, seconds=size.seconds, noise=size.noise))
    if test is None:
        given = missing("No learning rate was searched: it was given.")
        return section("decisions", "What was decided, and why", "", charts(body, *pictures) if pictures else body, given)
    curve = partial(
        draw.range_test, test.lr, test.loss, test.smooth, chosen=test.chosen, low=test.low, high=test.high, diverged=test.diverged,
        probes=test.probes,
    )  # fmt: skip
    verdict = "" if any(x.why == test.verdict for x in lines) else paragraph(test.verdict, "soft small")
    return section("decisions", "What was decided, and why", "", charts(body, f"<div>{drawing(curve)}{verdict}</div>", *pictures))


def descent(found: d.Descent | None) -> str:
    """Learning rate and loss by step."""
    if found is None or not len(np.atleast_1d(found.loss)):
        return section("descent", "The descent", "", missing("No step was made, or no history was kept."))
    pictures = [partial(
        draw.loss_curves, found.step, found.loss, found.valid_step, found.valid, best_step=found.best_step,
        steps_per_epoch=found.steps_per_epoch, valid_name=found.valid_name,
    )]  # fmt: skip
    if found.lr is not None:
        pictures.append(partial(draw.lr_curve, found.step if found.lr_step is None else found.lr_step, found.lr, steps_per_epoch=found.steps_per_epoch))
    notes = [] if found.valid is not None and len(found.valid) else [missing("No validation rows: the curve is that of training alone, and no early stopping was possible.")]
    bad = int(np.sum(~np.isfinite(np.asarray(found.loss, dtype=np.float64))))
    if bad:
        notes.append(f'<p class="alert">{bad:,} of {len(found.loss):,} losses are not finite.</p>')
    law = card("<h3>The update law in use</h3>", f"<pre>{text(found.formula)}</pre>") if found.formula else ""
    count = f"{len(found.loss):,} updates" + (f", {found.steps_per_epoch:,} an epoch." if found.steps_per_epoch else ".")
    return section("descent", "The descent", count, charts(*pictures, law), *notes)


def results(found: d.Evaluation | None) -> str:
    """Metrics and pictures of the predictions."""
    if found is None:
        return section("results", "Predictions beside the truth", "", missing("No rows were evaluated, so there is nothing to show here."))
    if found.y_true is None:
        kept = missing("The predictions of these rows were not kept with the run, so their pictures are missing; predict again to have them.")
        return section("results", "Predictions beside the truth", f"{found.part} rows", charts(card(_metrics(found.metrics))), kept)
    body = _classification(found) if found.kind == "classification" else _regression(found)
    lead = f"{len(found.y_true):,} {found.part} rows" + ("; training, stopping and choosing never saw them." if found.part == "test" else ".")
    return section("results", "Predictions beside the truth", lead, body)


def _metrics(lines: tuple[d.MetricLine, ...]) -> str:
    if not lines:
        return ""

    def span(m: d.MetricLine) -> str:
        return f"{metric_value(m.name, m.low)} to {metric_value(m.name, m.high)}" if m.low is not None and m.high is not None else ""

    body = [(text(metric_name(m.name)), text(metric_value(m.name, m.value)), text(span(m)),
             text(metric_value(m.name, m.baseline)) if m.baseline is not None else "") for m in lines]  # fmt: skip
    keep = [0, 1, *([2] if any(row[2] for row in body) else []), *([3] if any(row[3] for row in body) else [])]
    head = ("metric", "value", "95 % interval", "baseline")
    return table([head[i] for i in keep], [[row[i] for i in keep] for row in body], numeric=range(1, len(keep)))


def _classification(found: d.Evaluation) -> str:
    truth, guess = np.asarray(found.y_true), np.asarray(found.y_pred)
    classes = tuple(found.classes) if found.classes is not None else tuple(np.unique(np.concatenate([truth, guess])).tolist())
    pictures = [partial(draw.confusion, truth, guess, classes)]
    notes = ""
    if found.proba is None:
        notes = missing("No probabilities: this loss gives scores only, so there is no precision-recall or calibration curve.")
    else:
        proba = np.asarray(found.proba, dtype=np.float64)
        if len(classes) == 2:
            p = proba if proba.ndim == 1 else proba[:, 1]
            hit = np.array([str(v) == str(classes[1]) for v in truth.tolist()])
            pictures += [partial(draw.pr, hit, p, positive=classes[1]), partial(draw.calibration, hit, p, positive=classes[1])]
        elif proba.ndim == 2:
            right = np.array([str(a) == str(b) for a, b in zip(truth.tolist(), guess.tolist(), strict=True)])
            pictures.append(partial(draw.calibration, right, proba.max(axis=1), positive="the chosen class"))
    each = _by_class(truth, guess, classes)
    few = len(classes) <= 12
    return charts(card(_metrics(found.metrics), each if few else ""), *pictures) + notes + ("" if few else card(folded(f"Each of the {len(classes):,} classes", each)))


def _by_class(truth: np.ndarray, guess: np.ndarray, classes: tuple) -> str:
    """Precision and recall of each class."""
    a, b = np.array([str(v) for v in truth.tolist()]), np.array([str(v) for v in guess.tolist()])
    lines = []
    for name in map(str, classes):
        rows, said, both = int(np.sum(a == name)), int(np.sum(b == name)), int(np.sum((a == name) & (b == name)))
        share = [f"{both / n:.1%}".replace("%", " %") if n else "none" for n in (said, rows)]
        lines.append((text(name), f"{rows:,}", *share))
    return "<h3>By class</h3>" + table(("class", "rows", "precision", "recall"), lines, numeric=(1, 2, 3))


def _regression(found: d.Evaluation) -> str:
    return charts(
        card(_metrics(found.metrics)),
        partial(draw.predicted, found.y_true, found.y_pred, name=found.target),
        partial(draw.residuals, found.y_true, found.y_pred, name=found.target),
    )


def coefficients(found: d.Coefficients | None) -> str:
    """The largest coefficients by name."""
    title = "Largest coefficients"
    if found is None:
        return section("coefficients", title, "", missing("This model has no coefficients with names."))
    values = np.asarray(found.values, dtype=np.float64)
    names = [str(n) for n in found.names]
    if values.ndim == 2:
        outputs = [str(c) for c in (found.outputs or range(values.shape[1]))]
        largest = np.argsort(-np.abs(values).ravel(), kind="stable")[:200]  # all of them would be a long list of labels
        where = [divmod(int(i), values.shape[1]) for i in largest]
        names, values = [f"{names[i]} → {outputs[j]}" for i, j in where], np.array([values[i, j] for i, j in where])
    lead = found.note or "Effect on the score of one unit of each input as the model sees it."
    return section("coefficients", title, lead, _signed(names, values, np.asarray(found.values, dtype=np.float64)))


def _signed(names: list[str], values: np.ndarray, every: np.ndarray) -> str:
    """Those above zero beside those below."""
    pictures: list = []
    for sign, word in ((1, "Raises the prediction most"), (-1, "Lowers the prediction most")):
        some = np.flatnonzero(sign * values > 0)
        if len(some):
            top = some[np.argmax(np.abs(values[some]))]
            count = int(np.sum(sign * every > 0))
            pictures.append(partial(draw.coefficients, [names[i] for i in some], values[some], most=12, count=count, title=f"{word}: {names[top]}"))
    return charts(*pictures) if pictures else missing("All coefficients are zero or not finite.")


def summary(found: d.DataSummary | None) -> str:
    """Where each row and each column went, and everything remarked about them."""
    title = "The data"
    if found is None:
        return section("data", title, "", missing("Training was on arrays, not on a table: there are no columns or rows to account for."))
    rows = table(("rows", "count"), [(text(w), f"{n:,}") for w, n in found.rows], numeric=(1,)) if found.rows else ""
    columns = table(
        ("column", "type", "used as", "remarks"), [(text(c.name), text(c.type), text(c.treatment), text(c.note)) for c in found.columns], kind="stack",
    )  # fmt: skip
    if len(found.columns) > _MANY:
        columns = folded(f"All {len(found.columns):,} columns", columns)
    elif not found.columns:
        columns = ""
    reports = "<h3>Reported</h3><ul>" + "".join(f"<li>{text(r)}</li>" for r in found.reports) + "</ul>" if found.reports else paragraph("Nothing was set aside or changed without saying: there is nothing to report.", "soft small")
    kinds = f"<h3>Columns ({len(found.columns):,})</h3>" if found.columns else ""
    return section("data", title, found.source, charts(card(rows), card(reports)), f'<div class="below">{card(kinds, columns)}</div>' if columns else "")


def repeat(command: str, versions: dict[str, str], notes: tuple[str, ...]) -> str:
    """How to get the same again."""
    body = f"<pre>{text(command)}</pre>" if command else missing("The command is not known: this run was made from Python and kept no call.")
    lines = ", ".join(f"{k} {v}" for k, v in versions.items())
    told = "<h3>Notes</h3><ul>" + "".join(f"<li>{text(n)}</li>" for n in notes) + "</ul>" if notes else ""
    return section("repeat", "To repeat it", "", body, paragraph(lines, "soft small") or missing("The versions were not recorded."), told)


