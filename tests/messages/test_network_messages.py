"""The exact words when a network cannot be what a table is fitted with."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fallline as fl  # noqa: E402
from fallline.model_spec import WORDS, model_spec  # noqa: E402
from fallline.torch import devices  # noqa: E402

NETS = """
import torch
narrow = lambda features, outputs: torch.nn.Linear(features, outputs + 1)
deaf = lambda features, outputs: torch.nn.Linear(features + 2, outputs)
pair = lambda features, outputs: torch.nn.GRU(features, outputs)
def number(features, outputs): return 7
def alone(features): return torch.nn.Linear(features, 1)
def inside(features, outputs): return torch.nn.Linear("a", outputs)
word = "no function"
"""
DATA = {"a": np.arange(40.0) % 7 + np.arange(40) / 100, "y": np.arange(40) % 3}


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FALLLINE_CACHE", str(tmp_path))
    (tmp_path / "nets_said.py").write_text(NETS)
    (tmp_path / "nets_halfway.py").write_text("import not_there_at_all\n")
    yield
    sys.modules.pop("nets_said", None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("mpl:64", f"model='mpl:64'; did you mean 'mlp'? expected {WORDS}"),
        ("linaer", f"model='linaer'; did you mean 'linear'? expected {WORDS}"),
        ("forest", f"model='forest'; expected {WORDS}"),
        ("a.b:c d", f"model='a.b:c d'; expected {WORDS}"),
        (7, f"model=7: expected {WORDS}"),
        ("mlp:", "model='mlp:': expected the widths of the hidden layers, whole numbers above 0 with commas between, such as mlp:256,128"),
        ("mlp:8,-2", "model='mlp:8,-2': expected the widths of the hidden layers, whole numbers above 0 with commas between, such as mlp:256,128"),
    ],
)
def test_words_that_name_no_model(given, words):
    with pytest.raises(fl.InvalidValue) as said:
        model_spec(given)
    assert str(said.value) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nets_not_there:make", f"model 'nets_not_there:make': module 'nets_not_there' cannot be imported (No module named 'nets_not_there'); expected package.module:factory, found from {os.getcwd()} or installed"),
        ("nets_halfway:make", f"model 'nets_halfway:make': module 'nets_halfway' cannot be imported (the import of 'not_there_at_all' fails); expected package.module:factory, found from {os.getcwd()} or installed"),
        ("nets_said:narow", "model 'nets_said:narow': nets_said has no 'narow'; did you mean 'narrow'? expected a function factory(features, outputs)"),
        ("nets_said:word", "model 'nets_said:word' is a str, which cannot be called: expected a function factory(features, outputs) that gives an nn.Module"),
        ("nets_said:number", "model nets_said:number: factory(1, 3) gave a int: expected an nn.Module"),
        ("nets_said:alone", "model nets_said:alone: alone() takes 1 positional argument but 2 were given; expected factory(features, outputs), called with (1, 3)"),
        ("nets_said:narrow", "model nets_said:narrow gives outputs of shape [2, 4] for 2 rows of 1 features: expected [2, 3]"),
        ("nets_said:deaf", "model nets_said:deaf fails on a batch of shape [2, 1]: mat1 and mat2 shapes cannot be multiplied (2x1 and 3x3); expected outputs of shape [2, 3]"),
        ("nets_said:pair", "model nets_said:pair gives a tuple: expected a tensor of shape [2, 3]"),
    ],
)
def test_factories_that_make_no_model_for_this_table(name, words):
    with pytest.raises(fl.InvalidValue) as said:
        fl.fit(DATA, target="y", model=name, epochs=1, progress=False)
    assert str(said.value) == words


def test_an_error_within_a_factory_is_the_user_s_own():
    with pytest.raises(TypeError):
        fl.fit(DATA, target="y", model="nets_said:inside", epochs=1, progress=False)


def test_devices_that_are_not_there(monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(fl.InvalidValue, match=r"^no device 'cuda' here: there is cpu"):
            fl.fit(DATA, target="y", model="mlp:4", device="cuda", progress=False)
    with pytest.raises(fl.InvalidValue, match=r"^no device 'gpu' here: there is cpu"):
        fl.fit(DATA, target="y", model="mlp:4", device="gpu", progress=False)
    with pytest.raises(fl.InvalidValue, match=r"^device='cuda' is for networks: a linear model is fitted on the CPU; leave it out, or give model='mlp:256,128'$"):
        fl.fit(DATA, target="y", device="cuda", progress=False)
    monkeypatch.setattr(devices, "there", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert str(devices.device("cuda:1")) == "cuda:1" and str(devices.device("cuda")) == "cuda"
    for name in ("cuda:2", "mps"):
        with pytest.raises(fl.InvalidValue, match=f"^no device '{name}' here: there is cpu, cuda:0, cuda:1"):
            devices.device(name)
