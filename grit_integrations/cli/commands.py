"""The commands of `grit`. Each loads what it needs when it runs, and leaves the work to the rooms that do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape
from rich.table import Table

from grit_integrations.cli.app import (
    DEFAULT_STORE,
    INDEX_CACHINGS,
    AnswerCachingOption,
    DebugOption,
    DeviceOption,
    GritGroup,
    ModelOption,
    PassagesOption,
    QuoteOption,
    RerankOption,
    StoreOption,
    TokensOption,
    a_size,
    examples,
    is_terminal,
    one_of,
)
from grit_integrations.cli.cache import cache_app
from grit_integrations.cli.evaluation import evaluate
from grit_integrations.cli.output import console, print_error, shown_path
from grit_integrations.errors import GritError
from grit_integrations.options import PRECISIONS

if TYPE_CHECKING:
    from grit_integrations.cli.answering import Answerer
    from grit_integrations.options import Caching, Precision

app = typer.Typer(
    name="grit",
    cls=GritGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Ask questions about your own files, with one model that finds the passages and writes the answer.",
    epilog="Start here:  [bold cyan]grit demo[/]  ·  [bold cyan]grit index docs/[/]  ·  "
    '[bold cyan]grit ask "How do I reset it?"[/]',
)


app.add_typer(cache_app)


@app.command(
    epilog=examples(
        "grit demo",
        "grit demo --store demo-store   [dim]# keep the index; the second run starts at once[/]",
        "grit demo --model GritLM/GritLM-7B --device cuda --free",
    )
)
def demo(
    *,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", metavar="DIR", help="Folder with texts and questions.json.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the index here.", show_default="not kept")
    ] = None,
    questions: Annotated[int | None, typer.Option("--questions", min=1, help="Ask only the first so many.")] = None,
    quote: QuoteOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Answer questions about two textbooks and a manual, through LangChain and through LlamaIndex.

    Exits with 1 unless both frameworks find the right source for 10 questions of 12 among their first three passages
    and quote the right answer for 6 of 12.
    """
    from grit_integrations.cli.demo import run_demo
    from grit_integrations.cli.models import load_model

    grit = load_model(model, device)
    passed = run_demo(console(), grit, corpus=corpus, store=store, limit=questions, quote=quote)
    raise typer.Exit(0 if passed else 1)


