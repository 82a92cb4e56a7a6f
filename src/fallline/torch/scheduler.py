"""A plan's learning rate (and momentum, and weight decay) for any torch optimizer, in any loop.

Law: update t of the optimizer, t = 0 .. T-1, uses the plan's lr(t). The optimizer's own updates are counted, by a hook
that PyTorch calls around `optimizer.step()`, so there is nothing to step, and nothing that a framework can step too often.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from fallline.errors import InvalidValue, PlanEnded, PlanMismatch
from fallline.plan import Plan
from fallline.rules import Group
from fallline.rules.writing import over_time
from fallline.schedules import Schedule
from fallline.torch.groups import bare, by_patterns, get, number, place_of, put, shares

_AHEAD = 512
"""Updates whose values are computed together."""


class Scheduler(LRScheduler):
    """Drives a torch optimizer's lr by a plan; its momentum and weight decay too, where the plan has a schedule of them.

    The largest of the groups' learning rates becomes the plan's lr, and the others keep their ratio to it; or the plan's
    groups decide, where the optimizer knows the names of its parameters. What the plan does not schedule stays the
    optimizer's own. `step()` may be called at will, and changes nothing.

    (It is a subclass of PyTorch's scheduler because Lightning and Accelerate ask for one by its class; it uses nothing of it.)

    Args:
        optimizer: any torch.optim.Optimizer, or a framework's wrapper of one.
        plan: what to follow. Its lr, momentum and weight_decay count; its batches are those of your loop.

    Raises:
        InvalidValue: lr is auto, the plan asks for what a torch optimizer cannot do, or a plan already drives this one.

    >>> import fallline as fl
    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([w], lr=1.0)
    >>> scheduler = Scheduler(optimizer, fl.Plan(rows=100, steps=4, optimizer=fl.SGD(lr=0.4, schedule="linear(to=0)")))
    >>> used = []
    >>> for _ in range(4):
    ...     w.grad = torch.ones(1)
    ...     used.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     optimizer.step()
    >>> used
    [0.4, 0.3, 0.2, 0.1]
    """

    def __init__(self, optimizer: Any, plan: Plan):
        # PyTorch's constructor is left out on purpose: it replaces optimizer.step and writes an lr of its own.
        optimizer = bare(optimizer)
        if not isinstance(plan, Plan):
            raise InvalidValue(f"Scheduler(optimizer, {type(plan).__name__}): expected a plan, such as fl.Plan(rows=N, epochs=12, batch_size=64, optimizer=fl.SGD(lr=0.1, schedule='cosine'))")
        if plan.lr_is_auto:
            raise InvalidValue(
                "the plan's lr is auto, and a scheduler cannot find it: "
                "found = fl.torch.find_lr(model, loss, loader, optimizer), then Scheduler(optimizer, plan.with_lr(found))"
            )
        if hasattr(optimizer, "plan"):
            raise InvalidValue(f"{optimizer!r} carries out its plan itself, schedule and all: leave the Scheduler out; where a framework asks for one, give it optimizer.scheduler()")
        _only_what_an_optimizer_can_do(plan)
        if (other := attached(optimizer)) is not None:
            raise InvalidValue(f"{other!r} already drives this optimizer, and {plan!r} would too: call .detach() on the first")
        self.optimizer, self.plan = optimizer, plan
        self._groups = by_patterns(optimizer, plan.optimizer.groups) if plan.optimizer.groups else None
        self._driven = self._shares()
        self._count, self._step_count = 0, 1  # the second is what Accelerate counts; nothing here reads it
        self._block: tuple[int, dict[str, np.ndarray]] = (0, {})
        self._unsure: Skipped | None = None
        self._seen: list[dict[str, tuple[Any, int]]] = []
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
            optimizer.register_load_state_dict_post_hook(self._loaded),
        )
        self._write()

    # ------------------------------------------------------------------------------------------- reading

    @property
    def last_epoch(self) -> int:
        """Updates made, under the name that PyTorch's schedulers give to their count."""
        self._settle()
        return self._count

    @property
    def base_lrs(self) -> list[float]:
        """The plan's lr at update 0 in each group."""
        return [share * self._values(0)["lr"] for share in self._driven["lr"]]

    @property
    def shares(self) -> list[float]:
        """Each group's share of the plan's lr."""
        return list(self._driven["lr"])

    def get_last_lr(self) -> list[float]:
        """The lr of each group that the next update uses; after the last update, the schedule's end value."""
        self._settle()
        return [share * self._values(self._count)["lr"] for share in self._driven["lr"]]

    def get_lr(self) -> list[float]:
        """As `get_last_lr`."""
        return self.get_last_lr()

    def step(self, epoch: Any = None) -> None:
        """Nothing: the optimizer's own updates are counted. It is here for loops and frameworks that call it."""

    def __repr__(self) -> str:
        driven = ", ".join(f"{name} x {[round(s, 6) for s in found]}" for name, found in self._driven.items())
        return f"<Scheduler of {type(self.optimizer).__name__}: update {self._count} of {self.plan.steps}, {driven}, lr {self.plan.optimizer!r}>"

    # -------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, int]:
        """The number of updates made; it is all the state there is."""
        self._settle()
        return {"update": self._count}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was, and write the learning rate that belongs there.

        Raises:
            InvalidValue: it is not a state of this class; PlanMismatch: it lies past this plan's end.
        """
        count = state_dict.get("update")
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidValue(f"a scheduler's state with the keys {sorted(state_dict)}: expected {{'update': updates made}}, as Scheduler.state_dict() gives")
        if count > self.plan.steps:
            raise PlanMismatch(f"the state is of update {count} and this plan ends after {self.plan.steps}: make a longer plan")
        self._count, self._unsure = count, None
        self._write()

    def detach(self) -> None:
        """Let the optimizer go: its numbers stay as they are, and nothing drives them any more."""
        for handle in self._handles:
            handle.remove()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise InvalidValue("a Scheduler belongs to its optimizer and is not copied or pickled: save scheduler.state_dict(), and make a new one")

    # -------------------------------------------------------------------------------------------- hooks

    @torch._dynamo.disable
    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if len(optimizer.param_groups) != len(self._seen):
            raise InvalidValue(
                f"the optimizer had {len(self._seen)} parameter groups when its Scheduler was made, and has {len(optimizer.param_groups)}: "
                "keep state = scheduler.state_dict(), scheduler.detach(), make a Scheduler anew, and load the state"
            )
        self._unchanged()
        self._settle()
        if self._count >= self.plan.steps:
            raise PlanEnded(f"update {self._count} was asked for and the plan ends with update {self.plan.steps - 1}: make a longer plan, or stop the loop here; nothing was changed")

    @torch._dynamo.disable
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        found = getattr(optimizer, "found_inf", None)  # a GradScaler's, of an optimizer that skips within its own step (fused=True)
        self._unsure = None if found is None else Skipped(found)
        self._count += 1
        self._write()
        if self._unsure is not None and not self._unsure.waits:
            self._settle()

    def _settle(self) -> None:
        """Take the last update back from the count where it turns out that the optimizer skipped it on its device."""
        unsure, self._unsure = self._unsure, None
        if unsure is not None and unsure.known():
            self._count -= 1
            self._write()

    @torch._dynamo.disable
    def _loaded(self, optimizer: Any) -> None:
        self._write()  # a loaded optimizer brings the numbers of when it was saved

    def _write(self) -> None:
        """The numbers of update `_count` into the groups, with a note of what was written."""
        values = self._values(self._count)
        self._seen = []
        for index, group in enumerate(self.optimizer.param_groups):
            seen: dict[str, tuple[Any, int]] = {}
            for name, found in self._driven.items():
                put(group, name, found[index] * values[name])
                held = get(group, name)
                seen[name] = (held, held._version if isinstance(held, torch.Tensor) else 0)
            self._seen.append(seen)

    def _unchanged(self) -> None:
        """What was written still stands. Of a tensor its version is looked at, because its value would wait for the device."""
        for index, group in enumerate(self.optimizer.param_groups):
            for name, (held, version) in self._seen[index].items():
                now = get(group, name)
                if now is held and (not isinstance(now, torch.Tensor) or now._version == version):
                    continue
                wanted = self._driven[name][index] * self._values(self._count)[name]
                expected = torch.tensor(wanted, dtype=now.dtype).item() if isinstance(now, torch.Tensor) else wanted
                if number(now) != expected:
                    raise InvalidValue(
                        f"{name} of parameter group {index} is {number(now):g} and {self!r} had written {expected:g}: {_who(self)}; "
                        "let one of them drive the optimizer (Scheduler.detach() lets go)"
                    )

    # ------------------------------------------------------------------------------------------- values

    def _shares(self) -> dict[str, list[float]]:
        """What is driven, and each group's share of it."""
        rule, groups = self.plan.optimizer, self._groups
        own = shares(self.optimizer)
        if groups is not None and len(set(own)) > 1:
            raise InvalidValue(
                f"the plan has groups and the optimizer's parameter groups have the learning rates {[number(g['initial_lr']) for g in self.optimizer.param_groups]}: "
                "give the ratios in one place, in the plan or in the optimizer"
            )
        out = {"lr": own if groups is None else [float(g.lr) for g in groups]}
        if isinstance(getattr(rule, "momentum", None), Schedule):
            self._must_have("momentum")
            out["momentum"] = [1.0] * len(own)
        asked = groups is not None and any(g.weight_decay is not None for g in groups)
        if isinstance(rule.weight_decay, Schedule) or asked:
            self._must_have("weight_decay")
            own = shares(self.optimizer, "weight_decay")
            out["weight_decay"] = [s if g.weight_decay is None else float(g.weight_decay) for s, g in zip(own, groups or [Group()] * len(own), strict=True)]
        return out

    def _must_have(self, name: str) -> None:
        if any(not place_of(group, name) for group in self.optimizer.param_groups):
            raise InvalidValue(f"the plan drives {name}, and {type(self.optimizer).__name__} has none: leave it out of the plan's optimizer")

    def _values(self, t: int) -> dict[str, float]:
        """The driven numbers at update t (T is legal), from a block computed ahead."""
        start, block = self._block
        if not block or not start <= t < start + len(block["lr"]):
            start = t - t % _AHEAD
            at = np.arange(start, min(start + _AHEAD, self.plan.steps + 1))
            rule, clock = self.plan.optimizer, self.plan.clock
            block = {"lr": self.plan.lr_at(at)}
            for name in self._driven.keys() - {"lr"}:
                block[name] = np.broadcast_to(over_time(name, getattr(rule, name), clock, at), at.shape)
            self._block = start, block
        return {name: float(column[t - start]) for name, column in block.items()}


class Skipped:
    """Whether an update was skipped on its device: asked for at once, waited for only when it matters, after the next backward pass.

    Args:
        found: GradScaler's `found_inf`, a tensor of one number on the optimizer's device.
    """

    def __init__(self, found: torch.Tensor):
        self._event = None
        if found.device.type == "cuda":
            self._value = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._value = found.detach().clone()

    @property
    def waits(self) -> bool:
        """Whether the answer is still on a device."""
        return self._event is not None

    def known(self) -> bool:
        """The answer; the device is only waited for as far as that update."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._value.item())


def attached(optimizer: torch.optim.Optimizer) -> Scheduler | None:
    """The Scheduler that drives an optimizer."""
    owners = (getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, Scheduler)), None)


def _only_what_an_optimizer_can_do(plan: Plan) -> None:
    rule = plan.optimizer
    instead = "leave it out of the plan, or use fl.torch.Optimizer(model, plan), which does all that a plan says"
    if rule.clip is not None:
        raise InvalidValue(f"the plan clips the gradient's norm to {rule.clip}, which a torch optimizer does not: call torch.nn.utils.clip_grad_norm_ in your loop and {instead}")
    for name in ("l1", "average"):
        if getattr(rule, name) not in (None, 0):
            raise InvalidValue(f"the plan has {name}={getattr(rule, name)!r}, which a torch optimizer does not do: {instead}")
    for pattern, group in rule.groups:
        if group.frozen is not None or group.l1:
            raise InvalidValue(f"the plan's group {pattern!r} is frozen for a time, or has an l1 penalty, which a torch optimizer does not do: {instead}")


def _who(scheduler: Scheduler) -> str:
    """What else may have written, as far as can be known: the living schedulers of the same optimizer."""
    # type(), because isinstance asks the object itself, and among all living objects some answer with an error.
    living = [o for o in gc.get_objects() if issubclass(type(o), LRScheduler) and o is not scheduler and getattr(o, "optimizer", None) is scheduler.optimizer]
    if living:
        return f"the optimizer also has {' and '.join(sorted({type(o).__name__ for o in living}))}, which writes it too"
    return "something else wrote it, and no other scheduler of this optimizer is alive: look for param_groups[...] in the loop"
