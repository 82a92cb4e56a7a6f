"""Arrays and safetensors bytes: the package's own reading is the reference, on whole files and on spoilt ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from safetensors.numpy import load

from fallline.durable import Damaged
from fallline.tensors import KINDS, packed, unpacked

arrays = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(sorted(KINDS.values())).flatmap(lambda kind: hn.arrays(kind, hn.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))),
    max_size=4,
)


def told(found: Any) -> Any:
    return {k: (v.dtype, v.shape, v.tobytes()) for k, v in found.items()}


@given(arrays)
def test_what_was_packed_comes_back(held: dict[str, np.ndarray]):
    assert told(unpacked(packed(held))) == told(held) == told(load(packed(held)))


@given(arrays, st.data())
@settings(max_examples=300)
def test_a_spoilt_file_is_refused_or_read_as_the_package_reads_it(held: dict[str, np.ndarray], data: st.DataObject):
    whole = bytearray(packed(held))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.sampled_from(b'\0\1\x7f\xff 0189{}[],:"'))
    spoilt = bytes(whole[: data.draw(st.integers(0, len(whole)))]) if data.draw(st.booleans()) else bytes(whole)
    try:
        found = told(unpacked(spoilt))
    except Damaged:
        return
    assert found == told(load(spoilt))


def test_views_share_the_file_s_bytes():
    whole = memoryview(bytearray(packed({"w": np.zeros(3), "b": np.ones((2, 2), np.float32)})))
    found = unpacked(whole)
    found["w"][1] = 5.0
    assert unpacked(whole)["w"].tolist() == [0.0, 5.0, 0.0] and not found["b"].flags.owndata
