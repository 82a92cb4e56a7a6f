"""The programs that people will type, as they stand: each with the data it needs, and no step that is not shown."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fallline as fl
from fallline.cli import main

pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Houses to train on and to predict, reviews, and a larger table."""
    import pyarrow as pa
    from pyarrow import parquet

    made, draw = tmp_path_factory.mktemp("programs"), np.random.default_rng(0)
    for name, start, count in (("train.csv", 1, 400), ("test.csv", 401, 90), ("data.csv", 1, 300)):
        area, rooms, place = draw.normal(120, 30, count), draw.integers(1, 7, count), draw.choice(["old town", "harbour", "hill"], count)
        price = 1000 * np.exp(area / 120 + rooms / 20 + 0.1 * draw.standard_normal(count) + 0.3 * (place == "hill"))
        with (made / name).open("w", newline="") as file:
            rows = csv.writer(file)
            target = {"train.csv": ["SalePrice"], "data.csv": ["price"], "test.csv": []}[name]
            rows.writerow(["Id", "area", "rooms", "place", *target])
            for i in range(count):
                rows.writerow([start + i, f"{area[i]:.1f}", rooms[i], place[i], *([f"{price[i]:.0f}"] if target else [])])
    words = np.array(["awful", "weak", "fair", "good", "superb"])
    stars = draw.integers(1, 6, 300)
    texts = [f"{' '.join(draw.choice(['the', 'plot', 'of', 'this', 'film', 'was', 'long'], 8))} {words[s - 1]} {words[s - 1]} indeed" for s in stars]
    parquet.write_table(pa.table({"review": texts, "stars": stars}), made / "reviews.parquet")
    big = draw.standard_normal((2000, 5))
    parquet.write_table(pa.table({**{f"x{i}": big[:, i] for i in range(5)}, "y": (big[:, 0] > 0).astype(int)}), made / "big.parquet")
    return made


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The models are tiny: threads would only wait for each other."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shell(text: str, capsys: pytest.CaptureFixture[str]) -> list[tuple[int, str, str]]:
    """Run each line as a shell would cut it."""
    out = []
    for line in text.strip().splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "fallline"
        capsys.readouterr()
        code = 0
        try:
            main(words[1:])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out.append((code, *capsys.readouterr()))
    return out


def python(text: str, **names: Any) -> dict[str, Any]:
    space = {"fl": fl, **names}
    exec(text, space)
    return space


# --------------------------------------------------------------------------------------------------------- a table

HOUSES = """
fallline fit train.csv --target SalePrice --drop Id --metric rmsle --log-target --out runs/house
fallline predict runs/house test.csv -o submission.csv --id Id
fallline fit reviews.parquet --target stars --type review=text --epochs 5
fallline fit big.parquet --target y --out runs/big --resume          # a requeued job: starts or continues
fallline runs runs/ --sort "test rmsle"
"""


