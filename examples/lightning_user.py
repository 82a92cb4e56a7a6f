"""Lightning keeps its Trainer and takes three parts of fallline: the rate that the range test finds, the optimizer with its schedule, the order of rows.

    pip install lightning
    python examples/lightning_user.py [--small]
"""

import sys

import lightning
import torch
from images import images

import fallline as fl


class Classifier(lightning.LightningModule):
    def __init__(self, model, plan):
        super().__init__()
        self.model, self.plan = model, plan

    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self):
        return fl.torch.Optimizer(self.model, self.plan)  # with its schedule: there is no lr_scheduler to return


small = "--small" in sys.argv
(X, y), (Xv, yv) = images(small)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(X[0].numel(), 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
plan = fl.Plan(rows=len(X), epochs=10 if small else 3, batch_size=64, seed=0, optimizer=fl.SGD(momentum=0.9, schedule="warmup(5%) > linear(to=0)"))
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_sampler=plan.sampler())

found = fl.torch.find_lr(model, torch.nn.functional.cross_entropy, loader)  # leaves no trace on model and loader
print(found.verdict)
trainer = lightning.Trainer(max_epochs=int(plan.epochs), accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer.fit(Classifier(model, plan.with_lr(found)), loader)
print(f"accuracy {(model(Xv).argmax(1) == yv).float().mean():.3f}")
