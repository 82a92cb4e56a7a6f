"""Other frameworks' own training loops on a small network: one epoch a call, as their users would write it for speed.

Each maker returns a function that trains one epoch and gives its seconds. Checkpoints, logs, validation, progress bars and
metrics are off everywhere; optimizer, batch, rows, shuffling and threads are the same. Imports stand inside, because each
framework is measured in a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_loop import Case

Epoch = Callable[[], float]
LR, MOMENTUM = 0.01, 0.9


def timed(call: Callable[[], Any]) -> Epoch:
    """The call, giving its seconds."""

    def epoch() -> float:
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    return epoch


def loader(case: Case) -> Any:
    import torch

    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(case.X, case.y), batch_size=case.batch, shuffle=True)


def lightning(case: Case) -> Epoch:
    """`Trainer(barebones=True)`, Lightning's own setting for measuring overhead; between start and end of training alone."""
    import logging

    import lightning
    import torch

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = case.model()
            self.seconds = 0.0

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=LR, momentum=MOMENTUM, nesterov=True)

        def on_train_start(self) -> None:
            self.began = time.perf_counter()

        def on_train_end(self) -> None:
            self.seconds = time.perf_counter() - self.began

    module, data = Module(), loader(case)

    def epoch() -> float:
        lightning.Trainer(max_epochs=1, accelerator="cpu", barebones=True).fit(module, data)
        return module.seconds

    return epoch


def skorch(case: Case) -> Epoch:
    """`partial_fit` of one epoch without validation and printing."""
    import torch
    from skorch import NeuralNetClassifier

    net = NeuralNetClassifier(
        case.model(), criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, optimizer__momentum=MOMENTUM,
        optimizer__nesterov=True, lr=LR, batch_size=case.batch, max_epochs=1, train_split=None, iterator_train__shuffle=True,
        verbose=0, callbacks__print_log=None,
    ).initialize()  # fmt: skip
    return timed(lambda: net.partial_fit(case.X, case.y))


def fastai(case: Case) -> Epoch:
    """`Learner.fit` of one epoch over fastai's loader of the same tensors, without workers, bar, table and validation."""
    from functools import partial
    from importlib import import_module

    import torch
    from fastai.callback.core import CancelValidException
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader
    from fastai.learner import Callback, Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import OptimWrapper

    import_module("fastai.callback.progress")  # gives Learner its no_bar and no_logging

    class NoValidation(Callback):
        def before_validate(self) -> None:
            raise CancelValidException

    rows = torch.utils.data.TensorDataset(case.X, case.y)
    train = DataLoader(rows, bs=case.batch, shuffle=True, num_workers=0)
    optimizer = partial(OptimWrapper, opt=torch.optim.SGD, momentum=MOMENTUM, nesterov=True)
    learner = Learner(DataLoaders(train, train), case.model(), loss_func=CrossEntropyLossFlat(), opt_func=optimizer, cbs=NoValidation())

    def epoch() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.fit(1, lr=LR)

    return timed(epoch)


def _keras(case: Case, backend: str, **options: Any) -> Epoch:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    a, b, c = case.widths
    model = keras.Sequential([keras.Input((a,)), keras.layers.Dense(b, activation="relu"), keras.layers.Dense(c)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(LR, momentum=MOMENTUM, nesterov=True), loss, **options)
    X, y = case.X.numpy(), case.y.numpy()
    return timed(lambda: model.fit(X, y, batch_size=case.batch, epochs=1, verbose=0))


def keras_torch(case: Case) -> Epoch:
    """`model.fit` on PyTorch."""
    return _keras(case, "torch")


def keras_jax(case: Case) -> Epoch:
    """`model.fit` on JAX, which compiles the step."""
    return _keras(case, "jax")


def keras_jax_steps(case: Case) -> Epoch:
    """The same with 32 steps in one compiled call, which few users know of."""
    return _keras(case, "jax", steps_per_execution=32)


FRAMEWORKS: dict[str, tuple[str, tuple[str, ...], Callable[[Any], Epoch]]] = {
    "lightning": ("Lightning", ("lightning",), lightning),
    "skorch": ("skorch", ("skorch",), skorch),
    "fastai": ("fastai", ("fastai",), fastai),
    "keras-torch": ("Keras (PyTorch)", ("keras",), keras_torch),
    "keras-jax": ("Keras (JAX)", ("keras", "jax"), keras_jax),
    "keras-jax-32": ("Keras (JAX), steps_per_execution=32", ("keras", "jax"), keras_jax_steps),
}
"""Name on the command line: label, what must be installed, maker."""
