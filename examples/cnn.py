"""A small convolutional network, with the starting point of the textbook's section on SGD, at a given rate.

    python examples/cnn.py [--small]
"""

import sys

import torch
from images import images

import fallline as fl

small = "--small" in sys.argv
train, valid = images(small)
nn = torch.nn
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
    nn.Linear(288, 10),
)  # fmt: skip
problem = fl.torch.problem(model, nn.functional.cross_entropy, train, valid=valid)
rule = fl.SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, schedule="warmup(10%) > linear(to=0)")
plan = fl.Plan(problem, epochs=4 if small else 5, batch_size=64, optimizer=rule)
print(plan.explain(problem))
run = fl.train(problem, plan)
print(f"accuracy {run.history.evaluations[-1]['valid_accuracy']:.3f}")
