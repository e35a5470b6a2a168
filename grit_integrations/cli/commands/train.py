"""`grit train`: train a GRIT model by a recipe."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import DebugOption
from grit_integrations.cli.console import console, shown_path
from grit_integrations.errors import OptionError

if TYPE_CHECKING:
    from grit_integrations.training import TrainConfig, TrainResult

EXAMPLES = examples(
    "grit train examples/training/grit-mini.toml",
    "grit train recipe.toml --device cuda",
    "grit train recipe.toml --fresh   [dim]# start over instead of resuming[/]",
    "accelerate launch --num_processes 4 $(which grit) train recipe.toml   [dim]# several GPUs[/]",
)


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A training recipe in TOML.")],
    *,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; removes what an earlier run left.")] = False,
    device: Annotated[
        str | None, typer.Option("--device", envvar="GRIT_DEVICE", help="cpu or cuda.", show_default="the recipe's")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Train a GRIT model: one decoder that embeds and generates. Ctrl-C writes a checkpoint; the next run resumes."""
    from grit_integrations.training import train as run_training
    from grit_integrations.training.distribution import is_first_process

    first = is_first_process()
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    result = run_training(_recipe(config, device), resume=not fresh)
    if first:
        _print_result(result)


def _print_result(result: TrainResult) -> None:
    out = console()
    state = "[green]Finished[/]" if result.finished else "[yellow]Interrupted[/]; the same command resumes"
    out.print(f"{state} after step {result.steps:,} ({result.minutes:.1f} minutes of training)")
    best = {name: value for name, value in result.best.items() if name != "sets"}
    if best:
        out.print("Best: " + ", ".join(f"{escape(str(name))} {_number(value)}" for name, value in best.items()))
    out.print(f"Model: {escape(shown_path(result.model))}   [dim]try: grit info --model {escape(str(result.model))}[/]")


def _recipe(path: Path, device: str | None) -> TrainConfig:
    """Return a recipe with the command line's device in it.

    Raises:
        ConfigError: the recipe is wrong.
        OptionError: no such device.
    """
    from grit_integrations.training import load_config

    config = load_config(path)
    if device is None:
        return config
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device {device} is not possible for training. Use cpu or cuda.")
    return replace(config, device=device)  # type: ignore[arg-type]  # checked above


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
