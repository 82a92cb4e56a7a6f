"""A two-layer network on images: fallline finds the learning rate, trains, and writes a report.

    python examples/mlp.py [--small]
"""

import sys

import torch
from images import images

import fallline as fl

small = "--small" in sys.argv
train, valid = images(small)
pixels = train[0][0].numel()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(pixels, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
problem = fl.torch.problem(model, torch.nn.functional.cross_entropy, train, valid=valid)
run = fl.fit(problem, epochs=20 if small else 12, batch_size=64)
print(f"accuracy {max(e['valid_accuracy'] for e in run.history.evaluations):.3f} with lr {run.plan.optimizer.lr:.3g}")
