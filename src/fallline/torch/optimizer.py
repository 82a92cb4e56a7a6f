"""`Optimizer`: a plan's rows in the user's own loop, as a real `torch.optim.Optimizer`.

Its whole state is the update's number and the registers: no scheduler beside it, nothing to forget in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fallline import compiled
from fallline.errors import Diverged, InvalidValue, PlanEnded, PlanMismatch
from fallline.plan import Plan
from fallline.rows import Answer
from fallline.rules import resolve_groups
from fallline.torch import modules
from fallline.torch.device import DeviceUpdater
from fallline.torch.follower import Follower
from fallline.torch.held import HeldUpdates
from fallline.torch.state import ModuleState, Tensors, copies, write
from fallline.torch.update import HostUpdater, updater_of

BLOCK = 1024
"""Rows that are written ahead at a time."""
REGISTERS = {"w": "weight", "v": "velocity", "s": "second_moment", "a": "average"}
"""What the registers are called in a state_dict."""


class Optimizer(torch.optim.Optimizer):
    """Carries out a plan's optimizer, schedule and groups on a module, update by update, in your own loop.

    Law: update t applies row t of the plan (see `plan.table()`), to parameters that have a gradient; the gradient is
    clipped, decayed, averaged as the plan says, in one pass over the memory. A step that a GradScaler skips uses up
    its row, so learning rate and updates stay in step.

    Args:
        model: the module; parameters that require a gradient, by the names that the plan's groups match. Wrappers
            (DistributedDataParallel, torch.compile) are looked through.
        plan: with a learning rate; its batches are drawn by `plan.sampler()`.
        guard: test the gradients before each update and raise `Diverged` with nothing touched where one is not
            finite; it costs one more reading of the gradients (none where the plan clips).

    Raises:
        InvalidValue: lr is auto, or a parameter that cannot be updated (sparse, half precision, FSDP), by name.
        PlanEnded: an update after the plan's last.

    >>> import torch, fallline as fl
    >>> model = torch.nn.Linear(2, 1)
    >>> plan = fl.Plan(rows=100, epochs=2, batch_size=10, optimizer=fl.SGD(0.1, momentum=0.9, schedule="linear(to=0)"))
    >>> opt = Optimizer(model, plan)
    >>> model(torch.ones(10, 2)).sum().backward()
    >>> opt.step(); opt.zero_grad()
    >>> opt.param_groups[0]["lr"], opt.update
    (0.095, 1)
    """

    def __init__(self, model: torch.nn.Module, plan: Plan, *, guard: bool = False):
        if plan.lr_is_auto:
            raise InvalidValue("the plan's lr is auto: give a number, or plan.with_lr(fl.torch.find_lr(model, loss, loader))")
        module = unwrapped(model)
        self.plan, self.guard, self.update = plan, guard, 0
        self._named = modules.trainable(module)
        self._params: Tensors = list(self._named.values())
        self.layout = modules.layout_of(module, self._named)
        self._block_start, self._evaluating = -1, None
        self._rows, self._group_of = plan.rows_between(0, 0, self.layout)
        self._multipliers = [g.lr for g in resolve_groups(plan.optimizer, self.layout)[0]]
        self._registers = ModuleState(0, self._params, plan.optimizer.start())
        self._updater = updater_of(self._named, self._group_of)
        with compiled.announced():
            self._held = HeldUpdates(self._updater) if isinstance(self._updater, HostUpdater) else None
        super().__init__(self._groups(), {})
        self._load_rows()

    # ------------------------------------------------------------------------------------------------ stepping

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from the gradients that the parameters hold.

        Args:
            closure: computes the loss again and returns it, as in PyTorch.
        """
        if _global_optimizer_pre_hooks or self._optimizer_step_pre_hooks:
            self._run_hooks(_global_optimizer_pre_hooks, self._optimizer_step_pre_hooks)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check()
        self._make()
        self.update += 1
        if self.update < self.plan.steps:
            self._load_rows()
            self._look()
        if _global_optimizer_post_hooks or self._optimizer_step_post_hooks:
            self._run_hooks(_global_optimizer_post_hooks, self._optimizer_step_post_hooks)
        return loss

    step.hooked = True  # type: ignore[attr-defined]  # PyTorch's wrapper would cost more than a small update; hooks run above
    _step_supports_amp_scaling = True
    """GradScaler then hands over `grad_scale` and `found_inf` and leaves unscaling and skipping to `step`."""

    def _make(self) -> None:
        """The update itself, unless a GradScaler says to skip it."""
        state, row = self._registers, self.update - self._block_start
        state.need(self._needs)
        made = self._on_device(row) if self._held is None else self._on_host(row, self._held)
        if made is None:
            raise InvalidValue("no parameter has a gradient: call loss.backward() before step()")
        if not made:
            raise Diverged(f"a gradient is not finite before update {self.update}; nothing was changed: {self._not_finite()}", step=self.update)

    def _on_host(self, row: int, held: HeldUpdates) -> bool | None:
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)  # what a GradScaler hands over
        if found is not None and float(found):
            return True
        made = held.step(row, self._registers, 1.0 if scale is None else 1.0 / float(scale), guard=self.guard)
        if made:
            torch.autograd.graph.increment_version(self._params)
        return made

    def _on_device(self, row: int) -> bool | None:
        """As `_on_host`; what a GradScaler hands over stays on the device, and only `guard` waits for it."""
        updater, grads = self._updater, [p.grad for p in self._params]
        assert isinstance(updater, DeviceUpdater)
        if all(g is None for g in grads):
            return None
        scale, found = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        factor = updater.factor(1.0) if scale is None else scale.to(updater.device, updater.number).reshape(()).reciprocal()
        alive = None if found is None else found.to(updater.device).reshape(()) == 0
        made = updater.apply(row, grads, self._registers, factor, alive, guard=self.guard)
        return not self.guard or bool(made) or (alive is not None and not bool(alive))

    def _look(self) -> None:
        """Put the gradient point of the next update into the module (true look-ahead only)."""
        state, updater = self._registers, self._updater
        if not self._needs.look or state.v is None or state.w is None:
            return
        row = self.update - self._block_start
        if isinstance(updater, HostUpdater):
            updater.place(state)
            updater.look(row)
        else:
            updater.look(row, state)
        torch.autograd.graph.increment_version(self._params)

    def _run_hooks(self, everywhere: Any, own: Any) -> None:
        for hook in (*everywhere.values(), *own.values()):
            hook(self, (), {})

    # ------------------------------------------------------------------------------------------ rows and groups

    def _groups(self) -> list[dict[str, Any]]:
        count = max(self._group_of, default=0) + 1
        named = list(self._named.items())
        members = [[item for item, of in zip(named, self._group_of, strict=True) if of == g] for g in range(count)]
        return [{"params": [p for _, p in m], "param_names": [n for n, _ in m], "lr": 0.0} for m in members]

    def _load_rows(self) -> None:
        """Have the row of the next update at hand, and show its learning rates in `param_groups`."""
        t = self.update
        if not 0 <= t - self._block_start < BLOCK or self._block_start < 0:
            self._block_start = t - t % BLOCK
            rows, _ = self.plan.rows_between(self._block_start, min(self._block_start + BLOCK, self.plan.steps), self.layout)
            self._needs = rows.registers
            rate = self.plan.lr_at(np.arange(self._block_start, self._block_start + rows.steps))
            self._lr = [[lr * m for m in self._multipliers] for lr in rate.tolist()]
            with compiled.announced():
                self._updater.use(rows)
        self._shown = self._lr[t - self._block_start]
        for group, lr in zip(self.param_groups, self._shown, strict=True):
            group["lr"] = lr

    def _check(self) -> None:
        if self.update >= self.plan.steps:
            raise PlanEnded(f"update {self.update} was asked for and the plan ends with update {self.plan.steps - 1}: make a longer plan")
        if self._evaluating is not None:
            raise InvalidValue("the module holds the answer: call optimizer.train() before the next update")
        if len(self.param_groups) != len(self._shown):
            raise InvalidValue("param_groups changed: the plan's groups decide what is trained; make another Optimizer")
        for group, lr in zip(self.param_groups, self._shown, strict=True):
            if group["lr"] != lr:
                raise InvalidValue(
                    f"lr of a parameter group was changed to {group['lr']!r} where the plan says {lr!r}"
                    f"{self._writer()}: the plan's schedule is the only one; put it into the plan and drop the other "
                    "(where a framework makes one of its own, give it optimizer.scheduler())"
                )

    def _writer(self) -> str:
        """The name of the scheduler that wrote our lr, where it left a mark."""
        wrapped = getattr(self.__dict__.get("step"), "__closure__", None) or ()
        found = [type(c.cell_contents).__name__ for c in wrapped if "LR" in type(c.cell_contents).__name__]
        if found:
            return f" by {found[0]}"
        return " by a torch scheduler" if any("initial_lr" in g for g in self.param_groups) else " by other code"

    def _not_finite(self) -> str:
        bad = [n for n, p in self._named.items() if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        return f"first in {bad[0]!r}; lower the learning rate or look at this batch" if bad else "their norm overflows"

    # ----------------------------------------------------------------------------------------- train and eval

    def eval(self) -> None:
        """Put the answer into the module: the average, or Schedule-Free's evaluation point; `train()` takes it back, bit for bit."""
        answer = self.plan.optimizer.answer()
        if self._evaluating is None and not (answer == Answer() and self._registers.w is None):
            kept = copies(self._params)
            write(self._params, self._registers.reading(answer))
            self._evaluating = kept

    def train(self) -> None:
        """Put the gradient point back into the module, bit for bit."""
        if self._evaluating is not None:
            write(self._params, self._evaluating)
            self._evaluating = None

    def scheduler(self) -> Follower:
        """A scheduler that steps nothing, for frameworks that ask for one or else make their own (Hugging Face's Trainer)."""
        return Follower(self)

    # --------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The update's number and the registers by parameter name; tensors and plain values only."""
        state = self._registers
        held = {REGISTERS[k]: r for k in REGISTERS if (r := getattr(state, k)) is not None}
        by_name = {n: {k: r[i] for k, r in held.items()} for i, n in enumerate(self._named)}
        shown = [{k: v for k, v in g.items() if k != "params"} for g in self.param_groups]
        return {"update": self.update, "plan": self.plan.fingerprint, "state": by_name if held else {}, "param_groups": shown}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where `state_dict` was made. The module's parameters are the caller's to load.

        Raises:
            PlanMismatch: another plan, or parameters of other names or shapes.
        """
        if not isinstance(state_dict.get("update"), int) or "plan" not in state_dict:
            raise PlanMismatch("not a state of fl.torch.Optimizer: expected the dict of its state_dict()")
        if state_dict["plan"] != self.plan.fingerprint:
            raise PlanMismatch("the state was made with another plan: make the Optimizer with the plan of the run that it continues")
        held = state_dict["state"]
        if held and set(held) != set(self._named):
            odd = sorted(set(held) ^ set(self._named))
            raise PlanMismatch(f"the state's parameters are not the module's; they differ in {', '.join(odd[:4])}")
        made: dict[str, Tensors] = {k: [] for k in REGISTERS}
        for name, p in self._named.items() if held else ():
            for key, word in REGISTERS.items():
                if word in held[name]:
                    value = held[name][word]
                    if value.shape != p.shape:
                        raise PlanMismatch(f"{word} of {name!r} has shape {list(value.shape)} and the parameter {list(p.shape)}")
                    made[key].append(torch.empty_like(p).copy_(value))
        state = ModuleState(0, self._params, self.plan.optimizer.start())
        for key, tensors in made.items():
            if tensors:
                setattr(state, key, [t.detach() for t in tensors])
        self._registers, self.update, self._block_start, self._evaluating = state, state_dict["update"], -1, None
        if self.update < self.plan.steps:
            self._load_rows()
            self._look()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Groups come from the plan; PyTorch's constructor adds those through here, nobody else may."""
        if hasattr(self, "_shown"):
            raise InvalidValue("add_param_group: the plan's groups decide what is trained; unfreeze through Group(frozen=...), or make another Optimizer")
        super().add_param_group(param_group)

    def __repr__(self) -> str:
        return f"Optimizer(update={self.update} of {self.plan.steps}, {self.plan.optimizer!r})"


def unwrapped(model: Any) -> torch.nn.Module:
    """The module inside of DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if inner is None:
            return model
        model = inner


__all__ = ["Optimizer", "unwrapped"]