def test_a_table_the_shell(here, capsys):
    done = shell(HOUSES, capsys)
    assert [code for code, _, _ in done] == [0] * 5, [err for _, _, err in done]
    assert "test rmsle" in done[0][1] and "house" in done[4][1] and "ranked by test rmsle" in done[4][1]
    with open("submission.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["Id"] for line in lines] == [str(i) for i in range(401, 491)] and all(float(line["SalePrice"]) > 0 for line in lines)
    assert fl.load("runs/house").summary["headline"]["value"] < 0.3
    assert shell('fallline fit big.parquet --target y --out runs/big --resume', capsys)[0][0] == 0, "the job is queued again"


def test_a_table_a_notebook(here):
    import pandas as pd

    fl.fit("train.csv", target="SalePrice", save="runs/notebook", progress=False)
    space = python(
        """
run = fl.fit("train.csv", target="SalePrice")
shown = run._repr_html_()             # a table and a picture
guess = run.predict(new_frame)
frame = fl.load("runs/notebook").history.to_pandas()
""",
        new_frame=pd.read_csv("test.csv"),
    )
    assert "<table" in space["shown"] and "svg" in space["shown"] and space["guess"].shape == (90,) and len(space["frame"]) > 0


def test_a_mistake(here, capsys):
    (one, *said), (other, *diverged) = shell(
        """
fallline fit data.csv --target prise          # no column 'prise'; did you mean 'price'? columns: ...
fallline fit data.csv --target price --lr 50  # Diverged at step 12: ... try lr 0.08, or leave --lr auto
""",
        capsys,
    )
    assert one == 3 and "no column 'prise'; did you mean 'price'? columns: Id, area, rooms, place, price" in said[1]
    assert other == 4 and "try lr" in diverged[1] and "--lr auto" in diverged[1]


# --------------------------------------------------------------------------------------------------------- PyTorch


def torch_parts() -> SimpleNamespace:
    torch = pytest.importorskip("torch")

    class ResNet(torch.nn.Module):
        """The names of a residual network: layer1 to layer4 and fc."""

        def __init__(self) -> None:
            super().__init__()
            for k in range(1, 5):
                setattr(self, f"layer{k}", torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6)))
            self.fc = torch.nn.Linear(6, 2)

        def forward(self, x: Any) -> Any:
            for k in range(1, 5):
                x = x + torch.relu(getattr(self, f"layer{k}")(x))
            return self.fc(x)

    class Reader(torch.nn.Module):
        """Takes **batch and gives an object with `.loss`, a mean over the tokens that are not masked."""

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 10)

        def forward(self, input_ids: Any, labels: Any) -> Any:
            logits = self.head(self.embed(input_ids))
            return SimpleNamespace(loss=torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100), logits=logits)

    torch.manual_seed(0)
    X = torch.randn(300, 6)
    y = (X[:, 0] > 0).long()
    ids = torch.randint(0, 10, (64, 7))
    return SimpleNamespace(
        torch=torch, X=X[:240], y=y[:240], Xv=X[240:], yv=y[240:], loss=torch.nn.functional.cross_entropy, resnet=ResNet(), bert=Reader(),
        train=torch.utils.data.TensorDataset(X, y), tokenised={"input_ids": ids, "labels": torch.where(ids > 7, -100, ids)},
    )  # fmt: skip


def test_pytorch_the_librarys_loop():
    parts = torch_parts()
    model = parts.torch.nn.Sequential(parts.torch.nn.Linear(6, 16), parts.torch.nn.ReLU(), parts.torch.nn.Linear(16, 2))
    space = python(
        """
problem = fl.torch.problem(model, loss, (X, y), valid=(Xv, yv))
run = fl.fit(problem, epochs=12)
""",
        model=model, **vars(parts),
    )  # fmt: skip
    assert space["run"].history.evaluations[-1]["valid_accuracy"] > 0.9 and space["run"].found is not None


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on a machine with fewer cores
def test_pytorch_ones_own_loop_fine_tuning():
    parts = torch_parts()
    seen: list[tuple[Any, Any, Any]] = []

    def loss(z: Any, y: Any) -> Any:
        seen.append((parts.resnet.fc.weight.detach().clone(), parts.resnet.layer1[0].weight.detach().clone(), parts.resnet.layer3[0].weight.detach().clone()))
        return parts.loss(z, y)

    space = python(
        """
plan = fl.Plan(rows=len(train), epochs=5, batch_size=64, seed=0,
               optimizer=fl.AdamW(lr=2e-4, groups={"fc.*": fl.Group(lr=10), "layer[12].*": fl.Group(frozen=fl.epochs(1))}, schedule="warmup(5%) > cosine"))
opt, loader = fl.torch.Optimizer(resnet, plan), DataLoader(train, batch_sampler=plan.sampler(), num_workers=4)
for epoch in range(5):
    for x, y in loader:
        loss(resnet(x), y).backward(); opt.step(); opt.zero_grad()
""",
        DataLoader=parts.torch.utils.data.DataLoader, **(vars(parts) | {"loss": loss}),
    )  # fmt: skip
    per = space["plan"].steps_per_epoch
    moved = [[not parts.torch.equal(a, b) for a, b in zip(seen[0], seen[t], strict=True)] for t in (per, per + 1, -1)]
    assert moved[0] == [True, False, True], "layer1 stands still for an epoch"
    assert moved[-1] == [True, True, True] and space["opt"].update == space["plan"].steps == 25


