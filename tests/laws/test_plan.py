"""Laws of plans: any cut is the same plan, every row once an epoch, JSON keeps everything."""

from __future__ import annotations

import itertools
import json
import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.batches import Batches, InFile, Resampled, Shuffled
from fallline.errors import PlanEnded
from fallline.layout import Layout, Parameter
from fallline.plan import Plan
from fallline.problems import logistic, quadratic
from fallline.rules import SGD, Adam, auto
from fallline.schedules import schedule

LAYOUT = Layout((Parameter("coef", (3,)), Parameter("intercept", (), "bias")))
RULE = SGD(lr=0.1, momentum=0.9, weight_decay=0.01, schedule=schedule("warmup(10%) > cosine"))

plans = st.builds(
    lambda rows, size, order, last, steps, seed: Plan(
        rows=rows, steps=steps, batch_size=Batches(min(size, rows), order=order, last=last), optimizer=RULE, seed=seed
    ),
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([Shuffled(), InFile(), Resampled()]), st.sampled_from(["keep", "drop"]),
    st.integers(1, 60), st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(plans, st.lists(st.integers(0, 60), max_size=5))
def test_a_plan_cut_anywhere_is_the_same_plan(plan, cuts):
    edges = sorted({0, plan.steps, *(c for c in cuts if c < plan.steps)})
    whole = plan.segment(0, plan.steps, LAYOUT)
    fresh = Plan.from_json(plan.to_json())
    parts = [fresh.segment(a, b, LAYOUT) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([p.indices for p in parts]), whole.indices)
    np.testing.assert_array_equal(np.concatenate([p.rows.dense() for p in parts]), whole.rows.dense())
    batches = [p.batch(i) for p in parts for i in range(p.steps)]
    for t, (batch, direct) in enumerate(zip(batches, plan.batches(), strict=True)):
        np.testing.assert_array_equal(batch, direct)
        np.testing.assert_array_equal(batch, whole.batch(t))
    for p in parts:
        assert p.bounds[-1] == len(p.indices) and p.bounds.dtype == np.int64
        sizes = set(np.diff(p.bounds).tolist())
        assert p.batch_size == (sizes.pop() if sizes == {p.nominal} else None)
        if p.nominal == 1:
            if p.stop < plan.steps:
                assert p.following == plan.segment(p.stop, p.stop + 1, LAYOUT).indices[0]
            else:  # where a longer plan would go on
                assert p.following is not None and 0 <= p.following < plan.rows


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 5), st.sampled_from([Shuffled(), InFile()]))
def test_every_epoch_visits_each_row_once(rows, size, seed, order):
    plan = Plan(rows=rows, epochs=3, batch_size=Batches(min(size, rows), order=order), optimizer=RULE, seed=seed)
    batches = list(plan.batches())
    per = plan.steps_per_epoch
    for epoch in range(3):
        seen = np.concatenate(batches[epoch * per : (epoch + 1) * per])
        np.testing.assert_array_equal(np.sort(seen), np.arange(rows))


@settings(max_examples=40, deadline=None)
@given(plans)
def test_json_keeps_the_plan(plan):
    again = Plan.from_json(json.dumps(plan.to_json()))
    assert again == plan and hash(again) == hash(plan) and again.fingerprint == plan.fingerprint
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan


def test_whatever_changes_what_happens_changes_the_fingerprint():
    base = Plan(rows=100, epochs=2, optimizer=RULE)
    others = [
        Plan(rows=101, epochs=2, optimizer=RULE), Plan(rows=100, epochs=3, optimizer=RULE), base.with_lr(0.2),
        Plan(rows=100, epochs=2, optimizer=RULE, seed=1), Plan(rows=100, epochs=2, batch_size=Batches(64, last="drop"), optimizer=RULE, ),
    ]  # fmt: skip
    assert len({p.fingerprint for p in [base, *others]}) == 6
    next(base.batches())
    assert base == Plan(rows=100, epochs=2, optimizer=RULE)


def test_the_full_batch_has_no_indices_and_one_update_an_epoch():
    plan = Plan(rows=1000, epochs=7, batch_size=Batches.full(chunk=10), optimizer=RULE)
    segment = plan.segment(2, 7, LAYOUT)
    assert plan.steps == 7 and segment.indices is None and segment.nominal is None and segment.chunk == 10
    assert all(len(b) == 1000 for b in plan.batches())


def test_reading_past_the_end_touches_nothing():
    plan = Plan(rows=10, steps=5, batch_size=2, optimizer=RULE)
    with pytest.raises(PlanEnded, match="update 5 was asked for and the plan ends with update 4"):
        plan.segment(3, 6, LAYOUT)
    assert plan.segment(5, 5, LAYOUT).steps == 0


def test_defaults():
    plan = Plan(quadratic([1, 2]), epochs=3)
    assert plan.batch_size == Batches(1) and plan.lr_is_auto and plan.optimizer == SGD(lr=auto, momentum=0.9)
    assert Plan(rows=1000, epochs=1).batch_size == Batches(64)
    assert Plan(rows=100, epochs=0.5, batch_size=10).steps == 5
    assert Plan(steps=10, optimizer=RULE).epochs is None


