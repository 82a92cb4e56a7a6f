"""Fashion-MNIST where Debian's package dataset-fashion-mnist is installed, else scikit-learn's digits, as tensors."""

import torch

import fallline as fl
from fallline.tables.builtin import builtin


def images(small: bool = False):
    """(X, y) for training and for validation; X is float32 [rows, 1, side, side] in 0..1."""
    try:
        source, held_out = builtin("digits" if small else "fashion-mnist")
    except fl.InvalidValue as missing:
        print(missing)
        source, held_out = builtin("digits")
    held_out = held_out or 360
    columns = [source.table.column(i).to_numpy() for i in range(source.table.num_columns - 1)]
    side = int(len(columns) ** 0.5)
    X = torch.stack([torch.tensor(c, dtype=torch.float32) for c in columns], dim=1).reshape(-1, 1, side, side)
    X, y = X / X.max(), torch.tensor(source.table.column("target").to_numpy())
    return (X[:-held_out], y[:-held_out]), (X[-held_out:], y[-held_out:])
