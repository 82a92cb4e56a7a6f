"""Many runs at once: a grid of hyperparameters and seeds, its best with the spread, and the edge of stability."""

from fallline.sweeping.result import Cell, Sweep
from fallline.sweeping.sweep import sweep
from fallline.sweeping.values import Spaced, log, values

__all__ = ["Cell", "Spaced", "Sweep", "log", "sweep", "values"]
