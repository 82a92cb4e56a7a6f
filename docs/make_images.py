"""Make the pictures of README.md and docs/ with the program itself: `make images`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import fallline as fl
from fallline import charts

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Fit the digits, and draw its range test, its losses and its plan; the diabetes table, and its path of weight decays."""
    IMAGES.mkdir(exist_ok=True)
    run = fl.fit("digits", progress=False)
    run.plot().save(IMAGES / "digits-loss.svg")
    run.found.plot().save(IMAGES / "digits-range-test.svg")
    steps = np.arange(run.plan.steps)
    charts.lr_curve(steps, run.plan.lr_at(steps), steps_per_epoch=run.plan.steps_per_epoch).save(IMAGES / "digits-lr.svg")
    path = fl.fit("diabetes", progress=False).summary["evidence"]["weight_decay"]
    charts.decay_path(path["values"], path["score"], path["error"], chosen=path["chosen"]).save(IMAGES / "diabetes-weight-decay.svg")
    print(f"{IMAGES}: {', '.join(sorted(path.name for path in IMAGES.glob('*.svg')))}")


if __name__ == "__main__":
    main()
