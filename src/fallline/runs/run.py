"""`Run`: what training leaves behind, and how it is saved, loaded, asked and shown."""

from __future__ import annotations

import html
import importlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fallline import run_folder
from fallline.advice.found import Curve, Found
from fallline.advice.probe import Rung
from fallline.errors import FalllineError, InvalidValue, RunDamaged, UnknownName
from fallline.history import History, Outcome
from fallline.metrics import Metric, metric
from fallline.plan import Plan
from fallline.problems import LinearModel
from fallline.problems.network import NetworkModel
from fallline.tensors import unpacked

Weights = dict[str, np.ndarray]
DOCUMENTS = ("plan.json", "run.json", "model.json", "history.jsonl")
TENSORS = ("model.safetensors", "history.safetensors")


class Reader(Protocol):
    """What turns a user's table into rows, and predictions back into the user's terms; saved with the run."""

    def rows(self, data: Any) -> Any: ...

    def decode(self, prediction: np.ndarray) -> np.ndarray: ...

    def to_json(self) -> dict[str, Any]: ...

    def arrays(self) -> dict[str, np.ndarray]: ...


@dataclass(repr=False)
class Run:
    """A run: the plan, the weights, and everything that was decided and measured.

    Attributes:
        plan: what was carried out; the last one, where the plan was replaced on the way.
        plans: the journal of plans, ((0, plan), ...): `train(problem, run.plans)` carries the run out again, bit for bit.
        model: the linear model or network without its data, the trained `nn.Module` of a problem of your own, or None for a function.
        weights: the last weights: coef (features,) or (features, outputs), intercept () or (outputs,).
        best: those of the best validation loss, or None without validation.
        averaged: the running average, or None where averaging is off.
        history: losses, evaluations, journal.
        outcome, reason: how it ended.
        summary: what `fit` measured and decided, plain values.
        reader: how a user's table becomes rows, or None for plain arrays.
        found: what `find_lr` found, where the learning rate was left to it.
        id: the identity that its checkpoints carry, where it has any.
    """

    plan: Plan
    model: Any
    weights: Weights
    best: Weights | None
    averaged: Weights | None
    history: History
    outcome: Outcome
    reason: str
    problem_fingerprint: str
    problem: Any = None
    summary: dict[str, Any] = field(default_factory=dict)
    reader: Reader | None = None
    found: Any = None
    plans: tuple[tuple[int, Plan], ...] = ()
    id: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions())

    def __post_init__(self) -> None:
        self.plans = tuple(self.plans) or ((0, self.plan),)

    @property
    def used(self) -> str:
        """Which weights `predict` uses: "best", else "averaged", else "last"."""
        return "best" if self.best is not None else "averaged" if self.averaged is not None else "last"

    @property
    def answer(self) -> Weights:
        """The weights that `predict` uses."""
        chosen = {"best": self.best, "averaged": self.averaged, "last": self.weights}[self.used]
        assert chosen is not None
        return chosen

    def predict(self, X: Any) -> np.ndarray:
        """Labels or numbers, one for each row: X as it was given to training (an array, a frame, or a file's path).

        Of a module, its outputs with the weights that `used` names; the module itself is left as it is.

        Raises:
            InvalidValue: the wrong number of features, or a run of a function.
        """
        if self.model is not None and not _of_rows(self.model):
            return importlib.import_module("fallline.torch.predicting").outputs(self.model, self.answer, X)
        prediction = self._model().predict(self.answer, self._rows(X))
        return prediction if self.reader is None else self.reader.decode(prediction)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class, [rows, classes]."""
        return self._model().predict_proba(self.answer, self._rows(X))

    def score(self, X: Any, y: Any, measure: str | Metric | None = None) -> float:
        """A metric on other rows: accuracy for classes and r2 for numbers, or the one that is named.

        Args:
            X: as in `predict`.
            y: [rows] true labels or numbers, in the user's terms.
            measure: a metric or its name.
        """
        model = self._model()
        which = metric(measure or ("r2" if model.classes is None else "accuracy"))
        if which.needs != "probabilities":
            return which(y, self.predict(X))
        assert model.classes is not None
        labels = np.asarray(y)
        unknown = ~np.isin(labels, model.classes)
        if unknown.any():
            raise UnknownName.among("label", str(labels[unknown][0]), model.classes.tolist())
        return which(np.searchsorted(model.classes, labels), self.predict_proba(X))  # classes are sorted

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Every decision: what, value, why."""
        return self.history.journal

    def _model(self) -> LinearModel | NetworkModel:
        if self.model is None:
            raise InvalidValue("this run is of a function, or of a module that it was loaded without (fl.load(folder, model=module)): there is nothing to predict with; see run.weights")
        if not _of_rows(self.model):
            raise InvalidValue(f"this run is of a {type(self.model).__name__}: use predict(X), which gives its outputs")
        return self.model

    def _rows(self, X: Any) -> Any:
        return X if self.reader is None else self.reader.rows(X)

    def save(self, folder: str | Path) -> Path:
        """Save the run to a new folder; `fallline.load` brings it back.

        Raises:
            RunExists: the folder holds something already.
        """
        path = run_folder.fresh(folder)
        run_folder.write(path, *self.contents())
        return path

    def contents(self) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
        """What a run folder holds: documents and tensors by file name."""
        documents: dict[str, Any] = {
            "plan.json": self.plan.to_json(),
            "model.json": {
                "model": self.model.to_json() if isinstance(self.model, LinearModel) else None,
                "network": self.model.to_json() if isinstance(self.model, NetworkModel) else None,
                "module": _module_name(self.model),
                "reader": None if self.reader is None else self.reader.to_json(),
            },
            "history.jsonl": self.history.lines(),
            "run.json": {
                "status": self.outcome.name,
                "run": self.id,
                "reason": self.reason,
                "problem": self.problem_fingerprint,
                "plans": [[step, plan.to_json()] for step, plan in self.plans],
                "summary": self.summary,
                "found": None if self.found is None else found_to_json(self.found),
                "versions": self.versions,
            },
        }
        weights = {f"{which}.{k}": v for which in ("weights", "best", "averaged") for k, v in (getattr(self, which) or {}).items()}
        past = {"loss": self.history.loss if self.history.failed is None else self.history.loss[:-1]}
        if self.history.failed is not None:
            past["failed"] = np.array(self.history.failed)
        past |= {f"undone.{i}.{step}": losses for i, (step, losses) in enumerate(self.history.undone)}
        arrays = {"model.safetensors": weights, "history.safetensors": past}
        if self.history.path is not None:
            arrays["history.safetensors"]["path"] = self.history.path
        if self.reader is not None:
            arrays["reader.safetensors"] = self.reader.arrays()
        return documents, arrays

    def plot(self) -> Any:
        """The loss over the updates, with validation where there was any."""
        from fallline import charts

        loss = self.history.loss
        marks = [e for e in self.history.evaluations if "valid_loss" in e]
        best = next((e["value"] for e in self.history.journal if e["what"] == "best"), None)
        return charts.loss_curves(
            np.arange(len(loss)), loss, np.array([e["step"] for e in marks]), np.array([e["valid_loss"] for e in marks]),
            best_step=best, steps_per_epoch=self.plan.steps_per_epoch, went_back=[step for step, _ in self.history.undone],
        )  # fmt: skip

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file."""
        return importlib.import_module("fallline.report").page(self, path)

    def export(self, path: str | Path) -> Any:
        """Write the model as an ONNX file: raw columns in, encoders inside, predictions (and probabilities) out.

        Args:
            path: FILE.onnx.

        Returns:
            Checked: how far the file agrees with this run, by onnxruntime where that is installed.

        Raises:
            InvalidValue: a model or a column that ONNX has no words for, by name; nothing is written.
            MissingExtra: the package onnx is not installed.
        """
        return importlib.import_module("fallline.export").export(self, path)

    def __repr__(self) -> str:
        loss = self.history.loss
        last = f", loss={loss[-1]:.4g}" if len(loss) else ""
        return f"Run(outcome={self.outcome.name}, updates={self.history.steps}{last}, used={self.used!r})"

    def _repr_html_(self) -> str:
        rows = {"outcome": f"{self.outcome.name}: {self.reason}", "updates": f"{self.history.steps:,}", "optimizer": repr(self.plan.optimizer)}
        if self.history.evaluations:
            rows |= {k.replace("_", " "): f"{v:.5g}" for k, v in self.history.evaluations[-1].items() if isinstance(v, float)}
        cells = "".join(f"<tr><th style='text-align:left'>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
        try:
            picture = self.plot()._repr_html_()
        except ImportError:
            picture = ""
        return f"<table>{cells}</table>{picture}"


def versions() -> dict[str, str]:
    """Versions that a repetition needs."""
    from importlib.metadata import PackageNotFoundError, version

    out = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("fallline", "numpy", "scipy", "numba"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out


def load(folder: str | Path, model: Any = None) -> Run:
    """Load a run that was saved; everything is verified first.

    Args:
        folder: where it was saved.
        model: for a run of an `nn.Module`, one of the same make: files hold its weights, never its code. For a table's network,
            in place of what its run says: "package.module:factory", the factory, or a module.

    Raises:
        RunUnfinished: the run is under way or was killed; the message says how far it came.
        InvalidValue: no run there, a newer format, or a module whose names or shapes are not the run's.
        RunDamaged: a file is missing, was changed, or is none of ours.
    """
    files = run_folder.read(folder)
    for name in (*DOCUMENTS, *TENSORS):
        if name not in files:
            raise RunDamaged(f"{Path(folder) / run_folder.MANIFEST} does not list {name}: restore the folder from a copy, or run again")
    try:
        run = _run_of(files, model, folder)
    except FalllineError:
        raise
    except Exception as error:  # every hash is right and the contents are not ours: from a stranger, or from another version
        raise RunDamaged(f"{folder} does not hold a run as fallline writes it ({type(error).__name__}: {str(error)[:200]})") from None
    if isinstance(run.model, NetworkModel) and run.model.typed:  # the user's own code: its errors are his
        _fitting(run.model.module, run.weights)
    return run


def _run_of(files: Mapping[str, bytes], module: Any, folder: str | Path) -> Run:
    """The run that verified files describe."""
    documents = {name: json.loads(files[name]) for name in DOCUMENTS if name.endswith(".json")}
    about, saved = documents["run.json"], documents["model.json"]
    if module is not None and not saved.get("module") and not saved.get("network"):
        raise InvalidValue(f"model= is for runs of an nn.Module, and {folder} holds another: leave it out")
    tensors = unpacked(files["model.safetensors"])
    past = unpacked(files["history.safetensors"])
    history = History([past["loss"]], path=past.get("path"), failed=float(past["failed"]) if "failed" in past else None)
    parts = sorted(((*map(int, name.split(".")[1:]), losses) for name, losses in past.items() if name.startswith("undone.")), key=lambda part: part[0])
    history.undone = [(step, losses) for _, step, losses in parts]
    for line in files["history.jsonl"].decode().splitlines():
        entry = json.loads(line)
        (history.journal if entry.pop("kind") == "decision" else history.evaluations).append(entry)
    arrays = unpacked(files["reader.safetensors"]) if "reader.safetensors" in files else {}
    return Run(
        plan=Plan.from_json(documents["plan.json"]),
        plans=tuple((int(step), Plan.from_json(plan)) for step, plan in about.get("plans", ())),
        model=_model_of(saved, module, tensors),
        weights=_weights(tensors, "weights") or {},
        best=_weights(tensors, "best"),
        averaged=_weights(tensors, "averaged"),
        history=history,
        outcome=Outcome[about["status"]],
        reason=about["reason"],
        problem_fingerprint=about["problem"],
        summary=about["summary"],
        versions=about["versions"],
        id=about.get("run"),
        found=None if about["found"] is None else found_from_json(about["found"]),
        reader=None if saved["reader"] is None else _reader(saved["reader"], arrays),
    )


def found_to_json(found: Found) -> dict[str, Any]:
    """What a search found, as plain values."""
    curve = found.curve
    return {
        "lr": found.rate, "interval": found.interval, "verdict": found.verdict, "cost": found.cost, "share": found.share, "edge": found.edge,
        "flat": found.flat, "first": found.first,
        "curve": {"lr": curve.lr.tolist(), "loss": curve.loss.tolist(), "smooth": curve.smooth.tolist()},
        "rungs": [{"steps": r.steps, "lr": r.lr.tolist(), "score": r.score.tolist(), "folds": r.folds.tolist()} for r in found.rungs],
    }  # fmt: skip


def found_from_json(data: Mapping[str, Any]) -> Found:
    """What `found_to_json` wrote; a number that is not finite comes by its name. Older files hold no probes."""

    def number(name: str) -> float | None:
        return None if data.get(name) is None else float(data[name])

    def pair(name: str) -> tuple[float, float] | None:
        return None if data.get(name) is None else (float(data[name][0]), float(data[name][1]))

    curve = Curve(*(np.array([float(v) for v in data["curve"][part]]) for part in ("lr", "loss", "smooth")))
    rungs = tuple(
        Rung(r["steps"], np.array(r["lr"], float), np.array([float(v) for v in r["score"]]), np.array([[float(v) for v in row] for row in r["folds"]]))
        for r in data.get("rungs", ())
    )
    return Found(
        number("lr"), pair("interval"), data["verdict"], curve, data["cost"], number("edge"), pair("flat"), rungs, number("share"), number("first")
    )


def _module_name(model: Any) -> str | None:
    """The class of a module, so that whoever loads the run knows what to build."""
    return None if model is None or _of_rows(model) else f"{type(model).__module__}.{type(model).__qualname__}"


def _of_rows(model: Any) -> bool:
    """Whether a model says what its scores mean, and so predicts labels and numbers from rows."""
    return isinstance(model, (LinearModel, NetworkModel))


def _model_of(saved: Mapping[str, Any], given: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The model of model.json, or the module that the caller gives for it."""
    if saved["model"] is not None:
        return LinearModel.from_json(saved["model"])
    if not saved.get("network"):
        return None if given is None else _fitting(given, _weights(tensors, "weights") or {})
    return NetworkModel.from_json(saved["network"], given)


def _fitting(module: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """The module, once its state_dict has the names and shapes of the saved weights."""
    own = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    saved = {k: v.shape for k, v in weights.items()}
    for name in sorted(own.keys() | saved.keys()):
        if own.get(name) != saved.get(name):
            raise InvalidValue(f"{name!r} has shape {own.get(name, 'none')} in the module and {saved.get(name, 'none')} in the run: build the module as it was")
    return module


def _weights(tensors: Mapping[str, np.ndarray], which: str) -> Weights | None:
    return {k.removeprefix(which + "."): v for k, v in tensors.items() if k.startswith(which + ".")} or None


def _reader(described: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Reader:
    """Readers live in the layer of tables, above this one; only that one module is ever asked for them."""
    return importlib.import_module("fallline.tables").reader_from(described, arrays)
