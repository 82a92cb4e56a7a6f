"""Each recipe's plan, number by number, against a loop written by hand; what its arguments change; who is decayed."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fallline as fl
from fallline.advice import recipes
from fallline.layout import Layout, Parameter
from fallline.rows import INDEX
from fallline.rules import resolve_groups

LAYOUT = Layout((Parameter("fc.weight", (2, 3)), Parameter("norm.weight", (2,), "norm"), Parameter("fc.bias", (2,), "bias")))


def columns(plan: fl.Plan, *names: str) -> list[np.ndarray]:
    """Columns of the first parameter of LAYOUT, a weight, at every update."""
    rows, group_of = plan.rows_between(0, plan.steps, LAYOUT)
    return [np.broadcast_to(rows.column(name), (plan.steps, len(set(group_of))))[:, group_of[0]] for name in names]


def l2_of(plan: fl.Plan) -> list[float]:
    """The coupled decay that each parameter of LAYOUT gets at the first update."""
    rows, group_of = plan.rows_between(0, 1, LAYOUT)
    return [float(rows.dense()[0, g, INDEX["l2"]]) for g in group_of]


def test_imagenet_is_the_textbooks_loop_at_every_step():
    plan = recipes.imagenet_resnet(rows=2500)
    lr, expected = 0.1, []
    for epoch in range(120):
        if epoch in (30, 60, 90):
            lr = lr / 10
        expected += [lr] * math.ceil(2500 / 256)
    lr, momentum, l2, through, direct = columns(plan, "lr", "momentum", "l2", "through", "direct")
    np.testing.assert_allclose(lr, expected, rtol=1e-12)
    np.testing.assert_array_equal(plan.table(range(plan.steps))["lr"], lr)
    assert plan.steps == len(expected) == 1200 and plan.batch_size == fl.Batches(256) and plan.notes == ()
    assert set(momentum) == {0.9} and set(l2) == {1e-4} and set(through) == {1.0} and set(direct) == {0.0}
    assert fl.recipes.imagenet_resnet().rows == 1_281_167 and fl.recipes is recipes


def test_small_data_is_constant():
    plan = recipes.small_data(rows=100)
    lr, momentum, l2 = columns(plan, "lr", "momentum", "l2")
    assert plan.steps == 200 * 4 and set(lr) == {0.01} and set(momentum) == {0.9} and set(l2) == {5e-4}
    assert plan.batch_size == fl.Batches(32)


@pytest.mark.parametrize("recipe, decay", [(recipes.imagenet_resnet, 1e-4), (recipes.small_data, 5e-4), (recipes.fast_cifar, 0.0153 / 11.5)])
def test_all_parameters_are_decayed_or_weights_alone(recipe, decay):
    assert l2_of(recipe(rows=2048)) == pytest.approx([decay] * 3)
    assert l2_of(recipe(rows=2048, decay_all=False)) == pytest.approx([decay, 0, 0])


def test_transformer_warms_up_then_follows_a_cosine_to_a_tenth():
    plan = recipes.transformer(rows=6400, epochs=2)
    T, w, peak = 200, 10, 3e-4
    expected = [peak * (0.01 * (w - t) / w + t / w) for t in range(w)]
    expected += [0.1 * peak + 0.9 * peak / 2 * (1 + math.cos(math.pi * (t - w) / (T - w))) for t in range(w, T)]
    np.testing.assert_allclose(plan.table(range(T))["lr"], expected, rtol=1e-12)
    lr, shrink, clip, keep = columns(plan, "lr", "shrink", "clip", "second_keep")
    np.testing.assert_allclose(lr, np.array(expected) / (1 - 0.9 ** (np.arange(T) + 1)), rtol=1e-12)
    np.testing.assert_allclose(shrink, 1 - 0.1 * np.array(expected), rtol=1e-12)
    assert set(clip) == {1.0} and set(keep) == {0.95}
    line = recipes.transformer(rows=6400, epochs=2, decay=fl.linear(to=0), ramp=fl.steps(40)).lr_at()
    np.testing.assert_allclose(line[40:], peak * (T - np.arange(40, T)) / (T - 40), rtol=1e-12)


def test_fast_cifar_is_its_sources_triangle():
    plan = recipes.fast_cifar()
    steps = math.ceil(48 * 9.9)
    expected = np.interp(np.arange(steps), [0, int(0.23 * steps), steps], [0.2, 1, 0.07]) * 11.5 / (1 + 1 / 0.15)
    lr, momentum, through, direct, l2 = columns(plan, "lr", "momentum", "through", "direct", "l2")
    np.testing.assert_allclose(lr, expected, rtol=1e-12)
    np.testing.assert_allclose(l2 * lr.max(), 0.0153 / (1 + 1 / 0.15), rtol=1e-12)  # the source divides both by the same
    assert plan.steps == steps == 476 and set(momentum) == set(through) == {0.85} and set(direct) == {1.0}
    assert all(len(batch) == 1024 for batch in recipes.fast_cifar(rows=3000, epochs=2).batches())


def test_fast_cifar_keeps_the_decay_of_norm_biases_while_their_rate_grows():
    groups, group_of = resolve_groups(recipes.fast_cifar(norm_biases="norm.*").optimizer, LAYOUT)
    multipliers = [(groups[g].lr, groups[g].weight_decay) for g in group_of]
    assert multipliers == [(1, 1), (64, 1 / 64), (1, 1)]


class Net:
    """A model as far as `fine_tune` looks."""

    def __init__(self, *names: str, still: tuple[str, ...] = ()):
        self.names, self.still = names, still

    def named_parameters(self):
        class One:
            def __init__(self, trains: bool):
                self.requires_grad = trains

        return [(name, One(name not in self.still)) for name in self.names]


NET = Net("layer1.weight", "layer2.weight", "fc.weight", "fc.bias")
NET_LAYOUT = Layout(tuple(Parameter(n, (1,), "bias" if n.endswith("bias") else "weight") for n in NET.names))


def test_fine_tune_rates_by_group_at_every_step():
    plan = recipes.fine_tune(NET, rows=320, head="fc.*", frozen=fl.epochs(1), epochs=4)
    rows, group_of = plan.rows_between(0, plan.steps, NET_LAYOUT)
    lr = rows.dense()[:, :, INDEX["lr"]]
    t, T, w = np.arange(40), 40, 2
    peak = 0.01 * np.where(t < w, 0.01 * (w - t) / w + t / w, (T - t) / (T - w))
    np.testing.assert_allclose(lr[:, group_of[2]], peak, rtol=1e-12)
    np.testing.assert_allclose(lr[:, group_of[0]], np.where(t < 10, 0, 0.1 * peak), rtol=1e-12)
    assert group_of[0] == group_of[1] and [float(rows.dense()[20, g, INDEX["l2"]]) for g in group_of] == [1e-4, 1e-4, 1e-4, 0]


def test_fine_tune_takes_rates_by_layer_and_a_rule_of_ones_own():
    rule = fl.AdamW(lr=1e-3, schedule="cosine")
    plan = recipes.fine_tune(NET, rows=320, head=["fc.weight", "fc.bias"], body={"layer2.*": 0.3, "*": 0.1}, optimizer=rule)
    assert [g.lr for _, g in plan.optimizer.groups] == [1, 1, 0.3, 0.1] and str(plan.optimizer.schedule) == "cosine(to=0)"
    assert "the whole plan" in recipes.fine_tune(NET, rows=320, head="fc.*", frozen=fl.epochs(1), epochs=1).notes[0]
    assert "there are fewer than 32" in recipes.fine_tune(NET, rows=20, head="fc.*").notes[0]


@pytest.mark.parametrize("recipe, own, lr", [(recipes.imagenet_resnet, 256, 0.1), (recipes.small_data, 32, 0.01), (recipes.fast_cifar, 1024, 1.5)])
def test_another_batch_size_takes_the_rate_along_and_a_given_rate_stays(recipe, own, lr):
    assert recipe(rows=5000).optimizer.lr == lr
    half = recipe(rows=5000, batch_size=own // 2)
    assert half.optimizer.lr == pytest.approx(lr / 2) and "linear rule" in half.notes[0]
    double = recipe(rows=5000, batch_size=own * 2)
    assert double.optimizer.lr == pytest.approx(lr * 2)
    given = recipe(rows=5000, batch_size=own * 2, lr=0.02, seed=3)
    assert given.optimizer.lr == 0.02 and given.notes == () and given.seed == 3
    few = recipe(rows=own // 2, batch_size=own // 4)  # fewer rows than the recipe's own batch
    assert few.optimizer.lr == pytest.approx(lr / 4)
    assert recipe(rows=5000, lr=fl.auto, epochs=3).lr_is_auto


def test_a_larger_imagenet_batch_is_the_rescaled_plan():
    assert recipes.imagenet_resnet(rows=5120, batch_size=512) == recipes.imagenet_resnet(rows=5120).with_batch_size(512)
    assert recipes.transformer(rows=6400, batch_size=256).optimizer.lr == pytest.approx(6e-4)


def test_drops_past_the_end_are_told():
    assert recipes.imagenet_resnet(rows=2560, epochs=60).notes == ("the drops of lr at epoch 60 and 90 lie past the plan's end, epoch 60: give drops=",)
    short = recipes.imagenet_resnet(rows=2560, epochs=9, drops=(3, 6))
    np.testing.assert_allclose(short.lr_at(), np.repeat([0.1, 0.01, 0.001], 30), rtol=1e-12)
    assert short.notes == ()


def test_recipes_are_found_lazily_and_round_trip():
    for plan in (recipes.imagenet_resnet(), recipes.transformer(rows=100), recipes.fast_cifar(norm_biases="*norm*"), recipes.fine_tune(NET, rows=99, head="fc.*")):
        assert fl.Plan.from_json(plan.to_json()) == plan
