"""Your own loop: the plan's optimizer, schedule and order of rows, nothing else of fallline's.

    python examples/own_loop.py [--small]
"""

import sys

import torch
from images import images

import fallline as fl

small = "--small" in sys.argv
(X, y), (Xv, yv) = images(small)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
plan = fl.Plan(rows=len(X), epochs=10 if small else 3, batch_size=64, seed=0, optimizer=fl.AdamW(lr=3e-3, schedule="warmup(5%) > cosine"))

optimizer = fl.torch.Optimizer(model, plan)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_sampler=plan.sampler())
for _ in range(int(plan.epochs)):
    for x, target in loader:
        torch.nn.functional.cross_entropy(model(x), target).backward()
        optimizer.step()
        optimizer.zero_grad()
print(f"accuracy {(model(Xv).argmax(1) == yv).float().mean():.3f} after {optimizer.update} updates")