def test_lr_at_is_the_schedule_and_the_table_tells_it():
    plan = Plan(rows=1000, epochs=10, batch_size=10, optimizer=RULE)
    lr, T, w = plan.lr_at(), 1000, 100
    t = np.arange(T)
    expected = np.where(t < w, 0.1 * t / w, 0.05 * (1 + np.cos(np.pi * (t - w) / (T - w))))
    np.testing.assert_allclose(lr, expected, atol=1e-15)
    np.testing.assert_array_equal(plan.table(range(T))["lr"], lr)
    np.testing.assert_array_equal(plan.table([7, 900])["lr"], lr[[7, 900]])


def test_batch_size_rescales_the_rate_and_says_so():
    plan = Plan(rows=1024, epochs=2, batch_size=32, optimizer=SGD(lr=0.1, momentum=0.9))
    larger = plan.with_batch_size(128)
    assert larger.optimizer.lr == pytest.approx(0.4) and larger.epochs == 2 and "linear rule" in larger.notes[0]
    adaptive = Plan(rows=1024, epochs=2, batch_size=32, optimizer=Adam(lr=0.001)).with_batch_size(128)
    assert adaptive.optimizer.lr == pytest.approx(0.002) and "square root" in adaptive.explain()
    assert Plan(rows=1024, epochs=2, batch_size=32).with_batch_size(64).lr_is_auto
    assert plan.with_batch_size(32) == plan


def test_with_lr_takes_what_a_search_found():
    class Found:
        lr = 0.25

    plan = Plan(rows=10, epochs=1)
    assert plan.with_lr(Found()).optimizer.lr == 0.25 and plan.with_lr(np.float64(0.5)).optimizer.lr == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 50), st.integers(4, 8), st.integers(1, 4), st.integers(0, 10))
def test_ranks_share_every_global_batch(rows, size, world, start):
    plan = Plan(rows=rows, epochs=3, batch_size=Batches(size, last="drop"), optimizer=RULE)
    start = min(start, plan.steps - 1)
    samplers = [plan.sampler(rank, world, start) for rank in range(world)]
    given_out = []
    for _ in range(start // plan.steps_per_epoch, 3):
        lengths = {len(s) for s in samplers}
        epoch = [list(s) for s in samplers]
        assert lengths == {len(e) for e in epoch}
        given_out += [[i for share in shares for i in share] for shares in zip(*epoch, strict=True)]
    assert given_out == [b.tolist() for b in plan.batches(start)]
    with pytest.raises(PlanEnded):
        list(samplers[0])


def test_sampler_state():
    plan = Plan(rows=20, epochs=3, batch_size=6, optimizer=RULE)
    first = plan.sampler()
    walk = iter(first)
    next(walk), next(walk)
    again = plan.sampler()
    again.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert list(again) == list(walk)
    again.set_epoch(2)
    assert len(again) == 4 and again.batch_size == 6 and not again.drop_last
    assert all(isinstance(i, int) for i in next(iter(again)))


def test_sampler_drives_a_data_loader():
    torch = pytest.importorskip("torch")
    plan = Plan(rows=20, epochs=2, batch_size=8, optimizer=RULE)
    loader = torch.utils.data.DataLoader(torch.arange(20), batch_sampler=plan.sampler())
    assert len(loader) == 3
    seen = [batch.tolist() for _ in range(2) for batch in loader]
    assert seen == [b.tolist() for b in plan.batches()]


def test_explain_says_what_will_happen():
    problem = logistic(np.random.default_rng(0).standard_normal((100, 3)), np.arange(100) % 2)
    plan = Plan(problem, epochs=2, batch_size=32, optimizer=RULE)
    text = plan.explain(problem)
    for part in (
        "8 updates: 2 epochs of 4 updates over 100 rows", "32 rows, shuffled every epoch", "an epoch's last batch has 4",
        "the first update has lr 0 and does nothing", "weight decay 0.01", "no weight decay", "coef (3,)", "intercept ()",
    ):  # fmt: skip
        assert part in text, (part, text)


def test_shown_on_one_line_and_in_a_notebook():
    plan = Plan(rows=100, epochs=2, batch_size=32, optimizer=SGD(lr=0.1))
    assert eval(repr(plan)) == plan and "\n" not in repr(plan)
    assert "<table>" in plan._repr_html_()
    assert "step" in repr(plan.table())


def test_preparing_a_segment_is_cheap():
    n = 1_000_000
    plan = Plan(rows=n, epochs=2, batch_size=1, optimizer=SGD(lr=0.1))
    plan.segment(0, n, LAYOUT)
    took = []
    for _ in range(5):
        begin = time.perf_counter()
        plan.segment(0, n - 1, LAYOUT)
        took.append(time.perf_counter() - begin)
    assert min(took) < 3e-9 * n, took
