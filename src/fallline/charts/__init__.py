"""Charts: arrays in, `Picture` out.

Every function takes plain arrays and gives a `Picture`, whose title states the finding. The pictures work on light
and dark pages, show values that are not finite as gaps with a mark, and say what thinning or smoothing was done.
"""

from __future__ import annotations

from fallline.charts.batch_size import batch_size
from fallline.charts.curves import loss_curves, lr_curve, plan_curves
from fallline.charts.decay import decay_path
from fallline.charts.evaluation import bars, calibration, coefficients, confusion, pr, predicted, residuals
from fallline.charts.paths import path
from fallline.charts.picture import Picture
from fallline.charts.rates import range_test
from fallline.charts.stability import stability
from fallline.charts.sweeps import heat_map

__all__ = [
    "Picture", "bars", "batch_size", "calibration", "coefficients", "confusion", "decay_path", "heat_map", "loss_curves", "lr_curve", "path", "plan_curves", "pr",
    "predicted", "range_test", "residuals", "stability",
]  # fmt: skip
