"""Schedules against torch.optim.lr_scheduler, where the definitions coincide."""

from __future__ import annotations

import numpy as np
import pytest

from fallline.lengths import Clock, epochs, steps
from fallline.schedules import cosine, exponential, linear, step_decay

torch = pytest.importorskip("torch")
scheduler = torch.optim.lr_scheduler
T = 100

CASES = {
    "StepLR": (lambda o: scheduler.StepLR(o, 30, 0.1), step_decay(0.1, every=steps(30))),
    "MultiStepLR": (lambda o: scheduler.MultiStepLR(o, [20, 20, 50], 0.5), step_decay(0.5, at=[steps(20), steps(20), steps(50)])),
    "ExponentialLR": (lambda o: scheduler.ExponentialLR(o, 0.95), exponential(gamma=0.95)),
    "CosineAnnealingLR": (lambda o: scheduler.CosineAnnealingLR(o, T, 1e-3), cosine(to=1e-3)),
    "LinearLR": (lambda o: scheduler.LinearLR(o, 1.0, 0.1, 40), linear(to=0.03, over=steps(40))),
}


def rates(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    peer, found = make(optimizer), []
    for _ in range(T + 1):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
    return found


@pytest.mark.parametrize("name", CASES)
def test_equal_to_torch(name: str):
    make, ours = CASES[name]
    np.testing.assert_allclose(ours.bind(Clock(T), 0.3)(np.arange(T + 1)), rates(make), rtol=1e-12, atol=1e-16)


def test_per_epoch_equals_a_per_epoch_scheduler():
    ours = cosine(to=1e-3).per(epochs(1)).bind(Clock(T * 7, steps_per_epoch=7), 0.3)
    np.testing.assert_allclose(ours(np.arange(T * 7)), np.repeat(rates(CASES["CosineAnnealingLR"][0])[:T], 7), rtol=1e-12)
