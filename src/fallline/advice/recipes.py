"""Starting points that are known to work, as plans: the textbook's two, a transformer's, a fast one, and fine-tuning.

A recipe is a function that returns a `Plan`: it can be printed, drawn, changed and trained like any other. Its lr
belongs to its batch size: another `batch_size` alone goes through `plan.with_batch_size`, which rescales the lr and
says so; an `lr` that is given is taken as it is. `suggest` chooses between SGD and an adaptive rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from fallline.batches import Batches
from fallline.errors import InvalidValue
from fallline.lengths import Length, epochs, fraction
from fallline.plan import Plan
from fallline.plan.scale import refitted_rule
from fallline.rules import SGD, AdamW, Group, Rule
from fallline.schedules import Schedule, cosine, linear, step_decay, times, warmup

if TYPE_CHECKING:
    from fallline.advice.suggestion import Suggestion

__all__ = ["fast_cifar", "fine_tune", "imagenet_resnet", "small_data", "suggest", "transformer"]

_epochs = epochs  # the length, where an argument of the same name hides it
_TWENTIETH = fraction(0.05)
_EVERYTHING = {"*": Group(weight_decay=1)}
"""Weight decay for biases and normalisation too, as `torch.optim.SGD(model.parameters(), weight_decay=...)` has it."""


def imagenet_resnet(
    *,
    rows: int = 1_281_167,
    epochs: float = 120,
    batch_size: int = 256,
    lr: float | None = None,
    drops: Sequence[float] = (30, 60, 90),
    decay_all: bool = True,
    seed: int = 0,
) -> Plan:
    """A ResNet or another convolutional network on ImageNet or data of its size, from nothing.

    Law: SGD, momentum 0.9, weight decay 1e-4, batches of 256; lr = 0.1 * 0.1^(number of drops passed), drops at epochs 30,
    60 and 90 of 120.

    When: a CNN for vision, 100 epochs or more, the best final accuracy wanted. For less time: `fast_cifar`.

    Args:
        rows: training images; left out, those of ImageNet's 1,000 classes.
        batch_size: images of a batch over all processes; other than 256, lr follows it.
        lr: the rate before the first drop; left out, 0.1 for 256 images.
        drops: the epochs from which lr is a tenth; a note says which lie past the end.
        decay_all: weight decay for biases and normalisation too, as in the source's code; False leaves them alone, the
            better choice in later work (He et al. 2019).

    Source: the textbook's section 2.7, after He et al. 2016 (600,000 updates of 256 images).

    >>> plan = imagenet_resnet()
    >>> plan.lr_at([0, 30 * plan.steps_per_epoch, 60 * plan.steps_per_epoch]).round(9).tolist()
    [0.1, 0.01, 0.001]
    """
    if not drops:
        raise InvalidValue("imagenet_resnet(drops=()): expected at least one epoch; for a constant rate take small_data or a Plan")
    shape = step_decay(0.1, at=[_epochs(at) for at in drops])
    rule = SGD(lr=0.1, momentum=0.9, weight_decay=1e-4, schedule=shape, groups=_EVERYTHING if decay_all else None)
    plan = _sized(rule, rows, epochs, Batches(batch_size), 256, lr, seed)
    late = [f"{at:g}" for at in drops if at >= epochs]
    return _noted(plan, [f"the drops of lr at epoch {' and '.join(late)} lie past the plan's end, epoch {epochs:g}: give drops="] if late else [])


def small_data(
    *,
    rows: int,
    epochs: float = 200,
    batch_size: int = 32,
    lr: float | None = None,
    decay_all: bool = True,
    seed: int = 0,
) -> Plan:
    """A network on a smaller data set: a lower rate and stronger regularisation.

    Law: SGD, momentum 0.9, weight decay 5e-4, lr 0.01 throughout, batches of 32, 200 epochs.

    When: tens of thousands of rows or fewer, many epochs. The rate never falls here; a schedule often ends better
    (`replace(plan.optimizer, schedule="warmup(5%) > cosine")`).

    Args:
        rows: training rows.
        batch_size: rows of a batch; other than 32, lr follows it.
        lr: left out, 0.01 for 32 rows.
        decay_all: weight decay for *all* parameters, as the source's `SGD(model.parameters(), weight_decay=5e-4)` has it;
            False leaves biases and normalisation alone, this library's choice elsewhere: decaying them regularises nothing
            and pulls offsets and scales to zero.

    Source: the textbook's section 2.7.

    >>> plan = small_data(rows=50_000)
    >>> plan.optimizer.lr, plan.optimizer.weight_decay, plan.epochs
    (0.01, 0.0005, 200.0)
    """
    rule = SGD(lr=0.01, momentum=0.9, weight_decay=5e-4, groups=_EVERYTHING if decay_all else None)
    return _sized(rule, rows, epochs, Batches(batch_size), 32, lr, seed)


def transformer(
    *,
    rows: int,
    epochs: float = 10,
    batch_size: int = 64,
    lr: float | None = None,
    ramp: Length = _TWENTIETH,
    decay: Schedule | None = None,
    weight_decay: float = 0.1,
    seed: int = 0,
) -> Plan:
    """A transformer, or another network with attention: AdamW, a warmup, then down.

    Law: betas (0.9, 0.95), weight decay 0.1 on matrices alone, gradient norm clipped at 1; lr on a straight line from 1 % to
    3e-4 over 5 % of the plan, then a cosine to 10 % of it.

    When: attention, from nothing or nearly. `decay=linear(to=0)` is the better end for a fixed budget (Bergsma et al. 2025).

    Args:
        rows: training examples.
        epochs, batch_size: 10 and 64 are lengths to start from, ours; language models see their rows about once.
        lr: the peak; left out, 3e-4 for 64 rows, within the textbook's 1e-4 to 1e-3 for Adam.
        ramp: the warmup's length; the textbook's typical 5 to 10 %.
        decay: the schedule after the warmup; left out, `cosine(to=times(0.1))`.

    Source: the textbook's 2.4 and 2.5 (rates, warmup then cosine); betas, decay, clip and the cosine's end from Brown et al.
    2020 (GPT-3). The warmup's start of 1 % is ours: from 0 the first update would do nothing.

    >>> plan = transformer(rows=6400, epochs=1)
    >>> plan.lr_at([0, 5, 99]).round(8).tolist()
    [3e-06, 0.0003, 3.007e-05]
    """
    shape = warmup(ramp, start=times(0.01)).then(cosine(to=times(0.1)) if decay is None else decay)
    rule = AdamW(lr=3e-4, betas=(0.9, 0.95), weight_decay=weight_decay, clip=1.0, schedule=shape)
    return _sized(rule, rows, epochs, Batches(batch_size), 64, lr, seed)


def fast_cifar(
    *,
    rows: int = 50_000,
    epochs: float = 9.9,
    batch_size: int = 1024,
    lr: float | None = None,
    norm_biases: str | None = None,
    decay_all: bool = True,
    seed: int = 0,
) -> Plan:
    """A small convolutional network on CIFAR-10 in seconds: a triangle of large rates.

    Law: SGD with Nesterov's momentum 0.85; lr in a straight line from 0.2 to 1 of its peak over 23 % of the updates, then to
    0.07; the peak is 11.5 / (1 + 1/(1 - 0.85)) = 1.5 for the mean loss of 1,024 images, weight decay 0.0153 / 11.5.

    When: a short time, a network with normalisation, batches of a thousand. Of its source this is the descent only: the
    network, its whitening, label smoothing 0.2 and Lookahead are not in it, and without them the peak may be too high.

    Args:
        rows, epochs, batch_size: CIFAR-10's 50,000; 9.9 epochs; 1,024, the short last batch dropped. All three the source's.
        lr: the peak; left out, 1.5 for 1,024 images.
        norm_biases: a pattern for the biases of normalisation, such as "*norm*.bias": 64 times the lr and 1/64 of the weight
            decay. Left out, they go with the others, which the source found slower.
        decay_all: weight decay for all parameters, as in the source.

    Source: airbench94 (Jordan 2024), where each number stands; it divides its lr by 1 + 1/(1 - momentum).

    >>> plan = fast_cifar()
    >>> plan.steps, plan.lr_at([0, 109]).round(12).tolist()
    (476, [0.3, 1.5])
    """
    momentum = 0.85
    peak = round(11.5 / (1 + 1 / (1 - momentum)), 12)
    groups: dict[str, Group] = {} if norm_biases is None else {norm_biases: Group(lr=64, weight_decay=1 / 64)}
    rule = SGD(
        lr=peak, momentum=momentum, nesterov=True, weight_decay=0.0153 / 11.5,
        schedule=warmup(fraction(0.23), start=times(0.2)).then(linear(to=times(0.07))),
        groups=groups | (_EVERYTHING if decay_all else {}),
    )  # fmt: skip
    plan = _sized(rule, rows, epochs, Batches(batch_size, last="drop"), 1024, lr, seed)
    return plan._with(steps=math.ceil(round(epochs * (plan.steps_per_epoch or 1), 9)))  # the source rounds its updates up


def fine_tune(
    model: Any,
    *,
    rows: int,
    head: str | Sequence[str],
    body: float | Mapping[str, float] = 0.1,
    frozen: Length | None = None,
    epochs: float = 10,
    batch_size: int = 32,
    optimizer: Rule | None = None,
    seed: int = 0,
) -> Plan:
    """A trained network on new data: the new head at the full rate, the body lower, frozen at first on request.

    Law: lr(head) = lr, lr(body) = body * lr; lr rises over 5 % of the plan and falls to zero in a straight line.

    When: the body was trained before on related data. From nothing, use the other recipes.

    Args:
        model: anything with `named_parameters()`, pairs of a name and a parameter.
        rows: training rows.
        head: pattern of the head's parameter names, such as "fc.*", or several.
        body: multiplier of lr for all others; or patterns with their multipliers, the first match wins, for rates that fall
            towards the input: {"layer4.*": 0.3, "*": 0.1}.
        frozen: how long the body stands still, such as epochs(1); None: it moves from the start.
        optimizer: a rule of your own without groups; left out, SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4).
            Its own schedule stays; without one it gets the law's.

    Raises:
        InvalidValue: a pattern that matches no parameter that trains.

    Source: Howard & Ruder 2018 (rates by layer, gradual unfreezing); the rule of Kornblith et al. 2019. The rate 0.01, the factor
    0.1, 10 epochs and 32 rows are ours: numbers to start from.

    >>> class Net:
    ...     def named_parameters(self):
    ...         return [("conv.weight", 0), ("fc.weight", 0)]
    >>> fine_tune(Net(), rows=1000, head="fc.*", frozen=_epochs(1)).optimizer.groups[1]
    ('*', Group(lr=0.1, weight_decay=None, l1=None, frozen=epochs(1)))
    """
    rule = SGD(lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4) if optimizer is None else optimizer
    if rule.groups:
        raise InvalidValue(f"fine_tune(optimizer={rule!r}): it has groups already, and fine_tune makes them; give one without groups=")
    heads = [head] if isinstance(head, str) else list(head)
    bodies = dict(body) if isinstance(body, Mapping) else {"*": body}
    groups = {pattern: Group() for pattern in heads} | {pattern: Group(lr=rate, frozen=frozen) for pattern, rate in bodies.items()}
    if len(groups) < len(heads) + len(bodies) or not heads:
        raise InvalidValue(f"fine_tune(head={head!r}, body={body!r}): expected at least one pattern for the head, and none of them in the body too")
    _each_matches(groups, list(_trainable(model)))
    schedule = rule.schedule
    if schedule is None and not isinstance(rule.lr, Schedule):
        schedule = warmup(_TWENTIETH, start=times(0.01)).then(linear(to=0))
    plan = Plan(rows=rows, epochs=epochs, batch_size=min(batch_size, rows), seed=seed, optimizer=replace(rule, groups=groups, schedule=schedule))
    notes = [f"a batch holds all {rows} rows: there are fewer than {batch_size}"] if rows < batch_size else []
    if frozen is not None and frozen.in_steps(plan.clock) >= plan.steps:
        notes.append(f"the body is frozen for {frozen!r}, the whole plan: only the head is trained")
    return _noted(plan, notes)


def suggest(model: Any, rows: int | None = None, epochs: float = 20) -> Suggestion:
    """SGD with momentum, or an adaptive rule, by the textbook's reasons: a plan to start from, and why.

    Law: attention, recurrence, embeddings, sparse rows and quick prototypes take an adaptive rule; convolutions, many epochs
    (100 and more) and dense linear models take SGD with momentum.

    Args:
        model: a module (anything with `modules()` and `named_parameters()`; its layers are known by their class names, and
            PyTorch is not imported), or a linear problem such as `fl.logistic(X, y)`.
        rows: training rows; a linear problem brings its own.
        epochs: passes over the rows that there is time for.

    Returns:
        Suggestion: `plan`, `rule`, `reasons`.

    Raises:
        InvalidValue: neither a module nor a linear problem, or no rows.

    Source: the textbook's section 2.7, "When to use SGD"; Duchi et al. 2011 for sparse rows.

    >>> import fallline as fl
    >>> answer = suggest(fl.logistic([[0.0], [1.0], [2.0]], [0, 0, 1]))
    >>> answer.rule
    SGD(lr=auto, schedule='warmup(5%) > linear(to=0)', momentum=0.9)
    """
    from fallline.advice.suggestion import choose

    return choose(model, rows, epochs)


# ---- shared


def _sized(rule: Any, rows: int, epochs: float, batches: Batches, own: int, lr: Any, seed: int) -> Plan:
    """The recipe's plan; its lr belongs to batches of `own` rows, and follows another size unless it is given."""
    notes: list[str] = []
    if lr is not None:
        rule = rule.with_lr(lr)
    elif batches.size != own:
        there = Plan(rows=max(rows, own), epochs=epochs, batch_size=replace(batches, size=own), optimizer=rule)
        rule, notes = refitted_rule(there, batches)
    return _noted(Plan(rows=rows, epochs=epochs, batch_size=batches, optimizer=rule, seed=seed), notes)


def _noted(plan: Plan, notes: Sequence[str]) -> Plan:
    return plan._with(notes=(*plan.notes, *notes))


def _trainable(model: Any) -> Iterator[str]:
    """Names of the parameters that train."""
    if not callable(getattr(model, "named_parameters", None)):
        raise InvalidValue(f"fine_tune({type(model).__name__}): expected a model with named_parameters(), pairs of a name and a parameter")
    return (name for name, parameter in model.named_parameters() if getattr(parameter, "requires_grad", True))


def _each_matches(patterns: Mapping[str, Group], names: Sequence[str]) -> None:
    """Refuse a pattern that is the first to match no name."""
    unused = dict(patterns)
    for name in names:
        first = next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        if first is None:
            raise InvalidValue(f"fine_tune: no pattern matches the parameter {name!r}; patterns: {', '.join(patterns)}; add '*' to body")
        unused.pop(first, None)
    if unused:
        shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
        raise InvalidValue(f"fine_tune: the pattern {next(iter(unused))!r} is left without a parameter that trains; parameters: {shown}")
