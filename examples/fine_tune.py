"""Fine-tuning in thirty lines: a body trained on five classes, a new head for the other five.

    python examples/fine_tune.py [--small]
"""

import sys

import torch
from images import images

import fallline as fl

(X, y), (Xv, yv) = images("--small" in sys.argv)
torch.manual_seed(0)
nn, loss = torch.nn, torch.nn.functional.cross_entropy
body = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 64), nn.ReLU())
first = fl.torch.problem(nn.Sequential(body, nn.Linear(64, 5)), loss, (X[y < 5], y[y < 5]))
fl.fit(first, epochs=5)

model = nn.Sequential(body, nn.Linear(64, 5))  # the trained body, a fresh head
new, held_out = (X[y >= 5][:500], y[y >= 5][:500] - 5), (Xv[yv >= 5], yv[yv >= 5] - 5)
problem = fl.torch.problem(model, loss, new, valid=held_out)
plan = fl.Plan(problem, epochs=10, batch_size=32, optimizer=fl.AdamW(
    lr=1e-2, schedule="warmup(5%) > cosine", groups={"0.*": fl.Group(lr=0.1, frozen=fl.epochs(1))}))  # fmt: skip
run = fl.train(problem, plan)
print(f"accuracy {run.history.evaluations[-1]['valid_accuracy']:.3f}")
