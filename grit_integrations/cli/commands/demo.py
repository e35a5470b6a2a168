"""`grit demo`: questions about a bundled corpus, answered through both frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grit_integrations.cli.command_group import examples
from grit_integrations.cli.command_options import DebugOption, DeviceOption, ModelOption, QuoteOption
from grit_integrations.cli.console import console

EXAMPLES = examples(
    "grit demo",
    "grit demo --store demo-store   [dim]# keep the index; the second run starts at once[/]",
    "grit demo --model GritLM/GritLM-7B --device cuda --free",
)


def demo(
    *,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", metavar="DIR", help="Folder with texts and questions.json.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the index here.", show_default="not kept")
    ] = None,
    questions: Annotated[
        int | None, typer.Option("--questions", min=1, metavar="N", help="Ask only the first N.")
    ] = None,
    quote: QuoteOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Answer questions about two textbooks and a manual, through LangChain and through LlamaIndex.

    Exits with 1 unless both frameworks find the right source for 10 questions of 12 among their first three passages
    and quote the right answer for 6 of 12.
    """
    from grit_integrations.cli.demo.demo_run import run_demo
    from grit_integrations.cli.model_choice import load_model

    grit = load_model(model, device)
    passed = run_demo(console(), grit, corpus=corpus, store=store, limit=questions, quote=quote)
    raise typer.Exit(0 if passed else 1)