@app.command(
    epilog=examples(
        "grit index notes/ manual.pdf",
        "grit index docs/ --store ~/indexes/docs",
        "grit index docs/   [dim]# again: only what changed is read[/]",
        "grit index docs/ --caching doc --precision int8   [dim]# answers start sooner[/]",
        "grit index --forget old-notes/   [dim]# drop what was indexed from there[/]",
    )
)
def index(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files or folders: txt, md, html, pdf.")],
    *,
    store: StoreOption = DEFAULT_STORE,
    passage_tokens: Annotated[
        int | None,
        typer.Option("--passage-tokens", help="Longest passage of a new store.", show_default="192"),
    ] = None,
    caching: Annotated[
        str | None,
        typer.Option(
            "--caching",
            callback=one_of(INDEX_CACHINGS),
            metavar="MODE",
            help="Keep what the model has read of each passage, so that answers start sooner. [bold]off[/]: nothing; "
            "[bold]prefix[/]: answers stay as they are; [bold]doc[/]: passages are read apart from each other, once.",
            show_default="the index's, else off",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            callback=one_of(PRECISIONS),
            metavar="KIND",
            help="How that is kept: [bold]native[/], or [bold]int8[/] in less room and not exact.",
            show_default="the index's, else native",
        ),
    ] = None,
    cache_size: Annotated[
        str | None,
        typer.Option(
            "--cache-size",
            callback=a_size,
            metavar="SIZE",
            help="The room that it may take, such as 500MB or 20GB.",
            show_default="the index's, else 10GB",
        ),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Remove these paths from the store instead.")] = False,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Index files so that [bold]grit ask[/] can answer from them.

    Unchanged files are skipped, changed ones replaced, deleted ones removed.

    Files that cannot be read are listed. After Ctrl-C, the next run goes on from there.
    """
    from grit_integrations.cli.indexing import IndexOptions, forget_files, index_files

    options = IndexOptions(
        passage_tokens=passage_tokens,
        caching=cast("Caching | None", caching),
        precision=cast("Precision | None", precision),
        cache_size=cache_size,
        model=model,
        device=device,
    )
    (forget_files if forget else index_files)(console(), store, paths, options)


@app.command(
    epilog=examples(
        'grit ask "How far away is the Moon?"',
        'grit ask "What does clause 7 say?" --store ~/indexes/contracts -k 8',
        'grit ask "Why do stars shine?" --model GritLM/GritLM-7B --free',
    )
)
def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    *,
    store: StoreOption = DEFAULT_STORE,
    k: PassagesOption = 4,
    rerank: RerankOption = None,
    quote: QuoteOption = None,
    max_tokens: TokensOption = 256,
    caching: AnswerCachingOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Answer one question from the indexed files, then show the passages it came from."""
    from grit_integrations.cli.answering import open_answerer
    from grit_integrations.cli.models import open_store

    opened, mode = open_store(store, model, device), cast("Caching | None", caching)
    with open_answerer(
        console(), opened, k=k, rerank=rerank, quote=quote, max_tokens=max_tokens, caching=mode
    ) as answerer:
        answerer.answer(question)


@app.command(
    epilog=examples(
        "grit chat",
        "grit chat --store ~/indexes/docs --model GritLM/GritLM-7B",
        "echo 'How far away is the Moon?' | grit chat",
    )
)
def chat(
    *,
    store: StoreOption = DEFAULT_STORE,
    k: PassagesOption = 4,
    rerank: RerankOption = None,
    quote: QuoteOption = None,
    max_tokens: TokensOption = 256,
    caching: AnswerCachingOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Ask one question after another; what was said before is part of each prompt. Ctrl-D or /quit ends."""
    from grit_integrations.cli.answering import open_answerer
    from grit_integrations.cli.models import open_store

    opened, mode = open_store(store, model, device), cast("Caching | None", caching)
    with open_answerer(
        console(), opened, k=k, rerank=rerank, quote=quote, max_tokens=max_tokens, caching=mode
    ) as answerer:
        _talk(answerer)


@app.command(
    epilog=examples(
        "grit train examples/training/grit-mini.toml",
        "grit train recipe.toml --device cuda",
        "grit train recipe.toml --fresh   [dim]# start over instead of resuming[/]",
        "accelerate launch --num_processes 4 $(which grit) train recipe.toml   [dim]# several GPUs[/]",
    )
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
    import logging

    from grit_integrations.cli.models import training_config
    from grit_integrations.training import train as run_training
    from grit_integrations.training.distribution import is_first_process

    first = is_first_process()
    level = logging.INFO if first else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    out = console()
    result = run_training(training_config(config, device), resume=not fresh)
    if not first:
        return
    state = "[green]Finished[/]" if result.finished else "[yellow]Interrupted[/]; the same command goes on"
    out.print(f"{state} after step {result.steps:,} ({result.minutes:.1f} minutes of training)")
    best = {name: value for name, value in result.best.items() if name != "sets"}
    if best:
        out.print("Best: " + ", ".join(f"{escape(str(name))} {_number(value)}" for name, value in best.items()))
    out.print(f"Model: {escape(shown_path(result.model))}   [dim]try: grit info --model {result.model}[/]")


app.command(
    epilog=examples(
        "grit evaluate grit-mini --data runs/grit-data --quick",
        "grit evaluate runs/grit-mini/model --data runs/grit-data --json figures.json --markdown > tables.md",
        "grit evaluate GritLM/GritLM-7B --data runs/grit-data --parts answers --caching off,doc --device cuda",
    )
)(evaluate)


@app.command(
    epilog=examples("grit info", "grit info --model GritLM/GritLM-7B --device cuda", "grit info --store docs-store")
)
def info(
    *,
    store: StoreOption = DEFAULT_STORE,
    model: ModelOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
) -> None:
    """Load the model and show what it is, where it runs and what memory it takes; and what the store holds."""
    from grit_integrations.cli.models import describe, model_for_store

    grit = model_for_store(store, model, device)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in describe(grit, store).items():
        table.add_row(name, escape(value))
    console().print(table)


def _talk(answerer: Answerer) -> None:
    """Answer each line of the input until it ends."""
    prompting = is_terminal()
    if prompting:
        answerer.out.print("[dim]Ask a question; /new forgets the conversation, /quit ends.[/]")
    while (line := _next_line(prompting)) is not None:
        if line == "/quit":
            break
        if line == "/new":
            answerer.history.clear()
        elif line:
            _answer(answerer, line, keep_going=prompting)
            answerer.out.print()


def _answer(answerer: Answerer, question: str, *, keep_going: bool) -> None:
    """Answer; a person at a terminal keeps the conversation when an answer fails or is interrupted."""
    try:
        answerer.answer(question)
    except (GritError, KeyboardInterrupt) as problem:
        if not keep_going:
            raise
        answerer.out.print()
        print_error(problem if isinstance(problem, GritError) else "interrupted")


def _next_line(prompting: bool) -> str | None:
    """Return the next question, or `None` at the end of the input."""
    try:
        return input("› " if prompting else "").strip()
    except EOFError:
        return None


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))
