"""The command `find-batch-size`: its flags and its help."""

from __future__ import annotations

from typing import Annotated

import typer

from fallline.cli.compare_commands import read_model


def register(app: typer.Typer, codes: str) -> None:
    """Add the command to the application."""

    @app.command("find-batch-size", epilog=codes)
    def find_batch_size(
        data: Annotated[str, typer.Argument(help="A file, or a built-in set: digits, breast-cancer, diabetes, fashion-mnist.")],
        target: Annotated[str | None, typer.Option("--target", help="The column to predict.")] = None,
        lr: Annotated[str, typer.Option(help="Of the plan's own batch size, or auto.")] = "auto",
        batch_size: Annotated[str, typer.Option(help="The size that lr belongs to: auto, full, or a number.")] = "auto",
        optimizer: Annotated[str, typer.Option(help="auto, sgd, nesterov, adam, adamw, nadam, rmsprop, adagrad, schedule-free.")] = "auto",
        momentum: Annotated[float | None, typer.Option(help="Of sgd and nesterov; 0.9 where left out.")] = None,
        nesterov: Annotated[bool, typer.Option("--nesterov", help="Nesterov's momentum in PyTorch's form.")] = False,
        weight_decay: Annotated[float | None, typer.Option(help="Times the weights; biases are left alone.")] = None,
        schedule: Annotated[str, typer.Option("--schedule", help='Of the learning rate, such as "warmup(5%) > cosine"; "constant" for none.')] = "warmup(5%) > linear(to=0)",
        epochs: Annotated[float, typer.Option(help="Passes over the training rows.")] = 20,
        model: Annotated[str, typer.Option("--model", help="linear, mlp:256,128 (hidden layers), or package.module:factory.")] = "linear",
        device: Annotated[str | None, typer.Option(help="Where a network is: cpu, cuda, cuda:0, mps. Left out, the CPU.")] = None,
        loss: Annotated[str | None, typer.Option("--loss", help="least_squares, logistic, softmax, huber, hinge, squared_hinge, modified_huber, perceptron, poisson, quantile, [squared_]epsilon_insensitive.")] = None,
        seed: Annotated[int, typer.Option(help="Of order and split.")] = 0,
        drop: Annotated[str, typer.Option(help="Columns to leave out: A,B.")] = "",
        only: Annotated[str, typer.Option(help="The only columns to learn from: A,B.")] = "",
        type: Annotated[list[str] | None, typer.Option(help="COL=text|number|category|date; may be repeated.")] = None,
        most: Annotated[int, typer.Option(help="The largest size to recommend; beyond 512 the learning rate needs careful tuning.")] = 512,
        memory: Annotated[str | None, typer.Option(help="What a batch may take, such as 2GB; left out, what the device allows, of the CPU's free memory half.")] = None,
        budget: Annotated[float, typer.Option(help="The most it may cost, as a share of a full run.")] = 0.5,
        plot: Annotated[str | None, typer.Option(help="Save the picture: FILE.png, .svg or .html.")] = None,
        json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")] = False,
    ) -> None:  # fmt: skip
        """The batch size: memory, rows a second, gradient noise, and a check by short runs."""
        from fallline.cli import batch_work, work

        options = work.table_options(drop, only, type, "0.15", "0.15", None, None, None, None, False, None, seed)
        rule = work.rule(optimizer, lr, momentum, nesterov, weight_decay)
        told = work.choices(epochs, batch_size, rule, schedule, loss, None, None, seed, read_model(model), device)
        batch_work.find_batch_size(data, target, options, told, batch_work.Limits(most, memory, budget), plot, json)
