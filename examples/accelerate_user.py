"""Accelerate prepares model, optimizer and loader; the optimizer, the order of rows and the rate are fallline's.

    pip install accelerate
    python examples/accelerate_user.py [--small]         (or: accelerate launch examples/accelerate_user.py)
"""

import sys

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from images import images

import fallline as fl

small = "--small" in sys.argv
(X, y), (Xv, yv) = images(small)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
plan = fl.Plan(
    rows=len(X), epochs=10 if small else 3, batch_size=fl.Batches(64, last="drop"), seed=0,
    optimizer=fl.AdamW(weight_decay=1e-2, schedule="warmup(5%) > cosine"),
)  # fmt: skip
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_sampler=plan.sampler())
found = fl.torch.find_lr(model, torch.nn.functional.cross_entropy, loader, torch.optim.AdamW(model.parameters(), weight_decay=1e-2))
print(found.verdict)

accelerator = Accelerator(dataloader_config=DataLoaderConfiguration(split_batches=True))  # a plan's batch is the global one
model, optimizer, loader = accelerator.prepare(model, fl.torch.Optimizer(model, plan.with_lr(found)), loader)
for _ in range(int(plan.epochs)):
    for x, target in loader:
        accelerator.backward(torch.nn.functional.cross_entropy(model(x), target))
        optimizer.step()
        optimizer.zero_grad()
with torch.no_grad():
    guess = model(Xv.to(accelerator.device)).argmax(1).cpu()
accelerator.print(f"accuracy {(guess == yv).float().mean():.3f}")
