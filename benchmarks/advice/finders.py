"""Every other finder, run for real. This file runs where they are installed, and imports nothing of fallline.

    python finders.py JOB.npz ...      a JSON line for each: {tool: {"lr": ..., "updates": ..., "seconds": ..., "error": ...}}

A job holds the data, the weights, the rule, and the batches (row numbers) that the plan itself would use.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "agg")
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
import models

UPDATES = 100
"""What each of these tools sweeps where it is not told otherwise."""


Call = Callable[[], "dict[str, float]"]


class Job:
    """One cell and seed."""

    def __init__(self, path: str):
        with np.load(path) as file:
            self.arrays = dict(file)
        self.spec = json.loads(str(self.arrays["spec"]))
        self.updates = 0

    def model(self) -> torch.nn.Module:
        made = models.build(self.spec["model"], self.spec["features"], self.spec["outputs"], 0)
        made.load_state_dict({k[2:]: torch.from_numpy(v.copy()) for k, v in self.arrays.items() if k.startswith("w.")})
        made.register_forward_hook(self._count)
        return made

    def _count(self, module: torch.nn.Module, *_: object) -> None:
        self.updates += module.training and torch.is_grad_enabled()

    def loss(self) -> torch.nn.Module:
        return models.loss_of(self.spec["task"])

    def optimizer(self, parameters, lr: float) -> torch.optim.Optimizer:
        return self.kind(parameters, lr=lr)

    @property
    def kind(self):
        if self.spec["rule"] == "adamw":
            return partial(torch.optim.AdamW, weight_decay=self.spec["decay"])
        momentum = 0.0 if self.spec["rule"] == "sgd" else 0.9
        return partial(torch.optim.SGD, momentum=momentum, nesterov=self.spec["rule"] == "nesterov", weight_decay=self.spec["decay"])

    def loader(self, valid: bool = False) -> DataLoader:
        a, b = ("X_valid", "y_valid") if valid else ("X", "y")
        data = TensorDataset(torch.from_numpy(self.arrays[a]), torch.from_numpy(self.arrays[b]))
        if valid:
            return DataLoader(data, batch_size=512)
        bounds = np.cumsum(self.arrays["sizes"])[:-1]
        return DataLoader(data, batch_sampler=[part.tolist() for part in np.split(self.arrays["rows"], bounds)])


# Each tool imports what it needs and gives the call that is timed.


def fastai(job: Job) -> Call:
    from fastai.callback.schedule import minimum, slide, steep, valley
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    def run() -> dict[str, float]:
        folder, opt = Path(tempfile.mkdtemp()), partial(OptimWrapper, opt=job.kind)
        learner = Learner(DataLoaders(job.loader(), job.loader(True)), job.model(), loss_func=job.loss(), opt_func=opt, path=folder, model_dir=folder)
        with learner.no_bar(), learner.no_logging():
            found = learner.lr_find(show_plot=False, suggest_funcs=(valley, slide, minimum, steep))
        return {f"fastai {name}": float(getattr(found, name)) for name in ("valley", "slide", "minimum", "steep")}

    return run


def lightning(job: Job) -> Call:
    import lightning as L
    from lightning.pytorch.tuner import Tuner

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.lr, self.value = job.model(), 1e-3, job.loss()

        def training_step(self, batch, index):
            return self.value(self.inner(batch[0]), batch[1])

        def configure_optimizers(self):
            return job.optimizer(self.parameters(), self.lr)

    def run() -> dict[str, float]:
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = L.Trainer(max_epochs=1000, accelerator="cpu", default_root_dir=tempfile.mkdtemp(), **quiet)
        found = Tuner(trainer).lr_find(Module(), train_dataloaders=job.loader(), update_attr=False)
        return {"Lightning": found.suggestion()}

    return run


def lr_finder(job: Job) -> Call:
    from matplotlib import pyplot
    from torch_lr_finder import LRFinder

    def run() -> dict[str, float]:
        model = job.model()
        finder = LRFinder(model, job.optimizer(model.parameters(), 1e-7), job.loss(), device="cpu")
        finder.range_test(job.loader(), end_lr=100, num_iter=UPDATES)
        _, lr = finder.plot(ax=pyplot.subplots()[1], suggest_lr=True)
        return {"torch-lr-finder": lr}

    return run


def ignite(job: Job) -> Call:
    from ignite.engine import create_supervised_trainer
    from ignite.handlers import FastaiLRFinder

    def run() -> dict[str, float]:
        model = job.model()
        optimizer = job.optimizer(model.parameters(), 1e-7)
        trainer, finder = create_supervised_trainer(model, optimizer, job.loss()), FastaiLRFinder()
        with finder.attach(trainer, to_save={"model": model, "optimizer": optimizer}, num_iter=UPDATES) as attached:
            attached.run(job.loader())
        return {"Ignite": finder.lr_suggestion()}

    return run


def answers(path: str) -> dict[str, dict[str, object]]:
    """What every tool says of a job."""
    out: dict[str, dict[str, object]] = {}
    for tool, names in ((fastai, ["fastai valley", "fastai slide", "fastai minimum", "fastai steep"]), (lightning, ["Lightning"]), (lr_finder, ["torch-lr-finder"]), (ignite, ["Ignite"])):
        job = Job(path)
        call = tool(job)
        began = time.perf_counter()
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found, error = call(), None
        except Exception as failed:  # what a tool answers by failing is its answer
            found, error = dict.fromkeys(names), f"{type(failed).__name__}: {failed}"[:200]
        took = time.perf_counter() - began
        for name in names:
            lr = found.get(name)
            out[name] = {"lr": None if lr is None else float(lr), "updates": job.updates, "seconds": round(took, 3), "error": error}
    return out


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for each in sys.argv[1:]:
        print(json.dumps(answers(each)), flush=True)
