"""The flags that commands share: each is written once, so that it means and says the same everywhere. Used as `flags.Target`."""

from __future__ import annotations

from typing import Annotated

import typer

FILES = "A file (CSV, Parquet, Arrow, JSON lines, .npy, .npz, svmlight) or a built-in set: digits, breast-cancer, diabetes, fashion-mnist"
NAMES = "sgd, nesterov, adam, adamw, nadam, rmsprop, adagrad, schedule-free"

Data = Annotated[str, typer.Argument(help=f"{FILES}.")]
Target = Annotated[str | None, typer.Option("--target", help="The column to predict.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Lr = Annotated[str, typer.Option(help="A learning rate, or auto.")]
BatchSize = Annotated[str, typer.Option(help="Rows of a batch: auto, full, or a number.")]
Optimizer = Annotated[str, typer.Option(help=f"auto, {NAMES}.")]
Model = Annotated[str, typer.Option("--model", help="linear, mlp:256,128 (hidden layers), or package.module:factory, where factory(features, outputs) gives an nn.Module.")]
Device = Annotated[str | None, typer.Option(help="Where a network is: cpu, cuda, cuda:0, mps. Left out, the CPU.")]
Momentum = Annotated[float | None, typer.Option(help="Of sgd and nesterov; 0.9 where left out.")]
Nesterov = Annotated[bool, typer.Option("--nesterov", help="Nesterov's momentum in PyTorch's form.")]
WeightDecay = Annotated[float | None, typer.Option(help="Times the weights; biases are left alone. Left out, fit finds one for a linear model.")]
Schedule = Annotated[str, typer.Option("--schedule", help='Of the learning rate, such as "warmup(5%) > cosine"; "constant" for none.')]
Epochs = Annotated[float, typer.Option(help="Passes over the training rows.")]
Seed = Annotated[int, typer.Option(help="Of order and split.")]
Valid = Annotated[str, typer.Option(help="A share of the rows, or a file.")]
Test = Annotated[str, typer.Option(help="A share of the rows, or a file.")]
Group = Annotated[str | None, typer.Option(help="Column whose groups stay whole in the split.")]
Time = Annotated[str | None, typer.Option(help="Column by which the newest rows test.")]
SampleWeight = Annotated[str | None, typer.Option(help="Column of weights.")]
Drop = Annotated[str, typer.Option(help="Columns to leave out: A,B.")]
Only = Annotated[str, typer.Option(help="The only columns to learn from: A,B.")]
Type = Annotated[list[str] | None, typer.Option(help="COL=text|number|category|date|hash:2^18; may be repeated.")]
Cross = Annotated[list[str] | None, typer.Option(help="A,B: the values of these columns together, as one more category; may be repeated.")]
Standardize = Annotated[bool, typer.Option("--standardize", help="Sparse columns too (svmlight, hashed, text) at mean 0 and deviation 1; they stay sparse.")]
Loss = Annotated[
    str | None,
    typer.Option("--loss", help="least_squares, logistic, softmax, huber, hinge, squared_hinge, modified_huber, perceptron, poisson, quantile, [squared_]epsilon_insensitive."),
]
ClassWeight = Annotated[str | None, typer.Option(help="balanced.")]
LogTarget = Annotated[bool, typer.Option("--log-target", help="Learn log(1 + target).")]
Out = Annotated[str | None, typer.Option(help="Folder of the run; left out, runs/<data>.")]
Memory = Annotated[str | None, typer.Option(help="What this may take, such as 1GB; a table that would not fit is read from files. Left out, most of what is free.")]
Cache = Annotated[str | None, typer.Option(help="Folder for the encoded rows of a table that is read from files; named, the table goes there in any case.")]
Metric = Annotated[list[str] | None, typer.Option(help="The headline's metric; may be repeated.")]
