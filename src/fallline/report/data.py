"""What a report shows, as plain frozen values: no run, no problem, no table behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Headline:
    """The first line: one metric on rows that neither training nor choosing saw, beside what guessing gives.

    Args:
        metric: its name, "accuracy".
        value: the value; low, high: its 95 % interval, or None.
        baseline: the same metric of the guess that needs no model, or None; baseline_name says which guess.
        better: "higher" or "lower".
        part: which rows; rows: how many.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    baseline_name: str = ""
    better: str = "higher"
    part: str = "test"
    rows: int | None = None


@dataclass(frozen=True)
class Decision:
    """One line of the journal: what was decided, the value, and why."""

    what: str
    value: str
    why: str = ""


@dataclass(frozen=True, eq=False)
class RangeTest:
    """A learning-rate range test: arrays (n,) of rates and losses, what was read off them, and probes as (updates, rates, scores)."""

    lr: Any
    loss: Any
    smooth: Any = None
    chosen: float | None = None
    low: float | None = None
    high: float | None = None
    diverged: float | None = None
    verdict: str = ""
    probes: tuple[tuple[int, Any, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class DecayPath:
    """Weight decays tried, (k,) each: the loss on rows that no run saw, standard errors of the difference to the best; the choice, or None."""

    values: Any
    score: Any
    error: Any = None
    chosen: float | None = None


@dataclass(frozen=True, eq=False)
class SizeChoice:
    """Batch sizes considered, (n,), the updates and seconds predicted for each or None, and the noise scale: loss, scale, low, high, (m,) each."""

    sizes: Any
    chosen: int
    steps: Any
    seconds: Any = None
    noise: tuple[Any, Any, Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class Descent:
    """What happened by step: (T,) steps and losses; (L,) learning rates; (E,) evaluations on validation rows.

    `lr_step` are the steps of `lr`, where they are not those of the loss. `valid_name` says what `valid` holds.
    """

    step: Any
    loss: Any
    lr: Any = None
    valid_step: Any = None
    valid: Any = None
    valid_name: str = "validation loss"
    best_step: float | None = None
    steps_per_epoch: int | None = None
    formula: str = ""
    lr_step: Any = None


@dataclass(frozen=True)
class MetricLine:
    """A metric with its 95 % interval and the baseline's value, where there are any."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    baseline: float | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions beside the truth.

    Args:
        kind: "classification" or "regression".
        y_true, y_pred: (n,) labels or values; None where only the metrics were kept.
        proba: (n, classes) probabilities, or (n,) of the second class, or None.
        classes: labels in the order of the columns of `proba`.
        metrics: values already computed.
        part: which rows; target: the name of what is predicted.
    """

    kind: str
    y_true: Any = None
    y_pred: Any = None
    proba: Any = None
    classes: tuple | None = None
    metrics: tuple[MetricLine, ...] = ()
    part: str = "test"
    target: str = "target"


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients (features,) or (features, outputs) with the features' names."""

    names: tuple[str, ...]
    values: Any
    outputs: tuple | None = None
    note: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the user's table: its type, what was made of it, and why."""

    name: str
    type: str
    treatment: str
    note: str = ""


@dataclass(frozen=True)
class DataSummary:
    """The user's table: where it came from, where its rows went, its columns, and everything that was remarked."""

    source: str = ""
    rows: tuple[tuple[str, int], ...] = ()
    columns: tuple[Column, ...] = ()
    reports: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ReportData:
    """All that a report shows; what is None or empty is said to be missing.

    Args:
        title: what was learnt from what.
        outcome: how the run ended, in a sentence.
        failed: whether that end needs the reader's attention (diverged, interrupted).
        command: what to type to repeat it; versions: package -> version.
        notes: further sentences.
        created: date and time in words.
        rough: the run is under way: curves as text, in no time, and nothing of what only an end can show.
    """

    title: str
    outcome: str = ""
    failed: bool = False
    headline: Headline | None = None
    decisions: tuple[Decision, ...] = ()
    range_test: RangeTest | None = None
    weight_decay: DecayPath | None = None
    batch_size: SizeChoice | None = None
    descent: Descent | None = None
    evaluation: Evaluation | None = None
    coefficients: Coefficients | None = None
    data: DataSummary | None = None
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    created: str = ""
    rough: bool = False
