"""The cells of the study: a data set, a model, batches, a rule and a length each.

Constants of the finder were set on the even cells (TUNED) alone; the odd ones show how well they carry over.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import fallline as fl

SEEDS = (0, 1, 2)
SCHEDULE = "warmup(5%) > linear(to=0)"


@dataclass(frozen=True)
class Cell:
    """One training problem.

    Args:
        data: a key of `DATA`.
        model: see `models.build`; "linear" runs as a linear problem, the others as modules.
        batch: rows of a batch, 0 for all.
        rule: "sgd", "momentum", "nesterov" or "adamw".
        epochs: passes over the training rows.
        schedule: of the learning rate.
        decay: weight decay.
    """

    name: str
    data: str
    model: str
    batch: int
    rule: str
    epochs: float
    schedule: str = SCHEDULE
    decay: float = 1e-4


CELLS = (
    Cell("digits-linear-32", "digits", "linear", 32, "momentum", 15),
    Cell("cancer-linear-16", "cancer", "linear", 16, "sgd", 20),
    Cell("diabetes-linear-1", "diabetes", "linear", 1, "sgd", 8),
    Cell("digits-mlp-32-nesterov", "digits", "mlp:64", 32, "nesterov", 15),
    Cell("fashion-mlp-128-adamw", "fashion", "mlp:100", 128, "adamw", 20, decay=1e-2),
    Cell("fashion-linear-64", "fashion", "linear", 64, "momentum", 12),
    Cell("cancer-raw-linear-32", "cancer-raw", "linear", 32, "momentum", 40),
    Cell("diabetes-ill-full", "diabetes-ill", "linear", 0, "momentum", 400),
    Cell("digits-noisy-mlp-64", "digits-noisy", "mlp:128", 64, "momentum", 40),
    Cell("cancer-tiny-mlp-8-adamw", "cancer-tiny", "mlp:32", 8, "adamw", 60, decay=1e-2),
    Cell("fashion-cnn-64", "fashion-small", "cnn", 64, "momentum", 20),
    Cell("fashion-tuned-mlp-16", "fashion-shifted", "mlp:100", 16, "momentum", 12),
    Cell("digits-deep-512", "digits", "deep:64", 512, "nesterov", 150, "warmup(5%) > cosine(to=0)"),
    Cell("digits-linear-1", "digits", "linear", 1, "sgd", 3),
    Cell("diabetes-heavy-linear-16-adamw", "diabetes-heavy", "linear", 16, "adamw", 30, "constant()", decay=1e-2),
    Cell("digits-dropout-32-adamw", "digits", "dropout:64", 32, "adamw", 15, "one_cycle()", decay=1e-2),
)  # fmt: skip
TUNED = tuple(c.name for c in CELLS[::2])
TINY = ("cancer-linear-16", "cancer-tiny-mlp-8-adamw")


@dataclass(frozen=True)
class Data:
    """Rows to train on and rows to validate on, float32; `start` is a pretrained state, or None."""

    X: np.ndarray
    y: np.ndarray
    X_valid: np.ndarray
    y_valid: np.ndarray
    task: str
    start: dict[str, Any] | None = None

    @property
    def outputs(self) -> int:
        return int(max(self.y.max(), self.y_valid.max())) + 1 if self.task == "classes" else 1


def _split(X: np.ndarray, y: np.ndarray, train: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    order = np.random.default_rng(seed).permutation(len(X))
    a, b = order[:train], order[train:]
    return X[a], y[a], X[b], y[b]


def _standard(X: np.ndarray, y: np.ndarray, V: np.ndarray, v: np.ndarray, task: str) -> Data:
    mean, scale = X.mean(axis=0), X.std(axis=0)
    scale = np.where(scale > 1e-12, scale, 1.0)
    if task == "numbers":
        y, v = (y - (m := y.mean())) / (s := y.std()), (v - m) / s
    kind = np.int64 if task == "classes" else np.float32
    return Data(((X - mean) / scale).astype(np.float32), y.astype(kind), ((V - mean) / scale).astype(np.float32), v.astype(kind), task)


def _sklearn(name: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn import datasets

    return getattr(datasets, f"load_{name}")(return_X_y=True)


@cache
def _fashion() -> tuple[np.ndarray, np.ndarray]:
    from fallline.tables import builtin

    table = builtin.builtin("fashion-mnist")[0].table.slice(0, 14000)
    y = table.column("target").to_numpy().astype(np.int64)
    return np.stack([table.column(n).to_numpy() for n in table.column_names if n != "target"], axis=1) / 255.0, y


@cache
def load(name: str) -> Data:
    """A data set of the study."""
    if name == "digits":
        return _standard(*_split(*_sklearn("digits"), 1200), "classes")
    if name == "digits-noisy":
        X, y, V, v = _split(*_sklearn("digits"), 1000)
        rng = np.random.default_rng(1)
        wrong = rng.random(len(y)) < 0.3
        return _standard(X, np.where(wrong, rng.integers(0, 10, len(y)), y), V, v, "classes")
    if name == "cancer":
        return _standard(*_split(*_sklearn("breast_cancer"), 400), "classes")
    if name == "cancer-tiny":
        return _standard(*_split(*_sklearn("breast_cancer"), 60), "classes")
    if name == "cancer-raw":
        X, y, V, v = _split(*_sklearn("breast_cancer"), 400)
        return Data(X.astype(np.float32), y, V.astype(np.float32), v, "classes")
    if name == "diabetes":
        return _standard(*_split(*_sklearn("diabetes"), 310), "numbers")
    if name in ("diabetes-ill", "diabetes-heavy"):
        made = _standard(*_split(*_sklearn("diabetes"), 310), "numbers")
        scale = 10 ** np.random.default_rng(2).uniform(-1, 1, made.X.shape[1]).astype(np.float32)
        change = (lambda X: X * scale) if name == "diabetes-ill" else (lambda X: np.sign(X) * np.expm1(1.5 * np.abs(X)))
        return Data(change(made.X), made.y, change(made.X_valid), made.y_valid, "numbers")
    return _of_fashion(name)


def _of_fashion(name: str) -> Data:
    X, y = _fashion()
    if name == "fashion":
        return _standard(X[:4000], y[:4000], X[4000:6000], y[4000:6000], "classes")
    if name == "fashion-small":
        return Data(X[:1500].astype(np.float32), y[:1500], X[4000:6000].astype(np.float32), y[4000:6000], "classes")
    before = _standard(X[6000:14000], y[6000:14000], X[4000:6000], y[4000:6000], "classes")
    images = np.roll(before.X_valid.reshape(-1, 28, 28)[:, :, ::-1], 3, axis=1).reshape(-1, 784)
    return Data(images[:600].copy(), before.y_valid[:600], images[600:].copy(), before.y_valid[600:], "classes", start=_pretrained(before))


def _pretrained(data: Data) -> dict[str, Any]:
    import torch

    from benchmarks.advice import models

    model = models.build("mlp:100", 784, 10, 7)
    problem = fl.torch.problem(model, models.loss_of("classes"), (torch.from_numpy(data.X), torch.from_numpy(data.y)))
    fl.train(problem, fl.Plan(problem, epochs=6, batch_size=64, optimizer=fl.SGD(lr=0.02, momentum=0.9, schedule=SCHEDULE)), progress=False)
    return {k: v.clone() for k, v in model.state_dict().items()}


def rule_of(cell: Cell, lr: Any = fl.auto) -> Any:
    """The cell's optimizer."""
    shape = None if cell.schedule == "constant()" else cell.schedule
    if cell.rule == "adamw":
        return fl.AdamW(lr=lr, weight_decay=cell.decay, schedule=shape)
    return fl.SGD(lr=lr, momentum=0.0 if cell.rule == "sgd" else 0.9, nesterov=cell.rule == "nesterov", weight_decay=cell.decay, schedule=shape)


