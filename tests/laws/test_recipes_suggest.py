"""Which rule is suggested for which model: a table of cases, and that looking at a model imports nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

import fallline as fl
from fallline.advice import recipes
from fallline.advice.suggestion import inventory


def net(*layers: str, parameters: int = 100):
    """A module of layers with these class names."""
    made = [type(name, (), {})() for name in layers]
    weight = np.zeros(parameters)
    return type("Net", (), {"modules": lambda self: [self, *made], "named_parameters": lambda self: [("w", weight)]})()


CASES = [
    # layers, rows, epochs, rule, momentum or None, what a reason says
    (["Conv2d", "BatchNorm2d", "Linear"], 50_000, 100, "SGD", 0.9, "for CNNs SGD with momentum often generalises better"),
    (["Conv2d", "BatchNorm2d", "Linear"], 50_000, 30, "SGD", 0.9, "1 convolution"),
    (["Conv2d", "Linear"], 50_000, 5, "AdamW", None, "a quick prototype"),
    (["Conv2d", "BatchNorm2d"], 1_281_167, 120, "SGD", 0.9, "ImageNet's size"),
    (["Conv2d", "MultiheadAttention", "LayerNorm"], 50_000, 300, "AdamW", None, "1 layer with attention"),
    (["TransformerEncoderLayer"] * 2, 1000, 3, "AdamW", None, "2 layers with attention"),
    (["LSTM", "Linear"], 1000, 200, "AdamW", None, "1 recurrent layer: Adam is better for RNNs"),
    (["GRUCell"], 1000, 200, "AdamW", None, "recurrent"),
    (["EmbeddingBag", "Linear"], 1000, 200, "AdamW", None, "1 embedding"),
    (["Linear", "Linear"], 1000, 20, "AdamW", None, "less tuning"),
    (["Linear", "Linear"], 1000, 150, "SGD", 0.9, "150 epochs: long enough"),
]


@pytest.mark.parametrize("layers, rows, epochs, rule, momentum, reason", CASES)
def test_the_table_of_cases(layers, rows, epochs, rule, momentum, reason):
    answer = recipes.suggest(net(*layers), rows, epochs)
    assert type(answer.rule).__name__ == rule and getattr(answer.rule, "momentum", None) == momentum
    assert any(reason in said for said in answer.reasons), answer.reasons
    assert answer.plan.rows == rows and answer.plan.epochs == epochs and answer.rule is answer.plan.optimizer


def test_recurrent_gradients_are_clipped_and_attention_warms_up():
    assert recipes.suggest(net("LSTM"), 1000, 20).rule.clip == 1.0
    lr = recipes.suggest(net("SelfAttention"), 6400, 20).plan.lr_at()
    assert lr[0] < lr.max() / 50 and int(np.argmax(lr)) == 100


def test_numbers_follow_the_amount_of_data():
    small, large = (recipes.suggest(net("Conv2d"), rows, 120).plan for rows in (10_000, 300_000))
    assert (small.optimizer.lr, small.optimizer.weight_decay, small.batch_size.size) == (0.01, 5e-4, 32)
    assert large == recipes.imagenet_resnet(rows=300_000)


def test_norms_size_and_memory_are_spoken_of():
    said = "\n".join(recipes.suggest(net("Conv2d", "LayerNorm", parameters=2_000_000), 1000, 50).reasons)
    assert "1 normalisation layer: scales and offsets, and biases, are left out of weight decay" in said
    assert "2,000,000 parameters for 1,000 rows" in said and "keeps a velocity of each, 8.0 MB" in said
    adam = "\n".join(recipes.suggest(net("MultiheadAttention", parameters=2_000_000), 10**6, 5).reasons)
    assert "a velocity and a second moment of each, 16.0 MB" in adam and "validation" not in adam


def test_few_rows_are_one_batch_and_it_is_told():
    for answer in (recipes.suggest(net("Conv2d"), 20, 50), recipes.suggest(net("Linear"), 20, 50), recipes.suggest(fl.logistic(np.eye(4), [0, 0, 1, 1]))):
        assert answer.plan.steps_per_epoch == 1 and answer.plan.notes and answer.plan.notes[0] in str(answer)


def test_linear_problems():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((200, 4)), np.arange(200) % 2
    even, uneven = fl.logistic(X, y), fl.logistic(X * [1, 1, 1, 1000], y)
    sparse = fl.logistic(scipy.sparse.csr_matrix(np.where(X > 1, X, 0)), y)
    assert recipes.suggest(even).rule == fl.SGD(momentum=0.9, schedule="warmup(5%) > linear(to=0)")
    assert isinstance(recipes.suggest(uneven).rule, fl.AdamW) and "column 3" in recipes.suggest(uneven).reasons[0]
    assert isinstance(recipes.suggest(sparse).rule, fl.AdaGrad) and "sparse rows" in recipes.suggest(sparse).reasons[0]
    assert recipes.suggest(even, epochs=7).plan.epochs == 7 and recipes.suggest(even).plan.lr_is_auto


def test_the_plan_for_sparse_rows_can_be_trained():
    X = scipy.sparse.random(300, 40, 0.1, random_state=0, format="csr")
    problem = fl.logistic(X, np.asarray(X.sum(axis=1)).ravel() > np.median(np.asarray(X.sum(axis=1))))
    from fallline.engines.reference import ReferenceEngine
    from fallline.history import State

    plan = recipes.suggest(problem, epochs=20).plan.with_lr(0.1)
    state = State.begin(problem.start(), plan.optimizer.start())
    after = ReferenceEngine(problem).advance(state, plan.segment(0, plan.steps, problem.layout)).state
    assert problem.loss(after.w) < 0.9 * problem.loss(problem.start())


def test_layers_are_counted_by_name_and_nothing_else():
    assert inventory(net("Conv2d", "ConvTranspose1d", "ReLU", "GroupNorm", "Dropout", "MyGroupedQueryAttention")) == {"convolution": 2, "normalisation": 1, "attention": 1}


def test_looking_at_a_module_imports_no_torch():
    program = (
        "import sys, fallline as fl\n"
        "Conv2d = type('Conv2d', (), {})\n"
        "net = type('Net', (), {'modules': lambda s: [s, Conv2d()], 'named_parameters': lambda s: []})()\n"
        "fl.recipes.suggest(net, 1000, 100)\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_it_prints_on_one_line_and_in_full():
    answer = recipes.suggest(net("Conv2d"), 1000, 100)
    assert repr(answer).startswith("Suggestion(rule=SGD(lr=0.01") and "\n" not in repr(answer)
    assert str(answer).splitlines()[0] == repr(answer.rule) and all(f"  - {reason}" in str(answer) for reason in answer.reasons)
    html = answer._repr_html_()
    assert html.startswith("<p><b>SGD</b></p><ul><li>1 convolution") and html.count("<li>") == len(answer.reasons) and "<table>" in html
