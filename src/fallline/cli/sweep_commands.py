"""The command `sweep`: its flags and their help."""

from __future__ import annotations

from typing import Annotated

import typer

Values = "One value, values with commas between, or LOW..HIGH:COUNT (log scale; :linear at the end for even steps)."


def register(app: typer.Typer, codes: str) -> None:
    """Add the command to the application."""

    @app.command(epilog=codes)
    def sweep(
        data: Annotated[str, typer.Argument(help="A file (CSV, Parquet, Arrow, JSON lines, .npz, svmlight) or a built-in set: digits, breast-cancer, diabetes, fashion-mnist.")],
        target: Annotated[str | None, typer.Option("--target", help="The column to predict.")] = None,
        lr: Annotated[str, typer.Option(help=f"Learning rates. {Values}")] = "1e-4..1:9",
        momentum: Annotated[str | None, typer.Option(help="Of sgd and nesterov; 0.9 where left out. Values as for --lr.")] = None,
        weight_decay: Annotated[str | None, typer.Option(help="Values as for --lr.")] = None,
        batch_size: Annotated[str | None, typer.Option(help="Rows of a batch, or full; 32 where left out. Values as for --lr.")] = None,
        optimizer: Annotated[str, typer.Option(help="sgd, nesterov, adam, adamw, nadam, rmsprop, adagrad, schedule-free; several with commas between.")] = "sgd",
        schedule: Annotated[str | None, typer.Option(help='Of the learning rate, such as "warmup(5%) > cosine"; several with commas between.')] = None,
        over: Annotated[list[str] | None, typer.Option(help="NAME=VALUES of any other hyperparameter; may be repeated.")] = None,
        epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 20,
        seeds: Annotated[int, typer.Option(help="Runs of each combination.")] = 3,
        budget: Annotated[float | None, typer.Option(help="Full runs that may be spent; below the grid's, successive halving.")] = None,
        metric: Annotated[str | None, typer.Option(help="Rank by this metric of the validation rows; left out, by their loss.")] = None,
        valid: Annotated[str, typer.Option(help="A share of the rows, or a file.")] = "0.2",
        model: Annotated[str, typer.Option("--model", help="linear, mlp:256,128 (hidden layers), or package.module:factory.")] = "linear",
        device: Annotated[str | None, typer.Option(help="Where a network is: cpu, cuda, cuda:0, mps. Left out, the CPU.")] = None,
        loss: Annotated[str | None, typer.Option("--loss", help="least_squares, logistic, softmax, huber, hinge, squared_hinge, modified_huber, perceptron, poisson, quantile, [squared_]epsilon_insensitive.")] = None,
        drop: Annotated[str, typer.Option(help="Columns to leave out: A,B.")] = "",
        only: Annotated[str, typer.Option(help="The only columns to learn from: A,B.")] = "",
        type: Annotated[list[str] | None, typer.Option(help="COL=text|number|category|date; may be repeated.")] = None,
        seed: Annotated[int, typer.Option(help="Of the split, and the first of the seeds.")] = 0,
        out: Annotated[str | None, typer.Option(help="Folder of the sweep; left out, runs/sweep-<data>, or with a number behind it where that exists.")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Continue what the folder holds; begin where it holds nothing.")] = False,
        json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    ) -> None:  # fmt: skip
        """Every combination of some hyperparameters, each with several seeds: the best with its spread, a heat map, the edge of stability."""
        from fallline.cli import sweep_work as work

        tried = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "batch_size": batch_size, "schedule": schedule}
        asked = work.Asked(data, target, tried, optimizer, tuple(over or ()), epochs, seeds, budget, metric, valid, loss, seed, out, resume, model, device)
        work.sweep(asked, (drop, only, type), json)
