"""Loggers for `train(..., log=)`: each is a function of one flat dict per evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fallline.errors import MissingExtra

Log = Callable[[dict[str, Any]], None]


def tensorboard(folder: str | Path) -> Log:
    """Write every number of an evaluation to TensorBoard event files.

    Args:
        folder: where the event files go.

    Raises:
        MissingExtra: neither tensorboardX nor torch's writer is installed.
    """
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra("tensorboardX", "tensorboard", "fallline.logs.tensorboard") from None
    writer = SummaryWriter(str(folder))

    def log(entry: dict[str, Any]) -> None:
        for name, value in _numbers(entry):
            writer.add_scalar(name, value, entry["step"])
        writer.flush()

    return log


def mlflow() -> Log:
    """Log every number of an evaluation to the active MLflow run.

    Raises:
        MissingExtra: mlflow is not installed.
    """
    try:
        import mlflow as client  # type: ignore[import-not-found]
    except ImportError:
        raise MissingExtra("mlflow-skinny", "mlflow", "fallline.logs.mlflow") from None
    return lambda entry: client.log_metrics(dict(_numbers(entry)), step=entry["step"])


def _numbers(entry: dict[str, Any]) -> list[tuple[str, float]]:
    return [(k, float(v)) for k, v in entry.items() if k != "step" and isinstance(v, (int, float))]
