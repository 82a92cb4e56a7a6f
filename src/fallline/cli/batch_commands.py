"""The command `find-batch-size`: its flags and its help."""

from __future__ import annotations

from typing import Annotated

import typer

from fallline.cli import flags
from fallline.cli.compare_commands import read_model


def register(app: typer.Typer, codes: str) -> None:
    """Add the command to the application."""

    @app.command("find-batch-size", epilog=codes)
    def find_batch_size(
        data: flags.Data,
        target: flags.Target = None,
        lr: Annotated[str, typer.Option(help="Of the plan's own batch size, or auto.")] = "auto",
        batch_size: Annotated[str, typer.Option(help="The size that lr belongs to: auto, full, or a number.")] = "auto",
        optimizer: flags.Optimizer = "auto",
        momentum: flags.Momentum = None,
        nesterov: flags.Nesterov = False,
        weight_decay: Annotated[float | None, typer.Option(help="Times the weights; biases are left alone.")] = None,
        schedule: flags.Schedule = "warmup(5%) > linear(to=0)",
        epochs: flags.Epochs = 20,
        model: flags.Model = "linear",
        device: flags.Device = None,
        loss: flags.Loss = None,
        seed: flags.Seed = 0,
        drop: flags.Drop = "",
        only: flags.Only = "",
        type: flags.Type = None,
        cross: flags.Cross = None,
        standardize: flags.Standardize = False,
        most: Annotated[int, typer.Option(help="The largest size to recommend; beyond 512 the learning rate needs careful tuning.")] = 512,
        memory: Annotated[str | None, typer.Option(help="What a batch may take, such as 2GB; left out, what the device allows, of the CPU's free memory half.")] = None,
        budget: Annotated[float, typer.Option(help="The most it may cost, as a share of a full run.")] = 0.5,
        plot: Annotated[str | None, typer.Option(help="Save the picture: FILE.png, .svg or .html.")] = None,
        json: flags.Json = False,
    ) -> None:  # fmt: skip
        """The batch size: memory, rows a second, gradient noise, and a check by short runs."""
        from fallline.cli import batch_work, work

        options = work.table_options(drop, only, type, "0.15", "0.15", None, None, None, None, False, None, seed, cross=cross, standardize=standardize)
        rule = work.rule(optimizer, lr, momentum, nesterov, weight_decay)
        told = work.choices(epochs, batch_size, rule, schedule, loss, None, None, seed, read_model(model), device)
        batch_work.find_batch_size(data, target, options, told, batch_work.Limits(most, memory, budget), plot, json)