def plan_of(cell: Cell, problem: Any, seed: int) -> Any:
    """The cell's plan, its learning rate open."""
    batches = fl.Batches.full() if cell.batch == 0 else cell.batch
    return fl.Plan(problem, epochs=cell.epochs, batch_size=batches, optimizer=rule_of(cell), seed=seed)


def problem_of(cell: Cell, seed: int) -> tuple[Any, Any]:
    """The cell's problem and its validation rows as a problem; a module's weights are a function of the seed."""
    data = load(cell.data)
    if cell.model == "linear":
        make = fl.least_squares if data.task == "numbers" else fl.softmax if data.outputs > 2 else fl.logistic
        problem = make(data.X, data.y)
        return problem, problem.on(data.X_valid, data.y_valid)
    import torch

    model = module_of(cell, seed)
    from benchmarks.advice import models

    problem = fl.torch.problem(model, models.loss_of(data.task), (torch.from_numpy(data.X), torch.from_numpy(data.y)))
    return problem, problem.held_out((torch.from_numpy(data.X_valid), torch.from_numpy(data.y_valid)))


def module_of(cell: Cell, seed: int) -> Any:
    """The cell's model in PyTorch, also of a linear one."""
    from benchmarks.advice import models

    data = load(cell.data)
    outputs = data.outputs if data.task == "classes" else 1
    model = models.build(cell.model, data.X.shape[1], outputs, seed)
    if data.start is not None:
        model.load_state_dict(data.start)
    return model
