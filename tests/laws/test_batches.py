"""Laws of the orders of rows: every row once, a pure function of (seed, epoch), uniform, equal to the plain twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fallline.batches import Batches, Blocks, InFile, Resampled, Shuffled
from fallline.errors import InvalidValue
from fallline.shuffle import mix, permutation, stream_key

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def plain_permutation(rows: int, key: int) -> list[int]:
    """The readable twin of the compiled shuffle."""
    out, state = list(range(rows)), key
    for i in range(rows - 1, 0, -1):
        bound = i + 1
        while True:
            state = (state + GOLDEN) & MASK
            m = (mix(state) >> 32) * bound
            if (m & 0xFFFFFFFF) >= (1 << 32) % bound:
                break
        j = m >> 32
        out[i], out[j] = out[j], out[i]
    return out


rows_seed_epoch = (st.integers(0, 300), st.integers(0, MASK), st.integers(0, 10**6))


@given(*rows_seed_epoch)
@settings(deadline=None)
def test_the_kernel_equals_its_twin(rows: int, seed: int, epoch: int):
    key = stream_key(seed, epoch)
    assert permutation(rows, key).tolist() == plain_permutation(rows, key)


def test_the_kernel_equals_its_twin_where_a_draw_is_rejected():
    """Rejections are rare (half of rows/2**32) and leave the kernel's side-by-side draws; key 74 has one."""
    rows, key = 20_000, 74
    first = ((mix((key + (i + 1) * GOLDEN) & MASK) >> 32) * (rows - i) for i in range(rows - 1))
    assert any((m & 0xFFFFFFFF) < (1 << 32) % (rows - i) for i, m in enumerate(first))
    assert permutation(rows, key).tolist() == plain_permutation(rows, key)


@given(*rows_seed_epoch, st.sampled_from([Shuffled(), InFile(), Blocks(1), Blocks(7), Blocks(1000), Blocks(20, 3), Blocks(50, 50), Blocks(1000, 7)]))
@settings(max_examples=60, deadline=None)
def test_every_row_exactly_once(rows: int, seed: int, epoch: int, order):
    found = order.indices(rows, seed, epoch)
    assert found.dtype == np.int32 and found.flags.c_contiguous
    assert sorted(found.tolist()) == list(range(rows))
    assert np.array_equal(found, order.indices(rows, seed, epoch))


@pytest.mark.parametrize("order", [Shuffled(), Resampled(), Blocks(10)])
def test_epochs_and_seeds_differ(order):
    seen = {order.indices(100, seed, epoch).tobytes() for seed in range(20) for epoch in range(20)}
    assert len(seen) == 400


def test_the_order_is_promised_for_ever():
    assert Shuffled().indices(8, 0, 0).tolist() == [7, 5, 6, 0, 2, 1, 4, 3]


def test_positions_are_uniform():
    rows, count = 8, 4000
    table = np.zeros((rows, rows))
    for epoch in range(count):
        table[np.arange(rows), Shuffled().indices(rows, 5, epoch)] += 1
    chi = ((table - count / rows) ** 2 / (count / rows)).sum()
    assert 20 < chi < 90  # 49 degrees of freedom


def test_resampling_is_uniform_and_repeats():
    counts = np.bincount(Resampled().indices(100_000, 1, 0), minlength=100_000)
    assert abs((counts == 0).mean() - np.exp(-1)) < 0.01
    assert abs((counts == 1).mean() - np.exp(-1)) < 0.01


def test_blocks_keep_neighbours_together():
    found = Blocks(10).indices(95, 0, 0)
    edges = np.flatnonzero(np.diff(found // 10))
    assert len(edges) == 9  # ten blocks, each in one piece


@given(st.integers(1, 500), st.integers(1, 500))
def test_steps_per_epoch(rows: int, size: int):
    if size > rows:
        with pytest.raises(InvalidValue, match=r"only .* rows.*Batches\.full\(\)"):
            Batches(size).steps_per_epoch(rows)
        return
    assert Batches(size).steps_per_epoch(rows) == len(range(0, rows, size))
    assert Batches(size, last="drop").steps_per_epoch(rows) == rows // size


def test_the_three_variants():
    assert Batches.full().steps_per_epoch(77) == 1 and Batches.full().is_full
    assert Batches.single().steps_per_epoch(77) == 77


@pytest.mark.parametrize(
    "one",
    [Batches(64), Batches(1, last="drop"), Batches(8, order=Blocks(100), chunk=2), Batches.full(chunk=5), Batches.single(),
     Batches(None, order=Shuffled()), Batches(3, order=Resampled()), Batches.full()],
)  # fmt: skip
def test_json_and_repr_round_trip(one: Batches):
    assert Batches.from_json(one.to_json()) == one and eval(repr(one)) == one


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "64"])
def test_bad_sizes_are_refused(bad):
    with pytest.raises(InvalidValue, match="expected a whole number of rows"):
        Batches(bad)


def test_bad_orders_and_seeds_are_refused():
    with pytest.raises(InvalidValue, match=r"write Shuffled\(\)"):
        Batches(4, order=Shuffled)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="seed=-1"):
        Shuffled().indices(4, -1, 0)
    with pytest.raises(InvalidValue, match="keep"):
        Batches(4, last="kept")  # type: ignore[arg-type]


@given(st.integers(1, 300), st.integers(0, 50), st.integers(1, 60), st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_an_order_of_blocks_is_made_part_by_part(rows: int, epoch: int, block: int, more: int, data):
    """Any part of it is that of the whole; a buffer's entries are the rows of its spans; buffers lie end to end."""
    order = Blocks(block + more, block)
    whole = order.indices(rows, 3, epoch)
    a, b = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    assert np.array_equal(order.part(rows, 3, epoch, a, b), whole[a:b])
    buffers = list(order.buffers(rows, 3, epoch, 0, rows))
    assert [x.start for x in buffers] == [0, *(x.stop for x in buffers[:-1])] and buffers[-1].stop == rows
    for buffer in buffers:
        assert sorted(whole[buffer.start : buffer.stop].tolist()) == sorted(i for p, q in buffer.spans.tolist() for i in range(p, q))
        assert len(buffer.spans) <= order.buffer // block


def test_a_buffer_holds_one_block_at_least():
    with pytest.raises(InvalidValue) as error:
        Blocks(10, 20)
    assert str(error.value) == "Blocks(buffer=10, block=20): a buffer holds one block at least; give block=10 or less"
    assert Batches.from_json(Batches(8, order=Blocks(10, 5)).to_json()) == Batches(8, order=Blocks(10, 5))