def test_pytorch_code_that_exists_already():
    parts = torch_parts()
    model = parts.torch.nn.Linear(6, 2)
    loader = parts.torch.utils.data.DataLoader(parts.train, batch_size=30, shuffle=True)
    adamw = parts.torch.optim.AdamW(model.parameters(), lr=1e-3)
    plan = fl.Plan(rows=300, epochs=2, batch_size=30, optimizer=fl.AdamW(schedule="warmup(5%) > cosine"))
    space = python(
        """
found = fl.torch.find_lr(model, loss, loader, optimizer=adamw)
scheduler = fl.torch.Scheduler(adamw, plan.with_lr(found))
""",
        model=model, loader=loader, adamw=adamw, plan=plan, loss=parts.loss,
    )  # fmt: skip
    used = []
    for _ in range(2):
        for x, y in loader:
            used.append(adamw.param_groups[0]["lr"])
            parts.loss(model(x), y).backward()
            adamw.step()
            adamw.zero_grad()
    assert np.array_equal(used, space["scheduler"].plan.lr_at()) and max(used) == space["found"].lr


BERT = """
problem = fl.torch.problem(bert, objective=lambda m, b: ((out := m(**b)).loss * (n := (b["labels"] != -100).sum()), n), data=tokenised)
"""


def test_a_model_that_takes_a_batch_as_a_dict_and_returns_its_own_loss():
    parts = torch_parts()
    problem = python(BERT, **vars(parts))["problem"]
    run = fl.fit(problem, epochs=8, progress=False)
    assert run.history.loss[-8:].mean() < 0.9 * run.history.loss[:8].mean()


def test_the_same_with_a_bert():
    transformers = pytest.importorskip("transformers", reason="the package 'transformers' is not installed; a stand-in is tested above")
    parts = torch_parts()
    config = transformers.BertConfig(vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=10)
    ids = parts.tokenised["input_ids"]
    tokenised = parts.tokenised | {"attention_mask": parts.torch.ones_like(ids)}
    problem = python(BERT, bert=transformers.BertForTokenClassification(config), tokenised=tokenised)["problem"]
    run = fl.fit(problem, epochs=4, progress=False)
    assert "attention" in next(e["why"] for e in run.journal if e["what"] == "optimizer")
    plan = fl.Plan(problem, steps=2, batch_size=fl.Batches.full(chunk=24), optimizer=fl.SGD(0.1))
    assert fl.train(problem, plan, progress=False).outcome.name == "Finished"


# ---------------------------------------------------------------------------------------------------------- a lecture


def test_a_lecture(here):
    space = python(
        """
picture = fl.compare(fl.quadratic([1, 100]), {"plain": fl.SGD(lr=.018), "momentum": fl.SGD(lr=.018, momentum=.9), "look-ahead": fl.Nesterov(lr=.018, momentum=.9)}, start=[-4, 1.5], steps=60).plot()
law = fl.Nesterov(lr=.1, momentum=.9).formula()
"""
    )
    picture = space["picture"]
    assert "look-ahead diverged at update 8: lr 0.018 is above its edge 0.01357" in picture.caption and "look-ahead diverged" in picture.title
    picture.save("lecture.svg")
    assert "diverged" in Path("lecture.svg").read_text()
    assert "gradient at (w - lr*0.9*v)" in space["law"] and "v = 0.9*v + g" in space["law"]


def test_comparing(here, capsys):
    """Shortened; `fallline compare ravine` is run by docs/compare.md."""
    done = shell("fallline compare digits --variants batch,sgd,minibatch,momentum,nesterov --epochs 1 --seeds 1", capsys)
    assert done[0][0] == 0 and "nesterov" in done[0][1] and Path("digits-compared.html").exists()
